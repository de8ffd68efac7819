"""Promises of experiments, by simulation: the rate of false winners, the time to a winner, and the cost of an evaluation.

Seeds are fixed. Only the last part measures the machine.
"""

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from measuring.record import Record
from simulated_buyers import Returning
from simulated_rates import false_rates
from sundog_operator.core.forecast import experiment_simulation
from sundog_operator.core.forecast.experiment_simulation import (
    NO_WINNER,
    AdaptiveWeights,
    ControlBaseline,
    ExperimentDesign,
    Generator,
    NormalUnits,
    SimulatedExperiments,
    SteadyUnits,
    UnitModel,
)
from sundog_operator.core.stats import outcome_comparison
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeEpoch, OutcomeMetric

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

LOOKS = 100
RATE, MEAN = (OutcomeMetric("conversion", minimum_effect=0.05), OutcomeMetric("revenue", "mean", minimum_effect=0.05))
TWO, TEN, FEW = (0.5, 0.5), (0.1,) * 10, (0.9, 0.1)
MOVING = AdaptiveWeights(every=5)
ROUNDS = 200


def lognormal(draw: Generator, count: int) -> np.ndarray:
    return draw.lognormal(0, 2, count)


def pareto(draw: Generator, count: int) -> np.ndarray:
    """Without a variance."""
    return draw.pareto(1.5, count) + 1


def either(draw: Generator, count: int) -> np.ndarray:
    """Gains and losses, with a sum of about 0."""
    return draw.normal(0, 10, count)


def test_how_often_nobodys_win_is_declared() -> None:
    ten = {"tests": 9}
    rows: list[tuple[str, str, ExperimentDesign, UnitModel, int]] = [
        ("rate of 10 %", "2", ExperimentDesign(RATE, TWO), SteadyUnits(400, (0.1,) * 2), 400),
        ("rate of 0.5 %", "2", ExperimentDesign(RATE, TWO), SteadyUnits(4000, (0.005,) * 2), 400),
        ("rate of 60 %", "2", ExperimentDesign(RATE, TWO), SteadyUnits(200, (0.6,) * 2), 400),
        ("rate of 10 %", "10", ExperimentDesign(RATE, TEN, **ten), SteadyUnits(2000, (0.1,) * 10), 200),
        (
            "rate of 10 %, outcomes come 20 looks later",
            "2",
            ExperimentDesign(RATE, TWO),
            SteadyUnits(400, (0.1,) * 2, delay=20),
            400,
        ),
        (
            "rate of 5 % that rises to 20 %, 10 % of units",
            "2",
            ExperimentDesign(RATE, FEW),
            SteadyUnits(400, (0.05,) * 2, drift=4, over=LOOKS),
            2000,
        ),
        (
            "rate of 10 %, thompson",
            "2",
            ExperimentDesign(RATE, TWO, adaptive=MOVING),
            SteadyUnits(400, (0.1,) * 2),
            400,
        ),
        (
            "rate of 5 % that rises to 20 %, 20 looks late, thompson",
            "2",
            ExperimentDesign(RATE, TWO, adaptive=MOVING),
            SteadyUnits(400, (0.05,) * 2, delay=20, drift=4, over=LOOKS),
            400,
        ),
        (
            "rate of 10 %, thompson",
            "4",
            ExperimentDesign(RATE, (0.25,) * 4, tests=3, adaptive=MOVING),
            SteadyUnits(800, (0.1,) * 4),
            400,
        ),
        ("mean, one in ten has 1", "2", ExperimentDesign(MEAN, TWO), SteadyUnits(400, (0.1,) * 2), 400),
        (
            "mean, lognormal with σ = 2 of one in ten",
            "2",
            ExperimentDesign(MEAN, TWO),
            SteadyUnits(400, (0.1,) * 2, lognormal),
            400,
        ),
        ("the same, 10 % of the units", "2", ExperimentDesign(MEAN, FEW), SteadyUnits(400, (0.1,) * 2, lognormal), 400),
        (
            "the same, 90 % of the units",
            "2",
            ExperimentDesign(MEAN, FEW[::-1]),
            SteadyUnits(400, (0.1,) * 2, lognormal),
            400,
        ),
        (
            "the same, equal shares",
            "10",
            ExperimentDesign(MEAN, TEN, **ten),
            SteadyUnits(2000, (0.1,) * 10, lognormal),
            200,
        ),
        (
            "mean, pareto with an index of 1.5, 90 % of the units",
            "2",
            ExperimentDesign(MEAN, FEW[::-1]),
            SteadyUnits(400, (0.1,) * 2, pareto),
            1000,
        ),
        (
            "mean, gains and losses around 0",
            "2",
            ExperimentDesign(MEAN, TWO),
            SteadyUnits(400, (0.5,) * 2, either),
            400,
        ),
        ("mean, normal", "2", ExperimentDesign(MEAN, TWO), NormalUnits(400, (1.0, 1.0), 3.0), 400),
        ("mean, normal", "10", ExperimentDesign(MEAN, TEN, **ten), NormalUnits(2000, (1.0,) * 10, 3.0), 200),
        (
            "mean that rises fourfold, thompson",
            "2",
            ExperimentDesign(MEAN, TWO, adaptive=MOVING),
            SteadyUnits(400, (0.05,) * 2, drift=4, over=LOOKS),
            400,
        ),
        (
            "mean, lognormal, thompson",
            "2",
            ExperimentDesign(MEAN, TWO, adaptive=MOVING),
            SteadyUnits(400, (0.1,) * 2, lognormal),
            400,
        ),
        ("rate of users who come back", "2", ExperimentDesign(RATE, TWO), Returning(20, LOOKS), 100),
        ("mean of users who come back", "2", ExperimentDesign(MEAN, TWO), Returning(20, LOOKS), 100),
        ("the same, lognormal users", "2", ExperimentDesign(MEAN, TWO), Returning(20, LOOKS, lognormal), 100),
        (
            "the same, thompson, more and more events",
            "2",
            ExperimentDesign(MEAN, TWO, adaptive=MOVING),
            Returning(20, LOOKS, drift=4),
            400,
        ),
    ]
    title = f"Arms that are all alike, α = 5 %, looked at {LOOKS} times"
    record = Record("experiments_errors", title, ("success metric", "arms", "runs", "a winner", "none can win"))
    levels = {}
    for seed, (name, arms, design, world, runs) in enumerate(rows):
        found = experiment_simulation.simulate_experiments(design, world, runs=runs, looks=LOOKS, seed=seed)
        levels[name, arms] = float((found.winner != NO_WINNER).mean())
        record.add(name, arms, str(runs), f"{levels[name, arms]:.1%}", f"{found.hopeless.mean():.1%}")
    record.finish()
    assert max(levels.values()) <= 0.065, levels


