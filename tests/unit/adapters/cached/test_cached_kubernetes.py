"""Reads from memory: never older than our own writes, even if the watch loses events or delivers them late."""

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.clock import FakeClock
from doubles.hooked_kubernetes import HookedKubernetes
from sundog_operator.adapters.cached.kubernetes import ABSENT_TTL_S, SCOPES, CachedKubernetes
from sundog_operator.adapters.cached.secrets import SECRET_TTL_S
from sundog_operator.errors import AlreadyExists, Conflict, DependencyError, Forbidden, NotServed
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    HTTP_ROUTE,
    MODEL_DEPLOYMENT,
    SECRET,
    Kind,
    Object,
    Ref,
)

DIGITS = Ref(MODEL_DEPLOYMENT, "vision", "digits")
OURS = {"app.kubernetes.io/part-of": "sundog"}


def thing(
    kind: Kind, name: str, namespace: str = "vision", labels: dict[str, str] | None = None, **rest: Any
) -> Object:
    metadata = {"name": name, "namespace": namespace, "labels": labels or {}}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata} | rest


def mdep(name: str = "digits", replicas: int = 1) -> Object:
    return thing(MODEL_DEPLOYMENT, name, spec={"replicas": replicas})


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.server = HookedKubernetes(self.clock)
        self.news: list[str] = []
        self.cached = CachedKubernetes(self.server, lambda obj: self.news.append(obj["metadata"]["name"]), self.clock)
        self.asked: list[str] = []
        self.server.faults = self._count

    def _count(self, verb: str, ref: Ref) -> None:
        self.asked.append(f"{verb} {ref.name or ref.kind.plural}")

    async def deliver(self, obj: Object, change: str = "MODIFIED") -> None:
        self.cached.feed(change, obj)

    def forget(self) -> None:
        self.asked.clear()
        self.news.clear()


@pytest.fixture
async def world() -> World:
    world = World()
    await world.server.create(mdep())
    for kind in (MODEL_DEPLOYMENT, CONFIG_MAP, CONTROLLER_REVISION):
        await world.cached.resync(kind)
    world.forget()
    return world


async def test_before_the_first_list_reads_ask_the_server() -> None:
    world = World()
    await world.server.create(mdep())
    assert await world.cached.get(DIGITS) is not None
    assert len(await world.cached.list(MODEL_DEPLOYMENT)) == 1
    assert world.asked[1:] == ["get digits", "list modeldeployments"]
    assert not world.cached.synced(MODEL_DEPLOYMENT)
    assert not world.cached.ready


async def test_after_it_they_do_not(world: World) -> None:
    assert await world.cached.get(DIGITS) == world.server.store.get(DIGITS)
    assert await world.cached.get(Ref(MODEL_DEPLOYMENT, "vision", "absent")) is None
    assert len(await world.cached.list(MODEL_DEPLOYMENT, "vision")) == 1
    assert await world.cached.list(MODEL_DEPLOYMENT, "audio") == []
    assert world.asked == []


async def test_kinds_that_are_not_cached_are_read_from_the_server(world: World) -> None:
    await world.server.create(thing(SECRET, "keys", stringData={"a": "b"}))
    world.forget()
    assert await world.cached.get(Ref(SECRET, "vision", "keys")) is not None
    assert await world.cached.list(SECRET, "vision") != []
    assert world.asked == ["get keys", "list secrets"]
    assert world.cached.objects.count(SECRET) == 0


async def test_a_secret_is_cached_for_its_time_to_live(world: World) -> None:
    ref = Ref(SECRET, "vision", "keys")
    assert await world.cached.get(ref) is None
    assert await world.cached.get(ref) is None
    assert world.asked == ["get keys", "get keys"], "one that is missing may appear at any moment"
    await world.server.create(thing(SECRET, "keys", stringData={"a": "b"}))
    world.forget()
    first = await world.cached.get(ref)
    for _ in range(3):
        assert await world.cached.get(ref) == first
    assert world.asked == ["get keys"]
    world.clock.advance(SECRET_TTL_S)
    await world.cached.get(ref)
    assert world.asked == ["get keys"] * 2
    changed = await world.cached.apply(thing(SECRET, "keys", stringData={"a": "c"}))
    assert await world.cached.get(ref) == changed, "an own write is read back"
    await world.server.delete(ref)
    world.cached.forget_secret(ref)
    assert await world.cached.get(ref) is None


