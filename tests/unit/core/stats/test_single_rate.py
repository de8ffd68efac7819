"""Test of one rate against its maximum, over many looks."""

import numpy as np
import pytest

from sundog_operator.core.stats import multiple_testing, proportion, single_rate
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.stats.guardrail_comparison import EpochCounts, treatment_dispersion

ALPHA = 0.05


@pytest.mark.parametrize(
    ("hits", "trials", "verdict"),
    [
        (0, 0, MetricVerdict.NO_DATA),
        (0, 50, MetricVerdict.UNDECIDED),
        (0, 400, MetricVerdict.PASSED),
        (4, 400, MetricVerdict.UNDECIDED),
        (40, 400, MetricVerdict.HARM),
        (400, 400, MetricVerdict.HARM),
    ],
)
def test_verdicts_of_counts(hits: int, trials: int, verdict: MetricVerdict) -> None:
    found = single_rate.evaluate_rate(hits, trials, 0, 0.01, ALPHA)
    assert found.verdict == verdict
    assert 0 <= found.lower <= (found.rate or 0.0) <= found.upper <= 1


def test_without_a_hit_it_passes_no_later_than_by_the_two_sided_bound() -> None:
    # The design has 389 for the two-sided bound.
    assert single_rate.evaluate_rate(0, 362, 0, 0.01, ALPHA).verdict == MetricVerdict.UNDECIDED
    assert single_rate.evaluate_rate(0, 363, 0, 0.01, ALPHA).verdict == MetricVerdict.PASSED


def test_unknown_outcomes_neither_pass_nor_harm() -> None:
    assert single_rate.evaluate_rate(0, 400, 40, 0.01, ALPHA).verdict == MetricVerdict.UNDECIDED
    assert single_rate.evaluate_rate(0, 100, 400, 0.01, ALPHA).verdict == MetricVerdict.UNDECIDED


def test_two_questions_share_the_error_of_harm_alone() -> None:
    alone, shared = (single_rate.evaluate_rate(14, 400, 0, 0.01, ALPHA, questions) for questions in (1, 2))
    assert shared.lower < alone.lower
    assert shared.upper > alone.upper
    assert [single_rate.evaluate_rate(0, 400, 0, 0.01, ALPHA, questions).verdict for questions in (1, 2)] == [
        MetricVerdict.PASSED
    ] * 2
    first = next(
        hits
        for hits in range(400)
        if single_rate.evaluate_rate(hits, 400, 0, 0.01, ALPHA, 1).verdict == MetricVerdict.HARM
    )
    assert single_rate.evaluate_rate(first, 400, 0, 0.01, ALPHA, 2).verdict == MetricVerdict.UNDECIDED


def test_without_a_maximum_nothing_is_decided() -> None:
    found = single_rate.evaluate_rate(0, 10**6, 0, None, ALPHA)
    assert found.verdict == MetricVerdict.UNDECIDED
    assert found.turned().lower > 0.9999
    assert found.turned().rate == 1.0


@pytest.mark.parametrize("limit", [0.005, 0.05])
@pytest.mark.parametrize("side", ["below", "above"])
def test_at_the_limit_itself_either_error_is_rarer_than_alpha_over_all_looks(limit: float, side: str) -> None:
    # The log E of `evaluate_rate`, at every tenth trial of 6000, for 400 treatments exactly at the limit.
    random = np.random.default_rng(7)
    hits = random.binomial(10, limit, (400, 600)).cumsum(axis=1).astype(float)
    trials = 10 * np.arange(1.0, 601)
    optimum = proportion.optimum_for_rate(limit)
    log_e = proportion.log_e(hits, trials, np.array(limit), optimum, 2 * ALPHA, side)  # type: ignore[arg-type]
    wrong = float((log_e >= multiple_testing.log_e_threshold(ALPHA)).any(axis=1).mean())
    # Three standard errors above α.
    assert wrong <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / 400) ** 0.5


def test_the_complement_has_mirrored_bounds() -> None:
    found = single_rate.evaluate_rate(30, 1000, 0, None, 0.05)
    turned = found.turned()
    assert (turned.lower, turned.rate, turned.upper) == (1 - found.upper, 0.97, 1 - found.lower)
    assert turned.lower < 0.97 < turned.upper
    assert single_rate.evaluate_rate(0, 0, 0, None, 0.05).turned()[:3] == (None, 0.0, 1.0)


@pytest.mark.parametrize(
    ("hits", "trials", "is_below"),
    [(0, 100, False), (0, 200, True), (19, 1000, False), (8, 1000, True), (0, 0, False), (10**12, 10**14, True)],
)
def test_rates_known_to_be_below_two_percent(hits: int, trials: int, is_below: bool) -> None:
    assert single_rate.is_beyond(hits, trials, 0.02, ALPHA, "below") is is_below


@pytest.mark.parametrize(("squares", "is_below"), [((30, 60, 120), True), ((300, 600, 1200), False)])
def test_a_burst_counts_as_about_one_failure(squares: tuple[int, int, int], is_below: bool) -> None:
    """30 failures in 3000 requests: one in each of 30 blocks, or ten in each of three."""
    epoch = EpochCounts(0.5, (3000, 3000), [(30, 30)], [[(30, 30, 60, *squares)]])
    phi = treatment_dispersion(epoch, 0)
    assert single_rate.is_beyond(30, 3000, 0.02, ALPHA, "below", phi) is is_below
