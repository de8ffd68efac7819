"""Rollouts without requests: their revisions scale to zero, and start again together.

A rollout that waits at a weight needs requests to go on. Without any, both revisions free their replicas after
`autoscaling.scaleToZeroDelay`, as a service without a rollout does. The next request starts one revision, by Ray Serve alone. The operator
then starts the other one too, so that the canary does not have a cold start for each of its few requests.
"""

from typing import Final

from sundog_operator.api import IdleStatus
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.ray.scaling import find_scaling
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.rollout import state
from sundog_operator.core.trial.rollout.freeze import BAKE

ORIGIN_PROBE: Final = "probe"
_GATES: Final = ("evidence", BAKE, "manual", "time")
"""Gates that need no replica before they open."""


def track_idle_rollout(context: PlanContext) -> PlanContext:
    """Update `status.idle`. Requests are compared once in each delay, so that a status does not change with each request."""
    return context.set(idle=_next_idle(context))


def _next_idle(context: PlanContext) -> IdleStatus | None:
    before, status = context.status.idle, context.status
    scaling = find_scaling(context.spec) if context.spec is not None else None
    if context.spec is None and before is not None:
        return before
    if scaling is None or scaling.min_replicas or status.stable is None or status.candidate is None or status.arms:
        return None
    if before is None and _came_at_zero(context):
        return IdleStatus(state="Waking", since=context.now)
    if before is not None and before.state == "Waking":
        return before if _is_waking(context, before) else None
    may_scale = _waits_at_its_weight(context)
    if not may_scale:
        # A command or a harm moves on, which takes replicas.
        is_asleep = before is not None and before.state == "AtZero"
        return IdleStatus(state="Waking", since=context.now) if is_asleep else None
    requests = _count_requests(context)
    if requests is None:
        return before
    if before is None or before.since > context.now:
        return IdleStatus(state="Counting", since=context.now, requests=requests)
    if before.state == "AtZero":
        return before if requests == before.requests else IdleStatus(state="Waking", since=context.now)
    if context.now - before.since < scaling.scale_to_zero_delay:
        return before
    next_state = "AtZero" if requests == before.requests and not _has_requests(context) else "Counting"
    return IdleStatus(state=next_state, since=context.now, requests=requests)


def _came_at_zero(context: PlanContext) -> bool:
    """Whether stable was at zero when this pass, or the one before, chose the candidate."""
    stable = context.before.stable
    return stable is not None and context.before.candidate is None and stable.replicas == 0


def _is_waking(context: PlanContext, idle: IdleStatus) -> bool:
    """Whether a revision with traffic still lacks its first replica, and the time for it is not over."""
    progress, spec, candidate = context.progress, context.spec, context.status.candidate
    numbers = [context.stable_number or 0]
    if candidate is not None and progress is not None and state.has_traffic(progress):
        numbers.append(candidate.revision)
    is_late = spec is not None and context.now - idle.since >= spec.rollout.progress_deadline
    return not is_late and any(not context.serving(number) for number in numbers)


def _waits_at_its_weight(context: PlanContext) -> bool:
    progress = context.progress
    if progress is None or progress.step is None or progress.phase != phases.RUNNING or context.in_place is not None:
        return False
    step, weight = progress.step, state.canary_weight(progress)
    is_there = 0 < weight < 100 and state.current_step(progress).weight == weight
    return is_there and step.since is not None and step.gate in _GATES and not context.is_giving_back


def _has_requests(context: PlanContext) -> bool:
    return any(
        int(count)
        for report in context.observed.edges
        for count in (_service(context, report).get("inFlight") or {}).values()
    )


def _service(context: PlanContext, report: EdgeReport) -> dict[str, dict[str, int]]:
    found = (report.evidence or {}).get("services", {}).get(context.service)
    return found if isinstance(found, dict) else {}


def _count_requests(context: PlanContext) -> int | None:
    """Count the requests to both arms, without health checks; None if an edge that may have some does not answer."""
    attempt = context.rollout.uid if context.rollout is not None else ""
    reports = [each for each in context.observed.edges if each.ready or each.terminating]
    if not reports or any(each.evidence is None for each in reports):
        return None
    rows = (row for each in reports for row in (each.evidence or {}).get("counters", ()))
    return sum(
        int(row.get("assigned", 0))
        for row in rows
        if row.get("attempt") == attempt and row.get("origin") != ORIGIN_PROBE
    )
