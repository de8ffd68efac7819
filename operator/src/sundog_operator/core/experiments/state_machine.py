"""The life of an experiment: one transition per tick, each a commit before any traffic moves.

    Pending ──arms ready──► Running: warm up ► collect ──an arm has won, none can, limits, every arm dropped──► Concluded
       └──── an arm cannot start, stopped ────────┴───────── stopped ──────────────────────► Stopped

Its weights are those of its plan from the first epoch on, unless the plan lets them follow outcomes, until an arm is dropped: then stable,
outside of the experiment, gets what that arm had, and nobody else moves. With onWin: pause one that an arm has won stays as it is, in an
epoch of its own, unless the winner does harm. The
first epoch is the warm-up, which is no evidence; the second has the same weights. Nothing here reads a clock or the world.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sundog_operator.api import (
    CONTROL,
    ArmStatus,
    Epoch,
    EvidenceEpoch,
    ExperimentStatus,
    MetricStatus,
    PauseStatus,
    PlanComparison,
    Verdict,
    format_duration,
)
from sundog_operator.core.edge import buckets, units
from sundog_operator.core.experiments.evaluation import ExperimentEvaluation
from sundog_operator.core.kubernetes import names
from sundog_operator.core.rollout import baseline_outage
from sundog_operator.core.rollout.freeze import UNDECIDED
from sundog_operator.core.rollout.resolve import needs_threshold
from sundog_operator.core.rollout.state_machine import CONCLUDED, RUNNING, STOPPED, is_over
from sundog_operator.core.stats.outcome_test import ARM_IS_OUT

HARM: Final = "Harm"
ARM_UNAVAILABLE: Final = "ArmUnavailable"
MAX_DURATION: Final = "MaxDuration"
MAX_UNITS: Final = "MaxUnits"

WINNER: Final = "Winner"
NO_WINNER: Final = "NoWinner"
WON: Final = "Won"
"""Why nothing moves any more of one that goes on although an arm has won."""

MAX_EPOCHS: Final = 40
"""Of evidence: one, one more for each arm that is dropped, each time that weights move and a win, and some for outages of control."""

MAX_UNITS_KEPT: Final = 100_000_000
"""Of which edges keep the first exposure."""

MAX_REASON_CHARS: Final = 1024
"""Characters of a reason."""


@dataclass(frozen=True, slots=True)
class ArmState:
    """How an arm does, its counts aside.

    Attributes:
        available: replicas that Serve runs and every ready edge sees healthy.
        wanted: how many it needs.
        failure: why it must not go on, as (reason, message).
    """

    available: int = 0
    wanted: int = 1
    failure: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ExperimentInputs:
    """What a tick may look at.

    Attributes:
        confirmed: every edge has the current epoch in force.
        arms: those beside control, by name.
        end: why it ends now, as (reason, message).
        evidence: what is known of the arms; None where nothing was weighed.
    """

    now: datetime
    confirmed: bool
    arms: Mapping[str, ArmState] = field(default_factory=dict)
    end: tuple[str, str] | None = None
    evidence: ExperimentEvaluation | None = None


def is_frozen(status: ExperimentStatus) -> bool:
    """Whether it has its plan. A status that somebody damaged counts as not frozen, and so does one of a rollout."""
    plan = status.plan.comparison
    return plan is not None and [arm.name for arm in status.arms] == [names.STABLE, *(arm.name for arm in plan.arms)]


def frozen_comparison(status: ExperimentStatus) -> PlanComparison:
    """What was frozen. Raises ValueError where nothing was."""
    if status.plan.comparison is None:
        raise ValueError("the plan has no arms")
    return status.plan.comparison


def has_begun(status: ExperimentStatus) -> bool:
    """Whether its arms ever had traffic."""
    return is_frozen(status) and status.epoch.number > 0


def treatment_arms(status: ExperimentStatus) -> list[ArmStatus]:
    """The arms that are compared with control, dropped ones included."""
    return [arm for arm in status.arms if arm.name not in names.STABLE_ARMS]


def active_arms(status: ExperimentStatus) -> list[ArmStatus]:
    """Those that were not dropped."""
    return [arm for arm in treatment_arms(status) if arm.dropped is None]


def target_buckets(status: ExperimentStatus) -> dict[str, int]:
    """How many buckets each arm is to have, by the plan and what was dropped since, or as weights have moved; the rest is stable's."""
    dropped = {arm.name for arm in status.arms if arm.dropped is not None}
    planned = {arm.name: arm.buckets for arm in frozen_comparison(status).arms}
    if frozen_comparison(status).allocation is not None and has_begun(status):
        planned = {arm.name: sum(b - a for a, b in arm.ranges) for arm in status.arms if arm.name != names.STABLE}
    planned = {name: 0 if name in dropped else own for name, own in planned.items()}
    return {names.STABLE: buckets.BUCKETS - sum(planned.values()), **planned}


def max_target_buckets(status: ExperimentStatus, arm: str) -> int:
    """How many buckets an arm may come to have: where weights move, all that is exposed."""
    plan = frozen_comparison(status)
    if plan.allocation is None:
        return target_buckets(status).get(arm, 0)
    return sum(each.buckets for each in plan.arms)


def dropped_arms(status: ExperimentStatus) -> set[str]:
    """The names of those that were."""
    return {arm.name for arm in treatment_arms(status) if arm.dropped is not None}


