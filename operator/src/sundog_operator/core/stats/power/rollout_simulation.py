"""Rollouts in simulated worlds, many at once: what the counters would say after each ten seconds, and what evidence makes of it.

Time goes by blocks of ten seconds, as it does for the operator: it looks more often, but what it judges changes when a block is folded. A
block is judged when the lines and reports about it have come, which is within the next one, and one in which an epoch begins is not.

Draws come from a generator with a seed, so that the same question has the same answer.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import dispersion, early_harm, multiple_testing, verdicts
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.dispersion import BlockMoments
from sundog_operator.core.stats.event_counts import EventCounts, MetricLimits
from sundog_operator.core.stats.findings import MetricVerdict

TICK_S: Final = 10.0
BLOCK_LENGTHS_TICKS: Final = tuple(round(length / TICK_S) for length in dispersion.LENGTHS_S)
"""Of blocks, in ticks."""

LAG_TICKS: Final = 1
"""Ticks from the end of a block to the look that has it: five seconds of grace, and five until the operator looks again."""

Generator = np.random.Generator


@dataclass(frozen=True)
class SimulatedPlan:
    """Steps with one metric, and what lets them go on.

    Attributes:
        weights: the candidate's share of the traffic, step by step.
        margin: as of a guardrail, such as 0.25.
        floor: as of a guardrail, such as 0.005.
        alpha: the error of each direction.
        metrics: among how many the error of harm is shared.
        early_alpha: the error of harm in the first blocks, before the usual test can tell; 0 where none is looked for in them.
        least_ticks: how long a step lasts at least.
        warmup_ticks: how much of it is no evidence; neither is the tick after that, in which the epoch begins.
        following: the share of the traffic that passing each step leads to; by default that of the next, and all after the last.
    """

    weights: Sequence[float] = (0.05, 0.25, 0.5)
    margin: float = 0.25
    floor: float = 0.0
    alpha: float = 0.05
    metrics: float = 1
    early_alpha: float = 0.0
    least_ticks: int = 30
    warmup_ticks: int = 0
    following: Sequence[float] = ()

    def limits(self, step: int) -> MetricLimits:
        """What the gate of a step asks for."""
        share = multiple_testing.epoch_error_share(1) if self.promotes(step) else 1.0
        return MetricLimits(self.margin, self.floor, self._following(step), self.alpha, self.metrics, share)

    def promotes(self, step: int) -> bool:
        """Whether passing a step leads to all traffic."""
        return self._following(step) == 1

    def _following(self, step: int) -> float:
        return (self.following or (*self.weights[1:], 1.0))[step]


class TrafficModel(Protocol):
    """What happens in ten seconds of each run."""

    def tick(
        self, draw: Generator, tick: int, step: Numbers, weight: Numbers
    ) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """Requests of control and candidate, and the events among them; of each run."""


@dataclass(frozen=True)
class SimulatedRollouts:
    """Of each run: how it ended, and in which tick; 0 where it did not. `failed` counts the candidate's failures until then."""

    promoted: Numbers
    rolled_back: Numbers
    ended: Numbers
    failed: Numbers

    @property
    def minutes(self) -> Numbers:
        """Of each run to its end; infinite where it has none."""
        return np.where(self.ended > 0, self.ended * TICK_S / 60, np.inf)


