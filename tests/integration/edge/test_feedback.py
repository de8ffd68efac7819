"""Feedback through a real HAProxy and a real agent: an answer's exposure comes back with an outcome, and is counted once."""

import asyncio
import base64
import contextlib
import json
import os
import random
import sqlite3
import time
from collections import Counter

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_reference import sign_exposure
from feedback_stores import redis_server
from ports import free_port
from sundog_edge.feedback.exposure import verify_exposure
from sundog_edge.haproxy.rules.feedback import MAX_REQUESTS_PER_SECOND
from sundog_edge.split.assignment import json_unit, unit_hash

pytestmark = pytest.mark.haproxy

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
HALVES = ([[0, 5000]], [[5000, 10_000]])
METRICS = ["converted", "revenue"]
HEADER = "x-sundog-exposure"
FAR_AGO = 1_700_000_000


def halves(edge, name="digits", **changes):
    """Two arms of half the buckets each, on applications without a replica: who is refused there was exposed all the same."""
    changes = {"feedback": {"metrics": METRICS}, **changes}
    return edge.service(name, [edge.arm(f"a{n}", f"{name}-r0", own) for n, own in enumerate(HALVES)], **changes)


@pytest.fixture(autouse=True)
def no_replicas(serve):
    serve.targets = {"digits-r0": [], "other-r0": []}


@pytest.fixture
async def feeding(edge):
    """The edge with a key and a store."""
    await give(edge, store=f"sqlite://{edge.root}/feedback.db")
    return edge


@pytest.fixture
async def beside(feeding, serve, tmp_path):
    """Starts a second edge of the namespace, with the same key and a store."""
    opened = []

    async def start(store):
        root = feeding.root / "2"
        root.mkdir()
        other = type(feeding)(root, serve, feeding.session)
        opened.append(other)
        await other.start()
        await give(other, store=store)
        return other

    yield start
    for other in opened:
        await other.close()


async def give(edge, store, *options, keys=(KEY,)):
    """Restart the agent with a key and a store."""
    await edge.kill_agent()
    sign_with(edge, *keys)
    edge.agent_options = ("--signing-key", str(edge.root / "key"), "--store", store, *options)
    await edge.start_agent()


def sign_with(edge, *keys, since=FAR_AGO):
    file = edge.root / "key.new"
    file.write_text("".join(f"{key.hex()}\n" for key in keys))
    os.utime(file, (since, since))
    file.replace(edge.root / "key")


async def post(edge, items, path="/digits/-/feedback", **options):
    options = {"json": items} | options if "data" not in options else options
    async with edge.session.post(edge.url + path, **options) as response:
        return response.status, await response.json()


async def result(edge, items, **options):
    """What came of feedback: the counts that are not zero."""
    _, answer = await post(edge, items, **options)
    return {name: count for name, count in answer.items() if count and name != "problems"}


async def exposure_of(edge, unit="", path="/digits/", **options):
    headers = {"x-user-id": unit} if unit else {}
    return (await edge.get(path, headers=headers, **options)).headers.get(HEADER)


def read(text, service="digits", keys=(KEY,), arms=()):
    found = verify_exposure(keys, service, text, arms)
    assert found is not None, text
    return found


async def section(edge, name="digits", **wanted):
    """The feedback of the evidence, once it has these members."""
    found = {}

    async def as_wanted():
        nonlocal found
        found = (await edge.evidence())["services"].get(name, {}).get("feedback", {})
        return found if wanted.items() <= found.items() else None

    try:
        return await edge.comes_true(as_wanted, f"feedback with {wanted}")
    except TimeoutError as error:
        error.add_note(f"last: {found}")
        raise


async def test_a_probe_is_nobodys_exposure(feeding):
    edge = feeding
    host = {"host": "digits.vision.svc"}
    for unit in ({"kind": "request"}, {"kind": "header", "name": "x-user-id"}):
        await edge.apply(halves(edge, unit=unit))
        for number in range(10):
            asks = {"x-user-id": f"asks-{number}"}
            for path, headers in (("/digits/v2/health/ready", asks), ("/v2/models/digits", asks | host)):
                assert HEADER not in (await edge.get(path, headers=headers)).headers
        assert await exposure_of(edge, "one") is not None
    arm = read(await exposure_of(edge, "one")).arm
    await section(edge, exposed=[[0, arm, 1]])


