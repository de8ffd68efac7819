"""The order of types and spot nodes, as the points that the scheduler gives to nodes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pytest

from sundog_operator.api import Gpu
from sundog_operator.core.kubernetes import accelerators, spot

PRODUCT = "nvidia.com/gpu.product"
KARPENTER = "karpenter.k8s.aws/instance-gpu-name"
SPOT = {"karpenter.sh/capacity-type": "spot"}
TYPES = ("b200", "h200", "h100", "a100-80gb", "a100-40gb", "l40s", "l4", "t4")
Labels = Mapping[str, str]


def score(
    types: Sequence[str],
    nodes: Sequence[Labels],
    mode: str = "never",
    aliases: accelerators.TypeAliases = MappingProxyType({}),
) -> list[int]:
    """Return the points of each of the nodes that have room: the scheduler scales the highest sum to 100, which it counts twice."""
    gpu = Gpu.from_json({"count": 1, "type": list(types)})
    made = accelerators.make_node_affinity(gpu, aliases, (), spot.make_preferred_expressions(mode, {}))
    assert made is not None
    affinity = made["nodeAffinity"]
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    assert all(accelerators.matches_terms(each, required) for each in nodes)
    preferred = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    sums = [
        sum(term["weight"] for term in preferred if accelerators.matches_terms(each, [term["preference"]]))
        for each in nodes
    ]
    return [2 * (100 * each // max(*sums, 1)) for each in sums]


def node(type_: str, more: Labels | None = None) -> dict[str, str]:
    return {PRODUCT: accelerators.KNOWN_TYPES[type_][PRODUCT][0], **(more or {})}


@pytest.mark.parametrize(
    ("count", "margin", "margin_with_spot"), [(2, 200, 100), (3, 200, 100), (5, 158, 100), (8, 108, 80)]
)
def test_the_first_type_with_room_is_far_ahead_of_later_ones(count: int, margin: int, margin_with_spot: int) -> None:
    types = TYPES[:count]
    for first in range(count - 1):
        best, later = node(types[first]), [node(each) for each in types[first + 1 :]]
        points = score(types, [best, *later])
        assert points[0] == 200
        assert points[0] - points[1] >= margin
        assert points == sorted(points, reverse=True)
        points = score(types, [best, *({**each, **SPOT} for each in later)], "prefer")
        assert points[0] - points[1] >= margin_with_spot


@pytest.mark.parametrize(("types", "margin"), [((), 200), (("h100",), 200), (("h100", "l4"), 60), (TYPES[:3], 25)])
def test_a_spot_node_comes_before_another_of_its_type(types: Sequence[str], margin: int) -> None:
    nodes = [node(each, labels) for each in types or ("l4",) for labels in (SPOT, {})]
    points = score(types, nodes, "prefer")
    assert points[0] - points[1] >= margin
    assert len(set(points)) == len(points)
    assert points == sorted(points, reverse=True)


def test_a_node_with_two_labels_of_its_type_or_of_spot_counts_once() -> None:
    types = ("h100", "a10g", "l4")
    twice = [node("h100", {KARPENTER: "h100"}), node("a10g", {KARPENTER: "a10g"})]
    assert score(types, [node("h100"), node("a10g"), *twice]) == score(types, [node("h100"), node("a10g")]) * 2
    azure = {**SPOT, "kubernetes.azure.com/scalesetpriority": "spot"}
    assert len(set(score((), [node("l4", SPOT), node("l4", azure)], "prefer"))) == 1


def test_a_product_of_two_types_counts_as_the_first() -> None:
    aliases = {"a100": {PRODUCT: ["NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-SXM4-80GB"]}}
    nodes = [node("a100-80gb"), node("a100-40gb")]
    assert score(("a100-80gb", "a100"), nodes, aliases=aliases) == [200, 0]


def test_the_same_type_twice_is_no_preference() -> None:
    made = accelerators.make_node_affinity(Gpu.from_json({"count": 1, "type": ["l4", "l4"]}), {})
    assert made is not None
    assert "preferredDuringSchedulingIgnoredDuringExecution" not in made["nodeAffinity"]


def test_the_term_of_the_highest_weight_excludes_and_asks_for_no_label() -> None:
    """Karpenter takes it for a requirement, and starts no node for one that asks for labels that it does not know."""
    made = accelerators.make_node_affinity(Gpu.from_json({"count": 1, "type": list(TYPES)}), {})
    assert made is not None
    first, second, *_ = made["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert first["weight"] > second["weight"]
    assert {each["operator"] for each in first["preference"]["matchExpressions"]} == {"NotIn"}
