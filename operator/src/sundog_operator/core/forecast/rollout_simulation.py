"""Simulated rollouts, many at once: their counts after each ten seconds, and their evaluations.

Time goes in blocks of ten seconds. The operator evaluates more often, but its data only changes when a block is complete. A block's lines
and reports arrive within the next block, so a block is evaluated one block later. A block in which an epoch begins is left out.

Draws come from a seeded generator, so equal arguments give equal results.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sundog_operator.api.quantities import parse_percent
from sundog_operator.api.rollout.guardrail_defaults import ERROR_MARGIN
from sundog_operator.core.stats import dispersion, early_harm, error_shares, multiple_testing, verdicts
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.dispersion import BlockMoments
from sundog_operator.core.stats.event_counts import EventCounts, MetricLimits
from sundog_operator.core.stats.findings import MetricVerdict

TICK_S: Final = 10.0
BLOCK_LENGTHS_TICKS: Final = tuple(round(length / TICK_S) for length in dispersion.LENGTHS_S)
"""Lengths of blocks in ticks."""

LAG_TICKS: Final = 1
"""Ticks from a block's end to its evaluation: five seconds of grace, and five until the operator's next pass."""

Generator = np.random.Generator


@dataclass(frozen=True)
class SimulatedPlan:
    """Plan of a rollout with one metric.

    Attributes:
        weights: the canary's share of the traffic in each step.
        margin: a guardrail's margin, such as 0.25.
        floor: a guardrail's floor, such as 0.005.
        alpha: the error of each direction.
        metrics: number of metrics that share the error of harm.
        early_alpha: the error of the early-harm test; 0 for no such test.
        least_ticks: the least duration of a step.
        warmup_ticks: the first ticks of a step, which are no evidence; nor is the tick after them, in which the epoch begins.
        following: the share of the traffic that passing each step leads to. By default it is the next step's, and all after the last step.
    """

    weights: Sequence[float] = (0.05, 0.25, 0.5)
    margin: float = parse_percent(ERROR_MARGIN)
    floor: float = 0.0
    alpha: float = 0.05
    metrics: float = 1
    early_alpha: float = 0.0
    least_ticks: int = 30
    warmup_ticks: int = 0
    following: Sequence[float] = ()

    def limits(self, step: int) -> MetricLimits:
        """Return the limits of a step's gate."""
        share = error_shares.epoch_error_share(1) if self.promotes(step) else 1.0
        return MetricLimits(self.margin, self.floor, self._following(step), self.alpha, self.metrics, share)

    def promotes(self, step: int) -> bool:
        """Return whether passing a step leads to all traffic."""
        return self._following(step) == 1

    def _following(self, step: int) -> float:
        return (self.following or (*self.weights[1:], 1.0))[step]


class TrafficModel(Protocol):
    """Model of the traffic of ten seconds in every run."""

    def tick(
        self, draw: Generator, tick: int, step: Numbers, weight: Numbers
    ) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """Return control's and the canary's requests, then their events, each of shape (runs,)."""


@dataclass(frozen=True)
class SimulatedRollouts:
    """Results of all runs, each of shape (runs,).

    Attributes:
        promoted: whether the run promoted.
        rolled_back: whether the run rolled back.
        ended: the tick in which the run ended, from 1 on; 0 where it did not.
        failed: the canary's failures until then.
    """

    promoted: Numbers
    rolled_back: Numbers
    ended: Numbers
    failed: Numbers

    @property
    def minutes(self) -> Numbers:
        """Minutes until each run ended; infinite where it did not."""
        return np.where(self.ended > 0, self.ended * TICK_S / 60, np.inf)


class SimulatedCounts:
    """Counts and block sums of each run and step, collected as the operator does."""

    def __init__(self, runs: int, steps: int) -> None:
        self._counts = np.zeros((4, runs, steps))
        self._blocks = {length: np.zeros((6, runs, steps)) for length in BLOCK_LENGTHS_TICKS}
        self._open = {length: np.zeros((2, runs)) for length in BLOCK_LENGTHS_TICKS}
        self._since = {length: np.full(runs, -1) for length in BLOCK_LENGTHS_TICKS}
        """Step that a run's open block is evidence of since its first tick; −1 where it is none."""

    def add(self, tick: int, rows: Numbers, step: Numbers, counts: Numbers) -> None:
        """Add one tick of the runs whose requests are evidence.

        Args:
            tick: number of the tick.
            rows: indices of those runs.
            step: each run's step in this tick.
            counts: control's and the canary's requests, then their events, shape (4, runs).
        """
        self._counts[:, rows, step[rows]] += counts[:, rows]
        for length, sums in self._blocks.items():
            open_, since = self._open[length], self._since[length]
            if tick % length == 0:
                open_[:], since[:] = 0, -1
                since[rows] = step[rows]
            open_[:, rows] += np.stack([counts[3], counts[2] + counts[3]])[:, rows]
            if (tick + 1) % length == 0:
                whole = rows[since[rows] == step[rows]]
                x, s = open_[:, whole]
                sums[:, whole, step[whole]] += np.stack([np.ones(x.shape), x, s, x**2, x * s, s**2])

    def counts(self, rows: Numbers, weights: Numbers) -> EventCounts:
        """Return the event counts of some runs, over as many steps as there are weights."""
        control_units, treatment_units, control, treatment = self._counts[:, rows, : len(weights)]
        blocks = [BlockMoments(*sums[:, rows, : len(weights)]) for sums in self._blocks.values()]
        weight = np.broadcast_to(weights, control.shape)
        return EventCounts(control, treatment, control_units, treatment_units, weight, blocks)


