"""Two means over epochs: published values, exact sums, and weights of epochs."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import lambertw

from sundog_operator.core.stats import beta_binomial
from sundog_operator.core.stats.mean_ratio import (
    Contrast,
    UnitPairSums,
    UnitValueSums,
    average_interval,
    make_adjusted_contrast,
    make_contrast,
    make_ratio_contrast,
)

MILLION = 10**6


def one(value: float) -> np.ndarray:
    return np.asarray(float(value))


def contrast(
    control: float, treatment: float, control_variance: float, treatment_variance: float, time: float
) -> Contrast:
    """Return a contrast, given averages and their variances."""
    parts = (control * time, treatment * time, control_variance * time**2, treatment_variance * time**2, time)
    return Contrast(*map(one, parts))


def sums(*epochs: tuple[int, int, int, int]) -> UnitValueSums:
    """Return the sums of one arm, given units, units with a value, Σy and Σy² of each epoch."""
    return UnitValueSums(*np.array(epochs, object).T)


def test_the_normal_mixture() -> None:
    """1000 pairs, a difference of 0.1, σ² = 1, τ² = 0.01: Σh = 500, and the deviation is τ."""
    found = contrast(1.0, 1.1, 0.0, 2 / 1000, 500)
    assert float(found.log_e_two_sided(1.0, 0.1)) == pytest.approx(1.187454, abs=5e-7)
    assert math.exp(-float(found.log_e_two_sided(1.0, 0.1))) == pytest.approx(0.30500, abs=5e-6)
    lower, upper = found.interval(0.1, math.log(20))
    assert float(upper) - 1.1 == pytest.approx(0.136674, abs=5e-7)
    assert 1.1 - float(lower) == pytest.approx(0.136674, abs=5e-7)


def tuned(optimum: float, alpha: float = 0.05) -> float:
    """Return the ρ² of the interval that is tightest after `optimum` observations, by the lower branch of Lambert's W."""
    return float((-lambertw(-(alpha**2) * math.exp(-1), -1).real - 1) / optimum)


@pytest.mark.parametrize(
    ("count", "halfwidth"), [(100, 0.382322), (1000, 0.095979), (10_000, 0.032463), (100_000, 0.011278)]
)
def test_halfwidths_at_unit_variance(count: int, halfwidth: float) -> None:
    deviation = math.sqrt(tuned(1000))
    assert deviation == pytest.approx(0.0906199, abs=5e-8)
    lower, upper = contrast(1.0, 1.0, 0.0, 1 / count, count).interval(deviation, math.log(20))
    assert float(upper) - 1 == pytest.approx(halfwidth, abs=5e-7)
    assert 1 - float(lower) == pytest.approx(halfwidth, abs=5e-7)


def test_two_rates_of_ten_thousand() -> None:
    """500 and 580: n = 20 000 observations, Σh = 5000."""
    found = contrast(0.05, 0.058, 0.05 * 0.95 / 1e4, 0.058 * 0.942 / 1e4, 5000)
    deviation = math.sqrt(tuned(20_000) * 20_000 / 5000)
    assert float(found.log_e_two_sided(1.0, deviation)) == pytest.approx(1.6827, abs=5e-5)
    difference = contrast(1.0, 1.008, 0.0, float(found.control_variance + found.treatment_variance) / 5000**2, 5000)
    lower, upper = difference.interval(deviation, math.log(20))
    assert (float(upper) - float(lower)) / 2 == pytest.approx(0.009700, abs=5e-7)


@pytest.mark.parametrize(("tested", "sign"), [(0.97, 1), (0.97, -1), (1.03, -1)])
def test_one_side_against_another_ratio(tested: float, sign: int) -> None:
    """By its definition: the likelihood of z, averaged over a half-normal distribution of true differences."""
    found, deviation = contrast(2.0, 1.99, 0.0004, 0.0005, 4000), 0.02
    error = math.sqrt(0.0005 + tested**2 * 0.0004)
    z, scale = (1.99 - tested * 2.0) / error, deviation * math.sqrt(4000)
    drifts = np.linspace(0, 40, 400_001)
    density = 2 / scale * np.exp(-((drifts / scale) ** 2) / 2) / math.sqrt(2 * math.pi)
    mean = np.trapezoid(density * np.exp(sign * drifts * z - drifts**2 / 2), drifts)
    assert float(found.log_e(tested, deviation, sign)) == pytest.approx(math.log(mean), abs=1e-6)


