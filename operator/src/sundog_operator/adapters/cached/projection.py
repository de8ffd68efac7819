"""Reduce an object to the parts that the operator reads, where it is delivered: tenants can make objects with Sundog's labels."""

from collections.abc import Mapping
from typing import Final

from sundog_operator.core.kubernetes import names
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    POD,
    Kind,
    Object,
)

FIXED_NAMES: Final[Mapping[Kind, str]] = {CONFIG_MAP: names.EDGE, DEPLOYMENT: names.EDGE}
"""Kinds of which each namespace has one object, whose name the API server selects by."""
_OWNERLESS: Final = frozenset({MODEL_DEPLOYMENT, EXPERIMENT, CONTROLLER_REVISION, NETWORK_POLICY})
"""Kinds with objects that have no owner, or whose names count without one."""
_OWNERS: Final = frozenset({"ModelDeployment", "Experiment", "RayCluster", "ReplicaSet", "StatefulSet"})
_OF_SUNDOG: Final = "serving.sundog.dev/"
_UNREAD_OF_POD: Final = frozenset({"affinity", "tolerations", "topologySpreadConstraints", "volumes"})
_UNREAD_OF_CONTAINER: Final = frozenset(
    {
        *("args", "command", "envFrom", "lifecycle", "livenessProbe", "readinessProbe", "securityContext"),
        *("startupProbe", "volumeDevices", "volumeMounts"),
    }
)
_MAX_ENV_CHARS: Final = 256


def keep_whole(_kind: Kind, obj: Object) -> Object | None:
    """Return the object, where all of it is kept."""
    return obj


def project(kind: Kind, obj: Object) -> Object | None:
    """Return the parts of an object to keep; None for one that has the label but no owner, which the operator did not make."""
    metadata = obj["metadata"]
    if kind not in _OWNERLESS and not any(
        each.get("kind") in _OWNERS for each in metadata.get("ownerReferences") or ()
    ):
        return None
    metadata = {key: value for key, value in metadata.items() if key != "managedFields"}
    if kind not in (POD, MODEL_DEPLOYMENT, EXPERIMENT):
        # It is compared with what the operator wants, or written back.
        return {**obj, "metadata": metadata}
    annotations = {key: text for key, text in (metadata.get("annotations") or {}).items() if key.startswith(_OF_SUNDOG)}
    if "annotations" in metadata:
        metadata["annotations"] = annotations
    return {**obj, "metadata": metadata, **({"spec": _pod_spec(obj.get("spec") or {})} if kind == POD else {})}


def _pod_spec(spec: Object) -> Object:
    kept = {key: value for key, value in spec.items() if key not in _UNREAD_OF_POD}
    return kept | {
        name: [_container(each) for each in spec[name] or ()]
        for name in ("containers", "initContainers")
        if name in spec
    }


def _container(container: Object) -> Object:
    kept = {key: value for key, value in container.items() if key not in _UNREAD_OF_CONTAINER}
    env = [each for each in container.get("env") or () if len(str(each.get("value") or "")) <= _MAX_ENV_CHARS]
    return kept | ({"env": env} if env else {})
