"""What every implementation of `ports.Kubernetes` does. Nothing here is particular to one backend."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from sundog_operator.errors import AlreadyExists, Conflict, Invalid, NotFound, NotServed
from sundog_operator.ports import (
    CONTROLLER_REVISION,
    MODEL_DEPLOYMENT,
    NODE,
    SECRET,
    Kind,
    Kubernetes,
    Object,
    Ref,
    WatchEvent,
    ref_of,
)
from waiting import PATIENCE_S

Eventually = Callable[[Callable[[], Awaitable[Any]]], Awaitable[None]]

DIGITS = Ref(MODEL_DEPLOYMENT, "vision", "digits")
ACCEPTED = {
    "type": "SpecAccepted",
    "status": "True",
    "reason": "Accepted",
    "message": "",
    "lastTransitionTime": "2026-03-01T12:00:00Z",
}


def thing(kind: Kind, name: str, namespace: str = "vision", **rest: Any) -> Object:
    metadata = {"name": name, "namespace": namespace} | rest.pop("metadata", {})
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata} | rest


def mdep(name: str = "digits", namespace: str = "vision", /, metadata: Object | None = None, **spec: Any) -> Object:
    spec = {"model": {"uri": "s3://models/digits/v1"}} | spec
    return thing(MODEL_DEPLOYMENT, name, namespace, metadata=metadata or {}, spec=spec)


def secret(name: str, *owners: Object, **data: str) -> Object:
    """Of a kind that has neither status nor generation, and of which a new namespace of a real cluster has none."""
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return thing(SECRET, name, metadata={"ownerReferences": [reference(owner) for owner in owners]}, data=encoded)


def reference(owner: Object) -> Object:
    metadata = owner["metadata"]
    return {key: owner[key] for key in ("apiVersion", "kind")} | {key: metadata[key] for key in ("name", "uid")}


def version(obj: Object) -> str:
    found: str = obj["metadata"]["resourceVersion"]
    return found


async def read(kube: Kubernetes, ref: Ref) -> Object:
    obj = await kube.get(ref)
    assert obj is not None, f"{ref} is gone"
    return obj


async def status_of(kube: Kubernetes, ref: Ref, status: Object) -> Object:
    return await kube.patch_status(ref, status, resource_version=version(await read(kube, ref)))


async def take(events: AsyncIterator[WatchEvent], count: int) -> list[WatchEvent]:
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(events) for _ in range(count)]


def seen(events: list[WatchEvent]) -> list[tuple[str, str]]:
    return [(event.type, event.object["metadata"]["name"] if event.object else "") for event in events]


async def settled(kube: Kubernetes, obj: Object) -> Object:
    """An object that was written twice: a real server stores the default of a status with the first write after creation."""
    await kube.apply(obj)
    return await kube.apply(obj)


class TestCreate:
    async def test_fills_in_what_the_server_owns(self, kube: Kubernetes) -> None:
        created = await kube.create(mdep())
        metadata = created["metadata"]
        assert metadata["uid"]
        assert metadata["generation"] == 1
        assert metadata["creationTimestamp"].endswith("Z")
        assert int(metadata["resourceVersion"]) > 0
        assert created == await kube.get(DIGITS)

    async def test_fills_in_the_defaults_of_the_schema(self, kube: Kubernetes) -> None:
        created = await kube.create(mdep())
        assert created["spec"]["replicas"] == 1
        assert created["status"] == {"observedGeneration": -1}

    async def test_drops_fields_that_the_schema_lacks(self, kube: Kubernetes) -> None:
        created = await kube.create(mdep(nonsense=1, runtime={"maxOngoingRequest": 8}))
        assert "nonsense" not in created["spec"]
        assert "maxOngoingRequest" not in created["spec"]["runtime"]

    async def test_drops_nulls(self, kube: Kubernetes) -> None:
        created = await kube.create(mdep(paused=None, replicas=None, runtime={"podLabels": {"a": None, "b": "1"}}))
        assert not created["spec"].get("paused")
        assert created["spec"]["replicas"] == 1
        assert created["spec"]["runtime"]["podLabels"] == {"b": "1"}

    async def test_ignores_status(self, kube: Kubernetes) -> None:
        created = await kube.create(mdep() | {"status": {"url": "http://elsewhere"}})
        assert created["status"] == {"observedGeneration": -1}

    async def test_refuses_a_taken_name(self, kube: Kubernetes) -> None:
        await kube.create(mdep())
        with pytest.raises(AlreadyExists, match="vision/digits"):
            await kube.create(mdep(replicas=2))
        assert (await read(kube, DIGITS))["spec"]["replicas"] == 1

    async def test_gives_a_new_object_of_an_old_name_a_new_uid(self, kube: Kubernetes) -> None:
        first = await kube.create(mdep())
        await kube.delete(DIGITS)
        second = await kube.create(mdep())
        assert first["metadata"]["uid"] != second["metadata"]["uid"]
        assert int(version(second)) > int(version(first))

    @pytest.mark.parametrize(
        "metadata", [{"name": "Not_A_Name"}, {"labels": {"model": "two words"}}, {"labels": {"model": "x" * 64}}]
    )
    async def test_refuses_bad_metadata(self, kube: Kubernetes, metadata: Object) -> None:
        with pytest.raises(Invalid, match=r"metadata\.(name|labels)"):
            await kube.create(mdep(metadata=metadata))
        assert await kube.list(MODEL_DEPLOYMENT, "vision") == []

    async def test_of_a_kind_without_status_gives_no_generation(self, kube: Kubernetes) -> None:
        created = await kube.create(secret("sundog-edge", split="{}"))
        assert "generation" not in created["metadata"]
        assert created["data"] == {"split": "e30="}


class TestApply:
    async def test_creates_what_is_absent(self, kube: Kubernetes) -> None:
        applied = await kube.apply(mdep())
        assert applied["metadata"]["generation"] == 1
        assert applied["status"] == {"observedGeneration": -1}
        assert applied == await kube.get(DIGITS)

    async def test_that_changes_nothing_writes_nothing(self, kube: Kubernetes) -> None:
        first = await settled(kube, mdep(metadata={"labels": {"team": "a"}}))
        assert await kube.apply(mdep(metadata={"labels": {"team": "a"}})) == first
        assert await kube.get(DIGITS) == first

    async def test_of_a_new_spec_is_a_new_generation(self, kube: Kubernetes) -> None:
        first = await kube.apply(mdep())
        second = await kube.apply(mdep(replicas=3))
        assert second["metadata"]["generation"] == 2
        assert int(version(second)) > int(version(first))
        assert second["metadata"]["uid"] == first["metadata"]["uid"]
        assert second["metadata"]["creationTimestamp"] == first["metadata"]["creationTimestamp"]

    async def test_of_new_labels_is_no_new_generation(self, kube: Kubernetes) -> None:
        first = await kube.apply(mdep(metadata={"labels": {"team": "a"}}))
        second = await kube.apply(mdep(metadata={"labels": {"team": "b"}}))
        assert second["metadata"]["labels"] == {"team": "b"}
        assert second["metadata"]["generation"] == 1
        assert version(second) != version(first)

    async def test_removes_what_it_applied_before(self, kube: Kubernetes) -> None:
        await kube.apply(
            mdep(paused=True, runtime={"podLabels": {"a": "1", "b": "2"}}, metadata={"labels": {"x": "1", "y": "2"}})
        )
        applied = await kube.apply(mdep(runtime={"podLabels": {"b": "2"}}, metadata={"labels": {"y": "2"}}))
        assert not applied["spec"].get("paused")
        assert applied["spec"]["runtime"]["podLabels"] == {"b": "2"}
        assert applied["metadata"]["labels"] == {"y": "2"}

    async def test_brings_a_default_back(self, kube: Kubernetes) -> None:
        await kube.apply(mdep(replicas=5))
        assert (await kube.apply(mdep()))["spec"]["replicas"] == 1

    async def test_removes_a_whole_parent(self, kube: Kubernetes) -> None:
        first = await kube.apply(mdep(runtime={"podLabels": {"a": "1"}}))
        assert first["spec"]["runtime"]["maxOngoingRequests"] == 64
        assert (await kube.apply(mdep()))["spec"].get("runtime", {}).get("podLabels", {}) == {}

    async def test_keeps_the_annotations_of_others(self, kube: Kubernetes) -> None:
        await kube.apply(mdep(metadata={"annotations": {"example.com/team": "vision"}}))
        await kube.annotate(DIGITS, {"serving.sundog.dev/command": "promote revision=8 id=abc"})
        applied = await kube.apply(mdep(replicas=2))
        assert applied["metadata"]["annotations"] == {"serving.sundog.dev/command": "promote revision=8 id=abc"}

    async def test_keeps_what_create_wrote_and_apply_never_named(self, kube: Kubernetes) -> None:
        await kube.create(mdep(paused=True))
        applied = await kube.apply(mdep())
        assert applied["spec"]["paused"] is True

    async def test_leaves_status_alone(self, kube: Kubernetes) -> None:
        await kube.apply(mdep())
        await status_of(kube, DIGITS, {"observedGeneration": 1, "url": "http://digits"})
        applied = await kube.apply(mdep(replicas=2) | {"status": {"url": "http://elsewhere"}})
        assert applied["status"] == {"observedGeneration": 1, "url": "http://digits"}

    async def test_replaces_a_list_whole(self, kube: Kubernetes) -> None:
        await kube.apply(mdep(model={"uri": "s3://models/m", "config": {"layers": [64, 32]}}))
        applied = await kube.apply(mdep(model={"uri": "s3://models/m", "config": {"layers": [32]}}))
        assert applied["spec"]["model"]["config"]["layers"] == [32]

    async def test_keeps_an_empty_object(self, kube: Kubernetes) -> None:
        applied = await settled(kube, mdep(model={"uri": "s3://models/m", "config": {}}))
        assert applied["spec"]["model"]["config"] == {}
        assert await kube.apply(mdep(model={"uri": "s3://models/m", "config": {}})) == applied

    async def test_of_an_older_version_is_a_conflict(self, kube: Kubernetes) -> None:
        first = await kube.apply(mdep())
        second = await kube.apply(mdep(replicas=2, metadata={"resourceVersion": version(first)}))
        with pytest.raises(Conflict):
            await kube.apply(mdep(replicas=3, metadata={"resourceVersion": version(first)}))
        assert await kube.get(DIGITS) == second

    async def test_of_what_was_read_changes_nothing_else(self, kube: Kubernetes) -> None:
        await kube.apply(mdep(metadata={"labels": {"team": "a"}}))
        stored = await status_of(kube, DIGITS, {"observedGeneration": 1})
        stored["spec"]["replicas"] = 4
        applied = await kube.apply(stored)
        assert applied["spec"]["replicas"] == 4
        assert applied["status"] == {"observedGeneration": 1}
        assert applied["metadata"]["generation"] == 2

    async def test_owns_its_owner_references(self, kube: Kubernetes) -> None:
        first, second = [await kube.apply(mdep(name)) for name in ("a", "b")]
        await kube.apply(secret("split", first, second))
        assert await owners(kube, "split") == {first["metadata"]["uid"], second["metadata"]["uid"]}
        await kube.apply(secret("split", second))
        assert await owners(kube, "split") == {second["metadata"]["uid"]}

    async def test_refuses_a_change_of_immutable_data(self, kube: Kubernetes) -> None:
        revision = thing(CONTROLLER_REVISION, "digits-5f0c", data={"model": "a"}, revision=1)
        first = await kube.apply(revision)
        with pytest.raises(Invalid, match="data"):
            await kube.apply(revision | {"data": {"model": "b"}})
        assert await kube.get(ref_of(revision)) == first


class TestReplace:
    async def test_puts_the_whole_object_and_leaves_status_alone(self, kube: Kubernetes) -> None:
        await kube.create(mdep(paused=True, metadata={"labels": {"team": "a", "tier": "b"}}))
        stored = await status_of(kube, DIGITS, {"observedGeneration": 1})
        del stored["spec"]["paused"], stored["metadata"]["labels"]["tier"]
        stored["spec"]["replicas"] = 3
        stored["status"] = {"observedGeneration": 9}
        replaced = await kube.replace(stored)
        assert replaced == await kube.get(DIGITS)
        assert replaced["spec"]["replicas"] == 3
        assert not replaced["spec"].get("paused")
        assert replaced["metadata"]["labels"] == {"team": "a"}
        assert replaced["metadata"]["generation"] == 2
        assert replaced["status"] == {"observedGeneration": 1}

    async def test_that_changes_nothing_writes_nothing(self, kube: Kubernetes) -> None:
        first = await settled(kube, mdep())
        assert await kube.replace(await read(kube, DIGITS)) == first

    async def test_of_an_older_version_is_a_conflict(self, kube: Kubernetes) -> None:
        first = await kube.create(mdep())
        second = await kube.annotate(DIGITS, {"example.com/a": "b"})
        first["spec"]["replicas"] = 3
        with pytest.raises(Conflict):
            await kube.replace(first)
        assert await kube.get(DIGITS) == second

    async def test_of_what_is_gone_makes_nothing(self, kube: Kubernetes) -> None:
        first = await kube.create(mdep())
        await kube.delete(DIGITS)
        with pytest.raises((Conflict, NotFound)):
            await kube.replace(first)
        assert await kube.get(DIGITS) is None

    async def test_needs_a_version(self, kube: Kubernetes) -> None:
        await kube.create(mdep())
        with pytest.raises(ValueError, match=r"vision/digits: metadata\.resourceVersion is missing"):
            await kube.replace(mdep(replicas=2))

    async def test_fails_for_whoever_read_before_the_other_wrote(self, kube: Kubernetes) -> None:
        await kube.create(mdep())
        ours, theirs = await read(kube, DIGITS), await read(kube, DIGITS)
        ours["spec"]["replicas"], theirs["spec"]["replicas"] = 2, 3
        results = await asyncio.gather(kube.replace(ours), kube.replace(theirs), return_exceptions=True)
        assert sum(isinstance(result, Conflict) for result in results) == 1


class TestPatchStatus:
    async def test_replaces_status_whole_and_nothing_else(self, kube: Kubernetes) -> None:
        first = await kube.apply(mdep(metadata={"annotations": {"example.com/a": "b"}}))
        await status_of(kube, DIGITS, {"observedGeneration": 1, "url": "http://digits", "conditions": [ACCEPTED]})
        patched = await status_of(kube, DIGITS, {"observedGeneration": 1, "replicas": 2})
        assert patched["status"] == {"observedGeneration": 1, "replicas": 2}
        assert patched["spec"] == first["spec"]
        assert patched["metadata"] == first["metadata"] | {"resourceVersion": version(patched)}
        assert patched == await kube.get(DIGITS)

    async def test_that_changes_nothing_writes_nothing(self, kube: Kubernetes) -> None:
        await kube.apply(mdep())
        first = await status_of(kube, DIGITS, {"observedGeneration": 1})
        assert await status_of(kube, DIGITS, {"observedGeneration": 1}) == first

    async def test_of_an_older_version_is_a_conflict(self, kube: Kubernetes) -> None:
        first = await kube.apply(mdep())
        await kube.annotate(DIGITS, {"example.com/a": "b"})
        with pytest.raises(Conflict):
            await kube.patch_status(DIGITS, {"observedGeneration": 1}, resource_version=version(first))
        assert (await read(kube, DIGITS))["status"] == {"observedGeneration": -1}

    async def test_of_nothing_is_not_found(self, kube: Kubernetes) -> None:
        with pytest.raises(NotFound, match="vision/digits"):
            await kube.patch_status(DIGITS, {"observedGeneration": 1}, resource_version="1")

    async def test_of_the_same_version_from_two_writers_lets_one_win(self, kube: Kubernetes) -> None:
        first = await kube.apply(mdep())
        results = await asyncio.gather(
            *(
                kube.patch_status(DIGITS, {"observedGeneration": 1, "replicas": n}, resource_version=version(first))
                for n in range(3)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(result, Conflict) for result in results) == 2
        assert await kube.get(DIGITS) in results


class TestAnnotate:
    async def test_merges_and_removes(self, kube: Kubernetes) -> None:
        first = await kube.apply(mdep(metadata={"annotations": {"example.com/a": "1", "example.com/b": "2"}}))
        annotated = await kube.annotate(DIGITS, {"example.com/a": None, "example.com/c": "3"})
        assert annotated["metadata"]["annotations"] == {"example.com/b": "2", "example.com/c": "3"}
        assert annotated["metadata"]["generation"] == 1
        assert annotated["spec"] == first["spec"]

    async def test_that_changes_nothing_writes_nothing(self, kube: Kubernetes) -> None:
        first = await settled(kube, mdep(metadata={"annotations": {"example.com/a": "1"}}))
        assert await kube.annotate(DIGITS, {"example.com/a": "1", "example.com/b": None}) == first

    async def test_of_nothing_is_not_found(self, kube: Kubernetes) -> None:
        with pytest.raises(NotFound, match="vision/digits"):
            await kube.annotate(DIGITS, {"example.com/a": "1"})


class TestDelete:
    async def test_removes(self, kube: Kubernetes) -> None:
        await kube.apply(mdep())
        await kube.delete(DIGITS)
        assert await kube.get(DIGITS) is None

    async def test_of_nothing_is_success(self, kube: Kubernetes) -> None:
        await kube.delete(DIGITS)
        await kube.delete(DIGITS, uid="5d9b0a1d-62ce-470c-ba61-24557b6f4e68")

    async def test_of_another_uid_is_a_conflict(self, kube: Kubernetes) -> None:
        first = await kube.apply(mdep())
        await kube.delete(DIGITS)
        second = await kube.apply(mdep())
        with pytest.raises(Conflict):
            await kube.delete(DIGITS, uid=first["metadata"]["uid"])
        assert await kube.get(DIGITS) == second
        await kube.delete(DIGITS, uid=second["metadata"]["uid"])
        assert await kube.get(DIGITS) is None


def name_of(obj: Object) -> str:
    name: str = obj["metadata"]["name"]
    return name


class TestList:
    async def test_orders_by_namespace_and_name(self, kube: Kubernetes) -> None:
        for namespace, name in (("vision-b", "a"), ("vision", "b"), ("vision", "a"), ("vision", "a-b")):
            await kube.apply(mdep(name, namespace))
        listed = [(obj["metadata"]["namespace"], obj["metadata"]["name"]) for obj in await kube.list(MODEL_DEPLOYMENT)]
        assert listed == [("vision", "a"), ("vision", "a-b"), ("vision", "b"), ("vision-b", "a")]
        assert [obj["metadata"]["name"] for obj in await kube.list(MODEL_DEPLOYMENT, "vision-b")] == ["a"]

    async def test_selects_by_labels(self, kube: Kubernetes) -> None:
        for name, labels in (("a", {"x": "1", "y": "1"}), ("b", {"x": "1"}), ("c", {})):
            await kube.apply(mdep(name, metadata={"labels": labels}))
        both = await kube.list(MODEL_DEPLOYMENT, "vision", {"x": "1", "y": "1"})
        assert [obj["metadata"]["name"] for obj in both] == ["a"]
        one = await kube.list(MODEL_DEPLOYMENT, labels={"x": "1"})
        assert [obj["metadata"]["name"] for obj in one] == ["a", "b"]
        assert await kube.list(MODEL_DEPLOYMENT, "vision", {"x": "2"}) == []

    async def test_labels_alone_are_what_get_gives(self, kube: Kubernetes) -> None:
        await kube.apply(mdep(metadata={"labels": {"team": "a"}}))
        assert await kube.labels(DIGITS) == {"team": "a"}
        await kube.create(mdep("plain"))
        assert await kube.labels(Ref(MODEL_DEPLOYMENT, "vision", "plain")) == {}
        await kube.delete(DIGITS)
        assert await kube.labels(DIGITS) is None

    async def test_a_view_is_of_what_get_gives(self, kube: Kubernetes) -> None:
        await kube.apply(mdep("b", metadata={"labels": {"team": "a"}}))
        await kube.apply(mdep("a"))
        assert await kube.view(Ref(MODEL_DEPLOYMENT, "vision", "b"), name_of) == "b"
        assert await kube.view(Ref(MODEL_DEPLOYMENT, "vision", "c"), name_of) is None
        assert list(await kube.views(MODEL_DEPLOYMENT, "vision", name_of)) == ["a", "b"]
        assert list(await kube.views(MODEL_DEPLOYMENT, "vision", name_of, {"team": "a"})) == ["b"]

    async def test_gives_what_get_gives(self, kube: Kubernetes) -> None:
        await kube.apply(secret("a", x="1"))
        await kube.apply(secret("b", x="2"))
        assert await kube.list(SECRET, "vision") == [await kube.get(Ref(SECRET, "vision", name)) for name in ("a", "b")]


class TestAKindThatIsNotServed:
    @pytest.mark.parametrize("api_version", ["nobody.example.com/v1", MODEL_DEPLOYMENT.api_version, "v1"])
    async def test_is_distinguished_from_an_object_that_is_not_there(self, kube: Kubernetes, api_version: str) -> None:
        ref = Ref(Kind(api_version, "Unheard", "unheards"), "vision", "digits")
        for read in (kube.get(ref), kube.labels(ref), kube.list(ref.kind, "vision"), kube.list(ref.kind)):
            with pytest.raises(NotServed, match=r"(?i)unheard"):
                await read


class TestWatch:
    async def test_gives_what_exists_then_what_changes(self, kube: Kubernetes) -> None:
        await kube.apply(mdep("a"))
        await kube.apply(mdep("b"))
        async with aclosing(kube.watch(MODEL_DEPLOYMENT, "vision")) as events:
            assert seen(await take(events, 3)) == [("ADDED", "a"), ("ADDED", "b"), ("SYNCED", "")]
            created = await kube.apply(mdep("c"))
            patched = await status_of(kube, Ref(MODEL_DEPLOYMENT, "vision", "a"), {"observedGeneration": 1})
            await kube.delete(Ref(MODEL_DEPLOYMENT, "vision", "b"))
            changes = await take(events, 3)
            assert seen(changes) == [("ADDED", "c"), ("MODIFIED", "a"), ("DELETED", "b")]
            assert [event.object for event in changes[:2]] == [created, patched]
            versions = [int(version(event.object)) for event in changes]
            assert versions == sorted(set(versions))

    async def test_is_silent_about_writes_that_change_nothing(self, kube: Kubernetes) -> None:
        await settled(kube, mdep())
        async with aclosing(kube.watch(MODEL_DEPLOYMENT)) as events:
            await take(events, 2)
            await kube.apply(mdep())
            await kube.annotate(DIGITS, {"example.com/a": None})
            await kube.delete(Ref(MODEL_DEPLOYMENT, "vision", "absent"))
            await kube.apply(mdep("last"))
            assert seen(await take(events, 1)) == [("ADDED", "last")]

    async def test_keeps_to_its_kind_and_namespace(self, kube: Kubernetes) -> None:
        await kube.apply(mdep("elsewhere", "audio"))
        async with aclosing(kube.watch(MODEL_DEPLOYMENT, "vision")) as events:
            assert seen(await take(events, 1)) == [("SYNCED", "")]
            await kube.apply(secret("split", x="1"))
            await kube.apply(mdep("here-not", "audio"))
            await kube.apply(mdep("here"))
            assert seen(await take(events, 1)) == [("ADDED", "here")]

    async def test_serves_several_watchers_alike(self, kube: Kubernetes) -> None:
        async with (
            aclosing(kube.watch(MODEL_DEPLOYMENT)) as first,
            aclosing(kube.watch(MODEL_DEPLOYMENT)) as second,
        ):
            await take(first, 1)
            await take(second, 1)
            for replicas in (1, 2, 3):
                await kube.apply(mdep(replicas=replicas))
            await kube.delete(DIGITS)
            assert await take(first, 4) == await take(second, 4)

    async def test_replays_to_what_a_list_gives(self, kube: Kubernetes) -> None:
        async with aclosing(kube.watch(MODEL_DEPLOYMENT)) as events:
            await take(events, 1)
            for n in range(12):
                await kube.apply(mdep(f"d{n % 5}", replicas=n))
                if n % 4 == 3:
                    await kube.delete(Ref(MODEL_DEPLOYMENT, "vision", f"d{(n + 1) % 5}"))
            await kube.apply(mdep("last"))
            replayed: dict[str, Object] = {}
            while "last" not in replayed:
                [event] = await take(events, 1)
                name = event.object["metadata"]["name"]
                if event.type == "DELETED":
                    del replayed[name]
                else:
                    replayed[name] = event.object
        assert [replayed[name] for name in sorted(replayed)] == await kube.list(MODEL_DEPLOYMENT, "vision")


class TestGarbageCollection:
    async def test_takes_all_that_an_owner_leaves_behind(self, kube: Kubernetes, eventually: Eventually) -> None:
        owner = await kube.apply(mdep())
        child = await kube.apply(secret("child", owner))
        await kube.apply(secret("grandchild", child))
        await kube.apply(secret("bystander"))
        await kube.delete(DIGITS)
        await eventually(lambda: names_are(kube, ["bystander"]))

    async def test_waits_for_the_last_owner(self, kube: Kubernetes, eventually: Eventually) -> None:
        first, second = [await kube.apply(mdep(name)) for name in ("a", "b")]
        await kube.apply(secret("split", first, second))
        await kube.delete(ref_of(first))
        await eventually(lambda: owned_by(kube, "split", {second["metadata"]["uid"]}))
        await kube.delete(ref_of(second))
        await eventually(lambda: names_are(kube, []))

    async def test_takes_what_was_born_without_an_owner(self, kube: Kubernetes, eventually: Eventually) -> None:
        owner = await kube.apply(mdep())
        await kube.delete(DIGITS)
        await kube.apply(secret("late", owner))
        await eventually(lambda: names_are(kube, []))

    async def test_knows_an_owner_by_uid_not_by_name(self, kube: Kubernetes, eventually: Eventually) -> None:
        owner = await kube.apply(mdep())
        await kube.apply(secret("child", owner))
        await kube.delete(DIGITS)
        await kube.apply(mdep())
        await eventually(lambda: names_are(kube, []))

    async def test_tells_watchers(self, kube: Kubernetes) -> None:
        owner = await kube.apply(mdep())
        await kube.apply(secret("child", owner))
        async with aclosing(kube.watch(SECRET, "vision")) as events:
            await take(events, 2)
            await kube.delete(DIGITS)
            assert seen(await take(events, 1)) == [("DELETED", "child")]


async def owners(kube: Kubernetes, name: str) -> set[str]:
    obj = await read(kube, Ref(SECRET, "vision", name))
    return {reference["uid"] for reference in obj["metadata"].get("ownerReferences", [])}


async def owned_by(kube: Kubernetes, name: str, uids: set[str]) -> bool:
    return await owners(kube, name) == uids


async def names_are(kube: Kubernetes, names: list[str]) -> bool:
    return [obj["metadata"]["name"] for obj in await kube.list(SECRET, "vision")] == names


class TestObjectsOfTheWholeCluster:
    REF = Ref(NODE, "", "contract-test")

    @staticmethod
    def node(**labels: str) -> Object:
        return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "contract-test", "labels": labels}}

    async def test_have_no_namespace(self, kube: Kubernetes) -> None:
        created = await kube.create(self.node(rack="a"))
        assert "namespace" not in created["metadata"]
        assert ref_of(created) == self.REF
        assert str(self.REF) == "Node contract-test"
        read_back = await read(kube, self.REF)
        assert read_back["metadata"]["uid"] == created["metadata"]["uid"]
        assert [obj["metadata"]["name"] for obj in await kube.list(NODE, labels={"rack": "a"})] == ["contract-test"]
        await kube.delete(self.REF)
        assert await kube.get(self.REF) is None

    async def test_are_applied_and_replaced(self, kube: Kubernetes, eventually: Eventually) -> None:
        await kube.apply(self.node(rack="a"))
        # The controllers of a real cluster write to a new node as well.
        await eventually(lambda: self.replaced(kube, rack="b"))
        assert (await read(kube, self.REF))["metadata"]["labels"]["rack"] == "b"
        await kube.delete(self.REF)

    async def replaced(self, kube: Kubernetes, **labels: str) -> bool:
        found = await read(kube, self.REF)
        found["metadata"]["labels"] |= labels
        try:
            await kube.replace(found)
        except Conflict:
            return False
        return True

    async def test_are_watched(self, kube: Kubernetes) -> None:
        async with aclosing(kube.watch(NODE)) as events:
            while (await take(events, 1))[0].type != "SYNCED":
                pass
            await kube.create(self.node(rack="a"))
            await kube.delete(self.REF)
            changes = [await self.next_of_ours(events)]
            while changes[-1] != "DELETED":
                changes.append(await self.next_of_ours(events))
        assert [change for change in changes if change != "MODIFIED"] == ["ADDED", "DELETED"]

    async def next_of_ours(self, events: AsyncIterator[WatchEvent]) -> str:
        while True:
            [event] = await take(events, 1)
            if ref_of(event.object) == self.REF:
                return event.type


async def test_callers_cannot_change_what_is_stored(kube: Kubernetes) -> None:
    given = mdep()
    returned = await kube.apply(given)
    stored = await read(kube, DIGITS)
    for copy in (given, returned, stored, (await kube.list(MODEL_DEPLOYMENT))[0]):
        copy["spec"]["model"]["uri"] = "s3://changed"
    assert (await read(kube, DIGITS))["spec"]["model"]["uri"] == "s3://models/digits/v1"


async def test_resource_versions_rise_over_all_objects(kube: Kubernetes) -> None:
    written = [
        await kube.apply(mdep("a")),
        await kube.apply(secret("b", x="1")),
        await kube.apply(mdep("a", replicas=2)),
        await kube.annotate(Ref(SECRET, "vision", "b"), {"example.com/a": "1"}),
    ]
    versions = [int(version(obj)) for obj in written]
    assert versions == sorted(set(versions))
