"""Nodes of mixed GPUs, demands for models, and the pods that Sundog or a plain Deployment would create for them. Nothing runs."""

import copy
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.api.installation import Installation, parse_installation
from sundog_operator.api.quantities import parse_quantity
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import accelerators
from sundog_operator.core.ray import pods
from sundog_operator.core.revisions import Revision
from sundog_operator.ports import Object

GPU: Final = "nvidia.com/gpu"
NAMESPACE: Final = "models"
IMAGE: Final = "registry.example.com/runtime:1"
INSTALLATION: Final = parse_installation(f"runtimeImage: {IMAGE}", "bench")

_TIMEOUT: Final = timedelta(seconds=30)
_TAINT: Final = {"key": GPU, "value": "present", "effect": "NoSchedule"}


@dataclass(frozen=True)
class Machine:
    """Nodes of one kind. CPU and memory are what pods may request; `device_mib` is the memory of each device."""

    name: str
    count: int
    cpu: str
    memory: str
    product: str = ""
    device_mib: int = 0
    devices: int = 0


GPU_FLEET: Final = (
    Machine("l4", 8, "7900m", "28Gi", "NVIDIA-L4", 23034, 1),
    Machine("a10g", 4, "47800m", "178Gi", "NVIDIA-A10G", 23028, 4),
    Machine("a100-40", 2, "95600m", "1100Gi", "NVIDIA-A100-SXM4-40GB", 40960, 8),
    Machine("a100-80", 2, "95600m", "1100Gi", "NVIDIA-A100-SXM4-80GB", 81920, 8),
    Machine("h100", 1, "191500m", "1900Gi", "NVIDIA-H100-80GB-HBM3", 81559, 8),
)
CPU_FLEET: Final = (Machine("cpu", 4, "15890m", "60Gi"),)
SHARED_OFFERS: Final[Mapping[str, Mapping[str, int]]] = {
    **{f"l4-{index}": {"nvidia.com/gpu.shared": 4} for index in range(4)},
    # Two devices of seven slices, two of three, and four whole ones.
    "a100-80-0": {GPU: 4, "nvidia.com/mig-1g.10gb": 14, "nvidia.com/mig-2g.20gb": 6},
}
"""What an administrator who shares devices lets these nodes offer in place of whole ones."""

_TYPES: Final = {"l4": 22, "a10g": 22, "a100-40gb": 39, "a100-80gb": 79, "h100": 79}
"""The memory that a model may need on a device of a type, in GiB; cheap ones first."""
_SMALLEST_GIB: Final = min(_TYPES.values())
_SLICE_GIB: Final = 5.0
"""A time-sliced L4 has four pods, and nothing limits their memory."""


