"""What is let in, byte by byte: paths, hosts, framing, protocols, slow clients, and how many may wait."""

import asyncio
import json
import time

import pytest

from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

HOST = b"host: digits.vision.svc\r\n"


def stable(edge):
    return [edge.arm("stable", "digits-r7", [[0, 10_000]]), edge.arm("canary", "digits-r8", [], revision=8)]


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


TARGETS = (
    # (request line, further headers, status, the path that the replica sees)
    (b"GET /x HTTP/1.1", HOST, 200, "/digits-r7.app/x"),
    (b"GET /x HTTP/1.1", b"host: DIGITS.vision.svc:8443\r\n", 200, "/digits-r7.app/x"),
    (b"GET /x HTTP/1.1", b"host: digits.vision.svc.\r\n", 200, "/digits-r7.app/x"),
    (b"GET http://digits.vision.svc/x HTTP/1.1", HOST, 200, "/digits-r7.app/x"),
    (b"GET http://other.example/x HTTP/1.1", HOST, 400, None),
    (b"GET /digits/x HTTP/1.1", b"host: a\r\n", 200, "/digits-r7.app/x"),
    (b"GET /digits HTTP/1.1", b"host: a\r\n", 200, "/digits-r7.app"),
    (b"GET /digits/ HTTP/1.1", b"host: a\r\n", 200, "/digits-r7.app/"),
    (b"GET /digits/a%2Fb%20c?q=%2f HTTP/1.1", b"host: a\r\n", 200, "/digits-r7.app/a%2Fb%20c?q=%2f"),
    (b"GET /digits//x HTTP/1.1", b"host: a\r\n", 200, "/digits-r7.app//x"),
    (b"GET /digits/a..b HTTP/1.1", b"host: a\r\n", 200, "/digits-r7.app/a..b"),
    (b"GET /digits/x HTTP/1.0", b"", 200, "/digits-r7.app/x"),
    (b"GET /Digits/x HTTP/1.1", b"host: a\r\n", 404, None),
    (b"GET //digits/x HTTP/1.1", b"host: a\r\n", 404, None),
    (b"GET /%64igits/x HTTP/1.1", b"host: a\r\n", 404, None),
    (b"GET /digits%2fx HTTP/1.1", b"host: a\r\n", 404, None),
    (b"GET /./digits/x HTTP/1.1", b"host: a\r\n", 404, None),
    (b"GET /digits/../digits-r8.app/x HTTP/1.1", b"host: a\r\n", 400, None),
    (b"GET /digits/%2e%2E/x HTTP/1.1", b"host: a\r\n", 400, None),
    (b"GET /digits/.%2e HTTP/1.1", b"host: a\r\n", 400, None),
    (b"GET /digits/x%2f..%2fy HTTP/1.1", b"host: a\r\n", 400, None),
    (b"GET /../x HTTP/1.1", HOST, 400, None),
    (b"CONNECT digits.vision.svc:80 HTTP/1.1", b"host: digits.vision.svc:80\r\n", 405, None),
    (b"TRACE /digits/ HTTP/1.1", b"host: a\r\n", 405, None),
    (b"PROPFIND /digits/ HTTP/1.1", b"host: a\r\n", 405, None),
    (b"GET /digits/x HTTP/1.1", b"", 400, None),
    (b"GET /digits/x HTTP/1.1", HOST + b"host: letters.vision.svc\r\n", 400, None),
    (b"GET /digits/x", b"", 400, None),
    (b"GET /digits/x y HTTP/1.1", b"host: a\r\n", 400, None),
    (b"GET /digits/x HTTP/1.1", b"host : a\r\n", 400, None),
    (b"GET /digits/x HTTP/1.1", b"host: a\r\n folded: 1\r\n", 400, None),
    (b"GET /digits/x HTTP/1.1", b"host: a\r\nx-nul: \0\r\n", 400, None),
)


async def test_a_target_reaches_its_service_or_nobody(edge, digits):
    await edge.apply(edge.service("digits", stable(edge)), edge.service("letters", []))
    seen = digits["stable"].seen
    for line, headers, wanted, path in TARGETS:
        seen.clear()
        answer = await edge.raw(line + b"\r\n" + headers + b"connection: close\r\n\r\n")
        assert status_of(answer) == wanted, (line, headers, answer[:200])
        assert [one["path"] for one in seen] == ([] if path is None else [path]), line
        if wanted == 405 or (wanted == 400 and b"two dots" in answer):
            assert b"application/problem+json" in answer
    assert digits["canary"].seen == []


