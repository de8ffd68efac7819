"""Simulated services that no design decision was based on. Corrections and block lengths were chosen by `stalling_replicas`."""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.power.rollout_simulation import TICK_S, Generator

SEED: Final = 7_000_000
"""Seed of the first run. Development uses seeds below 1000."""

_DAY_TICKS: Final = round(86_400 / TICK_S)


@dataclass
class HeldOut:
    """Replicas stall for lengths that differ, alone or in both arms at once, under a load that changes over the day.

    Attributes:
        runs: how many rollouts.
        rps: requests a second, on average over a day.
        base: the share of events without any stall.
        ratio: how many times that the treatment has.
        replicas: of control and of the treatment.
        lengths_s: between which stalls last, log-uniformly.
        failing: between which shares of requests a stall makes events of, uniformly.
        per_hour: how often each replica stalls.
        together: the share of stalls that befall all replicas of both arms.
        swing: by which share the load is above its average at noon, and below it at midnight.
    """

    runs: int
    rps: float
    base: float = 0.002
    ratio: float = 1.0
    replicas: tuple[int, int] = (2, 1)
    lengths_s: tuple[float, float] = (1.0, 60.0)
    failing: tuple[float, float] = (0.1, 1.0)
    per_hour: float = 6.0
    together: float = 0.0
    swing: float = 0.0
    _left: list[Numbers] = field(init=False)
    _failing: list[Numbers] = field(init=False)

    def __post_init__(self) -> None:
        # The last column is what all replicas of both arms have in common.
        self._left = [np.zeros((self.runs, count)) for count in (*self.replicas, 1)]
        self._failing = [np.zeros(left.shape) for left in self._left]

    def tick(
        self, draw: Generator, tick: int, step: Numbers, weight: Numbers
    ) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """See World."""
        load = 1 + self.swing * math.sin(2 * math.pi * tick / _DAY_TICKS)
        total = draw.poisson(self.rps * TICK_S * load, step.shape)
        treatment = draw.binomial(total, weight)
        control = total - treatment
        own, theirs, common = (self._lost(draw, place) for place in range(3))
        rates = (self.base + own + common, self.base * self.ratio + theirs + common)
        events, treatment_events = (
            draw.binomial(requests, np.minimum(rate, 1.0))
            for requests, rate in zip((control, treatment), rates, strict=True)
        )
        return control, treatment, events, treatment_events

    def _lost(self, draw: Generator, place: int) -> Numbers:
        """Return the share of an arm's requests in these ten seconds that fail because of stalls."""
        left, failing = self._left[place], self._failing[place]
        often = self.per_hour * (self.together if place == 2 else 1 - self.together)
        begins = (draw.random(left.shape) < often * TICK_S / 3600) & (left == 0)
        low, high = np.log(self.lengths_s)
        left[begins] = np.exp(draw.uniform(low, high, int(begins.sum())))
        failing[begins] = draw.uniform(*self.failing, int(begins.sum()))
        now = np.minimum(left, TICK_S)
        left -= now
        lost: Numbers = (now * failing).mean(-1) / TICK_S
        return lost
