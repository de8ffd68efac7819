"""Simulated services whose replicas stall at any moment. The blocks of the counts begin elsewhere than the stalls do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from sundog_operator.core.forecast.rollout_simulation import TICK_S, Generator
from sundog_operator.core.stats.beta_binomial import Numbers

SEED: Final = 7_000_000
"""Seed of the first run of worlds that no design decision was based on. Development uses seeds below 1000."""

_DAY_TICKS: Final = round(86_400 / TICK_S)
_COMMON: Final = 2
"""Place of the stalls that befall all replicas of both arms."""


@dataclass
class Stalling:
    """Replicas stall now and then, and fail a share of what they get meanwhile, alone or in both arms at once.

    Attributes:
        runs: number of rollouts.
        rps: requests a second, on average over a day.
        base: share of events without any stall.
        ratio: number of times that the canary has of it.
        replicas: of stable, and of the canary in each step; the last number also holds for later steps.
        lengths_s: the least and the largest length of a stall, log-uniformly.
        failing: the least and the largest share of requests that a stall makes events of, uniformly.
        per_hour: how often each replica stalls.
        together: share of stalls that befall all replicas of both arms.
        swing: share by which the load is above its average at noon, and below it at midnight.
    """

    runs: int
    rps: float
    base: float = 0.002
    ratio: float = 1.0
    replicas: tuple[int, int | Sequence[int]] = (2, 1)
    lengths_s: tuple[float, float] = (1.0, 60.0)
    failing: tuple[float, float] = (0.1, 1.0)
    per_hour: float = 6.0
    together: float = 0.0
    swing: float = 0.0
    _canary: Numbers = field(init=False)
    _begins: list[Numbers] = field(init=False)
    _ends: list[Numbers] = field(init=False)
    _failing: list[Numbers] = field(init=False)

    def __post_init__(self) -> None:
        stable, canary = self.replicas
        self._canary = np.atleast_1d(canary)
        shapes = [(self.runs, count) for count in (stable, int(self._canary.max()), 1)]
        self._begins, self._ends, self._failing = ([np.zeros(shape) for shape in shapes] for _ in range(3))

    def tick(
        self, draw: Generator, tick: int, step: Numbers, weight: Numbers
    ) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """See TrafficModel."""
        load = 1 + self.swing * math.sin(2 * math.pi * tick / _DAY_TICKS)
        total = draw.poisson(self.rps * TICK_S * load, step.shape)
        treatment = draw.binomial(total, weight)
        control = total - treatment
        stalled = [self._stalled(draw, place, tick * TICK_S) for place in range(3)]
        used = self._canary[np.minimum(step, self._canary.size - 1)]
        own, common = stalled[0].mean(-1), stalled[_COMMON].mean(-1)
        theirs = (stalled[1] * (np.arange(stalled[1].shape[-1]) < used[:, None])).sum(-1) / used
        rates = (self.base + own + common, self.base * self.ratio + theirs + common)
        events, treatment_events = (
            draw.binomial(requests, np.minimum(rate, 1.0))
            for requests, rate in zip((control, treatment), rates, strict=True)
        )
        return control, treatment, events, treatment_events

    def _stalled(self, draw: Generator, place: int, now_s: float) -> Numbers:
        """Return the share of its requests in these ten seconds that each replica fails because of a stall."""
        begins, ends, failing = self._begins[place], self._ends[place], self._failing[place]
        often = self.per_hour * (self.together if place == _COMMON else 1 - self.together)
        starts = (draw.random(begins.shape) < often * TICK_S / 3600) & (ends <= now_s)
        count = int(starts.sum())
        begins[starts] = now_s + draw.uniform(0, TICK_S, count)
        ends[starts] = begins[starts] + np.exp(draw.uniform(*np.log(self.lengths_s), count))
        failing[starts] = draw.uniform(*self.failing, count)
        during = np.minimum(ends, now_s + TICK_S) - np.maximum(begins, now_s)
        lost: Numbers = np.clip(during, 0.0, None) * failing / TICK_S
        return lost


def always(length_s: float, failing: float) -> dict[str, tuple[float, float]]:
    """Return the arguments of `Stalling` for stalls of one kind."""
    return {"lengths_s": (length_s, length_s), "failing": (failing, failing)}