async def test_an_outcome_is_counted_for_the_arm_and_epoch_of_its_exposure(feeding):
    edge = feeding
    await edge.apply(halves(edge))
    told = [await exposure_of(edge, f"user-{number}") for number in range(20)]
    exposures = [read(text) for text in told]
    items = [{"exposure": text, "metric": "revenue", "value": number / 4} for number, text in enumerate(told)]
    items[3]["properties"] = {"plan": "pro"}
    status, answer = await post(edge, items)
    assert (status, answer["accepted"], answer["problems"]) == (200, 20, [])
    arms = Counter(exposure.arm for exposure in exposures)
    found = await section(edge, accepted=20, exposed=[[0, arm, arms[arm]] for arm in sorted(arms)])
    by_arm = {arm: [n * 250_000 for n, exposure in enumerate(exposures) if exposure.arm == arm] for arm in arms}
    assert found["outcomes"] == [
        ["revenue", 0, arm, len(own), sum(value > 0 for value in own), sum(own), sum(value**2 for value in own)]
        for arm, own in sorted(by_arm.items())
    ]
    path = "/feedback/digits/digits-attempt/export?properties=true"
    async with edge.session.get(f"http://127.0.0.1:{edge.agent_port}{path}") as answer:
        lines = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert [*Counter(key for line in lines for key in line).items()] == [
        *(("head", 1), ("exposure", 20), ("outcome", 20), ("end", 1))
    ]
    assert lines[-1]["end"]["feedback"] == found
    assert [line["outcome"][6:] for line in lines if "outcome" in line][2:4] == [[], ['{"plan":"pro"}']]
    # A unit stays where it was first, whatever it is shown later.
    unit, first = "user-0", exposures[0]
    swapped = halves(edge, epoch=1)
    for each, ranges in zip(swapped["arms"], reversed(HALVES), strict=True):
        each["ranges"] = ranges
    await edge.apply(swapped)
    later = read(await exposure_of(edge, unit))
    assert (later.epoch, later.unit, {later.arm, first.arm}) == (1, first.unit, {"a0", "a1"})
    assert await result(edge, {"unit": unit, "metric": "converted"}) == {"accepted": 1}
    found = await section(edge, sequence=found["sequence"] + 1)
    assert ["converted", 0, first.arm, 1, 1, 10**6, 10**12] in found["outcomes"]


async def test_haproxy_writes_the_id_that_python_reads(feeding):
    edge = feeding
    await edge.apply(halves(edge))
    generator = random.Random(5)
    alphabet = "".join(map(chr, range(33, 127))) + "é€雪 "
    units = ["".join(generator.choices(alphabet, k=generator.randrange(1, 40))).strip() or "x" for _ in range(200)]
    before = int(time.time())
    for unit in [*units, "u" * 4000]:
        answer = await edge.get("/digits/", headers={"x-user-id": unit})
        found = read(answer.headers[HEADER])
        assert found[:4] == ("digits-attempt", 0, answer.headers["x-sundog-arm"], unit_hash(unit.encode()))
        assert before <= found.seconds <= time.time()
        assert sign_exposure(KEY, "digits", found) == answer.headers[HEADER]
    attempt, epoch = "A._-" * 15, (1 << 63) - 1
    await edge.apply(halves(edge, attempt=attempt, epoch=epoch, unit={"kind": "jsonPath", "name": "$.user"}))
    for value in ("ada", 7, 7.5, -(1 << 52), True):
        text = await exposure_of(edge, data=json.dumps({"user": value}))
        assert read(text)[:4:3] == (attempt, unit_hash(json_unit(value)))
        assert (read(text).epoch, len(text) <= 256) == (epoch, True)
    await edge.apply(halves(edge, unit={"kind": "cookie", "name": "sid"}))
    answer = await edge.get("/digits/")
    issued = answer.headers["set-cookie"].split(";")[0].removeprefix("sid=")
    assert read(answer.headers[HEADER]).unit == unit_hash(issued.encode())


async def test_who_was_not_assigned_as_a_unit_has_no_exposure(feeding):
    edge = feeding
    pick = {"header": "x-pick", "value": "mine", "arm": "a1", "callers": {"networks": ["127.0.0.0/8"]}}
    await edge.apply(halves(edge, overrides=[pick]), edge.service("other", [edge.arm("a0", "other-r0", [[0, 10_000]])]))
    assert await exposure_of(edge, "u")
    assert await exposure_of(edge) is None, "anonymous"
    chosen = await edge.get("/digits/", headers={"x-user-id": "u", "x-pick": "mine"})
    assert (chosen.headers["x-sundog-arm"], chosen.headers.get(HEADER)) == ("a1", None)
    assert await exposure_of(edge, "u", "/other/") is None, "a service without feedback"
    assert await exposure_of(edge, "u", "/nowhere/") is None
    found = await section(edge, sequence=1)
    assert sum(units for _, _, units in found["exposed"]) == 1


