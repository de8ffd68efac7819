"""Build pods from Sundog's requirements, the administrator's pod template and the user's scheduling."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sundog_operator.api import Scheduling
from sundog_operator.api.installation import PodTemplate
from sundog_operator.core.kubernetes import names

RESTRICTED_POD: Final[Mapping[str, Any]] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
RESTRICTED_CONTAINER: Final[Mapping[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
"""Security contexts of the `restricted` pod security standard."""

_ZONE: Final = "topology.kubernetes.io/zone"
_NODE: Final = "kubernetes.io/hostname"
_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_S: Final = 3607
"""Lifetime of a token, the one that the API server's admission sets."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PodRequirements:
    """Requirements of one kind of pod beyond its containers.

    Attributes:
        scheduling: the user's. The administrator's node selector overrides it; its other fields override the administrator's.
        service_account: empty means the administrator's.
        gates: names of the scheduling gates that others remove.
        claims: claims to devices, which containers name.
    """

    labels: Mapping[str, str]
    volumes: Sequence[Json] = ()
    scheduling: Scheduling = field(default_factory=Scheduling)
    tolerations: Sequence[Json] = ()
    affinity: Json | None = None
    service_account: str = ""
    gates: Sequence[str] = ()
    claims: Sequence[Json] = ()


def make_pod(template: PodTemplate, requirements: PodRequirements, containers: Sequence[Json]) -> Json:
    """Return a pod template of containers made by `make_container`, without empty fields.

    Only containers that mount the volume of `make_account_volume` have a token of the API server.
    """
    scheduling = requirements.scheduling
    spec = {
        "containers": list(containers),
        "volumes": [*requirements.volumes, *map(dict, template.volumes)],
        "serviceAccountName": requirements.service_account or template.service_account_name,
        "imagePullSecrets": [{"name": secret.name} for secret in template.image_pull_secrets],
        "nodeSelector": merge_node_selector(template, scheduling),
        "tolerations": merge_tolerations(template, scheduling, requirements.tolerations),
        "affinity": requirements.affinity,
        "schedulingGates": [{"name": gate} for gate in requirements.gates],
        "resourceClaims": list(requirements.claims),
        "priorityClassName": scheduling.priority_class_name or template.priority_class_name,
        "runtimeClassName": scheduling.runtime_class_name or template.runtime_class_name,
        "securityContext": _drop_nulls(template.security_context, RESTRICTED_POD),
    }
    fields = {key: value for key, value in spec.items() if value or key == "securityContext"}
    metadata = {
        "labels": {**template.labels, **requirements.labels},
        **({"annotations": dict(template.annotations)} if template.annotations else {}),
    }
    return {"metadata": metadata, "spec": {**fields, "automountServiceAccountToken": False}}


def set_default_user(template: PodTemplate, user: int) -> PodTemplate:
    """Return the template with a restricted security context for a user and group, unless the administrator sets one."""
    if template.security_context is not None:
        return template
    context = {**RESTRICTED_POD, "runAsUser": user, "runAsGroup": user, "fsGroup": user}
    return template.model_copy(update={"security_context": context})


def make_zone_spread(labels: Mapping[str, str]) -> list[Json]:
    """Return the wish to have equally many pods with these labels in each zone.

    It is the only constraint of a pod: the scheduler leaves a node without the label of one soft constraint out of all of them.
    """
    selector = {"matchLabels": dict(labels)}
    return [{"maxSkew": 1, "topologyKey": _ZONE, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector}]


def make_node_spread(labels: Mapping[str, str]) -> Json:
    """Return the affinity of pods that avoid nodes with pods with these labels, if there are others."""
    term = {"topologyKey": _NODE, "labelSelector": {"matchLabels": dict(labels)}}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def make_account_volume(name: str) -> Json:
    """Return a volume with the token of the pod's account and the authority of the API server.

    Each container that talks to the API server mounts it by `make_account_mount`. No other container of the pod can read it.
    """
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_S}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]
    return {"name": name, "projected": {"sources": sources}}


def make_account_mount(name: str) -> Json:
    """Return the mount of the volume of `make_account_volume` at the path that Kubernetes clients read."""
    return {"name": name, "mountPath": _ACCOUNT, "readOnly": True}


def merge_node_selector(template: PodTemplate, scheduling: Scheduling) -> dict[str, str]:
    """Return the node selector. The administrator's labels override the user's."""
    return {**scheduling.node_selector, **template.node_selector}


def merge_tolerations(template: PodTemplate, scheduling: Scheduling, pod_tolerations: Iterable[Json]) -> list[Json]:
    """Return the tolerations of the administrator, of the user, and of the pod itself."""
    return [*map(dict, template.tolerations), *(_toleration(each) for each in scheduling.tolerations), *pod_tolerations]


def is_tolerated(tolerations: Iterable[Mapping[str, Any]], taint: Mapping[str, Any]) -> bool:
    """Return whether pods with these tolerations may run on a node with this taint. `PreferNoSchedule` excludes no pod."""
    return taint.get("effect") not in ("NoSchedule", "NoExecute") or any(
        each.get("effect") in (None, "", taint["effect"])
        and (
            each.get("key") in (None, "", taint["key"])
            if each.get("operator") == "Exists"
            else (each.get("key"), each.get("value") or "") == (taint["key"], taint.get("value") or "")
        )
        for each in tolerations
    )


def make_container(template: PodTemplate, container: Mapping[str, Any]) -> Json:
    """Return a container with the administrator's environment, mounts, pull policy and security context.

    An administrator's mount replaces one of `container` at the same path.
    """
    taken = {mount["mountPath"] for mount in template.volume_mounts}
    mounts = [mount for mount in container.get("volumeMounts", ()) if mount["mountPath"] not in taken]
    fields = {
        **container,
        "env": merge_env(container.get("env", ()), template.env),
        "volumeMounts": [*mounts, *map(dict, template.volume_mounts)],
        "imagePullPolicy": template.image_pull_policy,
    }
    kept = {key: value for key, value in fields.items() if value}
    return {**kept, "securityContext": _drop_nulls(template.container_security_context, RESTRICTED_CONTAINER)}


def merge_env(*layers: Iterable[Mapping[str, Any]]) -> list[Json]:
    """Return the variables of several layers. For one name, the last layer's value takes the first one's place.

    The order matters: a value may refer to variables before it.
    """
    merged: dict[str, Json] = {}
    for layer in layers:
        for variable in layer:
            merged[str(variable["name"])] = dict(variable)
    return list(merged.values())


def fingerprint(value: Any) -> str:
    """Return 16 hex digits that identify a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def is_made_alike(stored: Mapping[str, Any], desired: Mapping[str, Any]) -> bool:
    """Return whether a stored object was made from the same spec as `desired`, by the annotation of both.

    The specs themselves differ: the API server rewrites quantities and adds defaults, and others change fields.
    """
    made, wanted = (each["metadata"].get("annotations") or {} for each in (stored, desired))
    return bool(made.get(names.ANNOTATION_MADE_AS) == wanted[names.ANNOTATION_MADE_AS])


def _drop_nulls(given: Mapping[str, Any] | None, default: Mapping[str, Any]) -> Json:
    # The API server stores no null, so every pass would apply it again.
    return {key: value for key, value in (default if given is None else given).items() if value is not None}


def _toleration(toleration: Any) -> Json:
    return {key: value for key, value in toleration.to_json().items() if value != ""}