def test_how_long_a_win_takes() -> None:
    columns = ("control", "the better arm", "arms", "one look, 80 %", "median", "80 %", "wins", "wrong wins")
    record = Record(
        "experiments_power", "Units of all arms until the right arm wins; 5 % was planned for, α = 5 %", columns
    )
    for metric, base, better, arms in (
        *((metric, 0.1, better, 2) for metric in (RATE, MEAN) for better in (0.05, 0.1, 0.2, 0.5)),
        (RATE, 0.01, 0.2, 2),
        (RATE, 0.5, 0.05, 2),
        (MEAN, 0.5, 0.05, 2),
        (RATE, 0.1, 0.1, 10),
        (MEAN, 0.1, 0.1, 10),
    ):
        one_look = ExperimentDesign(RATE, (1 / arms,) * arms, alpha=0.025, tests=arms - 1)
        once = experiment_simulation.fixed_sample_units(one_look, ControlBaseline(base), better, power=0.8)
        world = SteadyUnits(3 * once / LOOKS, (base, base * (1 + better), *[base] * (arms - 2)))
        design = ExperimentDesign(metric, (1 / arms,) * arms, tests=arms - 1)
        found = experiment_simulation.simulate_experiments(
            design, world, runs=400 if arms == 2 else 100, looks=LOOKS, seed=7
        )
        right, wrong = found.winner == 0, (found.winner != NO_WINNER) & (found.winner != 0)
        units = np.where(right, found.ended / LOOKS * 3, np.inf)
        late = np.quantile(units, 0.8, method="higher")
        record.add(
            f"{metric.type} of {base:.0%}",
            f"{better:+.0%}",
            str(arms),
            f"{once:.0f}",
            f"{np.median(units):.2f} ×",
            f"{late:.2f} ×" if np.isfinite(late) else "–",
            f"{right.mean():.0%}",
            f"{wrong.mean():.1%}",
        )
        assert wrong.mean() <= 0.065
        assert np.median(units) <= 2
    record.finish()


