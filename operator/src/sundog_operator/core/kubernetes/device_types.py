"""Types of accelerators: their names in the labels of nodes, and their memory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

TypeAliases = Mapping[str, Mapping[str, Iterable[str]]]
"""Label values by type and label key."""

NVIDIA_PRODUCT: Final = "nvidia.com/gpu.product"
AMD_PRODUCT: Final = "amd.com/gpu.product-name"
OLD_AMD_PRODUCT: Final = "beta.amd.com/gpu.product-name"
GAUDI_PRODUCT: Final = "habana.ai/product.name"
INTEL_PRODUCT: Final = "gpu.intel.com/product"
GKE: Final = "cloud.google.com/gke-accelerator"
EKS: Final = "eks.amazonaws.com/instance-gpu-name"
KARPENTER: Final = "karpenter.k8s.aws/instance-gpu-name"
EKS_CHIP: Final = "eks.amazonaws.com/instance-accelerator-name"
KARPENTER_CHIP: Final = "karpenter.k8s.aws/instance-accelerator-name"
AZURE: Final = "karpenter.azure.com/sku-gpu-name"
COREWEAVE: Final = "gpu.nvidia.com/class"

TYPE_LABELS: Final = (
    NVIDIA_PRODUCT,
    GKE,
    EKS,
    KARPENTER,
    AZURE,
    "gpu.nvidia.com/model",
    COREWEAVE,
    AMD_PRODUCT,
    OLD_AMD_PRODUCT,
    GAUDI_PRODUCT,
    INTEL_PRODUCT,
    EKS_CHIP,
    KARPENTER_CHIP,
)
"""Label keys in which node feature discovery and clouds give the type of a node's devices."""

NVIDIA_MEMORY: Final = "nvidia.com/gpu.memory"
KARPENTER_MEMORY: Final = "karpenter.k8s.aws/instance-gpu-memory"
EKS_MEMORY: Final = "eks.amazonaws.com/instance-gpu-memory"
MEMORY_LABELS: Final = (NVIDIA_MEMORY, KARPENTER_MEMORY, EKS_MEMORY)
"""Label keys in which node feature discovery and clouds give the memory of each of a node's devices, in MiB."""

AMD_MEMORY: Final = "amd.com/gpu.vram"
AMD_MEMORY_GIB: Final = (4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 288)
"""Sizes in the label of AMD's node labeller, such as `192G`: a text, which no `Gt` compares."""


@dataclass(frozen=True, slots=True)
class DeviceType:
    """One type of accelerator.

    Attributes:
        vendor: as in `spec.resources.gpu.vendor`.
        memory_mib: memory of a device, of the smallest one of the type, as its driver reports it.
        values: label values by label key.
    """

    vendor: str
    memory_mib: int
    values: Mapping[str, tuple[str, ...]]


def _nvidia(memory_mib: int, *products: str, gke: str = "", aws: str = "", azure: str = "", cw: str = "") -> DeviceType:
    """Return a type of NVIDIA. Several values of one label are separated by spaces."""
    values = {
        NVIDIA_PRODUCT: products,
        GKE: tuple(gke.split()),
        EKS: tuple(aws.split()),
        KARPENTER: tuple(aws.split()),
        AZURE: tuple(azure.split()),
        COREWEAVE: tuple(cw.split()),
    }
    return DeviceType("nvidia", memory_mib, {key: found for key, found in values.items() if found})


def _amd(memory_mib: int, model: str, azure: str = "") -> DeviceType:
    names = tuple(f"{prefix}_{model}{form}" for prefix in ("AMD_Instinct", "Instinct") for form in ("", "_OAM"))
    values = {AMD_PRODUCT: names, OLD_AMD_PRODUCT: names}
    return DeviceType("amd", memory_mib, values | ({AZURE: (azure,)} if azure else {}))


def _gaudi(memory_mib: int, *names: str) -> DeviceType:
    return DeviceType("gaudi", memory_mib, {GAUDI_PRODUCT: names, EKS: names, KARPENTER: names})


def _neuron(name: str) -> DeviceType:
    return DeviceType("neuron", 0, {EKS_CHIP: (name,), KARPENTER_CHIP: (name,)})


