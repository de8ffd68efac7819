"""Whether the accelerators that a revision needs are free: looked at before anything is moved, told with numbers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.api.installation import Installation
from sundog_operator.api.quantities import parse_quantity
from sundog_operator.core import accelerators, pods
from sundog_operator.core.accelerators import Devices
from sundog_operator.core.pod_problems import is_scheduled

INSUFFICIENT: Final = "InsufficientCapacity"
QUOTA: Final = "InsufficientQuota"

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Room:
    """What is free for replicas of one kind.

    Attributes:
        resource: what pods ask for.
        nodes: nodes that have such devices, of the types asked for, ready and open to these pods.
        total: devices on them; `free` of them no pod has.
        replicas: replicas that find all of their devices on one node.
        quota: devices that the namespace's quotas leave; None without a quota.
    """

    resource: str
    nodes: int
    total: int
    free: int
    replicas: int
    quota: int | None


def look(
    spec: ModelDeploymentSpec,
    nodes: Iterable[Json],
    running: Iterable[Json],
    quotas: Iterable[Json],
    installation: Installation,
) -> Room | None:
    """What is free for a spec; None where it asks for no accelerator. `running` are pods of all namespaces, `quotas` of its own."""
    devices = accelerators.devices_of(spec.resources.gpu)
    if devices is None:
        return None
    taken: Counter[str] = Counter()
    for pod in running:
        if is_scheduled(pod):
            taken[pod["spec"]["nodeName"]] += requested(pod, devices.resource)
    fitting = [node for node in nodes if _takes(node, spec, devices, installation)]
    total = {node["metadata"]["name"]: _allocatable(node, devices.resource) for node in fitting}
    free = {name: max(count - taken[name], 0) for name, count in total.items()}
    return Room(
        devices.resource,
        len(fitting),
        sum(total.values()),
        sum(free.values()),
        sum(count // devices.count for count in free.values()),
        _quota_left(quotas, devices.resource),
    )


def shortage(devices: Devices, replicas: int, room: Room, types: Sequence[str]) -> tuple[str, str] | None:
    """(reason, message) of why so many more replicas do not fit; None where they do."""
    needed = replicas * devices.count
    if replicas <= 0 or (replicas <= room.replicas and (room.quota is None or needed <= room.quota)):
        return None
    kind = f" of type {' or '.join(types)}" if types else ""
    told = (
        f"{needed} {room.resource}{kind} needed ({replicas} × {devices.count}), {room.free} of {room.total} free on"
        f" {room.nodes} node{'' if room.nodes == 1 else 's'}"
    )
    if room.quota is not None:
        told += f", {room.quota} left by the namespace's quota"
    # Nodes may come; a quota does not grow by itself. So it counts first where both fall short.
    if room.quota is not None and needed > room.quota:
        return QUOTA, told
    scattered = needed <= room.free
    return INSUFFICIENT, told + (f", not {devices.count} of them on one node" if scattered else "")


def requested(pod: Json, resource: str) -> int:
    """Devices that a pod has."""
    containers = (pod.get("spec") or {}).get("containers") or ()
    return sum(_count((container.get("resources") or {}).get("requests"), resource) for container in containers)


def _takes(node: Json, spec: ModelDeploymentSpec, devices: Devices, installation: Installation) -> bool:
    template = installation.ray.pods
    labels = node["metadata"].get("labels") or {}
    if not _allocatable(node, devices.resource) or (node.get("spec") or {}).get("unschedulable"):
        return False
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    wanted = pods.node_selector(template, spec.scheduling)
    selected = all(labels.get(key) == value for key, value in wanted.items())
    tolerations = pods.tolerations(template, spec.scheduling, accelerators.tolerations(devices))
    tolerated = all(pods.tolerates(tolerations, taint) for taint in (node.get("spec") or {}).get("taints") or ())
    typed = accelerators.matches(labels, spec.resources.gpu.type, installation.gpu.aliases)
    return ready and selected and tolerated and typed


def _allocatable(node: Json, resource: str) -> int:
    return _count((node.get("status") or {}).get("allocatable"), resource)


def _quota_left(quotas: Iterable[Json], resource: str) -> int | None:
    key = f"requests.{resource}"
    left = [
        max(_count(status.get("hard"), key) - _count(status.get("used"), key), 0)
        for quota in quotas
        if key in ((status := quota.get("status") or {}).get("hard") or {})
    ]
    return min(left, default=None)


def _count(quantities: Json | None, resource: str) -> int:
    return int(parse_quantity(str((quantities or {}).get(resource, 0))))
