"""Revisions that lost their traffic: they drain, and go when no edge sends them anything any more."""

from datetime import timedelta
from typing import Final

from sundog_operator.api import DrainingRevision, RevisionStatus
from sundog_operator.core.edge import confirmation
from sundog_operator.core.planner import (
    evaluation,
    warm_revisions,
)
from sundog_operator.core.planner.context import PlanContext

DRAIN_GRACE: Final = timedelta(seconds=5)
MAX_DRAINING: Final = 6
"""Revisions, when another candidate begins: a status has room for 8, and the candidate and stable may have to drain beside them."""


def start_draining(context: PlanContext, gone: RevisionStatus) -> None:
    """Let a revision drain from now on, with as many replicas as load gave it: edges may send it requests for a while."""
    others = tuple(r for r in context.status.retiring if r.revision != gone.revision)
    by_load = context.targets(gone.revision) if context.spec is not None and context.spec.autoscaling is not None else 0
    replicas = max(gone.replicas, by_load)
    left = DrainingRevision(revision=gone.revision, cluster=gone.cluster, replicas=replicas, since=context.now)
    context.set(retiring=(*others, left))


def release_drained_revisions(context: PlanContext) -> None:
    """Forget revisions that no edge sends anything to any more, and whose last requests had their time."""
    if context.commit is not None or context.experiment_statuses:
        return
    if not context.status.retiring:
        # A candidate that ended while it waited for its next attempt had nothing to drain.
        _come_home(context)
        return
    split = context.desired_split()
    if split is None:
        context.set(retiring=())  # nothing ever had traffic
        return
    if not confirmation.confirm(context.service, split, context.observed.edges).confirmed:
        return
    drained = tuple(retiring for retiring in context.status.retiring if _is_drained(context, retiring))
    warm_revisions.retain_drained(context, drained)
    context.set(retiring=tuple(retiring for retiring in context.status.retiring if retiring not in drained))
    _come_home(context)


def _come_home(context: PlanContext) -> None:
    """Stable's RayCluster is the service's again once a candidate of another one is gone: that one may then go.

    Arms name no RayCluster where theirs is the service's, which then must not become another.
    """
    status, stable = context.status, context.status.stable
    is_alone = status.candidate is None and not status.retiring and not status.arms
    if stable is not None and stable.cluster and is_alone:
        context.set(cluster=stable.cluster, stable=stable.model_copy(update={"cluster": ""}))


def _is_drained(context: PlanContext, retiring: DrainingRevision) -> bool:
    deadline = timedelta(seconds=evaluation.request_deadline_s(context.observed.split))
    idle = confirmation.count_in_flight(context.service, retiring.revision, context.observed.edges) == 0
    waited = context.now - retiring.since
    return waited >= DRAIN_GRACE and (idle or waited >= deadline + DRAIN_GRACE)
