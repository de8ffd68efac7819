"""Floods of units and of reports, against a real HAProxy, its agent and the store: what is kept of them is bounded."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import re
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_reference import sign_exposure
from sundog_edge.feedback.events import MAX_ITEMS, MILLION
from sundog_edge.feedback.exposure import SignedExposure
from sundog_edge.feedback.join import MAX_EVENTS
from waiting import patience

pytestmark = [pytest.mark.haproxy, pytest.mark.campaign, pytest.mark.timeout(patience(3600))]

log = logging.getLogger(__name__)

UNITS = 5_000_000
"""Of each half at least: the first fills all that is kept, the second finds no room for more."""

ROUND_S = 60

MAX_UNITS = 50_000
GROWTH_MIB = 24
HALVES = ([[0, 5000]], [[5000, 10_000]])
KEY = bytes(range(32))
REPORTS = int(os.environ.get("SUNDOG_FLOOD_REPORTS", 2_000_000))
"""In all, each of a unit of its own. Half of them have a signed exposure, as after a request; the others name a unit that never came."""

FLOOD_UNITS = 5_000
"""`maxUnits` under a flood of reports, which its first tenth exceeds."""

SENDERS = 4
USERS = 20
ROOM = 300
REFUSED = {"FeedbackUnavailable", "TooManyRequests"}
OVERFLOW = {
    "item": 0,
    "result": "overflow",
    "field": "",
    "found": "more than is kept",
    "expected": "feedback within the bounds of units and events of one attempt",
}
SCRIPT = """
local turn = 0
function init(args) begin = args[1] end
function request()
  turn = turn + 1
  return wrk.format("GET", nil, {["x-user-id"] = begin .. "-" .. turn})
end
"""


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


async def flood(edge, tmp_path, half: str) -> int:
    """How many answers there were, `UNITS` or more, each to a unit of its own."""
    script = tmp_path / "flood.lua"
    script.write_text(SCRIPT)
    found, turn = 0, 0
    while found < UNITS:
        found += await one_round(edge, script, f"{half}-{turn}")
        turn += 1
        log.info("%s half: %d units", half, found)
    return found


async def one_round(edge, script, begin: str) -> int:
    command = ("wrk", "-t1", "-c32", f"-d{ROUND_S}s", "-s", str(script), f"{edge.url}/digits/", "--", begin)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told = (await process.communicate())[0].decode()
    return int(re.search(r"(\d+) requests in", told)[1])


def store_mib(edge) -> float:
    return sum(file.stat().st_size for file in edge.root.glob("feedback.db*")) / 2**20


async def worker(edge) -> int:
    """The pid of HAProxy's newest worker."""
    boots = (await edge.evidence())["boots"]
    return next(boot["pid"] for boot in boots if not boot["endedAt"] and not boot["draining"])


async def counted(edge, requests: int) -> bool:
    """Whether these have ended, and those that were under way when wrk did."""
    rows = (await edge.evidence())["counters"]
    return sum(row["assigned"] for row in rows) >= requests and not any(row["inFlight"] for row in rows)


async def sizes_of(edge) -> tuple[float, float, float]:
    """MiB of the agent, HAProxy's worker and the store."""
    return resident_mib(edge.agent.pid), resident_mib(await worker(edge)), store_mib(edge)


def agent_s(edge) -> float:
    """Seconds of CPU that the agent has used."""
    times = psutil.Process(edge.agent.pid).cpu_times()
    return times.user + times.system


async def give_store(edge) -> None:
    await edge.kill_agent()
    (edge.root / "key").write_text(KEY.hex())
    edge.agent_options = ("--signing-key", str(edge.root / "key"), "--store", f"sqlite://{edge.root}/feedback.db")
    await edge.start_agent()


