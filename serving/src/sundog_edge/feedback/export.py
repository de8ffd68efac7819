"""All that is kept of one attempt, as JSON lines: for who wants to analyse it elsewhere.

The first line says what the lines after it are of, and how the sums were when they were begun; the last one how they were when all was
written, and how many lines of each kind there are. Where the sequence of both is the same, the lines are what the sums are of. A unit is
the hash that exposures carry; a value is in millionths. Exposures may come more than once, outcomes come in the order in which they were
accepted.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any, Final, NamedTuple, Protocol

import orjson
from aiohttp import web

from sundog_edge.errors import EdgeError

log = logging.getLogger(__name__)

VERSION: Final = 1
CONTENT_TYPE: Final = "application/x-ndjson"
_BLOCK: Final = 500
_LONGEST_S: Final = 600.0
"""So long one export may take: a reader who stops reading must not keep the others from theirs."""

_ATTEMPT: Final = re.compile(r"[A-Za-z0-9._-]{1,63}")


class ExportedExposure(NamedTuple):
    """The first exposure of a unit. `unit` is its hash, `us` Unix time in microseconds."""

    unit: int
    us: int
    epoch: int
    arm: str


class ExportedOutcome(NamedTuple):
    """One accepted outcome, with the epoch and arm of its unit's first exposure. `value` is in millionths, `seconds` is Unix time."""

    unit: int
    metric: str
    epoch: int
    arm: str
    value: int
    seconds: int


class StoredTallies(Protocol):
    """What a store says of the attempts that it was asked for."""

    @property
    def id(self) -> str:
        """That of the store."""

    @property
    def tallies(self) -> Mapping[str, Mapping[str, int]]:
        """By attempt."""


class ExportableStore(Protocol):
    """The part of a store of feedback that is exported. Attempts are named `service/attempt`; every method raises EdgeError."""

    async def read(self, attempts: Collection[str]) -> StoredTallies:
        """The tallies as they are now."""

    def exposures(self, attempt: str) -> AsyncIterator[ExportedExposure]:
        """Every first exposure that is kept; one may come more than once."""

    def outcomes(self, attempt: str) -> AsyncIterator[ExportedOutcome]:
        """Every outcome that is kept, the oldest first."""


SectionRenderer = Callable[[str, str, Mapping[str, int]], dict[str, Any]]
"""What the evidence says of an attempt, by its uid, the id of the store, and its tally."""


async def export_lines(
    store: ExportableStore, section: SectionRenderer, service: str, attempt: str
) -> AsyncIterator[bytes]:
    """The lines of one attempt, some hundreds at a time. Raises EdgeError."""
    name = f"{service}/{attempt}"
    told = await _sums(store, section, name, attempt)
    yield _line("head", {"version": VERSION, "service": service, "attempt": attempt, **told})
    counts = {"exposures": 0, "outcomes": 0}
    block: list[bytes] = []
    kept: tuple[tuple[str, AsyncIterator[ExportedExposure | ExportedOutcome]], ...] = (
        ("exposure", store.exposures(name)),
        ("outcome", store.outcomes(name)),
    )
    for kind, rows in kept:
        async for row in rows:
            counts[f"{kind}s"] += 1
            block.append(_line(kind, (f"{row.unit:016x}", *row[1:])))
            if len(block) == _BLOCK:
                yield b"".join(block)
                block.clear()
    yield b"".join([*block, _line("end", {**counts, **await _sums(store, section, name, attempt)})])


async def _sums(store: ExportableStore, section: SectionRenderer, name: str, attempt: str) -> dict[str, Any]:
    stored = await store.read([name])
    tally = stored.tallies.get(name, {})
    return {"events": tally.get("events", 0), "feedback": section(attempt, stored.id, tally)}


def _line(kind: str, content: Any) -> bytes:
    try:
        return orjson.dumps({kind: content}) + b"\n"
    except TypeError:
        # Sums of squares outgrow 64 bits, which orjson does not write.
        return json.dumps({kind: content}).encode() + b"\n"


def make_export_handler(
    store: Callable[[], ExportableStore | None], section: SectionRenderer
) -> Callable[[web.Request], Any]:
    """Answers `GET /feedback/{service}/{attempt}/export`, one at a time: what is asked for meanwhile is to come again."""
    exporting = asyncio.Lock()

    async def export(request: web.Request) -> web.StreamResponse:
        service, attempt, kept = request.match_info["service"], request.match_info["attempt"], store()
        if kept is None or not (_ATTEMPT.fullmatch(service) and _ATTEMPT.fullmatch(attempt)):
            return web.Response(status=404, text="this edge keeps no outcomes of that name\n")
        if exporting.locked():
            return web.Response(status=503, headers={"retry-after": "10"}, text="another export is under way\n")
        async with exporting:
            return await _answer(request, export_lines(kept, section, service, attempt))

    return export


async def _answer(request: web.Request, told: AsyncIterator[bytes]) -> web.StreamResponse:
    """Whatever happens after the first line ends the connection: an answer without its last line is none."""
    try:
        first = await anext(told)
    except EdgeError as error:
        return web.Response(status=503, text=f"{error}\n")
    response = web.StreamResponse(headers={"content-type": CONTENT_TYPE})
    await response.prepare(request)
    try:
        async with asyncio.timeout(_LONGEST_S):
            await response.write(first)
            async for block in told:
                await response.write(block)
    except (EdgeError, TimeoutError) as error:
        log.warning("an export ended early: %s", error or f"not read within {_LONGEST_S:g} s")
        if request.transport is not None:
            request.transport.close()
    return response
