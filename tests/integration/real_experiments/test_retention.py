"""Users who come back after one arm's answers more often than after another's: through real Ray, HAProxy and the store of outcomes."""

import asyncio
import random
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from sundog_feedback import AsyncFeedback
from waiting import comes_true

pytestmark = [pytest.mark.ray, pytest.mark.haproxy, pytest.mark.campaign]

PREDICTOR = """
class Model:
    def load(self, path, config):
        pass

    def configure(self, user_config):
        self.tone = user_config["tone"]

    def predict(self, batch):
        return {"tone": self.tone}
"""
AFTER_S, WINDOW_S = 60, 100
"""`after` is the shortest that is accepted."""

RETURN_S = (64, 74)
"""When users come back, in seconds after their first answer."""

RETURNS = {"plain": 0.3, "warm": 0.6, "brief": 0.1}
"""By the tone of the answers, the share of users who come back."""

AT_ONCE = {"plain": 0.3, "warm": 0.1, "brief": 0.7}
"""The share who visit as soon as they have the answer: as a conversion, the wrong arm wins."""

USERS, CLIENTS, SALT = 900, 4, "seventeen"
RETENTION, FIRST_MINUTE = f"visited@{AFTER_S}-{WINDOW_S}s", "visited@60s"
ARMS = {"control": "plain", "warm": "warm", "brief": "brief"}
NOBODY = "nobody"
Json = dict[str, Any]


class Visitors:
    """Users who ask, may visit at once, may come back a minute later, and whose application reports each visit."""

    def __init__(self, site: Any, url: str, feedback: AsyncFeedback) -> None:
        self._site, self._url, self._feedback = site, url, feedback
        self.exposed: dict[str, tuple[str, int]] = {}
        self.visits: dict[str, list[int]] = {}
        self.repeated = 0

    async def come(self) -> None:
        waiting = iter(range(USERS))

        async def ask() -> None:
            for number in waiting:
                await self._meet(f"user-{number}")

        await asyncio.gather(*(ask() for _ in range(CLIENTS)))

    async def come_back(self) -> None:
        """Each who comes back asks again, and gets the same arm's answer."""
        for due, user, arm in sorted(self._returns()):

            async def is_time(due: float = due) -> bool:
                return time.time() >= due

            await comes_true(is_time, f"{user} comes back")
            assert (await self._ask(user))[0] == arm
            self._visit(user, "back")

    def units(self, begin: int, end: int) -> dict[str, tuple[int, int, int]]:
        """By arm, users with a visit in so many seconds after the first answer, twice, and visits: as the store sums them."""
        found: dict[str, Counter[str]] = {arm: Counter() for arm in ARMS}
        for user, (arm, at) in self.exposed.items():
            own = sum(begin <= visit - at <= end for visit in self.visits.get(user, ()))
            found[arm].update(units=own > 0, visits=own)
        return {arm: (each["units"], each["units"], each["visits"]) for arm, each in found.items()}

    def _returns(self) -> list[tuple[float, str, str]]:
        found = []
        for user, (arm, at) in self.exposed.items():
            dice = random.Random(f"{SALT} {user} back")
            if dice.random() < RETURNS[ARMS[arm]]:
                found.append((at + dice.uniform(*RETURN_S), user, arm))
        return found

    async def _meet(self, user: str) -> None:
        arm, tone, at = await self._ask(user)
        self.exposed[user] = arm, at
        if random.Random(f"{SALT} {user}").random() < AT_ONCE[tone]:
            self._visit(user, "at once")

    async def _ask(self, user: str) -> tuple[str, str, int]:
        status, headers, answer = await self._site.ask(self._url, [[1.0]], user)
        assert status == 200, answer
        arm, tone = headers["x-sundog-arm"], answer["outputs"]["tone"]
        assert ARMS[arm] == tone
        return arm, tone, int(headers["x-sundog-exposure"].split("~")[5])

    def _visit(self, user: str, name: str) -> None:
        """Report it; every fifth one twice, as an application does that got no answer."""
        now = datetime.now(UTC)
        self.visits.setdefault(user, []).append(int(now.timestamp()))
        report = {"unit": user, "metric": "visited", "event_id": f"{user} {name}", "time": now.isoformat()}
        again = len(self.visits) % 5 == 0
        self.repeated += again
        for _ in range(1 + again):
            assert self._feedback.send(**report)


async def begin(site: Any) -> str:
    await site.serve("greetings", PREDICTOR, {"tone": "plain"})
    retention = {"name": "retention", "feedback": "visited", "after": f"{AFTER_S}s", "window": f"{WINDOW_S}s"}
    await site.begin(
        "comes-back",
        {arm: {"tone": arm} for arm in ("warm", "brief")},
        unit={"header": "x-user-id", "salt": SALT},
        metrics={
            "success": [{**retention, "minimumEffect": "20%"}],
            "secondary": [{"name": "first-minute", "feedback": "visited", "window": "1m"}],
        },
    )
    return str(site.url)


async def test_the_arm_whose_users_come_back_wins_although_another_has_more_visits_at_first(site: Any) -> None:
    url = await begin(site)
    nobody = await site.takes_feedback(url, [[1.0]], NOBODY)
    async with AsyncFeedback(url) as feedback:
        visitors = Visitors(site, url, feedback)
        await visitors.come()
        await visitors.come_back()
    reported = sum(map(len, visitors.visits.values()))
    counts = feedback.counts
    assert (counts.accepted, counts.duplicate, counts.refused, counts.dropped) == (reported, visitors.repeated, 0, 0)

    def all_passed(told: Json) -> bool:
        return sum(row[3] for row in told["matured"] if row[0] == WINDOW_S) == USERS + 1

    await site.wins()
    obj, told = await site.judged(all_passed)
    assert (told["accepted"], told["duplicate"]) == (reported, visitors.repeated)
    assert [told[result] for result in ("late", "unknown", "future", "invalid", "overflow")] == [0] * 5
    exposed = Counter(arm for arm, _ in visitors.exposed.values()) + Counter([nobody])
    assert sum((Counter({arm: units}) for _, arm, units in told["exposed"]), Counter()) == exposed
    assert site.sums(told, RETENTION) == visitors.units(AFTER_S, WINDOW_S)
    assert site.sums(told, FIRST_MINUTE) == visitors.units(0, 60)

    assert obj["status"]["verdict"]["winner"] == "warm"
    found = {arm: site.metric(obj, arm, "retention") for arm in ("warm", "brief")}
    assert {arm: each["verdict"] for arm, each in found.items()} == {"warm": "Better", "brief": "Worse"}
    holds_the_truth(found, RETURNS)
    at_first = {arm: site.metric(obj, arm, "first-minute", "secondary") for arm in ("warm", "brief")}
    assert {arm: each["verdict"] for arm, each in at_first.items()} == {"warm": "Worse", "brief": "Better"}
    holds_the_truth(at_first, AT_ONCE)


def holds_the_truth(found: dict[str, Json], shares: dict[str, float]) -> None:
    for arm, each in found.items():
        lower, upper = each["interval"]
        assert lower < shares[arm] / shares["plain"] < upper, (arm, lower, upper)
