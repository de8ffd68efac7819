"""Clients in a pod: `python digit_traffic.py URL CLIENTS PAUSE_S`, until the pod goes. GET / at PORT tells what came back so far, as JSON.

They send the held-out images below IMAGES, in turn. Half of them keep their connection, the others open one for each request, as clients of
both kinds meet a Service differently.
"""

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

PORT = 8099
IMAGES = Path("/held-out/held-out.json")
REVISION_HEADER = "x-sundog-revision"
KEPT = 40

Json = dict[str, Any]


class Traffic:
    """What was answered.

    Attributes:
        sent: requests that ended, well or not.
        failures: the first of those that were not answered 200 with scores.
        answered: requests by the revision that answered.
        read: by revision and image the digit that it read.
        fickle: images that one revision read in two ways.
    """

    def __init__(self, url: str, pause_s: float) -> None:
        held_out = json.loads(IMAGES.read_text())
        self.url, self.pause_s = url, pause_s
        self.bodies = [json.dumps({"inputs": [image]}).encode() for image in held_out["images"]]
        self.labels: list[int] = held_out["labels"]
        self.turns = itertools.cycle(range(len(self.bodies)))
        self.sent = 0
        self.failed = 0
        self.failures: list[Json] = []
        self.answered: Counter[int] = Counter()
        self.read: dict[int, dict[int, int]] = {}
        self.fickle: list[Json] = []

    async def client(self, *, keeps: bool) -> None:
        connector = aiohttp.TCPConnector(limit=1, force_close=not keeps)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while True:
                await self._ask(session, keeps=keeps)
                await asyncio.sleep(self.pause_s)

    async def _ask(self, session: aiohttp.ClientSession, *, keeps: bool) -> None:
        image, began, problem = next(self.turns), time.time(), ""
        try:
            async with session.post(
                self.url, data=self.bodies[image], headers={"content-type": "application/json"}
            ) as response:
                body, revision = await response.read(), int(response.headers.get(REVISION_HEADER, 0))
            if response.status == 200 and revision:
                self._note(revision, image, body)
            else:
                problem = f"{response.status} of revision {revision}: {body[:150].decode(errors='replace')}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError) as error:
            problem = f"{type(error).__name__}: {error}"
        self.sent += 1
        if problem:
            self._fail({"began": began, "ended": time.time(), "kept": keeps, "problem": problem[:300]})

    def _note(self, revision: int, image: int, body: bytes) -> None:
        scores = json.loads(body)["outputs"][0]
        digit = scores.index(max(scores))
        self.answered[revision] += 1
        if self.read.setdefault(revision, {}).setdefault(image, digit) != digit:
            self.fickle.append({"revision": revision, "image": image, "digit": digit})

    def _fail(self, failure: Json) -> None:
        self.failed += 1
        if len(self.failures) < KEPT:
            self.failures.append(failure)

    def told(self) -> Json:
        """All of it; of the digits how many images each revision has read, and how many of them right."""
        images = {revision: len(read) for revision, read in self.read.items()}
        right = {
            revision: sum(self.labels[image] == digit for image, digit in read.items())
            for revision, read in self.read.items()
        }
        counts = {"sent": self.sent, "failed": self.failed, "failures": self.failures, "fickle": self.fickle[:5]}
        by_revision = {"answered": self.answered, "images": images, "right": right}
        return {**counts, **by_revision}


async def main(url: str, clients: int, pause_s: float) -> None:
    traffic = Traffic(url, pause_s)

    async def tell(_: web.Request) -> web.Response:
        return web.json_response(traffic.told())

    app = web.Application()
    app.router.add_get("/", tell)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, PORT).start()
    await asyncio.gather(*(traffic.client(keeps=bool(number % 2)) for number in range(clients)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
