"""The arms of an Experiment: their start, their problems and their replicas."""

from sundog_operator.api import ArmRevision, ExperimentStatus
from sundog_operator.api.reasons import Cause, EndReason
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.names import STABLE_ARMS
from sundog_operator.core.planner import retry
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.problems.pending_pods import find_pending_reason
from sundog_operator.core.planner.rollout import deadline
from sundog_operator.core.trial import replica_counts
from sundog_operator.core.trial.experiment import state
from sundog_operator.core.trial.experiment.state import ArmState


def update_starting_arm(context: PlanContext, arm: ArmRevision) -> tuple[ArmRevision, tuple[KubernetesEvent, ...]]:
    """Return a starting arm with its next retry and its last problem, and the event of a new failure."""
    readiness = context.readiness(arm.revision)
    problem = readiness.message if readiness.failed else arm.problem
    if readiness.ready:
        problem = None
    retried, failures = retry.apply_retry_backoff(context, arm)
    return retried.model_copy(update={"problem": problem}), failures


def arm_state(context: PlanContext, arm: ArmRevision, progress: ExperimentStatus) -> ArmState:
    """Return the state of one arm for the state machine."""
    return ArmState(
        available=context.available(arm.revision),
        desired=desired_replicas(context, progress, arm.name),
        failure=_find_failure(context, arm, begun=state.has_begun(progress)),
    )


def _find_failure(context: PlanContext, arm: ArmRevision, *, begun: bool) -> Cause | None:
    """Return why an arm must be dropped, or the Experiment cannot start; else None."""
    readiness, revision = context.readiness(arm.revision), f"revision {arm.revision}"
    if readiness.failed and (begun or not readiness.retryable):
        return Cause(readiness.reason, f"{revision}: {readiness.message}")
    if begun:
        message = f"{revision} had no healthy replica for {deadline.UNAVAILABLE_GRACE.total_seconds():g} s, while {names.STABLE} had"
        return Cause(EndReason.ARM_UNAVAILABLE, message) if deadline.is_unavailable(context, arm) else None
    limit = context.spec.rollout.progress_deadline if context.spec is not None else None
    if limit is None or context.now - (arm.since or context.now) < limit:
        return None
    message = f"{revision}: {deadline.describe_deadline(context)}: {describe_pending_reason(context, arm)}"
    return Cause(EndReason.PROGRESS_DEADLINE_EXCEEDED, message)


def describe_pending_reason(context: PlanContext, arm: ArmRevision) -> str:
    """Return why an arm is not ready, in one line."""
    if (pending := find_pending_reason(context, arm.revision)) is not None:
        return pending.message
    readiness = context.readiness(arm.revision)
    return arm.problem or f"revision {arm.revision}: {readiness.message}"


def desired_replicas(context: PlanContext, progress: ExperimentStatus, arm: str) -> int:
    """Return the replicas that an arm needs for its share of the traffic."""
    shares, max_share = state.target_buckets(progress), state.max_target_buckets(progress, arm)
    stable_share = sum(shares[name] for name in STABLE_ARMS)
    return replica_counts.arm_replicas(context.replicas, max_share, stable_share)
