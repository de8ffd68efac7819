"""A simulated service in which replicas stall."""

import numpy as np

from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.power.rollout_simulation import TICK_S, Generator


class Stalling:
    """Both arms are the same; replicas stall now and then, and then fail a share of what they get."""

    def __init__(
        self, runs: int, *, rps: float, replicas: tuple[int, int], seconds: float, failing: float, per_hour: float = 6.0
    ) -> None:
        self._rps, self._failing, self._seconds = rps, failing, seconds
        self._chance = per_hour * TICK_S / 3600
        self._left = [np.zeros((runs, count)) for count in replicas]

    def tick(
        self, draw: Generator, tick: int, step: Numbers, weight: Numbers
    ) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """See World."""
        del tick
        total = draw.poisson(self._rps * TICK_S, step.shape)
        candidate = draw.binomial(total, weight)
        control = total - candidate
        failed = [
            draw.binomial(requests, 0.001 + self._stalled(draw, left) * self._failing)
            for requests, left in zip((control, candidate), self._left, strict=True)
        ]
        return control, candidate, *failed

    def _stalled(self, draw: Generator, left: Numbers) -> Numbers:
        """The share of the ten seconds and of an arm's replicas that are stalled."""
        begins = (draw.random(left.shape) < self._chance) & (left == 0)
        left[begins] = self._seconds
        now = np.minimum(left, TICK_S)
        left -= now
        return now.mean(-1) / TICK_S
