"""Units from cookies and bodies, overrides, request ids, what clients are told, and what is counted of them."""

import asyncio
import json
import random
import re
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_reference import group_of_unit
from sundog_edge.counting.log_lines import SLOW_COLUMNS
from sundog_edge.split.assignment import json_unit, unit_bucket, unit_hash
from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

HALVES = ([[0, 5000]], [[5000, 10_000]])


def halves(edge, **changes):
    """Two arms of half the buckets each, on applications without a replica: one is told one's arm all the same."""
    return edge.service("digits", [edge.arm(f"a{n}", "digits-r0", own) for n, own in enumerate(HALVES)], **changes)


def arm_of(unit: bytes) -> str:
    return f"a{int(unit_bucket('digits-salt', unit) >= 5000)}"


@pytest.fixture(autouse=True)
def no_replicas(serve):
    serve.targets = {"digits-r0": []}


async def test_a_cookie_is_the_unit_and_is_issued_where_there_is_none(edge):
    await edge.apply(halves(edge, unit={"kind": "cookie", "name": "sid"}))
    for number in range(100):
        unit = f"user-{number}"
        response = await edge.get("/digits/", headers={"cookie": f"other=1; sid={unit}; x=2"})
        assert response.headers["x-sundog-arm"] == arm_of(unit.encode())
        assert "set-cookie" not in response.headers
    arms = set()
    for _ in range(30):
        response = await edge.get("/digits/", headers={"cookie": "other=1"})
        (line,) = response.headers.getall("set-cookie")
        match = re.fullmatch(r"sid=([0-9a-f-]{36}); Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax", line)
        assert match, line
        # The very first request is assigned by what is issued, so the next is of the same arm.
        assert response.headers["x-sundog-arm"] == arm_of(match[1].encode())
        again = await edge.get("/digits/", headers={"cookie": f"sid={match[1]}"})
        assert again.headers["x-sundog-arm"] == response.headers["x-sundog-arm"]
        arms.add(response.headers["x-sundog-arm"])
    assert arms == {"a0", "a1"}
    rows = (await edge.settled(160))["counters"]
    assert {row["unit"] for row in rows} == {"sticky"}


JSON_VALUES = [
    "7",
    7,
    -7,
    0,
    123456789012,
    (1 << 53) - 1,
    -(1 << 53) + 1,
    1 << 53,
    1 << 70,
    7.9,
    True,
    False,
    "",
    None,
    [1],
    {"c": 1},
    "x y",
    'quote"d',
    "back\\slash/",
    "a\nb\tc",
    "%00%0a|!;$HOME",
    "é€ 雪",
    "u" * 5000,
]


async def test_a_value_in_the_body_is_the_unit(edge):
    await edge.apply(halves(edge, unit={"kind": "jsonPath", "name": "$.meta.users[1]"}))
    generator = random.Random(1)
    values = [*JSON_VALUES, *(generator.randrange(-(1 << 54), 1 << 54) for _ in range(200)), *map(str, range(200))]
    wrong = []
    anonymous = 0
    for value in values:
        body = json.dumps({"inputs": [1.5, {"users": 1}], "meta": {"users": [0, value]}}, ensure_ascii=False)
        seen = {(await edge.get("/digits/", data=body.encode())).headers["x-sundog-arm"] for _ in range(2)}
        unit = json_unit(value)
        anonymous += not unit
        if unit and seen != {arm_of(unit)}:
            wrong.append(value)
    assert wrong == []
    rows = (await edge.settled(2 * len(values)))["counters"]
    counts = Counter()
    for row in rows:
        counts[row["unit"]] += row["assigned"]
    assert counts == {"sticky": 2 * (len(values) - anonymous), "anonymous": 2 * anonymous}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b'{"a":{}}',
        b'{"a":"\\u20ac"}',
        b'{"a":"a\\/b"}',
        b'{"a":',
        b'{"pad":"' + b"x" * 40_000 + b'","a":7}',
        b'{"a":7,"pad":"' + b"x" * 40_000 + b'"}',
    ],
    ids=[
        "empty",
        "no json",
        "missing",
        "an escape beyond a byte",
        "an escaped slash",
        "cut",
        "beyond the buffer",
        "before the end of the buffer",
    ],
)
async def test_a_body_without_the_value_or_beyond_the_buffer_is_anonymous(edge, body):
    await edge.apply(halves(edge, unit={"kind": "jsonPath", "name": "$.a"}))
    await edge.get("/digits/", data=body)
    (row,) = (await edge.settled(1))["counters"]
    assert row["unit"] == "anonymous"


