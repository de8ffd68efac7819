"""Clients in a pod: `python pod_traffic.py URL CLIENTS`, until SIGTERM. The last line of its log is JSON with every answer.

Half of the clients keep their connection, the others open one per request, because a Service treats the two kinds differently.
"""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections import Counter
from typing import Any

import aiohttp


class Traffic:
    """Counts of answers by status or error and by application, with start and end of each failure."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: Counter[str] = Counter()
        self.applications: Counter[str] = Counter()
        self.failures: list[str] = []
        self.stop = asyncio.Event()

    async def client(self, *, keeps: bool) -> None:
        connector = aiohttp.TCPConnector(limit=1, force_close=not keeps)
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while not self.stop.is_set():
                await self._ask(session, keeps=keeps)
                await asyncio.sleep(0.02)

    async def await_service(self) -> None:
        """Wait until the node routes to a pod of the Service, which may take seconds after the pod is ready."""
        async with aiohttp.ClientSession() as session:
            while not self.stop.is_set():
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    async with session.post(self.url, data=b"{}"):
                        return
                await asyncio.sleep(0.1)

    async def _ask(self, session: aiohttp.ClientSession, *, keeps: bool) -> None:
        began = time.time()
        try:
            async with session.post(self.url, data=b"{}") as response:
                body = await response.json(content_type=None)
                answer = str(response.status)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            body, answer = str(error), type(error).__name__
        self.answers[answer] += 1
        if answer == "200":
            self.applications[str(body.get("application"))] += 1
        else:
            when = f"{began:.2f} to {time.time():.2f}"
            self.failures.append(f"{when} {'kept' if keeps else 'new'} {answer} {str(body)[:120]}")


def say(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


async def main(url: str, clients: int) -> None:
    traffic = Traffic(url)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, traffic.stop.set)
    await traffic.await_service()
    tasks = [asyncio.create_task(traffic.client(keeps=bool(number % 2))) for number in range(clients)]
    while not traffic.stop.is_set():
        try:
            await asyncio.wait_for(traffic.stop.wait(), 0.5)
        except TimeoutError:
            say({"sent": sum(traffic.answers.values())})
    await asyncio.gather(*tasks)
    found = {"answers": traffic.answers, "applications": traffic.applications, "failures": traffic.failures[:20]}
    say(found)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
