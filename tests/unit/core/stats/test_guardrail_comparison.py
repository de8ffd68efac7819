"""Plain counts of many metrics have the same findings as each metric alone."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sundog_operator.core.stats import guardrail_comparison
from sundog_operator.core.stats.findings import DecisionBasis, MetricFinding, MetricVerdict
from sundog_operator.core.stats.guardrail_comparison import EpochCounts, ErrorLevels, GuardrailMetric

ERRORS = GuardrailMetric(margin=0.25, floor=0.01, next_weight=0.5)
SLOW = GuardrailMetric(margin=0.0, floor=0.0, next_weight=0.5)
LENGTHS = (60, 20, 10)


def evaluate_pooled(*given: Any) -> list[MetricFinding]:
    """Evaluate as Experiments do."""
    return guardrail_comparison.evaluate_counts(*given, newest_alone=False)


def evaluate_newest(*given: Any) -> list[MetricFinding]:
    """Evaluate as rollouts do."""
    return guardrail_comparison.evaluate_counts(*given, newest_alone=True)


def even(control: int, treatment: int) -> list[tuple[int, ...]]:
    """Return blocks of each length with evenly spread events, given the events of each shortest block."""
    found: list[tuple[int, ...]] = []
    for closed in LENGTHS:
        x, s = treatment * 60 // closed, (control + treatment) * 60 // closed
        found.append((closed, closed * x, closed * s, closed * x * x, closed * x * s, closed * s * s))
    return found


def epoch(weight: float, *per_block: tuple[int, int], requests: int = 300) -> EpochCounts:
    """Return ten minutes with the given events of control and the treatment, for each metric, in each ten seconds."""
    units = round(60 * requests * (1 - weight)), round(60 * requests * weight)
    return EpochCounts(weight, units, [(60 * a, 60 * b) for a, b in per_block], [even(*each) for each in per_block])


def test_without_an_epoch_there_is_no_data() -> None:
    found = evaluate_pooled([ERRORS, SLOW], [], ErrorLevels(0.05))
    assert [each.verdict for each in found] == [MetricVerdict.NO_DATA] * 2
    assert evaluate_pooled([], [], ErrorLevels(0.05)) == []


def test_metrics_keep_their_order_and_their_own_limits() -> None:
    epochs = [epoch(0.25, (3, 1), (9, 1), (3, 1))]
    found = evaluate_pooled(
        [replace(ERRORS, margin=0.1, floor=0.0), SLOW, replace(ERRORS, margin=0.5)], epochs, ErrorLevels(0.05)
    )
    assert [each.allowed for each in found] == [1.2, 1.0, 2.0]
    assert [each.ratio for each in found] == [pytest.approx(1), pytest.approx(1 / 3), pytest.approx(1)]
    assert [each.verdict for each in found] == [MetricVerdict.UNDECIDED, MetricVerdict.PASSED, MetricVerdict.PASSED]


def test_a_gate_of_the_newest_epoch_ignores_older_ones() -> None:
    epochs = [epoch(0.1, (30, 2)), epoch(0.25, (3, 1))]
    last = replace(ERRORS, floor=0.0, next_weight=1.0)
    assert evaluate_pooled([last], epochs, ErrorLevels(0.05))[0].verdict == MetricVerdict.PASSED
    assert evaluate_newest([last], epochs, ErrorLevels(0.05))[0].verdict == MetricVerdict.UNDECIDED


def test_a_floor_is_tested_on_the_newest_epoch_alone() -> None:
    """Over both epochs the treatment has half of control's rate, but in neither epoch a lower one."""
    metric = replace(ERRORS, margin=0.1, floor=0.005)
    before, newest = epoch(0.1, (45, 5), requests=100), epoch(0.5, (15, 18))
    rates = [
        sum(each.events[0][arm] for each in (before, newest)) / sum(each.requests[arm] for each in (before, newest))
        for arm in (0, 1)
    ]
    assert rates[1] < 0.6 * rates[0]
    assert evaluate_pooled([metric], [newest], ErrorLevels(0.05))[0].verdict == MetricVerdict.UNDECIDED
    assert evaluate_pooled([metric], [before, newest], ErrorLevels(0.05))[0].verdict == MetricVerdict.UNDECIDED


