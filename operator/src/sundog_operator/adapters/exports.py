"""What an edge keeps of an experiment, fetched and written as the files of an exposure log."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from sundog_operator.adapters.edges import find_agent_port, is_ready
from sundog_operator.adapters.http_body import read_body
from sundog_operator.adapters.log_tables import BufferedTable, Format, make_table
from sundog_operator.core.experiments.exposure_log import (
    ExposureLogReader,
    ExposureRow,
    InvalidExposureLog,
    LogRow,
    OutcomeRow,
    make_plan_document,
)
from sundog_operator.errors import SundogError
from sundog_operator.ports import Object

PLAN_FILE: Final = "plan.json"
CONNECT_TIMEOUT_S: Final = 10.0
_SILENCE_S: Final = 60.0
_MOST_TOLD: Final = 500
"""Of what somebody else says in a message, in characters."""


class ExportError(SundogError):
    """An edge gave no export, or broke one off."""


@dataclass(frozen=True, slots=True)
class EdgeAgent:
    """An edge's agent. `where` names it in messages; `open` asks it for a path, until the stack is left."""

    where: str
    open: Callable[[str, AsyncExitStack], Awaitable[aiohttp.ClientResponse]]


def make_direct_agent(where: str, url: str) -> EdgeAgent:
    """An agent by its address. Asking raises aiohttp.InvalidURL where that is none."""

    async def open_(path: str, stack: AsyncExitStack) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=_SILENCE_S)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        return await stack.enter_async_context(session.get(url.rstrip("/") + path, allow_redirects=False))

    return EdgeAgent(where, open_)


def find_ready_edge(pods: Iterable[Object]) -> Object | None:
    """A ready edge; all of a namespace have one store."""
    ready = (
        pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and is_ready(pod) and find_agent_port(pod)
    )
    return next(ready, None)


async def fetch_export(
    experiment: Object, find: Callable[[], Awaitable[EdgeAgent]], folder: Path, form: Format, most: int | None = None
) -> tuple[ExposureLogReader, list[Path]]:
    """What an edge told, of at most so many exposures, and the files that it was written to.

    Raises what `find` raises, ExportBroken, FormatMissing, and aiohttp.InvalidURL.
    """
    files = {kind: folder / f"{word}.{form}" for kind, word in ((ExposureRow, "exposures"), (OutcomeRow, "outcomes"))}
    lines = ExposureLogReader(most)
    async with AsyncExitStack() as stack:
        # First what may be missing here, before an edge is bothered.
        tables: dict[type[LogRow], BufferedTable] = {
            kind: stack.enter_context(BufferedTable(make_table(file, form, kind))) for kind, file in files.items()
        }
        source = await find()
        with _told_of(source.where):
            response = await source.open(_path(experiment), stack)
            if response.status != 200:
                told = _one_line((await read_body(response, _MOST_TOLD))[:_MOST_TOLD].decode("utf-8", "replace"))
                raise InvalidExposureLog(f"status {response.status}: {told}")
            async for line in _lines_of(response):
                if (row := lines.read(line)) is not None:
                    tables[type(row)].add(row)
            lines.check()
    return lines, [*files.values()]


def write_plan(experiment: Object, lines: ExposureLogReader, folder: Path, now: datetime) -> Path:
    """The file beside the tables. It is put last, so that who sees it sees the others of the same export. Raises OSError."""
    plan = folder / PLAN_FILE
    # Not by orjson, which writes no number beyond 64 bits, as sums of squares are.
    plan.write_text(json.dumps(make_plan_document(experiment, lines, now), indent=2, ensure_ascii=False), "utf-8")
    return plan


def _path(experiment: Object) -> str:
    service, attempt = experiment["spec"]["modelDeployment"], experiment["metadata"]["uid"]
    return f"/feedback/{quote(service, safe='')}/{quote(attempt, safe='')}/export"


@contextmanager
def _told_of(where: str) -> Iterator[None]:
    """Errors in the words of who reads them, also where an answer breaks off."""
    try:
        yield
    except InvalidExposureLog as err:
        raise ExportError(f"{where}: {err}") from None
    except aiohttp.InvalidURL:
        raise
    except (aiohttp.ClientError, TimeoutError, OSError) as err:
        raise ExportError(f"{where}: the export broke off: {_one_line(str(err)) or type(err).__name__}") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MOST_TOLD]


async def _lines_of(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The lines of an answer, each as long as it likes. The last one has an end too, or it is none. Raises TimeoutError."""
    rest = b""
    chunks: Any = response.content.iter_any()
    while True:
        async with asyncio.timeout(_SILENCE_S):
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
        # Where much has come already, reading it waits for nothing, and nobody else would have a turn.
        await asyncio.sleep(0)
