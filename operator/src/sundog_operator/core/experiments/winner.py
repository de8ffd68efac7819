"""Which arm of an experiment wins, or that none does: what its success metrics and its guardrails say together. Pure.

**An arm wins** when one of its success metrics is found better than control's, none is found worse, each has been counted, and every
guardrail has passed: not harmed is not enough, for a bad arm must not win by lack of evidence. α is shared among success metrics and arms
as the plan has them (Bonferroni), an arm that has dropped out since included: so P(an arm that is better by no metric is ever declared the
winner) ≤ α, at every look and whatever depends on what. e-BH would find more, but bounds the share of false findings at one look at which
one stops, and needs the evidence of all arms and metrics to be processes of one common past: a unit's first outcome tells which arm its
second one will be of. Guardrails take nothing of α: all of them have to pass. Source: Schultzberg et al. (arXiv 2402.11609) for the roles.

**Of several winners** one is named: the one whose improvement is the highest at the lower end of its interval, by the first success metric
that any of them is better by. The intervals hold all at once, so one whose upper end is below that is known to be less good; of the others
the reason says that they are not told apart. Nothing waits until they are.

**None wins** when no arm can any more: it was dropped for harm, is worse by a metric, or is known by each of them to have less effect than
`minimumEffect`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from sundog_operator.api import SuccessMetric, parse_percent
from sundog_operator.core.stats import outcome_counts, outcome_test
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.stats.outcome_counts import OutcomeEpoch, OutcomeMetric
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeVerdict

_TOLD_AT_ONCE: Final = 3
"""Arms, of which a reason says why they are where they are."""


class Decision(StrEnum):
    """Of an experiment."""

    UNDECIDED = "Undecided"
    WINNER = "Winner"
    NO_WINNER = "NoWinner"


class ArmStanding(StrEnum):
    """Of one arm."""

    OPEN = "Open"
    HELD = "Held"
    WON = "Won"
    HOPELESS = "Hopeless"
    OUT = "Out"


@dataclass(frozen=True, slots=True)
class ArmInput:
    """An arm beside control.

    Attributes:
        name: as in the spec.
        guardrails: the verdict of each of its guardrails by the metric's name, as `verdicts.Verdict` has them; others have not passed.
        dropped: why it is out since an earlier look, in words; empty while it is in.
    """

    name: str
    guardrails: Mapping[str, str] = field(default_factory=dict)
    dropped: str = ""


@dataclass(frozen=True, slots=True)
class WinnerInputs:
    """What is known at one look.

    Attributes:
        metrics: the success metrics, as the plan has them.
        arms: those beside control, in the order of the epochs' shares after control's; dropped ones stay in their place.
        epochs: those of evidence, none while there is none.
        alpha: the error of each direction.
        broken: why the counts are not to be trusted, such as a split that is off; empty where they are.
        elapsed_s: seconds in which units were exposed, for what is expected of the future.
    """

    metrics: Sequence[OutcomeMetric]
    arms: Sequence[ArmInput]
    epochs: Sequence[OutcomeEpoch]
    alpha: float
    broken: str = ""
    elapsed_s: float = math.nan


@dataclass(frozen=True, slots=True)
class ArmDecision:
    """Where one arm stands, and why.

    Attributes:
        name: of the arm.
        standing: Won: it may be the winner. Held: a metric is better and something is missing, or counts are not trusted. Hopeless: no
            metric has an effect that is worth finding. Out: harm, or worse by a metric. Open: neither yet.
        reason: in words.
        findings: of each success metric, in the order of the plan.
    """

    name: str
    standing: ArmStanding
    reason: str
    findings: tuple[OutcomeFinding, ...]


@dataclass(frozen=True, slots=True)
class WinnerDecision:
    """What follows.

    Attributes:
        decision: whether somebody has won, nobody can, or neither is known.
        winner: the arm's name; empty without one.
        reason: in words.
        arms: each beside control, in order.
    """

    decision: Decision
    winner: str
    reason: str
    arms: tuple[ArmDecision, ...]


def parse_success_metrics(metrics: Sequence[SuccessMetric]) -> tuple[OutcomeMetric, ...]:
    """Success metrics of a spec, as they are judged."""
    return tuple(
        OutcomeMetric(
            each.name, each.type, each.goal, None if each.minimum_effect is None else parse_percent(each.minimum_effect)
        )
        for each in metrics
    )


def decide_winner(seen: WinnerInputs) -> WinnerDecision:
    """Who wins by what is known now. It may be asked as often as one likes."""
    epochs = seen.epochs or [_nothing(len(seen.metrics), len(seen.arms))]
    by_metric = outcome_test.evaluate_outcomes(seen.metrics, epochs, seen.alpha, elapsed_s=seen.elapsed_s)
    arms = tuple(
        _stand(arm, tuple(findings[index] for findings in by_metric), seen.broken)
        for index, arm in enumerate(seen.arms)
    )
    if seen.broken:
        return WinnerDecision(Decision.UNDECIDED, "", f"nothing is decided: {seen.broken}", arms)
    if won := [arm for arm in arms if arm.standing == ArmStanding.WON]:
        return _won(won, arms)
    if all(arm.standing in (ArmStanding.OUT, ArmStanding.HOPELESS) for arm in arms):
        return WinnerDecision(Decision.NO_WINNER, "", f"no arm can win any more: {_listed(arms)}", arms)
    if not seen.metrics:
        return WinnerDecision(Decision.UNDECIDED, "", "there is no success metric to win by", arms)
    return WinnerDecision(
        Decision.UNDECIDED, "", _listed([arm for arm in arms if arm.standing != ArmStanding.OUT]), arms
    )


def _nothing(metrics: int, arms: int) -> OutcomeEpoch:
    return OutcomeEpoch((1,) * (arms + 1), [[outcome_counts.OutcomeCounts()] * (arms + 1)] * metrics)


def _stand(arm: ArmInput, findings: tuple[OutcomeFinding, ...], broken: str) -> ArmDecision:
    standing, reason = _standing(arm, findings)
    if broken and not arm.dropped:
        standing, reason = ArmStanding.HELD, f"nothing is decided: {broken}"
    return ArmDecision(arm.name, standing, reason, findings)


def _standing(arm: ArmInput, findings: Sequence[OutcomeFinding]) -> tuple[ArmStanding, str]:
    """Where an arm stands, and why; what comes first goes before the rest."""
    by: dict[OutcomeVerdict, list[OutcomeFinding]] = {}
    for each in findings:
        by.setdefault(each.verdict, []).append(each)
    harmed = sorted(name for name, verdict in arm.guardrails.items() if verdict == MetricVerdict.HARM)
    waiting = sorted(name for name, verdict in arm.guardrails.items() if verdict != MetricVerdict.PASSED)
    told = [
        each.sentence(arm.name) for each in (by.get(OutcomeVerdict.WORSE) or by.get(OutcomeVerdict.BETTER) or findings)
    ]
    match by:
        case _ if arm.dropped:
            return ArmStanding.OUT, f"{arm.name} is out: {arm.dropped}"
        case _ if harmed:
            return ArmStanding.OUT, f"{arm.name} is out: {', '.join(harmed)} worse than its margin"
        case {OutcomeVerdict.WORSE: _}:
            return ArmStanding.OUT, f"{arm.name} is out: {told[0]}"
        case {OutcomeVerdict.BETTER: _} if missing := [
            *by.get(OutcomeVerdict.NO_DATA, ()),
            *by.get(OutcomeVerdict.INVALID, ()),
        ]:
            return ArmStanding.HELD, f"{told[0]}, but {missing[0].sentence(arm.name)}"
        case {OutcomeVerdict.BETTER: _} if waiting:
            return ArmStanding.HELD, f"{told[0]}, but {', '.join(waiting)} of {arm.name} not passed yet"
        case {OutcomeVerdict.BETTER: _}:
            return ArmStanding.WON, "; ".join(told)
        case {OutcomeVerdict.NO_EFFECT: few} if len(few) == len(findings):
            return ArmStanding.HOPELESS, told[0]
    return ArmStanding.OPEN, told[0] if told else f"{arm.name}: there is no success metric to win by"


def _won(won: Sequence[ArmDecision], arms: Sequence[ArmDecision]) -> WinnerDecision:
    places = range(len(won[0].findings))
    place = next(place for place in places if any(arm.findings[place].verdict == OutcomeVerdict.BETTER for arm in won))
    better = [arm for arm in won if arm.findings[place].verdict == OutcomeVerdict.BETTER]
    winner = max(better, key=lambda arm: _least(arm.findings[place]))
    bar = _least(winner.findings[place])
    near = [arm.name for arm in won if arm is not winner and not arm.findings[place].improvement[1] < bar]
    less = [arm.name for arm in won if arm is not winner and arm.name not in near]
    others = [arm for arm in arms if arm.standing in (ArmStanding.OPEN, ArmStanding.HELD)]
    reason = [winner.reason]
    if near:
        reason.append(f"better than control too, and not told from {winner.name}: {', '.join(near)}")
    if less:
        reason.append(f"better than control, and less so: {', '.join(less)}")
    if others:
        reason.append(f"not decided: {', '.join(arm.name for arm in others)}")
    return WinnerDecision(Decision.WINNER, winner.name, "; ".join(reason), tuple(arms))


def _least(finding: OutcomeFinding) -> float:
    """The lower end of an improvement; −∞ where it is not known."""
    least = finding.improvement[0]
    return -math.inf if math.isnan(least) else least


def _listed(arms: Sequence[ArmDecision]) -> str:
    """The first few arms' reasons, and how many there are beside."""
    told = "; ".join(arm.reason for arm in arms[:_TOLD_AT_ONCE])
    rest = len(arms) - _TOLD_AT_ONCE
    return f"{told}; and {rest} more" if rest > 0 else told
