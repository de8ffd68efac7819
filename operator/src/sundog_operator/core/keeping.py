"""Which revisions stay warm after they have lost their traffic, by `rollout.keepPrevious`."""

from sundog_operator.api import KeepPrevious, Retiring
from sundog_operator.core import live
from sundog_operator.core.draft import Draft


def keep(draft: Draft, drained: tuple[Retiring, ...]) -> None:
    """Of revisions whose last requests were answered, keep those that one may go back to.

    Each with its RayCluster by name: which one is the service's own may change.
    """
    policy, places = _policy(draft), live.places(draft.status)
    kept = tuple(each.model_copy(update={"cluster": places[each.revision]}) for each in drained)
    others = tuple(each for each in draft.status.kept if each.revision not in {old.revision for old in drained})
    draft.set(kept=(*(each for each in kept if policy is not None and _stays(draft, each, policy)), *others))


def trim(draft: Draft) -> None:
    """Let go of those that were kept for long enough, or are none to go back to any more. A spec that is refused changes nothing."""
    policy = _policy(draft)
    if draft.spec is None or not draft.status.kept:
        return
    stay = [each for each in draft.status.kept if policy is not None and _stays(draft, each, policy)]
    replicas = policy.replicas if policy is not None else 0
    draft.set(kept=tuple(each.model_copy(update={"replicas": replicas}) for each in stay))


def _policy(draft: Draft) -> KeepPrevious | None:
    return draft.spec.rollout.keep_previous if draft.spec is not None else None


def _stays(draft: Draft, revision: Retiring, policy: KeepPrevious) -> bool:
    last_ones = draft.status.stable_before[: policy.revisions]
    return policy.replicas > 0 and revision.revision in last_ones and draft.now - revision.since < policy.for_
