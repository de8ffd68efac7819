"""An arm that wins by what the edge counts, without any feedback: on real Ray and a real HAProxy."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from waiting import comes_true

pytestmark = [pytest.mark.ray, pytest.mark.haproxy, pytest.mark.campaign]

PREDICTOR = """
import time


class Model:
    def load(self, path, config):
        pass

    def configure(self, user_config):
        self.fails, self.takes_s = user_config["fails"], user_config["takesSeconds"]

    def predict(self, batch):
        time.sleep(self.takes_s)
        if batch[0][0] < self.fails:
            raise ValueError("this input is too small")
        return {"fails": self.fails}
"""
FAILS = {"control": 12, "sound": 4}
"""By arm, the percentage of inputs that fail: those below it, of 0 to 99."""

TAKES_S = {"control": 0.05, "sound": 0.02}
CLIENTS, USERS, KNOWN = 4, 300, 150
Json = dict[str, Any]


class Askers:
    """Clients who ask without a stop. What is asked is the same in each run, by whom as well."""

    def __init__(self, site: Any, url: str) -> None:
        self._site, self._url = site, url
        self._dice = random.Random("edge")
        self._going_on = True
        self.answers: Counter[tuple[str, int]] = Counter()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._going_on = False
        await self._task

    async def known(self) -> bool:
        return self.answers.total() >= KNOWN

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask() for _ in range(CLIENTS)))

    async def _ask(self) -> None:
        while self._going_on:
            number, user = self._dice.randrange(100), f"user-{self._dice.randrange(USERS)}"
            status, headers, answer = await self._site.ask(self._url, [[number]], user)
            arm = headers["x-sundog-arm"]
            limit = FAILS["control" if arm == "stable" else arm]
            assert status == (500 if number < limit else 200), answer
            assert status == 500 or answer["outputs"]["fails"] == limit
            self.answers[arm, status] += 1


def settings(arm: str) -> Json:
    return {"fails": FAILS[arm], "takesSeconds": TAKES_S[arm]}


async def test_the_arm_that_fails_less_and_is_faster_wins_without_feedback(site: Any) -> None:
    await site.serve("numbers", PREDICTOR, settings("control"))
    askers = Askers(site, site.url)
    try:
        # The experiment takes its threshold from stable's answers.
        await comes_true(askers.known, f"{KNOWN} answers of stable")
        metrics = [{"metric": name, "goal": "decrease", "minimumEffect": "20%"} for name in ("errorRate", "latencyP50")]
        await site.begin(
            "sound",
            {"sound": settings("sound")},
            unit={"header": "x-user-id", "salt": "edge"},
            winBy="everyMetric",
            metrics={"success": metrics},
        )
        obj = await site.wins()
    finally:
        await askers.stop()

    assert obj["status"]["verdict"]["winner"] == "sound"
    errors, slow = (site.metric(obj, "sound", name) for name in ("errorRate", "latencyP50"))
    assert (errors["verdict"], slow["verdict"]) == ("Better", "Better")
    lower, upper = errors["interval"]
    assert lower < FAILS["sound"] / FAILS["control"] < upper, errors
    assert slow["interval"][1] < 1
    # Listed by nobody: an arm must not win a latency by failing early.
    assert site.metric(obj, "sound", "errorRate", "guardrail")["verdict"] == "Passed"
    rows = await site.until(lambda: counted(site), "no request under way")
    assert rows == askers.answers


def counted(site: Any) -> Counter[tuple[str, int]] | None:
    """By arm and status, the edge's count of answers, once no request is under way."""
    rows = [row for row in site.up.evidence().get("counters", ()) if row["service"] == site.service]
    if not rows or any(row["inFlight"] for row in rows):
        return None
    found: Counter[tuple[str, int]] = Counter()
    for row in rows:
        found[row["arm"], 200] += row["ends"]["ok"]
        found[row["arm"], 500] += row["ends"]["server5xx"]
        assert row["assigned"] == row["ends"]["ok"] + row["ends"]["server5xx"], row
    return found