async def test_where_requests_are_units_each_has_an_exposure_of_its_own(feeding):
    edge = feeding
    await edge.apply(halves(edge, unit={"kind": "request"}))
    told = [await exposure_of(edge, "same") for _ in range(40)]
    exposures = [read(text) for text in told]
    assert len({exposure.unit for exposure in exposures}) == 40
    items = [{"exposure": text, "metric": "converted"} for text in told]
    assert await result(edge, items) == {"accepted": 40}
    assert await result(edge, items) == {"duplicate": 40}
    assert await result(edge, {"unit": "same", "metric": "converted"}) == {"invalid": 1}
    found = await section(edge, duplicate=40, invalid=1)
    arms = Counter(exposure.arm for exposure in exposures)
    assert found["exposed"] == []
    assert [(arm, units) for _, _, arm, units, *_ in found["outcomes"]] == sorted(arms.items())
    rows = (await edge.settled(40))["counters"]
    assert {row["arm"]: row["assigned"] for row in rows} == arms


async def test_exposures_of_a_blinded_service_do_not_show_the_arm(feeding):
    edge = feeding
    await edge.apply(halves(edge, reveal=False))
    exposures = [await exposure_of(edge, f"u{number}") for number in range(20)]
    assert not [text for text in exposures if "a0" in text.split("~")[:4] or "a1" in text.split("~")[:4]]
    arms = Counter(read(text, arms=("a0", "a1")).arm for text in exposures)
    assert set(arms) == {"a0", "a1"}
    assert await result(edge, [{"exposure": text, "metric": "converted"} for text in exposures]) == {"accepted": 20}
    found = await section(edge, sequence=1)
    assert [(arm, units) for _, _, arm, units, *_ in found["outcomes"]] == sorted(arms.items())


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_feedback_may_reach_another_edge_than_the_request_did(kind, feeding, beside, tmp_path):
    edge = feeding
    with contextlib.ExitStack() as stack:
        store = f"sqlite://{edge.root}/feedback.db"
        options = ()
        if kind == "redis":
            port, password, _ = stack.enter_context(redis_server(tmp_path))
            store, options = f"redis://127.0.0.1:{port}", ("--store-password-file", str(password))
            await give(edge, store, *options)
        other = await beside(store)
        await give(other, store, *options)
        for each in (edge, other):
            await each.apply(halves(each))
        exposures = [await exposure_of(edge, f"u{number}") for number in range(10)]
        assert await result(other, [{"exposure": text, "metric": "converted"} for text in exposures]) == {
            "accepted": 10
        }
        assert await result(edge, [{"exposure": text, "metric": "converted"} for text in exposures]) == {
            "duplicate": 10
        }
        # By the unit itself as well, once the edge that saw it has told the store.
        await section(other, duplicate=10)
        await exposure_of(edge, "late")

        async def known():
            return await result(other, {"unit": "late", "metric": "revenue", "value": 2.5}) == {"accepted": 1}

        await edge.comes_true(known, "a unit that the other edge has seen")

        async def alike():
            one, two = [(await each.evidence())["services"]["digits"]["feedback"] for each in (edge, other)]
            # Both may know alike what was before the last outcome.
            return one if one == two and any(row[0] == "revenue" for row in one["outcomes"]) else None

        found = await edge.comes_true(alike, "the same evidence at both edges")
        assert sum(units for _, _, units in found["exposed"]) == 11
        assert sum(row[3] for row in found["outcomes"]) == 11
        # Nobody in the store has a name.
        content = b"".join(
            file.read_bytes() for file in [*edge.root.glob("feedback.db*"), *tmp_path.rglob("*")] if file.is_file()
        )
        assert b"late" not in content


