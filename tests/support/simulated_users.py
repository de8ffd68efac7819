"""Simulated rollouts by user: each user keeps the arm of their bucket, and has their own rates of requests and failures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from sundog_operator.core.forecast.rollout_simulation import (
    BLOCK_LENGTHS_TICKS,
    TICK_S,
    Generator,
    SimulatedPlan,
    SimulatedRollouts,
)
from sundog_operator.core.stats import sample_ratio, verdicts
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.cluster_variance import GroupedEvents
from sundog_operator.core.stats.dispersion import BlockMoments
from sundog_operator.core.stats.event_counts import EventCounts
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.stats.unit_rates import UnitEvents

GROUPS: Final = 100
Drawn = Callable[[Generator, tuple[int, int]], Numbers]
"""Draw a number for each user of each run, shape (runs, users)."""


def alike(draw: Generator, shape: tuple[int, int]) -> Numbers:
    """All users the same."""
    del draw
    return np.ones(shape)


def by_zipf(draw: Generator, shape: tuple[int, int]) -> Numbers:
    """The first user sends twice as many requests as the second, three times as many as the third."""
    del draw
    return np.broadcast_to(1 / np.arange(1, shape[1] + 1), shape)


def with_a_whale(draw: Generator, shape: tuple[int, int]) -> Numbers:
    """One user sends 30 % of all requests."""
    del draw
    found = np.full(shape, 0.7 / (shape[1] - 1))
    found[:, 0] = 0.3
    return found


def unevenly(draw: Generator, shape: tuple[int, int]) -> Numbers:
    """Lognormal, with nine tenths of the variance from few users."""
    return draw.lognormal(0.0, 1.5, shape)


def by_beta(draw: Generator, shape: tuple[int, int]) -> Numbers:
    """Most users hardly fail, some often."""
    return draw.beta(0.2, 6.0, shape)


def few_have_most(draw: Generator, shape: tuple[int, int]) -> Numbers:
    """Five of a hundred users have nine tenths of the errors."""
    return np.where(draw.random(shape) < 0.05, 18.0, 0.1 / 0.95)


@dataclass(frozen=True)
class Users:
    """The users of a simulated service.

    Attributes:
        count: of users.
        often: how often each asks, beside the others.
        fails: how much each fails with stable, beside the others.
        rps: requests a second of all of them.
        base: the share of requests that fails, if users are alike.
        ratio: how many times that with the treatment.
        alone: requests a second without a unit, by `rps`.
        before_s: seconds before the rollout from which the edges know the users.
    """

    count: int
    often: Drawn = alike
    fails: Drawn = alike
    rps: float = 40.0
    base: float = 0.03
    ratio: float = 1.0
    alone: float = 0.0
    before_s: float = 3600.0


class _World:
    """The users of each run, and their counts by step."""

    def __init__(self, users: Users, plan: SimulatedPlan, runs: int, draw: Generator) -> None:
        shape = (runs, users.count)
        often, fails = users.often(draw, shape), users.fails(draw, shape)
        self.asks = users.rps * TICK_S * often / often.sum(-1, keepdims=True)
        self.rate = np.minimum(users.base * fails / fails.mean(-1, keepdims=True), 1.0)
        self.bucket, self.group = draw.random(shape), draw.integers(0, GROUPS, shape)
        self.before = draw.poisson(self.asks * users.before_s / TICK_S)
        self.failed_before = draw.binomial(self.before, self.rate)
        self.first = np.full(shape, -1)
        self.was_treatment = np.zeros(shape, bool)
        steps = len(plan.weights)
        # By arm, of requests and of events; the last place is of those without a group, of whom there are none here.
        self.grouped = np.zeros((runs, steps, 2, 2, GROUPS + 1))
        self.by_user = np.zeros((2, runs, steps, users.count))
        self.alone = np.zeros((runs, steps, 2, 2))
        self.blocks = {length: np.zeros((6, runs, steps)) for length in BLOCK_LENGTHS_TICKS}
        self.open = {length: np.zeros((2, runs)) for length in BLOCK_LENGTHS_TICKS}
        self._users, self._draw = users, draw

    def tick(self, tick: int, live: Numbers, step: Numbers, weight: Numbers, counts: Numbers) -> None:
        """Simulate ten seconds of the running runs. Some of them have no evidence yet."""
        draw, users, rows = self._draw, self._users, np.arange(live.size)
        of_treatment = self.bucket[live] < weight[:, None]
        asked = draw.poisson(self.asks[live])
        failed = draw.binomial(asked, np.minimum(self.rate[live] * np.where(of_treatment, users.ratio, 1.0), 1.0))
        self._meet(live, step, asked, of_treatment)
        self.by_user[:, live, step] += counts[:, None] * np.stack([asked, failed])
        alone = draw.poisson(users.alone * users.rps * TICK_S, live.size)
        theirs = draw.binomial(alone, weight)
        of_alone = np.stack([alone - theirs, theirs], -1)
        fail_alone = draw.binomial(of_alone, np.minimum([users.base, users.base * users.ratio], 1.0))
        events = fail_alone.astype(float)
        for arm, mine in enumerate((~of_treatment, of_treatment)):
            events[:, arm] += (failed * mine).sum(-1)
            for kind, number in enumerate((asked, failed)):
                place = (rows[:, None] * (GROUPS + 1) + self.group[live]).ravel()
                sums = np.bincount(place, (number * mine).ravel(), live.size * (GROUPS + 1))
                self.grouped[live, step, arm, kind] += counts[:, None] * sums.reshape(live.size, -1)
        self.alone[live, step, :, 0] += counts[:, None] * of_alone
        self.alone[live, step, :, 1] += counts[:, None] * fail_alone
        for length, sums in self.blocks.items():
            self.open[length][:, live] += counts * np.stack([events[:, 1], events.sum(-1)])
            if (tick + 1) % length == 0:
                x, s = self.open[length][:, live]
                sums[:, live, step] += counts * np.stack([np.ones(x.shape), x, s, x**2, x * s, s**2])
                self.open[length][:] = 0

    def _meet(self, live: Numbers, step: Numbers, asked: Numbers, of_treatment: Numbers) -> None:
        new = (self.first[live] < 0) & (asked > 0)
        self.first[live] = np.where(new, step[:, None], self.first[live])
        self.was_treatment[live] = np.where(new, of_treatment, self.was_treatment[live])

    def counts(self, at: Numbers, weights: Numbers) -> EventCounts:
        """Return the counts of these runs, for as many steps as there are weights, in the form of the edges' counts."""
        steps = len(weights)
        grouped, alone = self.grouped[at, :steps], self.alone[at, :steps]
        both = grouped.sum(-1) + alone
        (control_units, control), (treatment_units, treatment) = np.moveaxis(both, (2, 3), (0, 1))
        total = control_units + treatment_units
        share = np.where(total > 0, treatment_units / np.maximum(total, 1), weights)
        share = np.where((share > 0) & (share < 1), share, weights)
        blocks = [BlockMoments(*sums[:, at, :steps]) for sums in self.blocks.values()]
        (asked, fails), (asked_treatment, fails_treatment) = np.moveaxis(grouped, (2, 3), (0, 1))
        groups = GroupedEvents(
            fails, fails_treatment, asked, asked_treatment, alone[..., 0, 1], alone[..., 1, 1], alone[..., 0].sum(-1)
        )
        units = UnitEvents(
            *self.by_user[:, at, :steps],
            self.bucket[at, None] < weights[:, None],
            np.broadcast_to(weights, control.shape),
            self.before[at].astype(float),
            self.failed_before[at].astype(float),
        )
        return EventCounts(
            control,
            treatment,
            control_units,
            treatment_units,
            share,
            blocks,
            groups,
            units if self._users.alone == 0 else None,
        )

    def mismatched(self, at: Numbers, weights: Numbers) -> Numbers:
        """Log E against "users fall to the arms by the weights", each counted once."""
        of_step = [self.first[at] == step for step in range(len(weights))]
        treatment = np.stack([(mine & self.was_treatment[at]).sum(-1) for mine in of_step], -1)
        control = np.stack([mine.sum(-1) for mine in of_step], -1) - treatment
        shares = np.stack([1 - weights, weights], -1)
        units = np.stack([control, treatment], -1).astype(float)
        return sample_ratio.log_e(units, shares, sample_ratio.SAMPLED_UNITS_CONCENTRATION * shares)