async def test_ten_million_units_leave_agent_haproxy_and_store_bounded(edge, serve, tmp_path):
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed: apt-get install wrk")
    serve.targets = {"digits-r0": []}
    await give_store(edge)
    arms = [edge.arm(f"a{n}", "digits-r0", own) for n, own in enumerate(HALVES)]
    feedback = {"metrics": ["converted"], "maxUnits": MAX_UNITS}
    await edge.apply(edge.service("digits", arms, feedback=feedback))

    sizes, units = [], []
    for half in ("first", "second"):
        units.append(await flood(edge, tmp_path, half))
        await edge.comes_true(lambda: counted(edge, sum(units)), "all of them counted")
        sizes.append(await sizes_of(edge))
    log.info("units %s; MiB of (agent, worker, store) after each half: %s", units, sizes)
    evidence = await edge.evidence()
    found = evidence["services"]["digits"]["feedback"]
    assert sum(count for _, _, count in found["exposed"]) == MAX_UNITS
    assert sum(row["assigned"] for row in evidence["counters"]) >= sum(units) >= 10_000_000
    for before, after in zip(*sizes, strict=True):
        assert after - before < GROWTH_MIB, sizes


class Users:
    """Users of a running experiment. Each is answered by the arm that it always had, and its outcome is sent until it is acknowledged."""

    def __init__(self, edge) -> None:
        self.arms: dict[str, str] = {}
        self.acknowledged: Counter[str] = Counter()
        self._edge = edge
        self._numbers = itertools.count()

    async def visit(self, user: str) -> str:
        """Return the exposure."""
        answer = await self._edge.get("/digits/", headers={"x-user-id": user})
        assert answer.status == 200
        arm = answer.headers["x-sundog-arm"]
        assert self.arms.setdefault(user, arm) == arm
        return answer.headers["x-sundog-exposure"]

    async def visit_and_report(self, user: str) -> None:
        item = {"exposure": await self.visit(user), "metric": "revenue", "id": str(next(self._numbers))}
        while True:
            status, answer = await report(self._edge, [item])
            if status == 200:
                break
            assert answer.get("code") in REFUSED, answer
        self.acknowledged[self.arms[user]] += 1

    async def all_visit(self) -> None:
        for number in range(USERS):
            await self.visit_and_report(f"user-{number}")

    async def visit_until(self, flood: asyncio.Future) -> None:
        while not flood.done():
            await self.all_visit()

    def expected(self) -> list[list]:
        """What the evidence has of their outcomes, each of which is 1."""
        units = Counter(self.arms.values())
        return [["revenue", 0, arm, units[arm], units[arm], self.acknowledged[arm] * MILLION] for arm in sorted(units)]


async def report(edge, items: list[dict]) -> tuple[int, dict]:
    async with edge.session.post(f"{edge.url}/digits/-/feedback", data=json.dumps(items)) as answer:
        return answer.status, await answer.json()


def signed(unit: int) -> str:
    """The exposure of a unit, whose hash is as spread as others."""
    spread = unit * 0x9E3779B97F4A7C15 % 2**64
    return sign_exposure(KEY, "digits", SignedExposure("digits-attempt", 0, f"a{unit % 2}", spread, int(time.time())))


