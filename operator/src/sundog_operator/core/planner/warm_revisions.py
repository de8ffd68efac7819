"""Which revisions stay warm after they have lost their traffic, by `rollout.keepPrevious`."""

from typing import Final

from sundog_operator.api import DrainingRevision
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.context import PlanContext

MAX_WARM_REVISIONS: Final = 8
"""As many as a status has room for."""

MAX_KEEP_PREVIOUS: Final = 5
"""As many as `keepPrevious.revisions` can ask for."""


def retain_drained(context: PlanContext, drained: tuple[DrainingRevision, ...]) -> None:
    """Of revisions whose last requests were answered, keep those that one may go back to.

    Each with its RayCluster by name: which one is the service's own may change. While the spec is refused nobody knows which are to be
    kept: those that may be stay with what they have.
    """
    places = desired_state.clusters_by_revision(context.status)
    kept = tuple(each.model_copy(update={"cluster": places[each.revision]}) for each in drained)
    others = tuple(each for each in context.status.kept if each.revision not in {old.revision for old in drained})
    context.set(kept=(*(each for each in kept if _stays(context, each)), *others)[:MAX_WARM_REVISIONS])


def release_expired(context: PlanContext) -> None:
    """Let go of those that were kept for long enough, or are none to go back to any more. A spec that is refused changes nothing."""
    if context.spec is None or not context.status.kept:
        return
    policy = context.spec.rollout.keep_previous
    replicas = policy.replicas if policy is not None else 0
    stay = [each for each in context.status.kept if _stays(context, each)]
    context.set(kept=tuple(each.model_copy(update={"replicas": replicas}) for each in stay))


def _stays(context: PlanContext, revision: DrainingRevision) -> bool:
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
