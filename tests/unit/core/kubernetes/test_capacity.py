"""Free accelerators, and the message about a shortage."""

from typing import Any

import pytest

from sundog_operator.api import Gpu, ModelDeploymentSpec
from sundog_operator.api.installation import parse_installation
from sundog_operator.api.reasons import Cause
from sundog_operator.core.kubernetes import accelerators, capacity, node_affinity, node_fit
from sundog_operator.core.kubernetes.accelerators import Devices
from sundog_operator.core.kubernetes.capacity import AvailableCapacity, NodeCapacity
from sundog_operator.core.kubernetes.node_profiles import NodeLabels

GPU = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"
ONE = Devices(GPU, "GPU", 1)
TWO = Devices(GPU, "GPU", 2)
ANY = Gpu()
NODES_FIX = "Free some, add nodes, or ask for less"
QUOTA_FIX = "Raise the quota, or ask for less"


def node(name: str, devices: int, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    status = {"allocatable": {GPU: str(devices)}, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec, "status": status}


def pod(where: str, devices: int, phase: str = "Running") -> dict[str, Any]:
    container = {"name": "c", "resources": {"requests": {GPU: str(devices)}}}
    return {
        "metadata": {"name": "p"},
        "spec": {"nodeName": where, "containers": [container]},
        "status": {"phase": phase},
    }


def quota(hard: int, used: int) -> dict[str, Any]:
    return {"status": {"hard": {f"requests.{GPU}": str(hard)}, "used": {f"requests.{GPU}": str(used)}}}


def available(
    nodes: list[Any] | None, pods: Any = (), quotas: Any = (), text: str = "", count: int = 1, **spec: Any
) -> AvailableCapacity:
    resources = {"gpu": {"count": count, **spec.pop("gpu", {})}, **spec.pop("resources", {})}
    asked = ModelDeploymentSpec.from_json({"model": {"uri": "file:///m"}, "resources": resources, **spec})
    known = (
        None
        if nodes is None
        else capacity.make_inventory(map(node_fit.trim_node, nodes), map(capacity.placed_requests, pods))
    )
    found = capacity.find_available_capacity(asked, known, quotas, parse_installation(text, "test"))
    assert found is not None
    return found


def free(nodes: list[Any], pods: Any = (), **asked: Any) -> NodeCapacity:
    found = available(nodes, pods, **asked).on_nodes
    assert found is not None
    return found


def test_kueue_and_not_the_free_devices_admit_pods_of_a_queue() -> None:
    found = available([node("a", 1)], [pod("a", 1)], [quota(4, 1)], scheduling={"queue": "team-a"})
    assert (found.on_nodes, found.quota) == (None, 3)
    assert capacity.find_shortage(ONE, 3, found, ANY) is None
    assert capacity.find_shortage(ONE, 4, found, ANY) == (
        "InsufficientQuota",
        f"4 {GPU} needed (4 × 1), 3 left by the namespace's quota. {QUOTA_FIX}",
    )


SPOT = "karpenter.sh/capacity-type"
GKE_SPOT = {"key": "cloud.google.com/gke-spot", "value": "true", "effect": "NoSchedule"}


@pytest.mark.parametrize(("spot", "nodes"), [("never", 1), ("prefer", 4), ("require", 3)])
def test_spot_nodes_count_as_the_spec_allows_them(spot: str, nodes: int) -> None:
    known = [
        node("on-demand", 1, {SPOT: "on-demand"}),
        node("spot", 1, {SPOT: "spot"}),
        node("gke", 1, {"cloud.google.com/gke-spot": "true"}, taints=[GKE_SPOT]),
        node("own", 1, {"tier": "cheap"}, taints=[{"key": "tier", "value": "cheap", "effect": "NoSchedule"}]),
    ]
    text = "spot: {labels: {tier: [cheap]}}"
    assert free(known, text=text, scheduling={"spot": spot}).nodes == nodes


def test_nodes_that_are_no_spot_nodes_are_named() -> None:
    found = available([node("a", 0)], count=0, scheduling={"spot": "require"})
    short = capacity.find_shortage(None, 1, found, ANY)
    assert short is not None
    assert short.message.endswith(
        "0 pods fit on 0 nodes; other nodes: 1 that are no spot nodes. Add such a node, or correct spec.scheduling"
    )


def test_pods_that_share_a_device_of_another_s_are_not_counted_and_the_reason_is_named() -> None:
    """Seven slices, or seven turns of one device, are no seven devices."""
    nodes = [
        node("a", 7, {PRODUCT: "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "nvidia.com/gpu.slices.gi": "1"}),
        node("b", 7, {"nvidia.com/gpu.sharing-strategy": "time-slicing"}),
        node("c", 7, {"cloud.google.com/gke-gpu-partition-size": "1g.5gb"}),
        node("d", 7, {"cloud.google.com/gke-gpu-sharing-strategy": "time-sharing"}),
    ]
    short = capacity.find_shortage(ONE, 1, available(nodes), ANY)
    assert short is not None
    assert "0 of 0 free on 0 nodes; other nodes: 2 with MIG slices for devices, 2 with shared devices." in short.message
    whole = node("e", 1, {PRODUCT: "NVIDIA-L4", "nvidia.com/mig.strategy": "single"})
    assert free([*nodes, whole]).total == 1


def test_spot_nodes_that_pods_keep_off_are_named() -> None:
    short = capacity.find_shortage(ONE, 1, available([node("a", 1, {SPOT: "spot"})]), ANY)
    assert short is not None
    assert "other nodes: 1 that are spot nodes" in short.message


@pytest.mark.parametrize("profiles", ["", "gke", "karpenter"])
def test_nodes_that_the_check_counts_are_those_of_the_pods_affinity(profiles: str) -> None:
    text = f"gpu: {{profiles: [{profiles}]}}"
    asked = ModelDeploymentSpec.from_json(
        {"model": {"uri": "file:///m"}, "resources": {"gpu": {"count": 1, "type": ["h100", "l4"], "memory": "20Gi"}}}
    )
    installation = parse_installation(text, "test")
    made = node_affinity.make_node_affinity(node_affinity.make_demand(asked, installation))
    assert made is not None
    required = made["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert node_fit.make_needs(asked, installation).terms == required


def test_without_devices_nodes_and_quotas_nothing_is_known() -> None:
    asked = ModelDeploymentSpec.from_json({"model": {"uri": "file:///m"}})
    unwatched, empty = None, capacity.make_inventory((), ())
    for known in (unwatched, empty):
        assert capacity.find_available_capacity(asked, known, (), parse_installation("", "test")) is None


def test_of_most_nodes_little_is_kept() -> None:
    assert capacity.placed_requests(pod("", 2)) == {}
    large = {**node("a", 4), "status": {**node("a", 4)["status"], "images": [{"names": ["x" * 10_000]}]}}
    assert len(str(node_fit.trim_node(large))) < 400


def test_what_pods_have_is_taken_until_they_end() -> None:
    found = free([node("a", 4), node("b", 2)], [pod("a", 3), pod("b", 2, "Succeeded")])
    assert (found.nodes, found.total, found.free, found.pods) == (2, 6, 3, 3)


def test_a_replica_finds_all_its_devices_on_one_node() -> None:
    found = available([node("a", 3), node("b", 3)], [pod("a", 2), pod("b", 2)], count=2)
    assert found.on_nodes is not None
    assert (found.on_nodes.free, found.on_nodes.pods) == (2, 0)
    assert capacity.find_shortage(TWO, 1, found, ANY) == (
        "InsufficientCapacity",
        f"2 {GPU} needed (1 × 2), 2 of 6 free on 2 nodes, not 2 of them on one node. {NODES_FIX}",
    )


@pytest.mark.parametrize(
    "away",
    [
        node("a", 4, unschedulable=True),
        {**node("a", 4), "status": {"allocatable": {GPU: "4"}, "conditions": [{"type": "Ready", "status": "False"}]}},
        node("a", 0),
        node("a", 4, taints=[{"key": "maintenance", "effect": "NoExecute"}]),
        node("a", 4, taints=[{"key": "team", "value": "audio", "effect": "NoSchedule"}]),
    ],
)
def test_a_node_that_takes_no_pod_of_ours_has_no_room(away: dict[str, Any]) -> None:
    assert free([away]).nodes == 0


@pytest.mark.parametrize(
    ("taint", "toleration"),
    [
        ({"key": GPU, "effect": "NoSchedule"}, None),
        ({"key": "slow", "effect": "PreferNoSchedule"}, None),
        ({"key": "team", "value": "vision", "effect": "NoSchedule"}, {"key": "team", "value": "vision"}),
        ({"key": "team", "effect": "NoExecute"}, {"key": "team", "operator": "Exists", "effect": "NoExecute"}),
    ],
)
def test_a_taint_that_is_tolerated_keeps_nobody_out(taint: Any, toleration: Any) -> None:
    scheduling = {"tolerations": [toleration]} if toleration else {}
    assert free([node("a", 4, taints=[taint])], scheduling=scheduling).pods == 4


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "team", "value": "audio"},
        {"key": "other", "operator": "Exists"},
        {"key": "team", "operator": "Exists", "effect": "NoExecute"},
    ],
)
def test_a_toleration_of_something_else_does_not_count(toleration: Any) -> None:
    taint = {"key": "team", "value": "vision", "effect": "NoSchedule"}
    assert free([node("a", 4, taints=[taint])], scheduling={"tolerations": [toleration]}).nodes == 0


def test_the_administrator_s_selector_and_tolerations_count_as_the_pods_have_them() -> None:
    nodes = [node("a", 4, {"pool": "models"}, taints=[{"key": "models", "effect": "NoSchedule"}]), node("b", 8)]
    text = "ray: {pods: {nodeSelector: {pool: models}, tolerations: [{key: models, operator: Exists}]}}"
    assert free(nodes, text=text).total == 4
    assert free(nodes).total == 8
    # The administrator's label overrides the user's, in the pod as in this check.
    assert free(nodes, text=text, scheduling={"nodeSelector": {"pool": "none"}}).total == 4
    assert free(nodes, scheduling={"nodeSelector": {"pool": "none"}}).total == 0


def test_types_are_found_by_any_of_the_labels_and_by_an_administrators_names() -> None:
    nodes = [
        node("a", 1, {PRODUCT: "NVIDIA-L4"}),
        node("b", 2, {"cloud.google.com/gke-accelerator": "nvidia-l4"}),
        node("c", 4, {PRODUCT: "NVIDIA-H100-80GB-HBM3"}),
        node("d", 8, {"example.com/card": "ell-four"}),
    ]
    assert free(nodes, gpu={"type": ["l4"]}).total == 3
    assert free(nodes, gpu={"type": ["l4", "h100"]}).total == 7
    text = "gpu: {aliases: {l4: {example.com/card: [ell-four]}}}"
    assert free(nodes, text=text, gpu={"type": ["l4"]}).total == 11
    # An unknown type is looked up as written.
    unknown = node("e", 16, {"karpenter.k8s.aws/instance-gpu-name": "m60"})
    assert free([*nodes, unknown], gpu={"type": ["m60"]}).total == 16


def test_shortage_is_reported_with_numbers() -> None:
    found = available([node("a", 4)], [pod("a", 3)])
    assert capacity.find_shortage(ONE, 1, found, ANY) is None
    assert capacity.find_shortage(ONE, 0, found, ANY) is None
    assert capacity.find_shortage(ONE, 3, found, Gpu.from_json({"type": ["l4", "h100"]})) == (
        "InsufficientCapacity",
        f"3 {GPU} of type l4 or h100 needed (3 × 1), 1 of 4 free on 1 node. {NODES_FIX}",
    )


def test_the_tightest_quota_counts() -> None:
    found = available([node("a", 8)], quotas=[quota(6, 1), quota(4, 3), {"status": {"hard": {"pods": "9"}}}])
    assert found.quota == 1
    assert capacity.find_shortage(ONE, 1, found, ANY) is None
    assert capacity.find_shortage(ONE, 2, found, ANY) == (
        "InsufficientQuota",
        f"2 {GPU} needed (2 × 1), 8 of 8 free on 1 node, 1 left by the namespace's quota. {QUOTA_FIX}",
    )


def test_what_becomes_free_counts_with_what_is_free() -> None:
    scattered = available([node("a", 2), node("b", 2)], [pod("a", 1), pod("b", 2)], quotas=[quota(4, 3)], count=2)
    assert capacity.find_shortage(TWO, 1, scattered, ANY) is not None
    more = capacity.add_freed_pods(scattered, TWO, [pod("a", 1)])
    assert (more.on_nodes and more.on_nodes.free, more.quota) == (2, 2)
    assert capacity.find_shortage(TWO, 1, more, ANY) is None
    unknown = AvailableCapacity(GPU, None, None)
    assert capacity.add_freed_pods(unknown, TWO, [pod("a", 1)]) == unknown


def test_where_nodes_may_not_be_looked_at_quotas_alone_count() -> None:
    found = available(None, quotas=[quota(4, 2)], count=2)
    assert found == AvailableCapacity(GPU, None, 2)
    assert capacity.find_shortage(TWO, 1, found, ANY) is None
    told = f"4 {GPU} of type l4 needed (2 × 2), 2 left by the namespace's quota. {QUOTA_FIX}"
    assert capacity.find_shortage(TWO, 2, found, Gpu.from_json({"type": ["l4"]})) == ("InsufficientQuota", told)
    assert capacity.find_shortage(TWO, 9, available(None, count=2), ANY) is None


MEMORY = "nvidia.com/gpu.memory"
KARPENTER = "karpenter.k8s.aws/instance-gpu-memory"


def test_nodes_whose_devices_have_too_little_memory_are_left_out() -> None:
    nodes = [
        node("a", 1, {PRODUCT: "NVIDIA-H100-80GB-HBM3", MEMORY: "81559"}),
        node("b", 2, {PRODUCT: "NVIDIA-L4", MEMORY: "23034"}),
        node("c", 4, {"karpenter.k8s.aws/instance-gpu-name": "l4", KARPENTER: "24576"}),
        node("d", 8),
        node("e", 16, {MEMORY: "much"}),
    ]
    assert free(nodes, gpu={"memory": "40Gi"}).total == 1
    assert free(nodes, gpu={"memory": "80Gi"}).total == 0
    assert free(nodes, gpu={"memory": "24Gi"}).total == 5
    assert free(nodes, gpu={"memory": "24Gi", "type": ["l4"]}).total == 4
    assert free(nodes, gpu={"memory": "24Gi", "type": ["t4"]}).nodes == 0
    # A label has whole MiB.
    assert free(nodes, gpu={"memory": str(23034 * 2**20)}).total == 7
    assert free(nodes, gpu={"memory": str(23034 * 2**20 + 1)}).total == 5


def test_a_shortage_names_the_memory() -> None:
    found, needs = available([node("a", 4, {MEMORY: "81559"})], [pod("a", 3)]), {"type": ["h100"], "memory": "40Gi"}
    assert capacity.find_shortage(ONE, 2, found, Gpu.from_json(needs)) == (
        "InsufficientCapacity",
        f"2 {GPU} of type h100 with at least 40Gi needed (2 × 1), 1 of 4 free on 1 node. {NODES_FIX}",
    )


def test_memory_beyond_every_integer_of_a_label_is_a_valid_term() -> None:
    gpu = Gpu.from_json({"count": 1, "memory": "1e99"})
    terms = node_affinity.make_node_terms(node_affinity.NodeDemand(gpu, "prefer", {}, NodeLabels()))
    values = [each["values"] for term in terms for each in term["matchExpressions"] if each["operator"] == "Gt"]
    assert values == [[str(2**63 - 1)]] * 3


MIG = "nvidia.com/mig-1g.10gb"


def test_slices_are_counted_by_the_name_of_their_profile() -> None:
    mixed = node("a", 4, taints=[{"key": GPU, "effect": "NoSchedule"}])
    mixed["status"]["allocatable"] |= {MIG: "7", "nvidia.com/mig-2g.20gb": "3"}
    container = {"name": "c", "resources": {"requests": {MIG: "1"}}}
    taken = {"metadata": {}, "spec": {"nodeName": "a", "containers": [container]}, "status": {"phase": "Running"}}
    hard = {"status": {"hard": {f"requests.{MIG}": "6"}, "used": {f"requests.{MIG}": "1"}}}
    gpu = {"sharing": {"mode": "mig", "profile": "1g.10gb"}}
    found = available([mixed, node("b", 8)], [pod("a", 4), taken], [hard, quota(1, 1)], gpu=gpu)
    assert (found.resource, found.quota) == (MIG, 5)
    assert found.on_nodes == NodeCapacity(1, 7, 6, 6)
    assert capacity.find_shortage(Devices(MIG, "GPU", 1), 6, found, ANY) == (
        "InsufficientQuota",
        f"6 {MIG} needed (6 × 1), 6 of 7 free on 1 node, 5 left by the namespace's quota. {QUOTA_FIX}",
    )


@pytest.mark.parametrize(
    ("fraction", "per_pod", "ray"),
    [
        ("0.5", 2, 0.5),
        ("0.51", 1, 0.51),
        ("0.99", 1, 0.99),
        ("0.3", 3, 0.3),
        ("0.1", 10, 0.1),
        (".01", 100, 0.01),
        # Ray rounds to four places: 7 × 0.1429 would be more than one device.
        ("0.142857", 7, 0.1428),
        ("0.3333333333", 3, 0.3333),
    ],
)
def test_as_many_replicas_share_a_device_as_fit(fraction: str, per_pod: int, ray: float) -> None:
    gpu = Gpu.from_json({"count": 1, "sharing": {"mode": "fraction", "fraction": fraction}})
    devices = accelerators.replica_devices(gpu)
    assert devices == Devices(GPU, "GPU", 1, per_pod, ray)
    assert accelerators.actor_options(devices) == {"num_gpus": ray}
    assert per_pod * ray <= 1


def test_a_fraction_needs_a_device_for_each_pod_of_replicas() -> None:
    gpu = Gpu.from_json({"count": 1, "sharing": {"mode": "fraction", "fraction": "0.4"}})
    assert [accelerators.count_pods(gpu, replicas) for replicas in (0, 1, 2, 3, 4, 5)] == [0, 1, 1, 2, 2, 3]
    assert accelerators.count_pods(ANY, 5) == 5
    found = available([node("a", 4)], [pod("a", 2)], gpu=gpu.to_json())
    devices = accelerators.replica_devices(gpu)
    assert devices is not None
    assert capacity.find_shortage(devices, devices.count_pods(4), found, gpu) is None
    assert capacity.find_shortage(devices, devices.count_pods(5), found, gpu) == (
        "InsufficientCapacity",
        f"3 {GPU} needed (3 × 1), 2 of 4 free on 1 node. {NODES_FIX}",
    )


def test_a_replica_over_several_pods_needs_all_of_their_devices() -> None:
    gpu = Gpu.from_json({"count": 2, "topology": {"nodes": 3}})
    devices = accelerators.replica_devices(gpu)
    assert devices is not None
    assert [devices.count_pods(replicas) for replicas in (0, 1, 2)] == [0, 3, 6]
    assert accelerators.describe_devices(devices) == f"2 {GPU} for each of the 3 pods of each replica"
    found = available([node("a", 2), node("b", 4)], gpu=gpu.to_json(), count=2)
    assert capacity.find_shortage(devices, devices.count_pods(1), found, gpu) is None
    assert capacity.find_shortage(devices, devices.count_pods(2), found, gpu) == (
        "InsufficientCapacity",
        f"12 {GPU} needed (6 × 2), 6 of 6 free on 2 nodes. {NODES_FIX}",
    )


def test_replicas_that_share_a_device_are_said_to_be_without_isolation() -> None:
    assert accelerators.describe_devices(TWO) == f"2 {GPU} for each replica"
    shared = Devices(GPU, "GPU", 1, 2, 0.5)
    assert accelerators.describe_devices(shared) == f"1 {GPU} for every 2 replicas, which share it without isolation"


SHARED = "nvidia.com/gpu.shared"
STRATEGY = "nvidia.com/gpu.sharing-strategy"


def sliced(name: str, devices: int, labels: dict[str, str] | None = None) -> dict[str, Any]:
    made = node(name, 0, labels)
    made["status"]["allocatable"] = {SHARED: str(devices)}
    return made


def test_time_sliced_devices_have_a_name_of_their_own_and_are_not_those_of_mps() -> None:
    nodes = [
        sliced("a", 1),
        sliced("b", 2, {STRATEGY: "time-slicing", PRODUCT: "NVIDIA-L4-SHARED"}),
        sliced("c", 4, {STRATEGY: "mps", PRODUCT: "NVIDIA-L4"}),
        sliced("d", 8, {PRODUCT: "NVIDIA-L4"}),
        node("e", 16),
    ]
    sharing = {"mode": "timeSliced"}
    found = available(nodes, quotas=[quota(1, 0)], gpu={"sharing": sharing})
    assert (found.resource, found.quota, found.on_nodes and found.on_nodes.total) == (SHARED, None, 11)
    assert free(nodes, gpu={"sharing": sharing, "type": ["l4"]}).total == 10
    assert free(nodes).total == 16
    devices = accelerators.replica_devices(Gpu.from_json({"count": 1, "sharing": sharing}))
    assert devices is not None
    told = f"1 {SHARED} for each replica, shared with other pods without isolation"
    assert accelerators.describe_devices(devices) == told


POOL = """
nodePools:
- name: l4
  maxNodes: 3
  labels: {pool: l4, nvidia.com/gpu.product: NVIDIA-L4}
  taints: [{key: nvidia.com/gpu}, {key: team, value: vision}]
  allocatable: {cpu: "8", memory: 30Gi, nvidia.com/gpu: "2"}
"""
OF_POOL = {"pool": "l4", PRODUCT: "NVIDIA-L4"}
TOLERATES = {"tolerations": [{"key": "team", "value": "vision"}]}


def test_nodes_that_a_pool_lacks_may_come() -> None:
    nodes = [node("a", 2, OF_POOL, taints=[]), node("b", 8)]
    needs = Gpu.from_json({"type": ["l4"]})
    found = available(nodes, [pod("a", 1)], text=POOL, gpu={"type": ["l4"]}, scheduling=TOLERATES)
    assert found.on_nodes is not None
    assert (found.on_nodes.pods, found.on_nodes.coming_nodes, found.on_nodes.coming_pods) == (1, 2, 4)
    assert capacity.find_shortage(ONE, 5, found, needs) is None
    assert capacity.find_shortage(ONE, 6, found, needs) == (
        "InsufficientCapacity",
        f"6 {GPU} of type l4 needed (6 × 1), 1 of 2 free on 1 node, 4 pods on 2 nodes that may be added; other nodes: 1 with"
        f" devices of another type or memory. {NODES_FIX}",
    )
    assert list(capacity.describe_available(found, 6)) == [
        f"6 pods with 1 CPU, 2.5Gi memory, 1 {GPU} needed, 1 fit on 1 node, 4 pods on 2 nodes that may be added"
    ]


@pytest.mark.parametrize(
    "needs",
    [
        {},
        {"scheduling": {**TOLERATES, "nodeSelector": {"pool": "h100"}}},
        {"scheduling": TOLERATES, "gpu": {"type": ["h100"]}},
        {"scheduling": TOLERATES, "count": 4},
        {"scheduling": TOLERATES, "gpu": {"vendor": "amd"}},
    ],
    ids=["taint", "selector", "type", "count", "vendor"],
)
def test_a_pool_whose_nodes_do_not_suit_brings_nothing(needs: dict[str, Any]) -> None:
    assert free([node("b", 8)], text=POOL, **needs).coming_pods == 0


def test_a_pool_with_all_its_nodes_brings_none() -> None:
    nodes = [node(name, 2, OF_POOL) for name in "abcd"]
    assert free(nodes, text=POOL, scheduling=TOLERATES).coming_nodes == 0


def test_pods_need_their_cpu_and_memory_on_the_node_of_their_devices() -> None:
    large, small = node("a", 4), node("b", 4)
    large["status"]["allocatable"] |= {"cpu": "16", "memory": "64Gi", "pods": "110"}
    small["status"]["allocatable"] |= {"cpu": "3900m", "memory": "64Gi", "pods": "110"}
    found = available([large, small], resources={"cpu": "4", "memory": "8Gi", "gpu": {"count": 1}})
    assert found.on_nodes is not None
    assert (found.on_nodes.free, found.on_nodes.device_pods, found.on_nodes.pods) == (8, 8, 4)
    assert capacity.find_shortage(ONE, 4, found, ANY) is None
    assert capacity.find_shortage(ONE, 5, found, ANY) == (
        "InsufficientCapacity",
        f"5 {GPU} needed (5 × 1), 8 of 8 free on 2 nodes, with 4 CPU and 8.5Gi memory free beside them for 4 pods. {NODES_FIX}",
    )


def test_without_devices_cpu_memory_and_pods_are_counted() -> None:
    nodes = [node("a", 0), node("b", 0, taints=[{"key": "team", "effect": "NoSchedule"}]), node("c", 0)]
    for each in nodes:
        each["status"]["allocatable"] = {"cpu": "8", "memory": "10Gi", "pods": "3"}
    spec = {"model": {"uri": "file:///m"}, "resources": {"cpu": "2", "memory": "2Gi"}}
    asked = ModelDeploymentSpec.from_json(spec)
    known = capacity.make_inventory(map(node_fit.trim_node, nodes), [{("c", "pods"): 2}])
    found = capacity.find_available_capacity(asked, known, (), parse_installation("", "test"))
    assert found is not None
    assert capacity.find_shortage(None, 4, found, ANY) is None
    assert capacity.find_shortage(None, 5, found, ANY, lacking=2) == (
        "InsufficientCapacity",
        "5 pods with 2 CPU and 2.5Gi memory needed, 4 pods fit on 2 nodes, 2 of them for stable; other nodes: 1 with the taint"
        f" team:NoSchedule, which the pods do not tolerate. {NODES_FIX}",
    )


def test_pods_that_exist_are_counted_by_quotas_already() -> None:
    found = available([node("a", 8)], quotas=[quota(4, 4)])
    assert capacity.find_shortage(ONE, 2, found, ANY, created=2) is None
    short = capacity.find_shortage(ONE, 3, found, ANY, created=2)
    assert short is not None
    assert short.reason == "InsufficientQuota"


@pytest.mark.parametrize(
    ("text", "has_devices", "blocks"),
    [
        ("", True, True),
        ("", False, False),
        ("gpu: {nodesCome: true}", True, False),
        (POOL, False, True),
        (f"gpu: {{nodesCome: true}}{POOL}", True, True),
    ],
)
def test_nodes_hold_back_what_they_are_known_not_to_have(text: str, has_devices: bool, blocks: bool) -> None:
    installation = parse_installation(text, "test")
    short = Cause("InsufficientCapacity", "too few")
    assert capacity.is_blocking(short, installation, has_devices=has_devices) == blocks
    quota_short = Cause("InsufficientQuota", "too few")
    assert capacity.is_blocking(quota_short, installation, has_devices=has_devices)
    assert not capacity.is_blocking(None, installation, has_devices=has_devices)


def test_a_message_has_the_most_frequent_reasons_of_other_nodes() -> None:
    away = [node(f"t{number}", 1, taints=[{"key": f"team-{number}", "effect": "NoSchedule"}]) for number in range(6)]
    cordoned = [node(f"c{number}", 1, unschedulable=True) for number in range(3)]
    found = available([node("a", 1), *away, *cordoned, {**node("cpu", 0), "status": {"allocatable": {"cpu": "4"}}}])
    short = capacity.find_shortage(ONE, 2, found, ANY)
    assert short is not None
    taints = ", ".join(f"1 with the taint team-{each}:NoSchedule, which the pods do not tolerate" for each in range(3))
    assert short.message.endswith(f"; other nodes: 3 cordoned, {taints}, 3 for other reasons. {NODES_FIX}")
