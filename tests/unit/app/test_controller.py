"""The running control loop: watches enqueue keys, workers reconcile them, and an error of one key affects no other."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from background import in_background
from doubles.cluster import NAME, NAMESPACE, Cluster
from sundog_operator.api.installation import Installation
from sundog_operator.app import controller
from sundog_operator.app.controller import Controller
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.queue.keys import Key, KeyKind, edge_key, keys_for
from sundog_operator.errors import Conflict, DependencyError, Invalid

MODEL = Key("modeldeployment", NAMESPACE, NAME)
OTHER = Key("modeldeployment", NAMESPACE, "words")


async def spin(cluster: Cluster, until: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(2000):
        if await until():
            return
        await asyncio.sleep(0)
        cluster.clock.advance(0.1)
        await cluster._controllers()
    raise AssertionError(await cluster.status())


async def test_an_applied_deployment_is_served_without_anybody_calling_reconcile() -> None:
    cluster = Cluster()
    async with in_background(Controller(cluster.world).run()):
        await cluster.apply()
        await spin(cluster, lambda: cluster.serves(1))


async def test_a_broken_watch_starts_anew() -> None:
    cluster = Cluster()
    async with in_background(Controller(cluster.world).run()):
        await asyncio.sleep(0)
        cluster.kube.drop_watches()
        await cluster.apply()
        await spin(cluster, lambda: cluster.serves(1))


@pytest.mark.parametrize("kind", ["raycluster", "edge", "experiment"])
async def test_a_namespace_that_is_too_large_is_reported_by_its_model_deployments_alone(
    kind: KeyKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, passes = Cluster(), []

    async def reconcile(_: Dependencies, key: Key) -> float | None:
        passes.append(key.kind)
        return None

    monkeypatch.setattr(controller, "RECONCILERS", {kind: reconcile, "modeldeployment": reconcile})
    operator = Controller(replace(cluster.world, find_excess=lambda namespace: f"namespace {namespace}: too much"))
    for key in (Key(kind, NAMESPACE, NAME), MODEL):
        operator.queue.add(key)
        await operator.step(await operator.queue.take())
    assert passes == ["modeldeployment"]


@pytest.mark.parametrize(
    ("error", "again_s", "level"),
    [
        (Conflict("moved on"), 0.2, logging.DEBUG),
        (DependencyError("silent"), 0.2, logging.WARNING),
        (Invalid("ConfigMap vision/sundog-edge", ["data: Too long"]), 0.2, logging.WARNING),
        (KeyError("bug"), 0.2, logging.ERROR),
    ],
)
async def test_an_error_of_one_key_only_delays_that_key(
    error: Exception, again_s: float, level: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster()
    operator = Controller(cluster.world)
    operator.queue._jitter = lambda: 0.0
    passes = []

    async def reconcile(_: Dependencies, key: Key) -> float | None:
        passes.append(key)
        if key == MODEL:
            raise error
        return None

    monkeypatch.setattr(controller, "RECONCILERS", {"modeldeployment": reconcile})
    caplog.set_level(logging.DEBUG, logger="sundog.operator")
    operator.queue.add(MODEL)
    operator.queue.add(OTHER)
    for _ in range(2):
        await operator.step(await operator.queue.take())
    assert passes == [MODEL, OTHER]
    assert [record.levelno for record in caplog.records] == [level]
    assert operator.queue._due == {MODEL: cluster.clock.monotonic() + again_s}


async def work_for_a_while(operator: Controller) -> None:
    """Let the workers take all keys that they may take at once."""
    async with in_background(operator.work()):
        for _ in range(100):
            await asyncio.sleep(0)


async def test_a_namespace_whose_passes_hang_leaves_a_worker_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    operator, passes = Controller(Cluster().world), list[Key]()

    async def reconcile(_: Dependencies, key: Key) -> float | None:
        passes.append(key)
        await (asyncio.Event().wait() if key.namespace == NAMESPACE else asyncio.sleep(0))
        return None

    monkeypatch.setattr(controller, "RECONCILERS", {"modeldeployment": reconcile})
    for number in range(20):
        operator.queue.add(Key("modeldeployment", NAMESPACE, f"digits-{number}"))
    others = [Key("modeldeployment", "audio", f"words-{number}") for number in range(3)]
    for key in others:
        operator.queue.add(key)
    await work_for_a_while(operator)
    assert [key for key in passes if key.namespace != NAMESPACE] == others


@pytest.mark.parametrize(("watched", "at_once"), [((), 3), ((NAMESPACE,), 4), ((NAMESPACE, "audio"), 3)])
async def test_the_only_watched_namespace_has_every_worker(
    watched: tuple[str, ...], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, passes = Controller(Cluster(installation=Installation(watch_namespaces=watched)).world), list[Key]()

    async def reconcile(_: Dependencies, key: Key) -> float | None:
        passes.append(key)
        await asyncio.Event().wait()
        return None

    monkeypatch.setattr(controller, "RECONCILERS", {"modeldeployment": reconcile})
    for number in range(20):
        operator.queue.add(Key("modeldeployment", NAMESPACE, f"digits-{number}"))
    await work_for_a_while(operator)
    assert len(passes) == at_once


async def test_what_the_api_server_finds_wrong_is_reported_in_its_words_and_is_no_panic(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    operator = Controller(Cluster().world)

    async def reconcile(_: Dependencies, __: Key) -> float | None:
        raise Invalid("ConfigMap vision/sundog-edge", ["data: Too long"])

    monkeypatch.setattr(controller, "RECONCILERS", {"edge": reconcile})
    assert await operator._reconcile(edge_key(NAMESPACE)) == "error"
    (message,) = caplog.messages
    assert "ConfigMap vision/sundog-edge is invalid: data: Too long" in message


@pytest.mark.parametrize("again_s", [5.0, 15.0, 30.0])
def test_those_of_a_namespace_look_again_together(again_s: float) -> None:
    # Half a millisecond inside of a period, so that rounding does not decide.
    first = 1000.0 + controller.aligned_delay_s(MODEL, again_s, 1000.0) + 0.0005
    for now in (first, first + 0.3 * again_s, first + 0.99 * again_s):
        for key in (MODEL, OTHER):
            waits = controller.aligned_delay_s(key, again_s, now)
            assert 0 < waits <= again_s
            assert now + waits == pytest.approx(first + again_s - 0.0005)
    elsewhere = controller.aligned_delay_s(Key("modeldeployment", "audio", NAME), again_s, first)
    assert elsewhere != controller.aligned_delay_s(MODEL, again_s, first)


@pytest.mark.parametrize("again_s", [0.2, 1.0])
def test_what_has_something_to_do_does_not_wait_for_others(again_s: float) -> None:
    assert controller.aligned_delay_s(MODEL, again_s, 1234.5) == again_s


async def test_a_deployment_wakes_itself_its_cluster_and_its_edge() -> None:
    cluster = Cluster()
    await cluster.apply()
    assert keys_for(await cluster.get()) == [MODEL, edge_key(NAMESPACE)]
    await cluster.round()
    assert keys_for(await cluster.get()) == [MODEL, Key("raycluster", NAMESPACE, "sundog-0"), edge_key(NAMESPACE)]