async def test_an_own_write_is_read_back_before_the_watch_delivers_it(world: World) -> None:
    stored = await world.cached.get(DIGITS)
    assert stored is not None
    written = await world.cached.patch_status(
        DIGITS, {"url": "http://digits"}, resource_version=stored["metadata"]["resourceVersion"]
    )
    world.asked.clear()
    assert await world.cached.get(DIGITS) == written
    assert world.asked == []
    assert world.news == ["digits"], "and wakes whoever it bears on"


async def test_an_old_event_changes_nothing(world: World) -> None:
    old = world.server.store.get(DIGITS)
    assert old is not None
    new = await world.cached.apply(mdep(replicas=3))
    world.forget()
    await world.deliver(old)
    await world.deliver(new)
    assert await world.cached.get(DIGITS) == new
    assert world.news == []


async def test_late_events_do_not_bring_a_deleted_object_back(world: World) -> None:
    old = world.server.store.get(DIGITS)
    assert old is not None
    await world.cached.delete(DIGITS)
    assert await world.cached.list(MODEL_DEPLOYMENT, "vision") == []
    await world.deliver(old)
    assert await world.cached.get(DIGITS) is None
    again = await world.cached.create(mdep())
    await world.deliver(old, "DELETED")
    assert await world.cached.get(DIGITS) == again


async def test_an_object_that_waits_for_its_finalizer_is_still_there(world: World) -> None:
    held = mdep("held") | {"spec": {}}
    held["metadata"]["finalizers"] = ["example.com/wait"]
    await world.cached.create(held)
    await world.cached.delete(Ref(MODEL_DEPLOYMENT, "vision", "held"))
    found = await world.cached.get(Ref(MODEL_DEPLOYMENT, "vision", "held"))
    assert found is not None
    assert "deletionTimestamp" in found["metadata"]


async def test_after_a_conflict_the_object_is_read_again(world: World) -> None:
    stale = await world.cached.get(DIGITS)
    assert stale is not None
    await world.server.annotate(DIGITS, {"example.com/by": "somebody"})
    with pytest.raises(Conflict):
        await world.cached.patch_status(DIGITS, {}, resource_version=stale["metadata"]["resourceVersion"])
    fresh = await world.cached.get(DIGITS)
    assert fresh is not None
    assert fresh["metadata"]["annotations"] == {"example.com/by": "somebody"}
    assert await world.cached.get(DIGITS) == fresh
    assert world.asked.count("get digits") == 1


async def test_an_object_whose_write_got_no_answer_is_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = world.server.apply

    async def lose(obj: Object) -> Object:
        await apply(obj)
        raise DependencyError("the answer broke off")

    monkeypatch.setattr(world.server, "apply", lose)
    with pytest.raises(DependencyError):
        await world.cached.apply(mdep(replicas=5))
    (found,) = await world.cached.list(MODEL_DEPLOYMENT, "vision")
    assert found["spec"]["replicas"] == 5


