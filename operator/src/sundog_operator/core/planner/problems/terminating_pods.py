"""Terminating pods of a service, which still hold the devices that a revision's own pods wait for. Pure.

A replica that left Serve still has its pod. Ray's autoscaler deletes the pod after an idle time, and only then its devices are free.
"""

from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import pod_problems
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.rollout import candidate_placement
from sundog_operator.core.text import format_count


def count_terminating(context: PlanContext, number: int) -> int:
    """Return the number of other revisions' terminating pods with the accelerators and nodes that this revision needs."""
    return sum(_by_revision(context, number).values())


def has_enough_terminating(context: PlanContext, number: int) -> bool:
    """Whether all unscheduled pods of a revision fit once the terminating pods are gone."""
    unplaced = [pod for pod in context.pods_of(number) if not _is_deleted(pod) and not pod_problems.is_scheduled(pod)]
    return 0 < len(unplaced) <= count_terminating(context, number)


def describe_wait(context: PlanContext, number: int) -> str:
    """Return the message of a revision that waits for terminating pods."""
    awaited = [
        f"{format_count(pods, 'pod')} of revision {other}" for other, pods in _by_revision(context, number).items()
    ]
    return f"waits for {' and '.join(awaited)} to terminate"


def _by_revision(context: PlanContext, number: int) -> dict[int, int]:
    """Return the number of terminating pods by revision."""
    wanted, found = _wanted(context), {}
    for other in context.facts.pods.keys() - {number}:
        held = sum(map(_holds_devices, context.pods_of(other)))
        surplus = held - context.count_pods(other, wanted.get(other, 0))
        if surplus > 0 and _needs_same_devices(context, other, number):
            found[other] = surplus
    return dict(sorted(found.items()))


def _wanted(context: PlanContext) -> dict[int, int]:
    """Return the replicas that revisions keep; none of a draining revision, or of one that is not in the status."""
    status, final = context.status, candidate_placement.final_replicas(context)
    wanted = desired_state.live_revisions(status) | {each.revision: 0 for each in status.retiring}
    if final is not None and status.stable is not None:
        wanted[status.stable.revision] = min(final.stable, status.stable.replicas)
    return wanted


def _needs_same_devices(context: PlanContext, one: int, other: int) -> bool:
    found = [context.revision(number) for number in (one, other)]
    specs = [revisions.spec_of(each) for each in found if each is not None]
    needs = [(spec.resources.gpu, spec.scheduling) for spec in specs]
    return len(needs) == len(found) and needs[0] == needs[1]


def _is_deleted(pod: pod_problems.Pod) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _holds_devices(pod: pod_problems.Pod) -> bool:
    """Whether a pod holds devices, also in the moment before the scheduler sees the end of a deleted pod."""
    return pod_problems.is_scheduled(pod) or (_is_deleted(pod) and bool((pod.get("spec") or {}).get("nodeName")))
