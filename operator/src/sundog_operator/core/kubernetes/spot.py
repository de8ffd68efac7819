"""Spot nodes: which labels and taints they have, and which pods lost theirs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from sundog_operator.core.kubernetes.pod_problems import find_condition, is_leaving, is_scheduled

Json = dict[str, Any]
SpotLabels = Mapping[str, Sequence[str]]
"""Label values by label key."""

KARPENTER: Final = "karpenter.sh/capacity-type"
GKE: Final = "cloud.google.com/gke-spot"
AKS: Final = "kubernetes.azure.com/scalesetpriority"
SPOT_LABELS: Final[SpotLabels] = {
    "eks.amazonaws.com/capacityType": ("SPOT",),
    GKE: ("true",),
    AKS: ("spot",),
    KARPENTER: ("spot",),
}
"""Labels of spot nodes: of EKS, GKE, AKS and Karpenter. GKE and AKS also use them as taints."""


def make_expressions(operator: str, more: SpotLabels, keys: Collection[str] = tuple(SPOT_LABELS)) -> list[Json]:
    """Return an expression for each label of spot nodes: the known ones of these keys, and the administrator's (`more`)."""
    # Karpenter keeps the last of several terms, and knows only its own label.
    found = sorted(merge_labels(more).items(), key=lambda each: each[0] in SPOT_LABELS)
    return [
        {"key": key, "operator": operator, "values": list(values)}
        for key, values in found
        if key in keys or key in more
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


def were_reclaimed(pods: Sequence[Mapping[str, Any]], needed: int = 1) -> bool:
    """Whether pods were taken off their nodes, and fewer than `needed` are left on one.

    Pods without a node are no proof: they may replace pods that the kubelet evicted, or that the operator has not seen.
    """
    taken = ((pod.get("spec") or {}).get("nodeName") and not stays_on_node(pod) for pod in pods)
    return have_lost_nodes(pods, needed) and any(taken)


def have_lost_nodes(pods: Iterable[Mapping[str, Any]], needed: int = 1) -> bool:
    """Whether fewer pods than a replica needs are on a node where they may stay. The others wait for a node, end, or are being evicted.

    A pod that the kubelet evicted for its use of disk or memory has not lost its node: the revision may be the cause.
    """
    return sum(stays_on_node(pod) or _is_evicted_for_its_use(pod) for pod in pods) < needed


def stays_on_node(pod: Mapping[str, Any]) -> bool:
    """Whether a pod has its node and may stay there."""
    return is_scheduled(pod) and not is_leaving(pod)


def _is_evicted_for_its_use(pod: Mapping[str, Any]) -> bool:
    """Whether the kubelet evicted a pod, and not because its node shuts down."""
    reason = (pod.get("status") or {}).get("reason")
    disruption = find_condition(pod, "DisruptionTarget")
    is_by_kubelet = disruption.get("status") == "True" and disruption.get("reason") == "TerminationByKubelet"
    return reason == "Evicted" or (is_by_kubelet and reason != "Terminated")
