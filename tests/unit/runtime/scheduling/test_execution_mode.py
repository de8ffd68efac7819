"""Which passes may run on the event loop: by their own time, without the machine's share."""

import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from sundog_runtime.context import RequestContext
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.scheduling.execution_mode import (
    FIRST_PENALTY_CALLS,
    FORGET_AFTER_CALLS,
    HYSTERESIS,
    LONG_SECONDS,
    PENALTY_CALLS,
    PROBATION_CALLS,
    QUICK_SECONDS,
    PassDurations,
    ThreadUsage,
    is_small,
    read_thread_usage,
    thread_usage_reader,
    unpreempted_seconds,
)
from sundog_runtime.scheduling.model_thread import ModelThread
from sundog_runtime.scheduling.scheduler import Scheduler
from sundog_runtime.signature import Signature
from sundog_runtime.telemetry.replica_metrics import ReplicaMetrics

ROW = np.zeros((1, 2), "float32")


def test_durations_are_quick_after_probation_and_forget_slowly() -> None:
    pace = PassDurations()
    for _ in range(PROBATION_CALLS):
        assert not pace.is_quick
        pace.observe(QUICK_SECONDS / 4)
    assert pace.is_quick
    for penalty in (*(FIRST_PENALTY_CALLS * 4**times for times in range(4)), PENALTY_CALLS, PENALTY_CALLS):
        pace.observe(LONG_SECONDS * 1.01)
        for _ in range(penalty):
            assert not pace.is_quick
            pace.observe(QUICK_SECONDS / 4)
        assert pace.is_quick
    for _ in range(FORGET_AFTER_CALLS):
        pace.observe(QUICK_SECONDS / 4)
    pace.observe(LONG_SECONDS * 1.01)
    for _ in range(FIRST_PENALTY_CALLS):
        assert not pace.is_quick
        pace.observe(QUICK_SECONDS / 4)
    assert pace.is_quick


def test_durations_of_a_slow_model_are_never_quick() -> None:
    pace = PassDurations()
    for _ in range(1000):
        pace.observe(QUICK_SECONDS * 1.5)
    assert not pace.is_quick


def test_a_duration_near_its_limit_does_not_alternate() -> None:
    pace = PassDurations()
    for _ in range(1000):
        pace.observe(QUICK_SECONDS * (1 + HYSTERESIS) / 2)
        assert not pace.is_quick
    while not pace.is_quick:
        pace.observe(QUICK_SECONDS / 2)
    for _ in range(1000):
        pace.observe(QUICK_SECONDS * (1 + HYSTERESIS) / 2)
        assert pace.is_quick


@pytest.mark.parametrize(
    ("seconds", "passes"), [(LONG_SECONDS * 1.01, 1), (0.3, 1), (QUICK_SECONDS * 5, 16), (QUICK_SECONDS * 2, 64)]
)
def test_a_model_that_turns_slow_leaves_within_a_number_of_passes(seconds: float, passes: int) -> None:
    pace = PassDurations()
    for _ in range(10 * PROBATION_CALLS):
        pace.observe(QUICK_SECONDS / 10)
    assert pace.is_quick
    for _ in range(passes):
        pace.observe(seconds)
    assert not pace.is_quick


def test_a_short_pass_needs_no_usage_from_the_kernel() -> None:
    def never() -> ThreadUsage:
        raise AssertionError

    assert unpreempted_seconds(QUICK_SECONDS, ThreadUsage(0.0, 0), never) == QUICK_SECONDS


def test_a_long_pass_is_its_cpu_time_unless_it_waited() -> None:
    before = ThreadUsage(5.0, 7)
    assert unpreempted_seconds(0.3, before, lambda: ThreadUsage(5.25, 7)) == pytest.approx(0.25)
    assert unpreempted_seconds(0.3, before, lambda: ThreadUsage(5.25, 8)) == 0.3
    # The kernel's numbers are not read at the same moment as the clock.
    assert unpreempted_seconds(0.3, before, lambda: ThreadUsage(5.4, 7)) == 0.3


