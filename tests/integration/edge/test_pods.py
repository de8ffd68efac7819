"""What a pod needs of its two processes: to be sent requests only when it can answer them, and to leave without losing one."""

import asyncio
import contextlib
import sys
import time

import aiohttp
import pytest

from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

COMMAND = (sys.executable, "-c", "from sundog_edge.cli import main; main()")


async def restart_agent(edge, *options):
    await edge.kill_agent()
    edge.agent_options = options
    await edge.start_agent()


async def readiness(edge):
    return await edge.status("/livez"), await edge.status("/healthz"), await edge.status("/readyz")


async def test_an_edge_is_ready_once_it_knows_a_healthy_replica_of_what_has_traffic(edge, serve, replicas):
    await restart_agent(edge, "--settle-seconds", "60")
    arms = [edge.arm("stable", "digits-r7", [[0, 10000]]), edge.arm("canary", "digits-r8", [], revision=8)]
    await edge.apply(edge.service("digits", arms))
    assert await readiness(edge) == (200, 200, 503)
    replica = await replicas("digits-r7")
    serve.targets["digits-r7"] = [replica.address]
    await edge.up("digits", stable=1)

    async def ready() -> bool:
        return await readiness(edge) == (200, 200, 200)

    await edge.comes_true(ready, "ready")
    # A replica that is lost later is no reason to leave the service: the other edges see no more of it.
    await replica.stop()
    await edge.up("digits", stable=0)
    assert await readiness(edge) == (200, 200, 200)


async def test_an_edge_that_finds_no_replica_does_not_look_for_ever(edge):
    await restart_agent(edge, "--settle-seconds", "0.3")
    await edge.apply(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10000]])]))

    async def ready() -> bool:
        return await edge.status("/readyz") == 200

    await edge.comes_true(ready, "ready")


async def test_a_leaving_edge_finishes_its_requests_and_applies_and_reports_until_the_end(edge, digits):
    await restart_agent(edge, "--linger-seconds", "5")
    await edge.up("digits", stable=1)
    slow = asyncio.create_task(edge.get("/digits/?hold"))
    await asyncio.wait_for(digits["stable"].entered.wait(), PATIENCE_S)
    drain = await asyncio.create_subprocess_exec(
        *COMMAND, "drain", "--pid", str(edge.haproxy.pid), "--delay-seconds=0.1"
    )
    edge.agent.terminate()

    async def refuses() -> bool:
        try:
            async with aiohttp.ClientSession() as anew, anew.get(edge.url + "/digits/") as response:
                return response.status == 0
        except aiohttp.ClientConnectorError:
            return True

    await edge.comes_true(refuses, "no new connection")
    # What still runs here counts, and so does what this edge is told meanwhile: an arm must not shrink under it.
    await edge.apply(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10000]])], epoch=5))
    seen = await edge.evidence()
    assert seen["services"]["digits"]["epoch"] == 5
    assert seen["services"]["digits"]["inFlight"]["digits-r7"] == 1
    digits["stable"].go_on.release()
    assert (await slow).status == 200
    assert await asyncio.wait_for(edge.haproxy.wait(), PATIENCE_S) == 0
    assert await asyncio.wait_for(drain.wait(), PATIENCE_S) == 0
    last = await edge.evidence()
    assert edge.ends(last)["ok"] == sum(row["assigned"] for row in last["counters"])
    assert await asyncio.wait_for(edge.agent.wait(), PATIENCE_S) == 0


async def test_a_leaving_edge_answers_on_a_connection_that_is_older_than_a_reload(edge, digits):
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.http_port)

    async def ask() -> bytes:
        writer.write(b"GET /digits/ HTTP/1.1\r\nhost: x\r\n\r\n")
        return await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE_S)

    assert b" 200 " in await ask()
    slow = asyncio.create_task(edge.get("/digits/?hold"))
    await asyncio.wait_for(digits["stable"].entered.wait(), PATIENCE_S)
    # Another header in the document needs a reload.
    arms = [edge.arm("stable", "digits-r7", [[0, 10000]])]
    await edge.apply(edge.service("digits", arms, unit={"kind": "header", "name": "x-account"}))
    drain = await asyncio.create_subprocess_exec(*COMMAND, "drain", "--pid", str(edge.haproxy.pid), "--delay-seconds=0")
    await edge.comes_true(edge.refuses_connections, "no new connection")
    assert b" 200 " in await ask()
    writer.close()
    digits["stable"].go_on.release()
    assert (await slow).status == 200
    assert await asyncio.wait_for(drain.wait(), PATIENCE_S) == 0


async def test_a_drain_waits_before_it_closes_the_door(edge, digits):
    began = time.monotonic()
    drain = await asyncio.create_subprocess_exec(*COMMAND, "drain", "--pid", str(edge.haproxy.pid), "--delay-seconds=2")
    with contextlib.suppress(aiohttp.ClientError):
        while True:
            async with aiohttp.ClientSession() as anew, anew.get(edge.url + "/digits/") as response:
                assert response.status == 200
    assert time.monotonic() - began >= 2
    assert await asyncio.wait_for(edge.haproxy.wait(), PATIENCE_S) == 0
    assert await asyncio.wait_for(drain.wait(), PATIENCE_S) == 0
