"""One task per object: woken by changes, kept alive through errors, ended with the object."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from background import in_background
from doubles.hooked_kubernetes import HookedKubernetes
from sundog_operator.adapters.local.object_reconciler import ObjectReconciler
from sundog_operator.errors import DependencyError
from sundog_operator.ports import CONFIG_MAP, RAY_CLUSTER, Object, Ref
from waiting import PATIENCE_S

A, B = Ref(RAY_CLUSTER, "n", "a"), Ref(RAY_CLUSTER, "n", "b")


def cluster(ref: Ref, **spec: Any) -> Object:
    meta = {"name": ref.name, "namespace": ref.namespace}
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": meta, "spec": spec}


class Steps:
    """A step that records its arguments. It returns an hour, or 0 without an object."""

    def __init__(self) -> None:
        self.seen: list[tuple[Ref, Any]] = []
        self.failures = 0
        self.called = asyncio.Condition()

    async def __call__(self, ref: Ref, obj: Object | None) -> float:
        async with self.called:
            self.seen.append((ref, None if obj is None else obj["spec"].get("x")))
            self.called.notify_all()
        if self.failures:
            self.failures -= 1
            raise DependencyError("not now")
        return 0.0 if obj is None else 3600.0

    async def wait(self, *expected: tuple[Ref, Any]) -> None:
        async with asyncio.timeout(PATIENCE_S), self.called:
            await self.called.wait_for(lambda: self.seen[-len(expected) :] == list(expected))


class Hour:
    """A clock whose pauses only end when they are interrupted, except the pause after an error."""

    def __init__(self, inner: Any) -> None:
        self.now = inner.now

    async def sleep(self, seconds: float) -> None:
        await (asyncio.sleep(0) if seconds <= 1 else asyncio.Event().wait())


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def kube(clock: Any) -> HookedKubernetes:
    return HookedKubernetes(clock)


def running(objects: ObjectReconciler, *also: Any) -> AbstractAsyncContextManager[None]:
    return in_background(objects.run(*also))


async def test_the_step_runs_at_start_changes_and_deletion(kube: HookedKubernetes, steps: Steps, clock: Any) -> None:
    await kube.create(cluster(A, x=1))
    async with running(ObjectReconciler(kube, RAY_CLUSTER, steps, Hour(clock))):
        await steps.wait((A, 1))
        await kube.apply(cluster(A, x=2))
        await steps.wait((A, 2))
        await kube.delete(A)
        await steps.wait((A, None))
        await kube.create(cluster(A, x=3))
        await steps.wait((A, 3))
    assert steps.seen == [(A, 1), (A, 2), (A, None), (A, 3)]


async def test_an_object_deleted_between_runs_is_removed(kube: HookedKubernetes, steps: Steps, clock: Any) -> None:
    await kube.create(cluster(A, x=1))
    async with running(ObjectReconciler(kube, RAY_CLUSTER, steps, Hour(clock), remembered=lambda: [A, B])):
        await steps.wait((A, 1), (B, None))
    assert steps.seen == [(A, 1), (B, None)]


async def test_an_error_is_retried_and_stops_no_other_object(
    kube: HookedKubernetes, steps: Steps, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    steps.failures = 2
    await kube.create(cluster(A, x=1))
    async with running(ObjectReconciler(kube, RAY_CLUSTER, steps, Hour(clock))):
        await steps.wait((A, 1), (A, 1), (A, 1))
        await kube.create(cluster(B, x=5))
        await steps.wait((B, 5))
    assert "RayCluster n/a: not now; retry in 1.0 s" in caplog.text


async def test_a_take_down_that_fails_is_tried_again(kube: HookedKubernetes, steps: Steps, clock: Any) -> None:
    steps.failures = 1
    async with running(ObjectReconciler(kube, RAY_CLUSTER, steps, Hour(clock), remembered=lambda: [A])):
        await steps.wait((A, None), (A, None))


async def test_a_broken_watch_is_opened_again(kube: HookedKubernetes, steps: Steps, clock: Any) -> None:
    broken = [DependencyError("connection refused")]
    kube.faults = lambda verb, ref: broken.pop() if verb == "watch" and broken else None
    async with running(ObjectReconciler(kube, RAY_CLUSTER, steps, Hour(clock))):
        await kube.create(cluster(A, x=1))
        await steps.wait((A, 1))
    assert not broken


async def test_objects_that_are_not_wanted_are_left_alone(kube: HookedKubernetes, steps: Steps, clock: Any) -> None:
    await kube.create(cluster(A, x=1))
    await kube.create(cluster(B, x=2))
    objects = ObjectReconciler(
        kube, RAY_CLUSTER, steps, Hour(clock), should_reconcile=lambda obj: obj["spec"]["x"] == 2
    )
    async with running(objects):
        await steps.wait((B, 2))
    assert steps.seen == [(B, 2)]


async def test_another_kind_wakes_the_object_it_belongs_to(kube: HookedKubernetes, steps: Steps, clock: Any) -> None:
    await kube.create(cluster(A, x=1))
    meta = {"name": "c", "namespace": "n"}
    async with running(ObjectReconciler(kube, RAY_CLUSTER, steps, Hour(clock)), (CONFIG_MAP, lambda _: A)):
        await steps.wait((A, 1))
        await kube.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {}})
        await steps.wait((A, 1), (A, 1))