def test_a_floor_waits_for_the_newest_epochs_dispersion() -> None:
    metric = replace(ERRORS, margin=0.1)
    closed = [(11,) + (0,) * 5, (3,) + (0,) * 5, (1,) + (0,) * 5]
    young = EpochCounts(0.5, (50_000, 50_000), [(0, 0)], [closed])
    assert (
        evaluate_pooled([metric], [epoch(0.1, (0, 0)), young], ErrorLevels(0.05))[0].verdict == MetricVerdict.UNDECIDED
    )
    older = replace(young, blocks=[[(12,) + (0,) * 5, *closed[1:]]])
    assert (
        evaluate_pooled([metric], [epoch(0.1, (0, 0)), older], ErrorLevels(0.05))[0].verdict == MetricVerdict.UNDECIDED
    )
    old = replace(young, blocks=[[(13,) + (0,) * 5, (4,) + (0,) * 5, closed[2]]])
    assert evaluate_pooled([metric], [epoch(0.1, (0, 0)), old], ErrorLevels(0.05))[0].verdict == MetricVerdict.PASSED
    silent = EpochCounts(0.5, (0, 0), [(0, 0)], [[(0,) * 6] * 3])
    assert (
        evaluate_pooled([metric], [epoch(0.1, (0, 0)), silent], ErrorLevels(0.05))[0].verdict == MetricVerdict.UNDECIDED
    )


@pytest.mark.parametrize("newest_alone", [False, True])
@pytest.mark.parametrize("treatment", range(1, 8))
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_shown_interval_decides(treatment: int, alpha: float, newest_alone: bool) -> None:
    """A gate passes by its margin where the upper end is at most the allowed ratio. Harm is a lower end of at least 1 + margin."""
    metric, evaluate = replace(ERRORS, floor=0.0, margin=0.2), evaluate_newest if newest_alone else evaluate_pooled
    for blocks in range(1, 6):
        epochs = [epoch(0.25, *[(9, 3)] * 2), epoch(0.5, *[(3 * blocks, treatment * blocks)] * 2)]
        found = evaluate([metric, metric], epochs, ErrorLevels(alpha))[0]
        assert (found.verdict == MetricVerdict.HARM) == (found.basis == DecisionBasis.HARM)
        if found.basis == DecisionBasis.HARM:
            assert found.lower >= found.allowed == 1.2
        else:
            assert (found.verdict == MetricVerdict.PASSED) == (found.upper <= found.allowed == 1.4)


def test_a_gate_of_the_newest_epoch_shows_that_epoch_alone() -> None:
    last = replace(ERRORS, next_weight=1.0, floor=0.0)
    before, newest = epoch(0.25, (30, 12)), epoch(0.5, (9, 9))
    found, alone = (evaluate_newest([last], epochs, ErrorLevels(0.05))[0] for epochs in ([before, newest], [newest]))
    assert (found.ratio, found.lower, found.upper) == (alone.ratio, alone.lower, alone.upper)
    assert (found.basis, alone.basis) == (DecisionBasis.THIS_STEP, DecisionBasis.ALL_STEPS)
    assert found.sentence("errorRate").startswith("errorRate is 1 times control's in this step (")
    pooled = evaluate_pooled([last], [before, newest], ErrorLevels(0.05))[0]
    assert pooled.ratio > 1.1


def test_a_metric_that_no_gate_waits_for_shows_the_test_of_harm() -> None:
    epochs = [epoch(0.25, *[(3, 1)] * 4), epoch(0.5, *[(3, 3)] * 4)]
    found = evaluate_newest([replace(ERRORS, gates=False)] * 4, epochs, ErrorLevels(0.05))[0]
    assert (found.verdict, found.basis, found.allowed) == (MetricVerdict.UNDECIDED, DecisionBasis.HARM, 1.25)
    assert found.sentence("rejections").endswith("at every evaluation); more than 1.25 times is harm")
    alone = evaluate_pooled([replace(ERRORS, gates=False)], epochs, ErrorLevels(0.05))[0]
    assert found.lower < alone.lower < alone.upper < found.upper


def test_a_finding_shows_whether_it_passed_by_its_floor() -> None:
    """The newest epoch alone passes by the margin, although both together would not."""
    metric = replace(ERRORS, next_weight=1.0)
    by_margin = evaluate_newest([metric], [epoch(0.25, (9, 9)), epoch(0.5, (30, 15))], ErrorLevels(0.05))[0]
    assert (by_margin.verdict, by_margin.by_floor) == (MetricVerdict.HARM, False)
    by_margin = evaluate_newest([metric], [epoch(0.25, (30, 11)), epoch(0.5, (30, 15))], ErrorLevels(0.05))[0]
    assert (by_margin.verdict, by_margin.by_floor) == (MetricVerdict.PASSED, False)
    assert "within the allowed 1.25 times" in by_margin.sentence("errorRate")
    by_floor = evaluate_newest([metric], [epoch(0.25, (0, 0)), epoch(0.5, (0, 0))], ErrorLevels(0.05))[0]
    assert (by_floor.verdict, by_floor.by_floor) == (MetricVerdict.PASSED, True)
    assert by_floor.sentence("errorRate").endswith(": within its floor above control's rate")


