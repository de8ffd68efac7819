"""Check that the resources that a revision's pods need are free, before anything changes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sundog_operator.api import Gpu, ModelDeploymentSpec
from sundog_operator.api.installation import Installation
from sundog_operator.api.reasons import Cause, DeploymentReason
from sundog_operator.core.kubernetes import (
    accelerators,
    names,
    node_fit,
    pod_requests,
    quotas,
    scheduler_message,
    shared_pods,
)
from sundog_operator.core.kubernetes.accelerators import Devices
from sundog_operator.core.kubernetes.node_fit import FittingNodes, NodeNeeds
from sundog_operator.core.kubernetes.pod_problems import is_scheduled
from sundog_operator.core.kubernetes.pod_requests import CPU, MEMORY, Amounts
from sundog_operator.core.kubernetes.quotas import QuotaLimit
from sundog_operator.core.text import format_count

Json = Mapping[str, Any]
ENOUGH_PODS: Final = 10_000
"""The most replicas of stable and nine arms. Where so many pods without devices fit, their exact number is of no interest."""

_COMING: Final = "coming/"
"""Prefix of the keys of nodes to come, in the cache of an inventory."""

QUOTA_FIX: Final = "Raise the quota, or ask for less"


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """Capacity of the nodes that may run a revision's pods: of its types and memory, ready, selected and tolerated.

    Attributes:
        nodes: number of these nodes.
        total: devices on them.
        free: devices that no pod has.
        pods: pods that fit, each on one node: with all of its devices, and with its CPU and memory.
        device_pods: pods whose devices fit, whatever CPU and memory are free.
        excluded: why the other nodes do not suit, with their numbers; may be empty.
        fix: what to do where none of the nodes is such a node.
        coming_nodes: number of such nodes that autoscalers may add.
        coming_pods: pods that fit on those.
        places: the nodes that are present and those to come, in the form of `node_fit.trim_node`.
        taken: requests of pods, by node and resource.
    """

    nodes: int
    total: int
    free: int
    pods: int
    device_pods: int = field(default=0, compare=False)
    excluded: str = field(default="", compare=False)
    fix: str = field(default="", compare=False)
    coming_nodes: int = 0
    coming_pods: int = 0
    places: tuple[Sequence[Json], Sequence[Json]] = field(default=((), ()), compare=False, repr=False)
    taken: Mapping[tuple[str, str], int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def most_pods(self) -> int:
        """Pods that fit on these nodes and on those that autoscalers may add."""
        return self.pods + self.coming_pods


@dataclass(frozen=True, slots=True)
class AvailableCapacity:
    """Free resources for pods of one kind.

    Attributes:
        resource: the devices' resource name, or the DeviceClass of their claims; empty for pods without devices.
        on_nodes: what is free on nodes; None where the operator may not list nodes, or where Kueue or a claim decides.
        quota: devices that the namespace's quotas leave; None without a quota.
        requests: the requests of one pod.
        limits: what the namespace's quotas leave of CPU, memory and pods.
    """

    resource: str
    on_nodes: NodeCapacity | None
    quota: int | None
    requests: Amounts = field(default_factory=dict, compare=False)
    limits: tuple[QuotaLimit, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Inventory:
    """The resources of a cluster.

    Attributes:
        nodes: made by `node_fit.trim_node`.
        taken: requests of pods, by node and resource.
        fitting: a cache of the nodes that fit, by a fingerprint of the needs. It does not depend on `taken`.
        counted: a cache of the capacity for pods, by that fingerprint and their requests.
    """

    nodes: Sequence[Json]
    taken: Mapping[tuple[str, str], int]
    fitting: dict[str, FittingNodes] = field(default_factory=dict, compare=False, repr=False)
    counted: dict[str, NodeCapacity] = field(default_factory=dict, compare=False, repr=False)


def make_inventory(nodes: Iterable[Json], running: Iterable[Mapping[tuple[str, str], int]]) -> Inventory:
    """Return the inventory of nodes (`node_fit.trim_node`) and of the requests of each pod (`placed_requests`)."""
    return add_pods(Inventory(tuple(nodes), {}), running)


def add_pods(known: Inventory, running: Iterable[Mapping[tuple[str, str], int]]) -> Inventory:
    """Return the inventory with the requests of more pods taken."""
    taken = Counter(known.taken)
    for counts in running:
        taken.update(counts)
    return replace(known, taken=taken, counted={})


def placed_requests(pod: Json) -> Mapping[tuple[str, str], int]:
    """Return the requests of a pod, by node and resource; empty for a pod without a node, or one that has ended."""
    if not is_scheduled(pod):
        return {}
    node = pod["spec"]["nodeName"]
    return {(node, name): amount for name, amount in pod_requests.pod_requests(pod).items()}


def foreign_placed_requests(pod: Json) -> Mapping[tuple[str, str], int]:
    """Return the requests of a pod that is not Sundog's; empty for Sundog's own, which are counted from memory."""
    labels = pod["metadata"].get("labels") or {}
    return {} if names.PART_OF_SUNDOG.items() <= labels.items() else placed_requests(pod)


def find_available_capacity(
    spec: ModelDeploymentSpec, known: Inventory | None, stored: Iterable[Json], installation: Installation
) -> AvailableCapacity | None:
    """Return the free resources for the pods of a spec; None where neither nodes nor quotas are known.

    Args:
        spec: an accepted spec.
        known: the cluster's inventory; None where the operator may not list nodes. It does not count for pods of a queue, because Kueue
            may end other pods for them. Nor does it for claims, whose devices are in no Node.
        stored: the ResourceQuotas of its namespace.
        installation: the administrator's settings.
    """
    devices = accelerators.replica_devices(spec.resources.gpu)
    requests = shared_pods.worker_requests(spec, installation)
    priority = spec.scheduling.priority_class_name or installation.ray.pods.priority_class_name
    limits = quotas.find_limits(stored, requests, priority)
    resource = devices.resource if devices else ""
    of_devices = [max(each.left, 0) for each in limits if each.resource == resource]
    decided_elsewhere = bool(spec.scheduling.queue) or (devices is not None and devices.is_claimed)
    on_nodes = None
    if known is not None and not decided_elsewhere:
        on_nodes = _find_free(known, spec, requests, devices, installation)
    if devices is None and on_nodes is None and not limits:
        return None
    others = tuple(each for each in limits if each.resource != resource)
    return AvailableCapacity(resource, on_nodes, min(of_devices, default=None), requests, others)


def _find_free(
    known: Inventory, spec: ModelDeploymentSpec, requests: Amounts, devices: Devices | None, installation: Installation
) -> NodeCapacity | None:
    """Return the capacity of nodes; None for pods without devices where no node is known."""
    if devices is None and not known.nodes:
        return None
    needs = node_fit.make_needs(spec, installation)
    key = f"{needs.key}/{sorted(requests.items())}"
    if key not in known.counted:
        counted = _count_free(known, needs, requests, devices, installation)
        if not counted.nodes and not counted.coming_nodes:
            counted = replace(counted, fix=node_fit.find_fix(spec.resources.gpu, known.nodes, needs))
        known.counted[key] = counted
    return known.counted[key]


def _count_free(
    known: Inventory, needs: NodeNeeds, requests: Amounts, devices: Devices | None, installation: Installation
) -> NodeCapacity:
    key = needs.key
    if key not in known.fitting:
        known.fitting[key] = node_fit.find_fitting(known.nodes, needs)
        coming = node_fit.make_coming_nodes(installation.node_pools, known.nodes)
        known.fitting[_COMING + key] = node_fit.find_fitting(coming, needs)
    found, coming_nodes = known.fitting[key], known.fitting[_COMING + key].nodes
    total = free = fitting_pods = device_pods = 0
    for node in found.nodes:
        left = free_amounts(node, known.taken)
        fitting_pods += pods_that_fit(left, requests)
        if devices is None and fitting_pods >= ENOUGH_PODS:
            break
        if devices is not None:
            total += node_fit.allocatable(node)[devices.resource]
            free += left[devices.resource]
            device_pods += left[devices.resource] // devices.count
    return NodeCapacity(
        nodes=len(found.nodes),
        total=total,
        free=free,
        pods=fitting_pods,
        device_pods=device_pods,
        excluded=node_fit.describe_excluded(found, needs),
        coming_nodes=len(coming_nodes),
        coming_pods=sum(pods_that_fit(node_fit.allocatable(node), requests) for node in coming_nodes),
        places=(found.nodes, coming_nodes),
        taken=known.taken,
    )


def free_amounts(node: Json, taken: Mapping[tuple[str, str], int]) -> Amounts:
    """Return what no pod has of a node's allocatable amounts."""
    name = node["metadata"]["name"]
    return {
        resource: max(amount - taken.get((name, resource), 0), 0)
        for resource, amount in node_fit.allocatable(node).items()
    }


