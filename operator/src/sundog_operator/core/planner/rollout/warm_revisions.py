"""Warm revisions: replicas that stay after they lost their traffic, by `rollout.keepPrevious`."""

from typing import Final

from sundog_operator.api import DrainingRevision
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.context import PlanContext

MAX_WARM_REVISIONS: Final = 8
"""The maximum in a status."""

MAX_KEEP_PREVIOUS: Final = 5
"""The maximum of `keepPrevious.revisions`."""


def retain_drained(context: PlanContext, drained: tuple[DrainingRevision, ...]) -> tuple[DrainingRevision, ...]:
    """Return the warm revisions, with those drained ones that a rollback may need.

    Each keeps the name of its RayCluster, because the service's own may change. While the spec is refused, all revisions that
    `keepPrevious` could allow stay as they are.
    """
    clusters = desired_state.clusters_by_revision(context.status)
    kept = tuple(each.model_copy(update={"cluster": clusters[each.revision]}) for each in drained)
    others = tuple(each for each in context.status.kept if each.revision not in {old.revision for old in drained})
    return (*(each for each in kept if _is_retained(context, each)), *others)[:MAX_WARM_REVISIONS]


def release_expired(context: PlanContext) -> PlanContext:
    """Release warm revisions whose time is over or that left the history. A refused spec changes nothing."""
    if context.spec is None or not context.status.kept:
        return context
    policy = context.spec.rollout.keep_previous
    replicas = policy.replicas if policy is not None else 0
    retained = [each for each in context.status.kept if _is_retained(context, each)]
    return context.set(kept=tuple(each.model_copy(update={"replicas": replicas}) for each in retained))


def _is_retained(context: PlanContext, revision: DrainingRevision) -> bool:
    before = context.status.stable_before
    if context.spec is None:
        return revision.revision in before[:MAX_KEEP_PREVIOUS]
    policy = context.spec.rollout.keep_previous
    return (
        policy is not None
        and policy.replicas > 0
        and revision.revision in before[: policy.revisions]
        and context.now - revision.since < policy.for_
    )
