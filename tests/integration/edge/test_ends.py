"""Every way in which a request can end, made to happen by a replica or client that misbehaves."""

import asyncio
import time
import urllib.error
import urllib.request
from collections import Counter

import aiohttp
import pytest

from ports import free_port
from sundog_edge.errors import HaproxyRefused
from sundog_edge.haproxy.client import HaproxyClient
from sundog_edge.haproxy.names import ALL_REQUESTS
from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy


async def ask(edge, path: str) -> int | str:
    try:
        async with edge.session.get(edge.url + path) as response:
            await response.read()
            return response.status
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__


ENDS = {
    "status=200": (200, "ok"),
    "status=302": (302, "ok"),
    "status=404": (404, "client4xx"),
    "status=422": (422, "client4xx"),
    "status=429": (429, "throttled"),
    "status=500": (500, "server5xx"),
    "status=503": (503, "server5xx"),
    "die=after": ("ClientPayloadError", "truncated"),
    "die=before": (502, "edge5xx"),
    "outcome=invalid": (200, "invalid"),
    "outcome=fine": (200, "ok"),
    "outcome=invalid&status=500": (500, "server5xx"),
}
TIMEOUTS = {"sleep=60": (504, "timeout"), "drip=60": ("ClientPayloadError", "timeout")}


@pytest.mark.parametrize(("cases", "limit_s"), [(ENDS, PATIENCE_S), (TIMEOUTS, 0.5)], ids=["in time", "too late"])
async def test_a_replicas_answer_has_one_end(edge, digits, cases, limit_s):
    arms = [edge.arm("stable", "digits-r7", [[0, 10_000]]), edge.arm("canary", "digits-r8", [])]
    await edge.apply(edge.service("digits", arms, requestTimeoutSeconds=limit_s))
    ends, times = Counter(), Counter()
    for number, (query, (answer, end)) in enumerate(cases.items(), start=1):
        assert await ask(edge, f"/digits/?{query}") == answer, query
        evidence = await edge.settled(number)
        ends[end] += 1
        times["ok" if end == "ok" else "failed"] += 1
        assert edge.ends(evidence) == ends, query
        row = evidence["counters"][0]
        for histograms in (row["total"], row["ttfb"]):
            assert +Counter({name: sum(counts) for name, counts in histograms.items()}) == times, query
        assert row["lost"] == 0


async def test_a_timeout_counts_at_the_elapsed_time(edge, digits):
    await edge.apply(
        edge.service(
            "digits",
            [edge.arm("stable", "digits-r7", [[0, 10_000]]), edge.arm("canary", "digits-r8", [])],
            requestTimeoutSeconds=0.5,
        )
    )
    began = time.monotonic()
    assert await ask(edge, "/digits/?sleep=60") == 504
    took_us = (time.monotonic() - began) * 1e6
    evidence = await edge.settled(1)
    edges = evidence["histogram"]["edgesUs"]
    counts = evidence["counters"][0]["total"]["failed"]
    # The bucket ends after the timeout, and begins before what the client has seen.
    assert edges[len(counts) - 1] >= 500_000
    assert edges[len(counts) - 2] <= took_us


async def test_the_client_leaves_before_and_during_the_answer(edge, digits):
    waiting = asyncio.create_task(ask(edge, "/digits/?hold"))
    await digits["stable"].entered.wait()
    waiting.cancel()
    evidence = await edge.settled(1)
    assert edge.ends(evidence) == {"abortBefore": 1}
    assert sum(evidence["counters"][0]["total"]["aborted"]) == 1
    async with edge.session.get(f"{edge.url}/digits/?drip=60") as response:
        # The answer has begun.
        response.close()
    assert edge.ends(await edge.settled(2)) == {"abortBefore": 1, "abortDuring": 1}


def close_at_the_status(url: str, times: int) -> None:
    """Ask as urllib does: an error status raises, and its body is not read."""
    for _ in range(times):
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(url)
        raised.value.close()


