"""Many health checks and questions about the model beside few predictions: answered, counted apart, and in nobody's way."""

import asyncio
import contextlib
from collections import Counter

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sundog_edge.split.assignment import unit_bucket
from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

HOST = "digits.vision.svc"
PROBES = (
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/health/ready/",
    "/v2/models/digits",
    "/v2/models/digits/ready",
    "/v2/models/digits/versions/1",
    "/v2/models/digits/versions/1/ready",
    "/openapi.json",
    "/-/startup",
)
NO_PROBES = (
    ("GET", "/"),
    ("GET", "/v2/models"),
    ("GET", "/v2/models/digits/infer"),
    ("GET", "/v2/health/readyz"),
    ("GET", "//v2/health/ready"),
    ("GET", "/other/v2/health/ready"),
    ("GET", "/OPENAPI.JSON"),
    ("POST", "/v2/health/ready"),
    ("OPTIONS", "/v2/models/digits/ready"),
    ("POST", "/v2/models/digits/infer"),
)
USERS = tuple(f"user-{number}" for number in range(4))


def halves(edge, **changes):
    """Stable and canary, each with half the buckets."""
    arms = [
        edge.arm("stable", "digits-r7", [[0, 5000]]),
        edge.arm("canary", "digits-r8", [[5000, 10_000]], revision=8),
    ]
    return edge.service("digits", arms, **changes)


def arm_of(user: str) -> str:
    return "stable" if unit_bucket("digits-salt", user.encode()) < 5000 else "canary"


async def ask(edge, method: str, path: str, *, by_host: bool, **headers: str):
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    url = edge.url + (path if by_host else f"/digits{path}")
    own = {"host": HOST} if by_host else {}
    async with edge.session.request(method, url, headers={**told, **own}) as response:
        await response.read()
        return response


async def predict(edge, user: str, query: str = ""):
    async with edge.session.post(f"{edge.url}/digits/{query}", data=b"{}", headers={"x-user-id": user}) as response:
        await response.read()
        return response


def by_origin(evidence) -> dict[str, Counter[str]]:
    """(assigned, ends) of all rows of each origin."""
    found: dict[str, Counter[str]] = {}
    for row in evidence["counters"]:
        own = found.setdefault(row["origin"], Counter())
        own.update({"assigned": row["assigned"], **row["ends"]})
    return {origin: +counts for origin, counts in found.items()}


async def test_many_probes_leave_the_rows_of_few_predictions_as_they_would_be_without_them(edge, digits):
    assert {arm_of(user) for user in USERS} == {"stable", "canary"}
    await edge.apply(halves(edge))
    for user in USERS:
        assert (await predict(edge, user)).status == 200
    asked = [
        (method, path, by_host, user)
        for method in ("GET", "HEAD")
        for path in PROBES
        for by_host in (True, False)
        for user in USERS
    ]
    for method, path, by_host, user in asked:
        response = await ask(edge, method, path, by_host=by_host, x_user_id=user)
        assert (response.status, response.headers["x-sundog-arm"]) == (200, arm_of(user)), (method, path, by_host)
    await edge.settled(len(USERS) + len(asked))
    seen = await edge.evidence("detail=blocks,groups,units")
    assert by_origin(seen) == {
        "assigned": {"assigned": len(USERS), "ok": len(USERS)},
        "probe": {"assigned": len(asked), "ok": len(asked)},
    }
    rows = [row for row in seen["counters"] if row["origin"] == "probe"]
    assert {row["unit"] for row in rows} == {"anonymous"}
    assert {row["arm"]: row["assigned"] for row in rows} == Counter(arm_of(user) for *_, user in asked)
    assert [row["groups"] for row in rows] == [[], []]
    requests = [row for row in seen["counters"] if row["origin"] == "assigned"]
    column = seen["blocks"]["columns"].index("ok")
    assert sum(block[column] for row in requests for block in row["blocks"]) == len(USERS)
    assert sum(sum(row["total"]["ok"]) for row in requests) == len(USERS)
    (sample,) = seen["units"]
    assert [n for _, _, n, _ in sample["units"]] == [1] * len(USERS)


