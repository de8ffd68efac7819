"""Accelerators: devices from device plugins or by claims, whole or shared, on nodes with the types and the memory that a spec names."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Any, Final

from sundog_operator.api import Gpu, parse_bytes

Json = dict[str, Any]
TypeAliases = Mapping[str, Mapping[str, Iterable[str]]]
"""Label values by type and label key."""

VENDOR_RESOURCES: Final[Mapping[str, tuple[str, str]]] = {
    "nvidia": ("nvidia.com/gpu", "GPU"),
    "amd": ("amd.com/gpu", "GPU"),
    "intel": ("gpu.intel.com/xe", "GPU"),
    "gaudi": ("habana.ai/gaudi", "HPU"),
    "neuron": ("aws.amazon.com/neuroncore", "neuron_cores"),
}
"""By vendor: the device plugin's resource, and Ray's name for it. Ray counts `GPU` in `num_gpus`."""

RAY_GPU: Final = "GPU"
MIG_RESOURCE: Final = "nvidia.com/mig-{}"
"""Resource name of a MIG profile where the device plugin's `mig.strategy` is `mixed`. Ray does not see slices, and counts each as a GPU."""

TYPE_LABELS: Final = (
    "nvidia.com/gpu.product",
    "cloud.google.com/gke-accelerator",
    "eks.amazonaws.com/instance-gpu-name",
    "karpenter.k8s.aws/instance-gpu-name",
    "karpenter.azure.com/sku-gpu-name",
    "gpu.nvidia.com/model",
    "gpu.nvidia.com/class",
    "amd.com/gpu.product-name",
    "beta.amd.com/gpu.product-name",
    "habana.ai/product.name",
    "gpu.intel.com/product",
)
"""Label keys in which node feature discovery and clouds give the type of a node's devices."""

MEMORY_LABELS: Final = (
    "nvidia.com/gpu.memory",
    "karpenter.k8s.aws/instance-gpu-memory",
    "eks.amazonaws.com/instance-gpu-memory",
)
"""Label keys in which node feature discovery and clouds give the memory of each of a node's devices, in MiB."""

_MAX_WEIGHT: Final = 100
"""Of a preferred term, by the API."""
_MIB: Final = 2**20
_MAX_INT64: Final = 2**63 - 1
_PRODUCT, _GKE, _CLASS = "nvidia.com/gpu.product", "cloud.google.com/gke-accelerator", "gpu.nvidia.com/class"
_KARPENTER = ("eks.amazonaws.com/instance-gpu-name", "karpenter.k8s.aws/instance-gpu-name")

KNOWN_TYPES: Final[TypeAliases] = {
    "t4": {_PRODUCT: ("Tesla-T4",), _GKE: ("nvidia-tesla-t4",), **dict.fromkeys(_KARPENTER, ("t4",))},
    "v100": {
        _PRODUCT: ("Tesla-V100-SXM2-16GB", "Tesla-V100-SXM2-32GB", "Tesla-V100-PCIE-16GB", "Tesla-V100-PCIE-32GB"),
        _GKE: ("nvidia-tesla-v100",),
        **dict.fromkeys(_KARPENTER, ("v100",)),
    },
    "a10g": {_PRODUCT: ("NVIDIA-A10G",), **dict.fromkeys(_KARPENTER, ("a10g",))},
    "l4": {_PRODUCT: ("NVIDIA-L4",), _GKE: ("nvidia-l4",), **dict.fromkeys(_KARPENTER, ("l4",))},
    "l40s": {_PRODUCT: ("NVIDIA-L40S",), _CLASS: ("L40S",), **dict.fromkeys(_KARPENTER, ("l40s",))},
    "a100-40gb": {
        _PRODUCT: ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB", "A100-SXM4-40GB"),
        _GKE: ("nvidia-tesla-a100",),
    },
    "a100-80gb": {
        _PRODUCT: ("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe", "A100-SXM4-80GB"),
        _GKE: ("nvidia-a100-80gb",),
        _CLASS: ("A100_NVLINK_80GB",),
    },
    "h100": {
        _PRODUCT: ("NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe", "NVIDIA-H100-NVL"),
        _GKE: ("nvidia-h100-80gb", "nvidia-h100-mega-80gb"),
        _CLASS: ("H100_NVLINK_80GB", "H100_PCIE"),
        **dict.fromkeys(_KARPENTER, ("h100",)),
    },
    "h200": {
        _PRODUCT: ("NVIDIA-H200", "NVIDIA-H200-NVL"),
        _GKE: ("nvidia-h200-141gb",),
        _CLASS: ("H200",),
        **dict.fromkeys(_KARPENTER, ("h200",)),
    },
    "b200": {
        _PRODUCT: ("NVIDIA-B200",),
        _GKE: ("nvidia-b200",),
        _CLASS: ("B200",),
        **dict.fromkeys(_KARPENTER, ("b200",)),
    },
}
"""Label values differ by cloud and form factor. A type that is not here is looked up as written."""