FRAMINGS = (
    # (headers, body, status, requests that the replica may see)
    (b"content-length: 3\r\n", b"abc", 200, 1),
    (b"transfer-encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n", 200, 1),
    (b"content-length: 3\r\ncontent-length: 3\r\n", b"abc", 200, 1),
    (b"content-length: 3\r\ncontent-length: 4\r\n", b"abcd", 400, 0),
    (b"content-length: 3, 4\r\n", b"abcd", 400, 0),
    (b"content-length: -1\r\n", b"", 400, 0),
    (b"content-length: +3\r\n", b"abc", 400, 0),
    (b"content-length: 99999999999999999999\r\n", b"", 400, 0),
    (b"transfer-encoding: gzip, chunked, gzip\r\n", b"0\r\n\r\n", 400, 0),
    (b"transfer-encoding: xchunked\r\n", b"0\r\n\r\n", 400, 0),
    (b"transfer-encoding: chunked\r\n", b"zz\r\n", 400, 0),
    (b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", b"0\r\n\r\n", 400, 0),
    # What a proxy that goes by the length would take for a second request is no more than the rest of this connection.
    (
        b"content-length: 6\r\ntransfer-encoding: chunked\r\n",
        b"0\r\n\r\nGET /digits/smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        200,
        1,
    ),
)


async def test_no_framing_smuggles_a_second_request(edge, digits):
    seen = digits["stable"].seen
    for headers, body, wanted, requests in FRAMINGS:
        seen.clear()
        answer = await edge.raw(
            b"POST /digits/first HTTP/1.1\r\nhost: a\r\nconnection: close\r\n" + headers + b"\r\n" + body
        )
        assert status_of(answer) == wanted, (headers, answer[:200])
        assert [one["path"] for one in seen] == ["/digits-r7.app/first"] * requests, headers
        assert answer.count(b"HTTP/1.1 ") == 1, headers


def upgrade(word: bytes, *more: bytes) -> bytes:
    lines = (
        b"GET /digits/ HTTP/1.1",
        b"host: a",
        b"connection: close, Upgrade" + (b", HTTP2-Settings" if more else b""),
        b"upgrade: " + word,
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        b"sec-websocket-version: 13",
        *more,
    )
    return b"\r\n".join((*lines, b"", b""))


async def test_websockets_are_refused_clearly_and_other_upgrades_are_not_taken(edge, digits):
    for word in (b"websocket", b"WebSocket", b"h2c, websocket"):
        answer = await edge.raw(upgrade(word))
        assert status_of(answer) == 501, (word, answer)
        assert b"websockets are not supported" in answer
    answer = await edge.raw(upgrade(b"h2c", b"http2-settings: AAMAAABk"))
    assert status_of(answer) == 200
    assert len(digits["stable"].seen) == 1
    assert "upgrade" not in {name.lower() for name in digits["stable"].seen[0]["headers"]}

    async def counted() -> bool:
        return await edge.refused("digits") == {"websocket": 3}

    await edge.comes_true(counted, "three websockets")


async def test_headers_in_disguise_are_taken_away(edge, digits):
    headers = {
        "X-Sundog-Outcome": "invalid",
        "x_sundog_arm": "canary",
        "x_request_timeout_seconds": "0",
        "X-Request-Timeout-Seconds": "0",
        "X-Request-Disconnect-Disabled": "1",
        "serve_multiplexed_model_id": "other",
        "proxy-authorization": "Basic x",
        "proxy-connection": "keep-alive",
        "x-forwarded-for": "10.9.9.9",
        "x-kept": "yes",
    }
    await edge.get("/digits/", headers=headers)
    seen = {name.lower(): value for name, value in digits["stable"].seen[-1]["headers"].items()}
    assert {name for name in seen if name.startswith(("x-", "x_", "proxy", "serve"))} == {
        "x-forwarded-for",
        "x-kept",
        "x-request-id",
        "x-request-disconnect-disabled",
        "x-sundog-timeout-seconds",
    }
    assert (seen["x-sundog-timeout-seconds"], seen["x-request-disconnect-disabled"]) == (f"{PATIENCE_S + 1:g}", "?1")
    assert seen["x-forwarded-for"] == "127.0.0.1"


async def test_a_body_without_a_length_is_capped_where_it_fits_a_buffer(edge, digits):
    """Up to 16 kB the edge sees it whole; a longer one is counted by the model server as it reads."""
    await edge.apply(edge.service("digits", stable(edge), maxRequestBytes=1000))
    for size, wanted in ((1000, 200), (1001, 413), (12_000, 413)):
        body = b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n"
        answer = await edge.raw(
            b"POST /digits/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n" + body
        )
        assert status_of(answer) == wanted, size
        assert wanted == 200 or b"the body is larger than 1000 bytes" in answer
    assert [one["size"] for one in digits["stable"].seen] == [1000]


async def test_the_first_event_arrives_before_the_last_is_sent(edge, digits):
    async with edge.session.get(f"{edge.url}/digits/?events=3") as response:
        assert response.headers["content-type"] == "text/event-stream"
        for number in range(3):
            assert (
                await asyncio.wait_for(response.content.readuntil(b"\n\n"), PATIENCE_S)
                == f"data: {number}\n\n".encode()
            )
            digits["stable"].go_on.release()
        assert await response.content.read() == b""
    assert edge.ends(await edge.settled(1)) == {"ok": 1}


async def test_a_body_that_is_too_large_is_not_asked_for(edge, digits):
    """A client that waits to be asked for its body is told before it sends any."""
    await edge.apply(edge.service("digits", stable(edge), maxRequestBytes=1000))
    head = (
        b"POST /digits/ HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    )
    answer = await edge.raw(head % 1001)
    assert status_of(answer) == 413
    assert b"the body of 1001 bytes is larger than 1000 bytes" in answer
    assert b'"code":"BodyTooLarge"' in answer
    answer = await edge.raw(head % 1000 + b" " * 1000)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
async def test_every_event_arrives_without_delay(edge, digits, version):
    """A piece that the kernel holds back is late by 200 ms, each of them. The quickest tells, however busy the machine is."""
    pieces = 20
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sN", version, f"{edge.url}/digits/?events={pieces}"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    quickest = PATIENCE_S
    for number in range(pieces):
        asked = time.monotonic()
        piece = await asyncio.wait_for(process.stdout.readuntil(b"\n\n"), PATIENCE_S)
        assert piece == f"data: {number}\n\n".encode()
        if number:
            quickest = min(quickest, time.monotonic() - asked)
        digits["stable"].go_on.release()
    assert await process.wait() == 0
    assert quickest < 0.15


async def test_http_2_without_tls_is_spoken_by_its_preface(edge, digits):
    process = await asyncio.create_subprocess_exec(
        *(
            "curl",
            "-s",
            "--http2-prior-knowledge",
            "-w",
            "%{http_version} %{http_code}",
            "-d",
            "{}",
            f"{edge.url}/digits/x",
        ),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert out.endswith(b"2 200")
    assert digits["stable"].seen[-1]["path"] == "/digits-r7.app/x"


@pytest.fixture
async def strict(edge, serve, replicas):
    """An edge that waits a second for a request and as long for a silent client, and lets an address have three connections."""
    await edge.stop_haproxy()
    edge.haproxy_options = ("--request-seconds", "1", "--client-seconds", "1", "--source-connections", "3")
    await edge.start_haproxy()
    replica = await replicas("digits-r7")
    serve.targets = {"digits-r7": [replica.address]}
    await edge.apply(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10_000]])]))
    await edge.up("digits", stable=1)
    return replica


