"""Leader election: one leader at a time, for any clocks, networks and process failures."""

import asyncio
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from doubles.clock import FakeClock
from doubles.hooked_kubernetes import HookedKubernetes
from sundog_operator.app.leadership.elector import (
    _JITTER,
    LEASE_S,
    RENEW_DEADLINE_S,
    RETRY_S,
    Elector,
    LeadershipLost,
)
from sundog_operator.app.leadership.fence import FencedKubernetes, FencedServe
from sundog_operator.errors import DependencyError
from sundog_operator.ports import CONFIG_MAP, LEASE, Object, Ref

REF = Ref(LEASE, "sundog", "sundog-operator")


class SkewedClock(FakeClock):
    """Runs like another clock, but shows another time."""

    def __init__(self, true: FakeClock, ahead_s: float) -> None:
        super().__init__()
        self._true, self._ahead = true, timedelta(seconds=ahead_s)

    def now(self):  # type: ignore[no-untyped-def]
        return self._true.now() + self._ahead

    def monotonic(self) -> float:
        return self._true.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._true.sleep(seconds)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def kube(clock: FakeClock) -> HookedKubernetes:
    return HookedKubernetes(clock)


def elector(kube: HookedKubernetes, clock: FakeClock, name: str, jitter: float = 0.0) -> Elector:
    return Elector(kube, REF, name, clock, lambda: jitter)


async def turn(clock: FakeClock, seconds: float, step: float = 0.5) -> None:
    for _ in range(round(seconds / step)):
        clock.advance(step)
        for _ in range(10):
            await asyncio.sleep(0)


async def holder(kube: HookedKubernetes) -> Object:
    stored = await kube.get(REF)
    assert stored is not None
    spec: Object = stored["spec"]
    return spec


async def until(clock: FakeClock, reached: Callable[[], bool], seconds: float) -> float:
    """Return how long it took."""
    began = clock.monotonic()
    while not reached():
        assert clock.monotonic() - began <= seconds, f"not reached in {seconds} s"
        await turn(clock, 0.5)
    return clock.monotonic() - began


async def test_the_first_makes_the_lease_and_keeps_it(kube: HookedKubernetes, clock: FakeClock) -> None:
    first = elector(kube, clock, "a")
    assert not first.leads
    await first.acquire()
    made = await holder(kube)
    assert made["holderIdentity"] == "a"
    assert made["leaseDurationSeconds"] == 15
    assert made["acquireTime"] == made["renewTime"] == "2026-11-25T12:00:00.000000Z"
    keeping = asyncio.ensure_future(first.keep())
    await turn(clock, 60)
    assert first.leads
    renewed = await holder(kube)
    assert renewed["renewTime"] >= "2026-11-25T12:00:58"
    assert renewed["acquireTime"] == made["acquireTime"]
    assert renewed["leaseTransitions"] == 0
    keeping.cancel()


@pytest.mark.parametrize("ahead_s", [-3600.0, 0.0, 3600.0])
async def test_another_waits_for_as_long_as_it_is_renewed_whatever_its_clock_says(
    kube: HookedKubernetes, clock: FakeClock, ahead_s: float
) -> None:
    first, second = elector(kube, clock, "a"), elector(kube, SkewedClock(clock, ahead_s), "b")
    await first.acquire()
    keeping, waiting = asyncio.ensure_future(first.keep()), asyncio.ensure_future(second.acquire())
    await turn(clock, 120)
    assert first.leads
    assert not second.leads
    keeping.cancel()  # like SIGKILL
    stopped = clock.monotonic()
    took = await until(clock, lambda: second.leads, LEASE_S + RETRY_S + 1)
    assert took >= LEASE_S - RETRY_S
    assert not first.leads
    assert stopped + RENEW_DEADLINE_S < clock.monotonic(), "the first stopped before the second began"
    assert (await holder(kube))["leaseTransitions"] == 1
    await waiting


async def test_a_released_lease_is_taken_at_the_next_try(kube: HookedKubernetes, clock: FakeClock) -> None:
    first, second = elector(kube, clock, "a"), elector(kube, clock, "b", jitter=0.5)
    await first.acquire()
    waiting = asyncio.ensure_future(second.acquire())
    await turn(clock, 5)
    await first.release()
    assert not first.leads
    assert (await holder(kube))["holderIdentity"] == ""
    assert await until(clock, lambda: second.leads, RETRY_S * 1.6 + 0.5) > 0
    await waiting
    await first.release()
    assert (await holder(kube))["holderIdentity"] == "b", "who does not lead gives nothing away"


def test_the_guide_says_how_long_no_process_leads_after_a_crash() -> None:
    # A follower may see the last renewal a longest delay late, and the end of the Lease as late again.
    longest_s = LEASE_S + 2 * RETRY_S * (1 + _JITTER)
    guide = Path(__file__).parents[4] / "docs" / "guides" / "monitoring.md"
    assert f"another leads within {math.ceil(longest_s)} s" in " ".join(guide.read_text().split())