def make_nodes(fleet: Sequence[Machine], offers: Mapping[str, Mapping[str, int]]) -> Iterator[Object]:
    """Yield the fleet's Node objects. `offers` are the devices of single nodes that do not offer them whole."""
    for machine, index in ((each, index) for each in fleet for index in range(each.count)):
        name = f"{machine.name}-{index}"
        devices = offers.get(name, {GPU: machine.devices} if machine.devices else {})
        amounts = {"cpu": machine.cpu, "memory": machine.memory, "pods": "110"}
        amounts |= {resource: str(count) for resource, count in devices.items()}
        labels = {"kubernetes.io/hostname": name}
        if machine.devices:
            labels |= {"nvidia.com/gpu.product": machine.product, "nvidia.com/gpu.memory": str(machine.device_mib)}
        yield {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "spec": {"taints": [_TAINT] if machine.devices else []},
            "status": {
                "capacity": amounts,
                "allocatable": amounts,
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        }


@dataclass(frozen=True)
class Demand:
    """A model that somebody wants to serve. `device_gib` is the memory that a replica needs on each of its devices."""

    name: str
    kind: str
    replicas: int
    cpu: str
    memory: str
    devices: int = 0
    device_gib: float = 0.0

    @property
    def cores(self) -> float:
        """Return the CPU of all its replicas."""
        return float(parse_quantity(self.cpu)) * self.replicas

    @property
    def asked_gib(self) -> float:
        """Return the memory of devices of all its replicas."""
        return self.device_gib * self.devices * self.replicas


@dataclass(frozen=True)
class Event:
    """A demand arrives, or leaves if it is there."""

    demand: Demand
    leaves: bool = False


def draw_events(seed: int, arrivals: int, kinds: Mapping[str, int]) -> list[Event]:
    """Return arrivals of demands of these kinds, by weight. After every fourth, on average, an earlier demand leaves."""
    rng, events, there = random.Random(seed), list[Event](), list[Demand]()
    for index in range(arrivals):
        [kind] = rng.choices(list(kinds), list(kinds.values()))
        demand = _draw_demand(rng, f"m{index}", kind)
        events.append(Event(demand))
        there.append(demand)
        if rng.random() < 0.25:
            events.append(Event(there.pop(rng.randrange(len(there))), leaves=True))
    return events


def _draw_demand(rng: random.Random, name: str, kind: str) -> Demand:
    if kind == "cpu":
        cpu = rng.choice(("100m", "250m", "250m", "500m", "1"))
        return Demand(name, kind, rng.choice((1, 1, 2, 2, 3, 4)), cpu, rng.choice(("256Mi", "512Mi", "1Gi", "2Gi")))
    if kind == "small":
        need, replicas = rng.choice((2.0, 3.0, 4.0, 5.0, 7.0, 9.0, 11.0)), rng.choice((1, 1, 1, 2, 2, 3, 4))
        return Demand(name, kind, replicas, rng.choice(("500m", "1", "2")), rng.choice(("2Gi", "4Gi")), 1, need)
    if kind == "whole":
        return Demand(name, kind, rng.choice((1, 1, 2)), "4", "16Gi", 1, rng.choice((14.0, 18.0, 22.0, 36.0, 60.0)))
    return Demand(name, kind, 1, "8", "64Gi", rng.choice((2, 2, 4, 8)), rng.choice((20.0, 36.0, 70.0)))


@dataclass(frozen=True)
class Side:
    """A way to serve demands.

    Attributes:
        name: the name in tables.
        modes: sharing modes that authors of manifests may use.
        is_plain: whether a Deployment makes the pods, without Ray's memory.
        offers: the devices that nodes do not offer whole.
        installation: the settings of Sundog; with `is_shared` those of shared pods count.
        is_shared: whether replicas without devices share pods.
    """

    name: str
    modes: frozenset[str] = frozenset()
    is_plain: bool = False
    offers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    installation: Installation = INSTALLATION
    is_shared: bool = False


def choose_sharing(demand: Demand, modes: frozenset[str]) -> dict[str, str]:
    """Return the `sharing` that an author who wants the fewest devices writes, of the modes that there are.

    Replicas share a device as far as there are enough of them. A single small one takes a slice.
    """
    if demand.kind != "small":
        return {}
    together = min(int(_SMALLEST_GIB / demand.device_gib), demand.replicas)
    if "fraction" in modes and together > 1:
        return {"mode": "fraction", "fraction": f"{math.floor(10000 / together) / 10000:.4f}"}
    if "timeSliced" in modes and demand.device_gib <= _SLICE_GIB:
        return {"mode": "timeSliced"}
    if "mig" in modes:
        return {"mode": "mig", "profile": "1g.10gb" if demand.device_gib <= 9 else "2g.20gb"}
    return {}


def make_spec(demand: Demand, modes: frozenset[str]) -> ModelDeploymentSpec:
    """Return the spec that an author writes for a demand."""
    sharing = choose_sharing(demand, modes)
    gpu: dict[str, Any] = {"count": demand.devices}
    if demand.devices:
        gpu |= {"sharing": sharing} if sharing else {}
        if sharing.get("mode") == "timeSliced":
            gpu["type"] = ["l4"]
        elif sharing.get("mode") != "mig":
            gpu["type"] = [each for each, room in _TYPES.items() if room >= demand.device_gib]
            gpu["memory"] = f"{demand.device_gib:.0f}Gi"
    resources = {"cpu": demand.cpu, "memory": demand.memory, "gpu": gpu}
    return ModelDeploymentSpec.from_json(
        {"model": {"uri": f"https://models.example.com/{demand.name}"}, "replicas": demand.replicas}
        | {"resources": resources}
    )


def make_pods(demand: Demand, side: Side) -> list[Object]:
    """Return the pods of a demand whose replicas share none with others: as Sundog renders them, or a plain Deployment's."""
    spec = make_spec(demand, side.modes)
    content = revisions.content_of(spec)
    revision = Revision(1, revisions.content_hash(content), content)
    count = accelerators.count_pods(spec.resources.gpu, demand.replicas)
    group = pods.make_worker_group(demand.name, revision, (count, count), IMAGE, side.installation, _TIMEOUT)
    template = copy.deepcopy(group["template"])
    if side.is_plain:
        [container] = template["spec"]["containers"]
        for amounts in container["resources"].values():
            amounts["memory"] = demand.memory
    return [make_pod(template) for _ in range(count)]


def make_shared_pod(demand: Demand, side: Side) -> Object:
    """Return a pod for replicas of this demand and others. It is the same for all that fit into it."""
    spec = make_spec(demand, side.modes)
    return make_pod(pods.make_shared_group([spec], [1], IMAGE, side.installation, _TIMEOUT)["template"])


def make_own_pods() -> list[Object]:
    """Return pods with the requests of those that a namespace has beside its models: head, its store and two edges."""
    ray = INSTALLATION.ray
    head = [ray.head.resources.requests, ray.autoscaler.resources.requests]
    store, edge = (
        [{"cpu": "50m", "memory": "64Mi"}],
        [{"cpu": "200m", "memory": "256Mi"}, {"cpu": "50m", "memory": "128Mi"}],
    )
    return [
        make_pod(
            {
                "metadata": {},
                "spec": {
                    "containers": [
                        {"name": f"c{index}", "image": IMAGE, "resources": {"requests": dict(each)}}
                        for index, each in enumerate(containers)
                    ]
                },
            }
        )
        for containers in (head, store, edge, edge)
    ]


def make_pod(template: Mapping[str, Any]) -> Object:
    """Return a pod of a template."""
    # No kubelet ends a pod here, so it is deleted at once.
    spec = {**template["spec"], "terminationGracePeriodSeconds": 0}
    metadata = {**template["metadata"], "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


GPU_SIDES: Final = (
    Side("a pod per replica, whole GPUs", is_plain=True),
    Side("Sundog, fractions", frozenset({"fraction"})),
    Side("Sundog, fractions, MIG and time-slicing", frozenset({"fraction", "mig", "timeSliced"}), offers=SHARED_OFFERS),
)
CPU_SIDES: Final = (
    Side("a pod per replica, plain Deployment", is_plain=True),
    Side("Sundog, a pod per replica"),
    Side("Sundog, shared pods of 4 CPU and 8 GiB (default)", is_shared=True),
    Side(
        "Sundog, shared pods of 5 CPU and 18 GiB",
        is_shared=True,
        installation=parse_installation(
            f"{{runtimeImage: '{IMAGE}', ray: {{sharedWorkers: {{cpu: 5, memory: 18Gi}}}}}}", "bench"
        ),
    ),
)
