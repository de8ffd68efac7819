"""Affinity of pods to the nodes with their devices, and of other pods to the nodes that they may use.

The check of free resources reads the terms of the pods, so that it counts the nodes that the scheduler takes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.api import Gpu, ModelDeploymentSpec, parse_bytes
from sundog_operator.api.installation import Installation
from sundog_operator.core.kubernetes import device_types, pods, spot
from sundog_operator.core.kubernetes.device_types import AMD_PRODUCT, NVIDIA_PRODUCT, OLD_AMD_PRODUCT, TYPE_LABELS
from sundog_operator.core.kubernetes.node_profiles import NodeLabels, make_node_labels

Json = dict[str, Any]

_MAX_WEIGHT: Final = 100
"""Of a preferred term, by the API."""
_MIB: Final = 2**20
_GIB: Final = 2**30
_MAX_INT64: Final = 2**63 - 1
_NAME_SLACK: Final = 0.9
"""Devices of one name differ by this part of their memory at most, by how a vendor counts it."""

_NO_VALUE: Final = "none"
"""A text that no label has, because an expression needs a value: no type is large enough."""
_SHARING: Final = "nvidia.com/gpu.sharing-strategy"
_SLICES: Final = "nvidia.com/gpu.slices.gi"
_STRATEGY: Final = "nvidia.com/mig.strategy"
_GKE_PARTITION: Final = "cloud.google.com/gke-gpu-partition-size"
_GKE_SHARING: Final = "cloud.google.com/gke-gpu-sharing-strategy"
_SLICED_PRODUCT: Final = "-MIG-"
_SHARED_PRODUCT_SUFFIX: Final = "-SHARED"
"""Feature discovery may add it to the product of devices that pods share."""


@dataclass(frozen=True, slots=True)
class NodeDemand:
    """Conditions on the nodes of a pod, beyond node selector and tolerations.

    Attributes:
        gpu: the devices.
        spot: as in `spec.scheduling.spot`.
        selector: the pod's node selector.
        labels: the labels of the installation's nodes.
    """

    gpu: Gpu
    spot: str
    selector: Mapping[str, str]
    labels: NodeLabels


def make_demand(spec: ModelDeploymentSpec, installation: Installation) -> NodeDemand:
    """Return the demand of a spec's pods."""
    selector = pods.merge_node_selector(installation.ray.pods, spec.scheduling)
    return NodeDemand(spec.resources.gpu, spec.scheduling.spot, selector, make_node_labels(installation))


@dataclass(frozen=True, slots=True)
class _Source:
    """A label key that names types, with the keys that go with it.

    Attributes:
        memory_key: of the devices' memory in MiB; empty where nodes have none.
        spot_keys: of spot nodes.
    """

    type_key: str
    memory_key: str = ""
    spot_keys: Sequence[str] = tuple(spot.SPOT_LABELS)

    @property
    def launches_nodes(self) -> bool:
        """Whether the vendor's names of types are short, and come with a memory: those from which Karpenter launches nodes."""
        return self.memory_key not in ("", device_types.NVIDIA_MEMORY)


def make_node_affinity(demand: NodeDemand) -> Json | None:
    """Return the affinity to the nodes that suit a pod. Earlier types are preferred. None if every node suits equally."""
    affinity: Json = {}
    if terms := make_node_terms(demand):
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms}
    if preferences := _make_preferences(demand):
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = preferences
    return {"nodeAffinity": affinity} if affinity else None


def is_ordered(affinity: Json | None) -> bool:
    """Report whether an affinity of `make_node_affinity` prefers some of its nodes."""
    nodes = (affinity or {}).get("nodeAffinity", {})
    required = nodes.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    return len(required.get("nodeSelectorTerms", ())) > 1 or "preferredDuringSchedulingIgnoredDuringExecution" in nodes


def make_node_terms(demand: NodeDemand) -> list[Json]:
    """Return the node selector terms of a pod: a node suits that matches one of them. Empty if every node suits.

    Kubernetes combines terms by OR, and the expressions of one by AND. Each type has one term for each key that may name it: one where
    the cluster's profile is known. Karpenter takes the first term that it has an instance type for.
    """
    terms: list[Json] = []
    for each in _make_alternatives(demand):
        if each and {"matchExpressions": each} not in terms:
            terms.append({"matchExpressions": each})
    return terms


