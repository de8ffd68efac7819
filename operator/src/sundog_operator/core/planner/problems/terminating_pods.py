"""Pods of a service that are to go and still have their nodes: whose place a revision's own pods wait for. Pure.

A replica that has left Serve is not gone: Ray's autoscaler takes its pod away once that was idle for a while, and until then nobody else
gets its devices.
"""

from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import names, pod_problems
from sundog_operator.core.planner import candidate_placement, desired_state
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.text import format_count


def count_terminating(context: PlanContext, number: int) -> int:
    """How many of other revisions are to go that have the accelerators, on the nodes, that this one's ask for."""
    return sum(_by_revision(context, number).values())


def has_enough_terminating(context: PlanContext, number: int) -> bool:
    """Whether those of a revision that have no node find one when all of these have gone."""
    unplaced = [pod for pod in context.pods_of(number) if _stays(pod) and not pod_problems.is_scheduled(pod)]
    return 0 < len(unplaced) <= count_terminating(context, number)


def describe_wait(context: PlanContext, number: int) -> str:
    """What a revision waits for, if that is such pods."""
    whose = [
        f"{format_count(pods, 'pod')} of revision {other}" for other, pods in _by_revision(context, number).items()
    ]
    return f"takes the place of {' and '.join(whose)}, not gone yet"


def _by_revision(context: PlanContext, number: int) -> dict[int, int]:
    """The pods that are to go, of each revision that has any."""
    wanted, found = _wanted(context), {}
    for other in _with_pods(context) - {number}:
        held = sum(map(_has_place, context.pods_of(other)))
        if held > wanted.get(other, 0) and _alike(context, other, number):
            found[other] = held - wanted.get(other, 0)
    return dict(sorted(found.items()))


def _with_pods(context: PlanContext) -> set[int]:
    labels = (pod["metadata"].get("labels") or {} for pod in context.observed.pods)
    mine = (each for each in labels if each.get(names.LABEL_MODEL_DEPLOYMENT) == context.service)
    return {int(each[names.LABEL_REVISION]) for each in mine if each.get(names.LABEL_REVISION, "").isdigit()}


def _wanted(context: PlanContext) -> dict[int, int]:
    """Replicas that revisions are to keep: of what retires, none, and of what the status does not tell of any more."""
    status, aim = context.status, candidate_placement.final_replicas(context)
    wanted = desired_state.live_revisions(status) | {each.revision: 0 for each in status.retiring}
    if aim is not None and status.stable is not None:
        wanted[status.stable.revision] = min(aim.stable, status.stable.replicas)
    return wanted


def _alike(context: PlanContext, one: int, other: int) -> bool:
    found = [context.revision(number) for number in (one, other)]
    specs = [revisions.spec_of(each) for each in found if each is not None]
    asked = [(spec.resources.gpu, spec.scheduling) for spec in specs]
    return len(asked) == len(found) and asked[0] == asked[1]


def _stays(pod: pod_problems.Pod) -> bool:
    return "deletionTimestamp" not in pod["metadata"]


def _has_place(pod: pod_problems.Pod) -> bool:
    """Also for the moment between the end of one that is deleted and the scheduler's next look."""
    return pod_problems.is_scheduled(pod) or (not _stays(pod) and bool((pod.get("spec") or {}).get("nodeName")))
