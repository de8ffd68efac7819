"""Experiments in simulated traffic, many at once: what would be counted at each look, and who wins by it.

One success metric decides; guardrails are taken as passed. Draws come from a generator with a seed, so that the same question has the same
answer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from sundog_operator.core.stats import adaptive_allocation, multiple_testing, outcome_test
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.mean_ratio import Contrast
from sundog_operator.core.stats.outcome_counts import OutcomeMetric, OutcomePairs
from sundog_operator.core.stats.outcome_findings import OutcomeVerdict
from sundog_operator.core.stats.pooled_count_ratio import RatioEvidence, make_mixture

Generator = np.random.Generator

NO_WINNER: Final = -1

_FEW_UNITS: Final = 100.0
"""That decide nothing, and are taken times what decides."""


@dataclass(frozen=True)
class AdaptiveWeights:
    """Weights that move.

    Attributes:
        floor: as of an allocation.
        delta: as of an allocation.
        every: looks between two changes.
        least: units of each arm before the first.
    """

    floor: float = 0.05
    delta: float = 0.2
    every: int = 10
    least: int = 100


@dataclass(frozen=True)
class ExperimentDesign:
    """An experiment with one success metric.

    Attributes:
        metric: by which an arm wins.
        shares: of the arms at first, control's in front; of sum 1.
        alpha: the error of each direction, of all tests together.
        tests: among how many it is shared.
        adaptive: how the shares move, where they do.
    """

    metric: OutcomeMetric
    shares: Sequence[float]
    alpha: float = 0.05
    tests: int = 1
    adaptive: AdaptiveWeights | None = None


class UnitModel(Protocol):
    """What units do."""

    def look(self, draw: Generator, number: int, shares: Numbers, epoch: int) -> Numbers:
        """What is new since the look before: the fields of `Outcomes`, of shape (5, runs, arms, epochs so far).

        Args:
            draw: what is random.
            number: of the look, counted from 0.
            shares: in force, shape (runs, arms).
            epoch: counted from 0.
        """


@dataclass(frozen=True)
class SimulatedExperiments:
    """Of each run.

    Attributes:
        winner: the arm that won, counted from 0 for the first beside control; `NOBODY` without one.
        hopeless: whether it ended without one.
        ended: at which look, counted from 1; 0 where it did not.
        units: of each arm until then, shape (runs, arms).
    """

    winner: Numbers
    hopeless: Numbers
    ended: Numbers
    units: Numbers


def simulate_experiments(
    design: ExperimentDesign,
    world: UnitModel,
    *,
    runs: int,
    looks: int,
    seed: int,
    ends: bool = True,
    on_look: Callable[[int], None] = lambda _: None,
) -> SimulatedExperiments:
    """Let every run go on until somebody wins, nobody can any more, or the looks are over.

    Args:
        design: what is decided, and how.
        world: what happens.
        runs: how many experiments.
        looks: how many at most.
        seed: of all draws.
        ends: whether a run that is decided ends; else it goes on with the decision that came first.
        on_look: called with each look that is over.
    """
    draw, arms = np.random.default_rng(seed), len(design.shares)
    epochs = 1 if design.adaptive is None else 1 + looks // design.adaptive.every
    shares = np.tile(np.asarray(design.shares, float)[None, :, None], (runs, 1, epochs))
    counts, epoch = np.zeros((5, runs, arms, epochs)), 0
    winner, hopeless, ended = np.full(runs, NO_WINNER), np.zeros(runs, bool), np.zeros(runs, int)
    live = np.arange(runs)
    for number in range(looks):
        new = world.look(draw, number, shares[:, :, epoch], epoch)
        counts[:, live, :, : new.shape[-1]] += new[:, live]
        open_ = live[ended[live] == 0]
        won, over = _decided(design, counts[:, open_, :, : epoch + 1], shares[open_, :, : epoch + 1])
        winner[open_], hopeless[open_] = won, over
        ended[open_[(won != NO_WINNER) | over]] = number + 1
        live = live[ended[live] == 0] if ends else live
        on_look(number)
        if not live.size:
            break
        if design.adaptive is not None and (number + 1) % design.adaptive.every == 0 and epoch + 1 < epochs:
            for run in live:
                shares[run, :, epoch + 1 :] = _next(
                    design, design.adaptive, counts[:, run, :, : epoch + 1], shares[run, :, : epoch + 1]
                )[:, None]
            epoch += 1
    return SimulatedExperiments(winner, hopeless, ended, counts[0].sum(-1))


def _decided(design: ExperimentDesign, counts: Numbers, shares: Numbers) -> tuple[Numbers, Numbers]:
    """The winner of each run, and whether nobody can win any more, by the rules of an experiment's decision."""
    control: Any = np.broadcast_to(counts[:, :, :1], counts[:, :, 1:].shape)
    others: Any = counts[:, :, 1:]
    pairs = OutcomePairs(control, others, shares[:, 1:] / (shares[:, 1:] + shares[:, :1]))
    found = outcome_test.compare_pairs(
        design.metric, pairs, multiple_testing.log_e_threshold(design.alpha / design.tests)
    )
    least = found.lower if design.metric.goal == "increase" else -found.upper
    better = found.verdict == OutcomeVerdict.BETTER
    surest = np.where(better, np.nan_to_num(least, nan=-np.inf), -np.inf).argmax(-1)
    surest = np.where(
        better.any(-1) & ~np.take_along_axis(better, surest[:, None], -1)[:, 0], better.argmax(-1), surest
    )
    gone = ((found.verdict == OutcomeVerdict.WORSE) | (found.verdict == OutcomeVerdict.NO_EFFECT)).all(-1)
    return np.where(better.any(-1), surest, NO_WINNER), gone