def test_the_mixture_of_both_sides() -> None:
    """A sum of 10 at an intrinsic time of 100, tuned for 100; then the bound at 0.05."""
    r = float(beta_binomial.optimal_precision(100, 0.05))

    def at(total: float) -> float:
        return float(contrast(0.0, total / 100, 0.0, 0.01, 100).log_e_two_sided(1.0, 1 / math.sqrt(r)))

    assert at(10) == pytest.approx(-0.6510052, abs=5e-8)
    assert brentq(lambda total: at(total) - math.log(20), 1, 100) == pytest.approx(30.35209, abs=5e-6)


def test_the_mixture_of_one_side() -> None:
    """A sum of 10 at an intrinsic time of 100, tuned for 100; then the bound at 0.05."""
    r = float(beta_binomial.optimal_precision(100, 0.1))

    def at(total: float) -> float:
        return float(contrast(0.0, total / 100, 0.0, 0.01, 100).log_e(1.0, 1 / math.sqrt(r), 1))

    assert at(10) == pytest.approx(-0.06502391, abs=5e-9)
    assert brentq(lambda total: at(total) - math.log(20), 1, 100) == pytest.approx(27.66071, abs=5e-6)


def test_a_contrast_of_one_epoch() -> None:
    control, treatment = sums((1000, 400, 500, 700)), sums((2000, 900, 1200, 1500))
    found = make_contrast(control, treatment)
    assert float(found.time) == pytest.approx(2000 / 3)
    assert float(found.control / found.time) == pytest.approx(0.5)
    assert float(found.treatment / found.time) == pytest.approx(0.6)
    own = (700 - 1000 * 0.25) / 999, (1500 - 2000 * 0.36) / 1999
    together = (2200 - 1700**2 / 3000) / 2999
    assert float(found.control_variance / found.time**2) == pytest.approx(max(own[0], together) / 1000)
    assert float(found.treatment_variance / found.time**2) == pytest.approx(max(own[1], together) / 2000)


def test_epochs_are_strata() -> None:
    """Weights and base rate change together; a pooled mean would show a difference where there is none."""
    control = sums((950, 950, 950, 1900), (500, 500, 1500, 5000))
    treatment = sums((50, 50, 50, 100), (500, 500, 1500, 5000))
    found = make_contrast(control, treatment)
    assert float(found.treatment - found.control) == pytest.approx(0, abs=1e-9)
    assert float(found.time) == pytest.approx(47.5 + 250)


def test_an_epoch_without_burn_in_does_not_count() -> None:
    old, young = ((1000, 300, 400, 600), (1000, 330, 440, 700)), ((100, 29, 90, 300), (100, 60, 10, 40))
    alone = make_contrast(sums(old[0]), sums(old[1]))
    both = make_contrast(sums(old[0], young[0]), sums(old[1], young[1]))
    assert both == alone
    nothing = make_contrast(sums(young[0]), sums(young[1]))
    assert float(nothing.time) == 0
    assert float(nothing.log_e(1.0, 0.1, 1)) == float(nothing.log_e_two_sided(1.0, 0.1)) == -math.inf
    assert np.isnan(nothing.interval(0.1, 3.0)).all()


def test_no_digit_of_a_variance_is_lost() -> None:
    """About a million each, in millionths: squares of 10²⁴, of which floats keep 16 digits."""
    base, count = 10**12, 1000
    values = [base + number % 7 for number in range(count)]
    arm = sums((count, count, sum(values), sum(each**2 for each in values)))
    assert float(arm.variance[0]) == pytest.approx(np.var([each - base for each in values], ddof=1))


def test_ratios_are_fiellers() -> None:
    found = contrast(2.0, 2.6, 0.01, 0.02, 400)
    lower, upper = (float(end) for end in found.interval(0.1, math.log(20)))
    assert lower < 1.3 < upper
    for end in (lower, upper):
        assert float(found.log_e_two_sided(end, 0.1)) == pytest.approx(math.log(20))


@pytest.mark.parametrize("control", [0.0, -1.0, 0.2])
def test_a_control_that_may_be_0_has_no_ratio(control: float) -> None:
    found = contrast(control, 2.0, 0.01, 0.01, 400)
    assert np.isnan(found.interval(0.1, math.log(20))).all()
    assert float(found.log_e(1.0, 0.1, 1)) > 10


