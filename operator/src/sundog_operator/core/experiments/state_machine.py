"""The life of an experiment: one transition per tick, each a commit before any traffic moves.

    Pending ──arms ready──► Running: warm up ► collect ──an arm has won, none can, limits, every arm dropped──► Concluded
       └──── an arm cannot start, stopped ────────┴───────── stopped ──────────────────────► Stopped

Its weights are those of its plan from the first epoch on, unless the plan lets them follow outcomes, until an arm is dropped: then stable,
outside of the experiment, gets what that arm had, and nobody else moves. With onWin: pause one that an arm has won stays as it is, in an
epoch of its own, unless the winner does harm. The
first epoch is the warm-up, which is no evidence; the second has the same weights. Nothing here reads a clock or the world.
"""

from collections.abc import Callable

from sundog_operator.api import (
    CONTROL,
    Epoch,
    ExperimentStatus,
    PauseStatus,
    Verdict,
    format_duration,
)
from sundog_operator.core.edge import buckets, units
from sundog_operator.core.experiments.dropped_arms import drop, merge_dropped_metrics
from sundog_operator.core.experiments.evaluation import ExperimentEvaluation
from sundog_operator.core.experiments.state import (
    MAX_DURATION,
    MAX_UNITS,
    NO_WINNER,
    WINNER,
    WON,
    ArmState,
    ExperimentInputs,
    frozen_comparison,
    has_begun,
    has_won,
    is_frozen,
    target_buckets,
    treatment_arms,
    units_taken,
)
from sundog_operator.core.experiments.transitions import MAX_REASON_CHARS, as_evidence, end_experiment, with_shares
from sundog_operator.core.kubernetes import names
from sundog_operator.core.rollout import baseline_outage
from sundog_operator.core.rollout.resolve import needs_threshold
from sundog_operator.core.rollout.state import CONCLUDED, RUNNING, STOPPED, is_over