def _next(design: ExperimentDesign, rule: AdaptiveWeights, counts: Numbers, shares: Numbers) -> Numbers:
    """The shares that follow, shape (arms,), given counts (5, arms, epochs) and shares (arms, epochs)."""
    outcomes: Any = counts.transpose(2, 1, 0)
    found = adaptive_allocation.next_shares(
        design.metric,
        outcomes,
        shares.T,  # type: ignore[arg-type]
        [False] * len(shares),
        floor=rule.floor,
        delta=rule.delta,
        least=rule.least,
    )
    return shares[:, -1] if found is None else np.asarray(found)


@dataclass
class SteadyUnits:
    """So many units a look, whose outcomes come at once or later.

    Attributes:
        units: at a look, on average.
        rates: of each arm, control in front: the share of units that has an outcome.
        value: draws so many outcomes' values, in their unit; without it all are 1.
        factors: of each arm, by which its values are multiplied.
        delay: looks until an outcome comes, on average; 0 for at once.
        drift: by which all rates are multiplied at the last of `over` looks; 1 for none.
        over: see `drift`.
    """

    units: float
    rates: Sequence[float]
    value: Callable[[Generator, int], Numbers] | None = None
    factors: Sequence[float] | None = None
    delay: float = 0.0
    drift: float = 1.0
    over: int = 1

    def __post_init__(self) -> None:
        self._pending: Numbers | None = None

    def look(self, draw: Generator, number: int, shares: Numbers, epoch: int) -> Numbers:
        """See World."""
        runs, arms = shares.shape
        exposed = draw.multinomial(draw.poisson(self.units, runs), shares / shares.sum(-1, keepdims=True))
        base = 1 + (self.drift - 1) * min(number / self.over, 1.0)
        fresh = draw.binomial(exposed, np.minimum(np.asarray(self.rates) * base, 1.0))
        if number == 0 or self._pending is None:
            self._pending = np.zeros((runs, arms, 1))
        if self._pending.shape[-1] <= epoch:
            self._pending = np.concatenate(
                [self._pending, np.zeros((runs, arms, epoch + 1 - self._pending.shape[-1]))], -1
            )
        self._pending[:, :, epoch] += fresh
        due = 1 - np.exp(-1 / self.delay) if self.delay else 1.0
        came = np.asarray(draw.binomial(self._pending.astype(int), due), float)
        self._pending -= came
        found = np.zeros((5, *came.shape))
        found[0, :, :, epoch] = exposed
        found[1] = found[2] = came
        found[3], found[4] = self._values(draw, came)
        return found

    def _values(self, draw: Generator, came: Numbers) -> tuple[Numbers, Numbers]:
        """Sums of values and of their squares, in millionths."""
        if self.value is None:
            return came * 1e6, came * 1e12
        where = np.repeat(np.arange(came.size), came.reshape(-1).astype(int))
        values = self.value(draw, where.size) * 1e6
        sums = [np.bincount(where, part, came.size).reshape(came.shape) for part in (values, values**2)]
        factor = np.asarray(self.factors or [1.0] * came.shape[1])[:, None]
        return sums[0] * factor, sums[1] * factor**2


