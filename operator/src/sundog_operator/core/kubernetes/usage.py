"""Who uses the resources of a cluster, and what is free on which nodes. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sundog_operator.core.kubernetes import accelerators, capacity, names, node_affinity, node_fit, pod_requests
from sundog_operator.core.kubernetes.capacity import Inventory
from sundog_operator.core.kubernetes.pod_problems import is_scheduled
from sundog_operator.core.kubernetes.pod_requests import CPU, MEMORY, Amounts

Json = Mapping[str, Any]
OTHER_PODS: Final = "other pods"
"""Stands for the name of the pods of a namespace that are not Sundog's."""

_DEVICES: Final = frozenset(resource for resource, _ in accelerators.VENDOR_RESOURCES.values())
_NVIDIA: Final = "nvidia.com/"


@dataclass(frozen=True, slots=True)
class PodView:
    """The parts of a pod that count for its usage.

    Attributes:
        name: its ModelDeployment; for other pods of Sundog, their component, and for all others `OTHER_PODS`.
        revision: its revision; None for pods without one.
        node: empty for a pod that waits for a node.
    """

    namespace: str
    name: str
    revision: int | None
    node: str
    requests: Amounts
    is_component: bool = False


@dataclass(frozen=True, slots=True)
class ResourceClass:
    """One class of devices, or CPU or memory, over the nodes that have it.

    Attributes:
        type: type of the devices as node labels name it; empty if none does, and for CPU and memory.
        memory_mib: memory of each device; None if no label names it.
        usable: amount on nodes that take new pods: ready, and not cordoned.
        free: what no pod has of that.
        by_free: number of those nodes by their free amount, the largest first; of devices only.
        largest: what is free on the node with the most: the largest replica that still fits there.
    """

    resource: str
    type: str
    memory_mib: int | None
    nodes: int
    total: int
    usable: int
    used: int
    free: int
    by_free: Mapping[int, int] = field(default_factory=dict)
    largest: Amounts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests of the pods of one revision, of one component of Sundog, or of others.

    Attributes:
        placed: pods with a node.
        waiting: pods without one.
        requests: sums over the pods with a node.
        devices: those of devices, by resource and by type as the labels of the pod's node name it; empty if they do not.
    """

    namespace: str
    name: str
    revision: int | None
    placed: int
    waiting: int
    requests: Amounts
    devices: Mapping[tuple[str, str], int] = field(default_factory=dict)


def view_pod(pod: Json) -> PodView | None:
    """Return the parts of a pod that count; None if it has ended."""
    meta, status = pod["metadata"], pod.get("status") or {}
    if status.get("phase") in ("Succeeded", "Failed"):
        return None
    labels = meta.get("labels") or {}
    is_ours = names.PART_OF_SUNDOG.items() <= labels.items()
    deployment = labels.get(names.LABEL_MODEL_DEPLOYMENT, "") if is_ours else ""
    revision = str(labels.get(names.LABEL_REVISION, ""))
    return PodView(
        namespace=meta.get("namespace", ""),
        name=deployment or (labels.get(names.LABEL_NAME, "") if is_ours else OTHER_PODS),
        revision=int(revision) if deployment and revision.isdecimal() else None,
        node=pod["spec"]["nodeName"] if is_scheduled(pod) else "",
        requests=pod_requests.pod_requests(pod),
        is_component=is_ours and not deployment,
    )


def make_inventory(nodes: Iterable[Json], pods: Iterable[PodView]) -> Inventory:
    """Return the inventory of nodes (`node_fit.trim_node`) and pods."""
    placed = (pod for pod in pods if pod.node)
    return capacity.make_inventory(
        nodes, ({(pod.node, name): amount for name, amount in pod.requests.items()} for pod in placed)
    )


def find_classes(known: Inventory) -> list[ResourceClass]:
    """Return the classes of devices on the nodes, by resource, type and memory, then CPU and memory."""
    groups: dict[tuple[str, str, int], list[Json]] = {}
    for node in known.nodes:
        labels, amounts = node["metadata"]["labels"], node_fit.allocatable(node)
        for resource in filter(_is_accelerator, amounts):
            type_ = node_affinity.find_type(labels)
            groups.setdefault((resource, type_, node_affinity.find_memory_mib(labels) or 0), []).append(node)
    classes = [
        _make_class(known, resource, nodes, type_, memory or None)
        for (resource, type_, memory), nodes in sorted(groups.items())
    ]
    for resource in (CPU, MEMORY):
        nodes = [node for node in known.nodes if resource in node_fit.allocatable(node)]
        if nodes:
            classes.append(_make_class(known, resource, nodes))
    return classes


def sum_usage(pods: Iterable[PodView], nodes: Iterable[Json] = ()) -> list[Usage]:
    """Return the usage by namespace, ModelDeployment and revision; components of Sundog and other pods after them.

    `nodes` have the types of devices; they are made by `node_fit.trim_node`.
    """
    types = {node["metadata"]["name"]: node_affinity.find_type(node["metadata"]["labels"]) for node in nodes}
    groups: dict[tuple[str, int, str, int], list[PodView]] = {}
    for pod in pods:
        rank = 2 if pod.name == OTHER_PODS else int(pod.is_component)
        groups.setdefault((pod.namespace, rank, pod.name, pod.revision or 0), []).append(pod)
    return [_sum_group(key, group, types) for key, group in sorted(groups.items())]


def _sum_group(key: tuple[str, int, str, int], group: Sequence[PodView], types: Mapping[str, str]) -> Usage:
    namespace, _, name, revision = key
    placed = [pod for pod in group if pod.node]
    requests: Counter[str] = Counter()
    devices: Counter[tuple[str, str]] = Counter()
    for pod in placed:
        requests.update(pod.requests)
        type_ = types.get(pod.node, "")
        devices.update({(each, type_): pod.requests[each] for each in filter(pod_requests.is_device, pod.requests)})
    return Usage(namespace, name, revision or None, len(placed), len(group) - len(placed), requests, devices)


def _make_class(
    known: Inventory, resource: str, nodes: Sequence[Json], type_: str = "", memory_mib: int | None = None
) -> ResourceClass:
    total = sum(node_fit.allocatable(node)[resource] for node in nodes)
    used = sum(known.taken.get((node["metadata"]["name"], resource), 0) for node in nodes)
    usable = [node for node in nodes if node_fit.takes_pods(node)]
    free = sorted(
        (capacity.free_amounts(node, known.taken) for node in usable),
        key=lambda amounts: (amounts[resource], amounts.get(CPU, 0)),
        reverse=True,
    )
    return ResourceClass(
        resource=resource,
        type=type_,
        memory_mib=memory_mib,
        nodes=len(nodes),
        total=total,
        usable=sum(node_fit.allocatable(node)[resource] for node in usable),
        used=used,
        free=sum(amounts[resource] for amounts in free),
        by_free=dict(Counter(amounts[resource] for amounts in free)) if pod_requests.is_device(resource) else {},
        largest=dict(_beside(free[0], resource)) if free and free[0][resource] else {},
    )


def _beside(amounts: Amounts, resource: str) -> Iterator[tuple[str, int]]:
    """Yield the free amount of a resource on a node, and of CPU and memory beside it."""
    return ((name, amounts[name]) for name in dict.fromkeys((resource, CPU, MEMORY)) if name in amounts)


def _is_accelerator(resource: str) -> bool:
    return resource in _DEVICES or resource.startswith(_NVIDIA)
