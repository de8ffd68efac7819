"""Show why pods of a ModelDeployment wait for a node, and what a node autoscaler reports about them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from sundog_operator.api.reasons import DeploymentReason
from sundog_operator.core.kubernetes import names, pod_problems, scheduler_message
from sundog_operator.core.text import format_count
from sundog_operator.ports import Object

_KARPENTER: Final = "karpenter"
_SCALING_REASONS: Final = frozenset({"TriggeredScaleUp", "NotTriggerScaleUp"})
"""Reasons of cluster-autoscaler's events about pods. Karpenter's have those of the scheduler."""


def describe_waiting_pods(pods: Iterable[Object], events: Sequence[Object]) -> Iterator[tuple[str, str]]:
    """Yield (name, text) for each revision, and for shared pods, of which some wait for a node: why, and the autoscaler's newest event."""
    groups: dict[str, list[Object]] = {}
    for pod in pods:
        if pod_problems.find_condition(pod, "PodScheduled").get("reason") == DeploymentReason.UNSCHEDULABLE:
            revision = (pod["metadata"].get("labels") or {}).get(names.LABEL_REVISION, "")
            groups.setdefault(revision, []).append(pod)
    for revision, waiting in sorted(groups.items()):
        yield (
            "Pods",
            f"{f'revision {revision}' if revision else 'shared'}: {format_count(len(waiting), 'pod')} without a node:"
            f" {_most_common(waiting)}",
        )
        uids = {pod["metadata"]["uid"] for pod in waiting}
        about = [event for event in events if (event.get("regarding") or {}).get("uid") in uids]
        scaling = max(filter(_is_of_autoscaler, about), key=_time_of, default=None)
        if scaling is not None:
            yield "Autoscaler", f"{scaling.get('reason', '')}: {' '.join(str(scaling.get('note', '')).split())}"


def _most_common(waiting: Sequence[Object]) -> str:
    messages = (str(pod_problems.find_condition(pod, "PodScheduled").get("message", "")) for pod in waiting)
    return Counter(map(scheduler_message.explain, messages)).most_common(1)[0][0]


def _is_of_autoscaler(event: Object) -> bool:
    source = str(event.get("reportingController") or (event.get("deprecatedSource") or {}).get("component") or "")
    return source == _KARPENTER or event.get("reason") in _SCALING_REASONS


def _time_of(event: Object) -> str:
    series = (event.get("series") or {}).get("lastObservedTime")
    return str(series or event.get("deprecatedLastTimestamp") or event.get("eventTime") or "")
