"""Promises of experiments, in a few hundred simulated ones with a hundred looks each. Larger simulations are benchmarks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sundog_operator.core.forecast import experiment_simulation
from sundog_operator.core.forecast.experiment_simulation import (
    NO_WINNER,
    AdaptiveWeights,
    ControlBaseline,
    ExperimentDesign,
    Generator,
    SimulatedExperiments,
    SteadyUnits,
    UnitModel,
)
from sundog_operator.core.stats import outcome_comparison
from sundog_operator.core.stats.outcome_counts import (
    MILLIONTHS,
    OutcomeCounts,
    OutcomeMetric,
    OutcomePairs,
    describe_units,
)

RATE = OutcomeMetric("conversion", minimum_effect=0.05)
ADJUSTED = OutcomeMetric("revenue", "mean", minimum_effect=0.05, adjusted=True)
RATIO = OutcomeMetric("clicks per view", "ratio", minimum_effect=0.05)
MEAN = OutcomeMetric("revenue", "mean", minimum_effect=0.05)
HALVES, ADAPTIVE = (0.5, 0.5), AdaptiveWeights()
RUNS, LOOKS = 400, 100


def heavy_tailed(draw: Generator, count: int) -> np.ndarray:
    """Return values of which one in a thousand is 500 times the median."""
    return draw.lognormal(0, 2, count)


@dataclass(frozen=True)
class Viewers:
    """Units of which half view something, some very often, and click each at a rate of their own.

    Attributes:
        units: expected units per look.
        tail: deviation of the log number of views.
        drift: factor of all click rates at the last look; 1 for none.
        views: each arm's factor of views, control first.
        clicks: each arm's factor of click rates.
        as_requests: whether a view is taken as a unit of its own, as a wrong analysis does.
    """

    units: float = 100
    tail: float = 1.0
    drift: float = 1.0
    views: Sequence[float] = (1.0, 1.0)
    clicks: Sequence[float] = (1.0, 1.0)
    as_requests: bool = False

    def look(self, draw: Generator, number: int, shares: np.ndarray, epoch: int) -> np.ndarray:
        exposed = draw.multinomial(draw.poisson(self.units, len(shares)), shares / shares.sum(-1, keepdims=True))
        cell = np.repeat(np.arange(exposed.size), exposed.reshape(-1))
        arm = cell % shares.shape[-1]
        many = draw.lognormal(1, self.tail, cell.size) * np.asarray(self.views)[arm] * (draw.random(cell.size) < 0.5)
        views = np.floor(many).astype(int)
        rate = draw.beta(0.5, 4.5, cell.size) * np.asarray(self.clicks)[arm] * self._drift(number)
        clicks = draw.binomial(views, np.minimum(rate, 1.0))

        def summed(values: np.ndarray) -> np.ndarray:
            return np.bincount(cell, values, exposed.size).reshape(exposed.shape)

        found = np.zeros((9, *exposed.shape, epoch + 1))
        own, base = summed(clicks) * MILLIONTHS, summed(views) * MILLIONTHS
        if self.as_requests:
            number_of = summed(views)
            found[..., epoch] = number_of, number_of, number_of, own, own * MILLIONTHS, *[np.zeros_like(own)] * 4
            return found
        squares, other_squares, products = (
            summed(one * other) * MILLIONTHS**2 for one, other in ((clicks, clicks), (views, views), (clicks, views))
        )
        clicked, viewed = summed(clicks > 0), summed(views > 0)
        found[..., epoch] = exposed, clicked, clicked, own, squares, viewed, base, other_squares, products
        return found

    def _drift(self, number: int) -> float:
        return 1 + (self.drift - 1) * number / LOOKS


@dataclass(frozen=True)
class Spenders:
    """Units with a history, which says something about what they spend.

    Attributes:
        correlation: of both values of a unit.
        heavy: whether values are lognormal and a third has no history; else they are normal.
        factor: the arm's factor of what is spent.
        drift: factor of what is spent at the last look; 1 for none.
        units: expected units per look.
    """

    correlation: float
    heavy: bool = False
    factor: float = 1.0
    drift: float = 1.0
    units: float = 100

    def look(self, draw: Generator, number: int, shares: np.ndarray, epoch: int) -> np.ndarray:
        exposed = draw.multinomial(draw.poisson(self.units, len(shares)), shares / shares.sum(-1, keepdims=True))
        cell = np.repeat(np.arange(exposed.size), exposed.reshape(-1))
        before, other = draw.normal(size=(2, cell.size))
        if self.heavy:
            before, other = np.exp(before) * (draw.random(cell.size) < 2 / 3), np.exp(other)
        own = self.correlation * before + math.sqrt(1 - self.correlation**2) * other
        own = (own if self.heavy else own + 1 / 3) * np.where(cell % 2, self.factor, 1) * self._drift(number)

        def summed(values: np.ndarray) -> np.ndarray:
            return np.bincount(cell, values, exposed.size).reshape(exposed.shape)

        total, squares, other_total, other_squares, product = map(
            summed, (own, own**2, before, before**2, own * before)
        )
        found, million = np.zeros((9, *exposed.shape, epoch + 1)), MILLIONTHS
        found[:5, ..., epoch] = exposed, exposed, exposed, total * million, squares * million**2
        found[5:, ..., epoch] = exposed, other_total * million, other_squares * million**2, product * million**2
        return found

    def _drift(self, number: int) -> float:
        return 1 + (self.drift - 1) * number / LOOKS


def simulate(
    design: ExperimentDesign, world: UnitModel, *, runs: int = RUNS, ends: bool = True
) -> SimulatedExperiments:
    return experiment_simulation.simulate_experiments(design, world, runs=runs, looks=LOOKS, seed=11, ends=ends)


@pytest.mark.parametrize(
    ("design", "world"),
    [
        (ExperimentDesign(RATE, HALVES), SteadyUnits(400, (0.1, 0.1))),
        (ExperimentDesign(RATE, (0.9, 0.1)), SteadyUnits(400, (0.1, 0.1), drift=0.3, over=LOOKS)),
        (ExperimentDesign(RATE, HALVES), SteadyUnits(400, (0.1, 0.1), delay=20)),
        (ExperimentDesign(RATE, HALVES, adaptive=ADAPTIVE), SteadyUnits(400, (0.1, 0.1))),
        (
            ExperimentDesign(RATE, HALVES, adaptive=ADAPTIVE),
            SteadyUnits(400, (0.05, 0.05), delay=20, drift=4, over=LOOKS),
        ),
        (ExperimentDesign(RATE, (0.1,) * 10, tests=9), SteadyUnits(1000, (0.1,) * 10)),
        (ExperimentDesign(RATE, (0.25,) * 4, tests=3, adaptive=ADAPTIVE), SteadyUnits(800, (0.1,) * 4)),
        (ExperimentDesign(MEAN, HALVES), SteadyUnits(400, (0.1, 0.1), heavy_tailed)),
        (ExperimentDesign(MEAN, (0.9, 0.1)), SteadyUnits(400, (0.1, 0.1), heavy_tailed)),
        (ExperimentDesign(MEAN, (0.1, 0.9)), SteadyUnits(400, (0.1, 0.1), heavy_tailed)),
        (ExperimentDesign(MEAN, HALVES, adaptive=ADAPTIVE), SteadyUnits(400, (0.1, 0.1), heavy_tailed)),
        (ExperimentDesign(MEAN, HALVES, adaptive=ADAPTIVE), SteadyUnits(400, (0.1, 0.1), drift=4, over=LOOKS)),
        (ExperimentDesign(ADJUSTED, HALVES), Spenders(0.7)),
        (ExperimentDesign(ADJUSTED, (0.9, 0.1)), Spenders(0.9, heavy=True, drift=4.0)),
        (ExperimentDesign(ADJUSTED, HALVES, adaptive=ADAPTIVE), Spenders(0.7, heavy=True, drift=4.0)),
        (ExperimentDesign(RATIO, HALVES), Viewers()),
        (ExperimentDesign(RATIO, HALVES), Viewers(views=(1.0, 2.0))),
        (ExperimentDesign(RATIO, (0.9, 0.1)), Viewers(tail=2.0, drift=4.0)),
        (ExperimentDesign(RATIO, HALVES, adaptive=ADAPTIVE), Viewers(drift=4.0)),
    ],
)
def test_equal_arms_rarely_win(design: ExperimentDesign, world: UnitModel) -> None:
    """At α = 0.05: 26 of 400 runs are 6.5 %."""
    runs = RUNS if len(design.shares) < 5 else RUNS // 2
    assert (simulate(design, world, runs=runs).winner != NO_WINNER).sum() <= 0.065 * runs


def test_views_that_were_taken_as_units_would_win_often() -> None:
    """A check that the simulation can fail: views of a user depend on each other."""
    found = simulate(ExperimentDesign(MEAN, HALVES), Viewers(tail=2.0, as_requests=True), runs=100)
    assert (found.winner != NO_WINNER).sum() > 30


@pytest.mark.parametrize("correlation", [0.5, 0.7, 0.9])
def test_a_covariate_saves_the_units_that_it_explains(correlation: float) -> None:
    """A share of 1 − ρ² is needed, and some more, because the mixture is tuned without knowing ρ."""
    world = Spenders(correlation, factor=1.2, units=300)
    plain, adjusted = (
        np.median(np.where(found.winner == 0, found.ended, np.inf))
        for found in (
            simulate(ExperimentDesign(replace(MEAN, minimum_effect=0.2, adjusted=each), HALVES), world, runs=100)
            for each in (False, True)
        )
    )
    assert 1 - correlation**2 - 0.05 < adjusted / plain < 1 - correlation**2 + 0.12


def test_a_better_ratio_wins() -> None:
    found = simulate(ExperimentDesign(RATIO, HALVES), Viewers(400, clicks=(1.0, 1.3), views=(1.0, 0.7)), runs=100)
    assert (found.winner == 0).sum() >= 95


@pytest.mark.parametrize("likelihood", [0.7, 4.4, 400.0])
def test_half_of_all_decisions_come_before_the_expected_evidence_suffices(likelihood: float) -> None:
    """Scipy's inverse Gaussian distribution has the mean `mu` times `scale`."""
    shape = likelihood / 2
    expected = stats.invgauss(mu=1 / shape, scale=shape).median()
    assert experiment_simulation.median_first_passage(likelihood) == pytest.approx(expected, abs=2e-4)


