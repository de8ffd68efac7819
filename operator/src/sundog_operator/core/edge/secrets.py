"""Secrets that endpoints name: find missing ones, and copy all of them into one Secret of the namespace's edge.

`compose_secret_data` copies the values. No code reads them.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.api import Endpoint
from sundog_operator.api.reasons import Cause, DeploymentReason

TLS_KEYS: Final = ("tls.crt", "tls.key")
JWKS_KEYS: Final = ("jwks.json",)
MAX_SECRET_BYTES: Final = 1_000_000
"""Size limit of a Kubernetes object, without its metadata."""

KeysBySecret = Mapping[str, frozenset[str] | None]
"""Keys by Secret name; None for a Secret that does not exist."""


@dataclass(frozen=True, slots=True)
class SecretReference:
    """A field of an endpoint that names a Secret.

    Attributes:
        keys: the keys that the Secret must have; empty means at least one key of any name.
        without: the effect while a key is missing.
    """

    field: str
    secret: str
    keys: tuple[str, ...]
    without: str


def secret_references(endpoint: Endpoint) -> tuple[SecretReference, ...]:
    """Return the Secrets that an endpoint names. All are in the ModelDeployment's namespace."""
    rejected = "until then the edge rejects every request"
    named = (
        SecretReference(
            "tls.secretName",
            endpoint.tls.secret_name,
            TLS_KEYS,
            "until then the endpoint has no certificate of its own",
        ),
        SecretReference("auth.apiKeys.secretName", endpoint.auth.api_keys.secret_name, (), rejected),
        SecretReference("auth.jwt.jwksSecretName", endpoint.auth.jwt.jwks_secret_name, JWKS_KEYS, rejected),
    )
    return tuple(reference for reference in named if reference.secret)


def secret_names(endpoint: Endpoint) -> tuple[str, ...]:
    """Return the names of the Secrets that an endpoint names, each once."""
    return tuple(sorted({reference.secret for reference in secret_references(endpoint)}))


def find_missing_secrets(needed: Sequence[SecretReference], found: KeysBySecret, namespace: str) -> Cause | None:
    """Return which Secrets and keys are missing; None where none is."""
    missing = [(each, problem) for each in needed if (problem := _find_problem(each, found.get(each.secret)))]
    if not missing:
        return None
    is_absent = any(found.get(each.secret) is None for each, _ in missing)
    reason = DeploymentReason.SECRET_NOT_FOUND if is_absent else DeploymentReason.SECRET_INCOMPLETE
    messages = (
        f"spec.endpoint.{each.field}: Secret {namespace}/{each.secret} {problem}; {each.without}"
        for each, problem in missing
    )
    return Cause(reason, "; ".join(messages))


def _find_problem(reference: SecretReference, keys: frozenset[str] | None) -> str:
    if keys is None:
        return "does not exist"
    missing = [key for key in reference.keys if key not in keys]
    if missing:
        return f"has no {' and no '.join(missing)}"
    return "" if keys else "has no keys"


def data_keys(secret: Mapping[str, Any] | None) -> frozenset[str] | None:
    """Return the keys of a stored Secret or ConfigMap; None for a missing object."""
    return None if secret is None else frozenset({**(secret.get("data") or {}), **(secret.get("binaryData") or {})})


def secret_names_in_document(document: Mapping[str, Any] | None) -> frozenset[str]:
    """Return every Secret that a split document names."""
    return frozenset(name for service in (document or {}).get("services", ()) for name in _service_secrets(service))


def ordered_secret_names(documents: Iterable[Mapping[str, Any] | None], services: Iterable[str]) -> list[str]:
    """Return every Secret that the documents name, each once, in the order of `services`."""
    entries = [{entry["name"]: entry for entry in (document or {}).get("services", ())} for document in documents]
    found = (name for service in services for by_name in entries for name in _service_secrets(by_name.get(service, {})))
    return list(dict.fromkeys(found))


def _service_secrets(service: Mapping[str, Any]) -> Iterator[str]:
    auth = service.get("auth") or {}
    names = (service.get("tls"), auth.get("apiKeys"), (auth.get("jwt") or {}).get("jwks"))
    return (name for name in names if isinstance(name, str) and name)


def compose_secret_data(stored: Iterable[tuple[str, Mapping[str, Any] | None]]) -> dict[str, str]:
    """Return the `data` of one Secret that holds several: name → base64 of {key: base64}. A missing Secret has no entry.

    Names cannot collide in this form, and all keys of a Secret change at once. A Secret that does not fit into `MAX_SECRET_BYTES` after
    those before it is left out.
    """
    data: dict[str, str] = {}
    left = MAX_SECRET_BYTES
    for name, secret in stored:
        if secret is None:
            continue
        content = json.dumps(secret.get("data") or {}, sort_keys=True, separators=(",", ":")).encode()
        if len(content) <= left:
            data[name] = base64.b64encode(content).decode()
            left -= len(content)
    return data
