"""Revisions that lost their traffic: they drain, and go when no edge sends them anything any more."""

from sundog_operator.api import DrainingRevision, RevisionStatus
from sundog_operator.core.planner.context import PlanContext


def start_draining(draft: PlanContext, gone: RevisionStatus) -> None:
    """Let a revision drain from now on, with as many replicas as load gave it: edges may send it requests for a while."""
    others = tuple(r for r in draft.status.retiring if r.revision != gone.revision)
    by_load = draft.targets(gone.revision) if draft.spec is not None and draft.spec.autoscaling is not None else 0
    replicas = max(gone.replicas, by_load)
    left = DrainingRevision(revision=gone.revision, cluster=gone.cluster, replicas=replicas, since=draft.now)
    draft.set(retiring=(*others, left))
