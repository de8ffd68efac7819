"""Ratio of two rates: known values, exactness, bounds under drift, and extreme counts."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from sundog_operator.core.stats import beta_binomial, count_ratio
from sundog_operator.core.stats.beta_binomial import Numbers, Side

BAR = math.log(20)


def numbers(*values: float) -> Numbers:
    return np.array(values, float)


def ratio_interval(
    control: Numbers, treatment: Numbers, weight: Numbers, bar: float, k: Sequence[float] = count_ratio.CONCENTRATIONS
) -> tuple[Numbers, Numbers]:
    """Return the interval of the mixture of `count_ratio.log_e`."""
    with np.errstate(all="ignore"):
        against_equal = count_ratio.log_e(control, treatment, weight, 1.0, "both", k)
    return count_ratio.interval_from_log_e(against_equal, control, treatment, weight, bar)


KNOWN = [
    (100, 150, 0.5, 2, 2.4756, 0.9799, 2.3248),
    (100, 150, 0.5, 50, 3.3002, 1.0124, 2.2459),
    (950, 80, 0.05, 2, 3.3006, 1.0109, 2.4030),
    (950, 80, 0.05, 50, 5.0978, 1.0825, 2.2751),
    (10, 30, 0.5, 2, 3.4543, 1.0481, 10.6855),
    (0, 8, 0.5, 2, 3.3480, 1.0943, math.inf),
]


@pytest.mark.parametrize(("control", "treatment", "weight", "k", "log_e", "lower", "upper"), KNOWN)
def test_known_values(
    control: int, treatment: int, weight: float, k: float, log_e: float, lower: float, upper: float
) -> None:
    counts = numbers(control), numbers(treatment), numbers(weight)
    assert count_ratio.log_e(*counts, 1.0, "both", [k]) == pytest.approx(log_e, abs=5e-5)
    assert ratio_interval(*counts, BAR, [k]) == pytest.approx((lower, upper), abs=5e-5)


def test_more_known_values() -> None:
    assert count_ratio.log_e(numbers(0), numbers(12), numbers(0.5), 1.0, "both", [2]) == pytest.approx(5.7528, abs=5e-5)
    found = ratio_interval(numbers(212), numbers(74), numbers(0.25), BAR, [35])
    assert found == pytest.approx((0.7009, 1.5270), abs=5e-5)
    uniform = beta_binomial.log_e(numbers(80), numbers(950), numbers(0.05), numbers(1), numbers(1))
    assert uniform == pytest.approx(numbers(3.2870), abs=5e-5)
    found = count_ratio.interval_from_log_e(uniform.sum(-1), numbers(950), numbers(80), numbers(0.05), BAR)
    assert found == pytest.approx((1.0104, 2.4039), abs=5e-5)


@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 400), st.sampled_from([0.05, 0.25, 0.5])), min_size=1, max_size=3
    ),
    st.floats(0.5, 200),
)
def test_the_one_sided_interval_ends_where_a_one_sided_test_reaches_the_bar(
    epochs: list[tuple[int, int, float]], bar: float
) -> None:
    control, treatment, weight = (numbers(*column) for column in zip(*epochs, strict=True))
    lower, upper = count_ratio.one_sided_interval(control, treatment, weight, np.asarray(bar))
    for end, side in ((float(lower), "above"), (float(upper), "below")):
        for ratio in (0.2, 0.8, 1.0, 1.25, 3.0):
            evidence = float(count_ratio.log_e(control, treatment, weight, ratio, side))  # type: ignore[arg-type]
            if abs(evidence - bar) > 1e-3:
                assert (evidence >= bar) == (ratio <= end if side == "above" else ratio >= end), (side, ratio, end)


@pytest.mark.parametrize("side", ["both", "above", "below"])
@pytest.mark.parametrize(("events", "weight", "ratio"), [(1, 0.3, 1.0), (7, 0.05, 1.25), (40, 0.5, 0.8)])
def test_the_expectation_at_the_boundary_is_one(side: Side, events: int, weight: float, ratio: float) -> None:
    share = weight * ratio / (1 - weight + weight * ratio)
    treatment = np.arange(events + 1.0)[:, None]
    values = count_ratio.log_e(events - treatment, treatment, numbers(weight), ratio, side)
    assert (binom.pmf(treatment[:, 0], events, share) * np.exp(values)).sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("side", "within"), [("above", 0.7), ("below", 1.6)])
def test_within_the_null_the_expectation_is_below_one(side: Side, within: float) -> None:
    share = 0.25 * within / (0.75 + 0.25 * within)
    treatment = np.arange(61.0)[:, None]
    values = count_ratio.log_e(60 - treatment, treatment, numbers(0.25), 1.0, side)
    assert (binom.pmf(treatment[:, 0], 60, share) * np.exp(values)).sum() < 0.5


@pytest.mark.parametrize(
    ("control", "treatment", "side", "log_e"),
    [
        (20_000, 5000, "above", -8.11681969),
        (7920, 5000, "above", -6.71178219),
        (200, 2e4, "below", -9.20909951),
        (1e9, 0.5e9, "above", -18.64855666),
    ],
)
def test_evidence_for_the_null_is_a_number_however_strong_it_is(
    control: float, treatment: float, side: Side, log_e: float
) -> None:
    """Values by mpmath. The mixture's mass beyond 1.25 is below the least float, or has few digits left."""
    found = count_ratio.log_e(numbers(control), numbers(treatment), numbers(0.5), 1.25, side)
    assert found == pytest.approx(log_e, abs=1e-5)


counts = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 300), st.sampled_from([0.05, 0.25, 0.5])), min_size=1, max_size=6
)