async def test_what_was_acknowledged_before_an_agent_was_killed_is_counted_once(feeding):
    edge = feeding
    await edge.apply(halves(edge))
    exposures = [await exposure_of(edge, f"u{number}") for number in range(50)]
    acknowledged, sent = set(), []
    stop = False

    async def storm(client):
        generator = random.Random(client)
        while not stop:
            number = len(sent)
            sent.append(number)
            item = {"exposure": generator.choice(exposures), "metric": "revenue", "value": 1, "id": f"order-{number}"}
            with contextlib.suppress(aiohttp.ClientError):
                while not stop and number not in acknowledged:
                    status, answer = await post(edge, item)
                    if status == 200:
                        assert answer["accepted"] + answer["duplicate"] == 1
                        acknowledged.add(number)
                    else:
                        assert status in {429, 502, 503}, answer

    tasks = [asyncio.create_task(storm(client)) for client in range(6)]
    for kills in range(4):
        enough = len(acknowledged) + 60

        async def more(enough=enough):
            return len(acknowledged) >= enough

        await edge.comes_true(more, f"{enough} acknowledged")
        if kills < 3:
            await edge.kill_agent()
            await edge.start_agent()
    stop = True
    await asyncio.gather(*tasks)
    with sqlite3.connect(f"{edge.root}/feedback.db") as connection:
        (stored,) = connection.execute("SELECT count(*) FROM events").fetchone()
    connection.close()
    assert len(acknowledged) <= stored <= len(sent)
    # Sent once more, each that was acknowledged is known, and none but these is counted.
    another = {"exposure": exposures[0], "metric": "revenue", "value": 1, "id": "new"}

    async def taken():
        # The storm may have used up what the service may report in this second.
        status, answer = await post(edge, another)
        return answer if status != 429 else None

    assert (await edge.comes_true(taken, "another one taken"))["accepted"] == 1

    async def all_counted():
        rows = (await edge.evidence())["services"]["digits"]["feedback"].get("outcomes", [])
        return sum(row[5] for row in rows) == (stored + 1) * 10**6

    await edge.comes_true(all_counted, f"a sum of {stored + 1}")


async def test_what_is_no_feedback_is_refused_and_counted(feeding):
    edge = feeding
    await edge.apply(halves(edge), halves(edge, "other", attempt="digits-attempt"))
    told, foreign = await exposure_of(edge, "u"), await exposure_of(edge, "u", "/other/")
    ended = sign_exposure(KEY, "digits", read(told)._replace(attempt="before"))
    cases = [
        ({"exposure": told, "metric": "converted"}, {"accepted": 1}),
        ({"exposure": told, "metric": "converted"}, {"duplicate": 1}),
        ({"exposure": foreign, "metric": "converted"}, {"unknown": 1}),
        ({"exposure": ended, "metric": "converted"}, {"unknown": 1}),
        ({"exposure": sign_exposure(OTHER, "digits", read(told)), "metric": "converted"}, {"unknown": 1}),
        ({"unit": "never seen", "metric": "converted"}, {"unknown": 1}),
        ({"exposure": told, "metric": "converted", "time": "2100-01-01T00:00:00Z"}, {"future": 1}),
        ({"exposure": told, "metric": "converted", "time": "2020-01-01T00:00:00Z"}, {"late": 1}),
        ({"exposure": told, "metric": "converted", "value": "much"}, {"invalid": 1}),
        ({"exposure": told, "metric": "other"}, {"invalid": 1}),
        (7, None),
        ([7, []], {"invalid": 2}),
    ]
    for item, wanted in cases:
        status, answer = await post(edge, item)
        if wanted is None:
            assert (status, answer["code"]) == (400, "BadFeedback")
            continue
        assert status == (200 if set(wanted) <= {"accepted", "duplicate"} else 207), item
        assert {name: count for name, count in answer.items() if count and name != "problems"} == wanted, item
    old = sign_exposure(KEY, "digits", read(told)._replace(unit=5, seconds=int(time.time()) - 31 * 86_400))
    assert await result(edge, {"exposure": old, "metric": "converted"}) == {"late": 1}
    found = await section(edge, duplicate=1, unknown=4, future=1, late=2, invalid=4)
    assert [row[3:] for row in found["outcomes"]] == [[1, 1, 10**6, 10**12]]


BODIES = [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 3000, b"{}" * 2, b"[" + b"0," * 1000 + b"0]"]


