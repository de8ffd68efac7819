"""Clients that send requests to several services at once, at the times of a Poisson process, without waiting for answers."""

import asyncio
import random
import threading
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp

UNANSWERED: Final = 0
NO_NUMBERS: Final = 1
"""Values of `Samples.statuses` for a request without an answer, and for an answer 200 whose scores are no numbers."""

_MOST_UNDER_WAY: Final = 400
_TIMEOUT: Final = aiohttp.ClientTimeout(total=60)
_HEADERS: Final = {"content-type": "application/json"}


@dataclass
class Samples:
    """Results of the requests of a service, in the order of their ends. The lists only grow.

    Attributes:
        sent: Unix seconds.
        took: seconds until the whole answer was there, or until it was clear that none comes.
        revisions: who answered; 0 where nobody told.
        statuses: of HTTP, `UNANSWERED` or `NO_NUMBERS`.
        problems: the first of those without an answer, with their times.
        skipped: requests that were not sent, for too many were under way.
    """

    sent: "array[float]" = field(default_factory=lambda: array("d"))
    took: "array[float]" = field(default_factory=lambda: array("f"))
    revisions: "array[int]" = field(default_factory=lambda: array("H"))
    statuses: "array[int]" = field(default_factory=lambda: array("H"))
    problems: list[str] = field(default_factory=list)
    skipped: int = 0

    def add(self, sent: float, took: float, revision: int, status: int) -> None:
        """Add a result."""
        self.sent.append(sent)
        self.took.append(took)
        self.revisions.append(revision)
        self.statuses.append(status)

    def of(self, revision: int, since: float = 0.0, until: float = float("inf")) -> Iterable[tuple[float, float, int]]:
        """(sent, took, status) of the requests of a revision that were sent in a time."""
        rows = zip(self.sent, self.took, self.revisions, self.statuses, strict=False)
        return [(sent, took, status) for sent, took, own, status in rows if own == revision and since <= sent < until]


@dataclass
class Asked:
    """A service that gets requests."""

    url: str
    rps: float
    samples: Samples = field(default_factory=Samples)


@dataclass
class Asking:
    """A thread that sends `bodies` in turn."""

    bodies: Sequence[bytes]
    seed: int
    asked: list[Asked] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def ask(self, url: str, rps: float) -> Samples:
        """Ask a service from now on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()
        one = Asked(url, rps)
        self.asked.append(one)
        self._loop.call_soon_threadsafe(self._begin, one, len(self.asked))
        return one.samples

    def stop(self) -> None:
        """Send no more, and wait for what is under way."""
        if self._thread is not None:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(90)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    def _begin(self, one: Asked, number: int) -> None:
        self._tasks.append(self._loop.create_task(self._send_all(one, random.Random(self.seed * 1000 + number))))

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send_all(self, one: Asked, draw: random.Random) -> None:
        under_way: set[asyncio.Task[None]] = set()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=20)
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
            following = time.monotonic()
            try:
                while True:
                    following += draw.expovariate(one.rps)
                    await asyncio.sleep(max(0.0, following - time.monotonic()))
                    if len(under_way) >= _MOST_UNDER_WAY:
                        one.samples.skipped += 1
                        continue
                    task = asyncio.create_task(_send(session, one, draw.choice(self.bodies)))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
            finally:
                await asyncio.gather(*under_way)


async def _send(session: aiohttp.ClientSession, one: Asked, body: bytes) -> None:
    sent, began, revision, status = time.time(), time.perf_counter(), 0, UNANSWERED
    try:
        async with session.post(one.url, data=body, headers=_HEADERS) as response:
            answer = await response.read()
            told = response.headers.get("x-sundog-revision", "")
            revision, status = int(told) if told.isdecimal() else 0, response.status
            if status == 200 and (b"NaN" in answer or b"null" in answer or b'"outputs"' not in answer):
                status = NO_NUMBERS
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        if len(one.samples.problems) < 50:
            one.samples.problems.append(f"{sent:.3f} {type(error).__name__}: {error}"[:200])
    one.samples.add(sent, time.perf_counter() - began, revision, status)
