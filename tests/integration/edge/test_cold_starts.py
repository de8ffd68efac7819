"""Requests to an application at zero replicas: held by HAProxy, bounded in number and time, and answered by the first replica."""

import asyncio
from collections import Counter

import aiohttp
import pytest

from waiting import PATIENCE_S, patience

pytestmark = pytest.mark.haproxy

LONG_S = 3 * PATIENCE_S
SHORT_S = 0.5


class AtZero:
    """A service at zero. Serve's own proxy holds what it gets until a replica starts, and answers it then."""

    def __init__(self, edge, serve, replicas, proxy) -> None:
        self.edge, self.serve, self.proxy, self._replicas = edge, serve, proxy, replicas

    async def apply(self, cold_s: float = LONG_S, **changes) -> None:
        arms = [self.edge.arm("stable", "digits-r7", [[0, 10_000]])]
        await self.edge.apply(self.edge.service("digits", arms, coldStartSeconds=cold_s, **changes))

    async def sleep(self) -> None:
        """Scale the application to zero, and wait until the edge knows."""
        self.proxy.always = {"hold": ""}
        # A wake that finds nothing held would let the next request pass.
        self.proxy.go_on = asyncio.Semaphore(0)
        self.serve.targets, self.serve.fallback_for, self.serve.at_zero = (
            {"digits-r7": []},
            {"digits-r7"},
            {"digits-r7"},
        )
        await self.edge.comes_true(self.knows, "the slot in the map of cold slots")
        # The last replica drains right after that.
        await self.edge.up("digits", stable=0)

    async def knows(self) -> bool:
        return (self.edge.root / "s" / "maps" / "cold.map").read_text() != "" and self.proxy.checked > 0

    async def wake(self):
        """Start a replica, as Serve does for the request that its proxy holds."""
        replica = await self._replicas("digits-r7")
        self.serve.at_zero = set()
        self.serve.targets, self.serve.fallback_for = {"digits-r7": [replica.address]}, set()
        # The proxy has the replica too.
        self.proxy.always = {"echo": ""}
        self.proxy.go_on.release()
        return replica

    async def post(self, session: aiohttp.ClientSession, body: bytes = b"{}") -> int:
        async with session.post(f"{self.edge.url}/digits/", data=body) as response:
            await response.read()
            return response.status

    async def held(self) -> int:
        """Requests that are held now."""
        return sum(row["inFlight"] for row in await self.rows() if row["origin"] == "held")

    async def rows(self):
        return (await self.edge.evidence())["counters"]

    async def hold(self, requests: int, session: aiohttp.ClientSession, body: bytes = b"{}") -> list[asyncio.Task[int]]:
        """Send requests, and return once all of them are held."""
        before = await self.held()
        tasks = [asyncio.create_task(self.post(session, body)) for _ in range(requests)]

        async def all_held() -> bool:
            assert not [task for task in tasks if task.done()], Counter(task.result() for task in tasks if task.done())
            return await self.held() == before + requests

        await self.edge.comes_true(all_held, f"{requests} requests held")
        return tasks


@pytest.fixture
async def zero(edge, serve, replicas):
    """A service that may scale to zero, and is there."""
    proxy = await replicas("digits-r7", int(serve.fallback.rpartition(":")[2]))
    found = AtZero(edge, serve, replicas, proxy)
    await found.apply()
    await found.sleep()
    return found


async def test_a_hundred_requests_at_zero_get_a_hundred_answers(edge, zero):
    connector = aiohttp.TCPConnector(limit=0)
    large = b"x" * 90_000
    async with aiohttp.ClientSession(connector=connector) as session:
        tasks = [*await zero.hold(50, session), *await zero.hold(50, session, large)]
        # One request is enough to make Serve start a replica, and its proxy has no more.
        assert len(zero.proxy.seen) == 1
        replica = await zero.wake()
        assert Counter(await asyncio.gather(*tasks)) == {200: 100}
        assert len(replica.seen) + len(zero.proxy.seen) == 100
        await edge.up("digits", stable=1)
        before = len(replica.seen)
        assert await zero.post(session) == 200
    assert len(replica.seen) == before + 1, "the replica answers alone from now on"


async def test_held_requests_are_no_evidence(edge, zero):
    async with aiohttp.ClientSession() as session:
        tasks = await zero.hold(5, session)
        await zero.wake()
        await asyncio.gather(*tasks)

        async def warm() -> bool:
            return await zero.post(session) == 200 and any(row["origin"] == "assigned" for row in await zero.rows())

        await edge.comes_true(warm, "a request that was not held")
    rows = await zero.rows()
    held = [row for row in rows if row["origin"] == "held"]
    assert sum(row["ends"]["ok"] for row in held) >= 5
    assert {row["unit"] for row in held} == {"anonymous"}
    async with edge.session.get(f"http://127.0.0.1:{edge.agent_port}/metrics") as response:
        page = await response.text()
    labels = '{arm="stable",revision="7",service="digits"}'
    assert f"sundog_edge_held_in_flight{labels} 0.0" in page
    assert f"sundog_edge_held_duration_seconds_count{labels}" in page


async def test_more_requests_than_may_wait_get_503_with_retry_after(edge, zero):
    await zero.apply(queue={"maxRequests": 3, "timeoutSeconds": 1})
    async with aiohttp.ClientSession() as session:
        tasks = await zero.hold(4, session)
        async with session.post(f"{edge.url}/digits/", data=b"{}") as refused:
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert (await refused.json())["code"] == "Overloaded"
        await zero.wake()
        assert Counter(await asyncio.gather(*tasks)) == {200: 4}