async def test_failures_are_errors_although_urllib_and_curl_close_at_the_status(edge, digits):
    clients, each, by_curl = 8, 75, 400
    unread, read = f"{edge.url}/digits/?status=500&drip=60", f"{edge.url}/digits/?status=500"
    await asyncio.gather(*(asyncio.to_thread(close_at_the_status, unread, each) for _ in range(clients)))
    curl = await asyncio.create_subprocess_exec(
        "curl", "--silent", "--fail", "--output", "/dev/null", f"{unread}&n=[1-{by_curl}]"
    )
    assert await curl.wait() == 22
    requests = clients * each + by_curl
    (row,) = (await edge.settled(requests))["counters"]
    assert {name: count for name, count in row["ends"].items() if count} == {"server5xx": requests}
    assert (row["clientClosed"], row["lost"], sum(row["total"]["failed"])) == (requests, 0, requests)
    # Short bodies, which have often arrived before the client closes.
    await asyncio.gather(*(asyncio.to_thread(close_at_the_status, read, each) for _ in range(clients)))
    assert edge.ends(await edge.settled(requests + clients * each)) == {"server5xx": requests + clients * each}


@pytest.mark.parametrize(
    ("query", "end"),
    [
        ("status=404&drip=60", "client4xx"),
        ("status=429&drip=60", "throttled"),
        ("status=503&drip=60", "server5xx"),
        ("outcome=invalid&drip=60", "invalid"),
        ("drip=60", "abortDuring"),
    ],
)
async def test_a_client_that_closes_at_the_status_changes_no_end_that_the_headers_tell(edge, digits, query, end):
    async with edge.session.get(f"{edge.url}/digits/?{query}") as response:
        response.close()
    evidence = await edge.settled(1)
    assert edge.ends(evidence) == {end: 1}
    assert evidence["counters"][0]["clientClosed"] == 1


async def test_a_client_that_leaves_within_its_body_is_accounted_for(edge, digits):
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.http_port)
    writer.write(b"POST /digits/ HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nabc")
    await writer.drain()
    writer.close()
    del reader

    async def counted() -> bool:
        evidence = await edge.evidence()
        unfinished = sum(boot["refused"]["unfinished"] for boot in evidence["boots"])
        return unfinished + edge.ends(evidence)["abortBefore"] == 1

    await edge.comes_true(counted, "one unfinished or aborted")
    assert digits["stable"].seen == []


async def test_a_replica_that_refuses_connections_is_edge5xx_and_costs_retries(edge, serve, replicas):
    replica = await replicas("digits-r7")
    serve.targets = {"digits-r7": [replica.address]}
    await edge.apply(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10_000]])]))
    await edge.up("digits", stable=1)
    await replica.stop()
    assert await ask(edge, "/digits/") == 503
    row = (await edge.settled(1))["counters"][0]
    assert row["ends"]["edge5xx"] == 1
    assert row["retries"]["rescued"] == 0


async def test_a_retry_that_helps_is_charged_to_the_arm(edge, serve, replicas):
    """One of two replicas is gone without HAProxy knowing yet: the first request that meets it is sent to the other."""
    first, second = await replicas("digits-r7"), await replicas("digits-r7")
    serve.targets = {"digits-r7": [first.address, second.address]}
    await edge.apply(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10_000]])]))
    await edge.up("digits", stable=2)
    await first.stop()
    answers = [await ask(edge, "/digits/") for _ in range(4)]
    assert answers == [200] * 4
    await edge.settled(4)
    seen = await edge.evidence("detail=blocks")
    row = seen["counters"][0]
    assert row["ends"]["ok"] == 4
    assert row["retries"]["firstAttemptFailed"] >= 1
    column = seen["blocks"]["columns"].index("firstAttemptFailed")
    assert sum(block[column] for block in row["blocks"]) == row["retries"]["firstAttemptFailed"]
    assert row["retries"]["rescued"] == row["retries"]["firstAttemptFailed"] <= row["retries"]["retries"]
    assert row["retries"]["redispatched"] >= 1


async def send(edge, name: str = "") -> int:
    """Have a request end the replica that it reaches.

    On a connection of its own: where a replica closes one that had requests before, HAProxy may close the client's without a word.
    """
    headers = {"x-request-id": name} if name else {}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{edge.url}/digits/?die", data=b"{}", headers=headers) as response,
    ):
        return response.status


