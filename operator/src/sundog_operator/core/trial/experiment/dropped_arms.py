"""Arms that are dropped from an experiment before it ends."""

from collections.abc import Sequence
from datetime import datetime

from sundog_operator.api import (
    ArmStatus,
    ExperimentStatus,
    MetricStatus,
    Verdict,
)
from sundog_operator.api.reasons import Cause, EndReason, MetricNote
from sundog_operator.core.stats.outcome_findings import ARM_IS_OUT
from sundog_operator.core.trial.experiment.state import (
    HARM,
    ArmState,
    ExperimentInputs,
    active_arms,
    dropped_arms,
    has_begun,
    has_won,
    target_buckets,
    treatment_arms,
)
from sundog_operator.core.trial.experiment.transitions import (
    MAX_REASON_CHARS,
    begin_evidence,
    end_experiment,
    with_shares,
)
from sundog_operator.core.trial.phases import CONCLUDED, STOPPED, UNDECIDED


def drop(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus | None:
    """Take all traffic from arms that do harm or cannot serve, at once; the other arms go on unchanged."""
    if not has_begun(status):
        return None
    causes = {arm.name: cause for arm in active_arms(status) if (cause := _drop_cause(arm.name, inputs)) is not None}
    if not causes:
        return None
    arms = tuple(_drop_arm(arm, causes[arm.name]) if arm.name in causes else arm for arm in status.arms)
    without = status.model_copy(update={"arms": arms})
    metrics = merge_dropped_metrics(without, inputs.evidence.metrics if inputs.evidence else ())
    marked = _reopen_if_winner_harmed(without.model_copy(update={"metrics": metrics}))
    if not active_arms(marked):
        return _end_without_arms(marked, inputs.now)
    if not status.evidence_epochs:
        return with_shares(marked, target_buckets(marked), inputs.now)
    return begin_evidence(marked, inputs.now)


def _drop_arm(arm: ArmStatus, cause: Cause) -> ArmStatus:
    return arm.model_copy(update={"dropped": str(cause)[:MAX_REASON_CHARS], "dropped_code": cause.reason})


def _reopen_if_winner_harmed(status: ExperimentStatus) -> ExperimentStatus:
    """Withdraw a win if the winning arm did harm, so that the other arms go on. An arm that only became unavailable stays the winner."""
    winner = next((arm for arm in status.arms if arm.name == status.verdict.winner), None)
    if not has_won(status) or winner is None or not _did_harm(winner):
        return status
    reason = f"{winner.name} won and was then dropped: {winner.dropped}"[:MAX_REASON_CHARS]
    verdict = Verdict(decision=UNDECIDED, winner="", reason=reason)
    return status.model_copy(update={"verdict": verdict, "paused": None})


def _did_harm(arm: ArmStatus) -> bool:
    return arm.dropped_code == EndReason.HARM


def _drop_cause(arm: str, inputs: ExperimentInputs) -> Cause | None:
    failure, evidence = inputs.arms.get(arm, ArmState()).failure, inputs.evidence
    if failure is not None:
        return failure
    if evidence is None:
        return None
    # A sample-ratio mismatch invalidates all tests. An arm that fails nearly everything is dropped without a test.
    harm = evidence.dead_arms.get(arm, "") or ("" if evidence.mismatch else evidence.harm.get(arm, ""))
    return Cause(EndReason.HARM, harm) if harm else None


def _end_without_arms(status: ExperimentStatus, now: datetime) -> ExperimentStatus:
    """End the experiment after its last arm was dropped: concluded if one did harm and none had won, stopped otherwise."""
    message = "all arms were dropped: " + "; ".join(f"arm {arm.name}: {arm.dropped}" for arm in treatment_arms(status))
    if not has_won(status) and any(map(_did_harm, treatment_arms(status))):
        return end_experiment(status, CONCLUDED, Cause(EndReason.HARM, message), now, decision=HARM)
    return end_experiment(status, STOPPED, Cause(EndReason.ARM_UNAVAILABLE, message), now)


def merge_dropped_metrics(status: ExperimentStatus, metrics: Sequence[MetricStatus]) -> tuple[MetricStatus, ...]:
    """Return the present metrics and the last ones of dropped arms; dropped arms get no estimates of the future."""
    present = {(each.arm, each.role, each.name) for each in metrics}
    known = (*metrics, *(each for each in status.metrics if (each.arm, each.role, each.name) not in present))
    out = dropped_arms(status)
    return tuple(_mark_dropped(each) if each.arm in out else each for each in known)


def _mark_dropped(metric: MetricStatus) -> MetricStatus:
    """Return a metric's last status without estimates, with a message that its arm was dropped."""
    message, ending = metric.message, f"; {ARM_IS_OUT}"
    if metric.note != MetricNote.ARM_DROPPED:
        undecided = metric.verdict == UNDECIDED
        message = (
            f"{metric.name} of {metric.arm} was not decided: {ARM_IS_OUT}"
            if undecided
            else message[: MAX_REASON_CHARS - len(ending)] + ending
        )
    return metric.model_copy(update={"needed": None, "eta": None, "message": message, "note": MetricNote.ARM_DROPPED})
