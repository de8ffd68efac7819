"""One rate: published intervals, and coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_operator.core.stats import beta_binomial, proportion

BAR = math.log(1 / 0.05)


def test_the_precision_of_the_tightest_mixture() -> None:
    assert beta_binomial.optimal_precision(100, 0.05) == pytest.approx(12.60056, abs=5e-6)


@pytest.mark.parametrize(
    ("hits", "trials", "optimum", "lower", "upper"),
    [
        (700, 1000, 100, 0.651629, 0.745949),
        (15, 50, 50, 0.129556, 0.511896),
        (5, 50, 50, 0.013021, 0.269264),
        (1, 50, 50, 0, 0.13489),
    ],
)
def test_the_published_intervals(hits: int, trials: int, optimum: float, lower: float, upper: float) -> None:
    found = proportion.interval(np.array(hits), np.array(trials), BAR, optimum, 0.05)
    assert [float(end) for end in found] == pytest.approx([lower, upper], abs=2e-6)


@pytest.mark.parametrize(
    ("side", "optimum_alpha", "log_mixture", "bound"),
    [("both", 0.05, -0.6941012, 31.4308), ("above", 0.1, -0.07134019, 28.41238)],
)
def test_the_published_mixtures(
    side: beta_binomial.Side, optimum_alpha: float, log_mixture: float, bound: float
) -> None:
    """A rate of 0.2 at an intrinsic time of 100, i.e. 625 trials: log E of 10 additional hits, and the additional hits that reach 1/α."""

    def log_e(more: float) -> float:
        return float(proportion.log_e(np.array(125 + more), np.array(625.0), np.array(0.2), 625, optimum_alpha, side))

    assert log_e(10) == pytest.approx(log_mixture, abs=1e-7)
    assert log_e(bound) == pytest.approx(BAR, abs=1e-4)


@pytest.mark.parametrize(("limit", "trials"), [(0.02, 193), (0.01, 389), (0.005, 780)])
def test_trials_without_a_hit_until_a_rate_is_below_a_limit(limit: float, trials: int) -> None:
    """α = 0.05, tightest at 3/limit trials."""

    def upper(count: int) -> float:
        return float(proportion.interval(np.array(0), np.array(count), BAR, 3 / limit, 0.05)[1])

    assert upper(trials) < limit <= upper(trials - 1)


@given(st.integers(0, 2000), st.integers(0, 2000), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_interval_is_where_the_evidence_reaches_the_bar(hits: int, misses: int, alpha: float) -> None:
    bar, trials = math.log(1 / alpha), hits + misses
    lower, upper = (float(end) for end in proportion.interval(np.array(hits), np.array(trials), bar, 500, alpha))
    assert 0 <= lower <= upper <= 1
    for end in (lower, upper):
        if 0 < end < 1:
            assert float(
                proportion.log_e(np.array(hits), np.array(trials), np.array(end), 500, alpha)
            ) == pytest.approx(bar, abs=1e-4)


def test_a_rate_is_rarely_outside_at_any_look() -> None:
    random = np.random.default_rng(4)
    hits = random.binomial(20, 0.03, (400, 100)).cumsum(1)
    log_e = proportion.log_e(hits, np.arange(1, 101) * 20.0, np.array(0.03), 1000, 0.05)
    assert (log_e.max(1) >= BAR).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_far_lower_end_is_found_beside_others() -> None:
    hits, trials = np.array([3.0, 300.0, 5.0]), np.array([1000.0, 1000.0, 1e7])
    found = proportion.lower_bound(hits, trials, 9.0, 600, 0.01)
    assert found == pytest.approx([3.3079e-06, 0.234985, 1.1118e-09], rel=1e-4)
    assert proportion.log_e(hits, trials, found, 600, 0.01) == pytest.approx(np.full(3, 9.0), abs=1e-6)


def test_missing_counts_have_no_interval() -> None:
    lower, upper = proportion.interval(np.array([0, math.nan, 5]), np.array([0, 10, 5]), BAR, 100, 0.05)
    assert (lower[0], upper[0]) == (0, 1)
    assert math.isnan(lower[1])
    assert upper[2] == 1
