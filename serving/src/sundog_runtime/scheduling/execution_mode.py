"""Where the next forward pass may run, and where what goes in and out is read and written.

Handing a call to the model's thread and back costs more than a small network's whole forward pass (measured on two
cores: a request takes 165 µs on the event loop, 350 µs by way of the thread). But a pass on the event loop holds up
everything of the replica, health checks included. So only passes of torch models that have proved to be quick run there,
and only over inputs that are small: what was learned of one row says nothing of ten thousand.

A pass counts with its own time. Time in which its thread was ready to run and had no core is the machine's: on a busy
one, and where a container's CPU is throttled, a pass of 0.1 ms may take 100 ms from begin to end.
"""

import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

QUICK_SECONDS = 0.002
"""Passes of at most this mean duration may run on the event loop."""

HYSTERESIS = 1.5
"""Passes that run there leave it at so many times that duration: a model near the limit does not go to and fro."""

LONG_SECONDS = 0.05
"""A pass longer than this sends the next `FIRST_PENALTY_CALLS` to the thread, and each further one four times as many, up
to `PENALTY_CALLS`. One alone may be chance; a model that has them now and then will not stay on the loop."""

FIRST_PENALTY_CALLS = 64
PENALTY_CALLS = 10_000
FORGET_AFTER_CALLS = 100_000
PROBATION_CALLS = 16
SMALL_BYTES = 64 * 1024
"""Larger bodies and outputs take long to read and write, whatever the model does: another thread does it."""

_MANY_ITEMS = 4096
_MEMORY = 32.0


def is_small(value: Any) -> bool:
    """Whether a batch, or an output as `tensors.plain` gives it, takes next to no time to work on.

    Of nested lists the first of each level is looked at, as if they were rectangular.
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
    """What a thread has had since its start: CPU seconds, and how often it gave up its core to wait for something."""

    cpu_s: float
    waits: int


def read_thread_usage() -> ThreadUsage:
    """That of the calling thread."""
    found = resource.getrusage(resource.RUSAGE_THREAD)
    return ThreadUsage(found.ru_utime + found.ru_stime, found.ru_nvcsw)


def _waits_are_counted() -> bool:
    """Not on macOS, which has no usage by thread, nor in sandboxes that count nothing."""
    if not hasattr(resource, "RUSAGE_THREAD"):
        return False
    before = read_thread_usage().waits
    time.sleep(0.001)
    return read_thread_usage().waits > before


thread_usage_reader: Callable[[], ThreadUsage] | None = read_thread_usage if _waits_are_counted() else None
"""None where the kernel does not say what a thread has had."""


def unpreempted_seconds(seconds: float, before: ThreadUsage, usage: Callable[[], ThreadUsage]) -> float:
    """The own time of a pass that took `seconds` from begin to end on this thread, whose usage was `before` when it began.

    A thread that never waited has had its CPU time. One that did, for a device, a lock or a clock, has had all of it.
    """
    if seconds <= QUICK_SECONDS:
        # It is quick, whosever time it was.
        return seconds
    now = usage()
    return min(seconds, now.cpu_s - before.cpu_s) if now.waits == before.waits else seconds


class PassDurations:
    """How long the passes of one model take: an exponentially weighted mean over some 32, and a memory for long ones."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._weighed = 0.0
        self._limit = QUICK_SECONDS
        self._on_probation = PROBATION_CALLS
        self._penalty = FIRST_PENALTY_CALLS
        self._since_long = 0

    def observe(self, seconds: float) -> None:
        """Take one pass into account, by its own time."""
        self._since_long += 1
        if seconds > LONG_SECONDS:
            if self._since_long > FORGET_AFTER_CALLS:
                self._penalty = FIRST_PENALTY_CALLS
            self._on_probation = self._penalty
            self._penalty = min(4 * self._penalty, PENALTY_CALLS)
            self._since_long = 0
        elif self._on_probation:
            self._on_probation -= 1
        self._weighed = min(self._weighed + 1.0, _MEMORY)
        self._mean += (seconds - self._mean) / self._weighed
        self._limit = HYSTERESIS * QUICK_SECONDS if self.quick else QUICK_SECONDS

    @property
    def quick(self) -> bool:
        """Whether the next pass may run on the event loop."""
        return not self._on_probation and self._mean <= self._limit
