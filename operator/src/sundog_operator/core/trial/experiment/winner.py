"""Winner of an experiment, or that no arm can win: the joint decision by success metrics and guardrails. Pure.

**An arm wins** when one of its success metrics is better than control's, none is worse, each has data, and every guardrail has passed.
Absence of harm does not suffice, because a bad arm must not win by lack of evidence. Success metrics and arms share α by the plan
(Bonferroni); dropped arms keep their share. So P(an arm that is better by no metric is ever declared the winner) ≤ α, at every evaluation
and under any dependence. Guardrails take nothing of α, because all of them have to pass.
Source: Schultzberg et al. (arXiv 2402.11609) for the roles.

That is the rule `anyMetric`. By `everyMetric` each success metric has to be better; fewer arms win, so the same bound holds. By `noHarm` an
arm wins when every guardrail has passed, among them one for each success metric, and none of these is worse. So P(an arm that is worse than
control by at least a margin in any of them is ever declared the winner) ≤ α.

e-BH would find more. But it bounds the share of false findings only at a single evaluation. It also needs the e-processes of all arms and
metrics to have a common filtration. Here they have none, because a unit's first outcome reveals the arm of its second.

**Of several winners** one is named: the one with the highest lower end of its improvement's interval, by the first success metric that any
of them is better by. The intervals hold together. So an arm whose upper end is below that lower end is known to be less good. The reason
names the others as not distinguishable. The decision does not wait for more.

**No arm wins** when each was dropped for harm, is worse by a metric, or has less effect than `minimumEffect` by every metric.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from sundog_operator.api import FeedbackMetric, WinRule, parse_percent
from sundog_operator.core.stats import outcome_comparison, outcome_counts
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.stats.outcome_counts import OutcomeEpoch, OutcomeMetric
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeVerdict

_MAX_LISTED_ARMS: Final = 3
"""Arms whose reasons a message lists."""


class Decision(StrEnum):
    """Decision on an experiment."""

    UNDECIDED = "Undecided"
    WINNER = "Winner"
    NO_WINNER = "NoWinner"


class ArmStanding(StrEnum):
    """Standing of one arm."""

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
        guardrails: the `MetricVerdict` of each guardrail as text, by metric name, outcomes included. Only those with `Passed` have passed.
        dropped: why an earlier evaluation dropped the arm, in words; empty for an active arm.
    """

    name: str
    guardrails: Mapping[str, str] = field(default_factory=dict)
    dropped: str = ""


