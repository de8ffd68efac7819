"""A rollout that outcomes decide, in local mode: a real operator, a real edge and its store."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from real_local import condition, stable, weight
from waiting import comes_true

pytestmark = pytest.mark.haproxy

Json = dict[str, Any]
ROLLOUT = {
    "warmup": {"requests": 1000, "duration": "1s"},
    "unit": {"header": "x-user-id"},
    "steps": [{"weight": 50}],
    "guardrails": [{"name": "kept", "feedback": "accepted", "margin": "10%"}],
}


async def test_a_candidate_whose_answers_are_not_accepted_is_rolled_back_although_it_answers_all(site: Any) -> None:
    await site.deploy("digits")
    site.release("digits", 2, ROLLOUT)

    async def takes_feedback() -> bool:
        site.beside.advance(timedelta(seconds=1))
        return bool(await site.takes_feedback("digits"))

    await comes_true(takes_feedback, "the warm-up is over")
    users = [f"user-{number}" for number in range(300)]
    await site.visit("digits", users)
    first = {user: site.visits["digits", user][0] for user in users}
    assert set(Counter(visit.arm for visit in first.values())) == {"stable", "canary"}
    items = [
        {"exposure": visit.exposure, "metric": "accepted", "value": visit.arm == "stable"} for visit in first.values()
    ]
    status, answer = await site.report("digits", items)
    assert (status, answer["accepted"]) == (200, len(users))

    async def is_over() -> Json | None:
        site.beside.advance(timedelta(seconds=10))
        found = await site.status("digits-r2")
        return found if found.get("phase") == "Stopped" else None

    found = await comes_true(is_over, "the rollout is over")
    assert found["verdict"]["decision"] == "RolledBack"
    assert found["verdict"]["reason"].startswith("RolledBack: kept of the canary is ")
    kept = next(each for each in found["metrics"] if each["name"] == "kept")
    accepted = sum(visit.arm == "stable" for visit in first.values())
    assert (kept["verdict"], kept["events"]) == ("Harm", [accepted, 0])

    async def is_back() -> bool:
        obj = await site.read_deployment("digits")
        in_force = condition(obj, "TrafficSynced").get("reason") == "InForce"
        return in_force and (stable(obj), weight(obj)) == (1, 0) and (await site.report("digits", items[:1]))[0] == 404

    await comes_true(is_back, "stable has all traffic, and no outcomes are taken")
    await site.visit("digits", users[:20])
    assert {site.visits["digits", user][-1].application for user in users[:20]} == {"digits-r1"}
