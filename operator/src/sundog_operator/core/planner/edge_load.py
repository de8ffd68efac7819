"""Requests at the edges as load of a service with autoscaling."""

from sundog_operator.api import EdgeLoadStatus, ModelDeploymentSpec, Runtime
from sundog_operator.core import revisions
from sundog_operator.core.edge import confirmation
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.ray import load


def track_edge_load(context: PlanContext) -> PlanContext:
    """Update `status.edgeLoad`."""
    return context.set(edge_load=_next_load(context))


def _next_load(context: PlanContext) -> EdgeLoadStatus | None:
    """Return the load now. It stays as it is while the edges' counts, Ray Serve's target or the spec are unknown."""
    spec, stable, before = context.spec, context.status.stable, context.status.edge_load
    if spec is None:
        return before
    if spec.autoscaling is None or stable is None or context.in_place is not None:
        return None
    needed, target = _count_needed(context), context.replicas_by_serve
    if needed is None or target is None:
        return before
    if before is not None and before.replicas > spec.autoscaling.max_replicas:
        # Ray Serve never asks for so many under the present bounds.
        before = None
    if _is_seen_by_serve(context, spec, stable.revision) and not (before and before.in_force):
        return None
    return load.track_load(before, needed, target, context.now, spec.autoscaling.upscale_delay)


def _is_seen_by_serve(context: PlanContext, spec: ModelDeploymentSpec, stable: int) -> bool:
    """Whether stable has all traffic and its replicas admit all requests, so that Ray Serve's own count is complete."""
    status = context.status
    if status.candidate is not None or status.arms or status.retiring:
        return False
    requests = confirmation.count_in_flight(context.service, stable, context.observed.edges)
    running, most = context.readiness(stable).running, _runtime(context, spec, stable).max_ongoing_requests
    return requests is not None and not load.can_wait_at_edges(requests, running, most)


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
    if requests is None:
        return None
    target = spec.autoscaling.target_requests(_runtime(context, spec, largest).batching.max_size)
    return load.replicas_for_requests(requests, weights[largest], target, spec.autoscaling.max_replicas)


def _runtime(context: PlanContext, spec: ModelDeploymentSpec, number: int) -> Runtime:
    revision = context.revision(number)
    return (revisions.spec_of(revision) if revision is not None else spec).runtime
