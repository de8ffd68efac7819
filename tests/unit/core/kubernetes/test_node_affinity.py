"""The order of types and spot nodes, as the points that the scheduler gives to nodes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest

from sundog_operator.api import Gpu
from sundog_operator.core.kubernetes import device_types, node_affinity
from sundog_operator.core.kubernetes.device_types import TYPE_LABELS
from sundog_operator.core.kubernetes.node_affinity import NodeDemand
from sundog_operator.core.kubernetes.node_profiles import PROFILES, NodeLabels
from sundog_operator.core.kubernetes.spot import SPOT_LABELS

PRODUCT = "nvidia.com/gpu.product"
KARPENTER = "karpenter.k8s.aws/instance-gpu-name"
SPOT = {"karpenter.sh/capacity-type": "spot"}
TYPES = ("b200", "h200", "h100", "a100-80gb", "a100-40gb", "l40s", "l4", "t4")
Labels = Mapping[str, str]


def score(
    types: Sequence[str],
    nodes: Sequence[Labels],
    mode: str = "never",
    aliases: device_types.TypeAliases = MappingProxyType({}),
) -> list[int]:
    """Return the points of each of the nodes that have room: the scheduler scales the highest sum to 100, which it counts twice."""
    gpu = Gpu.from_json({"count": 1, "type": list(types)})
    made = node_affinity.make_node_affinity(NodeDemand(gpu, mode, {}, NodeLabels(aliases=aliases)))
    assert made is not None
    affinity = made["nodeAffinity"]
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    assert all(node_affinity.matches_terms(each, required) for each in nodes)
    preferred = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    sums = [
        sum(term["weight"] for term in preferred if node_affinity.matches_terms(each, [term["preference"]]))
        for each in nodes
    ]
    return [2 * (100 * each // max(*sums, 1)) for each in sums]


def affinity(gpu: Mapping[str, Any], profiles: Sequence[str] = (), **demand: Any) -> Any:
    asked = Gpu.from_json({"count": 1, **gpu})
    labels = NodeLabels(profiles, aliases=demand.pop("aliases", {}), spot=demand.pop("spot_labels", {}))
    return node_affinity.make_node_affinity(
        NodeDemand(asked, demand.get("spot", "never"), demand.get("selector", {}), labels)
    )


def terms(gpu: Mapping[str, Any], profiles: Sequence[str] = (), **demand: Any) -> list[Any]:
    found: list[Any] = affinity(gpu, profiles, **demand)["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    return found


def suits(labels: Labels, gpu: Mapping[str, Any], profiles: Sequence[str] = (), **demand: Any) -> bool:
    return node_affinity.matches_terms(labels, terms(gpu, profiles, **demand))


def node(type_: str, more: Labels | None = None) -> dict[str, str]:
    return {PRODUCT: device_types.KNOWN_TYPES[type_].values[PRODUCT][0], **(more or {})}


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
    made = affinity({"type": ["l4", "l4"]})
    assert made is not None
    assert "preferredDuringSchedulingIgnoredDuringExecution" not in made["nodeAffinity"]


def test_the_term_of_the_highest_weight_excludes_and_asks_for_no_label() -> None:
    """Karpenter takes it for a requirement, and starts no node for one that asks for labels that it does not know."""
    made = affinity({"type": list(TYPES)})
    assert made is not None
    first, second, *_ = made["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert first["weight"] > second["weight"]
    assert {each["operator"] for each in first["preference"]["matchExpressions"]} == {"NotIn"}


MEMORY = "nvidia.com/gpu.memory"
GKE = "cloud.google.com/gke-accelerator"
EKS = "eks.amazonaws.com/instance-gpu-name"
KARPENTER_MEMORY = "karpenter.k8s.aws/instance-gpu-memory"
AMD = "amd.com/gpu.product-name"
A100_ON_GKE = {GKE: "nvidia-tesla-a100"}
T4_ON_GKE = {GKE: "nvidia-tesla-t4"}
WHOLE_H100 = {
    PRODUCT: "NVIDIA-H100-80GB-HBM3",
    KARPENTER: "h100",
    KARPENTER_MEMORY: "81920",
    "nvidia.com/gpu.sharing-strategy": "none",
    "nvidia.com/mig.capable": "true",
    # NVIDIA's operator sets it by default, and feature discovery writes it where no device is sliced.
    "nvidia.com/mig.strategy": "single",
}
SLICED_H100 = {
    **WHOLE_H100,
    PRODUCT: "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb",
    "nvidia.com/gpu.slices.gi": "1",
    "nvidia.com/gpu.slices.ci": "1",
}
NOT_WHOLE = {
    "GKE partition": ("a100-40gb", {**A100_ON_GKE, "cloud.google.com/gke-gpu-partition-size": "1g.5gb"}),
    "GKE time-sharing": ("t4", {**T4_ON_GKE, "cloud.google.com/gke-gpu-sharing-strategy": "time-sharing"}),
    "GKE MPS": ("t4", {**T4_ON_GKE, "cloud.google.com/gke-gpu-sharing-strategy": "mps"}),
    "time-slicing": ("h100", {**WHOLE_H100, "nvidia.com/gpu.sharing-strategy": "time-slicing"}),
    "MPS": ("h100", {**WHOLE_H100, "nvidia.com/gpu.sharing-strategy": "mps"}),
    "MIG single": ("h100", SLICED_H100),
}


@pytest.mark.parametrize("profiles", [(), ("gpu-operator", "gke", "karpenter")])
@pytest.mark.parametrize("case", NOT_WHOLE)
def test_a_whole_device_is_on_no_node_whose_devices_are_shared_or_sliced(case: str, profiles: Sequence[str]) -> None:
    type_, labels = NOT_WHOLE[case]
    for asked in ({"type": [type_]}, {}, {"memory": "4Gi"}, {"sharing": {"mode": "fraction", "fraction": "0.5"}}):
        assert not suits(labels, asked, profiles)


@pytest.mark.parametrize(
    ("type_", "labels"), [("h100", WHOLE_H100), ("a100-40gb", A100_ON_GKE), ("t4", T4_ON_GKE)], ids=str
)
def test_a_node_with_whole_devices_suits(type_: str, labels: Labels) -> None:
    assert suits(labels, {"type": [type_]})
    assert suits(labels, {})


def test_slices_that_are_named_as_whole_devices_are_for_manifests_that_ask_for_them() -> None:
    product = SLICED_H100[PRODUCT]
    assert suits(SLICED_H100, {"type": [product]})
    assert suits(SLICED_H100, {}, selector={"nvidia.com/mig.strategy": "single"})
    assert suits(SLICED_H100, {}, selector={PRODUCT: product})
    assert not suits({**SLICED_H100, "nvidia.com/gpu.sharing-strategy": "mps"}, {"type": [product]})
    assert not suits(SLICED_H100, {}, selector={PRODUCT: "NVIDIA-H100-80GB-HBM3"})
    partition = {"cloud.google.com/gke-gpu-partition-size": "1g.5gb"}
    assert suits({**A100_ON_GKE, **partition}, {"type": ["a100-40gb"]}, selector=partition)


def test_devices_of_other_vendors_need_none_of_these_labels_to_be_absent() -> None:
    assert {each["key"] for each in terms({"vendor": "amd"})[0]["matchExpressions"]} == set(SPOT_LABELS)


@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("types", [["l4"], ["h100", "l4"]])
def test_with_a_profile_types_are_one_term_and_with_it_alone_their_keys(profile: str, types: list[str]) -> None:
    (term,) = terms({"type": types}, [profile])
    keys = [each["key"] for each in term["matchExpressions"]]
    assert keys[0] == PROFILES[profile].type_keys["nvidia"]
    assert not set(keys[1:]) & set(TYPE_LABELS)


def test_those_of_vendors_that_launch_nodes_come_last() -> None:
    found = [each["matchExpressions"][0]["key"] for each in terms({"type": ["l4"]}, ["karpenter", "gpu-operator"])]
    assert found == [PRODUCT, KARPENTER]
    everything = [each["matchExpressions"][0]["key"] for each in terms({"type": ["l4"]})]
    assert everything[-2:] == [EKS, KARPENTER]


def test_the_keys_of_an_alias_count_beside_the_profile() -> None:
    aliases = {"l4": {"example.com/card": ["four"]}}
    assert suits({"example.com/card": "four"}, {"type": ["l4"]}, ["gke"], aliases=aliases)
    assert suits({"example.com/card": "four"}, {"type": ["l4"], "memory": "20Gi"}, ["gke"], aliases=aliases)
    assert not suits({"example.com/card": "four"}, {"type": ["t4"]}, ["gke"], aliases=aliases)


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("NVIDIA-A10", {PRODUCT: "NVIDIA-A10"}),
        ("a10", {PRODUCT: "NVIDIA-A10"}),
        ("NVIDIA-L4", {PRODUCT: "NVIDIA-L4"}),
        ("NVIDIA-L4", {GKE: "nvidia-l4"}),
        ("nvidia-l4", {PRODUCT: "NVIDIA-L4"}),
        ("l40", {PRODUCT: "NVIDIA-L40"}),
        ("rtx-pro-6000", {PRODUCT: "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition"}),
        ("a6000", {PRODUCT: "NVIDIA-RTX-A6000"}),
        ("gh200", {PRODUCT: "NVIDIA-GH200-480GB"}),
        ("b200", {PRODUCT: "NVIDIA-B200"}),
        ("NVIDIA-A100-PCIE-40GB", {PRODUCT: "NVIDIA-A100-PCIE-40GB"}),
        ("NVIDIA-A100-PCIE-40GB", {GKE: "nvidia-tesla-a100"}),
        ("NVIDIA-Brand-New", {PRODUCT: "NVIDIA-Brand-New"}),
    ],
)
def test_a_type_may_have_the_spelling_of_a_label(written: str, labels: Labels) -> None:
    assert suits(labels, {"type": [written]})


def test_a_spelling_that_names_one_product_means_no_other() -> None:
    assert not suits({PRODUCT: "NVIDIA-A100-SXM4-40GB"}, {"type": ["NVIDIA-A100-PCIE-40GB"]})
    assert not suits({PRODUCT: "NVIDIA-A10G"}, {"type": ["NVIDIA-A10"]})


@pytest.mark.parametrize("written", ["mi300x", "AMD-Instinct-MI300X", "AMD_Instinct_MI300X_OAM"])
def test_amd_names_its_devices_with_underscores(written: str) -> None:
    assert suits({AMD: "AMD_Instinct_MI300X_OAM"}, {"vendor": "amd", "type": [written]}, ["gpu-operator"])


def test_memory_of_amd_is_that_of_the_type_or_a_text_in_a_label() -> None:
    small, large = {"amd.com/gpu.vram": "64G", AMD: "AMD_Instinct_MI210"}, {"amd.com/gpu.vram": "192G", AMD: "own"}
    for profiles in ((), ("gpu-operator",)):
        any_type = {"vendor": "amd", "memory": "100Gi"}
        assert suits(large, any_type, profiles)
        assert not suits(small, any_type, profiles)
        assert suits(large, {**any_type, "type": ["own"]}, profiles)
        assert suits({AMD: "AMD_Instinct_MI300X"}, {**any_type, "type": ["mi300x"]}, profiles)


@pytest.mark.parametrize(
    ("vendor", "key", "value"),
    [("gaudi", "habana.ai/product.name", "Gaudi2"), ("intel", "gpu.intel.com/product", "Max_1550")],
)
def test_memory_of_gaudi_and_intel_is_that_of_the_type(vendor: str, key: str, value: str) -> None:
    assert suits({key: value}, {"vendor": vendor, "memory": "90Gi"})
    assert not suits({key: "Gaudi" if vendor == "gaudi" else "Flex_170"}, {"vendor": vendor, "memory": "90Gi"})


def test_a_type_implies_its_memory_where_nodes_have_no_label_of_it() -> None:
    assert suits({GKE: "nvidia-l4"}, {"type": ["l4"], "memory": "20Gi"})
    assert not suits({GKE: "nvidia-l4"}, {"type": ["l4"], "memory": "40Gi"})
    assert suits({GKE: "nvidia-l4"}, {"memory": "20Gi"}, ["gke"])
    assert not suits({GKE: "nvidia-tesla-t4"}, {"memory": "20Gi"}, ["gke"])
    # An eighth of an L4 has its name on EKS and Karpenter.
    assert not suits({KARPENTER: "l4", KARPENTER_MEMORY: "2861"}, {"type": ["l4"]})
    assert suits({KARPENTER: "l4", KARPENTER_MEMORY: "22888"}, {"type": ["l4"]})


@pytest.mark.parametrize("key", list(SPOT_LABELS))
@pytest.mark.parametrize("gpu", [{}, {"type": ["l4"]}, {"count": 0}], ids=["any", "type", "none"])
def test_never_means_no_spot_node_of_any_vendor(key: str, gpu: dict[str, Any]) -> None:
    labels = {PRODUCT: "NVIDIA-L4", key: SPOT_LABELS[key][0]}
    assert not suits(labels, gpu)
    assert not suits(labels, gpu, ["gpu-operator"])
    assert suits({PRODUCT: "NVIDIA-L4", key: "other"}, gpu)
    assert not suits({PRODUCT: "NVIDIA-L4", "tier": "cheap"}, gpu, spot_labels={"tier": ["cheap"]})