@given(counts, st.randoms())
def test_neither_the_order_of_epochs_nor_the_axes_matter(
    epochs: list[tuple[int, int, float]], random: "object"
) -> None:
    table = np.array(epochs, float)
    mixed = table[np.random.default_rng(len(epochs)).permutation(len(table))]
    one = count_ratio.log_e(*table.T, 1.25, "above")
    assert count_ratio.log_e(*mixed.T, 1.25, "above") == pytest.approx(one, abs=1e-9)
    lifted = count_ratio.log_e(*(np.stack([column, column]) for column in table.T), numbers(1.25, 1.25), "above")
    assert lifted == pytest.approx(np.array([one, one]), abs=1e-9)


@given(counts)
def test_the_interval_is_where_the_evidence_reaches_the_bar(epochs: list[tuple[int, int, float]]) -> None:
    control, treatment, weight = np.array(epochs, float).T
    lower, upper = (float(end) for end in ratio_interval(control, treatment, weight, BAR))
    if math.isnan(lower):
        grid = np.geomspace(1e-6, 1e6, 400)
        assert all(count_ratio.log_e(control, treatment, weight, ratio) > BAR for ratio in grid)
        return
    assert lower <= upper
    for end, events in ((lower, treatment), (upper, control)):
        if events.sum():
            assert count_ratio.log_e(control, treatment, weight, end) == pytest.approx(BAR, abs=1e-5)


@pytest.mark.parametrize("size", [1e6, 1e9, 1e12])
def test_large_counts_leave_a_narrow_interval(size: float) -> None:
    lower, upper = ratio_interval(numbers(size), numbers(size * 1.01), numbers(0.5), BAR)
    assert 1 < lower < 1.01 < upper < 1.02


def test_no_counts_are_no_evidence() -> None:
    assert ratio_interval(numbers(0, 0), numbers(0, 0), numbers(0.1, 0.5), BAR) == (0, math.inf)
    assert count_ratio.log_e(numbers(0, 0), numbers(0, 0), numbers(0.1, 0.5), 1.25, "above") == pytest.approx(0)
    assert np.isnan(ratio_interval(numbers(math.nan), numbers(1), numbers(0.5), BAR)).all()


def test_the_interval_of_a_few_bursts_is_wide_and_not_empty() -> None:
    lower, upper = ratio_interval(numbers(2), numbers(1), numbers(0.5), 60)
    assert 0 < lower < 1e-20
    assert 1e10 < upper < math.inf


def test_epochs_that_no_ratio_fits_have_no_interval() -> None:
    found = ratio_interval(numbers(2250, 280), numbers(750, 420), numbers(0.25, 0.5), BAR, [50])
    assert np.isnan(found).all()


def simulate(ratios: list[float], runs: int, side: Side, boundary: float, seed: int) -> Numbers:
    """Return the largest log E of each run over 60 looks: ratios at three weights, base rates that drift from 0.1 % to 5 %."""
    random = np.random.default_rng(seed)
    weights = numbers(0.05, 0.25, 0.5)
    control, treatment = np.zeros((runs, 3)), np.zeros((runs, 3))
    largest = np.full(runs, -np.inf)
    for look in range(60):
        epoch, base = look // 20, np.geomspace(0.001, 0.05, 60)[look]
        requests = 4000
        treatment_requests = random.binomial(requests, weights[epoch], runs)
        control[:, epoch] += random.binomial(requests - treatment_requests, base)
        treatment[:, epoch] += random.binomial(treatment_requests, base * ratios[epoch])
        largest = np.maximum(largest, count_ratio.log_e(control, treatment, weights, boundary, side))
    return largest


@pytest.mark.parametrize("side", ["above", "below"])
def test_at_the_boundary_few_runs_ever_reach_the_bar(side: Side) -> None:
    """At largest α plus three standard errors of 400 runs."""
    largest = simulate([1.25, 1.25, 1.25], 400, side, 1.25, seed=1)
    assert (largest >= BAR).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_good_epochs_do_not_make_up_for_a_bad_last_one() -> None:
    """Pooled evidence would let it pass, so the last epoch alone is tested, and it does not pass."""
    random = np.random.default_rng(2)
    passed = 0
    for _ in range(200):
        treatment_requests = random.binomial(200_000, 0.5)
        control, treatment = (
            random.binomial(200_000 - treatment_requests, 0.01),
            random.binomial(treatment_requests, 0.0126),
        )
        passed += bool(count_ratio.log_e(numbers(control), numbers(treatment), numbers(0.5), 1.25, "below") >= BAR)
    assert passed <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_a_worse_treatment_is_found() -> None:
    largest = simulate([3.0, 3.0, 3.0], 50, "above", 1.25, seed=3)
    assert (largest >= BAR).all()


def test_an_upper_end_that_is_far_away_is_an_end() -> None:
    lower, upper = ratio_interval(numbers(4), numbers(1300), numbers(0.5), 1500.0)
    assert 0 < lower < 326
    assert upper > 1e9


@pytest.mark.parametrize(
    ("hits", "misses", "null", "size", "exact"),
    [
        (10, 3000, 0.5, 2, -8.00336529199419),
        (100, 3000, 0.5, 50, -6.24761973666475),
        (300, 4000, 0.6, 4, -7.75065380546399),
    ],
)
def test_a_share_that_no_float_can_hold_is_exact(
    hits: int, misses: int, null: float, size: float, exact: float
) -> None:
    """The mixture's mass above the null is below 10⁻³⁰⁰. Expected values are by mpmath, with 60 digits."""
    found = beta_binomial.log_e(numbers(hits), numbers(misses), null, size / 2, size / 2, "above")
    assert found == pytest.approx(exact, rel=1e-12)