def _make_alternatives(demand: NodeDemand) -> Iterator[list[Json]]:
    shared = [each for _, each in _exclude_shared(demand)]
    if not _names_devices(demand.gpu):
        for is_spot in _spot_alternatives(demand, tuple(spot.SPOT_LABELS)):
            yield [*is_spot, *shared]
        return
    for source in _find_sources(demand.gpu, demand.labels):
        for own in _make_device_terms(source, demand):
            for is_spot in _spot_alternatives(demand, source.spot_keys):
                yield [*own, *is_spot, *shared]


def _names_devices(gpu: Gpu) -> bool:
    """Whether labels of nodes say which devices are there. A claim selects devices, and so their node."""
    return _is_placed_by_labels(gpu) and bool(gpu.type or gpu.memory)


def _is_placed_by_labels(gpu: Gpu) -> bool:
    return gpu.count > 0 and gpu.allocation != "dra"


def make_exclusions(demand: NodeDemand) -> list[tuple[str, list[Json]]]:
    """Return terms, one of which a node must match whatever its devices are, each list with the words for nodes that match none."""
    found = [(words, [{"matchExpressions": [each]}]) for words, each in _exclude_shared(demand)]
    words = {"never": "that are spot nodes", "require": "that are no spot nodes"}.get(demand.spot, "")
    terms = [{"matchExpressions": each} for each in _spot_alternatives(demand, tuple(spot.SPOT_LABELS))]
    return [*found, *([(words, terms)] if words else [])]


def _exclude_shared(demand: NodeDemand) -> list[tuple[str, Json]]:
    """Return expressions that keep pods away from devices which others share or that are slices, each with the words for such nodes.

    `nvidia.com/mig.strategy: single` says how slices would be named, and not that there are any: NVIDIA's operator sets it by default on
    each node. Where slices have the name of whole devices, feature discovery gives their size. A manifest gets them by naming a sliced
    product, or by a node selector.
    """
    gpu, selector = demand.gpu, demand.selector
    if gpu.vendor != "nvidia" or not _is_placed_by_labels(gpu):
        return []
    if gpu.sharing.mode == "timeSliced":
        return [("with devices that MPS shares", {"key": _SHARING, "operator": "NotIn", "values": ["mps"]})]
    if gpu.sharing.mode == "mig":
        return []
    is_sliced = any(_SLICED_PRODUCT in each for each in (*gpu.type, selector.get(NVIDIA_PRODUCT, "")))
    wants_slices = is_sliced or _SLICES in selector or selector.get(_STRATEGY) == "single"
    shared, slices = "with shared devices", "with MIG slices for devices"
    return [
        (shared, {"key": _SHARING, "operator": "NotIn", "values": ["time-slicing", "mps"]}),
        (shared, {"key": _GKE_SHARING, "operator": "DoesNotExist"}),
        *([] if wants_slices else [(slices, {"key": _SLICES, "operator": "DoesNotExist"})]),
        *([] if _GKE_PARTITION in selector else [(slices, {"key": _GKE_PARTITION, "operator": "DoesNotExist"})]),
    ]


def _spot_alternatives(demand: NodeDemand, keys: Sequence[str]) -> list[list[Json]]:
    """Return lists of expressions, one of which a node must match; those that keep off spot nodes go together."""
    if demand.spot == "never":
        return [spot.make_expressions("NotIn", demand.labels.spot, keys)]
    if demand.spot == "require":
        return [[each] for each in spot.make_expressions("In", demand.labels.spot, keys)]
    return [[]]


def _find_sources(gpu: Gpu, labels: NodeLabels) -> list[_Source]:
    """Return the label keys that may name the types: those of aliases first, so that those of vendors which launch nodes come last."""
    known = {
        each.type_keys[gpu.vendor]: _Source(
            each.type_keys[gpu.vendor], each.memory_keys.get(gpu.vendor, ""), each.spot_keys
        )
        for each in labels.find_profiles()
        if gpu.vendor in each.type_keys
    }
    added = [key for type_ in gpu.type for key in labels.aliases.get(type_, {})]
    if not labels.profiles and gpu.vendor == "amd":
        added.append(OLD_AMD_PRODUCT)
    return [_Source(key) for key in dict.fromkeys(added) if key not in known] + list(known.values())