def test_equal_values_are_no_evidence() -> None:
    same = make_contrast(sums((100, 100, 500, 2500)), sums((100, 100, 500, 2500)))
    assert float(same.log_e(1.0, 0.1, 1)) == -math.inf
    assert np.isnan(same.interval(0.1, 3.0)).all()
    assert math.isinf(float(same.growth(None, 0.1, 3.0)))


def test_growth_is_the_factor_of_units_that_decides() -> None:
    found, bar = make_contrast(sums((10_000, 1000, 1000, 1000)), sums((10_000, 1050, 1050, 1050))), math.log(20)
    times = float(found.growth(None, 0.03, bar))
    assert float(found.grown(times).log_e(1.0, 0.03, 1)) >= bar
    assert float(found.grown(times / 1.11).log_e(1.0, 0.03, 1)) < bar
    until = float(found.growth(one(1.2), 0.03, bar))
    assert float(found.grown(until).interval(0.03, bar)[1]) <= 1.2
    assert float(found.grown(until / 1.11).interval(0.03, bar)[1]) > 1.2


def spent(units: int, seed: int, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return what units spent after and before their exposure, with a correlation of about 0.8."""
    draw = np.random.default_rng(seed)
    before = draw.gamma(2, 50, units).astype(int)
    return (factor * (before + draw.gamma(2, 40, units))).astype(int), before


def test_a_covariate_adjusts_by_the_common_slope() -> None:
    """By a regression on the covariate with a level of each arm; the variance of the difference is that of its residuals."""
    arms = spent(3000, 1), spent(1000, 2, 1.1)
    found = make_adjusted_contrast(*(pair_sums(arm) for arm in arms))
    after, before = (np.concatenate(each) for each in zip(*arms, strict=True))
    level = np.repeat([1.0, 0.0], [3000, 1000])
    design = np.column_stack([level, 1 - level, before - before.mean()])
    control, treatment, slope = np.linalg.lstsq(design, after, rcond=None)[0]
    time = 750.0
    assert (float(found.control) / time, float(found.treatment) / time) == pytest.approx((control, treatment), rel=1e-4)
    own = [np.var(y - slope * x, ddof=1) for y, x in arms]
    pooled = np.var(after - slope * before, ddof=1)
    difference = found.treatment_variance + found.control_variance - 2 * found.covariance
    expected = sum(max(each, pooled) / len(y) for each, (y, _) in zip(own, arms, strict=True))
    assert float(difference) / time**2 == pytest.approx(expected, rel=1e-4)
    plain = make_contrast(*(pair_sums(arm).own for arm in arms))
    assert float(difference) < 0.5 * float(plain.treatment_variance + plain.control_variance)


def test_the_variance_against_another_ratio_includes_the_common_mean_of_the_covariate() -> None:
    """In samples of 400 and 100 units, the adjusted averages and their covariance vary as the contrast says."""
    found = [
        make_adjusted_contrast(pair_sums(spent(400, 2 * seed)), pair_sums(spent(100, 2 * seed + 1)))
        for seed in range(1500)
    ]
    ends = np.array([(float(each.control), float(each.treatment)) for each in found])
    (control, both), (_, treatment) = np.cov(ends.T)
    for name, varies in (("control_variance", control), ("treatment_variance", treatment), ("covariance", both)):
        told = np.mean([float(getattr(each, name)) for each in found])
        # A variance is at least that of both arms together, which adds a few percent.
        assert 0.85 < told / varies < 1.25, name


def test_without_history_a_covariate_changes_nothing() -> None:
    arms = [(spent(units, seed)[0], np.zeros(units, int)) for units, seed in ((900, 1), (400, 2))]
    adjusted = make_adjusted_contrast(*map(pair_sums, arms))
    plain = make_contrast(*(pair_sums(arm).own for arm in arms))
    for name in ("control", "treatment", "control_variance", "treatment_variance", "time"):
        assert float(getattr(adjusted, name)) == pytest.approx(float(getattr(plain, name))), name
    assert float(adjusted.covariance) == 0


def pair_sums(*epochs: tuple[np.ndarray, np.ndarray]) -> UnitPairSums:
    """Return the sums of one arm, given each unit's numerator and denominator by epoch, whole numbers."""

    def of(values: np.ndarray) -> tuple[int, int, int, int]:
        return len(values), int(np.count_nonzero(values)), int(values.sum()), int((values**2).sum())

    products = [int((numerator * denominator).sum()) for numerator, denominator in epochs]
    numerators, denominators = zip(*epochs, strict=True)
    return UnitPairSums(sums(*map(of, numerators)), sums(*map(of, denominators)), np.array(products, object))


def clicks_and_views(units: int, seed: int, clicks: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Return clicks and views of units; those with many views click more often, so they are correlated."""
    draw = np.random.default_rng(seed)
    views = draw.geometric(0.1, units)
    return draw.binomial(views, np.minimum(clicks * views / 10, 1)), views


def test_a_ratio_of_sums_has_the_variance_of_the_delta_method() -> None:
    """By its formula (Deng et al., arXiv 1803.06336) in each arm; the larger variance of both together replaces a smaller one."""
    arms = clicks_and_views(3000, 1), clicks_and_views(1000, 2)
    found = make_ratio_contrast(*(pair_sums(arm) for arm in arms))
    time = 750.0
    assert float(found.time) == pytest.approx(time)
    pooled = tuple(np.concatenate(each) for each in zip(*arms, strict=True))

    def unit_variance(clicks: np.ndarray, views: np.ndarray) -> float:
        (own, both), (_, other) = np.cov(clicks, views)
        mean, base = clicks.mean(), views.mean()
        return float(own / base**2 - 2 * mean * both / base**3 + mean**2 * other / base**4)

    for arm, value, variance in (
        (arms[0], found.control, found.control_variance),
        (arms[1], found.treatment, found.treatment_variance),
    ):
        assert float(value) / time == pytest.approx(arm[0].sum() / arm[1].sum())
        expected = max(unit_variance(*arm), unit_variance(*pooled)) / len(arm[0])
        assert float(variance) / time**2 == pytest.approx(expected)


def test_with_denominators_of_one_a_ratio_is_a_mean() -> None:
    epochs = [(clicks_and_views(units, seed)[0], np.ones(units, int)) for units, seed in ((900, 1), (400, 2))]
    others = [(clicks_and_views(units, seed)[0], np.ones(units, int)) for units, seed in ((300, 3), (800, 4))]
    of_ratio = make_ratio_contrast(pair_sums(*epochs), pair_sums(*others))
    of_mean = make_contrast(pair_sums(*epochs).own, pair_sums(*others).own)
    for one_of, other in zip(
        (of_ratio.treatment / of_ratio.control, of_ratio.treatment_variance, of_ratio.time),
        (of_mean.treatment / of_mean.control, of_mean.treatment_variance, of_mean.time),
        strict=True,
    ):
        assert float(one_of) == pytest.approx(float(other), rel=1e-9)


def test_a_ratio_has_the_same_mixture_of_epochs_in_both_arms() -> None:
    """The ratio doubles from one epoch to the next, and the arms' shares change. Summed over epochs, the arms seem to differ by 50 %."""
    early, late = (100, 1000), (200, 1000)

    def arm(*units: int) -> UnitPairSums:
        return pair_sums(
            *(
                (np.full(count, own), np.full(count, base))
                for count, (own, base) in zip(units, (early, late), strict=True)
            )
        )

    found = make_ratio_contrast(arm(900, 100), arm(100, 900))
    assert float(found.treatment) == pytest.approx(float(found.control))


def test_a_ratio_needs_a_burn_in_of_both_sums_and_denominators_above_zero() -> None:
    arm = clicks_and_views(500, 1)
    few_clicks, few_views = (np.where(np.arange(500) < 29, 1, 0) for _ in range(2))
    for other in ((few_clicks, arm[1]), (arm[0], few_views), (arm[0], -arm[1])):
        found = make_ratio_contrast(pair_sums(arm), pair_sums(other))
        assert float(found.time) == 0
        assert float(found.log_e(1.0, 0.1, 1)) == -math.inf
        assert np.isnan(found.interval(0.1, 3.0)).all()


def test_the_interval_of_one_average_is_that_of_the_normal_mixture() -> None:
    # n·ρ² = 4, so the reach is 3·√(1.25·(log 5 + 2·log 20)/400).
    assert average_interval(10.0, 3.0, 400, 0.1, math.log(20)) == pytest.approx((10 - 0.46236, 10 + 0.46236), abs=5e-6)