KNOWN_TYPES: Final[Mapping[str, DeviceType]] = {
    "t4": _nvidia(15360, "Tesla-T4", gke="nvidia-tesla-t4", aws="t4", azure="T4"),
    "v100": _nvidia(
        16160,
        "Tesla-V100-SXM2-16GB",
        "Tesla-V100-SXM2-32GB",
        "Tesla-V100-PCIE-16GB",
        "Tesla-V100-PCIE-32GB",
        gke="nvidia-tesla-v100",
        aws="v100",
        azure="V100",
    ),
    "a10": _nvidia(23028, "NVIDIA-A10", azure="A10"),
    "a10g": _nvidia(23028, "NVIDIA-A10G", aws="a10g"),
    "a6000": _nvidia(49140, "NVIDIA-RTX-A6000", "RTX-A6000"),
    "l4": _nvidia(23034, "NVIDIA-L4", gke="nvidia-l4", aws="l4"),
    "l40": _nvidia(46068, "NVIDIA-L40", cw="L40"),
    "l40s": _nvidia(46068, "NVIDIA-L40S", aws="l40s", cw="L40S"),
    "rtx-pro-4500": _nvidia(32623, "NVIDIA-RTX-PRO-4500-Blackwell", aws="rtx-pro-4500"),
    "rtx-pro-6000": _nvidia(
        97887,
        "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
        "NVIDIA-RTX-PRO-6000-Blackwell-Workstation-Edition",
        "NVIDIA-RTX-PRO-6000-Blackwell-Max-Q-Workstation-Edition",
        gke="nvidia-rtx-pro-6000",
        aws="rtx-pro-server-6000",
    ),
    "a100-40gb": _nvidia(
        40536,
        "NVIDIA-A100-SXM4-40GB",
        "NVIDIA-A100-PCIE-40GB",
        "A100-SXM4-40GB",
        gke="nvidia-tesla-a100",
        aws="a100",
    ),
    "a100-80gb": _nvidia(
        81251,
        "NVIDIA-A100-SXM4-80GB",
        "NVIDIA-A100-80GB-PCIe",
        "A100-SXM4-80GB",
        gke="nvidia-a100-80gb",
        aws="a100",
        azure="A100",
        cw="A100_NVLINK_80GB",
    ),
    "gh200": _nvidia(97871, "NVIDIA-GH200-480GB", "NVIDIA-GH200-120GB", "NVIDIA-GH200-144G-HBM3e"),
    "h100": _nvidia(
        81559,
        "NVIDIA-H100-80GB-HBM3",
        "NVIDIA-H100-PCIe",
        "NVIDIA-H100-NVL",
        gke="nvidia-h100-80gb nvidia-h100-mega-80gb",
        aws="h100",
        azure="H100",
        cw="H100_NVLINK_80GB H100_PCIE",
    ),
    "h200": _nvidia(
        143771, "NVIDIA-H200", "NVIDIA-H200-NVL", gke="nvidia-h200-141gb", aws="h200", azure="H200", cw="H200"
    ),
    "b200": _nvidia(183359, "NVIDIA-B200", gke="nvidia-b200", aws="b200", cw="B200"),
    "gb200": _nvidia(189471, "NVIDIA-GB200", gke="nvidia-gb200", cw="GB200"),
    "mi210": _amd(65520, "MI210"),
    "mi300x": _amd(196592, "MI300X", "MI300X"),
    "mi325x": _amd(262128, "MI325X"),
    "mi355x": _amd(294896, "MI355X"),
    "gaudi": _gaudi(32768, "Gaudi", "gaudi-hl-205"),
    "gaudi2": _gaudi(98304, "Gaudi2", "gaudi2"),
    "gaudi3": _gaudi(131072, "Gaudi3", "gaudi3"),
    "max-1550": DeviceType("intel", 131072, {INTEL_PRODUCT: ("Max_1550",)}),
    "flex-170": DeviceType("intel", 16384, {INTEL_PRODUCT: ("Flex_170",)}),
    **{name: _neuron(name) for name in ("inferentia", "inferentia2", "trainium", "trainium2")},
}
"""Label values differ by cloud and form factor. A type that is not here is looked up as written."""

_PREFIXES: Final = ("nvidia-", "tesla-", "amd-", "instinct-", "intel-")


def find_known(type_: str) -> tuple[str, DeviceType] | None:
    """Return a known type by its name, or by its spelling in a label, such as `NVIDIA-A10`; None for another type."""
    name = _find_name(type_)
    return (name, KNOWN_TYPES[name]) if name else _BY_SPELLING.get(_normalize(type_))


def _find_name(type_: str) -> str:
    """Return the name in `KNOWN_TYPES` of a type that is written as such, with a vendor before it or not; else empty."""
    name = _normalize(type_)
    while name not in KNOWN_TYPES and (prefix := next(filter(name.startswith, _PREFIXES), "")):
        name = name.removeprefix(prefix)
    return name if name in KNOWN_TYPES else ""


def find_values(type_: str, key: str, aliases: TypeAliases) -> tuple[str, ...]:
    """Return the values of a label key that mean a type: as written, the known ones, and the administrator's.

    A longer spelling of a label means this value alone: `NVIDIA-A100-PCIE-40GB` has other nodes than `a100-40gb`.
    """
    found = find_known(type_)
    name, known = (found[0], found[1].values.get(key, ())) if found else (type_, ())
    spelled = () if _find_name(type_) else tuple(each for each in known if _normalize(each) == _normalize(type_))
    given = dict.fromkeys((type_,) if spelled else (type_, name))
    added = (value for each in given for value in aliases.get(each, {}).get(key, ()))
    return tuple(dict.fromkeys((*(() if spelled else (type_,)), *(spelled or known), *added)))


def find_namesakes(type_: str, key: str) -> dict[str, DeviceType]:
    """Return other types that have the same value of a label key: EKS and Karpenter call each A100 `a100`."""
    found = find_known(type_)
    values = set(found[1].values.get(key, ())) if found else set()
    return {
        name: each
        for name, each in KNOWN_TYPES.items()
        if values & set(each.values.get(key, ())) and found is not None and name != found[0]
    }


def _normalize(text: str) -> str:
    return text.lower().replace("_", "-")


def _index_spellings() -> dict[str, tuple[str, DeviceType]]:
    """Return the known types by their spellings in labels, except those that several types have."""
    found: dict[str, list[tuple[str, DeviceType]]] = {}
    for name, known in KNOWN_TYPES.items():
        for spelling in {_normalize(value) for values in known.values.values() for value in values}:
            found.setdefault(spelling, []).append((name, known))
    return {spelling: types[0] for spelling, types in found.items() if len(types) == 1}


_BY_SPELLING: Final[Mapping[str, tuple[str, DeviceType]]] = _index_spellings()
