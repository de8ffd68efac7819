"""State machine of an experiment: one transition per tick, each committed before any traffic moves.

    Pending ──arms ready──► Running: warm up ► collect ──an arm won, none can, limits, all arms dropped──► Concluded
       └──── an arm cannot start, stopped ────────┴──────── stopped ──────────────────────► Stopped

Weights are the plan's from the first epoch on, until an arm is dropped, unless the plan lets them follow outcomes. Stable gets the buckets
of a dropped arm, and no other buckets move. With `onWin: pause`, weights stay after a win, in a new epoch, unless the winner does harm. The
first epoch is the warm-up, which is no evidence; the second has the same weights. The warm-up goes on until latency thresholds are known:
evidence from before would be removed then, and each further set of evidence has a smaller share of the error. No function reads a clock or
calls another system.
"""

import math
from typing import Final

from sundog_operator.api import (
    CONTROL,
    EvidenceEpoch,
    ExperimentStatus,
    PauseStatus,
    Verdict,
    format_duration,
)
from sundog_operator.api.reasons import Cause, EndReason, PauseReason
from sundog_operator.core.edge import buckets, units
from sundog_operator.core.kubernetes import names
from sundog_operator.core.trial.baseline_outage import (
    is_baseline_settled,
    is_epoch_excluded,
    is_paused_for_baseline,
    pause_for_baseline,
)
from sundog_operator.core.trial.default_plan import MIN_TIMED_ANSWERS, needs_threshold
from sundog_operator.core.trial.evaluation import ExperimentEvaluation
from sundog_operator.core.trial.experiment.dropped_arms import drop, merge_dropped_metrics
from sundog_operator.core.trial.experiment.state import (
    NO_WINNER,
    WINNER,
    ArmState,
    ExperimentInputs,
    active_arms,
    frozen_comparison,
    has_begun,
    has_won,
    is_frozen,
    maturing_time,
    restarts_for_load,
    target_buckets,
    treatment_arms,
    units_taken,
)
from sundog_operator.core.trial.experiment.transitions import (
    MAX_REASON_CHARS,
    begin_evidence,
    end_experiment,
    with_shares,
)
from sundog_operator.core.trial.phases import CONCLUDED, RUNNING, STOPPED, is_over
from sundog_operator.core.trial.replica_counts import MAX_COMPARABLE_RATIO, is_comparable
from sundog_operator.core.trial.transitions import (
    confirm_epoch,
    first_change,
    has_learned_thresholds,
    has_no_warmup,
    has_warmed_up,
    with_thresholds,
)

_MAX_THRESHOLD_REQUESTS: Final = 2 * MIN_TIMED_ANSWERS
"""Requests of each arm for which the warm-up waits for latency thresholds. Not every answer is timed, such as a failed one."""
_MAX_THRESHOLD_FAILURES: Final = 20
"""Failed requests of an arm that end this wait, because harm is tested after the warm-up alone."""


