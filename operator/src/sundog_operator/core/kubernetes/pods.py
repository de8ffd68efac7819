"""Pods: what Sundog needs of one, merged with what an administrator adds to it and what a user's scheduling asks for."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sundog_operator.api import Scheduling
from sundog_operator.api.installation import PodTemplate

RESTRICTED_POD: Final[Mapping[str, Any]] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
RESTRICTED_CONTAINER: Final[Mapping[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
"""What the `restricted` pod security standard asks for."""

_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_S: Final = 3607
"""As the API server's own admission asks for."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PodRequirements:
    """What one kind of pod needs beyond its container.

    Attributes:
        scheduling: a user's; an administrator's node selector outranks it, its other fields outrank an administrator's.
        service_account: empty means the administrator's.
    """

    labels: Mapping[str, str]
    volumes: Sequence[Json] = ()
    scheduling: Scheduling = field(default_factory=Scheduling)
    tolerations: Sequence[Json] = ()
    affinity: Json | None = None
    service_account: str = ""


def make_pod(template: PodTemplate, demand: PodRequirements, containers: Sequence[Json]) -> Json:
    """A pod template of containers made by `make_container`. Fields without a value are left out.

    No container has a token of the API server, except those that mount `account_volume`.
    """
    scheduling = demand.scheduling
    spec = {
        "containers": list(containers),
        "volumes": [*demand.volumes, *map(dict, template.volumes)],
        "serviceAccountName": demand.service_account or template.service_account_name,
        "imagePullSecrets": [{"name": secret.name} for secret in template.image_pull_secrets],
        "nodeSelector": merge_node_selector(template, scheduling),
        "tolerations": merge_tolerations(template, scheduling, demand.tolerations),
        "affinity": demand.affinity,
        "priorityClassName": scheduling.priority_class_name or template.priority_class_name,
        "runtimeClassName": scheduling.runtime_class_name or template.runtime_class_name,
        "securityContext": _context(template.security_context, RESTRICTED_POD),
    }
    made = {key: value for key, value in spec.items() if value or key == "securityContext"}
    metadata = {
        "labels": {**template.labels, **demand.labels},
        **({"annotations": dict(template.annotations)} if template.annotations else {}),
    }
    return {"metadata": metadata, "spec": {**made, "automountServiceAccountToken": False}}


def set_default_user(template: PodTemplate, user: int) -> PodTemplate:
    """Return the template with a restricted security context for a user and group, unless the administrator sets one."""
    if template.security_context is not None:
        return template
    context = {**RESTRICTED_POD, "runAsUser": user, "runAsGroup": user, "fsGroup": user}
    return template.model_copy(update={"security_context": context})


def make_account_volume(name: str) -> Json:
    """Return a volume with the token of the pod's account and the authority of the API server.

    Each container that talks to the API server mounts it by `account_mount`; no other container of the pod can read it.
    """
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_S}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]
    return {"name": name, "projected": {"sources": sources}}


def make_account_mount(name: str) -> Json:
    """Return the mount of `account_volume` where Kubernetes clients look for it."""
    return {"name": name, "mountPath": _ACCOUNT, "readOnly": True}


def merge_node_selector(template: PodTemplate, scheduling: Scheduling) -> dict[str, str]:
    """Labels of nodes; an administrator's outrank a user's."""
    return {**scheduling.node_selector, **template.node_selector}


def merge_tolerations(template: PodTemplate, scheduling: Scheduling, own: Iterable[Json]) -> list[Json]:
    """The administrator's, the user's, and those that a pod needs by itself."""
    return [*map(dict, template.tolerations), *(_toleration(each) for each in scheduling.tolerations), *own]


def is_tolerated(tolerations: Iterable[Mapping[str, Any]], taint: Mapping[str, Any]) -> bool:
    """Whether pods with these tolerations may come to a node with this taint. One that only prefers other pods keeps nobody off."""
    return taint.get("effect") not in ("NoSchedule", "NoExecute") or any(
        each.get("effect") in (None, "", taint["effect"])
        and (
            each.get("key") in (None, "", taint["key"])
            if each.get("operator") == "Exists"
            else (each.get("key"), each.get("value") or "") == (taint["key"], taint.get("value") or "")
        )
        for each in tolerations
    )


def make_container(template: PodTemplate, own: Mapping[str, Any]) -> Json:
    """A container with the administrator's environment, mounts, pull policy and security context.

    What an administrator mounts where we would have mounted something of ours takes its place.
    """
    taken = {mount["mountPath"] for mount in template.volume_mounts}
    mounts = [mount for mount in own.get("volumeMounts", ()) if mount["mountPath"] not in taken]
    made = {
        **own,
        "env": merge_env(own.get("env", ()), template.env),
        "volumeMounts": [*mounts, *map(dict, template.volume_mounts)],
        "imagePullPolicy": template.image_pull_policy,
    }
    kept = {key: value for key, value in made.items() if value}
    return {**kept, "securityContext": _context(template.container_security_context, RESTRICTED_CONTAINER)}


def merge_env(*layers: Iterable[Mapping[str, Any]]) -> list[Json]:
    """Variables of several layers; of those with one name the last layer's counts, in the first one's place.

    The order matters: a value may quote variables before it.
    """
    merged: dict[str, Json] = {}
    for layer in layers:
        for variable in layer:
            merged[str(variable["name"])] = dict(variable)
    return list(merged.values())


def fingerprint(value: Any) -> str:
    """16 hex digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _context(given: Mapping[str, Any] | None, default: Mapping[str, Any]) -> Json:
    # The API server stores no null, and what it does not store would be applied again and again.
    return {key: value for key, value in (default if given is None else given).items() if value is not None}


def _toleration(toleration: Any) -> Json:
    return {key: value for key, value in toleration.to_json().items() if value != ""}