async def test_an_override_holds_only_for_a_caller_on_the_list(edge):
    def override(value: str, *networks: str):
        return {"header": "X-Pick", "value": value, "arm": "a1", "callers": {"networks": [*networks]}}

    service = halves(
        edge,
        unit={"kind": "header", "name": "x-user-id"},
        overrides=[override("mine", "127.0.0.0/8"), override("yours", "10.0.0.0/8"), override("keyed")],
    )
    service["overrides"][2]["callers"] = {"keys": ["ops"]}
    await edge.apply(service)
    user = next(b"u%d" % n for n in range(99) if arm_of(b"u%d" % n) == "a0").decode()

    async def arm(value: str, **headers: str) -> str:
        response = await edge.get("/digits/", headers={"x-pick": value, "x-user-id": user, **headers})
        return response.headers["x-sundog-arm"]

    assert await arm("mine") == "a1"
    assert [await arm(value) for value in ("yours", "keyed", "Mine", "mine|n127.0.0.0/8", "", "x" * 9000)] == ["a0"] * 6
    assert await arm("yours", **{"x-forwarded-for": "10.0.0.1"}) == "a0"
    rows = (await edge.settled(8))["counters"]
    assert {(row["origin"], row["arm"], row["assigned"]) for row in rows} == {
        ("override", "a1", 1),
        ("assigned", "a0", 7),
    }
    # Who chose an arm was not assigned to it.
    (sample,) = (await edge.evidence("detail=units"))["units"]
    assert [n for _, _, n, _ in sample["units"]] == [7]
    service["overrides"] = []
    await edge.apply(service)
    assert await arm("mine") == "a0"


async def test_an_override_holds_for_a_caller_with_the_key_of_that_name(edge):
    keys = {"ops": "ops-key-0123456789", "ada": "ada-key-0123456789"}
    edge.secret("clients", **keys)
    override = {"header": "x-pick", "value": "mine", "arm": "a1", "callers": {"keys": ["ops"]}}
    await edge.apply(halves(edge, auth={"apiKeys": "clients"}, overrides=[override]))
    user = next(b"u%d" % n for n in range(99) if arm_of(b"u%d" % n) == "a0").decode()

    async def arm(**credentials: str) -> str | None:
        told = {name.replace("_", "-"): value for name, value in credentials.items()}
        response = await edge.get("/digits/", headers={"x-pick": "mine", "x-user-id": user, **told})
        return response.headers.get("x-sundog-arm")

    assert await arm(x_api_key=keys["ops"]) == "a1"
    assert await arm(authorization=f"Bearer {keys['ops']}") == "a1"
    assert await arm(x_api_key=keys["ada"]) == "a0"
    assert await arm(x_api_key="ops") is None, "the name of a key is no key"
    assert await arm() is None
    assert {(row["origin"], row["arm"]): row["assigned"] for row in (await edge.settled(3))["counters"]} == {
        ("override", "a1"): 2,
        ("assigned", "a0"): 1,
    }

    async def refused() -> bool:
        return await edge.refused("digits") == {"auth": 2}

    await edge.comes_true(refused, "two refused for who they are")
    (sample,) = (await edge.evidence("detail=units"))["units"]
    assert [n for _, _, n, _ in sample["units"]] == [1]


