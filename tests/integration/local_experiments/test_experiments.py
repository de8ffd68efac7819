"""Experiments that cannot be, arms that are gone, and two experiments at once: on a real operator, a real edge and its store."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from scipy.stats import chi2_contingency

from sundog_operator.core.analysis.counters import Counters
from waiting import comes_true

pytestmark = pytest.mark.haproxy

Json = dict[str, Any]
SUCCESS = {"success": [{"name": "conversion", "feedback": "bought"}]}
REFUSED = [
    ({"delta": 0}, "spec.allocation.delta: 0; expected more than 0 and less than 1"),
    ({"delta": 1}, "spec.allocation.delta: 1; expected more than 0 and less than 1"),
    ({"delta": -0.2}, "spec.allocation.delta: -0.2; expected more than 0 and less than 1"),
    ({"delta": 20}, "spec.allocation.delta: 20; expected more than 0 and less than 1"),
    ({"delta": "20%"}, 'spec.allocation.delta: "20%"; expected a number'),
    ({"floor": "101%"}, "spec.allocation.floor: 101%; expected a percentage from 0% to 100%"),
    ({"floor": "-5%"}, "spec.allocation.floor: -5%; expected a percentage from 0% to 100%"),
    ({"floor": "0.05"}, "spec.allocation.floor: 0.05; expected a percentage from 0% to 100%"),
    (
        {"floor": "60%"},
        "spec.allocation.floor: 60% for each arm, including control, is more than 100% together; expected less",
    ),
    (
        {"mode": "fixed", "floor": "5%"},
        "spec.allocation: floor or delta with mode fixed; expected them only with mode thompson",
    ),
    ({"mode": "bandit"}, "spec.allocation.mode: bandit; expected one of fixed, thompson"),
]


async def test_allocations_that_cannot_be_are_refused_when_they_are_applied(site: Any) -> None:
    await site.begin()
    for allocation, why in REFUSED:
        asked = site.experiment("ab", "digits", "wide", allocation={"mode": "thompson", **allocation})
        status, answer = await site.api("POST", "", asked)
        assert (status, answer["reason"]) == (422, "Invalid"), (allocation, answer)
        assert why in answer["message"]
    without = site.experiment("ab", "digits", "wide", allocation={"mode": "thompson"}, metrics={})
    status, answer = await site.api("POST", "", without)
    assert status == 422
    assert "no success metric with mode thompson; expected one" in answer["message"]
    assert (await site.api("GET", "ab"))[0] == 404


async def begun(site: Any, name: str, service: str, *arms: str, **spec: Any) -> None:
    status, told = await site.api("POST", "", site.experiment(name, service, *arms, **spec))
    assert status == 201, told
    await comes_true(lambda: site.takes_feedback(service), f"{service} tells exposures")


def told(site: Any, users: list[str], arm: str) -> list[Json]:
    """That all users of an arm have bought."""
    first = [(user, site.visits["digits", user][0]) for user in users]
    return [
        {"exposure": visit.exposure, "metric": "bought", "value": visit.arm == arm, "id": user} for user, visit in first
    ]


def buckets(status: Json) -> dict[str, int]:
    return {arm["name"]: sum(b - a for a, b in arm.get("ranges", ())) for arm in status["arms"]}


async def test_an_arm_that_is_gone_wins_nothing_by_later_outcomes(site: Any) -> None:
    await site.deploy("digits")
    spec = {"allocation": {"mode": "thompson"}, "unit": {"header": "x-user-id", "salt": "gone"}}
    await begun(site, "ab", "digits", "deep", "wide", **spec)
    users = [f"user-{number}" for number in range(450)]
    await comes_true(lambda: site.is_in_force("ab", 2), "the first epoch of evidence")
    site.beside.advance(timedelta(hours=1))
    await site.visit("digits", users)
    obj = await site.judged("ab", "digits", lambda told: sum(row[2] for row in told["exposed"]) == len(users) + 1)
    assert obj["status"]["epoch"]["number"] == 2
    share = buckets(obj["status"])
    assert (share["stable"], {share[arm] for arm in ("control", "deep", "wide")}) == (0, {3333, 3334})

    deep = next(arm["revision"] for arm in obj["status"]["arms"] if arm["name"] == "deep")
    await site.head.serve.lose(f"digits-r{deep}")

    async def dropped() -> bool:
        status = await site.status("ab")
        site.beside.advance(timedelta(seconds=1))
        return (
            "dropped" in next(arm for arm in status["arms"] if arm["name"] == "deep") and status["epoch"]["confirmed"]
        )

    await comes_true(dropped, "the arm without replicas is dropped")
    site.beside.advance(timedelta(hours=1))
    for start in range(0, len(users), 100):
        answer = await site.report("digits", told(site, users[start : start + 100], "deep"))
        assert (answer[0], answer[1]["accepted"]) == (200, len(users[start : start + 100]))
    obj = await site.judged("ab", "digits", lambda told: sum(row[3] for row in told["outcomes"]) == len(users))
    status = obj["status"]
    assert (status["phase"], status["epoch"]["number"]) == ("Running", 3)
    assert status["verdict"].get("winner", "") == ""
    assert buckets(status) == {**share, "stable": share["deep"], "deep": 0}

    assert (await site.api("PATCH", "ab", {"spec": {"stopped": True}}))[0] == 200

    async def none_taken() -> bool:
        return bool((await site.report("digits", told(site, users[:1], "wide")))[0] == 404)

    await comes_true(none_taken, "an experiment that has ended takes no outcomes")
    await begun(site, "next", "digits", "wide")
    answer = (await site.report("digits", [{**each, "id": "again"} for each in told(site, users[:50], "wide")]))[1]
    assert answer["late"] + answer["unknown"] == 50
    obj = await site.read("next")

    async def read() -> Json | None:
        seen = await site.feedback("digits")
        return seen if "outcomes" in seen else None

    assert sum(row[3] for row in (await comes_true(read, "the edge has looked into the store"))["outcomes"]) == 0
    assert not Counters.unpack(obj["status"].get("tallies", ""), obj["metadata"]["uid"]).feedback.outcomes


async def test_experiments_of_two_services_assign_independently_each_by_its_own_salt(site: Any) -> None:
    services = ("digits", "letters")
    await site.deploy(*services)
    await asyncio.gather(*(begun(site, f"of-{service}", service, "deep", "wide") for service in services))
    users = [f"user-{number}" for number in range(900)]
    for service in services:
        await site.visit(service, users)
    for service in services:
        salt = (await site.read(f"of-{service}"))["metadata"]["uid"]
        ranges = site.ranges(f"of-{service}")
        for user in users:
            (visit,) = site.visits[service, user]
            assert visit.arm == site.owner(ranges[visit.epoch], salt, user)
    pairs = Counter(tuple(site.visits[service, user][0].arm for service in services) for user in users)
    arms = ("control", "deep", "wide")
    table = [[pairs[mine, other] for other in arms] for mine in arms]
    assert sum(map(sum, table)) == len(users)
    assert chi2_contingency(table).pvalue > 1e-6, table
