"""Check that pods of several kinds fit together: into quotas by their sum, and on nodes beside each other. Pure."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sundog_operator.api import Gpu
from sundog_operator.api.installation import Installation
from sundog_operator.api.reasons import Cause, DeploymentReason
from sundog_operator.core.kubernetes import accelerators, capacity, pod_requests, quotas, scheduler_message
from sundog_operator.core.kubernetes.capacity import AvailableCapacity, NodeCapacity
from sundog_operator.core.kubernetes.pod_requests import CPU, MEMORY, PODS, Amounts
from sundog_operator.core.kubernetes.quotas import QuotaLimit
from sundog_operator.core.text import format_count

_MAX_KINDS: Final = 5
"""Of so many kinds of pods, each set is checked; of more, each pair and all together."""

_LAST: Final = (CPU, MEMORY, PODS)
"""A shortage of devices is reported before one of these, in this order."""


@dataclass(frozen=True, slots=True)
class PodDemand:
    """Pods of one kind that need nodes.

    Attributes:
        gpu: their devices.
        pods: their number.
        available: what is free for them.
        created: how many of them exist already, so that quotas count them.
        lacking: how many of them are missing ones of stable.
    """

    gpu: Gpu
    pods: int
    available: AvailableCapacity
    created: int = 0
    lacking: int = 0

    @property
    def new(self) -> int:
        """Pods that quotas do not count yet."""
        return max(self.pods - self.created, 0)


@dataclass(frozen=True, slots=True)
class _Place:
    """A node with free capacity for a pod of some demands, by their index."""

    free: Amounts
    demands: frozenset[int]
    is_coming: bool


def find_shortage(demands: Iterable[PodDemand], installation: Installation | None) -> Cause | None:
    """Return why the pods of all demands must wait; None where they may fit together, or where capacity is unknown.

    A shortage is certain: no placement has capacity for all of the pods. It is found wherever the pods have one device each. For
    several devices each it is found where the same nodes suit all pods, have enough CPU and memory, and the numbers divide each other.
    Otherwise pods may start together that do not fit together.
    """
    asked = [each for each in demands if each.pods > 0]
    on_nodes = []
    for each in asked:
        devices, nodes = accelerators.replica_devices(each.gpu), each.available.on_nodes
        has_devices = devices is not None
        short = capacity.find_shortage(
            devices, each.pods, each.available, each.gpu, created=each.created, lacking=each.lacking
        )
        if capacity.is_blocking(short, installation, has_devices=has_devices):
            return short
        if nodes is not None and capacity.has_to_wait_for_nodes(installation, has_devices=has_devices):
            on_nodes.append((each, nodes))
    return _find_quota_shortage(asked) or _find_node_shortage(on_nodes)


def _find_quota_shortage(demands: Sequence[PodDemand]) -> Cause | None:
    over = quotas.find_exceeded(quotas.add_up((_limits_of(each.available), each.new) for each in demands), 1)
    if over is None:
        return None
    pods = sum(each.new for each in demands if each.available.requests.get(over.resource))
    message = quotas.describe_exceeded(over, over.per_pod, pods) + _describe_lacking(demands)
    return Cause(DeploymentReason.INSUFFICIENT_QUOTA, f"{message}. {capacity.QUOTA_FIX}")


def _limits_of(available: AvailableCapacity) -> Iterator[QuotaLimit]:
    yield from available.limits
    if available.quota is not None:
        yield QuotaLimit("", available.resource, "", available.quota, available.requests.get(available.resource, 0))


def _find_node_shortage(demands: Sequence[tuple[PodDemand, NodeCapacity]]) -> Cause | None:
    """Return the shortage of the smallest set of demands that do not fit together."""
    count, pods = len(demands), [each for each, _ in demands]
    if count < 2:
        return None
    places = _find_places(demands)
    for size in range(2, count + 1) if count <= _MAX_KINDS else (2, count):
        for chosen in itertools.combinations(range(count), size):
            if (short := _find_shortage_of(pods, frozenset(chosen), places)) is not None:
                return short
    return None


def _find_places(demands: Sequence[tuple[PodDemand, NodeCapacity]]) -> list[_Place]:
    found: dict[str, tuple[Amounts, set[int], bool]] = {}
    for index, (demand, known) in enumerate(demands):
        for is_coming, nodes in enumerate(known.places):
            for node in nodes:
                name = node["metadata"]["name"]
                free, fitting, _ = found.get(name) or (capacity.free_amounts(node, known.taken), set(), False)
                if capacity.pods_that_fit(free, demand.available.requests):
                    fitting.add(index)
                found[name] = (free, fitting, bool(is_coming))
    return [_Place(free, frozenset(fitting), is_coming) for free, fitting, is_coming in found.values() if fitting]


def _find_shortage_of(demands: Sequence[PodDemand], chosen: frozenset[int], places: Iterable[_Place]) -> Cause | None:
    """Return the shortage of the chosen demands if all nodes, each used as well as possible, have too little of a resource."""
    needed: Counter[str] = Counter()
    for index in chosen:
        needed.update(
            {name: amount * demands[index].pods for name, amount in demands[index].available.requests.items()}
        )
    usable: Counter[str] = Counter()
    free: Counter[str] = Counter()
    nodes: Counter[bool] = Counter()
    for place in places:
        if here := place.demands & chosen:
            most = _find_usable(place.free, [demands[index].available.requests for index in here])
            usable.update(most)
            free.update({name: place.free.get(name, amount) for name, amount in most.items()})
            nodes[place.is_coming] += 1
            if usable >= needed:
                return None
    # What is free is easier to see than what pods could have of it.
    _, _, short = min(
        (free[name] >= amount, _LAST.index(name) if name in _LAST else -1, name)
        for name, amount in needed.items()
        if usable[name] < amount
    )
    total, left, most_usable = (pod_requests.format_amount(short, each[short]) for each in (needed, free, usable))
    coming = f", {nodes[True]} of them still to be added" if nodes[True] else ""
    whole = f", of which whole pods can have {most_usable}" if free[short] >= needed[short] else ""
    asked = [demands[index] for index in sorted(chosen)]
    message = f"{total} needed by {_describe_pods(asked)}, {left} free on {format_count(nodes.total(), 'node')}{coming}{whole}"
    return Cause(DeploymentReason.INSUFFICIENT_CAPACITY, f"{message}. {scheduler_message.NODES_FIX}")


def _find_usable(free: Amounts, requests: Sequence[Amounts]) -> dict[str, int]:
    """Return the most that pods, each with one of these requests, can have of a node."""
    sizes = {name: [each.get(name, 0) for each in requests] for each in requests for name in each}
    pods = capacity.pods_that_fit(free, {name: min(each) for name, each in sizes.items()})
    usable = {name: pods * max(each) for name, each in sizes.items()}
    for name in usable.keys() & free.keys():
        # Pods have multiples of their greatest common divisor: of 3 devices, at most 2 where each pod has 2 or 4.
        usable[name] = min(usable[name], free[name] - free[name] % (math.gcd(*sizes[name]) or 1))
    return usable


def _describe_pods(demands: Sequence[PodDemand]) -> str:
    pods = " and ".join(
        f"{each.pods} × ({pod_requests.format_amounts(each.available.requests)}{capacity.describe_type(each.gpu)})"
        for each in demands
    )
    return pods + _describe_lacking(demands)


def _describe_lacking(demands: Iterable[PodDemand]) -> str:
    lacking = sum(each.lacking for each in demands)
    return f", {lacking} of them for stable" if lacking else ""
