"""Demands for models on simulated nodes: how many the real scheduler places as Sundog's pods, and as a pod per replica without sharing.

The API server and the scheduler are real. Nodes are objects alone, so no pod starts. Time is no part of the result.
"""

import asyncio
import os
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import pytest

from measuring import packing
from measuring.packing import Demand, Event, Machine, Side
from measuring.record import Record
from measuring.scheduling import Scheduled, control_plane_without_controllers, scheduling_on
from real_kubernetes.cluster import Cluster
from sundog_operator.api.quantities import parse_quantity
from sundog_operator.core.kubernetes import shared_pods

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

SEEDS = range(int(os.environ.get("SUNDOG_BENCH_SEEDS", "5")))
GPU_KINDS = {"small": 60, "whole": 25, "several": 15}
GPU_ARRIVALS, CPU_ARRIVALS = 120, 200


class Serving(Protocol):
    """Who creates and deletes pods for demands."""

    async def arrive(self, demand: Demand) -> bool:
        """Return whether all its replicas have a place. Otherwise none has."""

    async def leave(self, demand: Demand) -> None:
        """Take the places of a demand away."""


@dataclass
class OwnPods:
    """Each demand has pods of its own."""

    scheduled: Scheduled
    side: Side
    _pods: dict[str, list[str]] = field(default_factory=dict)

    async def arrive(self, demand: Demand) -> bool:
        self._pods[demand.name] = await self.scheduled.place(packing.make_pods(demand, self.side))
        return bool(self._pods[demand.name])

    async def leave(self, demand: Demand) -> None:
        await self.scheduled.remove(self._pods.pop(demand.name))


@dataclass
class SharedPods:
    """Demands share pods. This stands in for Ray: a replica goes to the pod with the most free CPU, a pod without replicas goes."""

    scheduled: Scheduled
    side: Side
    _free: dict[str, Counter[str]] = field(default_factory=dict)
    _replicas: dict[str, list[str]] = field(default_factory=dict)

    async def arrive(self, demand: Demand) -> bool:
        size = shared_pods.replica_amounts(packing.make_spec(demand, self.side.modes).resources)
        mine = self._replicas.setdefault(demand.name, [])
        while len(mine) < demand.replicas:
            fitting = [name for name, free in self._free.items() if all(free[each] >= size[each] for each in size)]
            if not fitting:
                fitting = await self.scheduled.place([packing.make_shared_pod(demand, self.side)])
                room = shared_pods.pod_amounts(self.side.installation.ray.shared_workers)
                self._free |= {name: Counter(room) for name in fitting}
            if not fitting:
                await self.leave(demand)
                return False
            mine.append(max(fitting, key=lambda name: self._free[name]["cpu"]))
            self._free[mine[-1]].subtract(size)
        return True

    async def leave(self, demand: Demand) -> None:
        size = shared_pods.replica_amounts(packing.make_spec(demand, self.side.modes).resources)
        gone = self._replicas.pop(demand.name)
        for name in gone:
            self._free[name].update(size)
        used = {name for names in self._replicas.values() for name in names}
        empty = [name for name in dict.fromkeys(gone) if name not in used]
        await self.scheduled.remove(empty)
        for name in empty:
            del self._free[name]


@dataclass
class Found:
    """The result of one round.

    Attributes:
        placed: demands that got a place, by kind.
        asked: demands, by kind.
        replicas: the replicas of those that got one.
        device_share: devices' memory that placed replicas asked for, of the fleet's; mean over the second half of the events.
        cpu_share: the same of CPU.
    """

    placed: dict[str, int]
    asked: dict[str, int]
    replicas: int
    device_share: float
    cpu_share: float


