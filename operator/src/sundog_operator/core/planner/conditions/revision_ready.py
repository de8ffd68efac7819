"""Condition `RevisionReady`: whether the newest revision runs."""

from datetime import timedelta
from typing import Final

from sundog_operator.api import Condition, RevisionStatus
from sundog_operator.api.conditions import Conclusion
from sundog_operator.api.reasons import DeploymentReason, EndReason
from sundog_operator.core.edge import confirmation as edge_confirmation
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.problems import terminating_pods
from sundog_operator.core.planner.problems.pending_pods import find_pending_reason
from sundog_operator.core.trial.rollout import state

RAY_GRACE: Final = timedelta(seconds=10)
"""Time for which a new revision's RayCluster may not answer while it starts."""


def evaluate_revision_ready(context: PlanContext) -> Conclusion:
    """Return whether the newest revision is ready, by its pods, Serve and the edges."""
    newest = context.status.candidate or context.status.stable
    stored = context.facts.conditions.get("RevisionReady")
    if newest is None:
        return Conclusion("Unknown", DeploymentReason.NO_REVISION, "there is no revision yet")
    readiness = context.readiness(newest.revision)
    if not readiness.ready and not readiness.failed and (pending := _find_pending_pods(context, newest.revision)):
        return pending
    if newest is context.status.stable and readiness.failed:
        return Conclusion("False", readiness.reason, f"revision {newest.revision}: {readiness.message}")
    is_retrying = newest.failures > 0 and not readiness.failed and not readiness.ready
    # During the next attempt, a user needs the cause of the last failure.
    if (is_retrying or _is_failed_revision_held(context)) and stored is not None and stored.status == "False":
        return Conclusion.of(stored)
    if not readiness.known and stored is not None and _is_new_deployment(context, newest, stored):
        return Conclusion.of(stored)
    if not readiness.known:
        cluster = context.cluster_of(newest.revision)
        problem = cluster.problem if cluster else ""
        return Conclusion("Unknown", readiness.reason, problem or readiness.message)
    if (
        not (context.is_at_zero or context.is_rollout_at_zero)
        and _has_traffic(context, newest)
        and (unhealthy := _find_unhealthy(context, newest.revision, stored))
    ):
        return unhealthy
    message = f"revision {newest.revision}: {readiness.message}"
    return Conclusion("True" if readiness.ready else "False", readiness.reason, message)


def _find_pending_pods(context: PlanContext, number: int) -> Conclusion | None:
    """Return the conclusion if pods of a revision are pending; None if they only start."""
    if (pending := find_pending_reason(context, number)) is not None:
        return Conclusion("False", *pending)
    if terminating_pods.has_enough_terminating(context, number):
        return Conclusion(
            "False", DeploymentReason.DEPLOYING, f"revision {number}: {terminating_pods.describe_wait(context, number)}"
        )
    return None


def _find_unhealthy(context: PlanContext, number: int, stored: Condition | None) -> Conclusion | None:
    """Return the conclusion if no edge sees a healthy replica of a revision, now or in the last report; else None."""
    healthy = edge_confirmation.reported_replicas(context.service, number, context.observed.edges)
    if healthy == 0:
        return Conclusion(
            "False", DeploymentReason.NO_HEALTHY_REPLICA, f"revision {number}: no edge sees a healthy replica"
        )
    # Without a report of an edge, the stored condition stays.
    if healthy is None and stored is not None and stored.reason == DeploymentReason.NO_HEALTHY_REPLICA:
        return Conclusion.of(stored)
    return None


def _is_new_deployment(context: PlanContext, newest: RevisionStatus, stored: Condition) -> bool:
    """Whether a revision was reported as deploying a moment ago, so that a RayCluster without an answer is no problem yet."""
    before = context.before.candidate or context.before.stable
    is_same = before is not None and before.revision == newest.revision
    is_deploying = is_same and stored.status == "False" and stored.reason == DeploymentReason.DEPLOYING
    return is_deploying and newest.since is not None and context.now - newest.since < RAY_GRACE


def _has_traffic(context: PlanContext, newest: RevisionStatus) -> bool:
    if newest is context.status.candidate and context.progress is not None:
        return state.has_traffic(context.progress)
    return bool(newest.weight)


def _is_failed_revision_held(context: PlanContext) -> bool:
    """Whether the wanted revision failed and is held back. Its reason must stay visible although stable serves."""
    hold = context.hold
    return hold is not None and hold.outcome == "Aborted" and hold.code != EndReason.ABORTED