def pods_that_fit(free: Amounts, requests: Amounts) -> int:
    """Return how many pods fit into free amounts. A node that does not report CPU, memory or pods does not limit them."""
    limits = [
        free.get(resource, 0) // amount
        for resource, amount in requests.items()
        if amount and (resource in free or pod_requests.is_device(resource))
    ]
    return min(limits, default=ENOUGH_PODS)


def add_freed_pods(available: AvailableCapacity, devices: Devices | None, freed: Sequence[Json]) -> AvailableCapacity:
    """Return the capacity once these pods have ended.

    The result assumes the best case: each new pod finds all that it needs on one node.
    """
    amounts: Counter[str] = Counter()
    for pod in freed:
        amounts.update(pod_requests.pod_requests(pod))
    more = 0
    if devices is not None:
        more = len(freed) * devices.count if devices.is_claimed else amounts[available.resource]
    nodes, quota = available.on_nodes, available.quota
    if nodes is not None:
        free = nodes.free + more
        fitting = nodes.pods + len(freed) if devices is None else free // devices.count
        nodes = replace(nodes, free=free, pods=fitting, device_pods=fitting)
    quota = None if quota is None else quota + more
    return replace(available, on_nodes=nodes, quota=quota, limits=quotas.add_freed(available.limits, amounts))