def _make_device_terms(source: _Source, demand: NodeDemand) -> list[list[Json]]:
    """Return the expressions of the terms that name devices by one label key.

    All types share a term where possible, and preferences have their order. Karpenter drops a term before it drops a preference: with a
    term for each of three types, the preference for the first one would exclude the second. Where names do not distinguish the types, each
    has a term, in its order, and no preference that Karpenter reads.
    """
    gpu, types = demand.gpu, tuple(dict.fromkeys(demand.gpu.type))
    if not types:
        return [_name_large_types(source, gpu)]
    if not source.launches_nodes:
        return _make_plain_terms(types, source, demand)
    least = min(_find_least_mib(each, gpu) for each in types)
    if _are_distinguishable(types, source.type_key, least):
        return [[_name_types(types, source, demand), *_ask_memory(source.memory_key, least)]]
    return [
        [
            _name_types((each,), source, demand),
            *_ask_memory(source.memory_key, _find_least_mib(each, gpu), each, source),
        ]
        for each in types
    ]


def _are_distinguishable(types: Sequence[str], key: str, least_mib: int) -> bool:
    """Whether nodes with the names of these types, and at least this memory, have one of them, and each name means one type."""
    if len(types) == 1:
        return not device_types.find_namesakes(types[0], key)
    if not least_mib and any(device_types.find_known(each) for each in types):
        return False
    listed = {found[0] for each in types if (found := device_types.find_known(each))}
    return not any(
        name in listed or other.memory_mib >= least_mib
        for each in types
        for name, other in device_types.find_namesakes(each, key).items()
    )


def _find_least_mib(type_: str, gpu: Gpu) -> int:
    """Return the memory that is asked, or that of the type's name: EKS and Karpenter give an eighth of an L4 the name of a whole one."""
    found = device_types.find_known(type_)
    return max(_least_mib(gpu), int(found[1].memory_mib * _NAME_SLACK) if found else 0)


def _make_plain_terms(types: Sequence[str], source: _Source, demand: NodeDemand) -> list[list[Json]]:
    """Return the terms where names mean one type each. Without a label of memory, types whose memory is known need none."""
    least = _least_mib(demand.gpu)
    if source.memory_key or not least:
        return [[_name_types(types, source, demand), *_ask_memory(source.memory_key, least)]]
    known = {each: device_types.find_known(each) for each in types}
    large = [each for each, found in known.items() if found is not None and found[1].memory_mib >= least]
    others = [each for each, found in known.items() if found is None] if large else list(types)
    terms = [[_name_types(large, source, demand)]] if large else []
    return [*terms, *([[_name_types(others, source, demand), _ask_other_memory(demand.gpu)]] if others else [])]


def _name_types(types: Sequence[str], source: _Source, demand: NodeDemand) -> Json:
    values = dict.fromkeys(value for each in types for value in _find_values(each, source.type_key, demand))
    return {"key": source.type_key, "operator": "In", "values": list(values)}


def _name_large_types(source: _Source, gpu: Gpu) -> list[Json]:
    """Return the expressions for devices of any type with the memory. Where nodes have no label of it, the types that are large enough."""
    if source.memory_key:
        return _ask_memory(source.memory_key, _least_mib(gpu))
    if source.type_key in (AMD_PRODUCT, OLD_AMD_PRODUCT):
        return [_ask_other_memory(gpu)]
    large = (
        value
        for each in device_types.KNOWN_TYPES.values()
        if each.vendor == gpu.vendor and each.memory_mib >= _least_mib(gpu)
        for value in each.values.get(source.type_key, ())
    )
    return [{"key": source.type_key, "operator": "In", "values": list(dict.fromkeys(large)) or [_NO_VALUE]}]


def _find_values(type_: str, key: str, demand: NodeDemand) -> tuple[str, ...]:
    values = device_types.find_values(type_, key, demand.labels.aliases)
    if demand.gpu.sharing.mode == "timeSliced" and key == NVIDIA_PRODUCT:
        return (*values, *(f"{value}{_SHARED_PRODUCT_SUFFIX}" for value in values))
    return values


def _ask_memory(key: str, least_mib: int, type_: str = "", source: _Source | None = None) -> list[Json]:
    """Return the expressions of a memory in MiB: at least this one, and less than that of a larger type with the same name."""
    found = [{"key": key, "operator": "Gt", "values": [str(min(least_mib - 1, _MAX_INT64))]}] if least_mib else []
    namesakes = device_types.find_namesakes(type_, source.type_key) if source else {}
    larger = [each.memory_mib for each in namesakes.values() if each.memory_mib * _NAME_SLACK > least_mib]
    if larger:
        found.append({"key": key, "operator": "Lt", "values": [str(int(min(larger) * _NAME_SLACK))]})
    return found


