"""How often the operator lists a cluster's nodes and pods, for any number of waiting ModelDeployments."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from sundog_operator.api.installation import parse_installation
from sundog_operator.app import device_inventory
from sundog_operator.app.device_inventory import PROFILES_INTERVAL_S, DeviceInventory
from sundog_operator.errors import DependencyError, Forbidden
from sundog_operator.ports import NODE, POD, RESOURCE_QUOTA, Kind

GPU = "nvidia.com/gpu"


OURS = {"app.kubernetes.io/part-of": "sundog"}


def pod(devices: int, **labels: str) -> dict[str, Any]:
    container = {"resources": {"requests": {GPU: str(devices)}}}
    return {"metadata": {"labels": labels}, "spec": {"nodeName": "a", "containers": [container]}}


class Memory:
    """The operator's memory: its own pods."""

    def __init__(self) -> None:
        self.pods: list[dict[str, Any]] = []

    async def views(self, kind: Kind, namespace: str | None, of: Callable[[Any], Any], labels: Any) -> Sequence[Any]:
        assert (kind, namespace, labels) == (POD, None, OURS)
        return list(map(of, self.pods))


class Server:
    """One node, a pod of Sundog's and a foreign one. It counts its lists, and answers after other tasks ran."""

    def __init__(self) -> None:
        self.lists: Counter[str] = Counter()
        self.fault: Exception | None = None

    async def scan(self, kind: Kind, of: Callable[[Any], Any]) -> Sequence[Any]:
        self.lists[kind.plural] += 1
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        node = {"metadata": {"name": "a"}, "status": {"allocatable": {GPU: "2"}}}
        return [of(each) for each in {NODE: [node], POD: [pod(1), pod(2, **OURS)]}[kind]]


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The CPU time of the thread: each refresh takes `cost` of it."""
    spent = SimpleNamespace(at=0.0, cost=0.0)

    def thread_time() -> float:
        spent.at += spent.cost
        return spent.at

    monkeypatch.setattr(device_inventory, "time", SimpleNamespace(thread_time=thread_time))
    return spent


async def look(devices: DeviceInventory, server: Server, clock: Clock, memory: Memory | None = None) -> Any:
    return await devices.read(server, memory or Memory(), clock)  # type: ignore[arg-type]


async def wait(server: Server, clock: Clock, seconds: int, deployments: int = 100) -> None:
    """Let a number of ModelDeployments read the inventory, each five times a second."""
    devices = DeviceInventory()
    for tick in range(seconds * 5):
        clock.at = tick / 5
        await asyncio.gather(*(look(devices, server, clock) for _ in range(deployments)))


async def test_waiters_share_one_list_every_ten_seconds(server: Server, clock: Clock, cpu: SimpleNamespace) -> None:
    await wait(server, clock, 60)
    assert server.lists == {"nodes": 6, "pods": 6}


async def test_lists_that_take_long_are_made_less_often(server: Server, clock: Clock, cpu: SimpleNamespace) -> None:
    cpu.cost = 0.75
    await wait(server, clock, 60, deployments=3)
    assert server.lists["pods"] == 2, "a fortieth of the time"


async def test_who_may_not_list_nodes_asks_once_in_ten_minutes(server: Server, clock: Clock) -> None:
    server.fault = Forbidden("nodes is forbidden (403)")
    await wait(server, clock, 590, deployments=2)
    assert server.lists == {"nodes": 1}


async def test_pods_of_sundog_count_as_they_are_now_and_others_as_they_were(server: Server, clock: Clock) -> None:
    devices, memory = DeviceInventory(), Memory()
    found = await look(devices, server, clock, memory)
    assert [node["metadata"]["name"] for node in found.nodes] == ["a"]
    assert found.taken == {("a", GPU): 1, ("a", "pods"): 1}
    memory.pods = [pod(4, **OURS)]
    clock.at = device_inventory.OWN_INTERVAL_S
    assert (await look(devices, server, clock, memory)).taken == {("a", GPU): 5, ("a", "pods"): 2}
    assert server.lists["pods"] == 1


async def test_a_list_that_fails_is_asked_for_again(server: Server, clock: Clock) -> None:
    devices = DeviceInventory()
    server.fault = DependencyError("the API server does not answer")
    with pytest.raises(DependencyError):
        await look(devices, server, clock)
    server.fault = None
    assert await look(devices, server, clock) is not None


async def test_all_who_wait_in_a_namespace_share_one_list_of_quotas(clock: Clock) -> None:
    lists: Counter[str] = Counter()

    class Quotas:
        async def list(self, kind: Kind, namespace: str) -> list[dict[str, Any]]:
            assert kind == RESOURCE_QUOTA
            lists[namespace] += 1
            return [{"metadata": {"name": namespace}}]

    inventory = DeviceInventory()
    for tick in range(20):
        clock.at = tick / 5
        for namespace in ("vision", "text"):
            (found,) = await inventory.read_quotas(Quotas(), namespace, clock)  # type: ignore[arg-type]
            assert found["metadata"]["name"] == namespace
    assert lists == {"vision": 2, "text": 2}


class LabeledServer(Server):
    """Nodes with labels."""

    def __init__(self, *labels: dict[str, str]) -> None:
        super().__init__()
        self.labels = labels

    async def scan(self, kind: Kind, of: Callable[[Any], Any]) -> Sequence[Any]:
        self.lists[kind.plural] += 1
        if self.fault is not None:
            raise self.fault
        if kind == POD:
            return []
        return [of({"metadata": {"name": "a", "labels": labels}, "status": {}}) for labels in self.labels]


async def profiles(devices: DeviceInventory, server: Server, clock: Clock, text: str = "") -> Sequence[str]:
    made = await devices.set_profiles(parse_installation(text, "test"), server, clock)  # type: ignore[arg-type]
    return made.gpu.profiles


JOINED = ("gke", "eks")
"""The profiles of both pools: one of them may be at zero when nodes are read."""


async def test_profiles_are_guessed_once_in_ten_minutes_and_those_of_an_empty_pool_stay(clock: Clock) -> None:
    devices, server = DeviceInventory(), LabeledServer({"cloud.google.com/gke-accelerator": "nvidia-l4"})
    for _ in range(3):
        assert await profiles(devices, server, clock) == ("gke",)
    assert server.lists == {"nodes": 1}
    for labels, expected in (((), ("gke",)), (({"eks.amazonaws.com/compute-type": "auto"},), JOINED), ((), JOINED)):
        clock.at += PROFILES_INTERVAL_S
        server.labels = labels
        assert await profiles(devices, server, clock) == expected


@pytest.mark.parametrize("fault", [Forbidden("may not list nodes"), DependencyError("no answer")])
async def test_the_last_guess_holds_while_nodes_cannot_be_read(clock: Clock, fault: Exception) -> None:
    devices, server = DeviceInventory(), LabeledServer({"cloud.google.com/gke-accelerator": "nvidia-l4"})
    server.fault = fault
    assert await profiles(devices, server, clock) == ()
    clock.at += PROFILES_INTERVAL_S
    server.fault = None
    assert await profiles(devices, server, clock) == ("gke",)
    clock.at += PROFILES_INTERVAL_S
    server.fault = fault
    assert await profiles(devices, server, clock) == ("gke",)


async def test_an_inventory_shows_the_profiles_too_and_named_ones_need_no_look(clock: Clock, cpu: Any) -> None:
    devices, server = DeviceInventory(), LabeledServer({"cloud.google.com/gke-accelerator": "nvidia-l4"})
    assert await profiles(devices, server, clock, "gpu: {profiles: [karpenter]}") == ("karpenter",)
    assert not server.lists
    await look(devices, server, clock)
    assert await profiles(devices, server, clock) == ("gke",)
    assert server.lists == {"nodes": 1, "pods": 1}
