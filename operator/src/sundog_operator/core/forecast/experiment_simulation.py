"""Simulated experiments, many at once: their counts at each look, and their winners.

One success metric decides; guardrails are taken as passed. Draws come from a seeded generator, so equal arguments give equal results.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri

from sundog_operator.core.stats import (
    error_shares,
    multiple_testing,
    outcome_comparison,
    thompson_sampling,
)
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.binomial_ratio import BinomialEvidence, UnitCounts
from sundog_operator.core.stats.mean_ratio import Contrast
from sundog_operator.core.stats.outcome_counts import MILLIONTHS, OutcomeCounts, OutcomeMetric, OutcomePairs
from sundog_operator.core.stats.outcome_findings import OutcomeVerdict
from sundog_operator.core.stats.pooled_count_ratio import MixtureEvidence, RatioEvidence, make_mixture

Generator = np.random.Generator

NO_WINNER: Final = -1

_FEW_UNITS: Final = 100.0
"""Number of units too small to decide, which is scaled to the number that decides."""

_SURE: Final = 1e4
"""Log likelihood ratio above which the time until a decision is not random."""

_CLOSE: Final = 1e-4
"""Accuracy of a median, as a share of the time."""


@dataclass(frozen=True)
class AdaptiveWeights:
    """Rule of adaptive weights.

    Attributes:
        floor: the least share of an arm.
        delta: the share that is spread evenly.
        every: looks between two changes.
        least: units of each arm before the first change.
    """

    floor: float = 0.05
    delta: float = 0.2
    every: int = 10
    least: int = 100


@dataclass(frozen=True)
class ExperimentDesign:
    """Design of an experiment with one success metric.

    Attributes:
        metric: the success metric.
        shares: the arms' first shares, control first, of sum 1.
        alpha: the error of each direction, of all tests together.
        tests: number of tests that share the error.
        adaptive: the rule by which the shares change; None for fixed shares.
    """

    metric: OutcomeMetric
    shares: Sequence[float]
    alpha: float = 0.05
    tests: int = 1
    adaptive: AdaptiveWeights | None = None

    @property
    def log_e_bar(self) -> float:
        """Log E at which an arm wins by the first set of evidence."""
        return multiple_testing.log_e_threshold(self.alpha * error_shares.evidence_share(0) / self.tests)


class UnitModel(Protocol):
    """Model of units and their outcomes."""

    def look(self, draw: Generator, number: int, shares: Numbers, epoch: int) -> Numbers:
        """Return the counts that are new since the last look: the fields of `OutcomeCounts`, of shape (fields, runs, arms, epochs so far).

        The fields of a ratio may be left out.

        Args:
            draw: the random generator.
            number: number of the look, from 0 on.
            shares: the shares in force, shape (runs, arms).
            epoch: number of the epoch, from 0 on.
        """


@dataclass(frozen=True)
class SimulatedExperiments:
    """Results of all runs.

    Attributes:
        winner: the winning arm, 0 for the first beside control; `NO_WINNER` without one. Shape (runs,).
        hopeless: whether it ended because no arm can win. Shape (runs,).
        ended: the look at which it ended, from 1 on; 0 where it did not. Shape (runs,).
        units: units of each arm until then, shape (runs, arms).
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
    """Simulate every run until an arm wins, none can win, or no look is left.

    Args:
        design: the design.
        world: the model of units.
        runs: number of experiments.
        looks: the largest number of looks.
        seed: the seed of all draws.
        ends: whether a decided run ends; otherwise it goes on with its first decision.
        on_look: called with the number of each finished look.
    """
    draw, arms = np.random.default_rng(seed), len(design.shares)
    epochs = 1 if design.adaptive is None else 1 + looks // design.adaptive.every
    shares = np.tile(np.asarray(design.shares, float)[None, :, None], (runs, 1, epochs))
    counts, epoch = np.zeros((len(OutcomeCounts._fields), runs, arms, epochs)), 0
    winner, hopeless, ended = np.full(runs, NO_WINNER), np.zeros(runs, bool), np.zeros(runs, int)
    live = np.arange(runs)
    for number in range(looks):
        new = world.look(draw, number, shares[:, :, epoch], epoch)
        counts[: len(new), live, :, : new.shape[-1]] += new[:, live]
        undecided = live[ended[live] == 0]
        won, lost = _decide(design, counts[:, undecided, :, : epoch + 1], shares[undecided, :, : epoch + 1])
        winner[undecided], hopeless[undecided] = won, lost
        ended[undecided[(won != NO_WINNER) | lost]] = number + 1
        live = live[ended[live] == 0] if ends else live
        on_look(number)
        if not live.size:
            break
        if design.adaptive is not None and (number + 1) % design.adaptive.every == 0 and epoch + 1 < epochs:
            for run in live:
                shares[run, :, epoch + 1 :] = _next_shares(
                    design, design.adaptive, counts[:, run, :, : epoch + 1], shares[run, :, : epoch + 1]
                )[:, None]
            epoch += 1
    return SimulatedExperiments(winner, hopeless, ended, counts[0].sum(-1))