async def test_malformed_bodies_are_problems_and_harm_nobody(feeding):
    edge = feeding
    await edge.apply(halves(edge))
    for body in BODIES:
        for headers in ({}, {"content-type": "text/plain"}, {"transfer-encoding": "chunked"}):
            data = body if "transfer-encoding" not in headers else _chunks(body)
            status, answer = await post(edge, None, data=data, headers={} if data is not body else headers)
            assert (status, answer["code"], answer["status"]) == (400, "BadFeedback", 400), body
            assert answer["requestId"]
    large = b"[" + b" " * (1 << 20) + b"]"
    # What says its length is refused without having come as a whole.
    head = b"POST /digits/-/feedback HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(large)
    told = json.loads((await edge.raw(head + large[:40_000])).partition(b"\r\n\r\n")[2])
    status, answer = await post(edge, None, data=_chunks(large))
    assert status == told["status"] == answer["status"] == 413
    assert (told["title"], told["code"]) == (answer["title"], answer["code"]) == ("Content Too Large", "BodyTooLarge")
    assert told.keys() == answer.keys()
    for method, wanted in (("GET", 405), ("PUT", 405), ("POST", 400)):
        async with edge.session.request(method, f"{edge.url}/digits/-/feedback") as response:
            assert response.status == wanted
    answer = await edge.raw(
        b"POST /digits/-/feedback HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\n{}", half_close=True
    )
    assert b" 400 " in answer.split(b"\r\n")[0] or not answer
    told = await exposure_of(edge, "u")
    assert await result(edge, {"exposure": told, "metric": "converted"}) == {"accepted": 1}


@pytest.mark.parametrize("name", ["content-type", "user-agent"])
async def test_a_field_that_comes_twice_is_a_problem_and_names_no_library(feeding, name):
    edge = feeding
    await edge.apply(halves(edge))
    head = f"POST /digits/-/feedback HTTP/1.1\r\nhost: a\r\n{name}: a/b\r\n{name}: a/c\r\ncontent-length: 2\r\n"
    top, _, body = (await edge.raw(f"{head}connection: close\r\n\r\n[]".encode())).partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 400 ")
    assert b"aiohttp" not in top + body
    assert b"content-type: application/problem+json" in top.lower()
    told = json.loads(body)
    assert (told["code"], told["detail"]) == ("BadFeedback", "the header of the request is not understood")
    assert told["requestId"]


async def test_no_answer_to_feedback_names_a_library(feeding):
    edge = feeding
    await edge.apply(halves(edge))
    for items in ([], {"unit": "u", "metric": "converted"}):
        async with edge.session.post(f"{edge.url}/digits/-/feedback", json=items) as response:
            assert "server" not in response.headers


async def _chunks(body):
    for start in range(0, len(body), 50_000):
        yield body[start : start + 50_000]


async def test_feedback_is_no_request_of_an_arm_and_has_counters_of_its_own(feeding):
    edge = feeding
    await edge.apply(halves(edge))
    exposure = await exposure_of(edge, "u")
    await result(edge, [{"exposure": exposure, "metric": "converted"}] * 3)
    await post(edge, 7)
    status, _ = await post(
        edge, {"unit": "x", "metric": "converted"}, "/-/feedback", headers={"host": "digits.vision.svc"}
    )
    assert status == 207
    # At the host of a service a path that only ends like this is the model's.
    async with edge.session.post(f"{edge.url}/digits/-/feedback", headers={"host": "digits.vision.svc"}) as response:
        assert response.headers["x-sundog-arm"]
    seen = await edge.settled(2)
    assert seen["services"]["digits"]["refused"] == []

    async def all_lines():
        found = Counter()
        for boot in (await edge.evidence())["boots"]:
            found.update(boot["integrity"])
        return found if found["lines"] == 5 else None

    integrity = await edge.comes_true(all_lines, "five lines")
    assert integrity == {"requests": 5, "lines": 5, "unparsable": 0, "gaps": 0, "dropped": 0}
    assert not [count for boot in seen["boots"] for count in boot["refused"].values() if count]
    async with edge.session.get(f"http://127.0.0.1:{edge.agent_port}/metrics") as response:
        page = await response.text()
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if "feedback" in sample.name and not sample.name.endswith("_created")
    }
    assert samples == {
        ("sundog_edge_feedback_requests_total", "200", "digits"): 1,
        ("sundog_edge_feedback_requests_total", "207", "digits"): 1,
        ("sundog_edge_feedback_requests_total", "400", "digits"): 1,
        ("sundog_edge_feedback_items_total", "accepted", "digits"): 1,
        ("sundog_edge_feedback_items_total", "digits", "duplicate"): 2,
        ("sundog_edge_feedback_items_total", "digits", "unknown"): 1,
        ("sundog_edge_feedback_store_failures_total",): 0,
        ("sundog_edge_feedback_exposures_waiting",): 0,
    }