@pytest.mark.parametrize("name", ["", "poison-1"])
async def test_a_request_that_ends_its_replica_ends_two_at_most_and_one_more_if_it_comes_again(
    edge, serve, replica_process, name
):
    started = [await replica_process("digits-r7") for _ in range(4)]
    serve.targets = {"digits-r7": [address for _, address in started]}
    await edge.apply(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10_000]])]))
    await edge.up("digits", stable=4)

    def dead() -> int:
        return sum(process.returncode is not None for process, _ in started)

    async def so_many(count: int) -> None:
        async def reached() -> bool:
            return dead() >= count

        await edge.comes_true(reached, f"{count} replicas dead")
        await edge.up("digits", stable=4 - count)
        assert dead() == count

    assert await send(edge, name) == 502
    await so_many(2)
    assert [await ask(edge, "/digits/") for _ in range(4)] == [200] * 4
    (row,) = (await edge.settled(5))["counters"]
    assert (row["ends"]["edge5xx"], row["retries"]["poison"], row["retries"]["rescued"]) == (1, 1, 0)
    assert await send(edge, name) == 502
    # Whoever did not say that it is the same request has another one.
    await so_many(3 if name else 4)


async def test_a_hanging_request_is_assigned_and_in_flight_before_it_ends(edge, digits):
    hanging = asyncio.create_task(ask(edge, "/digits/?hold"))
    await digits["stable"].entered.wait()
    evidence = await edge.evidence()
    row = evidence["counters"][0]
    assert (row["assigned"], row["inFlight"], row["lost"]) == (1, 1, 0)
    assert evidence["services"]["digits"]["inFlight"] == {"digits-r7": 1, "digits-r8": 0}
    digits["stable"].go_on.release()
    assert await hanging == 200
    evidence = await edge.settled(1)
    assert evidence["services"]["digits"]["inFlight"] == {"digits-r7": 0, "digits-r8": 0}


async def test_haproxy_lets_go_of_no_row_that_is_in_use_and_says_nothing_of_one_that_it_does_not_have(edge, digits):
    haproxy = HaproxyClient(edge.root / "s" / "master.sock")
    pid = (await haproxy.processes())[0].pid
    hanging = asyncio.create_task(ask(edge, "/digits/?events=1"))
    await digits["stable"].entered.wait()
    (row,) = {*await haproxy.table(pid)} - {ALL_REQUESTS}
    with pytest.raises(HaproxyRefused, match="in use"):
        await haproxy.forget_rows(pid, [f"{row}-never", row])
    assert (await haproxy.table(pid))[row].assigned == 1
    digits["stable"].go_on.release()
    assert await hanging == 200
    await edge.settled(1)
    for _ in range(2):
        await haproxy.forget_rows(pid, [row])
        assert {*await haproxy.table(pid)} == {ALL_REQUESTS}


async def test_an_unknown_port_is_no_replica(edge, serve):
    serve.targets = {"digits-r7": [f"127.0.0.1:{free_port()}"]}
    await edge.apply(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10_000]])]))

    async def down() -> bool:
        return (await edge.evidence())["services"]["digits"]["arms"]["stable"]["servers"]["down"] == 1

    await edge.comes_true(down, "the replica down")
    assert await ask(edge, "/digits/") == 503


OF_SERVES_PROXY = {
    "plain=404": (503, "edge5xx"),
    "plain=500": (503, "edge5xx"),
    "plain=503": (503, "edge5xx"),
    "plain=408": (504, "timeout"),
    "status=404": (404, "client4xx"),
    "status=500": (500, "server5xx"),
    "plain=200": (200, "ok"),
}


async def test_what_serves_own_proxy_says_of_itself_is_the_edges_to_say(edge, serve, replicas):
    await replicas("digits-r7", port=int(serve.fallback.rpartition(":")[2]))
    serve.targets, serve.fallback_for = {"digits-r7": []}, {"digits-r7"}
    await edge.apply(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10_000]])]))
    asked = 0

    async def there() -> bool:
        nonlocal asked
        asked += 1
        return (await edge.get("/digits/")).status == 200

    await edge.comes_true(there, "an answer through Serve's own proxy")
    for number, (query, (status, end)) in enumerate(OF_SERVES_PROXY.items(), start=asked):
        before = edge.ends(await edge.settled(number))
        response = await edge.get(f"/digits/?{query}")
        own = status in {503, 504}
        assert response.status == status, query
        assert (response.content_type == "application/problem+json") == own, query
        assert response.headers.get("retry-after") == ("1" if status == 503 else None), query
        assert response.headers["x-sundog-arm"] == "stable"
        assert edge.ends(await edge.settled(number + 1)) - before == {end: 1}, query
