"""Check that the accelerators that a revision needs are free, before anything changes."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sundog_operator.api import Gpu, ModelDeploymentSpec
from sundog_operator.api.installation import Installation
from sundog_operator.api.quantities import parse_quantity
from sundog_operator.api.reasons import Cause, DeploymentReason
from sundog_operator.core.kubernetes import accelerators, names, pods, spot
from sundog_operator.core.kubernetes.accelerators import Devices
from sundog_operator.core.kubernetes.pod_problems import is_scheduled

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """Devices on the nodes that may run a revision's pods: of its types and memory, ready, selected and tolerated.

    Attributes:
        nodes: number of these nodes.
        total: devices on them.
        free: devices that no pod has.
        pods: pods whose devices are all free on one node.
    """

    nodes: int
    total: int
    free: int
    pods: int


@dataclass(frozen=True, slots=True)
class AvailableCapacity:
    """Free devices for pods of one kind.

    Attributes:
        resource: the devices' resource name.
        on_nodes: free devices on nodes; None where the operator may not list nodes, or where Kueue or a claim decides.
        quota: devices that the namespace's quotas leave; None without a quota.
    """

    resource: str
    on_nodes: NodeCapacity | None
    quota: int | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """The devices of a cluster.

    Attributes:
        nodes: made by `trim_node`.
        taken: devices of pods, by node and resource.
        fitting: a cache of the nodes that fit, by a fingerprint of the requirements. It does not depend on `taken`.
    """

    nodes: Sequence[Json]
    taken: Mapping[tuple[str, str], int]
    fitting: dict[str, Sequence[Json]] = field(default_factory=dict, compare=False, repr=False)


def make_inventory(nodes: Iterable[Json], running: Iterable[Mapping[tuple[str, str], int]]) -> Inventory:
    """Return the inventory of nodes (`trim_node`) and of the devices of each pod (`pod_devices`)."""
    return add_pods(Inventory(tuple(nodes), {}), running)


def add_pods(known: Inventory, running: Iterable[Mapping[tuple[str, str], int]]) -> Inventory:
    """Return the inventory with the devices of more pods taken."""
    taken = Counter(known.taken)
    for counts in running:
        taken.update(counts)
    return replace(known, taken=taken)


def trim_node(node: Json) -> Json:
    """Return the parts of a node that this module reads. A cluster may have thousands of nodes."""
    meta, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    ready = [each for each in status.get("conditions") or () if each.get("type") == "Ready"]
    devices = {name: count for name, count in (status.get("allocatable") or {}).items() if "/" in name}
    return {
        "metadata": {"name": meta["name"], "labels": meta.get("labels") or {}},
        "spec": {"unschedulable": spec.get("unschedulable"), "taints": spec.get("taints") or ()},
        "status": {"allocatable": devices, "conditions": ready},
    }


def pod_devices(pod: Json) -> Mapping[tuple[str, str], int]:
    """Return the devices of a pod, by node and resource; empty for most pods."""
    if not is_scheduled(pod):
        return {}
    # A device's resource name has a domain; cpu, memory and the like have none.
    resources = {name for each in _requests(pod) for name in each if "/" in name}
    return {(pod["spec"]["nodeName"], name): requested_devices(pod, name) for name in resources}


def foreign_pod_devices(pod: Json) -> Mapping[tuple[str, str], int]:
    """Return the devices of a pod that is not Sundog's; empty for Sundog's own, which are counted from memory."""
    labels = pod["metadata"].get("labels") or {}
    return {} if names.PART_OF_SUNDOG.items() <= labels.items() else pod_devices(pod)


def find_available_capacity(
    spec: ModelDeploymentSpec, known: Inventory | None, quotas: Iterable[Json], installation: Installation
) -> AvailableCapacity | None:
    """Return the free devices for a spec; None where it requests no accelerator.

    Args:
        spec: an accepted spec.
        known: the cluster's inventory; None where the operator may not list nodes. It does not count for pods of a queue, because Kueue
            may end other pods for them. Nor does it for claims, whose devices are in no Node.
        quotas: the ResourceQuotas of its namespace.
        installation: the administrator's settings.
    """
    devices = accelerators.replica_devices(spec.resources.gpu)
    if devices is None:
        return None
    on_nodes = None
    if known is not None and not spec.scheduling.queue and not devices.is_claimed:
        on_nodes = _count_devices(_find_fitting_nodes(known, spec, devices, installation), known.taken, devices)
    return AvailableCapacity(devices.resource, on_nodes, _quota_left(quotas, devices))


def _count_devices(fitting: Sequence[Json], taken: Mapping[tuple[str, str], int], devices: Devices) -> NodeCapacity:
    total = {node["metadata"]["name"]: _allocatable(node, devices.resource) for node in fitting}
    free = {name: max(count - taken.get((name, devices.resource), 0), 0) for name, count in total.items()}
    pods_with_room = sum(count // devices.count for count in free.values())
    return NodeCapacity(len(fitting), sum(total.values()), sum(free.values()), pods_with_room)


def add_freed_devices(room: AvailableCapacity, devices: Devices, freed: int) -> AvailableCapacity:
    """Return the capacity with `freed` more free devices.

    Their nodes are unknown, so the result assumes the best case: each pod finds all of its devices on one node.
    """
    nodes, quota = room.on_nodes, room.quota
    if nodes is not None:
        free = nodes.free + freed
        nodes = replace(nodes, free=free, pods=free // devices.count)
    return replace(room, on_nodes=nodes, quota=None if quota is None else quota + freed)


def find_shortage(devices: Devices, more: int, room: AvailableCapacity, gpu: Gpu) -> Cause | None:
    """Return the shortage where `more` pods do not fit; None where they fit or nothing is known.

    `gpu` has the types and the memory that the message names.
    """
    needed, free = more * devices.count, room.on_nodes
    over_quota = room.quota is not None and needed > room.quota
    if more <= 0 or (not over_quota and (free is None or more <= free.pods)):
        return None
    kind = f" of type {' or '.join(gpu.type)}" if gpu.type else ""
    least = f" with at least {gpu.memory}" if gpu.memory else ""
    message = f"{needed} {room.resource}{kind}{least} needed ({more} × {devices.count})"
    if free is not None:
        message += f", {free.free} of {free.total} free on {free.nodes} node{'' if free.nodes == 1 else 's'}"
    if room.quota is not None:
        message += f", {room.quota} left by the namespace's quota"
    # Autoscalers may add nodes, but nothing raises a quota. So the quota is the reason where both fall short.
    if over_quota:
        return Cause(DeploymentReason.INSUFFICIENT_QUOTA, message)
    scattered = free is not None and needed <= free.free
    placement = f", not {devices.count} of them on one node" if scattered else ""
    return Cause(DeploymentReason.INSUFFICIENT_CAPACITY, message + placement)


def is_blocking(short: Cause | None, installation: Installation | None) -> bool:
    """Return whether pods must wait until a shortage is over.

    With `gpu.nodesCome` an autoscaler adds nodes for pending pods, so missing nodes do not block. A quota always does.
    """
    nodes_come = installation is not None and installation.gpu.nodes_come
    return short is not None and not (nodes_come and short.reason == DeploymentReason.INSUFFICIENT_CAPACITY)


def requested_devices(pod: Json, resource: str) -> int:
    """Return how many devices of a resource a pod requests."""
    return sum(_count(each, resource) for each in _requests(pod))


def _requests(pod: Json) -> list[Json]:
    containers = (pod.get("spec") or {}).get("containers") or ()
    return [(container.get("resources") or {}).get("requests") or {} for container in containers]


def _find_fitting_nodes(
    known: Inventory, spec: ModelDeploymentSpec, devices: Devices, installation: Installation
) -> Sequence[Json]:
    """Return the nodes that may run the pods of a spec."""
    template, gpu = installation.ray.pods, spec.resources.gpu
    mode, labels = spec.scheduling.spot, installation.spot.labels
    selector = pods.merge_node_selector(template, spec.scheduling)
    own = [*accelerators.device_tolerations(gpu), *spot.make_tolerations(mode, labels)]
    tolerations = pods.merge_tolerations(template, spec.scheduling, own)
    required = spot.make_required_expressions(mode, labels)
    terms = accelerators.make_node_terms(gpu, installation.gpu.aliases, required)
    key = pods.fingerprint([devices.resource, selector, tolerations, terms])
    if key not in known.fitting:
        known.fitting[key] = [
            node
            for node in known.nodes
            if _accepts(node, devices.resource, selector, tolerations)
            and accelerators.matches_terms(node["metadata"].get("labels") or {}, terms)
        ]
    return known.fitting[key]


def _accepts(node: Json, resource: str, selector: Mapping[str, str], tolerations: Sequence[Json]) -> bool:
    node_spec, labels = node.get("spec") or {}, node["metadata"].get("labels") or {}
    if not _allocatable(node, resource) or node_spec.get("unschedulable"):
        return False
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    selected = all(labels.get(key) == value for key, value in selector.items())
    return ready and selected and all(pods.is_tolerated(tolerations, taint) for taint in node_spec.get("taints") or ())


def _allocatable(node: Json, resource: str) -> int:
    return _count((node.get("status") or {}).get("allocatable"), resource)


def _quota_left(quotas: Iterable[Json], devices: Devices) -> int | None:
    key = (
        f"{devices.resource}.deviceclass.resource.k8s.io/devices"
        if devices.is_claimed
        else f"requests.{devices.resource}"
    )
    left = [
        max(_count(status.get("hard"), key) - _count(status.get("used"), key), 0)
        for quota in quotas
        if key in ((status := quota.get("status") or {}).get("hard") or {})
    ]
    return min(left, default=None)


def _count(quantities: Json | None, resource: str) -> int:
    return int(parse_quantity(str((quantities or {}).get(resource, 0))))