def max_first_exposures(status: ExperimentStatus) -> int:
    """Of how many units, those outside of the experiment included, edges keep the first exposure: it has taken its own by then."""
    plan = frozen_comparison(status)
    own = sum(arm.buckets for arm in plan.arms)
    return max(1, min(MAX_UNITS_KEPT, math.ceil(plan.max_units * buckets.BUCKETS / max(own, 1))))


def has_won(status: ExperimentStatus) -> bool:
    """Whether it goes on although an arm has won."""
    return status.paused is not None and status.paused.reason == WON


def control_revision(status: ExperimentStatus) -> int:
    """The revision that control is."""
    return next((arm.revision or 0 for arm in status.arms if arm.name == CONTROL), 0)


def tick(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus:
    """The next status; equal to the given one when nothing is due. Total: any frozen status and inputs give a status."""
    if is_over(status) or not is_frozen(status):
        return status
    rules: tuple[Callable[[ExperimentStatus, ExperimentInputs], ExperimentStatus | None], ...] = (
        _end,
        _fail,
        _drop,
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


def end_experiment(
    status: ExperimentStatus,
    phase: str,
    reason: str,
    message: str,
    now: datetime,
    decision: str = UNDECIDED,
    winner: str = "",
) -> ExperimentStatus:
    """End it with all traffic on stable. One that an arm has won has run its course, whoever ends it."""
    moved = _with_shares(status, {names.STABLE: buckets.BUCKETS}, now) if has_begun(status) else status
    verdict = Verdict(decision=decision, winner=winner, reason=f"{reason}: {message}"[:MAX_REASON_CHARS])
    if has_won(status) and decision == UNDECIDED:
        ended = f"; ended by {reason}: {message}"[: MAX_REASON_CHARS // 2]
        phase, verdict = (
            CONCLUDED,
            status.verdict.model_copy(
                update={"reason": status.verdict.reason[: MAX_REASON_CHARS - len(ended)] + ended}
            ),
        )
    return moved.model_copy(update={"phase": phase, "verdict": verdict, "paused": None})


def _with_shares(status: ExperimentStatus, shares: Mapping[str, int], now: datetime) -> ExperimentStatus:
    """Another epoch, in which each arm has so many buckets; what need not move stays where it is."""
    wanted = [shares.get(arm.name, 0) for arm in status.arms]
    moved = buckets.reassign([[(a, b) for a, b in arm.ranges] for arm in status.arms], wanted)
    arms = tuple(
        arm.model_copy(update={"ranges": tuple(own), "weight": buckets.percent(share)})
        for arm, own, share in zip(status.arms, moved, wanted, strict=True)
    )
    epoch = Epoch(number=status.epoch.number + 1, since=now, confirmed=False)
    return status.model_copy(update={"arms": arms, "epoch": epoch})


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


def _drop(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
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
        return _as_evidence(_with_shares(marked, target_buckets(marked), seen.now), again=bool(status.evidence_epochs))
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
    return _as_evidence(_with_shares(status, target_buckets(status), seen.now), again=True)


def _begin(status: ExperimentStatus, seen: ExperimentInputs) -> ExperimentStatus | None:
    if status.phase == RUNNING or not seen.confirmed:
        return None
    arms = [seen.arms.get(arm.name, ArmState()) for arm in treatment_arms(status)]
    if any(arm.available < arm.wanted for arm in arms):
        return None
    begun = _with_shares(status.model_copy(update={"phase": RUNNING}), target_buckets(status), seen.now)
    return _as_evidence(begun, again=_needs_no_warmup(status))


def _needs_no_warmup(status: ExperimentStatus) -> bool:
    return not status.plan.warmup_requests or not status.plan.warmup_duration


def _as_evidence(status: ExperimentStatus, *, again: bool) -> ExperimentStatus:
    """Let the epoch that begins count as evidence if evidence is counted already."""
    if not again:
        return status
    shares = target_buckets(status)
    epoch = EvidenceEpoch(number=status.epoch.number, buckets=tuple(shares[arm.name] for arm in status.arms))
    return status.model_copy(
        update={"evidence_epochs": (*baseline_outage.trim_epochs(status.evidence_epochs, MAX_EPOCHS), epoch)}
    )


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
    return _as_evidence(_with_shares(_knowing(status, evidence), target_buckets(status), seen.now), again=True)


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
    return _as_evidence(_with_shares(known, target_buckets(status), seen.now), again=True)


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
    return _as_evidence(_with_shares(won, target_buckets(won), seen.now), again=True)


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
    return _as_evidence(_with_shares(status, moved, seen.now), again=True)


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


def time_left_s(status: ExperimentStatus, evidence: ExperimentEvaluation | None, now: datetime) -> float:
    """Seconds until what ends it without a verdict, if units go on to come as they did; infinite before it has begun."""
    if status.since is None:
        return math.inf
    limits, lasted_s = frozen_comparison(status), (now - status.since).total_seconds()
    taken = units_taken(status, evidence)
    filling_s = lasted_s * (limits.max_units / taken - 1) if taken else math.inf
    return max(0.0, min(limits.max_duration.total_seconds() - lasted_s, filling_s))


def units_taken(status: ExperimentStatus, evidence: ExperimentEvaluation | None) -> int:
    """Units that fell to control and the arms so far; where nobody knows them, requests.

    Never fewer than were told before: an edge that is gone takes its sample with it, and not those who were in it.
    """
    known = evidence.units if evidence is not None else {}
    own = (arm for arm in status.arms if arm.name != names.STABLE)
    return sum(max(arm.units, known.get(arm.name, arm.units or arm.requests)) for arm in own)
