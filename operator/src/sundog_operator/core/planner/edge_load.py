"""Requests at the edges as load of a service with autoscaling."""

from sundog_operator.core.edge import confirmation
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.ray import load


def track_edge_load(context: PlanContext) -> None:
    """Update `status.edgeLoad`. It stays as it is while the edges' counts, Ray Serve's target or the spec are unknown."""
    spec, stable = context.spec, context.status.stable
    if spec is None:
        return
    if spec.autoscaling is None or stable is None or context.in_place is not None:
        context.set(edge_load=None)
        return
    needed, target = _count_needed(context), context.replicas_by_serve
    if needed is not None and target is not None:
        tracked = load.track_load(context.status.edge_load, needed, target, context.now, spec.autoscaling.upscale_delay)
        context.set(edge_load=tracked)


def _count_needed(context: PlanContext) -> int | None:
    """Return the replicas that all traffic needs, by the requests of the revision with the most of it; None if unknown.

    A revision with a small share may have many requests only because it is slow.
    """
    spec, split = context.spec, context.desired_split()
    if spec is None or spec.autoscaling is None or split is None or not context.is_split_confirmed:
        return None
    weights: dict[int, float] = {}
    for arm in split.arms:
        weights[arm.revision] = weights.get(arm.revision, 0) + arm.weight
    # The first arm is stable's, which `max` prefers among equal ones.
    largest = max(weights, key=lambda number: weights[number])
    requests = confirmation.count_in_flight(context.service, largest, context.observed.edges)
    return load.replicas_for_requests(requests, weights[largest], spec.autoscaling)
