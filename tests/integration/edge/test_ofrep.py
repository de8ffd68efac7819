"""Look-ups of a unit's arm through a real HAProxy and a real agent, also by the client of OpenFeature."""

import asyncio
import json
import random
import time
from collections import Counter

import aiohttp
import jwt
import pytest
from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from prometheus_client.parser import text_string_to_metric_families

from sundog_edge.haproxy.rules.ofrep import MAX_BYTES, MAX_REQUESTS_PER_SECOND
from sundog_edge.split.assignment import unit_bucket

pytestmark = pytest.mark.haproxy

PATH = "/ofrep/v1/evaluate/flags"
SALT = "digits-salt"
HALVES = ([[0, 5000]], [[5000, 10_000]])
SHARED = b"0123456789abcdef" * 4
EXPOSED = {
    "stable": [[3000, 10_000]],
    "control": [[0, 1000]],
    "wide": [[1000, 1999], [2500, 3000]],
    "narrow": [[1999, 2500]],
}


@pytest.fixture(autouse=True)
def no_replicas(serve):
    # No replica is needed to learn one's arm.
    serve.targets = {"digits-r0": [], "other-r0": []}


def experiment(edge, ranges=None, name="digits", **changes):
    changes = {"experiment": "wide-or-narrow", **changes}
    arms = [edge.arm(arm, f"{name}-r0", own) for arm, own in (ranges or EXPOSED).items()]
    return edge.service(name, arms, **changes)


def halves(edge, **changes):
    return experiment(edge, {f"a{n}": own for n, own in enumerate(HALVES)}, **changes)


def arm_of(unit: str) -> str:
    return f"a{int(unit_bucket(SALT, unit.encode()) >= 5000)}"


async def look_up(edge, unit, flag="/digits", service="/digits", **options):
    """Status, headers and document of a look-up, as soon as the edge does not find that there are too many."""
    data = json.dumps({"context": {"targetingKey": unit}}, ensure_ascii=False).encode()
    while True:
        async with edge.session.post(f"{edge.url}{service}{PATH}{flag}", **{"data": data, **options}) as response:
            if response.status != 429:
                found = await response.read()
                return response.status, response.headers, json.loads(found) if found else None


async def arms_by_look_up(edge, units, **options) -> list[str]:
    async def ask(mine):
        return [(place, (await look_up(edge, unit, **options))[2]["value"]) for place, unit in mine]

    numbered = list(enumerate(units))
    found = await asyncio.gather(*(ask(numbered[start::8]) for start in range(8)))
    return [arm for _, arm in sorted(pair for part in found for pair in part)]


async def arms_by_request(edge, units, make) -> list[str]:
    """The arm where each unit's own request goes. `make` returns a request's options."""

    async def ask(mine):
        return [(place, (await edge.get("/digits/", **make(unit))).headers["x-sundog-arm"]) for place, unit in mine]

    numbered = list(enumerate(units))
    found = await asyncio.gather(*(ask(numbered[start::8]) for start in range(8)))
    return [arm for _, arm in sorted(pair for part in found for pair in part)]


def names(count: int) -> list[str]:
    generator = random.Random(7)
    odd = ["a,b", "ä雪", '"quoted"', "%00%0a", "a|b!c;d", "inner  blanks", "digits-salt:", "null", "y" * 3000, "7.9"]
    made = ["".join(generator.choices("abcdefghij-._~0123456789", k=generator.randint(1, 40))) for _ in range(count)]
    return [*odd, *made]


async def test_thousands_of_units_are_found_where_their_requests_go_through_a_ramp(edge):
    units = names(500)
    for epoch, end in enumerate([0, 1500, 6000, 10_000]):
        ramp = {"stable": [[end, 10_000]] if end < 10_000 else [], "canary": [[0, end]] if end else []}
        await edge.apply(experiment(edge, ramp, experiment="digits-r8", epoch=epoch))
        sent = await arms_by_request(edge, units, lambda unit: {"headers": {"x-user-id": unit}})
        assert await arms_by_look_up(edge, units, flag="/digits-r8") == sent
        assert len({*sent}) == (1 if end in (0, 10_000) else 2)
    # Look-ups are no requests of an arm.
    evidence = await edge.settled(4 * len(units))
    assert sum(row["assigned"] for row in evidence["counters"]) == 4 * len(units)