def test_a_ratio_takes_about_as_long_as_its_forecast() -> None:
    """By control's deviation of linearised units. Clicks of the better arm vary a third more, so it takes somewhat longer."""
    world, design = Viewers(400, clicks=(1.0, 1.3)), ExperimentDesign(RATIO, HALVES)
    counts = world.look(np.random.default_rng(1), 0, np.tile([1.0, 0.0], (100, 1)), 0)[:, :, 0, 0].sum(-1)
    known = describe_units(RATIO, [OutcomeCounts(*map(int, counts))])
    assert known is not None
    found = simulate(design, world, runs=100)
    median = np.median(np.where(found.winner == 0, found.ended * 400, np.inf))
    assert 0.9 < median / experiment_simulation.expected_units(design, ControlBaseline(*known), 0.3) < 1.5


def test_the_interval_of_a_ratio_holds_at_every_look() -> None:
    """At α = 0.05 it misses the true ratio of 1.2 at some look in at most 5 % of runs: 13 of 200 are 6.5 %."""
    world, draw, runs = Viewers(400, clicks=(1.0, 1.2), views=(1.0, 1.5)), np.random.default_rng(7), 200
    counts, missed = np.zeros((9, runs, 2, 1)), np.zeros(runs, bool)
    for number in range(LOOKS):
        counts += world.look(draw, number, np.full((runs, 2), 0.5), 0)
        control: Any = counts[:, :, :1]
        treatment: Any = counts[:, :, 1:]
        pairs = OutcomePairs(control, treatment, np.full((runs, 1, 1), 0.5))
        found = outcome_comparison.compare_pairs(RATIO, pairs, math.log(20))
        missed |= ((found.lower > 0.2) | (found.upper < 0.2))[:, 0]
    assert missed.sum() <= 0.065 * runs
    assert (found.upper - found.lower).max() < 0.6