_TIME_SLICED_RESOURCE: Final = "nvidia.com/gpu.shared"
"""Resource name of time-sliced devices where the device plugin's `renameByDefault` is set. Without it they have the name of whole
devices, and pods that need a whole one may land there. MPS has the same name."""

_NOT_MPS: Final[Mapping[str, Any]] = {"key": "nvidia.com/gpu.sharing-strategy", "operator": "NotIn", "values": ["mps"]}
_SHARED_PRODUCT_SUFFIX: Final = "-SHARED"
"""Feature discovery may add it to the product of devices that pods share."""

_DEVICE_CLASSES: Final[Mapping[str, str]] = {"mig": "mig.nvidia.com"}
_DEVICE_CLASS: Final = "gpu.nvidia.com"
"""DeviceClasses of NVIDIA's driver for Dynamic Resource Allocation, by sharing mode and for all others."""

_RAY_PRECISION: Final = Decimal("0.0001")
"""Ray rounds resources to this. Rounded up, the shares of a device could exceed it."""


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of one pod, and how pods and replicas correspond.

    Attributes:
        resource: the pod's resource, or the DeviceClass of its claim.
        ray_name: Ray's name for it.
        count: number of devices.
        replicas_per_pod: more than 1 only where replicas share the pod's one device.
        fraction: the part of one device that a replica gets; None where it gets all of the pod's devices.
        is_claimed: whether the pod has a claim (Dynamic Resource Allocation), and requests nothing of a device plugin.
        pods_per_replica: more than 1 only where a replica has the devices of several pods.
    """

    resource: str
    ray_name: str
    count: int
    replicas_per_pod: int = 1
    fraction: float | None = None
    is_claimed: bool = False
    pods_per_replica: int = 1

    def count_pods(self, replicas: int) -> int:
        """Return the number of pods of so many replicas."""
        return -(-replicas // self.replicas_per_pod) * self.pods_per_replica


def replica_devices(gpu: Gpu) -> Devices | None:
    """Return the devices of a replica's pod; None without devices, or for an unsupported vendor."""
    if not gpu.count or gpu.vendor not in VENDOR_RESOURCES:
        return None
    resource, ray_name = VENDOR_RESOURCES[gpu.vendor]
    if gpu.sharing.mode == "mig":
        resource = MIG_RESOURCE.format(gpu.sharing.profile)
    if gpu.sharing.mode == "timeSliced":
        resource = _TIME_SLICED_RESOURCE
    if is_claimed := gpu.allocation == "dra":
        resource = _DEVICE_CLASSES.get(gpu.sharing.mode, _DEVICE_CLASS)
    if gpu.sharing.mode == "fraction":
        share = Decimal(gpu.sharing.fraction)
        rounded = float(share.quantize(_RAY_PRECISION, ROUND_DOWN))
        return Devices(resource, ray_name, gpu.count, int(1 // share), rounded, is_claimed)
    return Devices(resource, ray_name, gpu.count, is_claimed=is_claimed, pods_per_replica=gpu.topology.nodes)


def count_pods(gpu: Gpu, replicas: int) -> int:
    """Return the number of pods of so many replicas: one each, unless replicas share a device or are spread over pods."""
    devices = replica_devices(gpu)
    return replicas if devices is None else devices.count_pods(replicas)


def describe_devices(devices: Devices) -> str:
    """Return which replicas have which devices, for people."""
    given, shared = f"{devices.count} {devices.resource}", devices.replicas_per_pod
    if shared > 1:
        return f"{given} for every {shared} replicas, which share it without isolation"
    others = ", shared with other pods without isolation" if devices.resource == _TIME_SLICED_RESOURCE else ""
    pods = f" of the {devices.pods_per_replica} pods of each replica" if devices.pods_per_replica > 1 else " replica"
    return f"{given} for each{pods}{others}"


def actor_options(devices: Devices | None) -> Json:
    """Return the devices that a replica's process requests from Ray: none where it is spread over pods."""
    if devices is None or devices.pods_per_replica > 1:
        return {}
    if devices.ray_name == RAY_GPU:
        return {"num_gpus": devices.count if devices.fraction is None else devices.fraction}
    return {"resources": {devices.ray_name: devices.count}}


def make_bundles(devices: Devices, others: Json) -> list[Json]:
    """Return the bundles of the placement group of a replica that is spread over pods: one device in each.

    `others` are the CPU and the memory of a pod, by Ray's names. One bundle for each pod has them, so no two of these share a pod. Ray
    places them first, and then fills their pods: all pods of a group are either empty or full.
    """
    device = {devices.ray_name: 1}
    return [{**others, **device}, *([device] * (devices.count - 1))] * devices.pods_per_replica


def device_tolerations(gpu: Gpu) -> list[Json]:
    """Return the tolerations of the taints that reserve such nodes.

    By convention a taint has the resource's name: of the vendor's whole devices, also on nodes that share them.
    """
    devices = replica_devices(gpu)
    if devices is None:
        return []
    whole = VENDOR_RESOURCES[gpu.vendor][0]
    keys = dict.fromkeys((whole,) if devices.is_claimed else (whole, devices.resource))
    return [{"key": key, "operator": "Exists"} for key in keys]


def make_node_affinity(
    gpu: Gpu, aliases: TypeAliases, required: Sequence[Json] = (), preferred: Sequence[Json] = ()
) -> Json | None:
    """Return the affinity to the nodes that suit the devices. Earlier types are preferred. None if every node suits equally.

    Args:
        gpu: the devices.
        aliases: the administrator's label values of types.
        required: expressions, one of which a node must match too.
        preferred: expressions: among nodes of the same type, those that match one are preferred.
    """
    affinity: Json = {}
    if terms := make_node_terms(gpu, aliases, required):
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms}
    if preferences := _make_preferences(gpu, aliases, preferred):
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = preferences
    return {"nodeAffinity": affinity} if affinity else None


def _make_preferences(gpu: Gpu, aliases: TypeAliases, preferred: Sequence[Json]) -> list[Json]:
    """Return weighted terms: a node has the sum of those that it matches, and the scheduler scales the highest sum to 100.

    The nth term of types matches the nodes of the first n. Its weights fall by one factor, so that each type has far more than the next
    one, also where no node of the types before has room. Evenly spread weights would leave a seventh to the first of eight. Without
    `preferred` the factor uses the whole range from 100 to 1. With it each weight is half of the one before, and `preferred` has the last
    one: it never turns the order.
    """
    types, mode = gpu.type if _is_placed_by_labels(gpu) else (), gpu.sharing.mode
    ranks = (_exclude_types(types[:rank], types[rank:], mode, aliases) for rank in range(1, len(types)))
    levels = [[each] for each in ranks if each]
    factor = 2.0 if preferred else _MAX_WEIGHT ** (1 / max(len(levels) - 1, 1))
    if preferred:
        # A node that matches two expressions counts once.
        excluded = [{**each, "operator": "NotIn"} for each in preferred]
        levels.append([[each, *excluded[:index]] for index, each in enumerate(preferred)])
    return [
        {"weight": max(round(_MAX_WEIGHT / factor**level), 1), "preference": {"matchExpressions": expressions}}
        for level, terms in enumerate(levels)
        for expressions in terms
    ]


def make_node_terms(gpu: Gpu, aliases: TypeAliases, required: Sequence[Json] = ()) -> list[Json]:
    """Return the node selector terms of the devices: a node suits that matches one of them. Empty if every node suits.

    `required` are expressions, one of which a node must match too.

    Kubernetes combines terms by OR, and the expressions of one by AND. A type and the memory each have several label keys, so each pair of
    keys has a term.
    """
    alternatives = [each for each in (*_device_expressions(gpu, aliases), required) if each]
    return [{"matchExpressions": list(each)} for each in itertools.product(*alternatives)] if alternatives else []


def _device_expressions(gpu: Gpu, aliases: TypeAliases) -> list[list[Json]]:
    """Return lists of expressions: a node must match one of each list that is not empty."""
    if not _is_placed_by_labels(gpu):
        return []
    mode = gpu.sharing.mode
    slicing = [dict(_NOT_MPS)] if mode == "timeSliced" else []
    return [_type_expressions(gpu.type, mode, aliases), _memory_expressions(gpu.memory), slicing]


def _is_placed_by_labels(gpu: Gpu) -> bool:
    """Whether labels of nodes say which devices are there. A claim selects devices, and so their node."""
    return gpu.count > 0 and gpu.allocation != "dra"


def find_product_names(type_: str, aliases: TypeAliases) -> tuple[str, ...]:
    """Return the names of a type's products in lower case, as in `nvidia.com/gpu.product`."""
    return tuple(dict.fromkeys(value.lower() for value in _find_label_values([type_], aliases)[_PRODUCT]))


def matches_terms(labels: Mapping[str, str], terms: Sequence[Json]) -> bool:
    """Whether a node with these labels matches one of the terms of `make_node_terms`; true without terms."""
    return not terms or any(all(_matches(labels, each) for each in term["matchExpressions"]) for term in terms)


def find_type(labels: Mapping[str, str]) -> str:
    """Return the type of a node's devices as its labels name it; empty if none does."""
    return next((labels[key] for key in TYPE_LABELS if labels.get(key)), "")


def find_memory_mib(labels: Mapping[str, str]) -> int | None:
    """Return the memory of each of a node's devices in MiB as its labels name it; None if none does."""
    return next((int(labels[key]) for key in MEMORY_LABELS if labels.get(key, "").isdecimal()), None)


def _matches(labels: Mapping[str, str], expression: Json) -> bool:
    found, values = labels.get(expression["key"]), expression["values"]
    if expression["operator"] == "In":
        return found in values
    if expression["operator"] == "NotIn":
        return found not in values
    # Like the scheduler, `Gt` compares integers, and no label or other text matches.
    return found is not None and found.isdecimal() and int(found) > int(values[0])


def _type_expressions(types: Iterable[str], mode: str, aliases: TypeAliases) -> list[Json]:
    values_by_key = _find_values_of_mode(types, mode, aliases)
    return [{"key": key, "operator": "In", "values": list(values)} for key, values in values_by_key.items()]


def _exclude_types(kept: Iterable[str], types: Iterable[str], mode: str, aliases: TypeAliases) -> list[Json]:
    """Return expressions that nodes of none of the types match all; values that are also those of a kept type are left out.

    A node may have several labels of one type. One term of these expressions counts it once, and Karpenter can keep to it: it takes the
    term with the highest weight for a requirement, and knows only some of the labels.
    """
    stays = _find_values_of_mode(kept, mode, aliases)
    others = {
        key: [value for value in values if value not in stays.get(key, ())]
        for key, values in _find_values_of_mode(types, mode, aliases).items()
    }
    return [{"key": key, "operator": "NotIn", "values": values} for key, values in others.items() if values]


def _find_values_of_mode(types: Iterable[str], mode: str, aliases: TypeAliases) -> dict[str, tuple[str, ...]]:
    found = _find_label_values(types, aliases)
    if mode == "timeSliced" and _PRODUCT in found:
        found[_PRODUCT] = (*found[_PRODUCT], *(f"{value}{_SHARED_PRODUCT_SUFFIX}" for value in found[_PRODUCT]))
    return found


def _memory_expressions(memory: str) -> list[Json]:
    if not memory:
        return []
    least_mib = -(-parse_bytes(memory) // _MIB)
    below = str(min(least_mib - 1, _MAX_INT64))
    return [{"key": key, "operator": "Gt", "values": [below]} for key in MEMORY_LABELS]


def _find_label_values(types: Iterable[str], aliases: TypeAliases) -> dict[str, tuple[str, ...]]:
    """Return the label values by label key, `TYPE_LABELS` first and in their order."""
    found: dict[str, dict[str, None]] = {}
    for type_ in types:
        known, given = KNOWN_TYPES.get(type_, {}), aliases.get(type_, {})
        for key in dict.fromkeys((*TYPE_LABELS, *given)):
            values = (type_, *known.get(key, ()), *given.get(key, ()))
            found.setdefault(key, {}).update(dict.fromkeys(values))
    return {key: tuple(values) for key, values in found.items()}
