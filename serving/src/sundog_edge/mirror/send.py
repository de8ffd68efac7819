"""Repeat requests at a candidate's replicas, and count how the answers compare. No client waits for this."""

import asyncio
import itertools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import aiohttp
from pydantic import Field, TypeAdapter
from yarl import URL

from sundog_edge import headers
from sundog_edge.http_body import read_body
from sundog_edge.mirror.compare import compare_answers
from sundog_edge.mirror.counts import MirrorCounts
from sundog_edge.mirror.records import MirroredAnswer, MirroredRequest, MirrorRecord, parse_record
from sundog_edge.split.shadow import Comparator

LOG = logging.getLogger(__name__)
MAX_IN_FLIGHT: Final = 32
"""Concurrent copies of one service. A candidate with more is too slow, and further copies would slow it down more."""

MAX_LAG_US: Final = 5_000_000
"""A request that ended longer ago is not repeated."""

_MAX_ANSWER_BYTES: Final = 1 << 20

CountsKey = tuple[str, str]
"""Boot of the HAProxy worker, and `service/attempt/epoch`."""


@dataclass(frozen=True, slots=True)
class MirrorTarget:
    """The target of a service's copies. `addresses` are healthy replicas of the candidate."""

    key: str
    prefix: str
    addresses: tuple[str, ...]
    timeout_s: Annotated[float, Field(alias="timeoutSeconds")]
    comparator: Comparator


TARGETS: Final = TypeAdapter(dict[str, MirrorTarget])
"""Targets by service, as JSON between the agent and the mirror."""


class Mirror:
    """Repeats the requests in datagrams, and counts the results. `unparsable`: datagrams of another format."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.counts: dict[CountsKey, MirrorCounts] = {}
        self.unparsable = 0
        self._session = session
        self._targets: dict[str, MirrorTarget] = {}
        self._turns = itertools.count()
        self._running: dict[str, set[asyncio.Task[None]]] = {}
        self._answered_key: dict[str, str] = {}

    def set_targets(self, targets: Mapping[str, MirrorTarget]) -> None:
        """Set the targets of copies by service."""
        self._targets = dict(targets)

    def take(self, datagram: bytes, now_us: int) -> None:
        """Repeat the request in a datagram, or count the reason why not."""
        try:
            record = parse_record(datagram)
        except ValueError as error:
            LOG.debug("%s", error)
            self.unparsable += 1
            return
        counts = self.counts.setdefault((record.boot, record.key), MirrorCounts())
        service = record.key.partition("/")[0]
        target = self._targets.get(service)
        running = self._running.setdefault(service, set())
        if record.skip:
            counts.skip(record.skip)
        elif target is None or target.key != record.key:
            counts.skip("ended")
        elif not target.addresses and self._answered_key.get(service) != record.key:
            # The agent may not know the candidate's replicas yet. After its first answer here, missing replicas count as its errors.
            counts.skip("noReplica")
        elif not target.addresses:
            counts.sent += 1
            counts.errors += 1
        elif len(running) >= MAX_IN_FLIGHT or now_us - record.ended_us > MAX_LAG_US:
            counts.dropped += 1
        else:
            counts.sent += 1
            counts.in_flight += 1
            task = asyncio.get_running_loop().create_task(self._repeat(record, target, counts))
            running.add(task)
            task.add_done_callback(running.discard)

    async def _repeat(self, record: MirrorRecord, target: MirrorTarget, counts: MirrorCounts) -> None:
        address = target.addresses[next(self._turns) % len(target.addresses)]
        began = time.perf_counter_ns()
        try:
            async with asyncio.timeout(target.timeout_s):
                answer = await self._ask(f"http://{address}{target.prefix}", target, record.request)
        except TimeoutError:
            counts.timeouts += 1
        except (aiohttp.ClientError, OSError, ValueError) as error:
            LOG.debug("%s: %s", address, error)
            counts.errors += 1
        else:
            if answer is None:
                counts.errors += 1
            else:
                self._answered_key[record.key.partition("/")[0]] = record.key
                counts.add_pair((time.perf_counter_ns() - began) // 1000, record.total_us)
                for name, agree in compare_answers(target.comparator, record.answer, answer).items():
                    counts.add_verdict(name, agree=agree)
        finally:
            counts.in_flight -= 1

    async def _ask(self, base: str, target: MirrorTarget, request: MirroredRequest) -> MirroredAnswer | None:
        """Return the candidate's answer; None if its status is not 200 or its outcome is invalid."""
        values = {
            headers.CONTENT_TYPE: request.content_type,
            headers.ACCEPT: request.accept,
            headers.JSON_LENGTH: request.json_length,
            headers.REQUEST_ID: request.id,
            headers.SHADOW: "1",
            headers.TIMEOUT: f"{target.timeout_s:g}",
            headers.DISCONNECT_DISABLED: "?1",
        }
        sent = {name: value for name, value in values.items() if value}
        url = URL(base + request.path, encoded=True)
        async with self._session.post(url, data=request.body, headers=sent, allow_redirects=False) as response:
            if response.status != 200 or response.headers.get(headers.OUTCOME) == "invalid":
                return None
            # Compared answers of stable are much shorter.
            body = await read_body(response, _MAX_ANSWER_BYTES)
            length = response.headers.get(headers.JSON_LENGTH, "")
            return MirroredAnswer(response.content_type, int(length) if length.isdecimal() else None, body)