def test_a_changing_ratio_blocks_no_gate() -> None:
    """The tail of latencies changes with load: half as many slow answers at first, as many as stable's later."""
    epochs = [epoch(0.25, (90, 12)), epoch(0.5, (30, 24))]
    found = [evaluate([SLOW], epochs, ErrorLevels(0.05))[0] for evaluate in (evaluate_newest, evaluate_pooled)]
    assert [each.verdict for each in found] == [MetricVerdict.PASSED] * 2
    assert not any(math.isnan(each.lower) for each in found)


def test_harm_in_any_epoch_is_harm_to_both_kinds() -> None:
    epochs = [epoch(0.25, (0, 3)), epoch(0.5, (0, 0))]
    for evaluate in (evaluate_newest, evaluate_pooled):
        assert evaluate([ERRORS], epochs, ErrorLevels(0.05))[0].verdict == MetricVerdict.HARM


def test_the_error_of_harm_is_shared_among_metrics() -> None:
    blocks = [even(0, 0)[0]]
    rare = EpochCounts(0.05, (9500, 500), [(0, 6)] * 2, [blocks] * 2)
    alone = evaluate_pooled([ERRORS], [rare], ErrorLevels(0.1))[0]
    assert alone.verdict == MetricVerdict.HARM
    assert evaluate_pooled([ERRORS] * 2, [rare], ErrorLevels(0.1))[0].verdict == MetricVerdict.HARM
    few = replace(rare, events=[(0, 5)] * 12, blocks=[blocks] * 12)
    bars = [math.log(tests / 0.1) for tests in (1, 12)]
    assert bars[0] < evaluate_pooled([ERRORS], [few], ErrorLevels(0.1))[0].harm < bars[1]
    assert evaluate_pooled([ERRORS], [few], ErrorLevels(0.1))[0].verdict == MetricVerdict.HARM
    assert evaluate_pooled([ERRORS] * 12, [few], ErrorLevels(0.1))[0].verdict != MetricVerdict.HARM


def test_bursts_count_less() -> None:
    apart = epoch(0.25, (3, 3))
    closed, x, s, *_ = even(3, 3)[0]
    stall = (closed, x, s, x * x, x * s, s * s)
    together = replace(apart, blocks=[[stall, *even(3, 3)[1:]]])
    assert evaluate_pooled([ERRORS], [apart], ErrorLevels(0.05))[0].verdict == MetricVerdict.HARM
    assert evaluate_pooled([ERRORS], [together], ErrorLevels(0.05))[0].verdict != MetricVerdict.HARM
    longest = replace(apart, blocks=[[*even(3, 3)[:2], (10, *stall[1:])]])
    assert evaluate_pooled([ERRORS], [longest], ErrorLevels(0.05))[0].verdict != MetricVerdict.HARM


def test_a_new_epoch_is_harm_by_its_own_dispersion_alone() -> None:
    """After thirty calm blocks at 5 %, one stall in the first block at 25 % is no harm; the same failures spread over 13 blocks are."""
    calm = EpochCounts(0.05, (28_500, 1500), [(30, 2)], [blocks_of((1, 0), 30, first=(1, 2))])
    for failures in (8, 20, 200):
        stalled = EpochCounts(0.25, (750, 250), [(0, failures)], [blocks_of((0, 0), 1, first=(0, failures))])
        found = evaluate_pooled([ERRORS], [calm, stalled], ErrorLevels(0.05))[0]
        assert found.verdict == MetricVerdict.UNDECIDED
        assert found.harm < 1
    steady = EpochCounts(0.25, (9750, 3250), [(0, 26)], [blocks_of((0, 2), 13)])
    assert evaluate_pooled([ERRORS], [calm, steady], ErrorLevels(0.05))[0].verdict == MetricVerdict.HARM
    short = replace(steady, events=[(0, 22)], blocks=[blocks_of((0, 2), 11)])
    assert evaluate_pooled([ERRORS], [calm, short], ErrorLevels(0.05))[0].verdict == MetricVerdict.UNDECIDED


