"""Clients in a pod: `python digit_traffic.py URL CLIENTS PAUSE_S SLOW USERS [METRIC]`, until the pod ends.

GET / at PORT returns the results so far, as JSON.

They send the held-out images below IMAGES, in turn. Half of them keep their connection, the others open one per request, because a Service
treats the two kinds differently. SLOW more clients send requests that take SLOW_S, so edges always have some of them running. Requests
are those of USERS in turn; with 0 they have no user. Of each user the first answer that tells an exposure is reported to the edge: whether
the digit was read wrongly, as METRIC.
"""

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import groupby
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

PORT = 8099
IMAGES = Path("/held-out/held-out.json")
REVISION_HEADER = "x-sundog-revision"
USER_HEADER = "x-user-id"
ARM_HEADER = "x-sundog-arm"
EXPOSURE_HEADER = "x-sundog-exposure"
KEPT = 40
SLOW_S = 2.0

Json = dict[str, Any]


class Traffic:
    """Counts of answers.

    Attributes:
        sent: requests that ended, well or not.
        failures: the first of those that were not answered 200 with scores.
        failed_of: all of those by the revision that answered, 0 for none.
        answered: requests by the revision that answered.
        read: by revision and image the digit that it read.
        fickle: images that one revision read in two ways.
        met: by user the revisions that answered, in the order of the answers.
        reported: by arm the outcomes that the edge has accepted, and how many of them are wrong digits.
        refused: the first outcomes that were neither accepted nor to be sent again.
    """

    def __init__(self, url: str, pause_s: float, users: int, metric: str) -> None:
        held_out = json.loads(IMAGES.read_text())
        self.url, self.pause_s = url, pause_s
        self.bodies = [json.dumps({"inputs": [image]}).encode() for image in held_out["images"]]
        self.labels: list[int] = held_out["labels"]
        self.turns = itertools.cycle(range(len(self.bodies)))
        self.sent = 0
        self.failed = 0
        self.failures: list[Json] = []
        self.failed_of: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        self.read: dict[int, dict[int, int]] = {}
        self.fickle: list[Json] = []
        self.met: dict[str, list[int]] = {f"user-{number}": [] for number in range(users)}
        self.users = itertools.cycle(self.met)
        self.metric = metric
        self.unreported = set(self.met if metric else ())
        self.reported: dict[str, list[int]] = {}
        self.refused: list[str] = []

    async def client(self, *, keeps: bool, slow: bool = False) -> None:
        connector = aiohttp.TCPConnector(limit=1, force_close=not keeps)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while True:
                await self._ask(session, keeps=keeps, slow=slow)
                await asyncio.sleep(self.pause_s)

    async def _ask(self, session: aiohttp.ClientSession, *, keeps: bool, slow: bool) -> None:
        image, began, problem, revision = next(self.turns), time.time(), "", 0
        asked = self.bodies[image]
        user = next(self.users, "")
        headers = {"content-type": "application/json", "content-length": str(len(asked))}
        if user:
            headers[USER_HEADER] = user
        try:
            async with session.post(self.url, data=slowly(asked) if slow else asked, headers=headers) as response:
                body, revision = await response.read(), int(response.headers.get(REVISION_HEADER, 0))
            if response.status == 200 and revision:
                digit = self._note(revision, image, body)
                if user:
                    self.met[user].append(revision)
                if user in self.unreported and (exposure := response.headers.get(EXPOSURE_HEADER)):
                    self.unreported.remove(user)
                    wrong = digit != self.labels[image]
                    await self._report(session, exposure, response.headers[ARM_HEADER], wrong=wrong)
            else:
                problem = f"{response.status} of revision {revision}: {body[:150].decode(errors='replace')}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError) as error:
            problem = f"{type(error).__name__}: {error}"
        self.sent += 1
        if problem:
            self.failed_of[revision] += 1
            self._fail({"began": began, "ended": time.time(), "kept": keeps, "problem": problem[:300]})

    async def _report(self, session: aiohttp.ClientSession, exposure: str, arm: str, *, wrong: bool) -> None:
        """Until the edge has stored it: a store that starts or restarts is answered for with 503."""
        outcome = {"exposure": exposure, "metric": self.metric, "value": wrong}
        while True:
            async with session.post(f"{self.url}-/feedback", json=outcome) as response:
                status, told = response.status, await response.json(content_type=None)
            if status != 503:
                break
            await asyncio.sleep(1)
        if status == 200 and told["accepted"] + told["duplicate"] == 1:
            own = self.reported.setdefault(arm, [0, 0])
            own[0] += 1
            own[1] += wrong
        elif len(self.refused) < KEPT:
            self.refused.append(f"{status}: {json.dumps(told)[:300]}")

    def _note(self, revision: int, image: int, body: bytes) -> int:
        scores = json.loads(body)["outputs"][0]
        digit = scores.index(max(scores))
        self.answered[revision] += 1
        if self.read.setdefault(revision, {}).setdefault(image, digit) != digit:
            self.fickle.append({"revision": revision, "image": image, "digit": digit})
        return digit

    def _fail(self, failure: Json) -> None:
        self.failed += 1
        if len(self.failures) < KEPT:
            self.failures.append(failure)

    def counts(self) -> Json:
        """Return all counts: for digits, images by revision and those read correctly; for users, each change of revision."""
        images = {revision: len(read) for revision, read in self.read.items()}
        right = {
            revision: sum(self.labels[image] == digit for image, digit in read.items())
            for revision, read in self.read.items()
        }
        counts = {"sent": self.sent, "failed": self.failed, "failures": self.failures, "fickle": self.fickle[:5]}
        by_revision = {"answered": self.answered, "failed_of": self.failed_of, "images": images, "right": right}
        met = {user: [revision for revision, _ in groupby(own)] for user, own in self.met.items()}
        outcomes = {"unreported": len(self.unreported), "reported": self.reported, "refused": self.refused}
        return {**counts, **by_revision, "met": met, **outcomes}


async def slowly(body: bytes) -> AsyncIterator[bytes]:
    yield body[:1]
    await asyncio.sleep(SLOW_S)
    yield body[1:]


async def main(url: str, clients: int, pause_s: float, slow: int, users: int, metric: str = "") -> None:
    traffic = Traffic(url, pause_s, users, metric)

    async def tell(_: web.Request) -> web.Response:
        return web.json_response(traffic.counts())

    app = web.Application()
    app.router.add_get("/", tell)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, PORT).start()
    kinds = [(bool(number % 2), number >= clients) for number in range(clients + slow)]
    await asyncio.gather(*(traffic.client(keeps=keeps, slow=slow) for keeps, slow in kinds))


if __name__ == "__main__":
    asyncio.run(
        main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), *sys.argv[6:7])
    )
