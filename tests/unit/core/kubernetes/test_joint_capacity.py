"""Pods of several kinds that must fit together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.api.installation import parse_installation
from sundog_operator.core.kubernetes import capacity, joint_capacity, node_fit
from sundog_operator.core.kubernetes.joint_capacity import PodDemand

GPU = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"
NODES_FIX = "Free some, add nodes, or ask for less"
QUOTA_FIX = "Raise the quota, or ask for less"
TYPES = ("l4", "h100")
MAX_NODES = 4
parse = cache(parse_installation)
LARGE = 64


@dataclass(frozen=True)
class Node:
    type: str
    devices: int
    cpu: int = LARGE
    memory: int = LARGE


@dataclass(frozen=True)
class Kind:
    """Pods of one kind; memory in GiB, with that of Ray."""

    devices: int
    pods: int = 1
    types: tuple[str, ...] = ()
    cpu: int = 1
    memory: int = 1


def make_node(name: str, node: Node) -> dict[str, Any]:
    """A node; without devices it has no type."""
    amounts = {"cpu": str(node.cpu), "memory": f"{node.memory}Gi", "pods": "110"}
    return {
        "metadata": {"name": name, "labels": {PRODUCT: node.type} if node.devices else {}},
        "spec": {},
        "status": {
            "allocatable": amounts | ({GPU: str(node.devices)} if node.devices else {}),
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def make_pools(nodes: Sequence[Node]) -> str:
    """The administrator's settings, in which each of these nodes may come."""
    return "nodePools:\n" + "".join(
        f"- {{name: p{number}, maxNodes: 1, labels: {{pool: p{number}, {PRODUCT}: {node.type}}}, allocatable: {{cpu: '{node.cpu}',"
        f" memory: {node.memory}Gi, pods: '110'{f', {GPU}: {chr(39)}{node.devices}{chr(39)}' if node.devices else ''}}}}}\n"
        for number, node in enumerate(nodes)
    )


@cache
def make_spec(kind: Kind) -> ModelDeploymentSpec:
    gpu = {"count": kind.devices, "type": list(kind.types)} if kind.devices else {}
    resources = {"cpu": str(kind.cpu), "memory": f"{kind.memory * 1024 - 512}Mi", "gpu": gpu}
    return ModelDeploymentSpec.from_json({"model": {"uri": "file:///m"}, "resources": resources})


def check(
    nodes: Sequence[Node] | None,
    kinds: Sequence[Kind],
    *,
    quotas: Sequence[dict[str, Any]] = (),
    text: str = "",
    created: int = 0,
    lacking: int = 0,
) -> tuple[str, str] | None:
    """Return the shortage of all kinds together. The first kind has created and lacking pods."""
    installation = parse(text, "test")
    known = None
    if nodes is not None:
        present = [node_fit.trim_node(make_node(f"n{number}", node)) for number, node in enumerate(nodes)]
        known = capacity.make_inventory(present, ())
    demands = []
    for kind in kinds:
        spec = make_spec(kind)
        available = capacity.find_available_capacity(spec, known, quotas, installation)
        if available is not None:
            first = not demands
            demands.append(
                PodDemand(spec.resources.gpu, kind.pods, available, created if first else 0, lacking if first else 0)
            )
    return joint_capacity.find_shortage(demands, installation)


def take(node: Node, pod: Kind) -> Node | None:
    """Return what a pod leaves of a node; None if it does not fit."""
    left = Node(node.type, node.devices - pod.devices, node.cpu - pod.cpu, node.memory - pod.memory)
    suits = not pod.devices or not pod.types or node.type in pod.types
    return left if suits and min(left.devices, left.cpu, left.memory) >= 0 else None


def can_place(nodes: Sequence[Node], kinds: Sequence[Kind]) -> bool:
    """Whether some placement has room for all pods; tries every one."""
    pods = sorted((kind for kind in kinds for _ in range(kind.pods)), key=repr)

    @cache
    def place(index: int, free: tuple[Node, ...]) -> bool:
        if index == len(pods):
            return True
        return any(
            place(index + 1, tuple(sorted((*free[:at], left, *free[at + 1 :]), key=repr)))
            for at, node in enumerate(free)
            if (left := take(node, pods[index])) is not None
        )

    return place(0, tuple(nodes))


