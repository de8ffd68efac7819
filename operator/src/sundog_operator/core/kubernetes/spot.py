"""Spot nodes: which labels and taints they have, and which pods lost theirs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sundog_operator.core.kubernetes.pod_problems import find_condition, is_scheduled

Json = dict[str, Any]
SpotLabels = Mapping[str, Sequence[str]]
"""Label values by label key."""

SPOT_LABELS: Final[SpotLabels] = {
    "karpenter.sh/capacity-type": ("spot",),
    "eks.amazonaws.com/capacityType": ("SPOT",),
    "cloud.google.com/gke-spot": ("true",),
    "kubernetes.azure.com/scalesetpriority": ("spot",),
}
"""Labels of spot nodes: of Karpenter, EKS, GKE and AKS. GKE and AKS also use them as taints."""

_PREFERENCE_WEIGHT: Final = 1
"""Lower than the steps between the preferences of GPU types, which come first."""


def make_required_expressions(mode: str, more: SpotLabels) -> list[Json]:
    """Return expressions, one of which a node must match; empty if every node suits. `more` are the administrator's labels."""
    return _make_expressions(more) if mode == "require" else []


def make_preferences(mode: str, more: SpotLabels) -> list[Json]:
    """Return the preferred terms of a node affinity: nodes that are not spot nodes suit as well."""
    if mode != "prefer":
        return []
    return [
        {"weight": _PREFERENCE_WEIGHT, "preference": {"matchExpressions": [expression]}}
        for expression in _make_expressions(more)
    ]


def make_tolerations(mode: str, more: SpotLabels) -> list[Json]:
    """Return the tolerations of taints that reserve spot nodes. By convention a taint is the label."""
    if mode == "never":
        return []
    return [
        {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
        for key, values in merge_labels(more).items()
        for value in values
    ]


def merge_labels(more: SpotLabels) -> dict[str, tuple[str, ...]]:
    """Return the known labels and the administrator's."""
    keys = dict.fromkeys((*SPOT_LABELS, *more))
    return {key: tuple(dict.fromkeys((*SPOT_LABELS.get(key, ()), *more.get(key, ())))) for key in keys}


def have_lost_nodes(pods: Iterable[Mapping[str, Any]]) -> bool:
    """Whether no pod is on a node where it may stay: each one is gone, waits for a node, ends, or is being evicted."""
    return not any(map(_stays, pods))


def _stays(pod: Mapping[str, Any]) -> bool:
    is_evicted = find_condition(pod, "DisruptionTarget").get("status") == "True"
    return is_scheduled(pod) and "deletionTimestamp" not in pod["metadata"] and not is_evicted


def _make_expressions(more: SpotLabels) -> list[Json]:
    return [{"key": key, "operator": "In", "values": list(values)} for key, values in merge_labels(more).items()]