def of_new_units(number: int) -> list[dict]:
    units = range(number * MAX_ITEMS // 2, (number + 1) * MAX_ITEMS // 2)
    known = [{"exposure": signed(unit), "metric": "converted"} for unit in units]
    return known + [{"unit": f"never-{unit}", "metric": "converted"} for unit in units]


async def flood_reports(edge, numbers: range) -> Counter:
    """What these batches were answered: statuses, and results of items. One that the edge refuses comes again."""
    told: Counter = Counter()
    left = iter(numbers)

    async def send(numbers: Iterator[int]) -> None:
        for number in numbers:
            items = of_new_units(number)
            while True:
                status, answer = await report(edge, items)
                told[status] += 1
                if status == 207:
                    break
                assert answer.get("code") in REFUSED, answer
            told.update({name: count for name, count in answer.items() if name != "problems"})

    await asyncio.gather(*(send(left) for _ in range(SENDERS)))
    return told


async def overflow_of(edge, items: list[dict]) -> int:
    """How many of these found no room. Fails unless the first problem says so as documented."""
    status, answer = await report(edge, items)
    assert (status, {**answer["problems"][0], "item": 0}) == (207, OVERFLOW), answer
    return answer["overflow"]


def pretend_events(edge, count: int) -> None:
    """Have the store believe that it has accepted so many."""
    with contextlib.closing(sqlite3.connect(edge.root / "feedback.db")) as store, store:
        store.execute("UPDATE tally SET value = ? WHERE name = 'events'", (str(count),))


async def feedback_of(edge, sent: int) -> dict:
    """The feedback of the evidence, once it has so many accepted outcomes."""

    async def read() -> dict | None:
        found = (await edge.evidence())["services"]["digits"]["feedback"]
        return found if found.get("accepted", 0) >= sent else None

    return await edge.comes_true(read, f"{sent} accepted outcomes")


async def test_a_flood_of_reports_leaves_a_running_experiment_as_it_was(edge, serve, replicas):
    serve.targets = {f"digits-r{n}": [(await replicas(f"digits-r{n}")).address] for n in range(2)}
    await give_store(edge)
    arms = [edge.arm(f"a{n}", f"digits-r{n}", own) for n, own in enumerate(HALVES)]
    feedback = {"metrics": ["converted", "revenue"], "maxUnits": FLOOD_UNITS}
    await edge.apply(edge.service("digits", arms, feedback=feedback))
    await edge.up("digits", a0=1, a1=1)
    users = Users(edge)
    await users.all_visit()

    batches = REPORTS // MAX_ITEMS
    told, sizes = Counter(), [await sizes_of(edge)]
    began, spent = time.monotonic(), agent_s(edge)
    for numbers in (range(batches // 10), range(batches // 10, batches)):
        flood = asyncio.ensure_future(flood_reports(edge, numbers))
        await asyncio.gather(flood, users.visit_until(flood))
        told += flood.result()
        sizes.append(await sizes_of(edge))
    await users.all_visit()
    visits = users.acknowledged.total()
    took = time.monotonic() - began, agent_s(edge) - spent
    log.info("%s in %.0f s, of the agent's CPU %.1f, beside %d visits; MiB: %s", told, *took, visits, sizes)

    # Each unit of the flood that found room had one outcome.
    accepted = FLOOD_UNITS - USERS + visits
    found, outcomes = await feedback_of(edge, accepted), users.expected()
    assert found["accepted"] == accepted
    assert sum(count for _, _, count in found["exposed"]) == FLOOD_UNITS
    assert [row[:6] for row in found["outcomes"] if row[0] == "revenue"] == outcomes
    assert told["accepted"] <= FLOOD_UNITS - USERS
    assert told["unknown"] == told["accepted"] + told["duplicate"] + told["overflow"] == batches * MAX_ITEMS // 2
    assert told["overflow"] > 0
    assert (found["overflow"] >= told["overflow"], found["unknown"] >= told["unknown"]) == (True, True)
    for before, after in zip(sizes[1], sizes[2], strict=True):
        assert after - before < GROWTH_MIB, sizes
    assert await overflow_of(edge, [{"exposure": await users.visit("too-late"), "metric": "revenue"}]) == 1

    pretend_events(edge, MAX_EVENTS - ROOM)
    exposure = await users.visit("user-0")
    more = [{"exposure": exposure, "metric": "converted", "id": str(number)} for number in range(MAX_ITEMS)]
    assert await overflow_of(edge, more) == MAX_ITEMS - ROOM
    found = await feedback_of(edge, MAX_EVENTS)
    assert found["accepted"] == MAX_EVENTS
    assert [row[:6] for row in found["outcomes"] if row[0] == "revenue"] == outcomes