async def test_request_ids_are_kept_if_well_formed_else_made_and_sent_to_both(edge, digits):
    for sent, kept in (("abc-1.2:3_4", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("<x>", False)):
        response = await edge.get("/digits/", headers={"x-request-id": sent})
        told = response.headers["x-request-id"]
        assert (told == sent) == kept
        assert {n.lower(): v for n, v in digits["stable"].seen[-1]["headers"].items()}["x-request-id"] == told
    made = {(await edge.get("/digits/")).headers["x-request-id"] for _ in range(50)}
    assert len(made) == 50
    assert (await edge.get("/nowhere/")).headers["x-request-id"]


async def test_a_trace_context_passes_unchanged(edge, digits):
    context = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=a:b,other=1",
    }
    await edge.get("/digits/", headers=context)
    seen = {name.lower(): value for name, value in digits["stable"].seen[-1]["headers"].items()}
    assert {name: seen[name] for name in context} == context


async def test_a_blinded_service_shows_no_client_its_arm(edge):
    await edge.apply(halves(edge, reveal=False))
    response = await edge.get("/digits/")
    assert not [name for name in response.headers if name.lower().startswith("x-sundog")]


async def two_thresholds(edge, **slow):
    """Stable and canary with half the buckets each, and what counts as slow of each in microseconds."""
    arms = [edge.arm("stable", "digits-r7", HALVES[0]), edge.arm("canary", "digits-r8", HALVES[1], revision=8)]
    await edge.apply(edge.service("digits", [{**arm, "slowMicroseconds": slow[arm["name"]]} for arm in arms]))
    await edge.up("digits", stable=1, canary=1)


def units_by_arm() -> list[list[bytes]]:
    """Units of the first half of the buckets, and of the second."""
    units = [b"u%d" % number for number in range(50)]
    return [[unit for unit in units if arm_of(unit) == arm] for arm in ("a0", "a1")]


async def ask_as(edge, unit: bytes, query: str = "", **options):
    await edge.get(f"/digits/{query}", headers={"x-user-id": unit.decode()}, **options)


async def test_blocks_groups_and_slow_answers_are_reported_on_request(edge, digits):
    await two_thresholds(edge, stable=1_000_000, canary=1)
    (u1, u2, u3, *_), (other, *_) = units_by_arm()
    for unit in (u1, u2, u2, other, other):
        await ask_as(edge, unit, data=b"x" * 10)
    await ask_as(edge, u3, "?sleep=1.1")
    await ask_as(edge, u3, "?status=500&sleep=1.1")
    await edge.settled(7)
    seen = await edge.evidence("detail=blocks,groups&detail=units&service=digits")
    row, canary = sorted(seen["counters"], key=lambda row: row["arm"], reverse=True)
    assert (row["slow"], canary["slow"], canary["ends"]["ok"]) == (1, 2, 2)
    columns = seen["blocks"]["columns"]
    sums = dict(zip(columns, (sum(column) for column in zip(*row["blocks"], strict=True)), strict=True))
    assert (sums["ok"], sums["server5xx"], sums["slow"], sums["inFlight"]) == (4, 1, 1, 0)
    assert all(start % 10 == 0 for start, *_ in row["blocks"])
    names = seen["groups"]["columns"]
    groups = {counts[0]: dict(zip(names, counts, strict=True)) for counts in row["groups"]}
    assert set(groups) == {group_of_unit("digits-salt", unit) for unit in (u1, u2, u3)}
    assert groups[group_of_unit("digits-salt", u2)]["ok"] == 2
    (sample,) = seen["units"]
    found = {number: (n, sorted(events)) for number, _, n, events in sample["units"]}
    assert found == {
        f"{unit_hash(u1):016x}": (1, []),
        f"{unit_hash(u2):016x}": (2, []),
        f"{unit_hash(u3):016x}": (2, ["error", "slow"]),
        f"{unit_hash(other):016x}": (2, ["slow"]),
    }
    assert (await edge.evidence("service=other"))["counters"] == []
    assert (await edge.evidence(f"since={seen['clock'] + 1}"))["counters"] == []
    for bad in ("detail=x", "since=x"):
        async with edge.session.get(f"http://127.0.0.1:{edge.agent_port}/evidence?{bad}") as response:
            assert response.status == 400
    # What began under a threshold is judged by it, whatever has come into force since.
    digits["canary"].entered.clear()
    running = asyncio.create_task(ask_as(edge, other, "?events=1"))
    await asyncio.wait_for(digits["canary"].entered.wait(), PATIENCE_S)
    await two_thresholds(edge, stable=1, canary=None)
    digits["canary"].go_on.release()
    await running
    await ask_as(edge, other)
    rows = (await edge.settled(9))["counters"]
    assert {row["arm"]: row["slow"] for row in rows} == {"stable": 1, "canary": 3}


