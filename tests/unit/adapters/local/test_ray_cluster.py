"""LocalRay with heads that end, do not answer, or lose their ports. The processes are fakes."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import aiohttp.web
import pytest

from background import in_background
from doubles.hooked_kubernetes import HookedKubernetes
from fake_ray_head import end
from sundog_operator.adapters.local.ports_allocation import allocate_block, is_port_free
from sundog_operator.adapters.local.ray_cluster import START_TIMEOUT_S, LocalRay
from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.ports import RAY_CLUSTER, Object, Ref
from waiting import PATIENCE_S

REF = Ref(RAY_CLUSTER, "vision", "sundog-0")
CLUSTER: Object = {
    "apiVersion": "ray.io/v1",
    "kind": "RayCluster",
    "metadata": {"name": REF.name, "namespace": REF.namespace},
    "spec": {},
}


@pytest.fixture
def kube(clock: Any) -> HookedKubernetes:
    return HookedKubernetes(clock)


@pytest.fixture
def ray(kube: HookedKubernetes, state: StateDirectory, clock: Any, table: Any) -> LocalRay:
    return LocalRay(kube, state.path, clock, table=table)


def running(ray: LocalRay) -> AbstractAsyncContextManager[None]:
    return in_background(ray.run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 the fake cluster has no events
            await asyncio.sleep(0)


async def condition(kube: HookedKubernetes) -> tuple[str, str, str]:
    obj = await kube.get(REF)
    for found in (obj or {}).get("status", {}).get("conditions", ()):
        if found["type"] == "HeadPodReady":
            return found["status"], found["reason"], found["message"]
    return "", "", ""


async def until_condition(kube: HookedKubernetes, status: str, reason: str) -> str:
    async with asyncio.timeout(PATIENCE_S):
        while (found := await condition(kube))[:2] != (status, reason):  # noqa: ASYNC110
            await asyncio.sleep(0)
    return found[2]


def port(command: Any, option: str = "dashboard-port") -> int:
    return int(next(arg for arg in command.argv if arg.startswith(f"--{option}=")).partition("=")[2])


@contextlib.asynccontextmanager
async def dashboard(at: int, answers: list[int]) -> AsyncIterator[list[str]]:
    """A server that answers with the current first item of `answers`."""
    authorizations: list[str] = []

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        authorizations.append(request.headers.get("Authorization", ""))
        return aiohttp.web.Response(status=answers[0])

    app = aiohttp.web.Application()
    app.router.add_get("/api/serve/applications/", answer)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", at).start()
    try:
        yield authorizations
    finally:
        await end(runner)


@contextlib.asynccontextmanager
async def started(ray: LocalRay, kube: HookedKubernetes, table: Any) -> AsyncIterator[None]:
    """A controller that has started the head of the only RayCluster."""
    await kube.create(CLUSTER)
    async with running(ray):
        await until(lambda: len(table.commands) == 1)
        yield


async def run_once(ray: LocalRay, kube: HookedKubernetes, table: Any) -> None:
    """Start the head, and end the controller."""
    async with started(ray, kube, table):
        pass


async def test_a_head_is_ready_when_serve_answers_and_not_before(
    ray: LocalRay, kube: HookedKubernetes, state: StateDirectory, table: Any
) -> None:
    await kube.create(CLUSTER)
    async with running(ray):
        assert await until_condition(kube, "False", "Starting") == "Ray is starting"
        (command,) = table.commands
        answers = [503]
        async with dashboard(port(command), answers) as authorizations:
            await until(lambda: len(authorizations) >= 3)
            assert (await condition(kube))[0] == "False"
            answers[0] = 200
            await until_condition(kube, "True", "HeadPodRunningAndReady")
            assert {*authorizations} == {f"Bearer {state.ray_token.read_text()}"}
            endpoints = (await kube.get(REF) or {})["status"]["endpoints"]
            first = port(command)
            assert endpoints == {"dashboard": f"{first}", "serve": f"{first + 1}", "serve-grpc": f"{first + 10}"}
        message = await until_condition(kube, "False", "Unreachable")
    assert message.endswith("/api/serve/applications/: ClientConnectorError, expected 200")
    assert len(table.commands) == 1, "a head that does not answer still serves: it is not restarted"


async def test_without_a_change_nothing_is_written(
    ray: LocalRay, kube: HookedKubernetes, table: Any, clock: Any
) -> None:
    async with started(ray, kube, table), dashboard(port(table.commands[0]), [200]) as probes:
        await until_condition(kube, "True", "HeadPodRunningAndReady")
        writes, asked = len(kube.writes), len(probes)
        await until(lambda: len(probes) >= asked + 5)
        assert len(kube.writes) == writes


async def test_a_head_that_ends_repeatedly_restarts_later(
    ray: LocalRay, kube: HookedKubernetes, table: Any, clock: Any
) -> None:
    await kube.create(CLUSTER)
    ends, starts = [], []
    async with running(ray):
        for number in range(5):
            await until(lambda number=number: len(table.commands) == number + 1)  # type: ignore[misc]
            (head,) = table.processes.values()
            starts.append(head.created)
            table.end(head.pid, 1)
            ends.append(clock.now().timestamp())
        message = await until_condition(kube, "False", "HeadExited")
    pauses = [start - end for start, end in zip(starts[1:], ends, strict=False)]
    for pause, wanted in zip(pauses, [0, 1, 2, 4], strict=True):
        assert wanted - 0.5 <= pause <= wanted + 1.5
    assert message == "Ray ended with status 1"
    assert len({command.argv for command in table.commands}) == 1


async def test_a_head_keeps_its_ports_although_others_became_free(
    ray: LocalRay, kube: HookedKubernetes, state: StateDirectory, table: Any
) -> None:
    preferred, claim = allocate_block(str(state.path / "ray-0"))
    await kube.create(CLUSTER)
    async with running(ray):
        with claim:
            await until(lambda: len(table.commands) == 1)
        assert port(table.commands[0]) != preferred.dashboard
        table.end(*table.processes, -9)
        await until(lambda: len(table.commands) == 2)
    assert port(table.commands[1]) == port(table.commands[0])


async def test_a_head_that_lost_a_port_gets_others_with_a_warning(
    ray: LocalRay, kube: HookedKubernetes, table: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(ray, kube, table):
        before = port(table.commands[0])
        with socket.create_server(("127.0.0.1", before)):
            table.end(*table.processes, -9)
            await until(lambda: len(table.commands) == 2)
            await until_condition(kube, "False", "Starting")

            async def endpoint() -> str:
                return str((await kube.get(REF) or {})["status"]["endpoints"]["dashboard"])

            after = port(table.commands[1])
            assert after != before
            async with asyncio.timeout(PATIENCE_S):
                while await endpoint() != str(after):  # noqa: ASYNC110
                    await asyncio.sleep(0)
    assert re.search(rf"port {before} is held by .+ \(pid \d+\); Ray gets other ports", caplog.text)


async def test_a_head_without_answers_restarts(ray: LocalRay, kube: HookedKubernetes, table: Any, clock: Any) -> None:
    async with started(ray, kube, table):
        (head,) = table.processes.values()
        await until(lambda: len(table.commands) == 2)
        assert clock.now().timestamp() - head.created > START_TIMEOUT_S


async def test_the_next_controller_adopts_the_head(
    ray: LocalRay, kube: HookedKubernetes, state: StateDirectory, table: Any, clock: Any
) -> None:
    await run_once(ray, kube, table)
    at = port(table.commands[0])
    async with running(LocalRay(kube, state.path, clock, table=table)), dashboard(at, [200]):
        await until_condition(kube, "True", "HeadPodRunningAndReady")
    assert len(table.commands) == 1


async def test_an_adopted_head_that_misses_the_first_question_goes_on(
    ray: LocalRay, kube: HookedKubernetes, state: StateDirectory, table: Any, clock: Any
) -> None:
    """An old head must survive a busy machine after the last controller died, because its replicas would end with it."""
    await run_once(ray, kube, table)
    clock.time += timedelta(seconds=5 * START_TIMEOUT_S)
    adopted = clock.now()
    async with running(LocalRay(kube, state.path, clock, table=table)):
        await until(lambda: (clock.now() - adopted).total_seconds() > START_TIMEOUT_S / 2)
        assert len(table.commands) == 1
        await until(lambda: len(table.commands) == 2)
    assert (clock.now() - adopted).total_seconds() > START_TIMEOUT_S


async def test_a_cluster_that_was_deleted_between_runs_is_removed(
    ray: LocalRay, kube: HookedKubernetes, state: StateDirectory, table: Any, clock: Any
) -> None:
    await run_once(ray, kube, table)
    base = port(table.commands[0]) - 2
    assert is_port_free(base), (
        "the claim of the ports is the head's after its controller is gone, and this head is pretended"
    )
    await kube.delete(REF)
    async with running(LocalRay(kube, state.path, clock, table=table)):
        await until(lambda: not table.processes)
        await until(lambda: not any(state.ray.iterdir()))
    assert not any(state.processes.iterdir())


async def test_a_process_without_an_object_and_a_directory_is_cleared(
    ray: LocalRay, kube: HookedKubernetes, state: StateDirectory, table: Any
) -> None:
    await run_once(ray, kube, table)
    (state.ray / "0" / "unit.json").unlink()
    await kube.delete(REF)
    async with running(ray):
        await until(lambda: not table.processes)


async def test_stop_all_is_reported(ray: LocalRay, kube: HookedKubernetes, table: Any) -> None:
    await run_once(ray, kube, table)
    await ray.stop_all()
    assert table.processes == {}
    assert await condition(kube) == ("False", "Stopped", "local mode was stopped")