async def test_a_request_that_does_not_come_is_given_up(edge, strict):
    for start in (
        b"GET /digits/ HT",
        b"GET /digits/ HTTP/1.1\r\nhost: a\r\nx-a: ",
        b"POST /digits/ HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nabc",
    ):
        answer = await edge.raw(start)
        assert status_of(answer) == 408, start
        # While headers are missing HAProxy's parser answers, with a page of its own.
        assert (b"application/problem+json" in answer) == start.endswith(b"abc")
    # Beyond a buffer the replica has the start of the body; the client's silence still ends it.
    await edge.raw(b"POST /digits/ HTTP/1.1\r\nhost: a\r\ncontent-length: 90000\r\n\r\n" + b"x" * 40_000)
    assert strict.seen == []

    async def counted() -> bool:
        evidence = await edge.evidence()
        unfinished = sum(boot["refused"].get("unfinished", 0) for boot in evidence["boots"])
        unfinished += (await edge.refused("digits")).get("unfinished", 0)
        return unfinished == 3 and edge.ends(evidence) == {"abortBefore": 1}

    await edge.comes_true(counted, "three unfinished, one aborted")


async def test_an_address_has_only_so_many_connections(edge, strict):
    held = [await asyncio.open_connection("127.0.0.1", edge.http_port) for _ in range(3)]
    for _, writer in held:
        writer.write(b"GET /digits/?hold HTTP/1.1\r\nhost: a\r\n\r\n")

    async def three_running() -> bool:
        return len(strict.seen) == 3

    await edge.comes_true(three_running, "three requests at the replica")
    with pytest.raises((ConnectionError, AssertionError)):
        assert await edge.raw(b"GET /digits/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    for _ in held:
        strict.go_on.release()
    for reader, writer in held:
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()

    async def free() -> bool:
        try:
            return status_of(await edge.raw(b"GET /digits/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")) == 200
        except ConnectionError:
            return False

    await edge.comes_true(free, "a connection again")


@pytest.mark.parametrize(("waiting", "refused"), [(0, 5), (2, 3)])
async def test_no_more_wait_than_may_and_the_rest_is_answered_at_once(edge, serve, replicas, waiting, refused):
    replica = await replicas("digits-r7")
    serve.targets = {"digits-r7": [replica.address]}
    await edge.apply(
        edge.service(
            "digits",
            [edge.arm("stable", "digits-r7", [[0, 10_000]])],
            maxOngoingRequests=1,
            queue={"maxRequests": waiting, "timeoutSeconds": PATIENCE_S},
        )
    )
    await edge.up("digits", stable=1)
    first = asyncio.create_task(edge.get("/digits/?hold"))
    await replica.entered.wait()
    asked = [asyncio.create_task(edge.get("/digits/")) for _ in range(5)]

    async def told() -> bool:
        return sum(task.done() for task in asked) >= refused - 1

    await edge.comes_true(told, "answers to those that may not wait")
    replica.go_on.release()
    others: list[int] = []
    for response in await asyncio.gather(*asked):
        others.append(response.status)
        if response.status == 503:
            assert response.headers["retry-after"] == "1"
            assert response.headers["content-type"] == "application/problem+json"
    assert (await first).status == 200
    assert others.count(503) >= refused - 1
    assert others.count(503) + others.count(200) == 5
    assert others.count(200) <= waiting + 1
    evidence = await edge.settled(6)
    assert edge.ends(evidence) == {"ok": 1 + others.count(200), "edge5xx": others.count(503)}


async def test_two_hundred_at_once_are_let_in_by_default(edge, serve, replicas):
    replica = await replicas("digits-r7")
    serve.targets = {"digits-r7": [replica.address]}
    arms = [edge.arm("stable", "digits-r7", [[0, 10_000]])]
    await edge.apply(edge.service("digits", arms, maxOngoingRequests=64, queue={"timeoutSeconds": PATIENCE_S}))
    await edge.up("digits", stable=1)
    asked = [asyncio.create_task(edge.get("/digits/?hold")) for _ in range(200)]

    async def full() -> bool:
        return len(replica.seen) == 64

    await edge.comes_true(full, "as many at the replica as it takes")
    for _ in asked:
        replica.go_on.release()
    assert {response.status for response in await asyncio.gather(*asked)} == {200}


async def test_requests_that_wait_for_a_replica_are_in_flight_for_the_operator_and_for_prometheus(
    edge, serve, replicas
):
    """Ray Serve sees only what the replica admitted. A service scales by all of them."""
    replica = await replicas("digits-r7")
    serve.targets = {"digits-r7": [replica.address]}
    arms = [edge.arm("stable", "digits-r7", [[0, 10_000]])]
    await edge.apply(edge.service("digits", arms, maxOngoingRequests=2, queue={"timeoutSeconds": PATIENCE_S}))
    await edge.up("digits", stable=1)
    asked = [asyncio.create_task(edge.get("/digits/?hold")) for _ in range(7)]

    async def counted() -> bool:
        return (await edge.evidence())["services"]["digits"]["inFlight"] == {"digits-r7": 7}

    async def admitted() -> bool:
        return len(replica.seen) == 2

    await edge.comes_true(counted, "all seven in flight")
    await edge.comes_true(admitted, "two at the replica")
    rows = (await edge.evidence())["counters"]
    assert sum(row["inFlight"] for row in rows) == 7
    for _ in asked:
        replica.go_on.release()
    assert {response.status for response in await asyncio.gather(*asked)} == {200}


async def test_a_wait_ends_when_the_service_says(edge, serve, replicas):
    replica = await replicas("digits-r7")
    serve.targets = {"digits-r7": [replica.address]}
    arms = [edge.arm("stable", "digits-r7", [[0, 10_000]])]
    queue = {"maxRequests": 10, "timeoutSeconds": 0.3}
    await edge.apply(edge.service("digits", arms, maxOngoingRequests=1, queue=queue))
    await edge.up("digits", stable=1)
    first = asyncio.create_task(edge.get("/digits/?hold"))
    await replica.entered.wait()
    assert (await edge.get("/digits/")).status == 503
    assert not first.done()
    replica.go_on.release()
    assert (await first).status == 200
    assert json.loads((edge.root / "s" / "layout.json").read_text())["waits"][0][1] == 300


async def test_a_client_that_does_not_read_is_given_up_and_its_replica_is_free(edge, strict):
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.http_port, limit=1024)
    writer.write(b"GET /digits/?large=50000000 HTTP/1.1\r\nhost: a\r\n\r\n")

    async def ended() -> bool:
        return sum(edge.ends(await edge.evidence()).values()) == 1

    await edge.comes_true(ended, "the end of an answer that nobody reads")
    assert edge.ends(await edge.evidence()) == {"abortDuring": 1}
    writer.close()
    del reader