counts = st.integers(1, 3)
some_types = st.sampled_from([(), ("l4",), ("h100",), ("l4", "h100")])
any_nodes = st.lists(
    st.builds(Node, st.sampled_from(TYPES), st.integers(0, 4), st.integers(1, 6), st.integers(1, 6)),
    max_size=MAX_NODES,
)
any_kinds = st.lists(
    st.builds(Kind, st.integers(0, 3), counts, some_types, st.integers(1, 3), st.integers(1, 3)),
    min_size=1,
    max_size=4,
)


some_coming = st.sampled_from(
    [[Node("l4", 0, 1, 1)], [Node("l4", 2, 4, 4)], [Node("h100", 1, 2, 6), Node("l4", 0, 6, 2)]]
)


@given(any_nodes, some_coming, any_kinds)
def test_nothing_waits_that_some_placement_has_room_for(
    nodes: list[Node], coming: list[Node], kinds: list[Kind]
) -> None:
    # Where all nodes that may come are known, pods without devices wait too.
    if check(nodes, kinds, text=make_pools(coming)) is not None:
        assert not can_place([*nodes, *coming], kinds)


@given(any_nodes, st.builds(Kind, st.integers(1, 3), st.integers(1, 6), some_types, st.integers(1, 3)))
def test_pods_of_one_kind_wait_exactly_when_no_placement_has_room(nodes: list[Node], kind: Kind) -> None:
    assert (check(nodes, [kind]) is None) == can_place(nodes, [kind])


@given(
    st.lists(st.builds(Node, st.sampled_from(TYPES), st.integers(0, 3)), max_size=MAX_NODES),
    st.lists(st.builds(Kind, st.just(1), counts, some_types), min_size=2, max_size=4),
)
def test_pods_with_one_device_wait_exactly_when_no_placement_has_room(nodes: list[Node], kinds: list[Kind]) -> None:
    assert (check(nodes, kinds) is None) == can_place(nodes, kinds)


@given(
    st.lists(st.integers(0, 8), max_size=3),
    st.lists(st.builds(Kind, st.sampled_from([2, 4, 8]), counts), min_size=2, max_size=3),
)
def test_numbers_of_devices_that_divide_each_other_wait_exactly_when_no_placement_has_room(
    devices: list[int], kinds: list[Kind]
) -> None:
    nodes = [Node("l4", each) for each in devices]
    assert (check(nodes, kinds) is None) == can_place(nodes, kinds)


def quota(hard: str, used: str, key: str = f"requests.{GPU}") -> dict[str, Any]:
    return {"metadata": {"name": "team"}, "status": {"hard": {key: hard}, "used": {key: used}}}


ONE, TWO = Kind(1), Kind(2)
BOTH = f"1 × (1 CPU, 1Gi memory, 1 {GPU}) and 1 × (1 CPU, 1Gi memory, 2 {GPU})"


