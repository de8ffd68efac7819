"""Who wins an experiment: metrics and guardrails together, several winners, and nobody."""

from collections.abc import Sequence

import pytest

from sundog_operator.api import SuccessMetric
from sundog_operator.core.experiments import winner
from sundog_operator.core.experiments.winner import ArmInput, ArmStanding, Decision, WinnerDecision, WinnerInputs
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeEpoch, OutcomeMetric

CONVERSION = OutcomeMetric("conversion", minimum_effect=0.02)
REFUNDS = OutcomeMetric("refunds", goal="decrease", minimum_effect=0.1)
PASSED = {"errorRate": "Passed", "latencyP99": "Passed"}
N = 10_000


def of(exposed: int, positive: int) -> OutcomeCounts:
    return OutcomeCounts(exposed, positive, positive, positive, positive)


def decided(
    *arms: tuple[int, int],
    control: tuple[int, int] = (1000, 500),
    guardrails: Sequence[dict[str, str]] = (),
    broken: str = "",
    dropped: str = "",
    n: int = N,
) -> WinnerDecision:
    """With conversions and refunds of each arm; `dropped` is about the first one."""
    rows = [[of(n, each[metric]) for each in (control, *arms)] for metric in (0, 1)]
    given = [*guardrails, *[PASSED] * len(arms)][: len(arms)]
    named = [
        ArmInput(name, own, dropped if name == "wide" else "")
        for name, own in zip(("wide", "deep", "odd"), given, strict=False)
    ]
    return winner.decide_winner(
        WinnerInputs(
            (CONVERSION, REFUNDS), named, [OutcomeEpoch((1,) * len(rows[0]), rows)], 0.05, broken, elapsed_s=3600
        )
    )


def standings(told: WinnerDecision) -> list[ArmStanding]:
    return [arm.standing for arm in told.arms]


def test_an_arm_that_is_better_wins() -> None:
    told = decided((1300, 500))
    assert (told.decision, told.winner) == (Decision.WINNER, "wide")
    assert told.reason.startswith("conversion of wide is 30 % above control's (")
    assert standings(told) == [ArmStanding.WON]


def test_better_by_any_metric_is_enough() -> None:
    told = decided((1000, 300))
    assert (told.decision, told.winner) == (Decision.WINNER, "wide")
    assert "refunds of wide is 40 % below control's" in told.reason


def test_nobody_wins_before_there_is_evidence() -> None:
    told = decided((1020, 500), (1000, 490))
    assert (told.decision, told.winner) == (Decision.UNDECIDED, "")
    assert standings(told) == [ArmStanding.OPEN] * 2
    assert "conversion of wide is 2 % above control's" in told.reason
    assert "conversion of deep is 0 % above control's" in told.reason


def test_without_anything_counted() -> None:
    told = winner.decide_winner(WinnerInputs((CONVERSION,), [ArmInput("wide")], [], 0.05))
    assert (told.decision, told.reason) == (Decision.UNDECIDED, "conversion: nothing was counted yet")


def test_better_by_one_metric_and_worse_by_another_is_out() -> None:
    told = decided((1300, 800))
    assert told.decision == Decision.NO_WINNER
    assert told.reason.startswith("no arm can win any more: wide cannot win: refunds of wide is 60 % above control's (")


@pytest.mark.parametrize("verdict", ["Undecided", "NoData", "Heterogeneous", "Suspended", "Invalid", ""])
def test_a_winner_has_passed_every_guardrail(verdict: str) -> None:
    told = decided((1300, 500), guardrails=[{**PASSED, "errorRate": verdict}])
    assert (told.decision, told.winner) == (Decision.UNDECIDED, "")
    assert standings(told) == [ArmStanding.HELD]
    assert told.reason.endswith(": better; waits for errorRate of wide to pass")


def test_harm_drops_an_arm() -> None:
    told = decided((1300, 500), (1000, 500), guardrails=[{**PASSED, "errorRate": "Harm"}])
    assert (told.decision, told.winner) == (Decision.UNDECIDED, "")
    assert standings(told) == [ArmStanding.OUT, ArmStanding.OPEN]
    assert told.arms[0].reason == "wide cannot win: errorRate worse than its margin"


