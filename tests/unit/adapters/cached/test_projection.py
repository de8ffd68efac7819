"""Objects that tenants label as Sundog's take little of the operator's memory, and only their own namespace's share."""

from typing import Any

import orjson
import pytest

from doubles.clock import FakeClock
from doubles.hooked_kubernetes import HookedKubernetes
from sundog_operator.adapters.cached.kubernetes import CachedKubernetes
from sundog_operator.adapters.cached.projection import FIXED_NAMES, project
from sundog_operator.core.kubernetes import names
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    POD,
    RAY_CLUSTER,
    SERVICE,
    Kind,
    Object,
    Ref,
)

MIB = 2**20
OWNED = {"ownerReferences": [{"apiVersion": "v1", "kind": "ModelDeployment", "name": "digits", "uid": "u"}]}


def labelled(kind: Kind, name: str, namespace: str = "vision", *, owned: bool = False, **rest: Any) -> Object:
    metadata = {"name": name, "namespace": namespace, "labels": names.PART_OF_SUNDOG, **(OWNED if owned else {})}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata} | rest


class World:
    def __init__(self, namespace_bytes: int) -> None:
        self.server = HookedKubernetes(FakeClock())
        self.asked: list[str] = []
        self.cached = CachedKubernetes(
            self.server, lambda _: None, FakeClock(), keep=project, namespace_bytes=namespace_bytes
        )
        self.server.faults = lambda verb, ref: self.asked.append(f"{verb} {ref.name}")

    def kept_bytes(self, kind: Kind) -> int:
        return sum(len(entry.body) for entry in self.cached.objects.find(kind, None, {}))


