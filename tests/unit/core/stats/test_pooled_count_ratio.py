"""Ratios that are constant over epochs: exactness by enumeration, adaptive epochs, intervals, and needed events."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from sundog_operator.core.stats import count_ratio
from sundog_operator.core.stats.pooled_count_ratio import RatioEvidence, make_mixture

COUNTS = st.integers(0, 400)
EPOCHS = st.lists(st.tuples(COUNTS, COUNTS, st.sampled_from((0.05, 0.25, 0.5, 0.8))), min_size=1, max_size=5)


def evidence(*epochs: tuple[float, float, float], scale: float = 0.1, tested: float = 1.0) -> RatioEvidence:
    control, candidate, weight = np.array(epochs, float).T
    return RatioEvidence(control, candidate, weight, make_mixture(scale), tested)


def e(log_e: np.ndarray) -> float:
    return math.exp(float(log_e))


def test_the_mixture_is_a_distribution() -> None:
    for scale in (0.001, 0.1, 3.0):
        found = make_mixture(scale)
        assert np.exp(found.log_weights).sum() == pytest.approx(1)
        assert (np.diff(found.log_ratios) > 0).all()


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("events", [1, 7, 40])
def test_with_equal_rates_e_is_1_in_expectation(events: int, weight: float) -> None:
    chance = binom.pmf(np.arange(events + 1), events, weight)
    for side in ("above", "below"):
        expected = sum(p * e(getattr(evidence((events - s, s, weight)), side)()) for s, p in enumerate(chance))
        assert expected == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("tested", [0.7, 0.97, 1.03, 1.5])
@pytest.mark.parametrize("weight", [0.1, 0.5])
def test_at_the_tested_ratio_e_is_1_in_expectation(tested: float, weight: float) -> None:
    chance = binom.pmf(np.arange(31), 30, tested * weight / (1 - weight + tested * weight))
    for side in ("above", "below"):
        found = (e(getattr(evidence((30 - s, s, weight), tested=tested), side)()) for s in range(31))
        assert sum(p * each for p, each in zip(chance, found, strict=True)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("control", "candidate", "weight", "tested"), [(100, 150, 0.5, 0.97), (950, 80, 0.05, 1.25), (0, 8, 0.5, 0.9)]
)
def test_evidence_against_a_ratio_is_the_likelihoods_of_the_others(
    control: int, candidate: int, weight: float, tested: float
) -> None:
    """By the definition: the mean of the likelihoods of all ratios of the mixture, divided by that of the tested one."""

    def likelihood(ratio: float) -> float:
        return float(binom.pmf(candidate, control + candidate, ratio * weight / (1 - weight + ratio * weight)))

    mixed, found = make_mixture(0.1), evidence((control, candidate, weight), tested=tested)
    for side, log_e in ((1, found.above()), (-1, found.below())):
        ratios = tested * np.exp(side * mixed.log_ratios)
        mean = (np.exp(mixed.log_weights) * [likelihood(each) for each in ratios]).sum()
        assert e(log_e) == pytest.approx(mean / likelihood(tested), rel=1e-9)


@given(EPOCHS)
def test_estimates_do_not_depend_on_the_tested_ratio(epochs: list[tuple[int, int, float]]) -> None:
    (ratio, _), (other, _) = evidence(*epochs).maximum_likelihood(), evidence(*epochs, tested=0.9).maximum_likelihood()
    assert float(other) == pytest.approx(float(ratio), rel=1e-3, nan_ok=True)


def test_growth_ends_at_the_side_that_reaches_its_own_bar() -> None:
    found, passing, harm = evidence((1000, 1000, 0.5), tested=0.9), math.log(20), math.log(80)
    times = float(found.growth(None, passing, harm))
    grown = evidence((1000 * times, 1000 * times, 0.5), tested=0.9)
    assert float(grown.above()) == pytest.approx(passing, rel=1e-3)
    worse = evidence((1000, 850, 0.5), tested=0.9)
    times = float(worse.growth(None, passing, harm))
    assert float(evidence((1000 * times, 850 * times, 0.5), tested=0.9).below()) == pytest.approx(harm, rel=1e-3)


def test_within_the_null_e_is_below_1_in_expectation() -> None:
    """Also where the rate changes from epoch to epoch, and where the second weight follows the first epoch's events."""
    total = 0.0
    for first in range(13):
        second_weight = 0.8 if first > 4 else 0.2
        for second in range(13):
            chance = binom.pmf(first, 12, count_ratio.treatment_share(0.9, np.array([0.5]))[0]) * binom.pmf(
                second, 12, second_weight
            )
            total += chance * e(evidence((12 - first, first, 0.5), (12 - second, second, second_weight)).above())
    assert 0.5 < total < 1