async def test_what_is_reported_to_a_service_that_takes_none_is_no_request_of_its_arms(feeding):
    edge = feeding
    await edge.apply(halves(edge, feedback=None))
    for path, headers in (("/digits/-/feedback", {}), ("/-/feedback", {"host": "digits.vision.svc"})):
        status, problem = await post(edge, {"unit": "u", "metric": "converted"}, path, headers=headers)
        assert (status, problem["code"]) == (404, "NoFeedback")
    await edge.get("/digits/")
    seen = await edge.settled(1)
    assert seen["services"]["digits"]["refused"] == []


async def test_who_may_not_call_the_service_may_not_report_either(feeding):
    edge = feeding
    edge.secret("clients", ada="ada-key-0123456789")
    rate = {"perClient": {"requests": 1, "seconds": 3600}}
    await edge.apply(halves(edge, auth={"apiKeys": "clients"}, rateLimit=rate))
    item = {"unit": "u", "metric": "converted"}
    for headers in ({}, {"x-api-key": "wrong-key-0123456789"}, {"x-sundog-service": "digits"}):
        status, answer = await post(edge, item, headers=headers)
        assert (status, answer["code"]) == (401, "Unauthorized")
    key = {"x-api-key": "ada-key-0123456789"}
    answer = await edge.get("/digits/", headers={**key, "x-user-id": "u"})
    told = answer.headers[HEADER]
    # The service's rate is for predictions: what it spares the model does not hold up what is reported.
    assert (await edge.get("/digits/", headers=key)).status == 429
    for number in range(3):
        found = await result(edge, {"exposure": told, "metric": "revenue", "id": str(number)}, headers=key)
        assert found == {"accepted": 1}
    # A header cannot make it another service's.
    forged = {**key, "x-sundog-service": "other"}
    assert await result(edge, {"exposure": told, "metric": "revenue", "id": "x"}, headers=forged) == {"accepted": 1}


REPORT = b'{"unit":"victim","metric":"converted"}'


async def test_a_trailer_does_not_make_the_next_report_another_services(feeding, serve):
    """The agent's server takes a request's trailer for a header of the next request on the connection."""
    edge = feeding
    edge.secret("clients", ada="ada-key-0123456789")
    await edge.apply(halves(edge), halves(edge, "other", auth={"apiKeys": "clients"}))
    seen = await edge.get("/other/", headers={"x-api-key": "ada-key-0123456789", "x-user-id": "victim"})
    assert seen.headers[HEADER]
    start = b"POST /digits/-/feedback HTTP/1.1\r\nhost: a\r\n"
    chunked = b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n" % (len(REPORT), REPORT)
    trailed = start + chunked + b"x-sundog-service: other\r\n\r\n"
    closing = start + b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(REPORT), REPORT)
    answer = await edge.raw(trailed * 2 + closing)
    assert answer.count(b"HTTP/1.1 207 ") == 3, answer
    # A connection to the agent must not be another client's either.
    assert await result(edge, json.loads(REPORT)) == {"unknown": 1}
    async with edge.session.get(f"http://127.0.0.1:{edge.agent_port}/metrics") as page:
        lines = [
            line for line in (await page.text()).splitlines() if line.startswith("sundog_edge_feedback_items_total")
        ]
    assert lines == ['sundog_edge_feedback_items_total{result="unknown",service="digits"} 4.0']


@pytest.mark.parametrize("services", [(), ("digits", "other"), ("digits", "digits")], ids=str)
async def test_what_does_not_come_from_one_service_is_nobodys_report(feeding, services):
    edge = feeding
    await edge.apply(halves(edge), halves(edge, "other"))
    connector = aiohttp.UnixConnector(str(edge.root / "s" / "feedback.sock"))
    headers = [("x-sundog-service", name) for name in services]
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post("http://agent/-/feedback", data=REPORT, headers=headers) as response,
    ):
        assert (response.status, (await response.json())["code"]) == (400, "BadFeedback")


