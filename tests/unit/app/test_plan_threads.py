"""A plan that takes too long is abandoned and reported, and holds up no other namespace."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

import pytest

from doubles.cluster import Cluster
from sundog_operator.app.observe import observe
from sundog_operator.app.plan_threads import PlanThreads, PlanTooSlow
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.reconcile_model_deployment import reconcile_model_deployment
from sundog_operator.core.planner.facts import ObservedState
from sundog_operator.core.planner.plan import ReconcilePlan, make_plan

DIGITS, OTHER, ELSEWHERE = (
    Key("modeldeployment", namespace, name)
    for namespace, name in (("vision", "digits"), ("vision", "letters"), ("audio", "digits"))
)
BUDGET_S = 0.05
LONG_S = 60.0


class Planner:
    """Plans after it was released; a ModelDeployment that is called `digits` in `vision` is slow."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.slow = True
        self.abandoned = 0
        self.threads = PlanThreads(self.make, BUDGET_S, self.count)

    def make(self, observed: ObservedState, now: datetime) -> ReconcilePlan:
        if self.slow:
            assert self.may_end.wait(LONG_S)
        return make_plan(observed, now)

    def count(self) -> None:
        self.abandoned += 1


@pytest.fixture
def planner() -> Iterator[Planner]:
    planner = Planner()
    yield planner
    planner.may_end.set()


async def observed(cluster: Cluster) -> ObservedState:
    return await observe(cluster.world, await cluster.get())


@pytest.fixture
async def cluster() -> Cluster:
    cluster = Cluster()
    await cluster.deploy()
    await cluster.settle(5)
    return cluster


async def test_a_plan_in_a_thread_is_the_same(cluster: Cluster) -> None:
    state, now = await observed(cluster), cluster.clock.now()
    assert await PlanThreads()(DIGITS, state, now) == make_plan(state, now)


async def test_an_error_of_a_plan_is_raised_in_its_pass(cluster: Cluster) -> None:
    def fails(_: ObservedState, __: datetime) -> ReconcilePlan:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await PlanThreads(fails)(DIGITS, await observed(cluster), cluster.clock.now())


async def test_a_namespace_has_one_abandoned_plan_and_others_go_on(cluster: Cluster, planner: Planner) -> None:
    state, now = await observed(cluster), cluster.clock.now()
    messages = []
    for key in (DIGITS, DIGITS, OTHER):
        with pytest.raises(PlanTooSlow) as raised:
            await planner.threads(key, state, now)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith("its plan took more than 0.05 s")
    assert messages[2].startswith("the plan of modeldeployment vision/digits took more")
    assert planner.abandoned == 1
    assert sum(each.name == "plan" for each in threading.enumerate()) == 1
    planner.slow = False
    planner.threads._budget_s = LONG_S
    assert await planner.threads(ELSEWHERE, state, now) == make_plan(state, now)


async def test_a_namespace_waits_for_each_plan_that_was_abandoned(cluster: Cluster) -> None:
    """Passes that run at the same time are abandoned together, and end one after the other."""
    state, now = await observed(cluster), cluster.clock.now()
    begun: list[tuple[threading.Thread, threading.Event]] = []

    def make(observed: ObservedState, now: datetime) -> ReconcilePlan:
        if len(begun) < 3:
            begun.append((threading.current_thread(), may_end := threading.Event()))
            assert may_end.wait(LONG_S)
        return make_plan(observed, now)

    threads = PlanThreads(make, BUDGET_S)
    results = await asyncio.gather(*(threads(DIGITS, state, now) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in results] == [PlanTooSlow] * 3
    threads._budget_s = LONG_S
    for thread, may_end in begun:
        with pytest.raises(PlanTooSlow, match="the plan of modeldeployment vision/digits"):
            await threads(OTHER, state, now)
        may_end.set()
        thread.join(LONG_S)
    assert await threads(OTHER, state, now) == make_plan(state, now)


async def test_it_is_reported_and_nothing_of_it_is_done(cluster: Cluster, planner: Planner) -> None:
    world = replace(cluster.world, make_plan=planner.threads)
    before = await cluster.status()
    await cluster.apply("file:///models/v2")
    with pytest.raises(PlanTooSlow):
        await reconcile_model_deployment(world, DIGITS)
    status = await cluster.status()
    assert await cluster.condition("Stalled") == ("True", "PlanTooSlow")
    assert await cluster.condition("Ready") == ("True", "Serving")
    assert {**status, "conditions": None} == {**before, "conditions": None}
    version = (await cluster.get())["metadata"]["resourceVersion"]
    with pytest.raises(PlanTooSlow):
        await reconcile_model_deployment(world, DIGITS)
    assert (await cluster.get())["metadata"]["resourceVersion"] == version, "a repeated report writes nothing"
    planner.slow = False
    planner.may_end.set()
    thread = next((each for each in threading.enumerate() if each.name == "plan"), None)
    if thread is not None:
        thread.join(LONG_S)
    planner.threads._budget_s = LONG_S
    await reconcile_model_deployment(world, DIGITS)
    assert await cluster.condition("Stalled") == ("Absent", "")


async def test_a_namespace_that_is_too_large_is_reported_and_waits(cluster: Cluster) -> None:
    world = replace(cluster.world, find_excess=lambda namespace: f"namespace {namespace}: too much")
    await cluster.apply("file:///models/v2")
    assert await reconcile_model_deployment(world, DIGITS) == 30
    assert await cluster.condition("Stalled") == ("True", "NamespaceTooLarge")
    assert await cluster.condition("Ready") == ("True", "Serving")
    assert await cluster.weights() == {1: 100}
    await reconcile_model_deployment(cluster.world, DIGITS)
    assert await cluster.condition("Stalled") == ("Absent", "")
