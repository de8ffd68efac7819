"""Means of values in [0, 1]: the published intervals and mixtures, batches beside single values, and coverage."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from sundog_operator.core.evidence import bounded


@pytest.mark.parametrize(("count", "lower", "upper"), [(100, 0.324454, 0.672589), (1000, 0.436191, 0.562252)])
def test_zeros_and_ones_in_turn(count: int, lower: float, upper: float) -> None:
    found = bounded.in_order(np.tile([0.0, 1.0], 500), 0.05)
    assert [float(end[count - 1]) for end in found] == pytest.approx([lower, upper], abs=5e-7)


def test_the_mixture() -> None:
    """A sum of 10 at an intrinsic time of 100 with a scale of 2, tuned for 100; then the bound at 0.05."""
    assert bounded.log_e_above(10, 100, 100, 2.0, 0.05) == pytest.approx(-0.2490165, abs=5e-8)
    bound = brentq(lambda total: bounded.log_e_above(total, 100, 100, 2.0, 0.05) - math.log(20), 1, 100)
    assert bound == pytest.approx(33.02017, abs=5e-6)


def test_the_distance_to_a_bound() -> None:
    assert bounded.distance(50, 1000, 50, 0.025) == pytest.approx(0.024649, abs=5e-7)


def test_batches_of_one_value_are_values_in_order() -> None:
    values = np.array([0.2, 0.9, 0.4, 0.4])
    before = np.array([0.5, 0.2, 0.55, 0.5])
    assert bounded.intrinsic_time(np.ones(4), values, values**2) == pytest.approx(((values - before) ** 2).sum())


def test_an_empty_batch_changes_nothing() -> None:
    count, total, squares = np.array([10.0, 5.0]), np.array([4.0, 1.0]), np.array([3.0, 0.5])
    with_nothing = [np.array([0.0, each[0], 0.0, each[1]]) for each in (count, total, squares)]
    assert bounded.intrinsic_time(*with_nothing) == pytest.approx(bounded.intrinsic_time(count, total, squares))


def test_of_few_values_nothing_is_known() -> None:
    assert bounded.distance(0.25, 1, 50, 0.025) == 1
    lower, upper = bounded.in_order(np.array([1.0]), 0.05)
    assert (lower[0], upper[0]) == (0, 1)


@pytest.mark.parametrize("a", [0.05, 2.0])
def test_the_mean_is_seldom_outside_at_any_look(a: float) -> None:
    """Also where nearly every value is 0 and a few are large, of which an interval for many values would have too few."""
    values = np.random.default_rng(9).beta(a, 2.0, (600, 1000))
    lower, upper = bounded.in_order(values, 0.05)
    mean = a / (a + 2)
    outside = ((mean < lower) | (mean > upper)).any(-1)
    assert outside.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


def test_batches_bound_the_mean_at_every_look() -> None:
    runs, batches, size = 300, 20, 50
    values = np.random.default_rng(10).beta(0.05, 2.0, (runs, batches, size))
    total, squares, count = values.sum(-1), (values**2).sum(-1), np.full(batches, float(size))
    mean, outside = 0.05 / 2.05, 0
    for run in range(runs):
        for look in range(1, batches + 1):
            time = bounded.intrinsic_time(count[:look], total[run, :look], squares[run, :look])
            reach = bounded.distance(time, size * look, 20, 0.05)
            if total[run, :look].sum() / (size * look) - reach > mean:
                outside += 1
                break
    assert outside / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
