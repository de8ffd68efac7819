"""The process: datagrams in, counts out. It ends when the agent that started it closes its input, or is gone.

The agent writes one line of JSON to its input for every change of the targets, `{"services": {name: target}}`, and reads one from its
output a few times a second: `{"counts": [{boot, key, …}], "unparsable": n}`, everything since the process began.
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

from sundog_edge.mirror.send import Mirror, MirrorTarget

REPORT_PERIOD_S = 0.2
_NICE = 10
_MOST_LINE_BYTES = 16 << 20
_DATAGRAM_BYTES = 1 << 17
_RECEIVE_BYTES = 8 << 20
_IDLE_S = 2.0
"""A connection that a replica might close any moment is not used again: that would count as the candidate's error."""


def bind_socket(path: Path) -> socket.socket:
    """The socket that HAProxy sends to, in the place of one that a mirror before has left."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind(str(path))
    path.chmod(0o600)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
    return made


def receive_all(mirror: Mirror, source: socket.socket) -> None:
    """Take every datagram that has come."""
    with contextlib.suppress(BlockingIOError):
        while True:
            mirror.take(source.recv(_DATAGRAM_BYTES), time.time_ns() // 1000)


def render_report(mirror: Mirror) -> bytes:
    """One line."""
    counts = [{"boot": boot, "key": key, **own.as_json()} for (boot, key), own in mirror.counts.items()]
    return orjson.dumps({"counts": counts, "unparsable": mirror.unparsable}) + b"\n"


def make_session() -> aiohttp.ClientSession:
    """What copies are sent by. No cookie of an answer goes along with the next copy, which is somebody else's."""
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
            followed = asyncio.Event()
            telling = asyncio.create_task(_tell(mirror, followed))
            try:
                await _listen(mirror, followed)
            finally:
                telling.cancel()
                loop.remove_reader(source)


async def _listen(mirror: Mirror, followed: asyncio.Event) -> None:
    """Follow what the agent says, until it says no more."""
    reader = asyncio.StreamReader(limit=_MOST_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        told = orjson.loads(line)["services"]
        mirror.follow({name: MirrorTarget.from_json(target) for name, target in told.items()})
        followed.set()


async def _tell(mirror: Mirror, followed: asyncio.Event) -> None:
    # Who hears of it takes it for one that mirrors, which it does not before it knows where to.
    await followed.wait()
    while True:
        # An agent that does not read holds nothing up but this process; one that has gone ends it.
        await asyncio.to_thread(_write, render_report(mirror))
        await asyncio.sleep(REPORT_PERIOD_S)


def _write(line: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def lower_priority() -> None:
    """Whoever asks, and whoever answers, comes first: by weight, and on Linux by that a copy that is due interrupts nobody."""
    os.nice(_NICE)
    if sys.platform == "linux":
        # A sandbox may refuse it.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main() -> None:
    """Run until the input ends."""
    lower_priority()
    # A terminal's interrupt reaches all of its processes; the agent is the one to end this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_run(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