def test_adaptive_weights_leave_e_at_1() -> None:
    total = 0.0
    for first, second in itertools.product(range(13), range(13)):
        weight = 0.9 if first > 6 else 0.1
        chance = binom.pmf(first, 12, 0.5) * binom.pmf(second, 12, weight)
        total += chance * e(evidence((12 - first, first, 0.5), (12 - second, second, weight)).above())
    assert total == pytest.approx(1, abs=1e-9)


@given(EPOCHS, st.randoms())
def test_order_and_batches_do_not_matter(epochs: list[tuple[int, int, float]], random: object) -> None:
    shuffled = list(epochs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    split = [part for c, x, w in epochs for part in ((c // 3, x // 2, w), (c - c // 3, x - x // 2, w))]
    whole, *others = (evidence(*each) for each in (epochs, shuffled, split))
    for other in others:
        assert float(other.above()) == pytest.approx(float(whole.above()), abs=1e-6)
        assert float(other.below()) == pytest.approx(float(whole.below()), abs=1e-6)
        np.testing.assert_allclose(other.interval(3.0), whole.interval(3.0), rtol=1e-5)


@given(EPOCHS)
def test_arms_are_symmetric(epochs: list[tuple[int, int, float]]) -> None:
    found, mirrored = evidence(*epochs), evidence(*((x, c, 1 - w) for c, x, w in epochs))
    assert float(mirrored.below()) == pytest.approx(float(found.above()), abs=1e-6)
    lower, upper = found.interval(3.0)
    other_lower, other_upper = mirrored.interval(3.0)
    assert 1 / float(other_upper) == pytest.approx(float(lower), rel=1e-5)
    assert (math.inf if other_lower == 0 else 1 / float(other_lower)) == pytest.approx(float(upper), rel=1e-5)


@given(EPOCHS)
def test_more_events_of_the_treatment_are_more_evidence(epochs: list[tuple[int, int, float]]) -> None:
    (c, x, w), *rest = epochs
    assert float(evidence((c, x + 1, w), *rest).above()) > float(evidence(*epochs).above())
    assert float(evidence((c, x + 1, w), *rest).below()) < float(evidence(*epochs).below())


@given(EPOCHS)
def test_the_interval_ends_where_evidence_against_a_ratio_begins(epochs: list[tuple[int, int, float]]) -> None:
    found, bar = evidence(*epochs), math.log(20)
    lower, upper = (float(end) for end in found.interval(bar))
    control, treatment, weight = np.array(epochs, float).T

    def against(ratio: float) -> float:
        """Return log E against a ratio by the mixture's definition."""
        # Logarithms keep the digits of very large ratios, which 1 minus a share would lose.
        whole = np.log(ratio * weight + (1 - weight))
        own = (treatment * (math.log(ratio) - whole) - control * whole).sum()
        log_e = np.logaddexp(float(found.above()), float(found.below())) + math.log(0.45)
        return float(np.logaddexp(log_e, math.log(0.1)) - own)

    if lower > 0:
        assert against(lower) == pytest.approx(bar, abs=1e-4)
        assert against(lower * 0.9) > bar
    if math.isfinite(upper):
        assert against(upper) == pytest.approx(bar, abs=1e-4)
        assert against(upper * 1.1) > bar
    assert (lower == 0) == (treatment.sum() == 0) or lower < 1e-10
    assert math.isfinite(upper) == (control.sum() > 0) or upper > 1e10


@pytest.mark.parametrize(("control", "treatment"), [(1000, 1100), (1000, 900), (50, 70), (10_000, 10_100)])
def test_growth_is_the_factor_of_events_that_decides(control: int, treatment: int) -> None:
    bar = math.log(20)
    times = float(evidence((control, treatment, 0.5)).growth(None, bar))
    assert times > 1
    grown = evidence((control * times, treatment * times, 0.5))
    assert max(float(grown.above()), float(grown.below())) == pytest.approx(bar, rel=1e-3)


def test_growth_until_an_effect_is_excluded() -> None:
    bar, found = math.log(20), evidence((1000, 1000, 0.5))
    times = float(found.growth(np.array(1.05), bar))
    _, upper = evidence((1000 * times, 1000 * times, 0.5)).interval(bar)
    assert float(upper) == pytest.approx(1.05, rel=1e-3)
    assert math.isinf(float(found.growth(None, bar)))


def test_an_effect_far_below_the_scale_is_never_found() -> None:
    assert math.isinf(float(evidence((100_000, 100_100, 0.5)).growth(None, math.log(20))))
    assert math.isfinite(float(evidence((100_000, 100_100, 0.5), scale=0.002).growth(None, math.log(20))))


def test_a_decided_test_needs_no_more() -> None:
    assert float(evidence((1000, 1500, 0.5)).growth(None, math.log(20))) == 1


def test_many_epochs_cost_nothing_where_the_ratio_stays() -> None:
    """With a separate mixture in each epoch, the same events give hardly any evidence."""
    parts = [(20.0, 24.0, 0.5)] * 100
    whole, split = evidence((2000, 2400, 0.5)), evidence(*parts)
    assert float(split.above()) == pytest.approx(float(whole.above())) == pytest.approx(15.6, abs=0.5)
    control, treatment, weight = np.array(parts).T
    assert float(count_ratio.log_e(control, treatment, weight, 1.0)) < 5


@pytest.mark.parametrize("counts", [(0, 0), (0, 12), (12, 0), (10**12, 10**12), (10**12, 2 * 10**12)])
def test_extreme_counts(counts: tuple[int, int]) -> None:
    found = evidence((*counts, 0.5))
    lower, upper = found.interval(3.0)
    assert 0 <= lower <= 1 + (counts[1] > counts[0])
    assert upper >= lower
    for log_e in (found.above(), found.below(), *found.maximum_likelihood()[1:]):
        assert np.isfinite(log_e)
    assert float(found.growth(None, 3.0)) >= 1


def test_effects_of_many_sizes_are_found_fast() -> None:
    """Events at which the expected split reaches the threshold, divided by the least number for any single ratio."""
    bar = math.log(20)
    for effect in (0.05, 0.1, 0.2, 0.5):
        share = (1 + effect) / (2 + effect)
        events = float(evidence((1 - share, share, 0.5), scale=0.1).growth(None, bar))
        best = bar / (share * math.log(2 * share) + (1 - share) * math.log(2 * (1 - share)))
        assert 1.3 < events / best < 1.85


def test_a_fifth_of_the_mixture_is_for_effects_far_larger_than_planned() -> None:
    """Four fifths are half-normal with a deviation of 0.02, one fifth with one of 1."""
    found = make_mixture(0.02)
    weights, ratios = np.exp(found.log_weights), found.log_ratios
    assert weights[ratios > 0.1].sum() == pytest.approx(0.2 * 2 * norm.sf(0.1), rel=0.03)
    assert weights[ratios < 0.02].sum() == pytest.approx(0.8 * 0.6827 + 0.2 * 0.016, rel=0.03)
    assert (weights * ratios).sum() == pytest.approx(math.sqrt(2 / math.pi) * (0.8 * 0.02 + 0.2), rel=0.03)