async def test_units_outside_the_exposure_and_in_each_arm(edge):
    await edge.apply(experiment(edge))
    units = names(1000)
    sent = await arms_by_request(edge, units, lambda unit: {"headers": {"x-user-id": unit}})
    assert {*sent} == {*EXPOSED}
    assert await arms_by_look_up(edge, units) == sent
    for unit, arm in list(zip(units, sent, strict=True))[:50]:
        _, _, found = await look_up(edge, unit, "/wide-or-narrow")
        is_in = arm != "stable"
        assert found == {
            "key": "wide-or-narrow",
            "reason": "SPLIT" if is_in else "DEFAULT",
            "variant": arm,
            "value": arm,
            "metadata": {"experiment": "wide-or-narrow", "revision": 7, "epoch": 0, "inExperiment": is_in},
        }


def token(unit: str) -> str:
    return jwt.encode(
        {"exp": int(time.time()) + 600, "sub": "app", "user": unit}, SHARED, "HS256", headers={"kid": "h"}
    )


KINDS = {
    "cookie": ({"kind": "cookie", "name": "sid"}, lambda unit: {"headers": {"cookie": f"a=1; sid={unit}"}}),
    "jsonPath": (
        {"kind": "jsonPath", "name": "$.user.id"},
        lambda unit: {"data": json.dumps({"user": {"id": int(unit) if unit.isdigit() else unit}}).encode()},
    ),
    "jwtClaim": (
        {"kind": "jwtClaim", "name": "user"},
        lambda unit: {"headers": {"authorization": f"Bearer {token(unit)}"}},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_unit_of_a_cookie_a_body_or_a_claim_is_found_by_its_value(edge, kind):
    unit, make = KINDS[kind]
    options, changes = {}, {}
    if kind == "jwtClaim":
        key = {"kty": "oct", "kid": "h", "alg": "HS256", "k": jwt.utils.base64url_encode(SHARED).decode()}
        edge.secret("jwks", jwks__json=json.dumps({"keys": [key]}))
        changes = {"auth": {"jwt": {"jwks": "jwks", "issuer": "", "audience": ""}}}
        # The caller's own claim is another unit's.
        options = {"headers": {"authorization": f"Bearer {token('caller')}"}}
    await edge.apply(halves(edge, unit=unit, **changes))
    units = [f"user-{number}" for number in range(100)] + [str(number) for number in range(100)]
    sent = await arms_by_request(edge, units, make)
    assert sent == [arm_of(unit) for unit in units]
    assert await arms_by_look_up(edge, units, **options) == sent


async def test_overrides_and_matches_hold_for_a_look_up_as_for_a_request(edge):
    override = {"header": "x-pick", "value": "mine", "arm": "a1", "callers": {"networks": ["127.0.0.0/8"]}}
    await edge.apply(
        halves(edge, overrides=[override], match={"arm": "a0", "headers": {"x-canary": "true"}}, rateLimit={})
    )
    for headers in ({}, {"x-pick": "mine"}, {"x-pick": "yours"}, {"x-canary": "true"}, {"x-sundog-arm": "a1"}):
        for number in range(10):
            unit = f"u{number}"
            answer = await edge.get("/digits/", headers={"x-user-id": unit, **headers})
            _, _, found = await look_up(edge, unit, headers=headers)
            assert found["value"] == answer.headers["x-sundog-arm"]
            chosen = headers in ({"x-pick": "mine"}, {"x-canary": "true"})
            assert found["reason"] == ("TARGETING_MATCH" if chosen else "SPLIT")
            assert found["metadata"]["inExperiment"] is not chosen


async def test_all_flags_have_a_tag_and_an_answer_that_the_client_has_is_not_sent_again(edge):
    await edge.apply(halves(edge))
    status, headers, found = await look_up(edge, "ada", flag="")
    assert status == 200
    assert [(flag["key"], flag["value"]) for flag in found["flags"]] == [
        ("digits", arm_of("ada")),
        ("wide-or-narrow", arm_of("ada")),
    ]
    for known in (headers["etag"], f'"x", W/{headers["etag"]}'):
        again, other, nothing = await look_up(edge, "ada", flag="", headers={"if-none-match": known})
        assert (again, other["etag"], nothing) == (304, headers["etag"], None)
    await edge.apply(halves(edge, epoch=1))
    status, _, _ = await look_up(edge, "ada", flag="", headers={"if-none-match": headers["etag"]})
    assert status == 200
    status, _, found = await look_up(edge, "", flag="")
    assert (status, sorted(found), found["errorCode"]) == (400, ["errorCode", "errorDetails"], "TARGETING_KEY_MISSING")


async def test_a_look_up_needs_what_a_request_of_the_service_needs(edge):
    edge.secret("clients", ada="ada-key-0123456789")
    rate = {"perClient": {"requests": 1, "seconds": 3600}, "total": {"requests": 1, "seconds": 3600}}
    await edge.apply(halves(edge, auth={"apiKeys": "clients"}, rateLimit=rate), experiment(edge, name="other"))
    for headers in ({}, {"x-api-key": "wrong-key-0123456789"}, {"x-sundog-service": "other"}):
        status, _, problem = await look_up(edge, "ada", headers=headers)
        assert (status, problem["code"]) == (401, "Unauthorized")
    for headers in ({"x-api-key": "ada-key-0123456789"}, {"authorization": "Bearer ada-key-0123456789"}):
        for _ in range(3):
            # The service's rate is for predictions.
            status, _, found = await look_up(edge, "ada", headers={**headers, "x-sundog-service": "other"})
            assert (status, found["value"]) == (200, arm_of("ada"))
    answer = await edge.get("/digits/", headers={"x-api-key": "ada-key-0123456789"})
    assert answer.status == 503
    assert (await edge.get("/digits/", headers={"x-api-key": "ada-key-0123456789"})).status == 429


async def test_what_is_no_look_up_is_refused_and_none_of_it_is_a_request_of_an_arm(edge):
    await edge.apply(halves(edge), experiment(edge, name="other", unit={"kind": "request"}), edge.service("none", []))
    large = json.dumps({"context": {"targetingKey": "ada", "pad": "x" * MAX_BYTES}}).encode()
    plain = {"data": b"{"}
    for status, code, options in (
        (404, "FLAG_NOT_FOUND", {"flag": "/narrow"}),
        (404, "FLAG_NOT_FOUND", {"flag": "/%22%2f%e2%82%ac"}),
        (400, "PARSE_ERROR", plain),
        (400, "INVALID_CONTEXT", {"data": b'{"context":7}'}),
        (400, "INVALID_CONTEXT", {"service": "/other", "flag": "/other"}),
        (503, "GENERAL", {"service": "/none", "flag": "/none"}),
    ):
        found, headers, document = await look_up(edge, "ada", **options)
        assert (found, document["errorCode"]) == (status, code)
        assert headers["content-type"] == "application/json"
        assert sorted(document) == ["errorCode", "errorDetails", "key"]
        assert "server" not in headers
        assert ("retry-after" in headers) == (status == 503)

    async def chunks():
        for start in range(0, len(large), 10_000):
            yield large[start : start + 10_000]

    for data in (large, chunks()):
        status, _, problem = await look_up(edge, "ada", data=data)
        assert (status, problem["code"]) == (413, "BodyTooLarge")
        assert "endpoint.maxRequestBytes" not in problem["detail"]
    async with edge.session.get(f"{edge.url}/digits{PATH}/digits") as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")
    evidence = await edge.settled(0)
    assert evidence["counters"] == []
    assert {name: each["refused"] for name, each in evidence["services"].items()} == {
        "digits": [],
        "none": [],
        "other": [],
    }


async def test_only_the_protocols_paths_are_look_ups(edge, serve, replicas):
    """Every other path is the model's, also of a service of the name `ofrep`."""
    replica, other = await replicas("digits-r0"), await replicas("ofrep-r0")
    serve.targets = {"digits-r0": [replica.address], "ofrep-r0": [other.address]}
    await edge.apply(halves(edge), experiment(edge, name="ofrep"))
    await edge.up("digits", a0=1)
    await edge.up("ofrep", stable=1)
    host = {"host": "digits.vision.svc"}
    status, _, found = await look_up(edge, "ada", service="", headers=host)
    assert (status, found["value"]) == (200, arm_of("ada"))
    status, _, found = await look_up(edge, "ada", service="/ofrep", flag="/ofrep")
    assert (status, found["key"]) == (200, "ofrep")
    models = [
        ("/digits/ofrep/v1/evaluate/flag/digits", {}),
        (f"/digits{PATH}/", {}),
        (f"/digits{PATH}/digits/x", {}),
        (f"/digits{PATH}s", {}),
        (f"/digits/x{PATH}/digits", {}),
        ("/ofrep/v1/evaluate/flags/digits", {}),
        (f"/digits{PATH}/digits", host),
    ]
    for path, headers in models:
        async with edge.session.post(edge.url + path, data=b"{}", headers=headers) as response:
            assert (await response.json())["prefix"] in {"/digits-r0.app", "/ofrep-r0.app"}
    assert len(replica.seen) + len(other.seen) == len(models)


async def test_a_trailer_does_not_make_the_next_look_up_another_services(edge):
    edge.secret("clients", ada="ada-key-0123456789")
    await edge.apply(halves(edge), experiment(edge, name="other", auth={"apiKeys": "clients"}))
    ask = b'{"context":{"targetingKey":"ada"}}'
    start = b"POST /digits%s/digits HTTP/1.1\r\nhost: a\r\n" % PATH.encode()
    chunked = b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n" % (len(ask), ask)
    trailed = start + chunked + b"x-sundog-service: other\r\nx-sundog-arm: a1\r\n\r\n"
    closing = start + b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(ask), ask)
    answer = await edge.raw(trailed * 2 + closing)
    assert answer.count(b'"value":"%s"' % arm_of("ada").encode()) == 3, answer


@pytest.mark.parametrize("headers", [[], ["digits", "other"], ["digits", "digits"]], ids=str)
async def test_what_does_not_come_from_one_service_is_no_look_up(edge, headers):
    await edge.apply(halves(edge))
    connector = aiohttp.UnixConnector(str(edge.root / "s" / "feedback.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(
            f"http://agent{PATH}/digits", data=b"{}", headers=[("x-sundog-service", name) for name in headers]
        ) as response,
    ):
        assert (response.status, (await response.json())["errorCode"]) == (400, "GENERAL")


async def test_look_ups_that_come_too_often_are_refused_and_counted_apart(edge):
    await edge.apply(halves(edge))
    statuses = Counter()

    async def client():
        for _ in range(60):
            async with edge.session.post(
                f"{edge.url}/digits{PATH}/digits", data=b'{"context":{"targetingKey":"u"}}'
            ) as one:
                statuses[one.status] += 1
                assert one.status != 429 or one.headers["retry-after"] == "1"

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(16)))
    took = time.monotonic() - began
    assert {*statuses} <= {200, 429, 503}
    # The rate is a sliding one. A machine that is too slow for so many a second is refused nothing.
    assert statuses[200] <= MAX_REQUESTS_PER_SECOND * (took + 2)

    async def counted():
        async with edge.session.get(f"http://127.0.0.1:{edge.agent_port}/metrics") as response:
            page = await response.text()
        found = {
            int(sample.labels["status"]): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "sundog_edge_ofrep_requests_total"
        }
        return found == statuses

    await edge.comes_true(counted, f"{statuses} counted")
    assert await edge.refused("digits") == {}


