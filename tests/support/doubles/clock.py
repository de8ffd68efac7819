"""A clock that moves only when a test moves it."""

import asyncio
from datetime import UTC, datetime, timedelta


class FakeClock:
    """`ports.Clock` under a test's control. Sleepers wake in order of their time when the clock is moved past it."""

    def __init__(self, start: datetime = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)) -> None:
        self._now = start
        self._elapsed = 1000.0
        self._sleepers: list[tuple[datetime, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + timedelta(seconds=seconds), waiter))
        await waiter

    def set_back(self, seconds: float) -> None:
        """Correct the wall clock, without a jump of the monotonic time."""
        self._now -= timedelta(seconds=seconds)
        self._sleepers = [(at - timedelta(seconds=seconds), waiter) for at, waiter in self._sleepers]

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._elapsed += seconds
        due = [waiter for at, waiter in sorted(self._sleepers, key=lambda sleeper: sleeper[0]) if at <= self._now]
        self._sleepers = [(at, waiter) for at, waiter in self._sleepers if at > self._now]
        for waiter in due:
            if not waiter.done():
                waiter.set_result(None)
