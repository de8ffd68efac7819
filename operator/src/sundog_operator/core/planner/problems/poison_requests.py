"""Poison requests, which may crash the replicas that they reach."""

from sundog_operator.core import events
from sundog_operator.core.edge import request_counts
from sundog_operator.core.planner.context import PlanContext


def report_poison_requests(context: PlanContext) -> PlanContext:
    """Add an event for each revision with traffic that got poison requests."""
    split = context.desired_split()
    if split is None:
        return context
    for arm in split.arms:
        count = request_counts.count_poison_requests(split.attempt, arm.name, context.observed.edges)
        if count:
            context = context.report(events.poison_request(arm.revision, count, split.attempt))
    return context
