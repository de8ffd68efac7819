"""The election in a thread of its own: a blocked event loop keeps the Lease, and a lost one still stops writes."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest

from doubles.clock import FakeClock
from doubles.hooked_kubernetes import HookedKubernetes
from sundog_operator.app.leadership.election_thread import ElectionThread
from sundog_operator.app.leadership.elector import RENEW_DEADLINE_S, RETRY_S, Elector, LeadershipLost
from sundog_operator.app.leadership.fence import FencedKubernetes
from sundog_operator.errors import DependencyError
from sundog_operator.ports import LEASE, MODEL_DEPLOYMENT, Object, Ref

REF = Ref(LEASE, "sundog", "sundog-operator")
LONG_S = 60.0


class FastClock(FakeClock):
    """Time passes as fast as the elector sleeps, once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_run = threading.Event()
        self.may_run.set()
        self.is_held = threading.Event()

    def hold(self) -> None:
        """Keep the elector in its next sleep, until `may_run` is set. Returns when it is there."""
        self.may_run.clear()
        assert self.is_held.wait(LONG_S)

    async def sleep(self, seconds: float) -> None:
        while not self.may_run.is_set():
            self.is_held.set()
            await asyncio.sleep(0.001)
        self.advance(seconds)
        await asyncio.sleep(0)


class World:
    def __init__(self) -> None:
        self.clock = FastClock()
        self.kube = HookedKubernetes(self.clock)
        self.can_work = threading.Event()
        self.can_work.set()
        self.released = threading.Event()
        self.thread = ElectionThread(self.elector)

    @contextlib.asynccontextmanager
    async def elector(self) -> AsyncIterator[Elector]:
        yield Elector(self.kube, REF, "a", self.clock, lambda: 0.0, self.can_work.is_set)
        self.released.set()

    def record(self) -> Object:
        stored = self.kube.store.get(REF)
        spec: Object = stored["spec"] if stored else {}
        return spec


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    world.clock.may_run.set()
    await world.thread.release()


def block_until(reached: Callable[[], bool]) -> None:
    """Block the calling thread, and so its event loop."""
    deadline = time.monotonic() + LONG_S
    while not reached():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


async def test_a_blocked_event_loop_keeps_the_lease(world: World) -> None:
    await world.thread.acquire()
    assert world.thread.leads
    began = world.clock.monotonic()
    block_until(lambda: world.clock.monotonic() > began + 10 * RENEW_DEADLINE_S)
    assert world.thread.leads
    await world.thread.release()
    assert world.record()["holderIdentity"] == ""
    assert not world.thread.leads
    assert world.released.is_set()


async def test_one_that_stays_blocked_gives_the_lease_away_and_then_writes_nothing(world: World) -> None:
    await world.thread.acquire()
    fenced = FencedKubernetes(world.kube, lambda: world.thread.leads)
    world.can_work.clear()
    began = world.clock.monotonic()
    block_until(lambda: not world.thread.leads)
    assert world.clock.monotonic() - began <= RENEW_DEADLINE_S + 2 * RETRY_S
    with pytest.raises(LeadershipLost):
        await fenced.delete(Ref(MODEL_DEPLOYMENT, "vision", "digits"))
    with pytest.raises(LeadershipLost):
        await world.thread.keep()


async def test_a_lease_that_another_process_took_ends_the_leadership(world: World) -> None:
    await world.thread.acquire()
    # A renewal in progress would write over this one: the store in memory is made for one thread.
    world.clock.hold()
    stored = world.kube.store.get(REF)
    assert stored is not None
    await world.kube.replace(stored | {"spec": world.record() | {"holderIdentity": "b"}})
    world.clock.may_run.set()
    with pytest.raises(LeadershipLost):
        async with asyncio.timeout(LONG_S):
            await world.thread.keep()
    assert not world.thread.leads
    await world.thread.release()
    assert world.record()["holderIdentity"] == "b"


async def test_an_election_that_cannot_begin_raises_its_error() -> None:
    @contextlib.asynccontextmanager
    async def fails() -> AsyncIterator[Elector]:
        raise DependencyError("no cluster")
        yield

    thread = ElectionThread(fails)
    with pytest.raises(DependencyError, match="no cluster"):
        await thread.acquire()
    assert not thread.leads
    await thread.release()


async def test_a_process_that_does_not_lead_yet_ends_at_once(world: World) -> None:
    world.can_work.clear()
    waiting = asyncio.ensure_future(world.thread.acquire())
    await asyncio.sleep(0)
    await world.thread.release()
    waiting.cancel()
    assert world.record() == {}
