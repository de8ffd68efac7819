"""Whether the accelerators that a revision needs are free: looked at before anything is moved, told with numbers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.api.installation import Installation
from sundog_operator.api.quantities import parse_quantity
from sundog_operator.core.kubernetes import accelerators, names, pods
from sundog_operator.core.kubernetes.accelerators import Devices
from sundog_operator.core.kubernetes.pod_problems import is_scheduled

INSUFFICIENT_CAPACITY: Final = "InsufficientCapacity"
INSUFFICIENT_QUOTA: Final = "InsufficientQuota"

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """What is free on the nodes that have such devices, of the types asked for, ready and open to these pods.

    Attributes:
        nodes: how many these are.
        total: devices on them; `free` of them no pod has.
        replicas: replicas that find all of their devices on one node.
    """

    nodes: int
    total: int
    free: int
    replicas: int


@dataclass(frozen=True, slots=True)
class AvailableCapacity:
    """What is free for replicas of one kind.

    Attributes:
        resource: what pods ask for.
        on_nodes: what is free on nodes; None where these may not be looked at.
        quota: devices that the namespace's quotas leave; None without a quota.
    """

    resource: str
    on_nodes: NodeCapacity | None
    quota: int | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """The devices of a cluster.

    Attributes:
        nodes: as `of_node` makes them.
        taken: devices that pods have, by node and resource.
        fitting: nodes by what pods ask of them: made out once for all who ask the same, whatever is taken meanwhile.
    """

    nodes: Sequence[Json]
    taken: Mapping[tuple[str, str], int]
    fitting: dict[str, Sequence[Json]] = field(default_factory=dict, compare=False, repr=False)


def make_inventory(nodes: Iterable[Json], running: Iterable[Mapping[tuple[str, str], int]]) -> Inventory:
    """The inventory of nodes and of what each pod has, as `of_node` and `of_pod` make them."""
    return add_pods(Inventory(tuple(nodes), {}), running)


def add_pods(known: Inventory, running: Iterable[Mapping[tuple[str, str], int]]) -> Inventory:
    """The same with what more pods have."""
    taken = Counter(known.taken)
    for counts in running:
        taken.update(counts)
    return replace(known, taken=taken)


def trim_node(node: Json) -> Json:
    """As much of a node as is looked at: a cluster may have thousands."""
    meta, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    ready = [each for each in status.get("conditions") or () if each.get("type") == "Ready"]
    devices = {name: count for name, count in (status.get("allocatable") or {}).items() if "/" in name}
    return {
        "metadata": {"name": meta["name"], "labels": meta.get("labels") or {}},
        "spec": {"unschedulable": spec.get("unschedulable"), "taints": spec.get("taints") or ()},
        "status": {"allocatable": devices, "conditions": ready},
    }


def pod_devices(pod: Json) -> Mapping[tuple[str, str], int]:
    """Devices that a pod has, by node and resource; nothing for most pods."""
    if not is_scheduled(pod):
        return {}
    # The name of a device has a domain; those of cpu, memory and the like have none.
    resources = {name for each in _requests(pod) for name in each if "/" in name}
    return {(pod["spec"]["nodeName"], name): requested_devices(pod, name) for name in resources}


def foreign_pod_devices(pod: Json) -> Mapping[tuple[str, str], int]:
    """The same of a pod that is not Sundog's; nothing for Sundog's own, which are known anyhow."""
    labels = pod["metadata"].get("labels") or {}
    return {} if names.PART_OF_SUNDOG.items() <= labels.items() else pod_devices(pod)


def find_available_capacity(
    spec: ModelDeploymentSpec, known: Inventory | None, quotas: Iterable[Json], installation: Installation
) -> AvailableCapacity | None:
    """What is free for a spec; None where it asks for no accelerator.

    `known` is None where nodes may not be looked at, `quotas` are those of its namespace.
    """
    devices = accelerators.replica_devices(spec.resources.gpu)
    if devices is None:
        return None
    on_nodes = None
    if known is not None:
        on_nodes = _on_nodes(_fitting(known, spec, devices, installation), known.taken, devices)
    return AvailableCapacity(devices.resource, on_nodes, _quota_left(quotas, devices.resource))


def _on_nodes(fitting: Sequence[Json], taken: Mapping[tuple[str, str], int], devices: Devices) -> NodeCapacity:
    total = {node["metadata"]["name"]: _allocatable(node, devices.resource) for node in fitting}
    free = {name: max(count - taken.get((name, devices.resource), 0), 0) for name, count in total.items()}
    replicas = sum(count // devices.count for count in free.values())
    return NodeCapacity(len(fitting), sum(total.values()), sum(free.values()), replicas)


def add_freed_devices(room: AvailableCapacity, devices: Devices, freed: int) -> AvailableCapacity:
    """The same once so many of its devices were free beside, wherever they are: with luck where others are free."""
    nodes, quota = room.on_nodes, room.quota
    if nodes is not None:
        free = nodes.free + freed
        nodes = replace(nodes, free=free, replicas=free // devices.count)
    return replace(room, on_nodes=nodes, quota=None if quota is None else quota + freed)


def find_shortage(
    devices: Devices, replicas: int, room: AvailableCapacity, types: Sequence[str]
) -> tuple[str, str] | None:
    """(reason, message) of why so many more replicas do not fit; None where they do, as far as that is known."""
    needed, free = replicas * devices.count, room.on_nodes
    over_quota = room.quota is not None and needed > room.quota
    if replicas <= 0 or (not over_quota and (free is None or replicas <= free.replicas)):
        return None
    kind = f" of type {' or '.join(types)}" if types else ""
    told = f"{needed} {room.resource}{kind} needed ({replicas} × {devices.count})"
    if free is not None:
        told += f", {free.free} of {free.total} free on {free.nodes} node{'' if free.nodes == 1 else 's'}"
    if room.quota is not None:
        told += f", {room.quota} left by the namespace's quota"
    # Nodes may come; a quota does not grow by itself. So it counts first where both fall short.
    if over_quota:
        return INSUFFICIENT_QUOTA, told
    scattered = free is not None and needed <= free.free
    return INSUFFICIENT_CAPACITY, told + (f", not {devices.count} of them on one node" if scattered else "")


def is_blocking(short: tuple[str, str] | None, installation: Installation | None) -> bool:
    """Whether what is short has to be there before pods are made. Nodes that pods bring come for those; no quota does."""
    comes = installation is not None and installation.gpu.nodes_come
    return short is not None and not (comes and short[0] == INSUFFICIENT_CAPACITY)


def requested_devices(pod: Json, resource: str) -> int:
    """Devices that a pod has."""
    return sum(_count(each, resource) for each in _requests(pod))


def _requests(pod: Json) -> list[Json]:
    containers = (pod.get("spec") or {}).get("containers") or ()
    return [(container.get("resources") or {}).get("requests") or {} for container in containers]


def _fitting(
    known: Inventory, spec: ModelDeploymentSpec, devices: Devices, installation: Installation
) -> Sequence[Json]:
    """The nodes that the pods of a spec may come to."""
    template = installation.ray.pods
    selector = pods.merge_node_selector(template, spec.scheduling)
    tolerations = pods.merge_tolerations(template, spec.scheduling, accelerators.device_tolerations(devices))
    types, aliases = spec.resources.gpu.type, installation.gpu.aliases
    asked = pods.fingerprint([devices.resource, selector, tolerations, types, aliases])
    if asked not in known.fitting:
        matches = accelerators.make_type_matcher(types, aliases)
        known.fitting[asked] = [
            node
            for node in known.nodes
            if _takes(node, devices.resource, selector, tolerations) and matches(node["metadata"].get("labels") or {})
        ]
    return known.fitting[asked]


def _takes(node: Json, resource: str, selector: Mapping[str, str], tolerations: Sequence[Json]) -> bool:
    node_spec, labels = node.get("spec") or {}, node["metadata"].get("labels") or {}
    if not _allocatable(node, resource) or node_spec.get("unschedulable"):
        return False
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    selected = all(labels.get(key) == value for key, value in selector.items())
    return ready and selected and all(pods.is_tolerated(tolerations, taint) for taint in node_spec.get("taints") or ())


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
