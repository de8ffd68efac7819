"""Arms that leave an experiment before it ends."""

from collections.abc import Sequence
from datetime import datetime

from sundog_operator.api import (
    ArmStatus,
    ExperimentStatus,
    MetricStatus,
    Verdict,
)
from sundog_operator.core.experiments.state import (
    ARM_UNAVAILABLE,
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
from sundog_operator.core.experiments.transitions import MAX_REASON_CHARS, as_evidence, end_experiment, with_shares
from sundog_operator.core.rollout.freeze import UNDECIDED
from sundog_operator.core.rollout.state import CONCLUDED, STOPPED
from sundog_operator.core.stats.outcome_findings import ARM_IS_OUT


def drop(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    """Take the traffic from arms that do harm or cannot answer, at once; the others go on as they are."""
    if not has_begun(status):
        return None
    why = {arm.name: told for arm in active_arms(status) if (told := _why_dropped(arm.name, seen))}
    if not why:
        return None
    arms = tuple(arm.model_copy(update={"dropped": why.get(arm.name, arm.dropped)}) for arm in status.arms)
    without = status.model_copy(update={"arms": arms})
    metrics = merge_dropped_metrics(without, seen.evidence.metrics if seen.evidence else ())
    marked = _without_winner(without.model_copy(update={"metrics": metrics}))
    if active_arms(marked):
        return as_evidence(with_shares(marked, target_buckets(marked), seen.now), again=bool(status.evidence_epochs))
    return _without_arms(marked, seen.now)


def _without_winner(status: ExperimentStatus) -> ExperimentStatus:
    """Let the others go on where the arm that had won does harm; one that cannot answer any more has won all the same."""
    winner = next((arm for arm in status.arms if arm.name == status.verdict.winner), None)
    if not has_won(status) or winner is None or not _did_harm(winner):
        return status
    told = f"{winner.name} had won, and was dropped: {winner.dropped}"[:MAX_REASON_CHARS]
    verdict = Verdict(decision=UNDECIDED, winner="", reason=told)
    return status.model_copy(update={"verdict": verdict, "paused": None})


def _did_harm(arm: ArmStatus) -> bool:
    return (arm.dropped or "").startswith(f"{HARM}:")


def _why_dropped(arm: str, seen: ExperimentInputs) -> str:
    failure, evidence = seen.arms.get(arm, ArmState()).failure, seen.evidence
    if failure is not None:
        return f"{failure[0]}: {failure[1]}"[:MAX_REASON_CHARS]
    if evidence is None:
        return ""
    # Nothing is concluded from a split that is not as it should be; what fails nearly everything is no conclusion.
    harm = evidence.dead.get(arm, "") or ("" if evidence.broken else evidence.harm.get(arm, ""))
    return f"{HARM}: {harm}"[:MAX_REASON_CHARS] if harm else ""


def _without_arms(status: ExperimentStatus, now: datetime) -> ExperimentStatus:
    """Every arm was dropped: evidence has decided if it was evidence that dropped one, unless an arm had won that did none."""
    told = "; ".join(f"arm {arm.name}: {arm.dropped}" for arm in treatment_arms(status))
    if not has_won(status) and any(map(_did_harm, treatment_arms(status))):
        return end_experiment(status, CONCLUDED, HARM, f"no arm is left: {told}", now, decision=HARM)
    return end_experiment(status, STOPPED, ARM_UNAVAILABLE, f"no arm is left: {told}", now)


def merge_dropped_metrics(status: ExperimentStatus, metrics: Sequence[MetricStatus]) -> tuple[MetricStatus, ...]:
    """What is known now, and of arms that were dropped what was known then, less what was expected of them."""
    told = {(each.arm, each.role, each.name) for each in metrics}
    known = (*metrics, *(each for each in status.metrics if (each.arm, each.role, each.name) not in told))
    out = dropped_arms(status)
    return tuple(_without_future(each) if each.arm in out else each for each in known)


def _without_future(told: MetricStatus) -> MetricStatus:
    """Nothing will decide what is not decided of an arm that is out."""
    message, ending = told.message, f"; {ARM_IS_OUT}"
    if ARM_IS_OUT not in message:
        undecided = told.verdict == UNDECIDED
        message = (
            f"{told.name} of {told.arm} was not decided: {ARM_IS_OUT}"
            if undecided
            else message[: MAX_REASON_CHARS - len(ending)] + ending
        )
    return told.model_copy(update={"needed": None, "eta": None, "message": message})