def test_rates_beside_means() -> None:
    """A rate takes at most a tenth more units than the mean of the same zeros and ones."""
    tests = ("rate of earlier releases", RATE), ("mean", MEAN), ("rate", replace(RATE, by_units=True))
    title = "Median units of both arms until the right arm wins, 400 runs, looked at 60 times"
    record = Record("experiments_rates", title, ("control", "the better arm", *(name for name, _ in tests)))
    for base, better, total in ((0.2, 0.2, 12_000), (0.5, 0.15, 8000), (0.72, 0.07, 20_000), (0.9, 0.025, 80_000)):
        medians = {}
        for name, metric in tests:
            design = ExperimentDesign(replace(metric, minimum_effect=better), TWO)
            world = SteadyUnits(total / 60, (base, base * (1 + better)))
            found = experiment_simulation.simulate_experiments(design, world, runs=400, looks=60, seed=5)
            medians[name] = float(np.median(np.where(found.winner == 0, found.ended * total / 60, np.inf)))
        record.add(f"{base:.0%}", f"{better:+.1%}", *(f"{each:.0f}" for each in medians.values()))
        assert medians["rate"] <= 1.1 * medians["mean"]
    record.finish()


def test_how_often_a_rate_is_wrong() -> None:
    """At each margin, share and side, 2000 experiments of 40 looks."""
    columns = ("rate", "share of the arm", "ratio tested", "above", "below")
    record = Record("experiments_rate_errors", "Arms exactly at the tested ratio, α = 5 %, looked at 40 times", columns)
    worst = 0.0
    for base, share, tested in itertools.product(
        (0.001, 0.01, 0.1, 0.5, 0.72, 0.9, 0.97, 0.99, 0.999), (0.5, 0.9, 0.1), (1.0, 0.9, 1.1)
    ):
        if base * tested > 1:
            continue
        units = 5000 if base < 0.01 else 500
        wrong = false_rates(base, share, tested, units=units, runs=2000, looks=40)
        record.add(f"{base:.1%}", f"{share:.0%}", f"{tested:g}", *(f"{each:.1%}" for each in wrong))
        worst = max(worst, *wrong)
    record.finish()
    assert worst <= 0.05


def test_weights_that_move() -> None:
    columns = ("rates", "weights", "runs", "the best wins", "another wins", "median look", "outcomes forgone")
    title = f"Fixed weights and thompson (δ = 20 %, floor 5 %), 200 units an arm and look, all {LOOKS} looks"
    record = Record("experiments_adaptive", title, columns)
    for rates in ((0.1, 0.11), (0.1, 0.12), (0.1, 0.09, 0.11, 0.13), (*(0.1,) * 9, 0.12)):
        forgone = {}
        for name, rule in (("fixed", None), ("thompson", MOVING)):
            design = ExperimentDesign(RATE, (1 / len(rates),) * len(rates), tests=len(rates) - 1, adaptive=rule)
            found = experiment_simulation.simulate_experiments(
                design, SteadyUnits(200 * len(rates), rates), runs=100, looks=LOOKS, seed=3, ends=False
            )
            best = found.winner == len(rates) - 2
            forgone[name] = _forgone(found, rates)
            until = np.where(best, found.ended, np.inf)
            record.add(
                " ".join(f"{rate:.0%}" for rate in dict.fromkeys(rates))
                + (" (nine of 10 %)" if len(rates) == 10 else ""),
                name,
                "100",
                f"{best.mean():.0%}",
                f"{((found.winner != NO_WINNER) & ~best).mean():.1%}",
                f"{np.median(until):.0f}" if np.isfinite(np.median(until)) else "–",
                f"{forgone[name]:.0f}",
            )
        assert forgone["thompson"] < forgone["fixed"]
    record.finish()


def _forgone(found: SimulatedExperiments, rates: Sequence[float]) -> float:
    return float((found.units * (max(rates) - np.array(rates))).sum(-1).mean())


def test_what_it_costs() -> None:
    metrics = [OutcomeMetric("conversion", minimum_effect=0.02), OutcomeMetric("refunds", goal="decrease"), MEAN]
    epochs = [
        OutcomeEpoch([1] * 10, [[_of(10_000, 1000 + 7 * arm + metric) for arm in range(10)] for metric in range(3)])
        for _ in range(10)
    ]
    outcome_comparison.evaluate_outcomes(metrics, epochs, 0.05)
    spent = []
    for _ in range(ROUNDS):
        started = time.process_time_ns()
        found = outcome_comparison.evaluate_outcomes(metrics, epochs, 0.05, elapsed_s=3600)
        spent.append((time.process_time_ns() - started) / 1e6)
    record = Record(
        "experiments_cost", f"One look at success metrics, {ROUNDS} rounds", ("asked", "CPU, median", "90 %")
    )
    middle, most = statistics.median(spent), statistics.quantiles(spent, n=10)[-1]
    record.raw["spent"] = spent
    record.add("3 success metrics × 10 arms × 10 epochs: `success.judge`", f"{middle:.2f} ms", f"{most:.2f} ms")
    record.finish()
    assert len(found) == 3


def _of(exposed: int, positive: int) -> OutcomeCounts:
    return OutcomeCounts(exposed, positive, positive, positive * 10**6, positive * 10**12)
