"""Which revisions stay warm after they have lost their traffic, by `rollout.keepPrevious`."""

from typing import Final

from sundog_operator.api import Retiring
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.context import Draft

MOST_KEPT: Final = 8
"""As many as a status has room for."""

MOST_ASKED: Final = 5
"""As many as `keepPrevious.revisions` can ask for."""


def keep(draft: Draft, drained: tuple[Retiring, ...]) -> None:
    """Of revisions whose last requests were answered, keep those that one may go back to.

    Each with its RayCluster by name: which one is the service's own may change. While the spec is refused nobody knows which are to be
    kept: those that may be stay with what they have.
    """
    places = desired_state.places(draft.status)
    kept = tuple(each.model_copy(update={"cluster": places[each.revision]}) for each in drained)
    others = tuple(each for each in draft.status.kept if each.revision not in {old.revision for old in drained})
    draft.set(kept=(*(each for each in kept if _stays(draft, each)), *others)[:MOST_KEPT])


def trim(draft: Draft) -> None:
    """Let go of those that were kept for long enough, or are none to go back to any more. A spec that is refused changes nothing."""
    if draft.spec is None or not draft.status.kept:
        return
    policy = draft.spec.rollout.keep_previous
    replicas = policy.replicas if policy is not None else 0
    stay = [each for each in draft.status.kept if _stays(draft, each)]
    draft.set(kept=tuple(each.model_copy(update={"replicas": replicas}) for each in stay))


def _stays(draft: Draft, revision: Retiring) -> bool:
    before = draft.status.stable_before
    if draft.spec is None:
        return revision.revision in before[:MOST_ASKED]
    policy = draft.spec.rollout.keep_previous
    return (
        policy is not None
        and policy.replicas > 0
        and revision.revision in before[: policy.revisions]
        and draft.now - revision.since < policy.for_
    )