async def test_large_config_maps_with_the_label_take_no_memory() -> None:
    world = World(MIB)
    owner = await world.server.create(labelled(MODEL_DEPLOYMENT, "digits", spec={}))
    refs = [{**OWNED["ownerReferences"][0], "uid": owner["metadata"]["uid"]}]
    for name in (names.EDGE, *(f"theirs-{number}" for number in range(300))):
        obj = labelled(CONFIG_MAP, name, data={"a": "x" * (10 if name == names.EDGE else MIB // 100)})
        obj["metadata"] |= {"ownerReferences": refs} if name == names.EDGE or name.endswith("0") else {}
        await world.server.create(obj)
    await world.cached.resync(CONFIG_MAP)
    assert world.cached.objects.count(CONFIG_MAP) == 1
    assert world.kept_bytes(CONFIG_MAP) < 1000
    assert world.cached.find_excess("vision") == ""


@pytest.mark.parametrize("kind", [POD, SERVICE, RAY_CLUSTER, DEPLOYMENT, CONFIG_MAP])
def test_an_object_with_the_label_alone_is_not_kept(kind: Kind) -> None:
    assert project(kind, labelled(kind, names.EDGE)) is None
    assert project(kind, labelled(kind, names.EDGE, owned=True)) is not None


@pytest.mark.parametrize("kind", [MODEL_DEPLOYMENT, CONTROLLER_REVISION, NETWORK_POLICY])
def test_kinds_without_owners_are_kept(kind: Kind) -> None:
    assert project(kind, labelled(kind, "a")) is not None


def test_what_is_compared_or_written_back_is_kept_whole() -> None:
    cluster = labelled(RAY_CLUSTER, "a", owned=True, spec={"a": 1})
    cluster["metadata"] |= {"annotations": {"a": "b"}}
    whole = {**cluster, "metadata": {**cluster["metadata"], "managedFields": [{"manager": "x"}]}}
    assert project(RAY_CLUSTER, whole) == cluster


def test_of_a_pod_only_what_is_read_is_kept() -> None:
    container = {"name": "a", "ports": [{"containerPort": 1}], "resources": {"requests": {"cpu": "1"}}}
    env = [{"name": "RAY_ADDRESS", "value": "a"}]
    unread = {"command": ["a"], "volumeMounts": [{"name": "v"}], "livenessProbe": {}}
    long = [{"name": "LONG", "value": "x" * 10_000}]
    pod = labelled(POD, "a", owned=True, status={"phase": "Running"})
    pod["metadata"] |= {"annotations": {"serving.sundog.dev/a": "b", "theirs": "x" * 10_000}}
    pod["spec"] = {
        "nodeName": "n",
        "volumes": [{"name": "v"}],
        "containers": [{**container, **unread, "env": [*env, *long]}],
    }
    kept = project(POD, pod)
    assert kept is not None
    assert kept["spec"] == {"nodeName": "n", "containers": [{**container, "env": env}]}
    assert kept["metadata"]["annotations"] == {"serving.sundog.dev/a": "b"}
    assert kept["status"] == pod["status"]


def test_a_copy_of_the_manifest_in_annotations_is_not_kept() -> None:
    manifest = labelled(MODEL_DEPLOYMENT, "digits", spec={"a": 1})
    command = {"serving.sundog.dev/command": "promote revision=2 id=a"}
    manifest["metadata"] |= {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", **command}}
    kept = project(MODEL_DEPLOYMENT, manifest)
    assert kept is not None
    assert kept["metadata"]["annotations"] == command
    assert kept["spec"] == manifest["spec"]


def revision(name: str, size: int, namespace: str = "vision") -> Object:
    return labelled(CONTROLLER_REVISION, name, namespace, revision=1, data={"a": "x" * size})


async def test_a_namespace_that_is_too_large_says_so_and_others_are_whole() -> None:
    world = World(10_000)
    for number in range(8):
        await world.server.create(revision(f"a-r{number}", 3000))
    await world.server.create(revision("b-r1", 3000, "audio"))
    await world.cached.resync(CONTROLLER_REVISION)
    assert world.cached.find_excess("vision").startswith(
        "namespace vision: Sundog's objects take more than 0.00953674 MiB"
    )
    assert world.cached.find_excess("audio") == ""
    assert world.kept_bytes(CONTROLLER_REVISION) < 10_000 + 3500 + 8 * 300
    assert len(await world.cached.list(CONTROLLER_REVISION, "audio")) == 1
    assert await world.cached.resync(CONTROLLER_REVISION) == 0, "the same objects are no news"


async def test_an_object_that_is_left_out_is_read_from_the_server() -> None:
    world = World(4000)
    for number in range(3):
        await world.server.create(revision(f"a-r{number}", 3000))
    await world.cached.resync(CONTROLLER_REVISION)
    world.asked.clear()
    for number in range(3):
        found = await world.cached.get(Ref(CONTROLLER_REVISION, "vision", f"a-r{number}"))
        assert found is not None
        assert len(found["data"]["a"]) == 3000
    assert world.asked == ["get a-r1", "get a-r2"]


async def test_a_namespace_that_shrinks_is_whole_again() -> None:
    world = World(7500)
    for number in range(4):
        await world.server.create(revision(f"a-r{number}", 3000))
    await world.cached.resync(CONTROLLER_REVISION)
    assert world.cached.find_excess("vision")
    for number in range(2):
        await world.server.delete(Ref(CONTROLLER_REVISION, "vision", f"a-r{number}"))
    for _ in range(2):
        await world.cached.resync(CONTROLLER_REVISION)
    assert world.cached.find_excess("vision") == ""
    kept = await world.cached.list(CONTROLLER_REVISION, "vision")
    assert [len(each["data"]["a"]) for each in kept] == [3000, 3000]


def test_an_object_with_large_labels_is_left_out_without_them() -> None:
    world = World(100)
    many = {f"key-{number}": "x" * 60 for number in range(1000)}
    obj = revision("a-r1", 10)
    obj["metadata"] |= {"uid": "u", "resourceVersion": "1", "labels": many}
    assert world.cached.objects.put(obj)
    (entry,) = world.cached.objects.find(CONTROLLER_REVISION, "vision", {})
    assert orjson.loads(entry.body)["metadata"]["labels"] == {}
    assert entry.labels == {}


def test_the_names_of_which_a_namespace_has_one() -> None:
    assert FIXED_NAMES == {CONFIG_MAP: "sundog-edge", DEPLOYMENT: "sundog-edge"}