def find_shortage(
    devices: Devices | None, more: int, available: AvailableCapacity, gpu: Gpu, *, created: int = 0, lacking: int = 0
) -> Cause | None:
    """Return the shortage where `more` pods do not fit; None where they fit or nothing is known.

    Args:
        devices: the devices of one pod; None without.
        more: pods that need a node.
        available: what is free.
        gpu: the types and the memory that the message names.
        created: how many of these pods exist already, so that quotas count them.
        lacking: how many of these pods are missing ones of stable.
    """
    if more <= 0:
        return None
    new, free = max(more - created, 0), available.on_nodes
    over_devices = devices is not None and available.quota is not None and new * devices.count > available.quota
    exceeded = quotas.find_exceeded(available.limits, new)
    if not over_devices and exceeded is None and (free is None or more <= free.most_pods):
        return None
    for_stable = f", {lacking} of them for stable" if lacking else ""
    # Autoscalers may add nodes, but nothing raises a quota. So the quota is the reason where both fall short.
    if not over_devices and exceeded is not None:
        message = quotas.describe_exceeded(exceeded, new * exceeded.per_pod, new) + for_stable
        return Cause(DeploymentReason.INSUFFICIENT_QUOTA, f"{message}. {QUOTA_FIX}")
    message = (
        _describe_pods(more, available) if devices is None else _describe_devices(devices, more, available, gpu)
    ) + for_stable
    if over_devices:
        return Cause(DeploymentReason.INSUFFICIENT_QUOTA, f"{message}. {QUOTA_FIX}")
    others = f"; other nodes: {free.excluded}" if free is not None and free.excluded else ""
    fix = (free.fix if free is not None else "") or scheduler_message.NODES_FIX
    return Cause(DeploymentReason.INSUFFICIENT_CAPACITY, f"{message}{others}. {fix}")


