"""Where a request goes, what is taken from it and what is added."""

import asyncio
import json
from typing import Any

import pytest

from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy


async def raw(edge, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.http_port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    return answer


def told(answer: bytes) -> dict[str, Any]:
    """The problem document of an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    document: dict[str, Any] = json.loads(body)
    return document


def is_problem(response, status: int) -> bool:
    return response.status == status and response.headers["content-type"] == "application/problem+json"


async def test_by_path_the_service_is_replaced_by_the_applications_prefix(edge, digits):
    response = await edge.get("/digits/v2/models?x=1")
    assert response.status == 200
    assert response.headers["x-sundog-arm"] == "stable"
    assert response.headers["x-sundog-revision"] == "7"
    assert digits["stable"].seen[-1]["path"] == "/digits-r7.app/v2/models?x=1"
    await edge.get("/digits")
    assert digits["stable"].seen[-1]["path"] == "/digits-r7.app"


@pytest.mark.parametrize("host", ["digits.vision.svc", "DIGITS.vision.svc:8080"])
async def test_by_host_the_whole_path_is_kept(edge, digits, host):
    await edge.get("/digits/infer", headers={"host": host})
    assert digits["stable"].seen[-1]["path"] == "/digits-r7.app/digits/infer"


async def test_an_unknown_host_and_path_is_404_and_the_count_says_so(edge, digits):
    assert is_problem(await edge.get("/nothing/here"), 404)
    assert is_problem(await edge.get("/"), 404)

    async def counted() -> bool:
        boots = (await edge.evidence())["boots"]
        return sum(boot["refused"]["unknown"] for boot in boots) == 2

    await edge.comes_true(counted, "two unknown")
    assert (await edge.evidence())["counters"] == []


async def test_a_service_without_arms_is_503_with_retry_after(edge):
    await edge.apply(edge.service("digits", []))
    response = await edge.get("/digits/")
    assert is_problem(response, 503)
    assert response.headers["retry-after"] == "1"


async def test_an_arm_without_replicas_is_503_with_retry_after(edge, serve):
    serve.targets = {"digits-r7": []}
    await edge.apply(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10000]])]))
    response = await edge.get("/digits/")
    assert is_problem(response, 503)
    assert response.headers["retry-after"] == "1"
    row = (await edge.settled(1))["counters"][0]
    assert row["ends"]["edge5xx"] == 1


async def test_a_body_above_the_services_limit_is_413_and_reaches_no_replica(edge, digits):
    async with edge.session.post(f"{edge.url}/digits/", data=b"x" * 100_000) as response:
        assert response.status == 200
    answer = await raw(
        edge,
        b"POST /digits/ HTTP/1.1\r\nhost: a\r\ncontent-length: 100001\r\nconnection: close\r\n\r\n" + b"x" * 40_000,
    )
    assert answer.startswith(b"HTTP/1.1 413 ")
    detail = "the body of 100001 bytes is larger than 100000 bytes, which is endpoint.maxRequestBytes of its service"
    assert (told(answer)["detail"], told(answer)["error"]) == (detail, detail)
    assert b"application/problem+json" in answer
    assert [seen["size"] for seen in digits["stable"].seen] == [100_000]

    async def counted() -> bool:
        refused = (await edge.evidence())["services"]["digits"]["refused"]
        return sum(boot["size"] for boot in refused) == 1

    await edge.comes_true(counted, "one refused for its size")


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((b"POST /digits/ HTTP/1.1", b"host: a", *fields, b"", body))


MALFORMED = {
    "no HTTP": b"GARBAGE\r\n\r\n",
    "TLS": bytes.fromhex("160301002f") + bytes(47),
    "no version": b"GET /digits/\r\n\r\n",
    "method": b"G(T /digits/ HTTP/1.1\r\nhost: a\r\n\r\n",
    "blank in target": b"GET /digits/ a HTTP/1.1\r\nhost: a\r\n\r\n",
    "NUL in target": b"GET /digits/\0 HTTP/1.1\r\nhost: a\r\n\r\n",
    "NUL in header": post(b"x-a: a\0b"),
    "name of header": post(b"x@a b: 1"),
    "no colon": post(b"x-a"),
    "more headers than the parser takes": post(*(b"x-%d: 1" % number for number in range(500))),
    "headers beyond the whole buffer": post(b"x-a: " + b"b" * 40_000),
    "two hosts": post(b"host: b"),
    "two lengths": post(b"content-length: 1", b"content-length: 2", body=b"x"),
    "no length": post(b"content-length: abc"),
    "negative length": post(b"content-length: -1"),
    "absurd length": post(b"content-length: 99999999999999999999999"),
    "encoding": post(b"transfer-encoding: rot13"),
    "chunk": post(b"transfer-encoding: chunked", body=b"zz\r\nab\r\n0\r\n\r\n"),
}


TOO_LARGE = {
    "a header": (431, post(b"x-a: " + b"b" * 20_000)),
    "a header with a body": (431, post(b"content-length: 2000", b"x-a: " + b"b" * 16_000, body=b"b" * 2000)),
    "headers": (431, post(*(b"x-%d: 1" % number for number in range(150)))),
    "the target": (414, b"GET /digits/" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n"),
}


async def test_headers_that_are_too_large_or_too_many_are_refused_with_a_problem_and_counted(edge, digits):
    for number, (name, (status, request)) in enumerate(TOO_LARGE.items(), start=1):
        answer = await edge.raw(request, half_close=True)
        document = told(answer)
        assert answer.startswith(b"HTTP/1.1 %d " % status), name
        assert (document["status"], document["error"]) == (status, document["detail"]), name
        assert document["requestId"], name

        async def counted(number: int = number) -> bool:
            boots = (await edge.evidence())["boots"]
            return sum(boot["refused"]["malformed"] for boot in boots) == number

        await edge.comes_true(counted, f"{name}: {number} malformed")
    assert digits["stable"].seen == []


async def test_headers_up_to_the_limit_and_large_bodies_pass(edge, digits):
    many = {f"x-{number}": "1" for number in range(90)}
    for headers, size in (({"x-a": "b" * 8_000, "x-b": "b" * 6_500}, 0), (many, 0), ({"x-a": "b" * 8_000}, 90_000)):
        async with edge.session.post(f"{edge.url}/digits/", data=b"x" * size, headers=headers) as response:
            assert response.status == 200
        assert digits["stable"].seen[-1]["size"] == size


async def test_malformed_requests_are_400_and_counted(edge, digits):
    for number, (name, request) in enumerate(MALFORMED.items(), start=1):
        answer = await raw(edge, request)
        # HAProxy's own page, whatever `errorfile` or `http-error` say: its parser answers from the program's memory.
        assert answer.startswith(b"HTTP/1.1 400 "), name
        assert answer.endswith(b"Your browser sent an invalid request.\n</body></html>\n"), name
        assert len(answer) < 300, name

        async def counted(number: int = number) -> bool:
            boots = (await edge.evidence())["boots"]
            return sum(boot["refused"]["malformed"] for boot in boots) == number

        await edge.comes_true(counted, f"{name}: {number} malformed")
    assert digits["stable"].seen == []
    assert (await edge.get("/digits/")).status == 200


async def test_a_length_that_nobody_could_send_is_refused_once_the_buffer_is_full(edge, digits):
    answer = await raw(edge, post(b"content-length: 9223372036854775807", body=b"x" * 40_000))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer
    assert digits["stable"].seen == []


async def test_headers_that_steer_serve_or_the_edge_are_stripped_and_the_timeout_is_ours(edge, digits):
    await edge.get(
        "/digits/",
        headers={
            "x-request-timeout-seconds": "0",
            "x-request-disconnect-disabled": "1",
            "serve_multiplexed_model_id": "other",
            "x-sundog-arm": "canary",
            "x-sundog-anything": "1",
            "x-kept": "yes",
        },
    )
    seen = {name.lower(): value for name, value in digits["stable"].seen[-1]["headers"].items()}
    assert (seen["x-sundog-timeout-seconds"], seen["x-request-disconnect-disabled"]) == (f"{PATIENCE_S + 1:g}", "?1")
    assert seen["x-kept"] == "yes"
    assert not {"x-request-timeout-seconds", "serve_multiplexed_model_id", "x-sundog-arm", "x-sundog-anything"} & {
        *seen
    }


async def test_a_replicas_own_sundog_headers_do_not_reach_the_client(edge, digits):
    response = await edge.get("/digits/?outcome=invalid")
    assert response.headers.getall("x-sundog-arm") == ["stable"]
    assert "x-sundog-other" not in response.headers
    assert "x-sundog-outcome" not in response.headers


async def test_serves_own_proxy_is_used_only_while_there_is_no_replica(edge, serve, replicas):
    proxy = await replicas("digits-r7", port=int(serve.fallback.rpartition(":")[2]))
    serve.targets, serve.fallback_for = {"digits-r7": []}, {"digits-r7"}
    await edge.apply(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10000]])]))

    async def answered() -> bool:
        return (await edge.get("/digits/")).status == 200

    await edge.comes_true(answered, "an answer through Serve's own proxy")
    replica = await replicas("digits-r7")
    serve.targets, serve.fallback_for = {"digits-r7": [replica.address]}, set()
    await edge.up("digits", stable=1)
    before = len(proxy.seen)
    assert (await edge.get("/digits/")).status == 200
    assert len(proxy.seen) == before
    assert len(replica.seen) == 1
    rows = (await edge.evidence())["counters"]
    assert sum(row["servedElsewhere"] for row in rows) == before


async def test_the_ray_token_is_sent_and_a_rotated_one_is_taken_up(edge, serve):
    token = edge.root / "token"
    token.write_text("first\n")
    await edge.kill_agent()
    edge.agent_options = ("--ray-token-file", str(token))
    await edge.start_agent()
    await edge.apply(edge.service("digits", []))

    async def sent(wanted: str) -> bool:
        return f"Bearer {wanted}" in serve.tokens

    await edge.comes_true(lambda: sent("first"), "the token")
    token.write_text("second\n")
    await edge.comes_true(lambda: sent("second"), "the rotated token")


OWN_ANSWERS = {
    "/nothing/": (404, "NoSuchService"),
    "/empty/": (503, "NotReady"),
    "/gone/": (503, "NoReplica"),
    "/digits/?die=before": (502, "BadGateway"),
    "/hasty/?sleep=60": (504, "DeadlineExceeded"),
}


async def test_what_the_edge_answers_itself_has_the_members_that_the_model_servers_problems_have(
    edge, serve, replicas, digits
):
    serve.targets["hasty-r1"] = [(await replicas("hasty-r1")).address]
    await edge.apply(
        edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10_000]])]),
        edge.service("hasty", [edge.arm("stable", "hasty-r1", [[0, 10_000]])], requestTimeoutSeconds=0.5),
        edge.service("empty", []),
        edge.service("gone", [edge.arm("stable", "gone-r1", [[0, 10_000]])]),
    )
    await edge.up("hasty", stable=1)
    for path, (status, code) in OWN_ANSWERS.items():
        answer = await edge.get(path, headers={"x-request-id": "mine-1"})
        told = await answer.json(content_type="application/problem+json")
        found = (answer.status, told["status"], told["code"], told["requestId"], answer.headers["x-request-id"])
        assert found == (status, status, code, "mine-1", "mine-1"), path
        assert told["error"] == told["detail"], "clients of the Open Inference Protocol read no other member"


NOBODY = {
    # Target, host, and what is told of both.
    "usual": (b"/nobody/x?key=secret", b"other.example:8443", ("other.example:8443", "/nobody/x")),
    "empty": (b"/", b"", ("", "/")),
    "quotes": (b'/a"b\\c\\u0041\'<i>"},{', b"a'b", ("a'b", '/a"b\\c\\u0041\'<i>"},{')),
    "escapes": (b"/%22%0d%0a%[src]", b"a", ("a", "/%22%0d%0a%[src]")),
    "long": (b"/" + b"y" * 5000, b"z" * 5000, ("z" * 64, "/" + "y" * 63)),
}


async def test_the_answer_for_an_unknown_service_names_what_was_asked_for(edge, digits):
    for name, (target, host, shown) in NOBODY.items():
        answer = await raw(edge, b"GET %b HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n" % (target, host))
        document = told(answer)
        assert (document["status"], document["code"]) == (404, "NoSuchService"), name
        assert document["detail"] == f"no service has this host or path: '{shown[0]}', '{shown[1]}'"
        assert document["error"] == document["detail"]