async def test_whatever_is_no_probe_is_a_request(edge, digits):
    for by_host in (True, False):
        for method, path in NO_PROBES:
            assert (await ask(edge, method, path, by_host=by_host)).status == 200, (method, path)
    found = by_origin(await edge.settled(2 * len(NO_PROBES)))
    assert found == {"assigned": {"assigned": 2 * len(NO_PROBES), "ok": 2 * len(NO_PROBES)}}


async def test_probes_that_fail_or_hang_say_nothing_of_an_arm(edge, digits):
    await edge.apply(halves(edge, requestTimeoutSeconds=0.5))
    user = USERS[0]
    replica = digits[arm_of(user)]
    for query in ("status=503", "status=404", "sleep=60", "die=after"):
        with contextlib.suppress(aiohttp.ClientPayloadError):
            await ask(edge, "GET", f"/v2/health/ready?{query}", by_host=True, x_user_id=user)
    assert (await predict(edge, user)).status == 200
    assert by_origin(await edge.settled(5)) == {
        "assigned": {"assigned": 1, "ok": 1},
        "probe": {"assigned": 4, "server5xx": 1, "client4xx": 1, "timeout": 1, "truncated": 1},
    }
    await edge.apply(halves(edge, requestTimeoutSeconds=PATIENCE_S))
    replica.entered.clear()
    hanging = asyncio.create_task(ask(edge, "GET", "/v2/health/ready?hold", by_host=True, x_user_id=user))
    await asyncio.wait_for(replica.entered.wait(), PATIENCE_S)
    running = {row["origin"]: row["inFlight"] for row in (await edge.evidence())["counters"] if row["inFlight"]}
    assert running == {"probe": 1}
    replica.go_on.release()
    assert (await hanging).status == 200
    assert by_origin(await edge.settled(6))["probe"]["ok"] == 1


async def test_a_caller_who_chooses_an_arm_probes_that_arm(edge, digits):
    override = {"header": "x-pick", "value": "canary", "arm": "canary", "callers": {"networks": ["127.0.0.0/8"]}}
    await edge.apply(halves(edge, overrides=[override], match={"arm": "stable", "headers": {"x-team": "a"}}))
    for headers, arm in (({"x_pick": "canary"}, "canary"), ({"x_team": "a"}, "stable")):
        for _ in range(5):
            response = await ask(edge, "GET", "/v2/models/digits", by_host=False, **headers)
            assert response.headers["x-sundog-arm"] == arm
    found = await edge.settled(10)
    assert {(row["origin"], row["arm"]): row["assigned"] for row in found["counters"]} == {
        ("probe", "canary"): 5,
        ("probe", "stable"): 5,
    }


async def test_a_probe_makes_nobody_a_unit_and_goes_with_who_is_one(edge, digits):
    await edge.apply(halves(edge, unit={"kind": "cookie", "name": "sid"}))
    arms = set()
    for _ in range(40):
        response = await ask(edge, "GET", "/v2/health/ready", by_host=False)
        assert "set-cookie" not in response.headers
        arms.add(response.headers["x-sundog-arm"])
    assert arms == {"stable", "canary"}
    for user in USERS:
        response = await ask(edge, "GET", "/v2/health/ready", by_host=False, cookie=f"sid={user}")
        assert response.headers["x-sundog-arm"] == arm_of(user)
    async with edge.session.post(f"{edge.url}/digits/", data=b"{}") as response:
        assert response.headers["set-cookie"].startswith("sid=")
    await edge.settled(45)
    (sample,) = (await edge.evidence("detail=units"))["units"]
    assert len(sample["units"]) == 1


async def test_metrics_have_probes_in_a_counter_of_their_own(edge, digits):
    for path in ("/v2/health/ready", "/v2/health/ready", "/v2/health/ready?status=500"):
        await ask(edge, "GET", path, by_host=False)
    await predict(edge, USERS[0])
    await edge.settled(4)
    async with edge.session.get(f"http://127.0.0.1:{edge.agent_port}/metrics") as response:
        page = await response.text()
    values = {
        (sample.name, sample.labels.get("end", "")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.labels.get("arm") == "stable"
    }
    assert values["sundog_edge_assigned_total", ""] == 1
    assert values["sundog_edge_requests_total", "ok"] == 1
    assert ("sundog_edge_requests_total", "server5xx") not in values
    assert values["sundog_edge_request_duration_seconds_count", ""] == 1
    assert values["sundog_edge_probes_total", "ok"] == 2
    assert values["sundog_edge_probes_total", "server5xx"] == 1
