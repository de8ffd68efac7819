"""Clients of long requests in a pod: `python long_requests.py URL SILENT STREAMS`. The last line of the log is JSON with every response.

SILENT requests wait 60 s for their only piece; STREAMS get one piece a second for 90 s.
The line `open` comes when each stream has sent a piece.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import aiohttp

SILENT: Mapping[str, int] = {"pieces": 1, "pause_s": 60}
STREAM: Mapping[str, int] = {"pieces": 90, "pause_s": 1}


@dataclass(frozen=True)
class Response:
    """One response as its client saw it. `error` is empty if the body ended as HTTP says that it ends."""

    expected: int
    received: int
    error: str


async def ask(
    session: aiohttp.ClientSession, url: str, sent: Mapping[str, int], on_piece: Callable[[int], None]
) -> Response:
    """Send one request; call `on_piece` with the number of pieces so far at each piece."""
    received, error = 0, ""
    try:
        async with session.post(url, json={"inputs": sent}, headers={"Accept": "application/x-ndjson"}) as response:
            if response.status != 200:
                error = f"{response.status} {await response.text()}"
            else:
                async for line in response.content:
                    received += "outputs" in json.loads(line)
                    on_piece(received)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    return Response(sent["pieces"], received, error)


async def wait_until_served(session: aiohttp.ClientSession, url: str) -> None:
    """A node may learn the way to a pod of the Service some seconds after the pod is ready."""
    while True:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with session.post(url, json={"inputs": {"pieces": 1, "pause_s": 0}}) as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.5)


async def main(url: str, silent: int, streams: int) -> None:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=200)
    first_pieces = asyncio.Semaphore(0)

    def count_first(received: int) -> None:
        if received == 1:
            first_pieces.release()

    async with aiohttp.ClientSession(
        timeout=timeout, connector=aiohttp.TCPConnector(force_close=True, limit=0)
    ) as session:
        await wait_until_served(session, url)
        tasks = [asyncio.create_task(ask(session, url, SILENT, lambda received: None)) for _ in range(silent)]
        tasks += [asyncio.create_task(ask(session, url, STREAM, count_first)) for _ in range(streams)]
        for task in tasks:
            task.add_done_callback(lambda _: first_pieces.release())
        for _ in range(streams):
            await first_pieces.acquire()
        write("open")
        write(json.dumps([asdict(each) for each in await asyncio.gather(*tasks)]))


def write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
