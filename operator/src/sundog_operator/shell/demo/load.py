"""Clients that send the held-out images continuously and record the responses."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import orjson

CLIENT_COUNT: Final = 8
PAUSE_S: Final = 0.02
"""Pause of a client before its next request: some 300 requests a second leave two cores to the models."""
REVISION_HEADER: Final = "x-sundog-revision"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)


@dataclass(frozen=True, slots=True)
class RequestSample:
    """One request.

    Attributes:
        sent_s: time of sending, in seconds since the load began.
        latency_s: seconds until the complete response or the failure.
        image: index of the held-out image.
        revision: revision in the edge's response header; 0 if there is none.
        predicted: the digit of the largest score; -1 for a failed request.
        problem: why it failed, in one line; empty after a success.
    """

    sent_s: float
    latency_s: float
    image: int
    revision: int = 0
    predicted: int = -1
    problem: str = ""


@dataclass(slots=True)
class LoadGenerator:
    """Clients and their requests. `samples` only grows, in the order of the responses."""

    url: str
    bodies: Sequence[bytes]
    clients: int = CLIENT_COUNT
    pause_s: float = PAUSE_S
    samples: list[RequestSample] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def now_s(self) -> float:
        """Return the seconds since the load began."""
        return time.perf_counter() - self.began

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send while the context is open. At its end each client waits for its last response."""
        # Each client keeps its connection, as a service that calls a model does.
        connector = aiohttp.TCPConnector(limit=self.clients)
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
            clients = [asyncio.create_task(self._send_all(session, number)) for number in range(self.clients)]
            try:
                yield
            finally:
                self._stopping.set()
                await asyncio.gather(*clients)

    async def _send_all(self, session: aiohttp.ClientSession, client: int) -> None:
        """Send all images repeatedly, one at a time, in this client's own order."""
        order = random.Random(client)  # noqa: S311 not a secret
        while True:
            for image in order.sample(range(len(self.bodies)), len(self.bodies)):
                self.samples.append(await self._send(session, image))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self.pause_s)
                if self._stopping.is_set():
                    return

    async def _send(self, session: aiohttp.ClientSession, image: int) -> RequestSample:
        sent = self.now_s()
        revision, predicted, problem = 0, -1, ""
        try:
            async with session.post(
                self.url, data=self.bodies[image], headers={"content-type": "application/json"}
            ) as response:
                body = await response.read()
            header = response.headers.get(REVISION_HEADER, "")
            revision, predicted, problem = _parse_response(response.status, header, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            problem = f"no response: {type(error).__name__}: {error}"[:200]
        return RequestSample(sent, self.now_s() - sent, image, revision, predicted, problem)


def _parse_response(status: int, header: str, body: bytes) -> tuple[int, int, str]:
    """Return (revision, predicted digit, problem) of a response."""
    revision = int(header) if header.isdecimal() else 0
    if status != 200:
        return revision, -1, f"HTTP {status}: {body[:120].decode(errors='replace')}"
    if not revision:
        return 0, -1, f"the response has no {REVISION_HEADER}"
    try:
        scores = orjson.loads(body)["outputs"][0]
        return revision, max(range(len(scores)), key=scores.__getitem__), ""
    except (ValueError, LookupError, TypeError):
        return revision, -1, f"the response has no scores: {body[:120].decode(errors='replace')}"
