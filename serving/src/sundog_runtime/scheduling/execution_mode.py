"""Choose where the next forward pass runs, and where large bodies are read and written.

Passing a call to the model's thread and back costs more than a small network's whole forward pass (measured on two
cores: a request takes 165 µs on the event loop, 350 µs through the thread). But a pass on the event loop blocks
everything else in the replica, health checks included. So only torch models with quick passes run there, and only with
small inputs: the time for one row says nothing about ten thousand rows.

A pass counts with its own time. Time in which its thread was ready to run and had no core is the machine's. On a busy
machine, or in a container with a CPU limit, a pass of 0.1 ms may take 100 ms from begin to end.
"""

import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

QUICK_SECONDS = 0.002
"""Maximum mean duration of passes that may start to run on the event loop."""

HYSTERESIS = 1.5
"""Factor of that duration at which passes leave the event loop again, so that a model near the limit does not alternate."""

LONG_SECONDS = 0.05
"""A longer pass sends the next `FIRST_PENALTY_CALLS` passes to the thread. Each further long pass sends four times as many,
up to `PENALTY_CALLS`. A single one may be chance; a model that has them now and then does not stay on the event loop."""

FIRST_PENALTY_CALLS = 64
PENALTY_CALLS = 10_000
FORGET_AFTER_CALLS = 100_000
PROBATION_CALLS = 16
SMALL_BYTES = 64 * 1024
"""Larger bodies and outputs take long to read and write, for any model, so another thread does it."""

_MANY_ITEMS = 4096
_MEAN_OVER = 32.0


def is_small(value: Any) -> bool:
    """Whether a batch, or an output of `tensors.to_plain`, takes almost no time to read or write.

    Nested lists are taken as rectangular: only the first item of each level is checked.
    """
    if isinstance(value, np.ndarray):
        return value.nbytes <= SMALL_BYTES
    if isinstance(value, dict):
        return len(value) <= _MANY_ITEMS and all(map(is_small, value.values()))
    items = 1
    while isinstance(value, list | str | bytes) and value:
        items *= len(value)
        value = value[0] if isinstance(value, list) else ""
    return items <= _MANY_ITEMS and (not isinstance(value, np.ndarray) or items * value.nbytes <= SMALL_BYTES)


class ThreadUsage(NamedTuple):
    """A thread's usage since its start: CPU seconds, and how often it gave up its core to wait."""

    cpu_s: float
    waits: int


def read_thread_usage() -> ThreadUsage:
    """Return the usage of the calling thread."""
    found = resource.getrusage(resource.RUSAGE_THREAD)
    return ThreadUsage(found.ru_utime + found.ru_stime, found.ru_nvcsw)


def _waits_are_counted() -> bool:
    """Whether the kernel counts waits: macOS has no usage by thread, and some sandboxes count nothing."""
    if not hasattr(resource, "RUSAGE_THREAD"):
        return False
    before = read_thread_usage().waits
    time.sleep(0.001)
    return read_thread_usage().waits > before


thread_usage_reader: Callable[[], ThreadUsage] | None = read_thread_usage if _waits_are_counted() else None
"""None if the kernel does not count a thread's usage."""


def unpreempted_seconds(seconds: float, before: ThreadUsage, usage: Callable[[], ThreadUsage]) -> float:
    """Return the own time of a pass that took `seconds` on this thread, whose usage was `before` at its begin.

    The own time is the CPU time if the thread never waited. If it waited, for a device, a lock or a clock, it is `seconds`.
    """
    if seconds <= QUICK_SECONDS:
        # The pass is quick, with or without the machine's share.
        return seconds
    now = usage()
    return min(seconds, now.cpu_s - before.cpu_s) if now.waits == before.waits else seconds


class PassDurations:
    """Durations of one model's passes: an exponentially weighted mean over about 32, and a penalty for long ones."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._weight = 0.0
        self._limit = QUICK_SECONDS
        self._on_probation = PROBATION_CALLS
        self._penalty = FIRST_PENALTY_CALLS
        self._since_long = 0

    def observe(self, seconds: float) -> None:
        """Record one pass by its own time."""
        self._since_long += 1
        if seconds > LONG_SECONDS:
            if self._since_long > FORGET_AFTER_CALLS:
                self._penalty = FIRST_PENALTY_CALLS
            self._on_probation = self._penalty
            self._penalty = min(4 * self._penalty, PENALTY_CALLS)
            self._since_long = 0
        elif self._on_probation:
            self._on_probation -= 1
        self._weight = min(self._weight + 1.0, _MEAN_OVER)
        self._mean += (seconds - self._mean) / self._weight
        self._limit = HYSTERESIS * QUICK_SECONDS if self.is_quick else QUICK_SECONDS

    @property
    def is_quick(self) -> bool:
        """Whether the next pass may run on the event loop."""
        return not self._on_probation and self._mean <= self._limit
