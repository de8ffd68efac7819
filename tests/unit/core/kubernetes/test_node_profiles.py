"""The guess of a cluster's profiles, from the labels of its nodes."""

from collections.abc import Mapping, Sequence

import pytest

from sundog_operator.api.installation import parse_installation
from sundog_operator.core.kubernetes import node_profiles

FIXED = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}
ON_GKE = {"cloud.google.com/gke-nodepool": "a"}
OF_KARPENTER = {"karpenter.k8s.aws/instance-family": "m7i", "karpenter.sh/nodepool": "a"}
OF_AUTO_MODE = {"eks.amazonaws.com/compute-type": "auto"}
PLAIN = {"kubernetes.io/arch": "amd64", "eks.amazonaws.com/nodegroup": "a"}


def guess(*nodes: Mapping[str, str]) -> tuple[str, ...]:
    found = [node_profiles.find_node_profile({"metadata": {"name": "a", "labels": labels}}) for labels in nodes]
    return node_profiles.guess_profiles(found)


@pytest.mark.parametrize(
    ("nodes", "profiles"),
    [
        ([], ()),
        ([PLAIN], ()),
        ([FIXED, PLAIN], ("gpu-operator",)),
        ([{"amd.com/gpu.product-name": "AMD_Instinct_MI300X"}], ("gpu-operator",)),
        ([{**ON_GKE, "cloud.google.com/gke-accelerator": "nvidia-l4"}], ("gke",)),
        ([{**OF_KARPENTER, "karpenter.k8s.aws/instance-gpu-name": "l4"}], ("karpenter",)),
        ([{"eks.amazonaws.com/instance-gpu-name": "l4"}], ("eks",)),
        ([{"karpenter.azure.com/sku-gpu-name": "A100"}], ("aks",)),
        ([{"gpu.nvidia.com/class": "L40S"}], ("coreweave",)),
        ([{"gpu.nvidia.com/class": ""}], ()),
        # A node of a cloud gets the labels of feature discovery once it runs.
        ([{**OF_KARPENTER, "karpenter.k8s.aws/instance-gpu-name": "l4", **FIXED}], ("karpenter",)),
        # No node with devices yet: its cloud's other nodes show it.
        ([ON_GKE, PLAIN], ("gke",)),
        ([OF_KARPENTER], ("karpenter",)),
        ([OF_AUTO_MODE], ("eks",)),
        ([{"karpenter.azure.com/sku-name": "Standard_D4s_v5"}], ("aks",)),
        # Labels of devices say more than those of the cloud.
        ([{**OF_AUTO_MODE, **FIXED}], ("gpu-operator",)),
        # Fixed nodes beside those that Karpenter adds, in the order of their terms.
        ([{**OF_KARPENTER, "karpenter.k8s.aws/instance-gpu-name": "l4"}, FIXED], ("gpu-operator", "karpenter")),
        ([OF_KARPENTER, FIXED], ("gpu-operator", "karpenter")),
    ],
)
def test_nodes_show_their_profiles(nodes: Sequence[Mapping[str, str]], profiles: Sequence[str]) -> None:
    assert guess(*nodes) == profiles
    assert guess(*reversed(nodes)) == profiles


def test_the_administrator_decides_and_a_guess_fills_in() -> None:
    guessed, named = parse_installation("", "test"), parse_installation("gpu: {profiles: [gke]}", "test")
    assert node_profiles.set_profiles(named, ("karpenter",)) is named
    assert node_profiles.set_profiles(guessed, ()) is guessed
    assert node_profiles.set_profiles(guessed, ("karpenter",)).gpu.profiles == ("karpenter",)
    assert node_profiles.describe_profiles(named, ("karpenter",)) == "gke (installation.gpu.profiles)"
    assert node_profiles.describe_profiles(guessed, ("karpenter",)) == "karpenter (guessed from the nodes)"
    assert node_profiles.describe_profiles(guessed, ()) == (
        "unknown, so the keys of all vendors are used; set installation.gpu.profiles"
    )
