"""Edges that do not follow: told by `say`, and after an abort replaced, for they may still send requests to what was aborted."""

from datetime import timedelta
from typing import Final

from sundog_operator.core import events
from sundog_operator.core.edge import confirmation as edge_confirmation
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner import held_back_revisions
from sundog_operator.core.planner.context import PlanContext

REPLACE_GRACE: Final = timedelta(seconds=30)
"""After an edge has been told of, which is when it has been late for 30 s."""


def replace_stale_edge(context: PlanContext) -> tuple[EdgeReport, ...]:
    """The edge to delete now, at most one, with its event.

    Only where another edge has the split in force: what all of them cannot do, new ones could not either.
    """
    last, told = context.status.last_rollout, context.stored_condition("TrafficSynced")
    lost = {last.revision} if last is not None and held_back_revisions.is_failed_rollout(last) else set()
    aborted = context.is_giving_back or any(_retires(context, revision) for revision in lost | _dropped(context))
    if not context.observed.in_cluster or not aborted or told is None or told.reason != "EdgeNotConfirmed":
        return ()
    if context.now - told.last_transition_time < REPLACE_GRACE:
        return ()
    split = context.desired_split()
    if split is None:
        return ()
    confirmation = edge_confirmation.confirm(context.service, split, context.observed.edges)
    late = {pod for pod, _ in confirmation.waiting}
    ready = [report for report in context.observed.edges if report.ready and not report.terminating]
    found = [report for report in ready if report.pod in late]
    if not found or len(found) == len(ready):
        return ()
    context.events.append(events.edge_replaced(found[0].pod, found[0].uid, split.epoch))
    return (found[0],)


def _dropped(context: PlanContext) -> set[int]:
    """Arms of the experiment under way that got no traffic any more."""
    arms = context.experiment_progress.arms if context.experiment_progress is not None else ()
    return {arm.revision for arm in arms if arm.dropped is not None and arm.revision is not None}


def _retires(context: PlanContext, revision: int) -> bool:
    return any(retiring.revision == revision for retiring in context.status.retiring)