def test_epochs_that_were_pooled_would_win_often() -> None:
    """A check that the simulation can fail: the base rate rises with the weights, and epochs are ignored."""
    world = SteadyUnits(400, (0.05, 0.05), drift=4, over=LOOKS)
    found = experiment_simulation.simulate_experiments(
        ExperimentDesign(RATE, HALVES), _Ramped(world), runs=100, looks=LOOKS, seed=3
    )
    assert (found.winner != NO_WINNER).sum() > 50


class _Ramped:
    """Weights that change without a new epoch."""

    def __init__(self, world: SteadyUnits) -> None:
        self._world = world

    def look(self, draw: Generator, number: int, shares: np.ndarray, epoch: int) -> np.ndarray:
        treatment = 0.5 + 0.4 * number / LOOKS
        return self._world.look(draw, number, np.broadcast_to([1 - treatment, treatment], shares.shape), epoch)


@pytest.mark.extended
@pytest.mark.parametrize("metric", [RATE, MEAN])
@pytest.mark.parametrize(("better", "times"), [(0.11, 1.05), (0.12, 1.1), (0.13, 1.35)])
def test_a_better_arm_wins_about_as_fast_as_with_a_fixed_sample(
    metric: OutcomeMetric, better: float, times: float
) -> None:
    """The median beside a fixed sample of 80 % power. An effect of 30 %, where 5 % were planned, takes somewhat longer."""
    found = simulate(ExperimentDesign(metric, HALVES), SteadyUnits(400, (0.1, better)))
    until = np.where(found.winner == 0, found.ended * 400, np.inf)
    once = experiment_simulation.fixed_sample_units(
        ExperimentDesign(RATE, HALVES, alpha=0.025), ControlBaseline(0.1), better / 0.1 - 1, power=0.8
    )
    assert np.median(until) < times * once
    assert not found.hopeless.any()


