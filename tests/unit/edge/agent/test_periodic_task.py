"""Periodic tasks of the agent: the times of their turns, and the log of failures."""

import pytest

from sundog_edge.agent.periodic_task import PeriodicTask
from sundog_edge.errors import HaproxyRefused


class Work:
    """Counts its turns, and raises `error` if it is set. Its clock moves only when a test sets `now`."""

    def __init__(self) -> None:
        self.turns = 0
        self.now = 100.0
        self.error: Exception | None = None

    async def turn(self) -> None:
        self.turns += 1
        if self.error is not None:
            raise self.error

    def step(self, **pauses: float) -> PeriodicTask:
        return PeriodicTask(self.turn, clock=lambda: self.now, **pauses)


async def test_a_task_runs_at_once_and_then_at_its_interval():
    work = Work()
    step = work.step(interval_s=1.0, retry_s=5.0)
    for at, turns in ((100.0, 1), (100.9, 1), (101.0, 2), (101.9, 2), (102.0, 3)):
        work.now = at
        await step.run_if_due()
        assert work.turns == turns, at


async def test_a_failed_task_waits_before_its_retry():
    work = Work()
    step = work.step(retry_s=5.0)
    work.error = HaproxyRefused("no")
    await step.run_if_due()
    assert step.failing
    work.error = None
    for at, turns in ((104.9, 1), (105.0, 2), (105.0, 3)):
        work.now = at
        await step.run_if_due()
        assert work.turns == turns, at
    assert not step.failing


async def test_each_error_is_logged_once_until_a_turn_succeeds(caplog):
    work = Work()
    step = work.step()
    refused, full = HaproxyRefused("refused"), OSError("disk full")
    for error in (refused, full, refused, full, None, refused):
        work.error = error
        await step.run_if_due()
    assert [record.getMessage() for record in caplog.records] == ["refused", "disk full", "refused"]


async def test_a_programming_error_is_raised():
    work = Work()
    work.error = KeyError("x")
    with pytest.raises(KeyError):
        await work.step().run_if_due()
