"""The operator's own account, as the chart makes it, on an API server without the chart's pods."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from charting import NAMESPACE, RELEASE, Values, objects, one
from real_kubernetes.audit import Right, right
from real_kubernetes.kubectl import Kubectl

ACCOUNT = f"{NAMESPACE}:{RELEASE}"
ROLES = {"Role", "ClusterRole"}
_PARTS = {"ServiceAccount", "RoleBinding", "ClusterRoleBinding", *ROLES}


def install(kubectl: Kubectl, values: Values) -> None:
    """Put the account and its roles there; namespaces too."""
    parts = [obj for obj in objects(values) if obj["kind"] in _PARTS]
    namespaces = {obj["metadata"].get("namespace") for obj in parts} - {None}
    kubectl.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in namespaces))
    kubectl.apply(*parts)


def installation(values: Values, name: str = RELEASE) -> str:
    """The file that the operator would read; `name` is the release's full name."""
    text: str = one(values, "ConfigMap", name)["data"]["installation.yaml"]
    return text


def kubeconfig(kubectl: Kubectl, path: Path, name: str = RELEASE) -> Path:
    """A kubeconfig with which one is that account and nobody else; `name` is the release's full name."""
    token = kubectl("-n", NAMESPACE, "create", "token", name).strip()
    document: dict[str, Any] = yaml.safe_load(kubectl.kubeconfig.read_text())
    document["users"] = [{"name": user["name"], "user": {"token": token}} for user in document["users"]]
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o600)
    return path


def granted(values: Values) -> set[Right]:
    """What the account holds by the chart's roles."""
    bound = {obj["roleRef"]["name"] for obj in objects(values) if obj["kind"] in {"RoleBinding", "ClusterRoleBinding"}}
    roles = [obj for obj in objects(values) if obj["kind"] in ROLES and obj["metadata"]["name"] in bound]
    return {held for role in roles for rule in role["rules"] for held in _rights(rule)}


def _rights(rule: dict[str, list[str]]) -> Iterable[Right]:
    return (
        right(verb, group, resource)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    )