class Slow:
    """Answers of the server to `get` that have the state of the request's time, and arrive when the test releases them."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.let_go = asyncio.Event(), asyncio.Event()
        self._get = world.server.get
        monkeypatch.setattr(world.server, "get", self.get)

    async def get(self, ref: Ref) -> Object | None:
        answer = await self._get(ref)
        self.asked.set()
        await self.let_go.wait()
        return answer


async def test_an_object_created_during_a_read_stays_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(world, monkeypatch)
    asking = asyncio.create_task(world.cached.get(Ref(CONFIG_MAP, "vision", "traffic")))
    await slow.asked.wait()
    made = await world.cached.create(thing(CONFIG_MAP, "traffic", labels=OURS))
    slow.let_go.set()
    assert await asking is None, "as of when it was asked for"
    assert await world.cached.list(CONFIG_MAP, "vision") == [made]


async def test_an_object_deleted_during_a_read_is_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = await world.cached.get(DIGITS)
    assert stored is not None
    with pytest.raises(Conflict):
        await world.cached.patch_status(DIGITS, {}, resource_version="1")
    slow = Slow(world, monkeypatch)
    asking = asyncio.create_task(world.cached.get(DIGITS))
    await slow.asked.wait()
    await world.cached.delete(DIGITS)
    slow.let_go.set()
    assert await asking == stored, "as of when it was asked for"
    assert await world.cached.get(DIGITS) is None


async def test_a_secret_that_changes_during_a_read_is_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = Ref(SECRET, "vision", "keys")
    old = await world.server.create(thing(SECRET, "keys", stringData={"ann": "leaked"}))
    slow = Slow(world, monkeypatch)
    asking = asyncio.create_task(world.cached.get(ref))
    await slow.asked.wait()
    new = await world.server.apply(thing(SECRET, "keys", stringData={"ann": "fresh"}))
    world.cached.forget_secret(ref)
    slow.let_go.set()
    assert await asking == old, "as of when it was asked for"
    assert await world.cached.get(ref) == new


async def test_a_foreign_object_that_stands_in_the_way_is_seen(world: World) -> None:
    taken = await world.server.create(thing(CONTROLLER_REVISION, "digits-r1", revision=1))
    assert await world.cached.list(CONTROLLER_REVISION, "vision") == [], "without our label it is not kept"
    with pytest.raises(AlreadyExists):
        await world.cached.create(thing(CONTROLLER_REVISION, "digits-r1", labels=OURS, revision=1))
    assert await world.cached.list(CONTROLLER_REVISION, "vision") == [taken]


async def test_get_asks_for_an_absent_object_each_time(world: World) -> None:
    ref = Ref(CONFIG_MAP, "vision", "sundog-edge")
    assert await world.cached.get(ref) is None
    made = await world.server.create(thing(CONFIG_MAP, "sundog-edge"))
    assert await world.cached.get(ref) == made, "what somebody else has just made is not taken for ours"
    world.forget()
    assert await world.cached.get(ref) == made
    assert world.asked == []
    other = Ref(CONFIG_MAP, "vision", "other")
    await world.server.create(thing(CONFIG_MAP, "other"))
    with pytest.raises(AlreadyExists):
        await world.cached.create(thing(CONFIG_MAP, "other"))
    assert await world.cached.get(other) is not None, "what was in the way is seen"


async def test_views_ask_less_often_for_an_absent_object(world: World) -> None:
    ref = Ref(CONFIG_MAP, "vision", "sundog-edge")
    assert await world.cached.labels(ref) is None
    await world.server.create(thing(CONFIG_MAP, "sundog-edge"))
    world.clock.advance(ABSENT_TTL_S - 0.1)
    assert await world.cached.labels(ref) is None
    assert await world.cached.view(ref, name_of) is None
    assert world.asked.count("get sundog-edge") == 1
    world.clock.advance(0.1)
    assert await world.cached.labels(ref) == {}
    assert await world.cached.view(ref, name_of) == "sundog-edge"


async def test_get_asks_for_an_object_that_a_view_found_absent(world: World) -> None:
    ref = Ref(CONFIG_MAP, "vision", "sundog-edge")
    assert await world.cached.labels(ref) is None
    await world.server.create(thing(CONFIG_MAP, "sundog-edge"))
    assert await world.cached.get(ref) is not None


def name_of(obj: Object) -> str:
    name: str = obj["metadata"]["name"]
    return name


async def test_a_view_is_made_once_for_each_state(world: World) -> None:
    made = []

    def replicas(obj: Object) -> int:
        made.append(obj["metadata"]["resourceVersion"])
        return int(obj["spec"].get("replicas", 0))

    assert [await world.cached.view(DIGITS, replicas) for _ in range(3)] == [1, 1, 1]
    assert list(await world.cached.views(MODEL_DEPLOYMENT, "vision", replicas)) == [1]
    assert len(made) == 1
    await world.cached.apply(mdep("digits", replicas=2))
    assert await world.cached.view(DIGITS, replicas) == 2
    assert list(await world.cached.views(MODEL_DEPLOYMENT, "vision", name_of)) == ["digits"]
    assert len(made) == 2


async def test_a_foreign_object_of_a_name_of_ours_is_found(world: World) -> None:
    foreign = await world.server.create(thing(CONFIG_MAP, "sundog-edge"))
    assert await world.cached.get(Ref(CONFIG_MAP, "vision", "sundog-edge")) == foreign


async def test_a_list_finds_changes_that_the_watch_missed(world: World) -> None:
    for name in ("changed", "gone"):
        await world.cached.create(mdep(name))
    await world.server.apply(mdep("changed", replicas=7))
    await world.server.delete(Ref(MODEL_DEPLOYMENT, "vision", "gone"))
    await world.server.create(mdep("born"))
    world.forget()
    assert await world.cached.resync(MODEL_DEPLOYMENT) == 3
    assert sorted(world.news) == ["born", "changed", "gone"]
    assert await world.cached.list(MODEL_DEPLOYMENT) == await world.server.list(MODEL_DEPLOYMENT)
    assert await world.cached.resync(MODEL_DEPLOYMENT) == 0


async def test_a_write_after_a_list_survives_it(world: World) -> None:
    snapshot = await world.server.snapshot(MODEL_DEPLOYMENT)
    await world.cached.create(mdep("younger"))
    newer = await world.cached.apply(mdep(replicas=9))
    news = world.cached.objects.merge(MODEL_DEPLOYMENT, None, snapshot.objects, int(snapshot.version))
    assert news == []
    assert await world.cached.get(DIGITS) == newer
    assert await world.cached.get(Ref(MODEL_DEPLOYMENT, "vision", "younger")) is not None


async def test_an_object_may_leave_a_selection_and_come_back(world: World) -> None:
    inside = await world.server.create(thing(CONFIG_MAP, "a", labels=OURS))
    await world.deliver(inside, "ADDED")
    outside = await world.server.update(Ref(CONFIG_MAP, "vision", "a"), lambda obj: thing(CONFIG_MAP, "a"))
    await world.deliver(outside, "DELETED")
    assert await world.cached.list(CONFIG_MAP, "vision", OURS) == []
    back = await world.server.apply(thing(CONFIG_MAP, "a", labels=OURS))
    await world.deliver(back, "ADDED")
    assert await world.cached.list(CONFIG_MAP, "vision", OURS) == [back]


async def test_an_object_without_our_label_is_known_after_a_get(world: World) -> None:
    ref = Ref(CONTROLLER_REVISION, "vision", "digits-r1")
    await world.cached.create(thing(CONTROLLER_REVISION, "digits-r1", labels=OURS, revision=1))
    bare = await world.server.update(ref, lambda _: thing(CONTROLLER_REVISION, "digits-r1", revision=1))
    await world.deliver(bare, "DELETED")
    with pytest.raises(AlreadyExists):
        await world.cached.create(thing(CONTROLLER_REVISION, "digits-r1", labels=OURS, revision=1))
    assert await world.cached.list(CONTROLLER_REVISION, "vision") == [bare]


async def test_a_change_of_an_object_without_our_label_is_not_missed(world: World) -> None:
    ref = Ref(CONTROLLER_REVISION, "vision", "theirs")
    await world.server.create(thing(CONTROLLER_REVISION, "theirs", revision=1))
    assert await world.cached.get(ref) is not None
    assert await world.cached.resync(CONTROLLER_REVISION) == 0
    await world.server.create(thing(CONTROLLER_REVISION, "ours", labels=OURS, revision=1))
    assert await world.cached.resync(CONTROLLER_REVISION) == 1


async def test_only_its_own_namespaces_are_kept() -> None:
    world = World()
    world.cached = CachedKubernetes(world.server, lambda _: None, world.clock, ["vision", "audio"])
    for namespace in ("vision", "audio", "other"):
        await world.server.create(thing(MODEL_DEPLOYMENT, "a", namespace, spec={}))
    await world.cached.resync(MODEL_DEPLOYMENT)
    assert world.cached.objects.count(MODEL_DEPLOYMENT) == 2
    world.forget()
    assert len(await world.cached.list(MODEL_DEPLOYMENT, "vision")) == 1
    assert world.asked == []
    assert len(await world.cached.list(MODEL_DEPLOYMENT, "other")) == 1
    assert world.asked == ["list modeldeployments"]


async def test_a_forbidden_namespace_does_not_affect_the_others() -> None:
    world, closed = World(), {"audio"}
    world.cached = CachedKubernetes(world.server, lambda _: None, world.clock, ["audio", "vision"])
    for kind in (MODEL_DEPLOYMENT, HTTP_ROUTE):
        for namespace in ("audio", "vision"):
            await world.server.create(thing(kind, "a", namespace, OURS, spec={}))

    def fault(verb: str, ref: Ref) -> Exception | None:
        world.asked.append(f"{verb} {ref.kind.plural}")
        return Forbidden("no role") if ref.namespace in closed else None

    world.server.faults = fault
    for kind in SCOPES:
        await world.cached.resync(kind)
    assert world.cached.ready
    assert world.cached.forbidden_namespaces == closed
    world.forget()
    for kind in (MODEL_DEPLOYMENT, HTTP_ROUTE):
        assert await world.cached.get(Ref(kind, "vision", "a")) is not None
        assert len(await world.cached.list(kind, "vision")) == 1
    assert world.asked == []
    there = Ref(MODEL_DEPLOYMENT, "audio", "a")
    for read in (world.cached.get(there), world.cached.labels(there), world.cached.list(MODEL_DEPLOYMENT, "audio")):
        with pytest.raises(Forbidden):
            await read
    with pytest.raises(NotServed):
        await world.cached.list(HTTP_ROUTE, "audio")
    closed.clear()
    await world.cached.resync(MODEL_DEPLOYMENT)
    world.forget()
    assert await world.cached.get(there) is not None
    assert world.asked == []


async def test_no_kind_is_cached_where_all_namespaces_are_forbidden() -> None:
    world = World()
    world.cached = CachedKubernetes(world.server, lambda _: None, world.clock, ["audio", "vision"])
    world.server.faults = lambda *_: Forbidden("no role")
    with pytest.raises(Forbidden):
        await world.cached.resync(MODEL_DEPLOYMENT)
    with pytest.raises(NotServed):
        await world.cached.resync(HTTP_ROUTE)
    assert not world.cached.synced(MODEL_DEPLOYMENT)
    assert world.cached.lacks(HTTP_ROUTE)


async def test_an_indexed_label_finds_the_same_as_a_scan(world: World) -> None:
    for name, owner in (("a", "digits"), ("b", "words"), ("c", "digits")):
        labels = OURS | {"serving.sundog.dev/model-deployment": owner}
        await world.cached.create(thing(CONTROLLER_REVISION, name, labels=labels))
    moved = thing(CONTROLLER_REVISION, "c", labels=OURS | {"serving.sundog.dev/model-deployment": "words"})
    await world.cached.apply(moved)
    for owner in ("digits", "words", "nobody"):
        labels = {"serving.sundog.dev/model-deployment": owner}
        listed = await world.cached.list(CONTROLLER_REVISION, "vision", labels)
        assert listed == await world.server.list(CONTROLLER_REVISION, "vision", labels)


async def test_only_resyncs_ask_for_a_kind_that_is_not_served(world: World) -> None:
    digits, lacking = Ref(HTTP_ROUTE, "vision", "digits"), True

    def fault(verb: str, ref: Ref) -> Exception | None:
        world.asked.append(verb)
        return NotServed("no httproutes") if lacking and ref.kind == HTTP_ROUTE else None

    world.server.faults = fault
    with pytest.raises(NotServed):
        await world.cached.resync(HTTP_ROUTE)
    world.forget()
    for read in (world.cached.get(digits), world.cached.labels(digits), world.cached.list(HTTP_ROUTE, "vision")):
        with pytest.raises(NotServed, match="httproutes"):
            await read
    assert world.asked == []
    lacking = False
    await world.cached.resync(HTTP_ROUTE)
    assert await world.cached.list(HTTP_ROUTE, "vision") == []
    made = await world.cached.create(thing(HTTP_ROUTE, "digits", labels=OURS))
    world.forget()
    assert await world.cached.get(digits) == made
    assert world.asked == []
    lacking = True
    with pytest.raises(NotServed):
        await world.cached.get(Ref(HTTP_ROUTE, "vision", "another"))
    assert world.cached.lacks(HTTP_ROUTE)
    assert world.news == ["digits"], "with the kind its objects went"
    assert world.cached.objects.count(HTTP_ROUTE) == 0
    lacking = False
    await world.cached.resync(HTTP_ROUTE)
    assert await world.cached.list(HTTP_ROUTE, "vision") == [made], "and were there all the time"


async def test_only_an_optional_kind_may_be_missing() -> None:
    world = World()
    refused = {HTTP_ROUTE, CONFIG_MAP}
    world.server.faults = lambda _, ref: NotServed("no such kind") if ref.kind in refused else None
    for kind in SCOPES:
        with contextlib.suppress(NotServed):
            await world.cached.resync(kind)
    assert not world.cached.ready
    refused.discard(CONFIG_MAP)
    await world.cached.resync(CONFIG_MAP)
    assert world.cached.ready


@given(st.data())
def test_events_in_any_order_end_in_the_state_of_the_server(data: st.DataObject) -> None:
    """A watch that is late, repeats events and loses deletions, with lists and our own writes in between."""

    async def run() -> None:
        world = World()
        await world.cached.resync(MODEL_DEPLOYMENT)
        pending: list[tuple[str, Object]] = []
        for _ in range(data.draw(st.integers(1, 25))):
            ref = Ref(MODEL_DEPLOYMENT, "vision", data.draw(st.sampled_from("abc")))
            match data.draw(st.sampled_from(["ours", "theirs", "delete", "theirs delete", "deliver", "list"])):
                case "ours":
                    written = await world.cached.apply(mdep(ref.name, data.draw(st.integers(1, 5))))
                    assert await world.cached.get(ref) == written
                    pending.append(("MODIFIED", written))
                case "theirs":
                    pending.append(("MODIFIED", await world.server.apply(mdep(ref.name, data.draw(st.integers(1, 5))))))
                case "delete":
                    await world.cached.delete(ref)
                    assert await world.cached.get(ref) is None
                case "theirs delete":
                    await world.server.delete(ref)
                case "deliver" if pending:
                    change, obj = pending[data.draw(st.integers(0, len(pending) - 1))]
                    world.cached.feed(change, obj)
                case "list":
                    await world.cached.resync(MODEL_DEPLOYMENT)
        for change, obj in pending:
            world.cached.feed(change, obj)
        await world.cached.resync(MODEL_DEPLOYMENT)
        assert await world.cached.list(MODEL_DEPLOYMENT) == await world.server.list(MODEL_DEPLOYMENT)

    asyncio.run(run())


async def test_the_version_of_a_namespace_moves_with_each_of_its_changes(world: World) -> None:
    assert world.cached.version("vision") is None, "not every kind was listed"
    for kind in SCOPES:
        await world.cached.resync(kind)
    seen, other = [world.cached.version("vision")], world.cached.version("audio")
    changed = await world.server.annotate(DIGITS, {"example.com/by": "somebody"})
    await world.deliver(changed)
    seen.append(world.cached.version("vision"))
    await world.deliver(changed)
    assert world.cached.version("vision") == seen[-1], "no news"
    await world.cached.apply(thing(CONFIG_MAP, "sundog-edge"))
    seen.append(world.cached.version("vision"))
    await world.cached.delete(DIGITS)
    seen.append(world.cached.version("vision"))
    assert len({*seen}) == len(seen)
    assert world.cached.version("audio") == other


async def test_the_version_of_all_namespaces_changes_when_a_kind_appears_or_disappears(world: World) -> None:
    lacking = True
    world.server.faults = lambda verb, ref: NotServed("no httproutes") if lacking and ref.kind == HTTP_ROUTE else None
    for kind in SCOPES:
        with contextlib.suppress(NotServed):
            await world.cached.resync(kind)
    seen = [world.cached.version("vision")]
    with pytest.raises(NotServed):
        await world.cached.resync(HTTP_ROUTE)
    assert world.cached.version("vision") == seen[-1], "no news"
    lacking = False
    await world.cached.resync(HTTP_ROUTE)
    seen.append(world.cached.version("vision"))
    lacking = True
    with pytest.raises(NotServed):
        await world.cached.resync(HTTP_ROUTE)
    seen.append(world.cached.version("vision"))
    assert len({*seen}) == len(seen)
