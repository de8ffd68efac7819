"""Profiles of clusters: the label keys in which their nodes name devices, and a guess from the nodes.

Karpenter tries the required terms of an affinity one after the other, drops each that no instance type meets, and keeps the last one.
With the keys of every vendor in terms of their own, the last term has a key that Karpenter does not know, and nothing is launched. So the
terms of a cluster have its own keys, and those of vendors that launch nodes come last.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sundog_operator.api.installation import Installation
from sundog_operator.core.kubernetes import device_types, spot
from sundog_operator.core.kubernetes.device_types import TypeAliases
from sundog_operator.core.kubernetes.spot import SpotLabels

_DISCOVERY: Final = {
    "nvidia": device_types.NVIDIA_PRODUCT,
    "amd": device_types.AMD_PRODUCT,
    "gaudi": device_types.GAUDI_PRODUCT,
    "intel": device_types.INTEL_PRODUCT,
}


@dataclass(frozen=True, slots=True)
class Profile:
    """The labels of one vendor's nodes.

    Attributes:
        type_keys: the key that names the type of a node's devices, by vendor of the devices.
        memory_keys: the key of their memory in MiB, by vendor of the devices.
        spot_keys: the keys of spot nodes.
        signs: labels of nodes without devices that give the vendor away; an empty value stands for any.
    """

    type_keys: Mapping[str, str]
    memory_keys: Mapping[str, str] = field(default_factory=dict)
    spot_keys: Sequence[str] = tuple(spot.SPOT_LABELS)
    signs: Mapping[str, str] = field(default_factory=dict)


def _aws(name: str, chip: str, memory: str, signs: Mapping[str, str]) -> Profile:
    of_cards = ("nvidia", "amd", "gaudi")
    return Profile(
        type_keys={**dict.fromkeys(of_cards, name), "neuron": chip},
        memory_keys=dict.fromkeys(of_cards, memory),
        spot_keys=(spot.KARPENTER,),
        signs=signs,
    )


PROFILES: Final[dict[str, Profile]] = {
    "coreweave": Profile(type_keys={"nvidia": device_types.COREWEAVE}),
    "gpu-operator": Profile(type_keys=_DISCOVERY, memory_keys={"nvidia": device_types.NVIDIA_MEMORY}),
    "gke": Profile(
        type_keys={"nvidia": device_types.GKE}, spot_keys=(spot.GKE,), signs={"cloud.google.com/gke-nodepool": ""}
    ),
    "aks": Profile(
        type_keys=dict.fromkeys(("nvidia", "amd"), device_types.AZURE),
        spot_keys=(spot.AKS, spot.KARPENTER),
        signs={"karpenter.azure.com/sku-name": ""},
    ),
    "eks": _aws(
        device_types.EKS,
        device_types.EKS_CHIP,
        device_types.EKS_MEMORY,
        signs={"eks.amazonaws.com/compute-type": "auto"},
    ),
    "karpenter": _aws(
        device_types.KARPENTER,
        device_types.KARPENTER_CHIP,
        device_types.KARPENTER_MEMORY,
        signs={"karpenter.k8s.aws/ec2nodeclass": "", "karpenter.k8s.aws/instance-family": ""},
    ),
}
"""By name, in the order of their terms: vendors that launch nodes last, and Karpenter of AWS, which has most users, the last of all."""


@dataclass(frozen=True, slots=True)
class NodeLabels:
    """Knowledge of an installation about the labels of its nodes.

    Attributes:
        profiles: names of the cluster's profiles; empty where they are unknown.
        aliases: the administrator's label values of types.
        spot: the administrator's labels of spot nodes.
    """

    profiles: Sequence[str] = ()
    aliases: TypeAliases = field(default_factory=dict)
    spot: SpotLabels = field(default_factory=dict)

    def find_profiles(self) -> list[Profile]:
        """Return the profiles in the order of their terms: all of them where the cluster's are unknown."""
        return [profile for name, profile in PROFILES.items() if name in self.profiles or not self.profiles]


def make_node_labels(installation: Installation) -> NodeLabels:
    """Return the labels of an installation's nodes."""
    gpu = installation.gpu
    return NodeLabels(tuple(gpu.profiles), gpu.aliases, installation.spot.labels)


def set_profiles(installation: Installation, guessed: Sequence[str]) -> Installation:
    """Return the installation with the guessed profiles, unless the administrator named some."""
    if installation.gpu.profiles or not guessed:
        return installation
    return installation.model_copy(update={"gpu": installation.gpu.model_copy(update={"profiles": tuple(guessed)})})


def find_node_profile(node: Mapping[str, Any]) -> str:
    """Return the profile of one node, with devices or without; empty if its labels show none.

    A pool that is scaled to zero has nodes of its cloud beside it, which show the profile as well. A node of a cloud may have the labels
    of node feature discovery too, but only once it runs. So the cloud's count.
    """
    labels: Mapping[str, str] = node["metadata"].get("labels") or {}
    last_first = tuple(reversed(PROFILES.items()))
    of_devices = (name for name, each in last_first if any(labels.get(key) for key in each.type_keys.values()))
    of_cloud = (name for name, each in last_first if any(_has(labels, *sign) for sign in each.signs.items()))
    return next(of_devices, "") or next(of_cloud, "")


def _has(labels: Mapping[str, str], key: str, value: str) -> bool:
    return labels.get(key) == value if value else key in labels


def guess_profiles(found: Iterable[str]) -> tuple[str, ...]:
    """Return the profiles of a cluster, from those of its nodes (`find_node_profile`); empty if no node shows any."""
    names = set(found)
    return tuple(name for name in PROFILES if name in names)


def describe_profiles(installation: Installation, guessed: Sequence[str]) -> str:
    """Return which label keys name the types of devices, and where that is from, for people."""
    if installation.gpu.profiles:
        return f"{', '.join(installation.gpu.profiles)} (installation.gpu.profiles)"
    if guessed:
        return f"{', '.join(guessed)} (guessed from the nodes)"
    return "unknown, so the keys of all vendors are used; set installation.gpu.profiles"