def tick(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus:
    """The next status; equal to the given one when nothing is due. Total: any frozen status and inputs give a status."""
    if is_over(status) or not is_frozen(status):
        return status
    rules: tuple[Callable[[ExperimentStatus, ExperimentInputs], ExperimentStatus | None], ...] = (
        _end,
        _fail,
        drop,
        _spare,
        _recover,
        _renew,
        _begin,
        _confirm,
        _warm_up,
        _learn,
        _decide,
        _move,
        _time_out,
    )
    return next((after for rule in rules if (after := rule(status, seen)) is not None), status)


def _end(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    return end_experiment(status, STOPPED, *seen.end, seen.now) if seen.end else None


def _fail(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    """An arm that cannot start ends what has not begun: the others alone would be another experiment."""
    if has_begun(status):
        return None
    for arm in treatment_arms(status):
        failure = seen.arms.get(arm.name, ArmState()).failure
        if failure is not None:
            return end_experiment(status, STOPPED, failure[0], f"arm {arm.name}: {failure[1]}", seen.now)
    return None


def _spare(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    """Conclude nothing while control is no measure of anything: what fails all arms would drown what one alone does."""
    if seen.evidence is None or not seen.evidence.control.reason or status.phase != RUNNING:
        return None
    return baseline_outage.pause_for_baseline(status, seen.evidence.control, seen.now)


def _recover(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    """Go on by itself once control has done well for a while, as all edges tell."""
    if not baseline_outage.is_paused_for_baseline(status) or not _is_settled(seen):
        return None
    return status.model_copy(update={"paused": None})


def _is_settled(seen: ExperimentInputs) -> bool:
    return seen.evidence is not None and not seen.evidence.unreachable_edges and seen.evidence.control.settled


def _renew(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    """Count anew after an epoch in which control was no measure, also where an arm has won."""
    goes_on = status.paused is None or (has_won(status) and _is_settled(seen))
    if not baseline_outage.is_epoch_excluded(status) or not goes_on:
        return None
    return as_evidence(with_shares(status, target_buckets(status), seen.now), again=True)


def _begin(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    if status.phase == RUNNING or not seen.confirmed:
        return None
    arms = [seen.arms.get(arm.name, ArmState()) for arm in treatment_arms(status)]
    if any(arm.available < arm.wanted for arm in arms):
        return None
    begun = with_shares(status.model_copy(update={"phase": RUNNING}), target_buckets(status), seen.now)
    return as_evidence(begun, again=_needs_no_warmup(status))


def _needs_no_warmup(status: ExperimentStatus) -> bool:
    return not status.plan.warmup_requests or not status.plan.warmup_duration


def _confirm(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    if status.phase != RUNNING or status.epoch.confirmed or not seen.confirmed:
        return None
    epoch = Epoch(number=status.epoch.number, since=seen.now, confirmed=True)
    return status.model_copy(update={"epoch": epoch, "since": status.since or seen.now})


def _warm_up(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    """End the warm-up: from the next epoch on counts are evidence, against latencies that stay what they are from there on."""
    evidence = seen.evidence
    if (
        status.evidence_epochs
        or evidence is None
        or not status.epoch.confirmed
        or baseline_outage.is_paused_for_baseline(status)
    ):
        return None
    waited = status.epoch.since is not None and seen.now - status.epoch.since >= status.plan.warmup_duration
    if not waited and evidence.requests < status.plan.warmup_requests:
        return None
    return as_evidence(with_shares(_knowing(status, evidence), target_buckets(status), seen.now), again=True)


def _learn(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    """Count anew once it is known what a long answer is: nobody counted those before."""
    evidence = seen.evidence
    if (
        evidence is None
        or not status.evidence_epochs
        or not status.epoch.confirmed
        or baseline_outage.is_paused_for_baseline(status)
    ):
        return None
    if not needs_threshold(status.plan.guardrails) or needs_threshold(evidence.guardrails):
        return None
    known = _knowing(status, evidence).model_copy(update={"evidence_epochs": ()})
    return as_evidence(with_shares(known, target_buckets(status), seen.now), again=True)


def _knowing(status: ExperimentStatus, evidence: ExperimentEvaluation) -> ExperimentStatus:
    plan = status.plan.model_copy(update={"guardrails": evidence.guardrails or status.plan.guardrails})
    return status.model_copy(update={"plan": plan})


def _decide(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    """Say who has won, or that nobody can any more, by outcomes that are to be trusted."""
    ruling = seen.evidence.ruling if seen.evidence is not None else None
    if ruling is None or status.phase != RUNNING or status.paused is not None or not status.evidence_epochs:
        return None
    status = _as_judged(status, seen)
    if ruling.decision == NO_WINNER:
        return end_experiment(status, CONCLUDED, NO_WINNER, ruling.reason, seen.now, decision=NO_WINNER)
    if ruling.decision != WINNER:
        return None
    if frozen_comparison(status).on_win == "none":
        return end_experiment(status, CONCLUDED, WINNER, ruling.reason, seen.now, decision=WINNER, winner=ruling.winner)
    told = f"{ruling.winner} has won, and all stays as it is until the experiment is ended"
    verdict = Verdict(decision=WINNER, winner=ruling.winner, reason=f"{WINNER}: {ruling.reason}"[:MAX_REASON_CHARS])
    paused = PauseStatus(reason=WON, since=seen.now, message=told)
    won = status.model_copy(update={"verdict": verdict, "paused": paused})
    # What it was won by stays evidence whatever becomes of control: an outage takes the epoch that it is in.
    return as_evidence(with_shares(won, target_buckets(won), seen.now), again=True)


def _as_judged(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus:
    """With what is known of all metrics as it is decided."""
    if seen.evidence is None:
        return status
    return status.model_copy(update={"metrics": merge_dropped_metrics(status, seen.evidence.metrics)})


def _move(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    """Let weights follow outcomes: what is exposed stays as it is, and arms share it anew."""
    shares = seen.evidence.shares if seen.evidence is not None else None
    if shares is None or status.phase != RUNNING or status.paused is not None or not status.epoch.confirmed:
        return None
    own = dict(zip((CONTROL, *(arm.name for arm in treatment_arms(status))), shares, strict=True))
    moved = {names.STABLE: buckets.BUCKETS - sum(shares), **own}
    return as_evidence(with_shares(status, moved, seen.now), again=True)


def _time_out(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    """What ends it without a verdict."""
    if status.phase != RUNNING or status.since is None:
        return None
    limits, lasted, status = frozen_comparison(status), seen.now - status.since, _as_judged(status, seen)
    if lasted >= limits.max_duration:
        told = f"it has run for {format_duration(limits.max_duration)}, its spec.stop.maxDuration{_so_far(seen)}"
        return end_experiment(status, CONCLUDED, MAX_DURATION, told, seen.now)
    taken = units_taken(status, seen.evidence)
    if taken >= limits.max_units:
        what = "units" if units.is_sticky(status.plan) else "requests"
        told = f"it has taken {taken} {what}, and spec.stop.maxUnits is {limits.max_units}{_so_far(seen)}"
        return end_experiment(status, CONCLUDED, MAX_UNITS, told, seen.now)
    return None


def _so_far(seen: ExperimentInputs) -> str:
    """What outcomes have told until now."""
    ruling = seen.evidence.ruling if seen.evidence is not None else None
    return f"; {ruling.reason}" if ruling is not None else ""
