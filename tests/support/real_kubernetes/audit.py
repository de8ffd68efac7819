"""Permissions that service accounts have used, from the audit log of the API server."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from real_kubernetes.instance import Instance

CREATED = 201
FORBIDDEN = 403


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one resource, `deployments.apps` or `modeldeployments/status.serving.sundog.dev`; the core group has no name."""

    verb: str
    resource: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


@dataclass(frozen=True, order=True)
class Use:
    """A permission that was used, and on which object. A collection has no name."""

    right: Right
    namespace: str
    name: str


def right(verb: str, group: str, resource: str) -> Right:
    """Make a permission from the fields of a role."""
    return Right(verb, f"{resource}.{group}" if group else resource)


def flags(instance: Instance) -> tuple[str, ...]:
    """Flags of the API server that make it write down every request of a service account, without bodies."""
    policy = instance.folder("audit") / "policy.yaml"
    rules = [
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"], "omitStages": ["RequestReceived"]},
        {"level": "None"},
    ]
    policy.write_text(yaml.safe_dump({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
    return (f"--audit-policy-file={policy}", f"--audit-log-path={log(instance)}", "--audit-log-mode=blocking")


def log(instance: Instance) -> Path:
    """Return the path of the audit log."""
    return instance.folder("audit") / "audit.log"


def uses(path: Path, account: str) -> set[Use]:
    """Return the permissions that the account `namespace:name` has used."""
    return {use for line in path.read_text().splitlines() for use in _uses(json.loads(line), account)}


def requests(path: Path, account: str) -> list[Use]:
    """Every request of the account `namespace:name`, in the order of the log, whatever became of it."""
    entries = (json.loads(line) for line in path.read_text().splitlines())
    return [_use(entry) for entry in entries if _of(entry, account)]


def refusals(path: Path, account: str) -> set[Use]:
    """Return the requests that were refused for a missing permission, by roles or by admission."""
    entries = (json.loads(line) for line in path.read_text().splitlines())
    return {_use(entry) for entry in entries if _of(entry, account) and _code(entry) == FORBIDDEN}


def _uses(entry: dict[str, Any], account: str) -> Iterator[Use]:
    if not _of(entry, account) or _decision(entry) != "allow":
        return
    use = _use(entry)
    yield use
    # An apply of what is not there takes both rights.
    if use.right.verb == "patch" and _code(entry) == CREATED:
        yield Use(Right("create", use.right.resource), use.namespace, use.name)


def _of(entry: dict[str, Any], account: str) -> bool:
    found = entry["user"]["username"] == f"system:serviceaccount:{account}"
    return found and "objectRef" in entry


def _code(entry: dict[str, Any]) -> int:
    return int((entry.get("responseStatus") or {}).get("code", 0))


def _decision(entry: dict[str, Any]) -> Any:
    return (entry.get("annotations") or {}).get("authorization.k8s.io/decision")


def _use(entry: dict[str, Any]) -> Use:
    about: dict[str, str] = entry["objectRef"]
    resource = "/".join(part for part in (about["resource"], about.get("subresource", "")) if part)
    verb = right(str(entry["verb"]), about.get("apiGroup", ""), resource)
    return Use(verb, about.get("namespace", ""), about.get("name", ""))
