"""Which nodes may run a revision's pods, and why the others may not, by what nodes are and not by what runs on them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.api import Gpu, ModelDeploymentSpec
from sundog_operator.api.installation import Installation, NodePool
from sundog_operator.core.kubernetes import accelerators, node_affinity, pod_requests, pods, spot

Json = Mapping[str, Any]
MAX_REASONS: Final = 4
_MIG_PREFIX: Final = accelerators.MIG_RESOURCE.format("")


@dataclass(frozen=True, slots=True)
class NodeNeeds:
    """Needs of a revision's pods that a node must meet.

    Attributes:
        resource: the devices' resource name; empty without devices.
        terms: the pods' node selector terms, of which one must match; empty if every node suits.
        exclusions: terms, one of which a node must match whatever its devices are, with the words for nodes that match none.
    """

    resource: str
    selector: Mapping[str, str]
    tolerations: Sequence[Json]
    terms: Sequence[dict[str, Any]]
    exclusions: Sequence[tuple[str, Sequence[dict[str, Any]]]] = ()

    @property
    def key(self) -> str:
        """A fingerprint of the needs."""
        return pods.fingerprint([self.resource, self.selector, self.tolerations, self.terms])


@dataclass(frozen=True, slots=True)
class FittingNodes:
    """The nodes that may run pods, and the number of the others by reason, the most frequent first."""

    nodes: Sequence[Json]
    excluded: Mapping[str, int]


def make_needs(spec: ModelDeploymentSpec, installation: Installation) -> NodeNeeds:
    """Return what a node must have for the pods of a spec."""
    template, gpu = installation.ray.pods, spec.resources.gpu
    devices, demand = accelerators.replica_devices(gpu), node_affinity.make_demand(spec, installation)
    mode, labels = spec.scheduling.spot, installation.spot.labels
    own = [*accelerators.device_tolerations(gpu), *spot.make_tolerations(mode, labels)]
    return NodeNeeds(
        resource=devices.resource if devices else "",
        selector=demand.selector,
        tolerations=pods.merge_tolerations(template, spec.scheduling, own),
        terms=node_affinity.make_node_terms(demand),
        exclusions=node_affinity.make_exclusions(demand),
    )


def trim_node(node: Json) -> Json:
    """Return the parts of a node that matter, with `pod_requests` amounts. A cluster may have thousands of nodes."""
    meta, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    ready = [each for each in status.get("conditions") or () if each.get("type") == "Ready"]
    allocatable = {
        name: pod_requests.parse_amount(name, amount)
        for name, amount in (status.get("allocatable") or {}).items()
        if pod_requests.is_counted(name)
    }
    return {
        "metadata": {"name": meta["name"], "labels": meta.get("labels") or {}},
        "spec": {"unschedulable": spec.get("unschedulable"), "taints": spec.get("taints") or ()},
        "status": {"allocatable": allocatable, "conditions": ready},
    }


def make_coming_nodes(pools: Iterable[NodePool], nodes: Sequence[Json]) -> list[Json]:
    """Return the nodes that autoscalers may add to the present ones, in the form of `trim_node`."""
    return [node for pool in pools for node in _make_nodes_of(pool, nodes)]


def _make_nodes_of(pool: NodePool, nodes: Sequence[Json]) -> Iterator[Json]:
    present = sum(pool.labels.items() <= node["metadata"]["labels"].items() for node in nodes)
    for number in range(present, pool.max_nodes):
        yield trim_node(
            {
                "metadata": {"name": f"{pool.name}/{number}", "labels": pool.labels},
                "spec": {"taints": [taint.to_json() for taint in pool.taints]},
                "status": {"allocatable": pool.allocatable, "conditions": [{"type": "Ready", "status": "True"}]},
            }
        )


def allocatable(node: Json) -> Mapping[str, int]:
    """Return the allocatable amounts of a node (`trim_node`)."""
    amounts: Mapping[str, int] = node["status"]["allocatable"]
    return amounts


def takes_pods(node: Json) -> bool:
    """Whether a node (`trim_node`) is ready and not cordoned."""
    return _is_ready(node) and not node["spec"]["unschedulable"]


def _is_ready(node: Json) -> bool:
    return any(each.get("status") == "True" for each in node["status"]["conditions"])


def find_fitting(nodes: Iterable[Json], needs: NodeNeeds) -> FittingNodes:
    """Return the nodes (`trim_node`) that meet the needs."""
    fitting: list[Json] = []
    excluded: Counter[str] = Counter()
    for node in nodes:
        why = _find_exclusion(node, needs)
        if why:
            excluded[why] += 1
        else:
            fitting.append(node)
    return FittingNodes(tuple(fitting), dict(excluded.most_common()))


def describe_excluded(found: FittingNodes, needs: NodeNeeds) -> str:
    """Return the numbers of nodes by reason, such as `3 without nvidia.com/gpu, 1 cordoned`; at most `MAX_REASONS` reasons.

    Nodes without the device are of interest only where no node suits.
    """
    counts = [each for each in found.excluded.items() if not found.nodes or each[0] != f"without {needs.resource}"]
    shown = [f"{number} {why}" for why, number in counts[:MAX_REASONS]]
    if rest := sum(number for _, number in counts[MAX_REASONS:]):
        shown.append(f"{rest} for other reasons")
    return ", ".join(shown)


def find_fix(gpu: Gpu, nodes: Iterable[Json], needs: NodeNeeds) -> str:
    """Return what to do when no node meets the needs: one sentence without its full stop."""
    offered = sorted({name for node in nodes for name, amount in allocatable(node).items() if amount})
    known = {name for node in nodes for name in allocatable(node)}
    if needs.resource in offered:
        if gpu.type or gpu.memory:
            return "Correct spec.resources.gpu, add such a node, or name its type in installation.gpu.aliases"
        return "Add such a node, or correct spec.scheduling"
    if needs.resource in known:
        return "Check the device plugin on these nodes"
    if not needs.resource:
        return "Add such a node, or correct spec.scheduling"
    if gpu.sharing.mode == "mig":
        profiles = [name.removeprefix(_MIG_PREFIX) for name in offered if name.startswith(_MIG_PREFIX)]
        if profiles:
            return f"Set spec.resources.gpu.sharing.profile to one that nodes have: {', '.join(profiles)}"
    devices = [name for name in offered if pod_requests.is_device(name)]
    found = f"; nodes have {', '.join(devices)}" if devices else ""
    return f"Add such a node, or check its device plugin{found}"


def _find_exclusion(node: Json, needs: NodeNeeds) -> str:
    """Return why a node cannot run the pods, as words after a number of nodes; empty if it can.

    The device comes first: nodes without devices are of no interest to pods that need one.
    """
    labels, spec = node["metadata"]["labels"], node["spec"]
    if needs.resource and not allocatable(node).get(needs.resource):
        return f"that report 0 {needs.resource}" if needs.resource in allocatable(node) else f"without {needs.resource}"
    if not _is_ready(node):
        return "not ready"
    if spec["unschedulable"]:
        return "cordoned"
    for key, value in needs.selector.items():
        if labels.get(key) != value:
            return f"without the label {key}={value}"
    for taint in spec["taints"]:
        if not pods.is_tolerated(needs.tolerations, taint):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"with the taint {taint['key']}{value}:{taint['effect']}, which the pods do not tolerate"
    if node_affinity.matches_terms(labels, needs.terms):
        return ""
    words = (words for words, each in needs.exclusions if not node_affinity.matches_terms(labels, each))
    type_ = node_affinity.find_type(labels)
    return next(words, f"with devices of another type or memory{f' ({type_})' if type_ else ''}")