def _describe_devices(devices: Devices, more: int, available: AvailableCapacity, gpu: Gpu) -> str:
    needed, free = more * devices.count, available.on_nodes
    message = f"{needed} {available.resource}{describe_type(gpu)} needed ({more} × {devices.count})"
    if free is not None:
        message += f", {free.free} of {free.total} free on {format_count(free.nodes, 'node')}{_describe_coming(free)}"
    if available.quota is not None:
        message += f", {available.quota} left by the namespace's quota"
    if free is None or free.most_pods >= more or needed > free.free:
        return message
    if free.device_pods < more:
        return f"{message}, not {devices.count} of them on one node"
    return f"{message}, with {_format_pod(available)} free beside them for {format_count(free.pods, 'pod')}"


def describe_type(gpu: Gpu) -> str:
    """Return the types and the memory of devices, as words after their number; empty if any suits."""
    kind = f" of type {' or '.join(gpu.type)}" if gpu.type else ""
    return f"{kind} with at least {gpu.memory}" if gpu.memory else kind


def _describe_pods(more: int, available: AvailableCapacity) -> str:
    free = available.on_nodes
    message = f"{format_count(more, 'pod')} with {_format_pod(available)} needed"
    if free is None:
        return message
    on_nodes = f"{format_count(free.pods, 'pod')} fit on {format_count(free.nodes, 'node')}"
    return f"{message}, {on_nodes}{_describe_coming(free)}"


def _describe_coming(free: NodeCapacity) -> str:
    if not free.coming_nodes:
        return ""
    pods, nodes = format_count(free.coming_pods, "pod"), format_count(free.coming_nodes, "node")
    return f", {pods} on {nodes} that may be added"


def _format_pod(available: AvailableCapacity) -> str:
    return " and ".join(
        pod_requests.format_amount(name, amount) for name, amount in available.requests.items() if name in (CPU, MEMORY)
    )


def describe_available(available: AvailableCapacity, needed: int, lacking: int = 0) -> Iterator[str]:
    """Yield the free capacity for so many pods, `lacking` of which are missing ones of stable; nothing where the nodes are unknown."""
    free = available.on_nodes
    if free is not None:
        most = f"{ENOUGH_PODS} or more" if free.pods >= ENOUGH_PODS else str(free.pods)
        pod = pod_requests.format_amounts(available.requests)
        fit = f"{most} fit on {format_count(free.nodes, 'node')}{_describe_coming(free)}"
        for_stable = f", {lacking} of them for stable" if lacking else ""
        yield f"{format_count(needed, 'pod')} with {pod} needed{for_stable}, {fit}"


def is_blocking(short: Cause | None, installation: Installation | None, *, has_devices: bool) -> bool:
    """Return whether pods must wait until a shortage is over.

    A quota always blocks. Missing nodes block where the administrator lists all nodes that may come (`nodePools`). Otherwise they do
    not block where an autoscaler adds nodes for pending pods (`gpu.nodesCome`), and for pods without devices: their nodes often come
    from an autoscaler that the operator cannot see.
    """
    if short is None or short.reason != DeploymentReason.INSUFFICIENT_CAPACITY:
        return short is not None
    return has_to_wait_for_nodes(installation, has_devices=has_devices)


def has_to_wait_for_nodes(installation: Installation | None, *, has_devices: bool) -> bool:
    """Whether pods must wait for nodes with free capacity (`is_blocking`)."""
    if installation is not None and installation.node_pools:
        return True
    nodes_come = installation is not None and installation.gpu.nodes_come
    return has_devices and not nodes_come
