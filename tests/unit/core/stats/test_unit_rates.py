"""Test of rates over units that stay with an arm: what is exact, and what simulation shows."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from sundog_operator.core.stats.unit_rates import MIN_UNITS, UnitEvents


def of_assignment(treatment: Any, weight: list[float], *, seed: int = 3) -> UnitEvents:
    """Return the counts of units whose events do not depend on their arm, of shape (epochs, units)."""
    draw, shape = np.random.default_rng(seed), np.shape(treatment)
    requests = draw.integers(0, 30, shape).astype(float)
    before = draw.integers(0, 50, shape[-1]).astype(float)
    return UnitEvents(
        requests,
        draw.binomial(requests.astype(int), 0.2).astype(float),
        np.asarray(treatment, bool),
        np.array(weight),
        before,
        draw.binomial(before.astype(int), 0.2).astype(float),
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_the_mean_of_e_over_all_assignments_is_one(sign: int) -> None:
    """Ten units in one epoch, and six over three epochs in which the weight grows, each assignment by its probability."""
    mean = 0.0
    for treatment in itertools.product((False, True), repeat=10):
        chance = math.prod(0.2 if each else 0.8 for each in treatment)
        mean += chance * math.exp(of_assignment([treatment], [0.2]).test(1.0).log_e(sign))
    assert mean == pytest.approx(1)
    weights, mean = [0.05, 0.25, 0.5], 0.0
    ranges, chances = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]]), [0.05, 0.2, 0.25, 0.5]
    for places in itertools.product(range(4), repeat=6):
        chance = math.prod(chances[place] for place in places)
        mean += chance * math.exp(of_assignment(ranges[[*places]].T, weights).test(1.0).log_e(sign))
    assert mean == pytest.approx(1)


def test_arms_and_weights_may_come_in_any_order_of_epochs() -> None:
    counts = of_assignment([[True, True, False, False], [True, False, False, False]], [0.5, 0.25])
    other = UnitEvents(
        counts.requests[::-1],
        counts.events[::-1],
        counts.is_treatment[::-1],
        counts.weight[::-1],
        counts.requests_before,
        counts.events_before,
    )
    assert other.test(1.25).log_e(1) == pytest.approx(counts.test(1.25).log_e(1))


def drawn(
    ratio: float, weight: float, *, units: int = 1000, before: float = 144.0, runs: int = 1, seed: int = 1
) -> UnitEvents:
    """Return the counts of uneven units with 144 requests each on average: an hour of 40 a second, of shape (runs, 1, units)."""
    draw, shape = np.random.default_rng(seed), (runs, 1, units)
    often, rate = draw.lognormal(0, 1.5, shape), draw.beta(0.2, 6.0, shape)
    often /= often.mean(-1, keepdims=True)
    treatment = draw.random(shape) < weight
    requests, earlier = draw.poisson(144.0 * often), draw.poisson(before * often)
    events = draw.binomial(requests, np.minimum(rate * np.where(treatment, ratio, 1.0), 1.0))
    return UnitEvents(
        requests.astype(float),
        events.astype(float),
        treatment,
        np.full((runs, 1), weight),
        earlier[:, 0].astype(float),
        draw.binomial(earlier, rate)[:, 0].astype(float),
    )


@pytest.mark.parametrize("weight", [0.05, 0.25, 0.5])
def test_at_the_margin_neither_side_is_found(weight: float) -> None:
    test = drawn(1.25, weight, units=MIN_UNITS, runs=400).test(1.25)
    for sign in (1, -1):
        assert (test.log_e(sign) >= math.log(20)).mean() <= 0.05


def test_earlier_behavior_finds_what_a_test_without_it_does_not() -> None:
    for ratio, sign in ((2.0, 1), (1.0, -1)):
        found, blind = (
            (drawn(ratio, 0.5, before=before, runs=60).test(1.25).log_e(sign) >= math.log(40)).mean()
            for before in (144.0, 0.0)
        )
        assert found >= 0.8 > blind + 0.2


def test_a_treatment_without_events_has_an_upper_bound_and_no_lower_one() -> None:
    counts = drawn(0.0, 0.5, runs=3)
    lower, upper = counts.interval(np.full(3, math.log(20)))
    assert (lower == 0).all()
    assert (upper < 0.1).all()
    assert (counts.test(upper).log_e(-1) >= math.log(20) - 1e-3).all()


def test_the_estimate_is_that_of_the_rates_and_in_the_interval() -> None:
    counts = drawn(1.6, 0.5, runs=20)
    lower, upper = counts.interval(np.full(20, math.log(20)))
    ratio = counts.estimate_ratio()
    assert np.median(ratio) == pytest.approx(1.6, rel=0.05)
    assert ((lower < ratio) & (ratio < upper)).all()
    for end, sign in ((lower, 1), (upper, -1)):
        # Next to a ratio of 1 the mixture changes.
        assert counts.test(end).log_e(sign) == pytest.approx(np.full(20, math.log(20)), abs=0.05)


def test_a_heavy_unit_weighs_no_more_than_its_cap() -> None:
    """One unit with half of all requests fails in the treatment alone."""
    counts = drawn(1.0, 0.5, seed=4)
    counts.requests[0, 0, 0] = counts.requests.sum()
    counts.events[0, 0, 0] = counts.requests[0, 0, 0] / 2
    counts.is_treatment[0, 0, 0] = True
    assert counts.test(1.25).log_e(1) < math.log(20)


def test_units_without_requests_change_nothing() -> None:
    counts = drawn(1.3, 0.5)
    more = UnitEvents(
        *(
            np.concatenate([part, np.zeros_like(part)], -1)
            for part in (counts.requests, counts.events, counts.is_treatment)
        ),
        counts.weight,
        *(np.concatenate([part, part], -1) for part in (counts.requests_before, counts.events_before)),
    )
    before = counts.requests_before[0]
    assert np.quantile(before, 0.9) == np.quantile(np.tile(before, 2), 0.9)
    assert more.test(1.25).log_ratio == pytest.approx(counts.test(1.25).log_ratio, rel=0.05)


def test_without_events_nothing_is_known() -> None:
    counts = drawn(1.0, 0.5, runs=2)
    counts.events[0] = 0
    test = counts.test(1.25)
    assert (test.log_e(1)[0], test.log_e(-1)[0]) == (0, 0)
    assert math.isnan(test.log_ratio[0])
    assert math.isinf(test.error[0])
    assert [*counts.usable] == [False, True]


def test_few_units_are_not_usable() -> None:
    assert [*drawn(1.0, 0.5, units=MIN_UNITS - 1).usable] == [False]
    assert drawn(1.0, 0.5, runs=3).usable.all()


def test_older_epochs_count_only_where_they_are_wanted() -> None:
    counts = of_assignment([[True, True, False, False], [True, True, True, False]], [0.25, 0.5])
    alone = counts.newest()
    assert alone.requests.shape == (1, 4)
    kept = counts.of_epochs(np.array([False, True]))
    assert kept.test(1.25).log_e(1) == pytest.approx(alone.test(1.25).log_e(1))


def test_half_of_the_evidence_for_a_gate_is_about_equal_arms() -> None:
    """E is at least half of exp(λS − K(λ)) at the tilt λ of a ratio of 1."""
    found = of_assignment(np.arange(2000)[None] % 2 == 0, [0.5]).test(1.25)
    tilt = -math.log(1.25) * float(found.information / found.variance)
    cumulants = np.log((found.chance[:, None] * np.exp(tilt * found.scores)).sum(0)).sum()
    assert float(found.log_e(-1)) > tilt * float(found.observed) - float(cumulants) - math.log(2) > 0
