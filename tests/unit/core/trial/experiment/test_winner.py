"""Winner of an experiment: metrics and guardrails together, several winners, and none."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sundog_operator.api import FeedbackMetric, WinRule
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeEpoch, OutcomeMetric
from sundog_operator.core.trial.experiment import winner
from sundog_operator.core.trial.experiment.winner import ArmInput, ArmStanding, Decision, WinnerDecision, WinnerInputs

CONVERSION = OutcomeMetric("conversion", minimum_effect=0.02)
REFUNDS = OutcomeMetric("refunds", goal="decrease", minimum_effect=0.1)
PASSED = {"errorRate": "Passed", "latencyP99": "Passed"}
N = 10_000


def of(exposed: int, positive: int) -> OutcomeCounts:
    return OutcomeCounts(exposed, positive, positive, positive, positive)


def decide(
    *arms: tuple[int, int],
    control: tuple[int, int] = (1000, 500),
    guardrails: Sequence[dict[str, str]] = (),
    undecided_reason: str = "",
    dropped: str = "",
    n: int = N,
    rule: WinRule = "anyMetric",
) -> WinnerDecision:
    """Return the decision, given conversions and refunds of each arm; `dropped` is about the first arm."""
    rows = [[of(n, each[metric]) for each in (control, *arms)] for metric in (0, 1)]
    given = [*guardrails, *[PASSED] * len(arms)][: len(arms)]
    named = [
        ArmInput(name, own, dropped if name == "wide" else "")
        for name, own in zip(("wide", "deep", "odd"), given, strict=False)
    ]
    return winner.decide_winner(
        WinnerInputs(
            (CONVERSION, REFUNDS),
            named,
            [OutcomeEpoch((1,) * len(rows[0]), rows)],
            0.05,
            undecided_reason,
            elapsed_s=3600,
            rule=rule,
        )
    )


def standings(decision: WinnerDecision) -> list[ArmStanding]:
    return [arm.standing for arm in decision.arms]


def test_an_arm_that_is_better_wins() -> None:
    decision = decide((1300, 500))
    assert (decision.decision, decision.winner) == (Decision.WINNER, "wide")
    assert decision.reason.startswith("conversion of wide is 30 % above control's (")
    assert standings(decision) == [ArmStanding.WON]


@pytest.mark.parametrize(
    ("arm", "standing", "reason"),
    [
        ((1300, 300), ArmStanding.WON, "conversion of wide is 30 % above control's ("),
        ((1300, 500), ArmStanding.OPEN, "refunds of wide is "),
        ((1000, 300), ArmStanding.OPEN, "conversion of wide is "),
        ((700, 300), ArmStanding.OUT, "wide cannot win: conversion of wide is "),
    ],
)
def test_by_every_metric_an_arm_wins_that_is_better_by_each(
    arm: tuple[int, int], standing: ArmStanding, reason: str
) -> None:
    decision = decide(arm, rule="everyMetric")
    assert standings(decision) == [standing]
    assert decision.arms[0].reason.startswith(reason)
    assert decision.winner == ("wide" if standing == ArmStanding.WON else "")


def test_by_every_metric_one_without_an_effect_ends_it() -> None:
    decision = decide((130_000, 50_000), control=(100_000, 50_000), n=1_000_000, rule="everyMetric")
    assert (decision.decision, standings(decision)) == (Decision.NO_WINNER, [ArmStanding.HOPELESS])
    assert decision.arms[0].reason.startswith("refunds of wide is ")
    waiting = decide((1300, 300), guardrails=[{"errorRate": "Undecided"}], rule="everyMetric")
    assert standings(waiting) == [ArmStanding.HELD]


@pytest.mark.parametrize(
    ("guardrails", "arm", "standing"),
    [
        (PASSED, (1000, 500), ArmStanding.WON),
        (PASSED, (1300, 500), ArmStanding.WON),
        ({**PASSED, "errorRate": "Undecided"}, (1300, 500), ArmStanding.OPEN),
        ({**PASSED, "errorRate": "Harm"}, (1300, 500), ArmStanding.OUT),
        (PASSED, (700, 500), ArmStanding.OUT),
        ({}, (1300, 500), ArmStanding.OPEN),
    ],
)
def test_without_harm_an_arm_wins_whose_guardrails_have_passed(
    guardrails: dict[str, str], arm: tuple[int, int], standing: ArmStanding
) -> None:
    decision = decide(arm, guardrails=[guardrails], rule="noHarm")
    assert standings(decision) == [standing]
    assert decision.winner == ("wide" if standing == ArmStanding.WON else "")


@pytest.mark.parametrize("counts", [OutcomeCounts(), of(10, 20)], ids=["NoData", "Invalid"])
def test_without_harm_no_arm_wins_before_each_success_metric_has_counts(counts: OutcomeCounts) -> None:
    rows = [[counts] * 2, [of(N, 500)] * 2]
    decision = winner.decide_winner(
        WinnerInputs(
            (CONVERSION, REFUNDS), [ArmInput("wide", PASSED)], [OutcomeEpoch((1, 1), rows)], 0.05, rule="noHarm"
        )
    )
    assert (decision.winner, standings(decision)) == ("", [ArmStanding.HELD])
    assert decision.reason.startswith("errorRate, latencyP99 passed, but conversion")


def test_of_several_arms_without_harm_the_best_one_is_named() -> None:
    decision = decide((1000, 500), (1010, 500), rule="noHarm")
    assert decision.winner == "deep"
    assert decision.reason == (
        "deep does no harm: errorRate, latencyP99 passed; also without harm, not distinguishable from deep: wide"
    )
    better = decide((1000, 500), (1300, 500), rule="noHarm")
    assert (better.winner, standings(better)) == ("deep", [ArmStanding.WON, ArmStanding.WON])


def test_better_by_any_metric_suffices() -> None:
    decision = decide((1000, 300))
    assert (decision.decision, decision.winner) == (Decision.WINNER, "wide")
    assert "refunds of wide is 40 % below control's" in decision.reason


def test_no_arm_wins_without_evidence() -> None:
    decision = decide((1020, 500), (1000, 490))
    assert (decision.decision, decision.winner) == (Decision.UNDECIDED, "")
    assert standings(decision) == [ArmStanding.OPEN] * 2
    assert "conversion of wide is 2 % above control's" in decision.reason
    assert "conversion of deep is 0 % above control's" in decision.reason


def test_without_counts() -> None:
    decision = winner.decide_winner(WinnerInputs((CONVERSION,), [ArmInput("wide")], [], 0.05))
    assert (decision.decision, decision.reason) == (Decision.UNDECIDED, "conversion of wide: nothing was counted yet")


def test_an_arm_that_is_worse_by_one_metric_cannot_win() -> None:
    decision = decide((1300, 800))
    assert decision.decision == Decision.NO_WINNER
    assert decision.reason.startswith(
        "no arm can win any more: wide cannot win: refunds of wide is 60 % above control's ("
    )


@pytest.mark.parametrize("verdict", ["Undecided", "NoData", "Heterogeneous", "Suspended", "Invalid", ""])
def test_a_winner_has_passed_every_guardrail(verdict: str) -> None:
    decision = decide((1300, 500), guardrails=[{**PASSED, "errorRate": verdict}])
    assert (decision.decision, decision.winner) == (Decision.UNDECIDED, "")
    assert standings(decision) == [ArmStanding.HELD]
    assert decision.reason.endswith(": better; waits for errorRate of wide to pass")


def test_harm_drops_an_arm() -> None:
    decision = decide((1300, 500), (1000, 500), guardrails=[{**PASSED, "errorRate": "Harm"}])
    assert (decision.decision, decision.winner) == (Decision.UNDECIDED, "")
    assert standings(decision) == [ArmStanding.OUT, ArmStanding.OPEN]
    assert decision.arms[0].reason == "wide cannot win: errorRate worse than its margin"


def test_a_dropped_arm_cannot_win() -> None:
    decision = decide((1300, 500), dropped="errorRate was 3 times control's")
    assert decision.decision == Decision.NO_WINNER
    assert decision.reason == "no arm can win any more: wide was dropped: errorRate was 3 times control's"


def test_broken_counts_decide_nothing() -> None:
    for arms in ([(1300, 500)], [(700, 500)]):
        decision = decide(*arms, undecided_reason="units do not fall to the arms by their weights")
        assert (decision.decision, decision.winner) == (Decision.UNDECIDED, "")
        assert decision.reason == "nothing is decided: units do not fall to the arms by their weights"
        assert standings(decision) == [ArmStanding.HELD]


def test_a_metric_without_data_delays_a_winner() -> None:
    rows = [[of(N, 1000), of(N, 1300)], [OutcomeCounts(-1), OutcomeCounts()]]
    decision = winner.decide_winner(
        WinnerInputs((CONVERSION, REFUNDS), [ArmInput("wide", PASSED)], [OutcomeEpoch((1, 1), rows)], 0.05)
    )
    assert standings(decision) == [ArmStanding.HELD]
    assert decision.reason.endswith("but refunds of wide: the counters are invalid")


def test_the_best_lower_end_wins() -> None:
    near = decide((1300, 500), (1330, 500), (1000, 500))
    assert near.winner == "deep"
    assert near.reason.endswith("also better than control, not distinguishable from deep: wide; undecided: odd")
    far = decide((1300, 500), (2500, 500), (600, 500))
    assert far.winner == "deep"
    assert far.reason.endswith("better than control, but less than deep: wide")
    assert standings(far) == [ArmStanding.WON, ArmStanding.WON, ArmStanding.OUT]


def test_the_first_metric_goes_before_the_second() -> None:
    decision = decide((1000, 100), (1300, 500))
    assert decision.winner == "deep"
    assert "not distinguishable from deep: wide" in decision.reason


def test_an_arm_without_an_effect_cannot_win() -> None:
    decision = decide((100_100, 50_000), (60_000, 50_000), control=(100_000, 50_000), n=10**6)
    assert decision.decision == Decision.NO_WINNER
    assert standings(decision) == [ArmStanding.HOPELESS, ArmStanding.OUT]
    assert "less than the minimum effect of 2 %" in decision.reason


def test_an_effect_that_is_too_small_by_one_metric_may_be_found_by_another() -> None:
    decision = decide((100_100, 50_100), control=(100_000, 50_000), n=1_000_000)
    assert standings(decision) == [ArmStanding.HOPELESS]
    decision = decide((100_100, 48), control=(100_000, 50), n=1_000_000)
    assert standings(decision) == [ArmStanding.OPEN]
    decision = decide((100_100, 46_500), control=(100_000, 50_000), n=1_000_000)
    assert decision.winner == "wide"


def test_without_success_metrics_no_arm_wins() -> None:
    decision = winner.decide_winner(WinnerInputs((), [ArmInput("wide", PASSED)], [OutcomeEpoch((1, 1), [])], 0.05))
    assert (decision.decision, decision.reason) == (Decision.UNDECIDED, "the plan has no success metric")
    harmed = winner.decide_winner(
        WinnerInputs((), [ArmInput("wide", {"errorRate": "Harm"})], [OutcomeEpoch((1, 1), [])], 0.05)
    )
    assert harmed.decision == Decision.NO_WINNER


def test_the_reason_lists_few_of_nine_arms() -> None:
    arms = [ArmInput(f"arm{number}", PASSED) for number in range(9)]
    rows = [[of(N, 1000)] * 10]
    decision = winner.decide_winner(WinnerInputs((CONVERSION,), arms, [OutcomeEpoch((1,) * 10, rows)], 0.05))
    assert decision.reason.endswith("; and 6 more")


def test_metrics_of_a_spec() -> None:
    given = (
        FeedbackMetric(name="conversion", feedback="converted", minimum_effect="2%"),
        FeedbackMetric(name="spent", feedback="spent", type="mean", goal="decrease"),
    )
    assert winner.parse_success_metrics(given) == (
        replace(CONVERSION, by_units=True),
        OutcomeMetric("spent", "mean", "decrease"),
    )


@pytest.mark.parametrize(
    ("arms", "leader"),
    [
        ([(1020, 500), (1040, 500)], "deep"),
        # A leader needs no proof, but an estimate that is better than control's.
        ([(1001, 500)], "wide"),
        ([(1000, 500), (990, 500)], ""),
        ([(1040, 500), (1040, 500)], ""),
        # By the first metric alone.
        ([(1040, 500), (1020, 450)], "wide"),
        # An arm that is known to be worse by another metric leads no more.
        ([(1300, 800), (1040, 500)], "deep"),
    ],
)
def test_the_arm_with_the_best_lower_end_leads(arms: list[tuple[int, int]], leader: str) -> None:
    assert winner.find_leader(decide(*arms).arms) == leader


def test_no_arm_leads_without_data_or_after_it_was_dropped() -> None:
    nothing = winner.decide_winner(WinnerInputs((CONVERSION,), [ArmInput("wide")], [], 0.05))
    assert winner.find_leader(nothing.arms) == ""
    assert winner.find_leader(decide((1040, 500), (1020, 500), dropped="ArmUnavailable: gone").arms) == "deep"
    assert winner.find_leader(winner.decide_winner(WinnerInputs((), [ArmInput("wide")], [], 0.05)).arms) == ""


def test_fewer_is_better_where_the_goal_is_to_decrease() -> None:
    rows = [[of(N, 500), of(N, 490), of(N, 470), of(N, 530)]]
    arms = [ArmInput(name, PASSED) for name in ("wide", "deep", "odd")]
    decision = winner.decide_winner(WinnerInputs((REFUNDS,), arms, [OutcomeEpoch((1, 1, 1, 1), rows)], 0.05))
    assert winner.find_leader(decision.arms) == "deep"