async def run(serving: Serving, events: Sequence[Event], fleet: Sequence[Machine]) -> Found:
    """Let demands come and go."""
    there, shares = dict[str, Demand](), list[tuple[float, float]]()
    placed, asked, replicas = Counter[str](), Counter[str](), 0
    gib = sum(each.count * each.devices * each.device_mib for each in fleet) / 1024
    cores = float(sum(each.count * parse_quantity(each.cpu) for each in fleet))
    for event in events:
        demand = event.demand
        if not event.leaves:
            asked[demand.kind] += 1
            if await serving.arrive(demand):
                placed[demand.kind] += 1
                replicas += demand.replicas
                there[demand.name] = demand
        elif there.pop(demand.name, None):
            await serving.leave(demand)
        shares.append(
            (
                sum(each.asked_gib for each in there.values()) / gib if gib else 0.0,
                sum(each.cores for each in there.values()) / cores,
            )
        )
    devices, cpus = zip(*shares[len(shares) // 2 :], strict=True)
    return Found(dict(placed), dict(asked), replicas, statistics.mean(devices), statistics.mean(cpus))


async def measure(cluster: Cluster, side: Side, events: Sequence[Event], fleet: Sequence[Machine]) -> Found:
    """Run one side on an empty fleet, with a scheduler that knows nothing else."""
    async with scheduling_on(cluster, list(packing.make_nodes(fleet, side.offers))) as scheduled:
        if not side.is_plain and not any(each.devices for each in fleet):
            assert await scheduled.place(packing.make_own_pods())
        serving: Serving = SharedPods(scheduled, side) if side.is_shared else OwnPods(scheduled, side)
        return await run(serving, events, fleet)


@pytest.fixture(scope="module")
def scheduling() -> Iterator[Cluster]:
    with control_plane_without_controllers("packing") as cluster:
        yield cluster


def compare(
    cluster: Cluster, sides: Sequence[Side], fleet: Sequence[Machine], arrivals: int, kinds: Mapping[str, int]
) -> dict[str, list[Found]]:
    """Return the rounds of each side, one for each seed."""
    found: dict[str, list[Found]] = {side.name: [] for side in sides}
    for seed in SEEDS:
        events = packing.draw_events(seed, arrivals, kinds)
        for side in sides:
            found[side.name].append(asyncio.run(measure(cluster, side, events, fleet)))
    return found


def spread(values: Sequence[float], form: str) -> str:
    """Return the median with the lowest and the highest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return our value divided by theirs, by seed."""
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)], ".2f")


def total(rounds: Sequence[Found]) -> list[int]:
    """Return the demands that each round placed."""
    return [sum(each.placed.values()) for each in rounds]


def record_devices(found: Mapping[str, Sequence[Found]]) -> Record:
    """Return the table of demands for devices. The first side is the one without sharing."""
    [base, *_] = found.values()
    devices = sum(each.count * each.devices for each in packing.GPU_FLEET)
    count = sum(each.count for each in packing.GPU_FLEET)
    record = Record(
        "packing",
        f"{GPU_ARRIVALS} demands for {devices} GPUs of five types on {count} nodes, {len(base)} seeds",
        (
            "pods",
            "demands placed",
            *GPU_KINDS,
            "replicas placed",
            "GPU memory asked for, of all",
            "CPU asked for, of all",
            "demands / without sharing",
            "GPU memory / without sharing",
        ),
    )
    for name, rounds in found.items():
        record.add(
            name,
            spread(total(rounds), ".0f"),
            *(
                f"{sum(each.placed.get(kind, 0) for each in rounds)} of {sum(each.asked[kind] for each in rounds)}"
                for kind in GPU_KINDS
            ),
            spread([each.replicas for each in rounds], ".0f"),
            spread([each.device_share for each in rounds], ".0%"),
            spread([each.cpu_share for each in rounds], ".0%"),
            ratio(total(rounds), total(base)) if rounds is not base else "",
            ratio([each.device_share for each in rounds], [each.device_share for each in base])
            if rounds is not base
            else "",
        )
    record.raw = {name: [asdict(each) for each in rounds] for name, rounds in found.items()}
    return record


def record_cpu(found: Mapping[str, Sequence[Found]]) -> Record:
    """Return the table of demands for CPU. The first side is the plain Deployment."""
    [base, *_] = found.values()
    [machine] = packing.CPU_FLEET
    record = Record(
        "packing_cpu",
        f"{CPU_ARRIVALS} demands for CPU on {machine.count} nodes of 16 cores and 64 GiB, {len(base)} seeds",
        ("pods", "demands placed", "replicas placed", "CPU asked for, of all", "demands / a plain Deployment's"),
    )
    for name, rounds in found.items():
        record.add(
            name,
            spread(total(rounds), ".0f"),
            spread([each.replicas for each in rounds], ".0f"),
            spread([each.cpu_share for each in rounds], ".0%"),
            ratio(total(rounds), total(base)) if rounds is not base else "",
        )
    record.raw = {name: [asdict(each) for each in rounds] for name, rounds in found.items()}
    return record


def test_demands_for_devices(scheduling: Cluster) -> None:
    record_devices(compare(scheduling, packing.GPU_SIDES, packing.GPU_FLEET, GPU_ARRIVALS, GPU_KINDS)).finish()


def test_demands_for_cpu(scheduling: Cluster) -> None:
    record_cpu(compare(scheduling, packing.CPU_SIDES, packing.CPU_FLEET, CPU_ARRIVALS, {"cpu": 1})).finish()
