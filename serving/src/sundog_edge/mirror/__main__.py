"""The mirror's process: datagrams in, counts out. It ends when its agent closes its input or ends.

For every change of the targets, the agent writes one line of JSON to its input: `{"services": {name: target}}`. A few times a second, it
reads one line from its output: `{"counts": [{boot, key, …}], "unparsable": n}`, all counts since the start of the process.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import aiohttp
import orjson

from sundog_edge.mirror.send import TARGETS, Mirror

REPORT_PERIOD_S = 0.2
_NICE = 10
_MAX_LINE_BYTES = 16 << 20
_DATAGRAM_BYTES = 1 << 17
_RECEIVE_BYTES = 8 << 20
_IDLE_S = 2.0
"""An idle connection is not used after this time: the replica might close it, which would count as the candidate's error."""


def bind_socket(path: Path) -> socket.socket:
    """Return the socket to which HAProxy sends. It replaces a socket of an earlier mirror."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bound.setblocking(False)
    bound.bind(str(path))
    path.chmod(0o600)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
    return bound


def receive_all(mirror: Mirror, source: socket.socket) -> None:
    """Process all received datagrams."""
    with contextlib.suppress(BlockingIOError):
        while True:
            mirror.take(source.recv(_DATAGRAM_BYTES), time.time_ns() // 1000)


def render_report(mirror: Mirror) -> bytes:
    """Return the report as one line of JSON."""
    rows = [{"boot": boot, "key": key, **counts.as_json()} for (boot, key), counts in mirror.counts.items()]
    return orjson.dumps({"counts": rows, "unparsable": mirror.unparsable}) + b"\n"


def make_session() -> aiohttp.ClientSession:
    """Return the HTTP session for copies. It stores no cookies, because the next copy is from another client."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
    )


async def _run(path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with make_session() as session:
        mirror = Mirror(session)
        with bind_socket(path) as source:
            loop.add_reader(source, receive_all, mirror, source)
            has_targets = asyncio.Event()
            reporting = asyncio.create_task(_report(mirror, has_targets))
            try:
                await _read_targets(mirror, has_targets)
            finally:
                reporting.cancel()
                loop.remove_reader(source)


async def _read_targets(mirror: Mirror, has_targets: asyncio.Event) -> None:
    """Apply the targets from the agent, until the agent closes the input."""
    reader = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        mirror.set_targets(TARGETS.validate_python(orjson.loads(line)["services"]))
        has_targets.set()


async def _report(mirror: Mirror, has_targets: asyncio.Event) -> None:
    # The first report marks the mirror as ready, which needs targets.
    await has_targets.wait()
    while True:
        # An agent that does not read blocks only this task; the end of the agent ends the process.
        await asyncio.to_thread(_write, render_report(mirror))
        await asyncio.sleep(REPORT_PERIOD_S)


def _write(line: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def lower_priority() -> None:
    """Lower the priority below clients' requests: by nice value, and on Linux by a scheduling class that interrupts no process."""
    os.nice(_NICE)
    if sys.platform == "linux":
        # A sandbox may refuse the call.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main() -> None:
    """Run until the input ends."""
    lower_priority()
    # A terminal's interrupt reaches all of its processes, but only the agent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_run(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