async def test_who_cannot_renew_stops_before_another_begins(kube: HookedKubernetes, clock: FakeClock) -> None:
    first, second = elector(kube, clock, "a"), elector(kube, clock, "b")
    await first.acquire()
    keeping = asyncio.ensure_future(first.keep())
    await turn(clock, 4)
    kube.faults = lambda verb, _: DependencyError("no route")
    took = await until(clock, lambda: not first.leads, RENEW_DEADLINE_S + 1)
    assert took <= RENEW_DEADLINE_S
    with pytest.raises(LeadershipLost, match="sundog/sundog-operator: is no longer held by a"):
        await asyncio.gather(keeping, turn(clock, 3))
    waiting = asyncio.ensure_future(second.acquire())
    kube.faults = lambda verb, _: None
    await until(clock, lambda: second.leads, LEASE_S + 2 * RETRY_S)
    await waiting


async def test_who_finds_another_named_stops_at_once(kube: HookedKubernetes, clock: FakeClock) -> None:
    first = elector(kube, clock, "a")
    await first.acquire()
    stored = await kube.get(REF)
    assert stored is not None
    stored["spec"]["holderIdentity"] = "b"
    await kube.replace(stored)
    keeping = asyncio.ensure_future(first.keep())
    await turn(clock, RETRY_S + 0.5)
    with pytest.raises(LeadershipLost, match="is no longer held by a; holder: b"):
        await keeping
    assert not first.leads


async def test_an_answer_that_does_not_come_is_no_renewal(
    kube: HookedKubernetes, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sundog_operator.app.leadership.elector._ANSWER_S", 0.01)
    first = elector(kube, clock, "a")
    await first.acquire()

    async def silent(_: Object) -> Object:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(kube, "replace", silent)
    clock.advance(RENEW_DEADLINE_S - 1)
    assert not await first._try_acquire()
    assert first.leads
    clock.advance(1)
    assert not first.leads


async def test_two_that_try_at_the_same_moment(kube: HookedKubernetes, clock: FakeClock) -> None:
    electors = [elector(kube, clock, name) for name in "abc"]
    waiting = [asyncio.ensure_future(each.acquire()) for each in electors]
    await turn(clock, 1)
    assert [each.leads for each in electors].count(True) == 1
    for each in waiting:
        each.cancel()


async def test_a_deleted_lease_is_made_again(kube: HookedKubernetes, clock: FakeClock) -> None:
    first = elector(kube, clock, "a")
    await first.acquire()
    await kube.delete(REF)
    keeping = asyncio.ensure_future(first.keep())
    await turn(clock, 3)
    assert first.leads
    assert (await holder(kube))["holderIdentity"] == "a"
    keeping.cancel()


async def test_an_api_server_that_is_away_at_the_end_fails_nothing(kube: HookedKubernetes, clock: FakeClock) -> None:
    first = elector(kube, clock, "a")
    await first.acquire()
    kube.faults = lambda verb, _: DependencyError("no route")
    await first.release()
    assert not first.leads


class TestFence:
    OBJECT: ClassVar[Object] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "a", "namespace": "vision"},
    }
    REF = Ref(CONFIG_MAP, "vision", "a")

    async def test_nothing_is_written_without_the_lead(self, kube: HookedKubernetes) -> None:
        fenced = FencedKubernetes(kube, lambda: False)
        stored = await kube.create(self.OBJECT)
        writes = [
            fenced.create(self.OBJECT),
            fenced.apply(self.OBJECT),
            fenced.replace(stored),
            fenced.patch_status(self.REF, {}, resource_version="1"),
            fenced.annotate(self.REF, {"a": "b"}),
            fenced.delete(self.REF),
        ]
        before = len(kube.writes)
        for write in writes:
            with pytest.raises(
                LeadershipLost, match="ConfigMap vision/a: not written, because this process is not the leader"
            ):
                await write
        assert len(kube.writes) == before
        assert await fenced.get(self.REF) == stored
        assert await fenced.list(CONFIG_MAP) == [stored]

    async def test_with_it_all_passes(self, kube: HookedKubernetes) -> None:
        fenced = FencedKubernetes(kube, lambda: True)
        created = await fenced.create(self.OBJECT)
        created["data"] = {"x": "1"}
        await fenced.replace(created)
        await fenced.annotate(self.REF, {"a": "b"})
        await fenced.apply(self.OBJECT | {"data": {"y": "2"}})
        stored = await fenced.get(self.REF)
        assert stored is not None
        assert stored["data"] == {"x": "1", "y": "2"}
        await fenced.delete(self.REF)
        assert await fenced.get(self.REF) is None

    async def test_serve_gets_no_document_without_the_lead(self, clock: FakeClock) -> None:
        class Serve:
            puts = 0

            async def read(self, dashboard: str, namespace: str) -> str:
                return dashboard

            async def put(self, dashboard: str, namespace: str, document: Object) -> None:
                Serve.puts += 1

        leads = False
        fenced = FencedServe(Serve(), lambda: leads)  # type: ignore[arg-type]
        with pytest.raises(LeadershipLost, match="http://head"):
            await fenced.put("http://head", "vision", {})
        leads = True
        await fenced.put("http://head", "vision", {})
        assert Serve.puts == 1
        assert await fenced.read("http://head", "vision") == "http://head"  # type: ignore[comparison-overlap]
