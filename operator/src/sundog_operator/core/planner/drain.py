"""Revisions without traffic: they drain, and are released once no edge sends them requests."""

from datetime import timedelta
from typing import Final

from sundog_operator.api import DrainingRevision, RevisionStatus
from sundog_operator.core.edge import confirmation
from sundog_operator.core.planner import trial_status
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.rollout import warm_revisions
from sundog_operator.core.ray.scaling import find_scaling

DRAIN_GRACE: Final = timedelta(seconds=5)
MAX_DRAINING: Final = 6
"""Draining revisions with which no new candidate starts. A status holds 8, and the candidate and stable may drain too."""


def start_draining(context: PlanContext, revision: RevisionStatus) -> PlanContext:
    """Start to drain a revision with its current replicas, because edges may still send it requests for a while."""
    others = tuple(r for r in context.status.retiring if r.revision != revision.revision)
    autoscaled = (
        max(1, context.target_replicas(revision.revision))
        if context.spec is not None and find_scaling(context.spec) is not None
        else 0
    )
    draining = DrainingRevision(
        revision=revision.revision,
        cluster=revision.cluster,
        replicas=max(revision.replicas, autoscaled),
        since=context.now,
    )
    return context.set(retiring=(*others, draining))


def release_drained_revisions(context: PlanContext) -> PlanContext:
    """Release revisions that get no requests from any edge, once their last requests ended or timed out."""
    if context.commit is not None or context.experiment_statuses:
        return context
    if not context.status.retiring:
        # A candidate that ended while it waited for its next attempt had nothing to drain.
        return _adopt_stable_cluster(context)
    split = context.desired_split()
    if split is None:
        return context.set(retiring=())  # no revision ever had traffic
    if not confirmation.confirm(context.service, split, context.observed.edges).confirmed:
        return context
    drained = tuple(retiring for retiring in context.status.retiring if _is_drained(context, retiring))
    left = tuple(retiring for retiring in context.status.retiring if retiring not in drained)
    return _adopt_stable_cluster(context.set(kept=warm_revisions.retain_drained(context, drained), retiring=left))


def _adopt_stable_cluster(context: PlanContext) -> PlanContext:
    """Make stable's RayCluster the service's again once a candidate in another RayCluster is gone.

    Not while there are arms: an arm without a RayCluster of its own is in the service's.
    """
    status, stable = context.status, context.status.stable
    is_alone = status.candidate is None and not status.retiring and not status.arms
    if stable is None or not stable.cluster or not is_alone:
        return context
    return context.set(cluster=stable.cluster, stable=stable.model_copy(update={"cluster": ""}))


def _is_drained(context: PlanContext, retiring: DrainingRevision) -> bool:
    deadline = timedelta(seconds=trial_status.request_deadline_s(context.observed.split))
    # Not known is not idle.
    is_idle = confirmation.count_in_flight(context.service, retiring.revision, context.observed.edges) == 0
    waited = context.now - retiring.since
    return waited >= DRAIN_GRACE and (is_idle or waited >= deadline + DRAIN_GRACE)