def _ask_other_memory(gpu: Gpu) -> Json:
    """Return the expression for devices whose type does not show their memory. Nodes without such a label are left out."""
    least_mib = _least_mib(gpu)
    if gpu.vendor == "amd":
        sizes = [f"{size}G" for size in device_types.AMD_MEMORY_GIB if size * _GIB >= least_mib * _MIB]
        return {"key": device_types.AMD_MEMORY, "operator": "In", "values": sizes or [_NO_VALUE]}
    (found,) = _ask_memory(device_types.NVIDIA_MEMORY, least_mib)
    return found


def _least_mib(gpu: Gpu) -> int:
    return -(-parse_bytes(gpu.memory) // _MIB) if gpu.memory else 0


def _make_preferences(demand: NodeDemand) -> list[Json]:
    """Return weighted terms: a node has the sum of those that it matches, and the scheduler scales the highest sum to 100.

    The nth term of types matches the nodes of the first n. Its weights fall by one factor, so that each type has far more than the next
    one, also where no node of the types before is free. Evenly spread weights would leave a seventh to the first of eight. Without
    preferred spot nodes the factor uses the whole range from 100 to 1. With them each weight is half of the one before, and spot nodes
    have the last one: it never turns the order.
    """
    types = tuple(dict.fromkeys(demand.gpu.type)) if _is_placed_by_labels(demand.gpu) else ()
    sources = _find_sources(demand.gpu, demand.labels) if types else []
    keys = _find_preferred_keys(sources, demand)
    ranks = (_exclude_types(types[:rank], types[rank:], keys, demand) for rank in range(1, len(types)))
    levels = [[each] for each in ranks if each]
    preferred = _preferred_spot(demand, sources)
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


def _find_preferred_keys(sources: Sequence[_Source], demand: NodeDemand) -> list[str]:
    """Return the label keys for the order of types. Where terms have it, only a key of which Karpenter ignores exclusions."""
    if any(each.launches_nodes and len(_make_device_terms(each, demand)) > 1 for each in sources):
        return [NVIDIA_PRODUCT]
    return [each.type_key for each in sources]


def _preferred_spot(demand: NodeDemand, sources: Sequence[_Source]) -> list[Json]:
    if demand.spot != "prefer":
        return []
    keys = [key for key in spot.SPOT_LABELS if not sources or any(key in each.spot_keys for each in sources)]
    return spot.make_expressions("In", demand.labels.spot, keys)


def _exclude_types(kept: Iterable[str], types: Iterable[str], keys: Iterable[str], demand: NodeDemand) -> list[Json]:
    """Return expressions that nodes of none of the types match all; values that are also those of a kept type are left out.

    A node may have several labels of one type. One term of these expressions counts it once, and Karpenter can keep to it: it takes the
    term with the highest weight for a requirement, and knows only some of the labels.
    """
    found = []
    for key in keys:
        stays = {value for type_ in kept for value in _find_values(type_, key, demand)}
        others = (value for type_ in types for value in _find_values(type_, key, demand))
        if values := [value for value in dict.fromkeys(others) if value not in stays]:
            found.append({"key": key, "operator": "NotIn", "values": values})
    return found


def matches_terms(labels: Mapping[str, str], terms: Sequence[Json]) -> bool:
    """Whether a node with these labels matches one of the terms of `make_node_terms`; true without terms."""
    return not terms or any(matches_all(labels, term["matchExpressions"]) for term in terms)


def matches_all(labels: Mapping[str, str], expressions: Iterable[Json]) -> bool:
    """Whether a node with these labels matches each of the expressions."""
    return all(_matches(labels, each) for each in expressions)


def find_type(labels: Mapping[str, str]) -> str:
    """Return the type of a node's devices as its labels name it; empty if none does."""
    return next((labels[key] for key in TYPE_LABELS if labels.get(key)), "")


def find_memory_mib(labels: Mapping[str, str]) -> int | None:
    """Return the memory of each of a node's devices in MiB as its labels name it; None if none does."""
    return next((int(labels[key]) for key in device_types.MEMORY_LABELS if labels.get(key, "").isdecimal()), None)


def _matches(labels: Mapping[str, str], expression: Json) -> bool:
    found: str | None = labels.get(expression["key"])
    operator: str = expression["operator"]
    values: Sequence[str] = expression.get("values", ())
    if operator == "DoesNotExist":
        return found is None
    if operator in ("In", "NotIn"):
        return (found in values) == (operator == "In")
    # Like the scheduler, `Gt` and `Lt` compare integers, and no label or other text matches.
    if found is None or not found.isdecimal():
        return False
    return int(found) > int(values[0]) if operator == "Gt" else int(found) < int(values[0])