@dataclass(frozen=True)
class Ends:
    """Ends of rollouts, and whether the split was ever reported as wrong."""

    outcomes: SimulatedRollouts
    mismatched: Numbers


def roll_out(
    plan: SimulatedPlan, users: Users, *, runs: int, ticks: int, seed: int, every: int = 6, by_unit: bool = True
) -> Ends:
    """Let every run go on until it is promoted or rolled back, or the ticks are over, with a look each `every` ticks.

    Without `by_unit` it is not known which requests belong together.
    """
    draw, rows, weights = np.random.default_rng(seed), np.arange(runs), np.asarray(plan.weights)
    world = _World(users, plan, runs, draw)
    step, stayed, ended = np.zeros(runs, int), np.zeros(runs, int), np.zeros(runs, int)
    promoted, rolled_back, wrong = (np.zeros(runs, bool) for _ in range(3))
    for tick in range(ticks):
        live = rows[ended == 0]
        if not live.size:
            break
        world.tick(tick, live, step[live], weights[step[live]], (stayed[live] > plan.warmup_ticks).astype(float))
        stayed += 1
        for number in np.unique(step[live]) if (tick + 1) % every == 0 else ():
            at, last = live[step[live] == number], number == len(weights) - 1
            counts = world.counts(at, weights[: number + 1])
            counts = counts if by_unit else replace(counts, groups=None, units=None)
            verdict = verdicts.decide(counts, plan.limits(number), newest_alone=True).verdict
            rolled_back[at] = verdict == MetricVerdict.HARM
            wrong[at] |= world.mismatched(at, weights[: number + 1]) >= np.log(1000)
            passed = at[(verdict == MetricVerdict.PASSED) & (stayed[at] >= plan.least_ticks)]
            promoted[passed] = last
            step[passed], stayed[passed] = number + (not last), 0
        ended[(promoted | rolled_back) & (ended == 0)] = tick + 1
    return Ends(SimulatedRollouts(promoted, rolled_back, ended, np.zeros(runs)), wrong)
