"""Fetches an experiment's export from an edge and writes it as the files of an exposure log."""

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

from sundog_operator.adapters.edges import estimate_memory, find_agent_port, is_ready
from sundog_operator.adapters.http_body import read_body
from sundog_operator.adapters.log_tables import BufferedTable, Format, make_table
from sundog_operator.core.trial.experiment.exposure_log import (
    MAX_ROW_BYTES,
    ExposureLogReader,
    ExposureRow,
    FlagIdentity,
    InvalidExposureLog,
    LogRow,
    OutcomeRow,
    make_plan_document,
)
from sundog_operator.errors import SundogError
from sundog_operator.ports import Object

PLAN_FILE: Final = "plan.json"
CONNECT_TIMEOUT_S: Final = 10.0
_READ_TIMEOUT_S: Final = 60.0
MAX_LINE_BYTES: Final = 4 * 2**20
_MAX_LINE_MEMORY: Final = 32 * 2**20
"""Limits of a line, and of what it takes when decoded. The sums of 40 epochs and 14 arms with ten metrics take 0.6 MB."""
_MAX_ERROR_CHARS: Final = 500
"""Characters of a remote error text that a message quotes."""


class ExportError(SundogError):
    """An edge did not answer with a complete export."""


@dataclass(frozen=True, slots=True)
class EdgeAgent:
    """An edge's agent.

    Attributes:
        where: its name in messages.
        open: sends a GET of a path; the response stays open until the stack closes.
    """

    where: str
    open: Callable[[str, AsyncExitStack], Awaitable[aiohttp.ClientResponse]]


def make_direct_agent(where: str, url: str) -> EdgeAgent:
    """Return an agent at a URL. Its `open` raises aiohttp.InvalidURL for an invalid one."""

    async def open_(path: str, stack: AsyncExitStack) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=_READ_TIMEOUT_S)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        return await stack.enter_async_context(session.get(url.rstrip("/") + path, allow_redirects=False))

    return EdgeAgent(where, open_)


def find_ready_edge(pods: Iterable[Object]) -> Object | None:
    """Return a ready edge; all edges of a namespace share one store. None where none is ready."""
    ready = (
        pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and is_ready(pod) and find_agent_port(pod)
    )
    return next(ready, None)


async def fetch_export(
    experiment: Object,
    find: Callable[[], Awaitable[EdgeAgent]],
    folder: Path,
    form: Format,
    most: int | None = None,
    most_bytes: int | None = None,
) -> tuple[ExposureLogReader, list[Path]]:
    """Write the export of an edge to files in a folder. Return the reader of its lines, and the files.

    `most` limits the exposures, `most_bytes` the files. Raises ExportError, FormatMissing, aiohttp.InvalidURL, and the errors of `find`.
    """
    files = {kind: folder / f"{name}.{form}" for kind, name in ((ExposureRow, "exposures"), (OutcomeRow, "outcomes"))}
    flag = FlagIdentity.of(experiment)
    lines = ExposureLogReader(most)
    async with AsyncExitStack() as stack:
        # A format that is not installed fails here, before a request to an edge.
        tables: dict[type[LogRow], BufferedTable] = {
            kind: stack.enter_context(BufferedTable(make_table(file, form, kind, flag))) for kind, file in files.items()
        }
        source = await find()
        with _export_errors(source.where):
            response = await source.open(_path(experiment), stack)
            if response.status != 200:
                text = _one_line(
                    (await read_body(response, _MAX_ERROR_CHARS))[:_MAX_ERROR_CHARS].decode("utf-8", "replace")
                )
                raise InvalidExposureLog(f"status {response.status}: {text}")
            async for line in _lines_of(response):
                if (row := lines.read(line)) is not None and tables[type(row)].add(row) and most_bytes is not None:
                    _check_size(files.values(), most_bytes)
            lines.check()
    return lines, [*files.values()]


def _check_size(files: Iterable[Path], most_bytes: int) -> None:
    """Raise InvalidExposureLog if files are larger than the limit together."""
    if (size := sum(file.stat().st_size for file in files)) > most_bytes:
        raise InvalidExposureLog(
            f"the files have {size} bytes; expected at most {most_bytes}. Use `sundog experiment export`, which has no limit."
        )


def write_plan(experiment: Object, lines: ExposureLogReader, folder: Path, now: datetime) -> Path:
    """Write the plan file beside the tables. Raises OSError.

    It is stored last: a reader who finds it finds the tables of the same export.
    """
    plan = folder / PLAN_FILE
    # orjson cannot write sums of squares, which exceed 64 bits.
    plan.write_text(json.dumps(make_plan_document(experiment, lines, now), indent=2, ensure_ascii=False), "utf-8")
    return plan


def _path(experiment: Object) -> str:
    service, attempt = experiment["spec"]["modelDeployment"], experiment["metadata"]["uid"]
    # Edges of an earlier release export outcomes without properties.
    return f"/feedback/{quote(service, safe='')}/{quote(attempt, safe='')}/export?properties=true"


@contextmanager
def _export_errors(where: str) -> Iterator[None]:
    """Raise ExportError, which names the edge, for an incomplete or invalid export."""
    try:
        yield
    except InvalidExposureLog as err:
        raise ExportError(f"{where}: {err}") from None
    except aiohttp.InvalidURL:
        raise
    except (aiohttp.ClientError, TimeoutError, OSError) as err:
        raise ExportError(f"{where}: the export broke off: {_one_line(str(err)) or type(err).__name__}") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_ERROR_CHARS]


async def _lines_of(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the lines of an answer; text after the last line break is dropped. Raises TimeoutError, InvalidExposureLog."""
    rest = b""
    chunks: Any = response.content.iter_any()
    while True:
        async with asyncio.timeout(_READ_TIMEOUT_S):
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        *complete, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise InvalidExposureLog(f"a line has over {MAX_LINE_BYTES} bytes; expected fewer")
        for line in complete:
            if len(line) > MAX_ROW_BYTES and estimate_memory(line) > _MAX_LINE_MEMORY:
                raise InvalidExposureLog(
                    f"a line of {len(line)} bytes may take over {_MAX_LINE_MEMORY} bytes of memory"
                )
            yield line
        # Reading buffered chunks never waits; this lets other tasks run.
        await asyncio.sleep(0)