async def test_each_threshold_of_an_arm_is_in_force_and_counts_for_itself(edge, digits):
    further = {"slowMicroseconds": 1_000_000, "slowMicroseconds2": 1, "slowMicroseconds3": 60_000_000}
    arms = [edge.arm("stable", "digits-r7", HALVES[0]), edge.arm("canary", "digits-r8", HALVES[1], revision=8)]
    await edge.apply(edge.service("digits", [{**arms[0], **further}, arms[1]]))
    await edge.up("digits", stable=1, canary=1)
    (u1, u2, *_), (other, *_) = units_by_arm()
    for unit, query in ((u1, ""), (u2, "?sleep=1.1"), (other, "?sleep=1.1")):
        await ask_as(edge, unit, query)
    await edge.settled(3)
    seen = await edge.evidence("detail=blocks,groups,units")
    rows = {row["arm"]: row for row in seen["counters"]}
    assert [[rows[arm][name] for name in SLOW_COLUMNS] for arm in ("stable", "canary")] == [[1, 2, 0], [0, 0, 0]]
    for detail in ("blocks", "groups"):
        counts = dict(zip(seen[detail]["columns"], map(sum, zip(*rows["stable"][detail], strict=True)), strict=True))
        assert [counts[name] for name in SLOW_COLUMNS] == [1, 2, 0]
    (sample,) = seen["units"]
    found = {number: sorted(events) for number, _, _, events in sample["units"]}
    assert found == {
        f"{unit_hash(u1):016x}": ["slow2"],
        f"{unit_hash(u2):016x}": ["slow", "slow2"],
        f"{unit_hash(other):016x}": [],
    }
    told = seen["services"]["digits"]["arms"]
    assert {name: told["stable"][name] for name in further} == further
    assert [name for name in told["canary"] if name.startswith("slow")] == ["slowMicroseconds"]


async def test_a_hanging_request_shows_in_flight_with_its_block(edge, digits):
    task = asyncio.create_task(edge.get("/digits/?hold"))
    await asyncio.wait_for(digits["stable"].entered.wait(), PATIENCE_S)

    async def running():
        rows = (await edge.evidence("detail=blocks"))["counters"]
        return [row for row in rows if row["inFlightSince"]]

    (row,) = await edge.comes_true(running, "a request in flight")
    ((start, count),) = row["inFlightSince"]
    assert count == row["inFlight"] == 1
    assert row["blocks"] == [[start, *[0] * 14, 1]]
    digits["stable"].go_on.release()
    await task
    (row,) = (await edge.settled(1))["counters"]
    assert row["inFlightSince"] == []


async def test_metrics_show_the_same_as_the_evidence(edge, digits):
    for path in ("/digits/", "/digits/", "/digits/?status=500", "/nowhere/"):
        await edge.get(path)
    await edge.settled(3)
    async with edge.session.get(f"http://127.0.0.1:{edge.agent_port}/metrics") as response:
        assert response.headers["content-type"].startswith("text/plain; version=")
        page = await response.text()
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    arm = (("arm", "stable"), ("revision", "7"), ("service", "digits"))
    assert samples["sundog_edge_assigned_total", *arm] == 3
    assert samples["sundog_edge_requests_total", arm[0], ("end", "ok"), *arm[1:]] == 2
    assert samples["sundog_edge_requests_total", arm[0], ("end", "server5xx"), *arm[1:]] == 1
    assert samples["sundog_edge_request_duration_seconds_count", *arm] == 3
    assert samples["sundog_edge_request_duration_seconds_bucket", arm[0], ("le", "+Inf"), *arm[1:]] == 3
    assert samples["sundog_edge_refused_total", ("kind", "unknown"), ("service", "")] == 1
    assert samples["sundog_edge_replicas", *arm, ("state", "up")] == 1
    assert samples["sundog_edge_document_generation",] == edge.generation