def test_harm_is_shown_with_the_dispersion_and_the_epochs_of_its_test() -> None:
    bursts = EpochCounts(0.05, (28_500, 1500), [(30, 40)], [blocks_of((1, 0), 30, first=(1, 40))])
    young = EpochCounts(0.25, (750, 250), [(0, 30)], [blocks_of((0, 15), 2)])
    assert guardrail_comparison.find_measured_epochs([bursts, young]) == [bursts]
    assert guardrail_comparison.find_measured_epochs([young]) == [young], "else there would be nothing to show"
    of_harm, of_gate = (
        guardrail_comparison.measure_dispersion([1.25], [bursts], of_harm=of_harm)[0] for of_harm in (True, False)
    )
    assert of_harm > of_gate > 1


@pytest.mark.parametrize("weight", [0.01, 0.05, 0.25, 0.5])
def test_a_stall_counts_as_one_event_that_falls_on_either_arm_by_chance(weight: float) -> None:
    """Three to eleven stalls of the canary alone were harm once, by its weight. One of two replicas has seven of seven in 1 % of cases."""
    failures = max(1, round(3000 * weight * 0.1))
    for stalls in range(1, 15):
        stalled = stalls_apart(weight, failures, stalls)
        verdict = evaluate_pooled([ERRORS] * 4, [stalled], ErrorLevels(0.05))[0].verdict
        assert verdict != MetricVerdict.HARM or stalls > 7, (stalls, failures)


def test_a_later_bake_takes_nothing_from_harm() -> None:
    """At 99 % an event of the canary says nearly nothing, whether a burst or not."""
    found = [
        evaluate_newest([ERRORS], epochs, ErrorLevels(0.05))[0]
        for epochs in ([epoch(0.5, (1, 3))], [epoch(0.5, (1, 3)), epoch(0.99, (0, 0))])
    ]
    assert [each.verdict for each in found] == [MetricVerdict.HARM] * 2
    assert found[0].harm == pytest.approx(found[1].harm)


def stalls_apart(weight: float, failures: int, stalls: int) -> EpochCounts:
    """Return an hour with so many stalls of the canary alone, five minutes apart, for four metrics."""
    per_block = np.zeros(360)
    per_block[15 : 15 + 20 * stalls : 20] = failures
    blocks = [moments(per_block.reshape(-1, length).sum(1)) for length in (1, 3, 6)]
    units = round(360 * 1000 * (1 - weight)), round(360 * 1000 * weight)
    return EpochCounts(weight, units, [(0, failures * stalls)] * 4, [blocks] * 4)


def moments(x: NDArray[np.float64]) -> tuple[int, ...]:
    """Return the sums over blocks with events of the canary alone."""
    total, squares = int(x.sum()), int((x**2).sum())
    return len(x), total, total, squares, squares, squares


def blocks_of(each: tuple[int, int], closed: int, first: tuple[int, int] | None = None) -> list[tuple[int, ...]]:
    """Return blocks of each length, all with the same events of control and the treatment but the first one."""
    found = []
    for length in (1, 3, 6):
        events = np.array([first or each, *[each] * (closed - 1)])
        events = events[: closed // length * length].reshape(-1, length, 2).sum(1)
        x, s = events[:, 1], events.sum(1)
        found.append((len(x), *(int(part.sum()) for part in (x, s, x * x, x * s, s * s))))
    return found


def test_a_finding_shows_the_requests_that_the_floor_needs() -> None:
    quiet = epoch(0.25, *[(0, 0)] * 4, requests=5)
    found = evaluate_pooled(
        [ERRORS, replace(ERRORS, floor=0.0), replace(ERRORS, floor=0.5), ERRORS], [quiet], ErrorLevels(0.05)
    )
    assert [each.verdict for each in found] == [
        *[MetricVerdict.UNDECIDED] * 2,
        MetricVerdict.PASSED,
        MetricVerdict.UNDECIDED,
    ]
    assert [math.isfinite(each.units) for each in found] == [True, False, False, True]
    times = found[0].units / quiet.requests[1]
    assert found[0].eta_s == pytest.approx(600 * (times - 1))
    for enough, verdict in ((1.01, MetricVerdict.PASSED), (0.9, MetricVerdict.UNDECIDED)):
        more = replace(quiet, requests=tuple(math.ceil(each * times * enough) for each in quiet.requests))
        assert evaluate_pooled([ERRORS], [more], ErrorLevels(0.05))[0].verdict == verdict


def test_before_the_first_block_ends_there_is_no_estimate_of_time() -> None:
    found = evaluate_pooled(
        [ERRORS], [replace(epoch(0.25, (0, 0), requests=5), blocks=[[(0,) * 6] * 3])], ErrorLevels(0.05)
    )[0]
    assert math.isfinite(found.units)
    assert math.isinf(found.eta_s)