@dataclass(frozen=True, slots=True)
class ControlBaseline:
    """What a unit of control is known to come to.

    Attributes:
        value: its rate in [0, 1], or its mean.
        deviation: of a mean, the standard deviation of a unit; of a rate it follows from that.
    """

    value: float
    deviation: float = 0.0


@dataclass(frozen=True)
class NormalUnits:
    """So many units a look, each with a value, of which only mean and deviation are known: sums of many units are normal.

    Attributes:
        units: at a look, on average.
        values: the mean of a unit of each arm, control in front.
        deviation: of a unit.
    """

    units: float
    values: Sequence[float]
    deviation: float

    def look(self, draw: Generator, number: int, shares: Numbers, epoch: int) -> Numbers:  # noqa: ARG002 - every moment is alike
        """See World."""
        exposed = draw.multinomial(draw.poisson(self.units, len(shares)), shares / shares.sum(-1, keepdims=True))
        totals = draw.normal(exposed * np.asarray(self.values), np.sqrt(exposed) * self.deviation)
        squares = exposed * (np.asarray(self.values) ** 2 + self.deviation**2)
        found = np.zeros((5, *exposed.shape, epoch + 1))
        found[..., epoch] = exposed, exposed, exposed, totals * 1e6, squares * 1e12
        return found


def make_unit_model(metric: OutcomeMetric, base: ControlBaseline, units: float, effects: Sequence[float]) -> UnitModel:
    """One in which arms beside control are so much better by a metric, as shares of control's."""
    values = [base.value, *(base.value * (1 + metric.sign * effect) for effect in effects)]
    if metric.type == "mean":
        return NormalUnits(units, values, base.deviation)
    return SteadyUnits(units, [min(max(value, 0.0), 1.0) for value in values])


def expected_units(design: ExperimentDesign, base: ControlBaseline, effect: float) -> float:
    """Units of all arms at which the first one beside control is expected to be decided, if it is so much better; infinite for never.

    Half of all experiments need more.
    """
    metric, (control, arm, *_) = design.metric, design.shares
    ratio, bar = 1 + metric.sign * effect, multiple_testing.log_e_threshold(design.alpha / design.tests)
    growth = _rate_growth if metric.type == "rate" else _mean_growth
    found = growth(metric, base, _FEW_UNITS * np.array([control, arm]), ratio, None, bar)
    if not math.isnan(metric.worth):
        found = min(
            found, growth(metric, base, _FEW_UNITS * np.array([control, arm]), ratio, np.array(metric.worth), bar)
        )
    return found * _FEW_UNITS


def group_sequential_units(design: ExperimentDesign, base: ControlBaseline, effect: float, drift: float) -> float:
    """Units of all arms with which a test of planned looks finds the first arm beside control, if it is so much better; infinite for none.

    Args:
        design: what is compared, and the shares of the arms.
        base: control's.
        effect: by which share of control's value the arm is better.
        drift: what Z has to be expected to be with all units, see `planned_looks.drift_for`.
    """
    control, arm, *_ = design.shares
    values = base.value, base.value * (1 + design.metric.sign * effect)
    if not values[1] - values[0]:
        return math.inf
    spread = [base.deviation**2 if design.metric.type == "mean" else value * (1 - value) for value in values]
    per_unit = spread[0] / control + spread[1] / arm
    return drift**2 * per_unit / (values[1] - values[0]) ** 2


def _rate_growth(
    metric: OutcomeMetric, base: ControlBaseline, units: Numbers, ratio: float, against: Numbers | None, bar: float
) -> float:
    events = units * base.value * np.array([1.0, ratio])
    evidence = RatioEvidence(events[:1], events[1:], np.array([units[1] / units.sum()]), make_mixture(metric.scale))
    return float(evidence.growth(against, bar))


def _mean_growth(
    metric: OutcomeMetric, base: ControlBaseline, units: Numbers, ratio: float, against: Numbers | None, bar: float
) -> float:
    time = np.asarray(units.prod() / units.sum())
    control, arm = (time**2 * base.deviation**2 / count for count in units)
    seen = Contrast(time * base.value, time * base.value * ratio, control, arm, time)
    return float(seen.growth(against, metric.deviation, bar))
