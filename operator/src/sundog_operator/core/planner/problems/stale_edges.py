"""Stale edges, replaced after an abort because they may still send requests to the aborted revision."""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from sundog_operator.api.reasons import DeploymentReason
from sundog_operator.core import events
from sundog_operator.core.edge import confirmation as edge_confirmation
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.rollout import held_back_revisions

REPLACE_GRACE: Final = timedelta(seconds=30)
"""Time after `TrafficSynced` reports a late edge, which it does after 30 s."""
ABORT_GRACE: Final = timedelta(seconds=60)
"""Time after an abort. Edges may have been late before it for another reason, such as an edit of the endpoint."""


def replace_stale_edge(context: PlanContext) -> PlanContext:
    """Choose the edge to delete now, at most one.

    Only while another edge has the split in force: if no edge can apply it, a new one could not either.
    """
    last, synced = context.status.last_rollout, context.facts.conditions.get("TrafficSynced")
    failed = {last.revision} if last is not None and held_back_revisions.is_failed_rollout(last) else set()
    aborted = failed | _dropped_revisions(context)
    is_drained_long = any(
        each.revision in aborted and context.now - each.since >= ABORT_GRACE for each in context.status.retiring
    )
    if (
        not context.observed.in_cluster
        or not (context.is_giving_back or is_drained_long)
        or synced is None
        or synced.reason != DeploymentReason.EDGE_NOT_CONFIRMED
    ):
        return context
    if context.now - synced.last_transition_time < REPLACE_GRACE:
        return context
    split = context.desired_split()
    if split is None:
        return context
    confirmation = edge_confirmation.confirm(context.service, split, context.observed.edges)
    late = {pod for pod, _ in confirmation.waiting}
    ready = [report for report in context.observed.edges if report.ready and not report.terminating]
    stale = [report for report in ready if report.pod in late]
    if not stale or len(stale) == len(ready):
        return context
    replaced = events.edge_replaced(stale[0].pod, stale[0].uid, split.epoch)
    return replace(context, edges_to_delete=(stale[0],)).report(replaced)


def _dropped_revisions(context: PlanContext) -> set[int]:
    """Return the revisions of dropped arms of the active Experiment."""
    arms = context.experiment_progress.arms if context.experiment_progress is not None else ()
    return {arm.revision for arm in arms if arm.dropped is not None and arm.revision is not None}