async def test_the_client_of_openfeature_works_as_it_is(edge):
    edge.secret("clients", ada="ada-key-0123456789")
    await edge.apply(
        experiment(edge, auth={"apiKeys": "clients"}), experiment(edge, name="other", unit={"kind": "request"})
    )
    key = {"x-api-key": "ada-key-0123456789"}
    units = [f"user-{number}" for number in range(100)]
    sent = await arms_by_request(edge, units, lambda unit: {"headers": {"x-user-id": unit, **key}})

    def ask():
        domains = {
            "digits": OFREPProvider(f"{edge.url}/digits", headers_factory=lambda: key),
            "other": OFREPProvider(f"{edge.url}/other"),
            "keyless": OFREPProvider(f"{edge.url}/digits"),
        }
        for domain, provider in domains.items():
            api.set_provider_and_wait(provider, domain)
        clients = {domain: api.get_client(domain) for domain in domains}
        try:
            digits = clients["digits"]
            found = [digits.get_string_details("wide-or-narrow", "none", EvaluationContext(unit)) for unit in units]
            failures = [
                digits.get_string_details("narrow", "none", EvaluationContext("ada")),
                digits.get_string_details("digits", "none"),
                digits.get_boolean_details("digits", False, EvaluationContext("ada")),
                clients["other"].get_string_details("other", "none", EvaluationContext("ada")),
                clients["keyless"].get_string_details("digits", "none", EvaluationContext("ada")),
            ]
        finally:
            api.shutdown()
        return found, failures

    found, failures = await asyncio.to_thread(ask)
    assert [each.value for each in found] == [each.variant for each in found] == sent
    assert {str(each.reason) for each in found} == {"SPLIT", "DEFAULT"}
    for each in found:
        is_in = each.value != "stable"
        assert each.flag_metadata == {
            "experiment": "wide-or-narrow",
            "revision": 7,
            "epoch": 0,
            "inExperiment": is_in,
        }
    assert [each.error_code for each in failures] == [
        ErrorCode.FLAG_NOT_FOUND,
        ErrorCode.TARGETING_KEY_MISSING,
        ErrorCode.TYPE_MISMATCH,
        ErrorCode.INVALID_CONTEXT,
        ErrorCode.GENERAL,
    ]
    assert [each.value for each in failures] == ["none", "none", False, "none", "none"]
