"""Export all stored feedback of one attempt as JSON lines, for analysis elsewhere.

The first line names the attempt and has the sums at the start of the export. The last line has the sums at its end, and the number of lines
of each kind. If both have the same sequence, the sums match the lines. A unit is the hash in exposures; a value is in millionths. An
exposure may come more than once. Outcomes come in the order of their acceptance. An outcome with properties has them, as JSON text, only if
the request asks for them: readers of an earlier release accept no further member.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from aiohttp import web

from sundog_edge import headers
from sundog_edge.errors import EdgeError
from sundog_edge.feedback.store import ExportedExposure, ExportedOutcome, OutcomeStore
from sundog_edge.http_body import encode_json

log = logging.getLogger(__name__)

VERSION: Final = 1
CONTENT_TYPE: Final = "application/x-ndjson"
_BLOCK_LINES: Final = 500
_TIMEOUT_S: Final = 600.0
"""Longest duration of one export: a client that stops reading must not block the others."""

_ATTEMPT: Final = re.compile(r"[A-Za-z0-9._-]{1,63}")


SectionRenderer = Callable[[str, str, Mapping[str, int]], dict[str, Any]]
"""Renders an attempt's section of the evidence from its uid, the id of the store, and its tally."""


async def export_lines(
    store: OutcomeStore, section: SectionRenderer, service: str, attempt: str, *, properties: bool = False
) -> AsyncIterator[bytes]:
    """Yield the lines of one attempt in blocks of some hundreds. Raises EdgeError."""
    name = f"{service}/{attempt}"
    sums = await _sums(store, section, name, attempt)
    yield _line("head", {"version": VERSION, "service": service, "attempt": attempt, **sums})
    counts = {"exposures": 0, "outcomes": 0}
    block: list[bytes] = []
    stored: tuple[tuple[str, AsyncIterator[ExportedExposure | ExportedOutcome]], ...] = (
        ("exposure", store.exposures(name)),
        ("outcome", store.outcomes(name)),
    )
    for kind, rows in stored:
        async for row in rows:
            counts[f"{kind}s"] += 1
            block.append(_line(kind, (f"{row.unit:016x}", *_members(row, properties=properties))))
            if len(block) == _BLOCK_LINES:
                yield b"".join(block)
                block.clear()
    yield b"".join([*block, _line("end", {**counts, **await _sums(store, section, name, attempt)})])


def _members(row: ExportedExposure | ExportedOutcome, *, properties: bool) -> tuple[Any, ...]:
    """Return the members of a row after its unit."""
    has_none = isinstance(row, ExportedOutcome) and not (properties and row.properties)
    return row[1:-1] if has_none else row[1:]


async def _sums(store: OutcomeStore, section: SectionRenderer, name: str, attempt: str) -> dict[str, Any]:
    stored = await store.read([name])
    tally = stored.tallies.get(name, {})
    return {"events": tally.get("events", 0), "feedback": section(attempt, stored.id, tally)}


def _line(kind: str, content: Any) -> bytes:
    return encode_json({kind: content}) + b"\n"


def make_export_handler(
    store: Callable[[], OutcomeStore | None], section: SectionRenderer
) -> Callable[[web.Request], Any]:
    """Return the handler of `GET /feedback/{service}/{attempt}/export`. It serves one export at a time; others get 503."""
    exporting = asyncio.Lock()

    async def export(request: web.Request) -> web.StreamResponse:
        service, attempt, source = request.match_info["service"], request.match_info["attempt"], store()
        if source is None or not (_ATTEMPT.fullmatch(service) and _ATTEMPT.fullmatch(attempt)):
            return web.Response(status=404, text="this edge keeps no outcomes of that name\n")
        if exporting.locked():
            return web.Response(status=503, headers={headers.RETRY_AFTER: "10"}, text="another export is under way\n")
        async with exporting:
            properties = request.query.get("properties") == "true"
            return await _answer(request, export_lines(source, section, service, attempt, properties=properties))

    return export


async def _answer(request: web.Request, blocks: AsyncIterator[bytes]) -> web.StreamResponse:
    """Send the blocks. An error after the first block closes the connection: an answer without its last line is invalid."""
    try:
        first = await anext(blocks)
    except EdgeError as error:
        return web.Response(status=503, text=f"{error}\n")
    response = web.StreamResponse(headers={headers.CONTENT_TYPE: CONTENT_TYPE})
    await response.prepare(request)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await response.write(first)
            async for block in blocks:
                await response.write(block)
    except (EdgeError, TimeoutError) as error:
        log.warning("export ended early: %s", error or f"not read within {_TIMEOUT_S:g} s")
        if request.transport is not None:
            request.transport.close()
    return response