@pytest.mark.parametrize(
    ("nodes", "kinds", "message"),
    [
        ([Node("l4", 2)], [ONE, TWO], f"3 {GPU} needed by {BOTH}, 2 {GPU} free on 1 node"),
        (
            # The h100 suits neither.
            [Node("l4", 1), Node("h100", 4)],
            [Kind(1, types=("l4",)), Kind(1, 2, ("l4",), memory=2)],
            f"2 {GPU} of type l4 needed (2 × 1), 1 of 1 free on 1 node; other nodes: 1 with devices of another type or memory (h100)",
        ),
        (
            [Node("l4", 1), Node("h100", 1)],
            [Kind(1, types=("l4",)), Kind(1, 2, types=("l4", "h100"))],
            f"3 {GPU} needed by 1 × (1 CPU, 1Gi memory, 1 {GPU} of type l4) and 2 × (1 CPU, 1Gi memory, 1 {GPU} of type l4 or h100),"
            f" 2 {GPU} free on 2 nodes",
        ),
        (
            [Node("l4", 4, memory=32)],
            [Kind(1, memory=20), Kind(1, memory=24), Kind(1)],
            f"44Gi memory needed by 1 × (1 CPU, 20Gi memory, 1 {GPU}) and 1 × (1 CPU, 24Gi memory, 1 {GPU}), 32Gi memory free on 1"
            " node",
        ),
        # Devices whose CPU others have are not free.
        (
            [Node("l4", 8, cpu=2), Node("l4", 1)],
            [Kind(1, 2), Kind(1, 2, memory=2)],
            f"4 {GPU} needed by 2 × (1 CPU, 1Gi memory, 1 {GPU}) and 2 × (1 CPU, 2Gi memory, 1 {GPU}), 9 {GPU} free on 2"
            f" nodes, of which whole pods can have 3 {GPU}",
        ),
        (
            [Node("l4", 5), Node("l4", 5)],
            [TWO, Kind(4, 2)],
            f"10 {GPU} needed by 1 × (1 CPU, 1Gi memory, 2 {GPU}) and 2 × (1 CPU, 1Gi memory, 4 {GPU}), 10 {GPU} free on 2 nodes,"
            f" of which whole pods can have 8 {GPU}",
        ),
    ],
    ids=["count", "one kind", "types", "memory", "cpu", "even"],
)
def test_the_smallest_set_that_does_not_fit_is_named(nodes: list[Node], kinds: list[Kind], message: str) -> None:
    assert check(nodes, kinds) == ("InsufficientCapacity", f"{message}. {NODES_FIX}")


def test_pods_of_stable_and_nodes_that_may_come_are_named() -> None:
    assert check([Node("l4", 1)], [ONE, TWO], lacking=1, text=make_pools([Node("l4", 1)])) == (
        "InsufficientCapacity",
        f"2 {GPU} needed (1 × 2), 1 of 1 free on 1 node, 0 pods on 1 node that may be added. {NODES_FIX}",
    )
    assert check([Node("l4", 0)], [ONE, TWO], lacking=1, text=make_pools([Node("l4", 2)])) == (
        "InsufficientCapacity",
        f"3 {GPU} needed by {BOTH}, 1 of them for stable, 2 {GPU} free on 1 node, 1 of them still to be added."
        f" {NODES_FIX}",
    )


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (quota("4", "2"), f"3 {GPU} needed by 2 more pods, 2 {GPU} left by the namespace's quota"),
        (quota("5", "2500m", "cpu"), "3 CPU needed by 3 more pods, 2.5 CPU left by cpu of ResourceQuota team"),
        (quota("8", "6", "pods"), "3 pods needed, 2 pods left by pods of ResourceQuota team"),
    ],
    ids=["devices", "cpu", "pods"],
)
@pytest.mark.parametrize("nodes", [None, [Node("l4", 8)]], ids=["unknown", "known"])
def test_quotas_count_the_sum(nodes: list[Node] | None, limit: dict[str, Any], message: str) -> None:
    kinds = [ONE, TWO, Kind(0)]
    assert check(nodes, kinds, quotas=[limit]) == ("InsufficientQuota", f"{message}. {QUOTA_FIX}")


def test_pods_that_exist_take_no_more_of_a_quota() -> None:
    assert check(None, [ONE, TWO], quotas=[quota("4", "2")]) is not None
    assert check(None, [ONE, TWO], quotas=[quota("4", "2")], created=1) is None


@pytest.mark.parametrize(
    ("text", "devices", "waits"),
    [
        ("", 1, True),
        ("", 0, False),
        ("gpu: {nodesCome: true}", 1, False),
        (make_pools([Node("l4", 0, 1, 1)]), 0, True),
    ],
    ids=["devices", "none", "nodes come", "pools"],
)
def test_nodes_hold_back_what_they_hold_back_of_a_candidate(text: str, devices: int, waits: bool) -> None:
    kinds = [Kind(devices, cpu=2), Kind(devices, cpu=3)]
    assert (check([Node("l4", devices, cpu=4)], kinds, text=text) is not None) == waits


def test_pods_without_devices_take_nothing_from_those_with_some() -> None:
    # A node without devices may come for them.
    assert check([Node("l4", 1, cpu=2)], [Kind(1, cpu=2), Kind(0, cpu=2)]) is None