class SimulatedCounts:
    """Counts and blocks of each run and step, as the operator folds them."""

    def __init__(self, runs: int, steps: int) -> None:
        self._counts = np.zeros((4, runs, steps))
        self._blocks = {length: np.zeros((6, runs, steps)) for length in BLOCK_LENGTHS_TICKS}
        self._open = {length: np.zeros((2, runs)) for length in BLOCK_LENGTHS_TICKS}
        self._since = {length: np.full(runs, -1) for length in BLOCK_LENGTHS_TICKS}
        """The step whose evidence a run's open block has from its first tick on; -1 where it has none."""

    def add(self, tick: int, rows: Numbers, step: Numbers, seen: Numbers) -> None:
        """Take in one tick of the runs whose requests are evidence.

        `step` is that of each run in this tick, `seen` has control's and the candidate's requests, then their events, of each run.
        """
        self._counts[:, rows, step[rows]] += seen[:, rows]
        for length, sums in self._blocks.items():
            open_, since = self._open[length], self._since[length]
            if tick % length == 0:
                open_[:], since[:] = 0, -1
                since[rows] = step[rows]
            open_[:, rows] += np.stack([seen[3], seen[2] + seen[3]])[:, rows]
            if (tick + 1) % length == 0:
                whole = rows[since[rows] == step[rows]]
                x, s = open_[:, whole]
                sums[:, whole, step[whole]] += np.stack([np.ones(x.shape), x, s, x**2, x * s, s**2])

    def counts(self, rows: Numbers, weights: Numbers) -> EventCounts:
        """Of these runs, and of as many steps as there are weights."""
        control_units, candidate_units, control, candidate = self._counts[:, rows, : len(weights)]
        blocks = [BlockMoments(*sums[:, rows, : len(weights)]) for sums in self._blocks.values()]
        weight = np.broadcast_to(weights, control.shape)
        return EventCounts(control, candidate, control_units, candidate_units, weight, blocks)


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
    """Let every run go on until it is promoted or rolled back, or the ticks are over.

    Args:
        plan: steps and limits.
        world: what happens.
        runs: how many rollouts.
        ticks: for how long at most.
        seed: of all draws.
        every: ticks between two looks at the evidence.
        on_tick: called with each tick that is over.
    """
    draw, rows = np.random.default_rng(seed), np.arange(runs)
    step, stayed, ended = np.zeros(runs, int), np.zeros(runs, int), np.zeros(runs, int)
    promoted, rolled_back = np.zeros(runs, bool), np.zeros(runs, bool)
    failed, weights, sums = np.zeros(runs), np.asarray(plan.weights), SimulatedCounts(runs, len(plan.weights))
    first = np.zeros((runs, early_harm.MAX_BLOCKS))
    under_way = deque[tuple[int, Numbers, Numbers, Numbers]]()
    for tick in range(ticks):
        live = rows[ended == 0]
        if not live.size:
            break
        seen = np.stack(world.tick(draw, tick, step, weights[step]))
        under_way.append((tick, live[stayed[live] > plan.warmup_ticks], step.copy(), seen))
        if len(under_way) > LAG_TICKS:
            over, evident, then, told = under_way.popleft()
            sums.add(over, evident, then, told)
            if over < early_harm.MAX_BLOCKS:
                first[:, over] = early_harm.log_likelihood_ratio(told[2], told[3], weights[then], plan.margin)
        failed[live] += seen[3, live]
        stayed += 1
        on_tick(tick)
        if (tick + 1) % every:
            continue
        for number in np.unique(step[live]):
            at, last = live[step[live] == number], number == len(weights) - 1
            counts = sums.counts(at, weights[: number + 1])
            verdict = verdicts.evaluate_verdicts(counts, plan.limits(number), promotes=plan.promotes(number)).verdict
            early = _early_harm(plan, first[at, : max(0, tick + 1 - LAG_TICKS)]) & ~counts.enough
            rolled_back[at] = (verdict == MetricVerdict.HARM) | early
            passed = at[(verdict == MetricVerdict.PASSED) & (stayed[at] >= plan.least_ticks)]
            promoted[passed] = last
            step[passed], stayed[passed] = number + (not last), 0
        ended[(promoted | rolled_back) & (ended == 0)] = tick + 1
    return SimulatedRollouts(promoted, rolled_back, ended, failed)


def _early_harm(plan: SimulatedPlan, first: Numbers) -> NDArray[np.bool_]:
    """Of runs, given log ratios of their first blocks, shape (runs, blocks)."""
    if not plan.early_alpha:
        return np.zeros(len(first), bool)
    found: NDArray[np.bool_] = early_harm.log_e(first) >= multiple_testing.log_e_threshold(plan.early_alpha)
    return found


@dataclass(frozen=True)
class SteadyTraffic:
    """So many requests a second, with a base rate of failures and how many times that the candidate has, by step or always.

    The base may go from one rate to another over the ticks of `drift`.
    """

    rps: float
    base: float
    ratio: Sequence[float] | float = 1.0
    to: float | None = None
    drift: int = 1

    def tick(
        self, draw: Generator, tick: int, step: Numbers, weight: Numbers
    ) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """See World."""
        base = self.base + ((self.base if self.to is None else self.to) - self.base) * min(tick / self.drift, 1.0)
        ratios = np.atleast_1d(self.ratio)
        worse = np.minimum(base * ratios[np.minimum(step, ratios.size - 1)], 1.0)
        total = draw.poisson(self.rps * TICK_S, step.shape)
        candidate = draw.binomial(total, weight)
        control = total - candidate
        told = (control, candidate, draw.binomial(control, base), draw.binomial(candidate, worse))
        requests, canary, errors, canary_errors = (np.asarray(each, float) for each in told)
        return requests, canary, errors, canary_errors