async def test_feedback_that_comes_too_often_is_refused_and_traffic_is_not(feeding):
    edge = feeding
    await edge.apply(halves(edge))
    statuses = Counter()

    async def client():
        for _ in range(60):
            status, answer = await post(edge, {"unit": "nobody", "metric": "converted"})
            statuses[status] += 1
            if status == 429:
                assert "send more events with each request" in answer["detail"]

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(16)))
    took = time.monotonic() - began
    assert set(statuses) <= {207, 429, 503}
    # A machine that is too slow for so many a second is refused nothing. The rate is a sliding one.
    assert statuses[429] > 0 or took > statuses.total() / (2 * MAX_REQUESTS_PER_SECOND) - 1
    assert (await edge.get("/digits/")).headers["x-sundog-arm"]


async def test_without_a_key_or_a_store_nothing_else_changes(edge):
    await edge.apply(halves(edge))
    answer = await edge.get("/digits/", headers={"x-user-id": "u"})
    assert answer.headers["x-sundog-arm"]
    assert HEADER not in answer.headers
    status, problem = await post(edge, {"unit": "u", "metric": "converted"})
    assert (status, problem["code"]) == (503, "FeedbackUnavailable")
    assert await section(edge, attempt="digits-attempt", error="the agent was started without --store")
    await edge.kill_agent()
    async with edge.session.post(f"{edge.url}/digits/-/feedback", json={}) as response:
        assert (response.status, response.headers["retry-after"]) == (503, "1")
        assert (await response.json())["code"] == "FeedbackUnavailable"
    assert (await edge.get("/digits/")).headers["x-sundog-arm"]


async def test_while_the_store_is_away_traffic_goes_on_and_the_evidence_says_so(feeding, tmp_path, free_store_port):
    edge = feeding
    password = tmp_path / "password"
    password.write_text("")
    await give(edge, f"redis://127.0.0.1:{free_store_port}", "--store-password-file", str(password))
    await edge.apply(halves(edge))
    exposure = await exposure_of(edge, "u")

    async def error():
        found = (await edge.evidence())["services"]["digits"]["feedback"].get("error", "")
        return found.startswith(f"feedback store 127.0.0.1:{free_store_port}: ")

    await edge.comes_true(error, "an error in the evidence")
    async with edge.session.post(
        f"{edge.url}/digits/-/feedback", json={"exposure": exposure, "metric": "converted"}
    ) as response:
        assert (response.status, response.headers["retry-after"]) == (503, "1")
    with redis_server(tmp_path, free_store_port):
        found = await section(edge, sequence=1)
        assert sum(units for _, _, units in found["exposed"]) == 1, "the unit has waited"
        assert await result(edge, {"exposure": exposure, "metric": "converted"}) == {"accepted": 1}
    assert (await edge.get("/digits/")).headers["x-sundog-arm"]


@pytest.fixture
def free_store_port():
    return free_port()


async def test_a_new_key_leaves_what_the_old_one_has_signed(feeding):
    edge = feeding
    await edge.apply(halves(edge))
    old = await exposure_of(edge, "u")
    sign_with(edge, OTHER, KEY)

    async def by_the_new_key():
        text = await exposure_of(edge, "u")
        return text if verify_exposure([OTHER], "digits", text) else None

    new = await edge.comes_true(by_the_new_key, "an id by the new key")
    items = [{"exposure": text, "metric": "revenue", "id": str(n)} for n, text in enumerate((old, new))]
    assert await result(edge, items) == {"accepted": 2}
    sign_with(edge, OTHER)

    async def forgotten():
        return await result(edge, {"exposure": old, "metric": "converted"}) == {"unknown": 1}

    await edge.comes_true(forgotten, "the old key forgotten")
    log = (edge.root / "agent.log").read_text() + (edge.root / "haproxy.log").read_text()
    assert KEY.hex() not in log
    secret = [file for file in (edge.root / "s").rglob("*") if file.is_file() and file.stat().st_mode & 0o077]
    assert not [file for file in secret if base64.b64encode(OTHER) in file.read_bytes()]


async def test_a_flood_of_units_is_bounded_in_the_store_and_harms_no_traffic(feeding):
    edge = feeding
    await edge.apply(halves(edge, feedback={"metrics": METRICS, "maxUnits": 300}))

    async def client(number):
        async with aiohttp.ClientSession() as session:
            for request in range(100):
                async with session.get(f"{edge.url}/digits/", headers={"x-user-id": f"{number}-{request}"}) as response:
                    assert response.headers["x-sundog-arm"]

    await asyncio.gather(*(client(number) for number in range(10)))
    found = await section(edge, overflow=700)
    assert sum(units for _, _, units in found["exposed"]) == 300
    await edge.settled(1000)