def regret(found: SimulatedExperiments, rates: Sequence[float]) -> float:
    """Return the outcomes that a run lacks because not all units had the best arm."""
    return float((found.units * (max(rates) - np.array(rates))).sum(-1).mean())


@pytest.mark.extended
@pytest.mark.parametrize("rates", [(0.1, 0.12), (0.1, 0.09, 0.11, 0.13)])
def test_adaptive_weights_have_less_regret_and_the_same_winner(rates: tuple[float, ...]) -> None:
    shares, tests, right = (1 / len(rates),) * len(rates), len(rates) - 1, len(rates) - 2
    world = SteadyUnits(300 * len(rates), rates)
    fixed, moving = (
        simulate(ExperimentDesign(RATE, shares, tests=tests, adaptive=rule), world, runs=100, ends=False)
        for rule in (None, ADAPTIVE)
    )
    assert regret(moving, rates) < 0.6 * regret(fixed, rates)
    assert (moving.winner == right).mean() > 0.9
    assert ((moving.winner != right) & (moving.winner != NO_WINNER)).sum() <= 3


def test_experiments_without_an_effect_end() -> None:
    found = simulate(
        ExperimentDesign(OutcomeMetric("conversion", minimum_effect=0.3), HALVES),
        SteadyUnits(400, (0.1, 0.1)),
        runs=100,
    )
    assert found.hopeless.mean() > 0.9


def test_the_same_seed_gives_the_same_result() -> None:
    design, world = ExperimentDesign(RATE, HALVES, adaptive=ADAPTIVE), SteadyUnits(400, (0.1, 0.12), delay=5)
    first, second = (simulate(design, world, runs=20) for _ in range(2))
    for one, other in ((first.winner, second.winner), (first.ended, second.ended), (first.units, second.units)):
        np.testing.assert_array_equal(one, other)
