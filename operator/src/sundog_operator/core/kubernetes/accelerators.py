"""Accelerators: devices from device plugins or by claims, whole or shared, and what pods and replicas request of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Any, Final

from sundog_operator.api import Gpu, parse_bytes
from sundog_operator.api.schema.validation import Violation
from sundog_operator.core.kubernetes import device_types

Json = dict[str, Any]
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

_TIME_SLICED_RESOURCE: Final = "nvidia.com/gpu.shared"
"""Resource name of time-sliced devices where the device plugin's `renameByDefault` is set. Without it they have the name of whole
devices, and pods that need a whole one may land there. MPS has the same name."""

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


def find_unknown_memory(gpu: Gpu) -> list[Violation]:
    """Return the violation of a memory that no node could be found by: nodes of Gaudi and Intel have no label of it, only of the type."""
    if not gpu.memory or gpu.vendor not in ("gaudi", "intel"):
        return []
    known = {name: each for name, each in device_types.KNOWN_TYPES.items() if each.vendor == gpu.vendor}
    of_known = [device_types.find_known(type_) for type_ in gpu.type]
    types = [each[1] for each in of_known if each is not None] if gpu.type else list(known.values())
    path, sizes = "spec.resources.gpu.memory", {name: f"{each.memory_mib // 1024}Gi" for name, each in known.items()}
    listed = ", ".join(f"{name} ({size})" for name, size in sizes.items())
    if None in of_known:
        unknown = next(type_ for type_, each in zip(gpu.type, of_known, strict=True) if each is None)
        return [Violation(path, f"{gpu.memory} with type {unknown}; expected none, or types of known memory: {listed}")]
    if max(each.memory_mib for each in types) * 2**20 < parse_bytes(gpu.memory):
        return [Violation(path, f"{gpu.memory} is more than such devices have; expected at most that of {listed}")]
    return []