@pytest.mark.skipif(thread_usage_reader is None, reason="the kernel does not say what a thread has had")
def test_the_kernel_counts_waiting_and_work_by_thread() -> None:
    before = read_thread_usage()
    aside = threading.Thread(target=lambda: [threading.Event().wait(0.001) for _ in range(5)])
    aside.start()
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    worked = read_thread_usage()
    assert worked.cpu_s > before.cpu_s
    threading.Event().wait(0.001)
    assert read_thread_usage().waits > worked.waits
    aside.join()


@dataclass
class Machine:
    """A clock, and the kernel's numbers of the thread; each pass takes the times that are set here."""

    now: float = 100.0
    used: ThreadUsage = field(default_factory=lambda: ThreadUsage(0.0, 0))
    cpu: float = 0.0002
    stolen: float = 0.0
    waited: float = 0.0
    threads: list[bool] = field(default_factory=list)

    def predict(self, batch: Any) -> Any:
        self.now += self.cpu + self.stolen + self.waited
        self.used = ThreadUsage(self.used.cpu_s + self.cpu, self.used.waits + (self.waited > 0))
        self.threads.append(threading.current_thread() is threading.main_thread())
        return batch


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
async def scheduler(machine: Machine) -> AsyncIterator[Scheduler]:
    thread = ModelThread()
    model = LoadedModel("pytorch", "a test", machine.predict, Signature())
    yield Scheduler(model, thread, ReplicaMetrics(), clock=lambda: machine.now, usage=lambda: machine.used)
    thread.close()


async def passes(scheduler: Scheduler, machine: Machine, count: int) -> list[bool]:
    """Return for each of `count` passes whether it ran on the event loop."""
    machine.threads.clear()
    for _ in range(count):
        await scheduler.infer(ROW, RequestContext())
    return list(machine.threads)


async def test_stolen_time_changes_nothing(scheduler: Scheduler, machine: Machine) -> None:
    for number in range(PROBATION_CALLS):
        machine.stolen = 0.3 if number % 4 == 0 else 0.0
        assert await passes(scheduler, machine, 1) == [False]
    for number in range(500):
        machine.stolen = 0.3 if number % 4 == 0 else 0.0
        assert await passes(scheduler, machine, 1) == [True], number


@pytest.mark.parametrize("slow", [{"cpu": 0.3}, {"waited": 0.3}], ids=["works", "waits"])
async def test_a_network_that_turns_slow_runs_on_the_loop_once(
    scheduler: Scheduler, machine: Machine, slow: dict[str, float]
) -> None:
    await passes(scheduler, machine, 10 * PROBATION_CALLS)
    for name, value in slow.items():
        setattr(machine, name, value)
    assert await passes(scheduler, machine, 500) == [True] + [False] * 499


@pytest.mark.parametrize("slow", [{"cpu": 0.004}, {"waited": 0.004}], ids=["works", "waits"])
async def test_a_network_that_is_always_slow_never_runs_on_the_loop(
    scheduler: Scheduler, machine: Machine, slow: dict[str, float]
) -> None:
    for name, value in slow.items():
        setattr(machine, name, value)
    assert not any(await passes(scheduler, machine, 500))


async def test_without_usage_from_the_kernel_a_pass_counts_whole(machine: Machine) -> None:
    thread = ModelThread()
    model = LoadedModel("pytorch", "a test", machine.predict, Signature())
    scheduler = Scheduler(model, thread, ReplicaMetrics(), clock=lambda: machine.now, usage=None)
    await passes(scheduler, machine, 2 * PROBATION_CALLS)
    machine.stolen = 0.3
    assert await passes(scheduler, machine, 2) == [True, False]
    thread.close()


@pytest.mark.parametrize("one", ["a", b"a"])
def test_a_text_or_a_file_is_small_by_its_length(one: Any) -> None:
    assert is_small([one])
    assert not is_small([one * 10_000])