@dataclass(frozen=True, slots=True)
class WinnerInputs:
    """Inputs of one evaluation.

    Attributes:
        metrics: the plan's success metrics.
        arms: the arms beside control, in the order of the epochs' shares; dropped ones keep their place.
        epochs: the epochs of evidence, with the outcomes of metrics from feedback; may be empty.
        alpha: the error of each direction.
        undecided_reason: why the counts allow no decision, such as a sample-ratio mismatch; empty where they do.
        elapsed_s: seconds in which units were exposed, to estimate durations.
        rule: the plan's rule for winning.
        of_edge: findings of the metrics of the edge, by name and arm. They share `alpha` already.
    """

    metrics: Sequence[OutcomeMetric]
    arms: Sequence[ArmInput]
    epochs: Sequence[OutcomeEpoch]
    alpha: float
    undecided_reason: str = ""
    elapsed_s: float = math.nan
    rule: WinRule = "anyMetric"
    of_edge: Mapping[str, Sequence[OutcomeFinding]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ArmDecision:
    """Standing of one arm, and the reason.

    Attributes:
        name: name of the arm.
        standing: Won: it may be the winner. Held: its metrics suffice, but something is missing or the counts are invalid. Hopeless: too
            few metrics have an effect worth finding. Out: harm, or worse by a metric. Open: none of these.
        reason: the reason in words.
        findings: the finding of each success metric, in the order of the plan.
    """

    name: str
    standing: ArmStanding
    reason: str
    findings: tuple[OutcomeFinding, ...]


@dataclass(frozen=True, slots=True)
class WinnerDecision:
    """Decision of one evaluation.

    Attributes:
        decision: whether an arm has won, none can win, or neither.
        winner: name of the winning arm; empty without one.
        reason: the reason in words.
        arms: the arms beside control, in order.
    """

    decision: Decision
    winner: str
    reason: str
    arms: tuple[ArmDecision, ...]


def parse_success_metrics(metrics: Sequence[FeedbackMetric]) -> tuple[OutcomeMetric, ...]:
    """Return a spec's success metrics as they are tested."""
    return tuple(
        OutcomeMetric(
            each.status_name,
            each.type,
            each.goal,
            None if each.minimum_effect is None else parse_percent(each.minimum_effect),
            adjusted=each.covariate is not None,
            counted="units" if each.metric is None else "events",
            by_units=each.metric is None and each.type == "rate",
        )
        for each in metrics
    )


def _evaluate_metrics(inputs: WinnerInputs) -> list[Sequence[OutcomeFinding]]:
    """Return the findings of each metric by arm, in the order of the plan."""
    outcomes = [each for each in inputs.metrics if each.name not in inputs.of_edge]
    found = iter(
        outcome_comparison.evaluate_outcomes(
            outcomes,
            inputs.epochs or [_empty_epoch(len(outcomes), len(inputs.arms))],
            inputs.alpha,
            tests=len(inputs.metrics) * len(inputs.arms),
            elapsed_s=inputs.elapsed_s,
        )
    )
    return [inputs.of_edge[each.name] if each.name in inputs.of_edge else next(found) for each in inputs.metrics]


def decide_winner(inputs: WinnerInputs) -> WinnerDecision:
    """Decide who wins by the present data. Any number of evaluations is allowed."""
    by_metric = _evaluate_metrics(inputs)
    arms = tuple(
        _decide_arm(arm, tuple(findings[index] for findings in by_metric), inputs)
        for index, arm in enumerate(inputs.arms)
    )
    if inputs.undecided_reason:
        return WinnerDecision(Decision.UNDECIDED, "", f"nothing is decided: {inputs.undecided_reason}", arms)
    if won := [arm for arm in arms if arm.standing == ArmStanding.WON]:
        return _choose_winner(won, arms, inputs.rule)
    if all(arm.standing in (ArmStanding.OUT, ArmStanding.HOPELESS) for arm in arms):
        return WinnerDecision(Decision.NO_WINNER, "", f"no arm can win any more: {_list_reasons(arms)}", arms)
    if not inputs.metrics:
        return WinnerDecision(Decision.UNDECIDED, "", "the plan has no success metric", arms)
    return WinnerDecision(
        Decision.UNDECIDED, "", _list_reasons([arm for arm in arms if arm.standing != ArmStanding.OUT]), arms
    )


def _empty_epoch(metrics: int, arms: int) -> OutcomeEpoch:
    return OutcomeEpoch((1,) * (arms + 1), [[outcome_counts.OutcomeCounts()] * (arms + 1)] * metrics)


def _decide_arm(arm: ArmInput, findings: tuple[OutcomeFinding, ...], inputs: WinnerInputs) -> ArmDecision:
    standing, reason = _standing(arm, findings, inputs.rule)
    if inputs.undecided_reason and not arm.dropped:
        standing, reason = ArmStanding.HELD, f"nothing is decided: {inputs.undecided_reason}"
    return ArmDecision(arm.name, standing, reason, findings)


def _standing(arm: ArmInput, findings: Sequence[OutcomeFinding], rule: WinRule) -> tuple[ArmStanding, str]:
    """Return an arm's standing and the reason; earlier cases win."""
    by: dict[OutcomeVerdict, list[OutcomeFinding]] = {}
    for each in findings:
        by.setdefault(each.verdict, []).append(each)
    waiting = sorted(name for name, verdict in arm.guardrails.items() if verdict != MetricVerdict.PASSED)
    if exclusion := _find_exclusion(arm, by.get(OutcomeVerdict.WORSE, ())):
        return ArmStanding.OUT, exclusion
    if rule == "noHarm":
        return _no_harm_standing(arm, waiting, _without_counts(by))
    if rule == "everyMetric" and (rest := [each for each in findings if each.verdict != OutcomeVerdict.BETTER]):
        without_effect = by.get(OutcomeVerdict.NO_EFFECT, ())
        return (
            ArmStanding.HOPELESS if without_effect else ArmStanding.OPEN,
            [*without_effect, *rest][0].sentence(arm.name),
        )
    sentences = [each.sentence(arm.name) for each in (by.get(OutcomeVerdict.BETTER) or findings)]
    match by:
        case {OutcomeVerdict.BETTER: _} if missing := _without_counts(by):
            return ArmStanding.HELD, f"{sentences[0]}, but {missing[0].sentence(arm.name)}"
        case {OutcomeVerdict.BETTER: _} if waiting:
            return ArmStanding.HELD, f"{sentences[0]}; waits for {', '.join(waiting)} of {arm.name} to pass"
        case {OutcomeVerdict.BETTER: _}:
            return ArmStanding.WON, "; ".join(sentences)
        case {OutcomeVerdict.NO_EFFECT: few} if len(few) == len(findings):
            return ArmStanding.HOPELESS, sentences[0]
    return ArmStanding.OPEN, sentences[0] if sentences else f"{arm.name}: the plan has no success metric"


def _find_exclusion(arm: ArmInput, worse: Sequence[OutcomeFinding]) -> str:
    """Return why an arm cannot win, whatever the rule; empty if it can. `worse` are the metrics by which it is worse."""
    if arm.dropped:
        return f"{arm.name} was dropped: {arm.dropped}"
    if harmed := sorted(name for name, verdict in arm.guardrails.items() if verdict == MetricVerdict.HARM):
        return f"{arm.name} cannot win: {', '.join(harmed)} worse than its margin"
    return f"{arm.name} cannot win: {worse[0].sentence(arm.name)}" if worse else ""


def _without_counts(by: Mapping[OutcomeVerdict, Sequence[OutcomeFinding]]) -> list[OutcomeFinding]:
    """Return the findings without data or with invalid counts; while there are any, no arm wins."""
    return [*by.get(OutcomeVerdict.NO_DATA, ()), *by.get(OutcomeVerdict.INVALID, ())]


def _no_harm_standing(
    arm: ArmInput, waiting: Sequence[str], missing: Sequence[OutcomeFinding]
) -> tuple[ArmStanding, str]:
    """Return the standing of an arm without harm.

    Args:
        arm: an arm that is worse by no metric.
        waiting: the guardrails that have not passed.
        missing: findings of success metrics that have no usable counts.
    """
    if waiting or not arm.guardrails:
        return ArmStanding.OPEN, f"{arm.name} waits for {', '.join(waiting) or 'its guardrails'} to pass"
    if missing:
        return ArmStanding.HELD, f"{', '.join(sorted(arm.guardrails))} passed, but {missing[0].sentence(arm.name)}"
    return ArmStanding.WON, f"{arm.name} does no harm: {', '.join(sorted(arm.guardrails))} passed"


def _choose_winner(won: Sequence[ArmDecision], arms: Sequence[ArmDecision], rule: WinRule) -> WinnerDecision:
    """Return the decision for the best of the arms that may win; the reason names the other arms."""
    indices = range(len(won[0].findings))
    better_by = (index for index in indices if any(arm.findings[index].verdict == OutcomeVerdict.BETTER for arm in won))
    # Without harm, an arm may win that is better by no metric; then the first metric decides.
    index = next(better_by, 0)
    better = [arm for arm in won if arm.findings[index].verdict == OutcomeVerdict.BETTER] or won
    merit = "without harm" if rule == "noHarm" else "better than control"
    winner = max(better, key=lambda arm: _lower_improvement(arm.findings[index]))
    bar = _lower_improvement(winner.findings[index])
    near = [arm.name for arm in won if arm is not winner and not arm.findings[index].improvement[1] < bar]
    less = [arm.name for arm in won if arm is not winner and arm.name not in near]
    others = [arm for arm in arms if arm.standing in (ArmStanding.OPEN, ArmStanding.HELD)]
    reason = [winner.reason]
    if near:
        reason.append(f"also {merit}, not distinguishable from {winner.name}: {', '.join(near)}")
    if less:
        reason.append(f"{merit}, but less {'good ' if rule == 'noHarm' else ''}than {winner.name}: {', '.join(less)}")
    if others:
        reason.append(f"undecided: {', '.join(arm.name for arm in others)}")
    return WinnerDecision(Decision.WINNER, winner.name, "; ".join(reason), tuple(arms))


def find_leader(arms: Sequence[ArmDecision]) -> str:
    """Return the arm with the highest lower end of its improvement by the first success metric; empty where no arm leads.

    No arm leads while no interval is known, while none does better than control, or while two are level.
    """
    open_arms = [arm for arm in arms if arm.standing != ArmStanding.OUT and arm.findings]
    ends = {arm.name: _lower_improvement(arm.findings[0]) for arm in open_arms if _does_better(arm.findings[0])}
    first = [name for name, end in ends.items() if end == max(ends.values()) > -math.inf]
    return first[0] if len(first) == 1 else ""


def _does_better(finding: OutcomeFinding) -> bool:
    """Return whether the estimate is better than control's, whatever its certainty; never where its counts allow no verdict."""
    return not finding.held and (finding.uplift > 0 if finding.metric.goal == "increase" else finding.uplift < 0)


def _lower_improvement(finding: OutcomeFinding) -> float:
    """Return the lower end of an improvement; −∞ where unknown."""
    least = finding.improvement[0]
    return -math.inf if math.isnan(least) else least


def _list_reasons(arms: Sequence[ArmDecision]) -> str:
    """Return the first few arms' reasons, and the number of the others."""
    reasons = "; ".join(arm.reason for arm in arms[:_MAX_LISTED_ARMS])
    rest = len(arms) - _MAX_LISTED_ARMS
    return f"{reasons}; and {rest} more" if rest > 0 else reasons