def test_what_was_dropped_stays_out() -> None:
    told = decided((1300, 500), dropped="errorRate was 3 times control's")
    assert told.decision == Decision.NO_WINNER
    assert told.reason == "no arm can win any more: wide was dropped: errorRate was 3 times control's"


def test_broken_counts_decide_nothing() -> None:
    for arms in ([(1300, 500)], [(700, 500)]):
        told = decided(*arms, broken="units do not fall to the arms by their weights")
        assert (told.decision, told.winner) == (Decision.UNDECIDED, "")
        assert told.reason == "nothing is decided: units do not fall to the arms by their weights"
        assert standings(told) == [ArmStanding.HELD]


def test_a_metric_without_data_holds_up_a_winner() -> None:
    rows = [[of(N, 1000), of(N, 1300)], [OutcomeCounts(-1), OutcomeCounts()]]
    told = winner.decide_winner(
        WinnerInputs((CONVERSION, REFUNDS), [ArmInput("wide", PASSED)], [OutcomeEpoch((1, 1), rows)], 0.05)
    )
    assert standings(told) == [ArmStanding.HELD]
    assert told.reason.endswith("but refunds: the counters are invalid")


def test_of_several_winners_the_surest_is_named() -> None:
    near = decided((1300, 500), (1330, 500), (1000, 500))
    assert near.winner == "deep"
    assert near.reason.endswith("also better than control, not distinguishable from deep: wide; undecided: odd")
    far = decided((1300, 500), (2500, 500), (600, 500))
    assert far.winner == "deep"
    assert far.reason.endswith("better than control, but less than deep: wide")
    assert standings(far) == [ArmStanding.WON, ArmStanding.WON, ArmStanding.OUT]


def test_the_first_metric_goes_before_the_second() -> None:
    told = decided((1000, 100), (1300, 500))
    assert told.winner == "deep"
    assert "not distinguishable from deep: wide" in told.reason


def test_who_can_win_no_more() -> None:
    told = decided((100_100, 50_000), (60_000, 50_000), control=(100_000, 50_000), n=10**6)
    assert told.decision == Decision.NO_WINNER
    assert standings(told) == [ArmStanding.HOPELESS, ArmStanding.OUT]
    assert "less than the minimum effect of 2 %" in told.reason


def test_an_effect_that_is_too_small_by_one_metric_may_be_found_by_another() -> None:
    told = decided((100_100, 50_100), control=(100_000, 50_000), n=1_000_000)
    assert standings(told) == [ArmStanding.HOPELESS]
    told = decided((100_100, 48), control=(100_000, 50), n=1_000_000)
    assert standings(told) == [ArmStanding.OPEN]
    told = decided((100_100, 46_500), control=(100_000, 50_000), n=1_000_000)
    assert told.winner == "wide"


def test_without_success_metrics_nobody_wins() -> None:
    told = winner.decide_winner(WinnerInputs((), [ArmInput("wide", PASSED)], [OutcomeEpoch((1, 1), [])], 0.05))
    assert (told.decision, told.reason) == (Decision.UNDECIDED, "the plan has no success metric")
    harmed = winner.decide_winner(
        WinnerInputs((), [ArmInput("wide", {"errorRate": "Harm"})], [OutcomeEpoch((1, 1), [])], 0.05)
    )
    assert harmed.decision == Decision.NO_WINNER


def test_nine_arms_are_told_briefly() -> None:
    arms = [ArmInput(f"arm{number}", PASSED) for number in range(9)]
    rows = [[of(N, 1000)] * 10]
    told = winner.decide_winner(WinnerInputs((CONVERSION,), arms, [OutcomeEpoch((1,) * 10, rows)], 0.05))
    assert told.reason.endswith("; and 6 more")


def test_metrics_of_a_spec() -> None:
    given = (
        SuccessMetric(name="conversion", feedback="converted", minimum_effect="2%"),
        SuccessMetric(name="spent", feedback="spent", type="mean", goal="decrease"),
    )
    assert winner.parse_success_metrics(given) == (CONVERSION, OutcomeMetric("spent", "mean", "decrease"))