async def test_a_client_that_goes_away_frees_its_place(edge, zero):
    await zero.apply(queue={"maxRequests": 1, "timeoutSeconds": 1})
    async with aiohttp.ClientSession() as session:
        first, second = await zero.hold(2, session)
        first.cancel()

        async def one() -> bool:
            # The second request is at Serve's proxy now, in place of the first.
            return await zero.held() == 1 and len(zero.proxy.seen) == 2

        await edge.comes_true(one, "the first request gone")
        (third,) = await zero.hold(1, session)
        await zero.wake()
        assert await asyncio.gather(second, third) == [200, 200]


async def test_no_replica_in_time_is_503_with_retry_after_for_every_request(edge, zero):
    await zero.apply(SHORT_S, requestTimeoutSeconds=SHORT_S)
    async with aiohttp.ClientSession() as session:

        async def refused() -> tuple[int, str, str]:
            async with session.post(f"{edge.url}/digits/", data=b"{}") as response:
                problem = await response.json()
                assert problem["status"] == response.status
                return response.status, response.headers["retry-after"], problem["code"]

        assert {*await asyncio.gather(*(refused() for _ in range(5)))} == {(503, "1", "NoReplica")}


async def test_the_last_replica_drains_when_serve_scales_to_zero_and_the_next_request_is_held(edge, zero):
    async with aiohttp.ClientSession() as session:
        (first,) = await zero.hold(1, session)
        replica = await zero.wake()
        assert await first == 200
        await edge.up("digits", stable=1)
        await zero.sleep()
        # Although the replica still answers: it is about to end.
        (second,) = await zero.hold(1, session)
        assert not second.done()
        await replica.stop()
        await zero.wake()
        assert await second == 200


async def test_requests_that_were_held_at_a_reload_do_not_wait_for_each_other(edge, zero):
    arms = [edge.arm("stable", "digits-r7", [[0, 10_000]])]
    async with aiohttp.ClientSession() as session:
        tasks = await zero.hold(5, session)
        # Another header in the document needs a reload. The replaced worker has the requests, and gets no replica.
        unit = {"kind": "header", "name": "x-account"}
        await edge.apply(edge.service("digits", arms, coldStartSeconds=LONG_S, unit=unit))

        async def all_there() -> bool:
            return len(zero.proxy.seen) == 5

        # The proxy still holds the first one.
        await edge.comes_true(all_there, "all five requests at Serve's proxy")
        for _ in tasks:
            zero.proxy.go_on.release()
        assert Counter(await asyncio.gather(*tasks)) == {200: 5}


async def test_a_reload_and_a_restarted_agent_know_that_requests_are_held(edge, zero):
    await edge.kill_agent()
    await edge.start_agent()
    arms = [edge.arm("stable", "digits-r7", [[0, 10_000]])]
    # Another header in the document needs a reload.
    unit = {"kind": "header", "name": "x-account"}
    await edge.apply(edge.service("digits", arms, coldStartSeconds=LONG_S, unit=unit))
    async with aiohttp.ClientSession() as session:
        tasks = await zero.hold(3, session)
        await zero.wake()
        assert Counter(await asyncio.gather(*tasks)) == {200: 3}


@pytest.mark.timeout(patience(3600))
async def test_a_thousand_wakes_lose_nothing(edge, zero):
    async with aiohttp.ClientSession() as session:
        for _ in range(1000):
            tasks = await zero.hold(5, session)
            replica = await zero.wake()
            assert Counter(await asyncio.gather(*tasks)) == {200: 5}
            await edge.up("digits", stable=1)
            await zero.sleep()
            await replica.stop()


CHECKS = {
    "/v2/health/live": {"live": True},
    "/v2/health/ready": {"ready": True},
    "/v2/models/digits/ready": {"name": "digits", "ready": True},
    "/v2/models/digits/versions/1/ready/": {"name": "digits", "ready": True},
    "/v1/models/digits": {"name": "digits", "ready": True},
    "/v1/models": {"models": ["digits"]},
}


async def test_health_checks_at_zero_are_answered_and_start_no_replica(edge, zero):
    await zero.apply(hosts=["digits.example.com"])
    async with aiohttp.ClientSession() as session:
        for path, answer in CHECKS.items():
            async with session.get(f"{edge.url}/digits{path}") as response:
                assert (response.status, await response.json()) == (200, answer), path
            async with session.get(f"{edge.url}{path}", headers={"host": "digits.example.com"}) as response:
                assert (response.status, await response.json()) == (200, answer), path
            async with session.head(f"{edge.url}/digits{path}") as response:
                assert response.status == 200
        async with session.get(f"{edge.url}/digits/v2/models/letters/ready") as response:
            assert (response.status, (await response.json())["code"]) == (404, "NotFound")
        assert zero.proxy.seen == []

        async def counted() -> bool:
            rows = [row for row in await zero.rows() if row["assigned"]]
            return [(row["origin"], row["ends"]["ok"], row["ends"]["client4xx"]) for row in rows] == [("probe", 18, 1)]

        await edge.comes_true(counted, "19 probes, and nothing else")
        # Others need the replica: metadata tells of the model's inputs.
        tasks = await zero.hold(1, session)
        await zero.wake()
        assert await asyncio.gather(*tasks) == [200]
        await edge.up("digits", stable=1)
        seen = len(zero.proxy.seen)
        async with session.get(f"{edge.url}/digits/v2/health/ready") as response:
            assert response.status == 200
        assert len(zero.proxy.seen) == seen
