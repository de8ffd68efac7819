"""The demo's convolutional network with faults that `spec.model.config` sets.

The warm-up of a replica and `sundog package` get the plain network.
"""

import os
import random
import time

import net
import torch

from sundog_runtime.context import current


class FaultyModel(net.Net):
    """Pixels of 0 to 16 as float32 [n, 8, 8] in, scores of the ten digits [n, 10] out.

    Attributes:
        release: changes nothing; another one makes another revision.
        failing: the share of requests that raises.
        nan: the share whose scores are no numbers.
        dying: the share that takes the process with it.
        stalls: an hour, by chance: for `stall_s` seconds each, a replica fails `stall_failing` of what it gets.
        median_ms, spread: of the lognormal time that an answer takes beside that of the network; 0 for none.
    """

    def __init__(
        self,
        release: int = 1,
        failing: float = 0.0,
        nan: float = 0.0,
        dying: float = 0.0,
        stalls: float = 0.0,
        stall_s: float = 2.0,
        stall_failing: float = 0.3,
        median_ms: float = 0.0,
        spread: float = 0.5,
    ) -> None:
        super().__init__()
        del release
        self.failing, self.nan, self.dying = failing, nan, dying
        self.stalls, self.stall_s, self.stall_failing = stalls, stall_s, stall_failing
        self.median_s, self.spread = median_ms / 1000, spread
        self.stall_at = self._next_stall()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores; the largest one names the digit."""
        scores: torch.Tensor = super().forward(images)
        if current() is None:
            return scores
        if self.median_s:
            time.sleep(self.median_s * random.lognormvariate(0.0, self.spread))
        drawn, failing = random.random(), self._failing()
        if drawn < self.dying:
            os._exit(1)
        if drawn < self.dying + failing:
            raise RuntimeError("a flaw")
        return scores * float("nan") if drawn > 1 - self.nan else scores

    def _failing(self) -> float:
        now = time.monotonic()
        if now > self.stall_at + self.stall_s:
            self.stall_at = self._next_stall()
        return max(self.failing, self.stall_failing) if now >= self.stall_at else self.failing

    def _next_stall(self) -> float:
        return time.monotonic() + random.expovariate(self.stalls / 3600) if self.stalls else float("inf")