def _decide(design: ExperimentDesign, counts: Numbers, shares: Numbers) -> tuple[Numbers, Numbers]:
    """Return each run's winner, and whether no arm can win, by the rules of an experiment's decision."""
    control: Any = np.broadcast_to(counts[:, :, :1], counts[:, :, 1:].shape)
    others: Any = counts[:, :, 1:]
    pairs = OutcomePairs(control, others, shares[:, 1:] / (shares[:, 1:] + shares[:, :1]))
    found = outcome_comparison.compare_pairs(design.metric, pairs, design.log_e_bar)
    least = found.lower if design.metric.goal == "increase" else -found.upper
    better = found.verdict == OutcomeVerdict.BETTER
    surest = np.where(better, np.nan_to_num(least, nan=-np.inf), -np.inf).argmax(-1)
    surest = np.where(
        better.any(-1) & ~np.take_along_axis(better, surest[:, None], -1)[:, 0], better.argmax(-1), surest
    )
    gone = ((found.verdict == OutcomeVerdict.WORSE) | (found.verdict == OutcomeVerdict.NO_EFFECT)).all(-1)
    return np.where(better.any(-1), surest, NO_WINNER), gone


def _next_shares(design: ExperimentDesign, rule: AdaptiveWeights, counts: Numbers, shares: Numbers) -> Numbers:
    """Return the next shares, shape (arms,), given counts of shape (fields, arms, epochs) and shares of shape (arms, epochs)."""
    outcomes: Any = counts.transpose(2, 1, 0)
    found = thompson_sampling.next_shares(
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
    """Units at a steady rate, whose outcomes come at once or later.

    Attributes:
        units: expected units per look.
        rates: each arm's share of units with an outcome, control first.
        value: draws that many outcomes' values, in their unit; without it all values are 1.
        factors: each arm's factor of its values.
        delay: expected looks until an outcome comes; 0 for at once.
        drift: the factor of all rates at the last of `over` looks; 1 for none.
        over: number of looks of the drift.
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
        """Implement `UnitModel.look`."""
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
        """Return the sums of values and of squared values, in millionths and squared millionths."""
        if self.value is None:
            return came * MILLIONTHS, came * MILLIONTHS**2
        where = np.repeat(np.arange(came.size), came.reshape(-1).astype(int))
        values = self.value(draw, where.size) * MILLIONTHS
        sums = [np.bincount(where, part, came.size).reshape(came.shape) for part in (values, values**2)]
        factor = np.asarray(self.factors or [1.0] * came.shape[1])[:, None]
        return sums[0] * factor, sums[1] * factor**2


@dataclass(frozen=True, slots=True)
class ControlBaseline:
    """Known value of a unit of control.

    Attributes:
        value: its rate in [0, 1], its mean, or its ratio.
        deviation: the standard deviation of a unit, for a mean; of a unit's linearised value, for a ratio; a rate implies its own.
    """

    value: float
    deviation: float = 0.0


@dataclass(frozen=True)
class NormalUnits:
    """Units at a steady rate, whose values have a known mean and standard deviation: sums over many units are normal.

    Each unit has the denominator 1, so a ratio is a mean of linearised values.

    Attributes:
        units: expected units per look.
        values: the mean of each arm's units, control first.
        deviation: the standard deviation of a unit.
    """

    units: float
    values: Sequence[float]
    deviation: float

    def look(self, draw: Generator, number: int, shares: Numbers, epoch: int) -> Numbers:  # noqa: ARG002 - all looks are alike
        """Implement `UnitModel.look`."""
        exposed = draw.multinomial(draw.poisson(self.units, len(shares)), shares / shares.sum(-1, keepdims=True))
        totals = draw.normal(exposed * np.asarray(self.values), np.sqrt(exposed) * self.deviation)
        squares = exposed * (np.asarray(self.values) ** 2 + self.deviation**2)
        found = np.zeros((len(OutcomeCounts._fields), *exposed.shape, epoch + 1))
        totals, squares = totals * MILLIONTHS, squares * MILLIONTHS**2
        ones = exposed * MILLIONTHS
        found[..., epoch] = (
            exposed,
            exposed,
            exposed,
            totals,
            squares,
            exposed,
            ones,
            ones * MILLIONTHS,
            totals * MILLIONTHS,
        )
        return found


def make_unit_model(metric: OutcomeMetric, base: ControlBaseline, units: float, effects: Sequence[float]) -> UnitModel:
    """Return a model in which each arm beside control has a relative effect on a metric."""
    values = [base.value, *(base.value * (1 + metric.sign * effect) for effect in effects)]
    if metric.type != "rate":
        return NormalUnits(units, values, base.deviation)
    return SteadyUnits(units, [min(max(value, 0.0), 1.0) for value in values])


def expected_units(design: ExperimentDesign, base: ControlBaseline, effect: float) -> float:
    """Return the units of all arms at which half of all experiments are decided, given the first arm's relative effect; infinite for never.

    The expected evidence reaches the bar later than that, because an experiment ends at the first moment at which its own evidence does.
    """
    metric, (control, arm, *_) = design.metric, design.shares
    units, ratio = _FEW_UNITS * np.array([control, arm]), 1 + metric.sign * effect
    bar = design.log_e_bar
    growth = _rate_growth if metric.type == "rate" else _mean_growth
    ways = [(growth(metric, base, units, ratio, None, bar), 1.0)]
    if not math.isnan(metric.worth):
        ways.append((growth(metric, base, units, ratio, np.array(metric.worth), bar), metric.worth))
    found, tested = min(ways)
    if not math.isfinite(found):
        return math.inf
    likelihood = _rate_likelihood if metric.type == "rate" else _mean_likelihood
    return found * _FEW_UNITS * median_first_passage(found * likelihood(metric, base, units, ratio, tested))


def _rate_likelihood(
    metric: OutcomeMetric, base: ControlBaseline, units: Numbers, ratio: float, tested: float
) -> float:
    """Return the expected log likelihood of the true ratio of rates minus that of a tested one, given the units of control and the arm."""
    return float(_expect_rates(metric, base, units, ratio, tested).maximum_likelihood()[1])


def _expect_rates(
    metric: OutcomeMetric, base: ControlBaseline, units: Numbers, ratio: float, tested: float = 1.0
) -> MixtureEvidence:
    """Return the evidence of so many units of control and the arm at the expected number of events."""
    mixture, rates = make_mixture(metric.scale), np.minimum(base.value * np.array([1.0, ratio]), 1.0)
    if not metric.by_units:
        events = units * rates
        return RatioEvidence(events[:1], events[1:], np.array([units[1] / units.sum()]), mixture, tested)
    control, arm = (UnitCounts(units[[place]], (units * rates)[[place]]) for place in (0, 1))
    return BinomialEvidence((control, arm), mixture, tested, burn_in=0)


def _mean_likelihood(
    metric: OutcomeMetric,  # noqa: ARG001 - as of `_rate_likelihood`
    base: ControlBaseline,
    units: Numbers,
    ratio: float,
    tested: float,
) -> float:
    """Return what `_rate_likelihood` does, of means."""
    variance = base.deviation**2 * (tested**2 / units[0] + 1 / units[1])
    return float((base.value * (ratio - tested)) ** 2 / (2 * variance)) if variance else math.inf


def median_first_passage(likelihood: float) -> float:
    """Return the median time until evidence first reaches its bar, as a share of the time at which its expectation does.

    The log likelihood ratio of a true effect moves like a Brownian motion whose variance is twice its drift. So the first time at which it
    reaches b has an inverse Gaussian distribution, of mean 1 and shape b/2 where time is measured in that of the expectation.
    Source: Chhikara and Folks, The Inverse Gaussian Distribution (1989), section 3.2.

    Args:
        likelihood: the expected log likelihood ratio b, above 0, at that time.
    """
    shape, low, high = min(likelihood, _SURE) / 2, 0.0, 1.0
    while high - low > _CLOSE:
        middle = (low + high) / 2
        root = math.sqrt(shape / middle)
        # In logarithms, because the factor exp(2 · shape) of a sure decision is too large for a float.
        reached = ndtr(root * (middle - 1)) + math.exp(2 * shape + float(log_ndtr(-root * (middle + 1))))
        low, high = (middle, high) if reached < 0.5 else (low, middle)
    return high


def fixed_sample_units(design: ExperimentDesign, base: ControlBaseline, effect: float, power: float) -> float:
    """Return the units of all arms with which a test with a single look, at the end, finds the first arm's effect; infinite for none.

    The formula is the sample size of a z test of two means or rates, n = (z₁₋α + z_power)²·V/d².

    Args:
        design: the metric, the shares of the arms, and the error of each direction, which its tests share.
        base: control's value.
        effect: the arm's relative effect.
        power: probability with which the test finds the effect.
    """
    drift = float(ndtri(1 - design.alpha / design.tests) + ndtri(power))
    control, arm, *_ = design.shares
    values = base.value, base.value * (1 + design.metric.sign * effect)
    if not values[1] - values[0]:
        return math.inf
    variances = [base.deviation**2 if design.metric.type != "rate" else value * (1 - value) for value in values]
    per_unit = variances[0] / control + variances[1] / arm
    return drift**2 * per_unit / (values[1] - values[0]) ** 2


def _rate_growth(
    metric: OutcomeMetric, base: ControlBaseline, units: Numbers, ratio: float, against: Numbers | None, bar: float
) -> float:
    """Return the factor of events at which the rate test reaches `bar` at their expected split; against equal rates without `against`."""
    return float(_expect_rates(metric, base, units, ratio).growth(against, bar))


def _mean_growth(
    metric: OutcomeMetric, base: ControlBaseline, units: Numbers, ratio: float, against: Numbers | None, bar: float
) -> float:
    """Return the factor of units at which the mean test reaches `bar` at their expected values; against equal means without `against`."""
    time = np.asarray(units.prod() / units.sum())
    control, arm = (time**2 * base.deviation**2 / count for count in units)
    contrast = Contrast(time * base.value, time * base.value * ratio, control, arm, time)
    return float(contrast.growth(against, metric.deviation, bar))
