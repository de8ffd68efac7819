"""Promises of experiments, in a few hundred simulated ones with a hundred looks each. Larger simulations are benchmarks."""

from collections.abc import Sequence

import numpy as np
import pytest

from sundog_operator.core.stats import group_sequential
from sundog_operator.core.stats.outcome_counts import OutcomeMetric
from sundog_operator.core.stats.power import experiment_simulation
from sundog_operator.core.stats.power.experiment_simulation import (
    NO_WINNER,
    AdaptiveWeights,
    ControlBaseline,
    ExperimentDesign,
    Generator,
    SimulatedExperiments,
    SteadyUnits,
)

RATE = OutcomeMetric("conversion", minimum_effect=0.05)
MEAN = OutcomeMetric("revenue", "mean", minimum_effect=0.05)
HALVES, ADAPTIVE = (0.5, 0.5), AdaptiveWeights()
RUNS, LOOKS = 400, 100


def heavy_tailed(draw: Generator, count: int) -> np.ndarray:
    """Return values of which one in a thousand is 500 times the median."""
    return draw.lognormal(0, 2, count)


def simulate(
    design: ExperimentDesign, world: SteadyUnits, *, runs: int = RUNS, ends: bool = True
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
    ],
)
def test_equal_arms_rarely_win(design: ExperimentDesign, world: SteadyUnits) -> None:
    """At α = 0.05: 26 of 400 runs are 6.5 %."""
    runs = RUNS if len(design.shares) < 5 else RUNS // 2
    assert (simulate(design, world, runs=runs).winner != NO_WINNER).sum() <= 0.065 * runs


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
@pytest.mark.parametrize(("better", "times"), [(0.11, 1.05), (0.12, 1.05), (0.13, 1.35)])
def test_a_better_arm_wins_about_as_fast_as_with_a_fixed_sample(
    metric: OutcomeMetric, better: float, times: float
) -> None:
    """The median beside a fixed sample of 80 % power. An effect of 30 %, where 5 % were planned, takes somewhat longer."""
    found = simulate(ExperimentDesign(metric, HALVES), SteadyUnits(400, (0.1, better)))
    until = np.where(found.winner == 0, found.ended * 400, np.inf)
    drift = group_sequential.required_drift(
        group_sequential.spending_bounds(group_sequential.obrien_fleming, 1, 0.05), 0.8
    )
    once = experiment_simulation.group_sequential_units(
        ExperimentDesign(RATE, HALVES), ControlBaseline(0.1), better / 0.1 - 1, drift
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
