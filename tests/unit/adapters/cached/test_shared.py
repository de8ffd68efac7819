"""One request for all callers at about the same time."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from doubles.clock import FakeClock
from sundog_operator.adapters.cached.shared import FAILURE_FACTOR, MAX_AGE_S, MAX_FAILURE_S, SharedEdges, SharedServe
from sundog_operator.core.observed import EdgeReport, ServeState
from sundog_operator.errors import RayUnavailable, ServeRefused
from sundog_operator.ports import Object

HEAD = "http://sundog-0-head-svc.vision.svc:8265"


class Serve:
    def __init__(self) -> None:
        self.reads: list[str] = []
        self.refuses = False
        self.down = False
        self.slow = asyncio.Event()
        self.slow.set()

    async def read(self, dashboard: str, namespace: str) -> ServeState:
        self.reads.append(dashboard)
        await self.slow.wait()
        if self.down:
            raise RayUnavailable(dashboard)
        return ServeState(known=True)

    async def put(self, dashboard: str, namespace: str, document: Mapping[str, Any]) -> None:
        if self.refuses:
            raise ServeRefused(dashboard)


class Edges:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
        self.asked += [pod["metadata"]["name"] for pod in pods]
        return [EdgeReport(pod["metadata"]["name"], ready=True, terminating=False, evidence=None) for pod in pods]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_members_of_a_cluster_share_an_answer(clock: FakeClock) -> None:
    serve = Serve()
    shared = SharedServe(serve, clock)
    answers = await asyncio.gather(*(shared.read(HEAD, "vision") for _ in range(50)))
    assert len(serve.reads) == 1
    assert all(answer is answers[0] for answer in answers)
    await shared.read("http://another", "vision")
    assert len(serve.reads) == 2
    clock.advance(MAX_AGE_S)
    await shared.read(HEAD, "vision")
    assert len(serve.reads) == 3


@pytest.mark.parametrize("refuses", [False, True])
async def test_after_a_put_nothing_older_is_given(clock: FakeClock, refuses: bool) -> None:
    serve = Serve()
    shared = SharedServe(serve, clock)
    await shared.read(HEAD, "vision")
    serve.refuses = refuses
    if refuses:
        with pytest.raises(ServeRefused):
            await shared.put(HEAD, "vision", {})
    else:
        await shared.put(HEAD, "vision", {})
    await shared.read(HEAD, "vision")
    assert len(serve.reads) == 2


async def test_a_put_invalidates_earlier_answers(clock: FakeClock) -> None:
    serve = Serve()
    shared = SharedServe(serve, clock)
    serve.slow.clear()
    early = asyncio.ensure_future(shared.read(HEAD, "vision"))
    await asyncio.sleep(0)
    await shared.put(HEAD, "vision", {})
    late = asyncio.ensure_future(shared.read(HEAD, "vision"))
    await asyncio.sleep(0)
    serve.slow.set()
    await asyncio.gather(early, late)
    assert len(serve.reads) == 2


async def test_an_error_is_shared_and_forgotten_as_an_answer_is(clock: FakeClock) -> None:
    serve = Serve()
    shared = SharedServe(serve, clock)
    serve.down = True
    errors = await asyncio.gather(*(shared.read(HEAD, "vision") for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in errors] == [RayUnavailable] * 3
    assert len(serve.reads) == 1
    serve.down = False
    clock.advance(MAX_AGE_S)
    assert (await shared.read(HEAD, "vision")).known


async def test_a_cancelled_caller_does_not_cancel_the_others(clock: FakeClock) -> None:
    serve = Serve()
    shared = SharedServe(serve, clock)
    serve.slow.clear()
    first, second = (
        asyncio.ensure_future(shared.read(HEAD, "vision")),
        asyncio.ensure_future(shared.read(HEAD, "vision")),
    )
    await asyncio.sleep(0)
    first.cancel()
    serve.slow.set()
    assert (await second).known


@pytest.mark.parametrize("evidence", [None, {}])
async def test_a_slow_failure_is_repeated_later_than_an_answer(
    clock: FakeClock, evidence: dict[str, Any] | None
) -> None:
    """Else a pod that drops packets would take a second of every pass of its namespace."""
    asked: list[str] = []

    class SlowEdges(Edges):
        async def read(self, pods: Sequence[Object]) -> list[EdgeReport]:
            asked.append("")
            clock.advance(1.0)
            return [EdgeReport("a", ready=True, terminating=False, evidence=evidence)]

    shared = SharedEdges(SlowEdges(), clock)
    pods: list[Object] = [{"metadata": {"name": "a", "uid": "a", "resourceVersion": "1"}}]
    await shared.read(pods)
    clock.advance(MAX_AGE_S)
    await shared.read(pods)
    assert len(asked) == (1 if evidence is None else 2)
    clock.advance(FAILURE_FACTOR)
    await shared.read(pods)
    assert len(asked) == (2 if evidence is None else 3)


async def test_a_failure_that_took_very_long_hides_no_recovery(clock: FakeClock) -> None:
    asked: list[str] = []

    class Hanging(Serve):
        async def read(self, dashboard: str, namespace: str) -> ServeState:
            asked.append(dashboard)
            clock.advance(10.0)
            raise RayUnavailable(dashboard)

    shared = SharedServe(Hanging(), clock)
    for _ in range(2):
        with pytest.raises(RayUnavailable):
            await shared.read(HEAD, "vision")
        clock.advance(MAX_FAILURE_S)
    assert len(asked) == 2


async def test_services_of_a_namespace_share_the_reports_of_its_edges(clock: FakeClock) -> None:
    edges = Edges()
    shared = SharedEdges(edges, clock)
    pods: list[Object] = [{"metadata": {"name": name, "uid": name, "resourceVersion": "1"}} for name in ("a", "b")]
    reports = await asyncio.gather(*(shared.read(pods) for _ in range(50)))
    assert sorted(edges.asked) == ["a", "b"]
    assert [report.pod for report in reports[49]] == ["a", "b"]
    pods[1]["metadata"]["resourceVersion"] = "2"
    await shared.read(pods)
    assert sorted(edges.asked) == ["a", "b", "b"], "a pod that changed, such as by becoming ready, is asked again"
    assert await shared.read([]) == []


async def test_answers_for_earlier_versions_of_a_pod_are_dropped(clock: FakeClock) -> None:
    """A pod that is edited again and again must not fill the memory with its answers."""
    shared = SharedEdges(Edges(), clock)
    for version in range(3):
        await shared.read([{"metadata": {"name": "edge-0", "uid": "u", "resourceVersion": f"{version}"}}])
        clock.advance(MAX_FAILURE_S)
    assert list(shared._reports._answers) == ["u/2"]
