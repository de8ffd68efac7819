"""Users of an Experiment who ask questions, and whose application reports whether the answers were right, whatever is killed meanwhile."""

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from campaigning.clients import UNANSWERED, Samples
from waiting import comes_true

Json = dict[str, Any]

PREDICTOR = """
class Model:
    def load(self, path, config):
        pass

    def configure(self, user_config):
        self.first, self.end = user_config["right"]

    def predict(self, batch):
        number = int(batch[0][0])
        return {"label": number % 10 if self.first <= number < self.end else -1}
"""
RIGHT = {"control": (0, 50), "better": (0, 80), "same": (50, 100)}
"""By arm, the inputs that it reads rightly, of 0 to 99. One arm is as often right as control, of other inputs."""

SALT, USERS, QUESTIONS = "thirteen", 450, 3
ASKERS, REPORTERS, AGAIN = 6, 4, 5
"""The application reports each fifth outcome once more after it was acknowledged."""

NOBODY = "nobody"
TAKEN_LATER = (429, 502, 503, 504)
"""Answers to a report that is to be sent again."""


@dataclass(frozen=True)
class Outcome:
    """What is reported of one answer."""

    name: str
    unit: str
    arm: str
    exposure: str
    right: bool

    def item(self) -> Json:
        return {"id": self.name, "exposure": self.exposure, "metric": "correct", "value": int(self.right)}


class Audience:
    """Users who ask three questions each, and whose application reports whether answers were right until each report is acknowledged."""

    def __init__(self, site: Any, url: str, rps: float) -> None:
        self._site, self._url = site, url
        self._pause_s = 1 / rps
        self._reports: asyncio.Queue[Outcome | None] = asyncio.Queue()
        self.samples = Samples()
        self.met: dict[str, set[str]] = defaultdict(set)
        self.answered: list[tuple[str, float]] = []
        self.acknowledged: dict[str, Outcome] = {}
        self.first_results: Counter[str] = Counter()
        self.not_taken: Counter[int] = Counter()
        self.lasted_s = 0.0

    async def takes_feedback(self) -> None:
        """Answers tell exposures."""

        async def told() -> bool:
            found = await self._answer(NOBODY, 0)
            return found is not None and "x-sundog-exposure" in found[0]

        await comes_true(told, "exposures are told")

    async def run(self, may_end: Callable[[], bool]) -> None:
        """All ask, the last ones not before the end may come; and wait until all reports are acknowledged."""
        began, visits = time.monotonic(), [(f"user-{user}", turn) for user in range(USERS) for turn in range(QUESTIONS)]
        random.Random(SALT).shuffle(visits)
        waiting, last = enumerate(visits), int(0.9 * len(visits))

        def is_due(place: int) -> bool:
            return time.monotonic() >= began + place * self._pause_s and (place < last or may_end())

        async with asyncio.TaskGroup() as group:
            reporters = [group.create_task(self._report_all()) for _ in range(REPORTERS)]
            await asyncio.gather(*(self._ask_all(waiting, is_due) for _ in range(ASKERS)))
            for _ in reporters:
                self._reports.put_nowait(None)
        self.lasted_s = time.monotonic() - began

    async def _ask_all(self, waiting: Iterator[tuple[int, tuple[str, int]]], is_due: Callable[[int], bool]) -> None:
        for place, (user, turn) in waiting:

            async def is_time(place: int = place) -> bool:
                return is_due(place)

            await comes_true(is_time, f"the time of question {place}")
            number = random.Random(f"{SALT} {user} {turn}").randrange(100)
            headers, label = await comes_true(
                lambda user=user, number=number: self._answer(user, number),  # type: ignore[misc]
                f"an answer to {user}",
            )
            arm, exposure = headers["x-sundog-arm"], headers["x-sundog-exposure"]
            first, end = RIGHT[arm]
            assert label == (number % 10 if first <= number < end else -1), (arm, number, label)
            unit = exposure.split("~")[4]
            self._reports.put_nowait(Outcome(f"{user} {turn}", unit, arm, exposure, label >= 0))

    async def _answer(self, user: str, number: int) -> tuple[Any, int] | None:
        sent, began, status = time.time(), time.monotonic(), UNANSWERED
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            status, headers, answer = await self._site.ask(self._url, [[number]], user)
        self.samples.add(sent, time.monotonic() - began, 0, status)
        assert status in (200, UNANSWERED) or status >= 500, (status, answer)
        if status != 200:
            return None
        arm = headers["x-sundog-arm"]
        if user != NOBODY:
            self.met[user].add(arm)
        if arm in RIGHT:
            self.answered.append((arm, time.time()))
        return headers, answer["outputs"]["label"]

    async def _report_all(self) -> None:
        while (outcome := await self._reports.get()) is not None:
            self.first_results[await self._report(outcome)] += 1
            self.acknowledged[outcome.name] = outcome
            if len(self.acknowledged) % AGAIN == 0:
                assert await self._report(outcome) == "duplicate", (
                    f"{outcome.name} was acknowledged, and then forgotten"
                )

    async def _report(self, outcome: Outcome) -> str:
        return str(await comes_true(lambda: self._result(outcome), f"a result of {outcome.name}"))

    async def _result(self, outcome: Outcome) -> str:
        """accepted or duplicate; empty where the report is to be sent again."""
        try:
            async with self._site.session.post(f"{self._url}/-/feedback", json=[outcome.item()]) as response:
                status, told = response.status, await response.json()
        except (aiohttp.ClientError, TimeoutError):
            self.not_taken[UNANSWERED] += 1
            return ""
        if status != 200:
            assert status in TAKEN_LATER, (status, told)
            self.not_taken[status] += 1
            return ""
        [result] = [name for name in ("accepted", "duplicate") if told[name]]
        return result

    def sums(self) -> dict[str, tuple[int, int]]:
        """By arm, users with an acknowledged outcome, and right answers among these outcomes."""
        units, right = defaultdict[str, set[str]](set), Counter[str]()
        for each in self.acknowledged.values():
            units[each.arm].add(each.unit)
            right[each.arm] += each.right
        return {arm: (len(own), right[arm]) for arm, own in units.items()}
