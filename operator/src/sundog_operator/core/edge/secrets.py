"""Which Secrets an endpoint needs, what is missing of them, and the one Secret of a namespace's edge that holds them all.

Values are copied by `compose` and looked at by nobody.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.api import Endpoint

TLS_KEYS: Final = ("tls.crt", "tls.key")
JWKS_KEYS: Final = ("jwks.json",)
NOT_FOUND: Final = "SecretNotFound"
INCOMPLETE: Final = "SecretIncomplete"
INVALID: Final = "SecretInvalid"
MAX_SECRET_BYTES: Final = 1_000_000
"""What an object of Kubernetes can hold, but for its metadata."""

KeysBySecret = Mapping[str, frozenset[str] | None]
"""The keys of each Secret by its name; None where there is no such Secret."""


@dataclass(frozen=True, slots=True)
class SecretReference:
    """A field of a spec that names a Secret.

    Attributes:
        keys: that the Secret has to have; none means at least one, whatever its name.
        without: what follows while it lacks them.
    """

    field: str
    secret: str
    keys: tuple[str, ...]
    without: str


def secret_references(endpoint: Endpoint) -> tuple[SecretReference, ...]:
    """The Secrets of the own namespace that an endpoint names."""
    refused = "until then every request is refused"
    named = (
        SecretReference(
            "tls.secretName", endpoint.tls.secret_name, TLS_KEYS, "until then it has no certificate of its own"
        ),
        SecretReference("auth.apiKeys.secretName", endpoint.auth.api_keys.secret_name, (), refused),
        SecretReference("auth.jwt.jwksSecretName", endpoint.auth.jwt.jwks_secret_name, JWKS_KEYS, refused),
    )
    return tuple(use for use in named if use.secret)


def secret_names(endpoint: Endpoint) -> tuple[str, ...]:
    """The names of these, each once."""
    return tuple(sorted({use.secret for use in secret_references(endpoint)}))


def find_missing_secrets(
    needed: Sequence[SecretReference], found: KeysBySecret, namespace: str
) -> tuple[str, str] | None:
    """(reason, message) of what is missing; None while nothing is."""
    lacking = [(use, why) for use in needed if (why := _lack(use, found.get(use.secret)))]
    if not lacking:
        return None
    reason = NOT_FOUND if any(found.get(use.secret) is None for use, _ in lacking) else INCOMPLETE
    told = (f"spec.endpoint.{use.field}: Secret {namespace}/{use.secret} {why}; {use.without}" for use, why in lacking)
    return reason, "; ".join(told)


def _lack(use: SecretReference, keys: frozenset[str] | None) -> str:
    if keys is None:
        return "does not exist"
    missing = [key for key in use.keys if key not in keys]
    if missing:
        return f"has no {' and no '.join(missing)}"
    return "" if keys else "has no keys"


def data_keys(secret: Mapping[str, Any] | None) -> frozenset[str] | None:
    """The keys of a stored Secret or ConfigMap; None where there is none."""
    return None if secret is None else frozenset({**(secret.get("data") or {}), **(secret.get("binaryData") or {})})


def secret_names_in_document(document: Mapping[str, Any] | None) -> frozenset[str]:
    """Every Secret that a split document names."""
    return frozenset(name for service in (document or {}).get("services", ()) for name in _named_by(service))


def ordered_secret_names(documents: Iterable[Mapping[str, Any] | None], services: Iterable[str]) -> list[str]:
    """Every Secret that the documents name, each once: first those of the first services."""
    entries = [{entry["name"]: entry for entry in (document or {}).get("services", ())} for document in documents]
    found = (name for service in services for named in entries for name in _named_by(named.get(service, {})))
    return list(dict.fromkeys(found))


def _named_by(service: Mapping[str, Any]) -> Iterator[str]:
    auth = service.get("auth") or {}
    names = (service.get("tls"), auth.get("apiKeys"), (auth.get("jwt") or {}).get("jwks"))
    return (name for name in names if isinstance(name, str) and name)


def compose_secret_data(stored: Iterable[tuple[str, Mapping[str, Any] | None]]) -> dict[str, str]:
    """The `data` of one Secret out of several: name → base64 of {key: base64}. One that does not exist has no entry.

    A name cannot be confused with another so, and all keys of a Secret change at once. Those that do not fit any more are left out, the
    last ones first.
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