def tick(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus:
    """Return the next status, equal to the given one when nothing is due. Total: every frozen status and inputs give a status."""
    if is_over(status) or not is_frozen(status):
        return status
    return first_change(status, inputs, _RULES) or status


def _end(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus | None:
    return end_experiment(status, STOPPED, inputs.end, inputs.now) if inputs.end else None


def _fail(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus | None:
    """End an experiment that has not begun if an arm cannot start: without that arm it would be another experiment."""
    if has_begun(status):
        return None
    for arm in treatment_arms(status):
        failure = inputs.arms.get(arm.name, ArmState()).failure
        if failure is not None:
            cause = failure._replace(message=f"arm {arm.name}: {failure.message}")
            return end_experiment(status, STOPPED, cause, inputs.now)
    return None


def _recover(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus | None:
    """Go on once control was healthy for a while at all edges."""
    if not is_paused_for_baseline(status) or not is_baseline_settled(inputs):
        return None
    return status.model_copy(update={"paused": None})


def _restart_evidence(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus | None:
    """Begin a new epoch of evidence after one in which control was unfit, also after a win."""
    goes_on = status.paused is None or (has_won(status) and is_baseline_settled(inputs))
    return begin_evidence(status, inputs.now) if is_epoch_excluded(status) and goes_on else None


def _begin(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus | None:
    if status.phase == RUNNING:
        return None
    if has_begun(status):
        # A second begin would be an epoch without evidence.
        return status.model_copy(update={"phase": RUNNING})
    if not inputs.confirmed:
        return None
    arms = [inputs.arms.get(arm.name, ArmState()) for arm in treatment_arms(status)]
    if any(arm.available < arm.desired for arm in arms):
        return None
    running = status.model_copy(update={"phase": RUNNING})
    if has_no_warmup(status.plan) and not needs_threshold(status.plan.guardrails):
        return begin_evidence(running, inputs.now)
    return with_shares(running, target_buckets(status), inputs.now)


def _confirm(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus | None:
    after = confirm_epoch(status, inputs) if status.phase == RUNNING else None
    return None if after is None else after.model_copy(update={"since": status.since or inputs.now})


def _warm_up(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus | None:
    """End the warm-up: counts are evidence from the next epoch on, with latency thresholds that stay."""
    evidence = inputs.evidence
    if evidence is None or status.evidence_epochs or not _is_comparable(status):
        return None
    if not has_warmed_up(status, evidence, inputs.now):
        return None
    failures = max((arm.errors for arm in status.arms), default=0)
    is_brief = evidence.requests < _MAX_THRESHOLD_REQUESTS and failures < _MAX_THRESHOLD_FAILURES
    if needs_threshold(evidence.guardrails) and is_brief:
        return None
    return begin_evidence(with_thresholds(status, evidence), inputs.now)


def _is_comparable(status: ExperimentStatus) -> bool:
    """Whether all edges have the weights in force, and control is fit for comparison."""
    return status.epoch.confirmed and not is_paused_for_baseline(status)


def _learn_thresholds(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus | None:
    """Restart the evidence once latency thresholds are known, because slow answers were not counted before."""
    evidence = inputs.evidence
    if evidence is None or not status.evidence_epochs or not _is_comparable(status):
        return None
    if not has_learned_thresholds(status, evidence):
        return None
    return begin_evidence(with_thresholds(status, evidence), inputs.now, replaces_earlier=True)


def _watch_load(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus | None:
    """Mark an epoch once replicas had unequal load, and begin another when loads are equal again, if that is worth it."""
    newest = status.evidence_epochs[-1] if status.evidence_epochs else None
    evidence = inputs.evidence or ExperimentEvaluation()
    if newest is None or newest.number != status.epoch.number or status.phase != RUNNING:
        return None
    if not all(math.isnan(each) or is_comparable(each) for each in evidence.loads):
        marked = _mark_load(newest, status, evidence)
        epochs = (*status.evidence_epochs[:-1], marked)
        return None if marked == newest else status.model_copy(update={"evidence_epochs": epochs})
    is_equal = bool(evidence.loads) and all(map(is_comparable, evidence.loads))
    if not (newest.unequal_load and is_equal) or status.paused is not None or not restarts_for_load(status):
        return None
    return begin_evidence(status, inputs.now)


def _mark_load(newest: EvidenceEpoch, status: ExperimentStatus, evidence: ExperimentEvaluation) -> EvidenceEpoch:
    """Return the newest epoch, marked with the present unequal loads."""
    loads = {arm.name: load for arm, load in zip(active_arms(status), evidence.loads, strict=True)}
    more = {name for name, load in loads.items() if load > MAX_COMPARABLE_RATIO}
    less = {name for name, load in loads.items() if load < 1 / MAX_COMPARABLE_RATIO}
    overloaded, underloaded = (
        tuple(arm.name for arm in status.arms if arm.name in found.union(known or ()))
        for found, known in ((more, newest.overloaded), (less, newest.underloaded))
    )
    # Tests of an arm's latencies used the epoch until its own load was unequal, also if no other test did.
    known_arms = len(newest.overloaded or ()) + len(newest.underloaded or ())
    is_new = len(overloaded) + len(underloaded) > known_arms
    tested = newest.tested or is_new if newest.unequal_load else evidence.has_equal_blocks
    return newest.model_copy(
        update={
            "unequal_load": True,
            "tested": tested or None,
            "overloaded": overloaded or None,
            "underloaded": underloaded or None,
        }
    )


def _decide(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus | None:
    """Record the winner, or that no arm can win, by valid outcomes."""
    decided = inputs.evidence.outcome_decision if inputs.evidence is not None else None
    if decided is None or status.phase != RUNNING or status.paused is not None or not status.evidence_epochs:
        return None
    status = _with_metrics(status, inputs)
    if decided.decision == NO_WINNER:
        return end_experiment(
            status, CONCLUDED, Cause(EndReason.NO_WINNER, decided.reason), inputs.now, decision=NO_WINNER
        )
    if decided.decision != WINNER:
        return None
    cause = Cause(EndReason.WINNER, decided.reason)
    if frozen_comparison(status).on_win == "none":
        return end_experiment(status, CONCLUDED, cause, inputs.now, decision=WINNER, winner=decided.winner)
    message = f"{decided.winner} has won; weights stay until the experiment is stopped or deleted"
    verdict = Verdict.of(cause, WINNER, decided.winner, MAX_REASON_CHARS)
    paused = PauseStatus(reason=PauseReason.WON, since=inputs.now, message=message)
    won = status.model_copy(update={"verdict": verdict, "paused": paused})
    # A new epoch keeps the evidence of the win: a later outage of control excludes only its own epoch.
    return begin_evidence(won, inputs.now)


def _with_metrics(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus:
    """Return the status with all metrics as of the decision."""
    if inputs.evidence is None:
        return status
    return status.model_copy(update={"metrics": merge_dropped_metrics(status, inputs.evidence.metrics)})


def _move_weights(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus | None:
    """Move weights by outcomes: the exposed buckets stay exposed, and the arms share them in new proportions."""
    shares = inputs.evidence.shares if inputs.evidence is not None else None
    if shares is None or status.phase != RUNNING or status.paused is not None or not status.epoch.confirmed:
        return None
    own = dict(zip((CONTROL, *(arm.name for arm in treatment_arms(status))), shares, strict=True))
    return begin_evidence(status, inputs.now, {names.STABLE: buckets.BUCKETS - sum(shares), **own})


def _time_out(status: ExperimentStatus, inputs: ExperimentInputs) -> ExperimentStatus | None:
    """End the experiment without a verdict at its limits."""
    if status.phase != RUNNING or status.since is None:
        return None
    limits, lasted, status = frozen_comparison(status), inputs.now - status.since, _with_metrics(status, inputs)
    if lasted >= limits.max_duration:
        message = f"ran for {format_duration(limits.max_duration)} (spec.stop.maxDuration){_outcomes_so_far(inputs)}"
        return end_experiment(status, CONCLUDED, Cause(EndReason.MAX_DURATION, message), inputs.now)
    taken = units_taken(status, inputs.evidence)
    if taken >= limits.max_units:
        # Edges keep no further units, and conversion windows of the last ones have to pass.
        if (maturing := maturing_time(limits)) and status.units_reached_at is None:
            return status.model_copy(update={"units_reached_at": inputs.now})
        if status.units_reached_at is not None and inputs.now - status.units_reached_at < maturing:
            return None
        what = "units" if units.is_sticky(status.plan) else "requests"
        message = f"took {taken} {what} (spec.stop.maxUnits: {limits.max_units}){_outcomes_so_far(inputs)}"
        return end_experiment(status, CONCLUDED, Cause(EndReason.MAX_UNITS, message), inputs.now)
    return None


def _outcomes_so_far(inputs: ExperimentInputs) -> str:
    """Return the reason of the last outcome decision, as the end of a sentence."""
    decided = inputs.evidence.outcome_decision if inputs.evidence is not None else None
    return f"; {decided.reason}" if decided is not None else ""


_RULES: Final = (
    _end,
    _fail,
    drop,
    pause_for_baseline,
    _recover,
    _restart_evidence,
    _begin,
    _confirm,
    _warm_up,
    _learn_thresholds,
    _watch_load,
    _decide,
    _move_weights,
    _time_out,
)
"""Rules in the order in which they are tried; the first one that changes the status ends the tick."""