def simulate_rollouts(
    plan: SimulatedPlan,
    world: TrafficModel,
    *,
    runs: int,
    ticks: int,
    seed: int,
    every: int = 1,
    on_tick: Callable[[int], None] = lambda _: None,
) -> SimulatedRollouts:
    """Simulate every run until it is promoted, is rolled back, or has no ticks left.

    Args:
        plan: steps and limits.
        world: the model of the traffic.
        runs: number of rollouts.
        ticks: the largest number of ticks.
        seed: the seed of all draws.
        every: ticks between two evaluations.
        on_tick: called with the number of each finished tick.
    """
    draw, rows = np.random.default_rng(seed), np.arange(runs)
    step, stayed, ended = np.zeros(runs, int), np.zeros(runs, int), np.zeros(runs, int)
    promoted, rolled_back = np.zeros(runs, bool), np.zeros(runs, bool)
    failed, weights, sums = np.zeros(runs), np.asarray(plan.weights), SimulatedCounts(runs, len(plan.weights))
    first, failing = np.zeros((runs, early_harm.MAX_BLOCKS)), np.zeros(runs, int)
    delayed = deque[tuple[int, Numbers, Numbers, Numbers]]()
    for tick in range(ticks):
        live = rows[ended == 0]
        if not live.size:
            break
        new = np.stack(world.tick(draw, tick, step, weights[step]))
        delayed.append((tick, live[stayed[live] > plan.warmup_ticks], step.copy(), new))
        if len(delayed) > LAG_TICKS:
            block, evident, then, counted = delayed.popleft()
            sums.add(block, evident, then, counted)
            if block < early_harm.MAX_BLOCKS:
                first[:, block] = early_harm.log_likelihood_ratio(counted[2], counted[3], weights[then], plan.margin)
            fails = early_harm.fails_outright(counted[3], counted[1], counted[2], counted[0])
            failing = np.where(fails, failing + 1, 0)
        failed[live] += new[3, live]
        stayed += 1
        on_tick(tick)
        if (tick + 1) % every:
            continue
        for number in np.unique(step[live]):
            at, last = live[step[live] == number], number == len(weights) - 1
            counts = sums.counts(at, weights[: number + 1])
            verdict = verdicts.decide(counts, plan.limits(number), newest_alone=True).verdict
            early = _early_harm(plan, first[at, : max(0, tick + 1 - LAG_TICKS)]) & ~counts.is_measured.any(-1)
            dead = failing[at] >= early_harm.DEAD_BLOCKS
            rolled_back[at] = (verdict == MetricVerdict.HARM) | early | dead
            is_passed = (verdict == MetricVerdict.PASSED) & ~rolled_back[at] & (stayed[at] >= plan.least_ticks)
            passed = at[is_passed]
            promoted[passed] = last
            step[passed], stayed[passed] = number + (not last), 0
        ended[(promoted | rolled_back) & (ended == 0)] = tick + 1
    return SimulatedRollouts(promoted, rolled_back, ended, failed)


def _early_harm(plan: SimulatedPlan, first: Numbers) -> NDArray[np.bool_]:
    """Return which runs show early harm, given the log likelihood ratios of their first blocks, shape (runs, blocks)."""
    if not plan.early_alpha:
        return np.zeros(len(first), bool)
    found: NDArray[np.bool_] = early_harm.log_e(first) >= multiple_testing.log_e_threshold(plan.early_alpha)
    return found


@dataclass(frozen=True)
class SteadyTraffic:
    """Traffic with a steady request rate.

    Attributes:
        rps: requests per second.
        base: control's failure rate.
        ratio: the canary's failure rate divided by control's, always or by step.
        to: control's failure rate at the end of the drift; None for no drift.
        drift: ticks over which control's failure rate changes.
    """

    rps: float
    base: float
    ratio: Sequence[float] | float = 1.0
    to: float | None = None
    drift: int = 1

    def tick(
        self, draw: Generator, tick: int, step: Numbers, weight: Numbers
    ) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """Implement `TrafficModel.tick`."""
        base = self.base + ((self.base if self.to is None else self.to) - self.base) * min(tick / self.drift, 1.0)
        ratios = np.atleast_1d(self.ratio)
        worse = np.minimum(base * ratios[np.minimum(step, ratios.size - 1)], 1.0)
        total = draw.poisson(self.rps * TICK_S, step.shape)
        treatment = draw.binomial(total, weight)
        control = total - treatment
        drawn = (control, treatment, draw.binomial(control, base), draw.binomial(treatment, worse))
        requests, canary, errors, canary_errors = (np.asarray(each, float) for each in drawn)
        return requests, canary, errors, canary_errors
