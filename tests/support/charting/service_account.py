"""The operator's service account from the chart, on an API server without the chart's pods."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from charting import NAMESPACE, RELEASE, Values, objects, one
from real_kubernetes.audit import Right, Use, right
from real_kubernetes.kubectl import Kubectl, Object

ACCOUNT = f"{NAMESPACE}:{RELEASE}"
ROLES = {"Role", "ClusterRole"}
_PARTS = {"ServiceAccount", "RoleBinding", "ClusterRoleBinding", *ROLES}


@dataclass(frozen=True, order=True)
class Grant:
    """A permission that a role grants: on the object of one name, or on all objects if the name is empty."""

    right: Right
    name: str = ""

    def __str__(self) -> str:
        return f"{self.right} {self.name}".rstrip()


def install(kubectl: Kubectl, values: Values) -> None:
    """Create the account, its roles and their namespaces."""
    parts = _parts(values)
    namespaces = {obj["metadata"].get("namespace") for obj in parts} - {None}
    kubectl.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in namespaces))
    kubectl.apply(*parts)


def remove(kubectl: Kubectl, values: Values) -> None:
    """Delete the account and its roles; the namespaces stay."""
    for obj in _parts(values):
        where = ("-n", obj["metadata"]["namespace"]) if "namespace" in obj["metadata"] else ()
        kubectl(*where, "delete", obj["kind"], obj["metadata"]["name"], "--ignore-not-found")


def installation(values: Values, name: str = RELEASE) -> str:
    """Return the operator's configuration file; `name` is the release's full name."""
    text: str = one(values, "ConfigMap", name)["data"]["installation.yaml"]
    return text


def lease(values: Values, name: str = RELEASE) -> str:
    """Return the name of the operator's Lease in the chart; `name` is the release's full name."""
    (container,) = one(values, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    (told,) = [each.removeprefix("--lease=") for each in container["args"] if each.startswith("--lease=")]
    return str(told)


def kubeconfig(kubectl: Kubectl, path: Path, name: str = RELEASE) -> Path:
    """Write a kubeconfig that authenticates as this account; `name` is the release's full name."""
    token = kubectl("-n", NAMESPACE, "create", "token", name).strip()
    document: dict[str, Any] = yaml.safe_load(kubectl.kubeconfig.read_text())
    document["users"] = [{"name": user["name"], "user": {"token": token}} for user in document["users"]]
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o600)
    return path


def granted(values: Values) -> set[Grant]:
    """Return the account's permissions in the chart's roles; each of a rule's `resourceNames` is a grant of its own."""
    bound = {obj["roleRef"]["name"] for obj in objects(values) if obj["kind"] in {"RoleBinding", "ClusterRoleBinding"}}
    roles = [obj for obj in objects(values) if obj["kind"] in ROLES and obj["metadata"]["name"] in bound]
    return {held for role in roles for rule in role["rules"] for held in _grants(rule)}


def unused(held: Collection[Grant], uses: Iterable[Use], fixed: Collection[str]) -> set[Grant]:
    """Return the grants that no use needed.

    One without a name is needed by a use of an object that no named one covers and whose name is not `fixed`, which a role could have
    named; a collection has no name.
    """
    needed: set[Grant] = set()
    for use in uses:
        named = Grant(use.right, use.name)
        needed.add(named)
        if named not in held and use.name not in fixed:
            needed.add(Grant(use.right))
    return set(held) - needed


def _parts(values: Values) -> list[Object]:
    return [obj for obj in objects(values) if obj["kind"] in _PARTS]


def _grants(rule: dict[str, list[str]]) -> Iterable[Grant]:
    return (
        Grant(right(verb, group, resource), name)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        # The API server treats an empty list as no list.
        for name in rule.get("resourceNames") or [""]
    )
