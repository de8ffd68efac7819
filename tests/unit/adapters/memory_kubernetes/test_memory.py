"""The in-memory server: hooks of the test double, faults, finalizers, expiring events, dropped watches."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from doubles.hooked_kubernetes import Dropped, HookedKubernetes, Write
from sundog_operator.adapters.memory_kubernetes import Expired
from sundog_operator.errors import Conflict, DependencyError, Invalid, NotFound
from sundog_operator.ports import CONFIG_MAP, EVENT, MODEL_DEPLOYMENT, Object, Ref, ref_of

DIGITS = Ref(MODEL_DEPLOYMENT, "vision", "digits")


@pytest.fixture
def kube(clock: Any) -> HookedKubernetes:
    return HookedKubernetes(clock)


def even_replicas(obj: Object, before: Object | None) -> list[str]:
    del before
    replicas = obj["spec"].get("replicas", 0)
    return [f"spec.replicas: {replicas} is not even"] if replicas % 2 else []


async def test_two_servers_with_one_history_are_alike(clock: Any, mdep: Any, config_map: Any) -> None:
    async def history() -> list[Object]:
        kube = HookedKubernetes(clock)
        owner = await kube.apply(mdep())
        await kube.apply(config_map("split", owner))
        return await kube.list(MODEL_DEPLOYMENT) + await kube.list(CONFIG_MAP)

    assert await history() == await history()


class TestHooks:
    async def test_a_fault_is_raised_instead(self, kube: HookedKubernetes, mdep: Any) -> None:
        seen: list[tuple[str, str]] = []

        def fault(verb: str, ref: Ref) -> Exception | None:
            seen.append((verb, str(ref)))
            return Conflict("made up") if verb == "apply" else None

        kube.faults = fault
        with pytest.raises(Conflict, match="made up"):
            await kube.apply(mdep())
        assert await kube.get(DIGITS) is None
        assert await kube.list(MODEL_DEPLOYMENT, "vision") == []
        assert seen == [
            ("apply", "ModelDeployment vision/digits"),
            ("get", "ModelDeployment vision/digits"),
            ("list", "ModelDeployment vision/"),
        ]

    async def test_a_crash_before_a_write_loses_it_and_after_keeps_it(self, kube: HookedKubernetes, mdep: Any) -> None:
        crash_at = "before"

        def crash(moment: str, write: Write) -> None:
            if moment == crash_at and write.verb == "apply":
                raise KeyboardInterrupt

        kube.on_write = crash
        with pytest.raises(KeyboardInterrupt):
            await kube.apply(mdep())
        assert await kube.get(DIGITS) is None
        crash_at = "after"
        with pytest.raises(KeyboardInterrupt):
            await kube.apply(mdep())
        assert await kube.get(DIGITS) is not None

    async def test_writes_are_recorded_with_their_effect(self, kube: HookedKubernetes, mdep: Any) -> None:
        await kube.apply(mdep())
        await kube.apply(mdep())
        await kube.get(DIGITS)
        await kube.annotate(DIGITS, {"a": "b"})
        await kube.delete(DIGITS)
        await kube.delete(DIGITS)
        with pytest.raises(NotFound):
            await kube.annotate(DIGITS, {"a": "b"})
        assert [(write.verb, write.changed) for write in kube.writes] == [
            ("apply", True), ("apply", False), ("annotate", True), ("delete", True), ("delete", False),
        ]  # fmt: skip

    async def test_garbage_goes_although_clients_crash(
        self, kube: HookedKubernetes, mdep: Any, config_map: Any
    ) -> None:
        await kube.apply(config_map("split", await kube.apply(mdep())))

        def crash(moment: str, write: Write) -> None:
            if moment == "after" and write.verb == "delete":
                raise KeyboardInterrupt

        kube.on_write = crash
        with pytest.raises(KeyboardInterrupt):
            await kube.delete(DIGITS)
        assert await kube.list(CONFIG_MAP) == []


class TestAdmission:
    async def test_refuses_by_name_value_and_rule(self, clock: Any, mdep: Any) -> None:
        kube = HookedKubernetes(clock, admit=even_replicas)
        first = await kube.apply(mdep(replicas=2))
        with pytest.raises(Invalid, match=r"vision/digits is invalid: spec\.replicas: 3 is not even") as caught:
            await kube.apply(mdep(replicas=3))
        assert caught.value.reason == "Invalid"
        assert caught.value.causes == ("spec.replicas: 3 is not even",)
        assert await kube.get(DIGITS) == first

    async def test_leaves_old_content_alone(self, clock: Any, mdep: Any) -> None:
        admit: list[Any] = [lambda _obj, _before: []]
        kube = HookedKubernetes(clock, admit=lambda obj, before: admit[0](obj, before))
        stored = await kube.apply(mdep(replicas=3))
        admit[0] = even_replicas
        await kube.annotate(DIGITS, {"a": "b"})
        stored = await kube.get(DIGITS) or {}
        await kube.patch_status(DIGITS, {"x": 1}, resource_version=stored["metadata"]["resourceVersion"])
        with pytest.raises(Invalid):
            await kube.apply(mdep(replicas=5))

    async def test_cannot_change_the_object(self, clock: Any, mdep: Any) -> None:
        def meddle(obj: Object, _before: Object | None) -> list[str]:
            obj["spec"]["replicas"] = 8
            return []

        kube = HookedKubernetes(clock, admit=meddle)
        assert (await kube.apply(mdep(replicas=2)))["spec"]["replicas"] == 2

    @pytest.mark.parametrize("verb", ["apply", "create"])
    async def test_strict_refuses_unknown_fields(self, clock: Any, mdep: Any, verb: str) -> None:
        schema = {"properties": {"spec": {"properties": {"model": {"x-kubernetes-preserve-unknown-fields": True}}}}}
        kube = HookedKubernetes(clock, schemas={"ModelDeployment": schema})
        with pytest.raises(Invalid, match=r"is invalid: spec\.replica: unknown field"):
            await getattr(kube, verb)(mdep(replica=2), strict=True)
        assert "replica" not in (await getattr(kube, verb)(mdep(replica=2)))["spec"]

    @pytest.mark.parametrize(
        "metadata",
        [
            {"namespace": ""},
            {"namespace": "a.b"},
            {"name": "x" * 254},
            {"annotations": {"a": 1}},
            {"annotations": {"a": "x" * 300_000}},
            {"annotations": {"not a name": "x"}},
            {"labels": {"-": "x"}},
            {"ownerReferences": [{"uid": "1", "kind": "K", "name": "n"}]},
            {"ownerReferences": [{"uid": u, "kind": "K", "name": "n", "apiVersion": "v", "controller": True} for u in "12"]},
            {"labels": {"a": {1, 2}}},
        ],
    )  # fmt: skip
    async def test_refuses_bad_metadata(self, kube: HookedKubernetes, mdep: Any, metadata: Object) -> None:
        with pytest.raises(Invalid):
            await kube.apply(mdep(metadata=metadata))
        assert await kube.list(MODEL_DEPLOYMENT) == []

    async def test_refuses_an_object_without_a_name(self, kube: HookedKubernetes) -> None:
        with pytest.raises(Invalid, match=r"metadata\.name"):
            await kube.apply({"apiVersion": "v1", "kind": "ConfigMap"})

    async def test_refuses_kinds_it_does_not_serve(self, kube: HookedKubernetes) -> None:
        with pytest.raises(NotFound, match="'Widget' of 'v1'"):
            await kube.apply({"apiVersion": "v1", "kind": "Widget", "metadata": {"name": "a", "namespace": "b"}})

    async def test_refuses_large_config_maps_and_other_than_text(self, kube: HookedKubernetes, config_map: Any) -> None:
        with pytest.raises(Invalid, match="expected at most 1048576"):
            await kube.apply(config_map("a", x="y" * 1_100_000))
        with pytest.raises(Invalid, match=r"data\[x\]: int; expected a string"):
            await kube.apply(config_map("a", x=1))


class TestFinalizers:
    async def test_hold_a_deletion_back(self, kube: HookedKubernetes, mdep: Any, config_map: Any) -> None:
        owner = await kube.apply(mdep(metadata={"finalizers": ["example.com/hold"]}))
        await kube.apply(config_map("split", owner))
        await kube.delete(DIGITS)
        held = await kube.get(DIGITS)
        assert held is not None
        assert held["metadata"]["deletionTimestamp"] == "2026-03-01T12:00:00Z"
        assert held["metadata"]["generation"] == 2
        await kube.delete(DIGITS)
        assert await kube.get(DIGITS) == held
        assert len(await kube.list(CONFIG_MAP)) == 1
        await kube.apply(mdep())
        assert await kube.get(DIGITS) is None
        assert await kube.list(CONFIG_MAP) == []


class TestWatches:
    async def test_dropped_watches_raise(self, kube: HookedKubernetes, mdep: Any) -> None:
        async with aclosing(kube.watch(MODEL_DEPLOYMENT)) as old:
            await anext(old)
            waiting = asyncio.ensure_future(anext(old))
            await asyncio.sleep(0)
            kube.drop_watches()
            with pytest.raises(Dropped):
                await waiting
        async with aclosing(kube.watch(MODEL_DEPLOYMENT)) as fresh:
            await anext(fresh)
            await kube.apply(mdep())
            assert (await anext(fresh)).type == "ADDED"

    async def test_compaction_fails_only_watchers_that_fell_behind(self, kube: HookedKubernetes, mdep: Any) -> None:
        async with (
            aclosing(kube.watch(MODEL_DEPLOYMENT)) as behind,
            aclosing(kube.watch(MODEL_DEPLOYMENT)) as abreast,
        ):
            await anext(behind)
            await anext(abreast)
            await kube.apply(mdep("a"))
            await anext(abreast)
            kube.compact()
            await kube.apply(mdep("b"))
            assert (await anext(abreast)).object["metadata"]["name"] == "b"
            with pytest.raises(Expired):
                await anext(behind)

    async def test_closing_ends_them(self, kube: HookedKubernetes) -> None:
        async with aclosing(kube.watch(MODEL_DEPLOYMENT)) as events:
            await anext(events)
            kube.close()
            assert [event async for event in events] == []
        with pytest.raises(DependencyError, match="closed"):
            await kube.get(DIGITS)


async def test_events_last_an_hour(kube: HookedKubernetes, thing: Any, clock: Any) -> None:
    await kube.create(thing(EVENT, "old"))
    clock.advance(1800)
    await kube.create(thing(EVENT, "young"))
    clock.advance(1801)
    await kube.create(thing(EVENT, "new"))
    assert [obj["metadata"]["name"] for obj in await kube.list(EVENT)] == ["new", "young"]


async def test_status_is_no_part_of_a_kind_without_it(kube: HookedKubernetes, config_map: Any) -> None:
    stored = await kube.apply(config_map("a"))
    with pytest.raises(NotFound, match="has no status"):
        await kube.patch_status(ref_of(stored), {"x": 1}, resource_version=stored["metadata"]["resourceVersion"])


async def test_an_owner_of_another_namespace_is_no_owner(kube: HookedKubernetes, mdep: Any, config_map: Any) -> None:
    await kube.apply(config_map("split", await kube.apply(mdep(metadata={"namespace": "audio"}))))
    assert await kube.list(CONFIG_MAP) == []


async def test_update_cannot_move_an_object(kube: HookedKubernetes, mdep: Any) -> None:
    stored = await kube.apply(mdep())
    moved = await kube.update(
        DIGITS, lambda obj: obj | {"metadata": obj["metadata"] | {"name": "other", "generation": 9}, "kind": "Other"}
    )
    assert moved == stored
