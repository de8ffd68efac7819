"""Who uses which resources, and which replica still fits on a node."""

from typing import Any

import pytest

from sundog_operator.core.kubernetes import names, node_fit, pod_requests, quotas, usage
from sundog_operator.core.kubernetes.quotas import QuotaLimit, QuotaUse

GPU = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"
GIB = 2**30


def node(name: str, labels: dict[str, str] | None = None, ready: str = "True", **allocatable: str) -> dict[str, Any]:
    status = {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": ready}]}
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": {}, "status": status}


def container(**requests: str) -> dict[str, Any]:
    return {"name": "c", "resources": {"requests": requests}}


def pod(where: str, *containers: dict[str, Any], phase: str = "Running", **labels: str) -> dict[str, Any]:
    spec = {"containers": list(containers), **({"nodeName": where} if where else {})}
    return {
        "metadata": {"name": "p", "namespace": "vision", "labels": labels},
        "spec": spec,
        "status": {"phase": phase},
    }


def worker(where: str, revision: int, **requests: str) -> dict[str, Any]:
    labels = {**names.labels(names.RAY), names.LABEL_MODEL_DEPLOYMENT: "digits", names.LABEL_REVISION: str(revision)}
    return pod(where, container(**requests), **labels)


def test_requests_are_those_that_the_scheduler_counts() -> None:
    spec = {
        "containers": [container(cpu="500m", memory="1Gi"), container(**{"cpu": "1", GPU: "2"})],
        "initContainers": [
            {**container(cpu="250m"), "restartPolicy": "Always"},
            container(cpu="1", memory="3Gi"),
        ],
        "overhead": {"cpu": "100m", "ephemeral-storage": "1Gi"},
    }
    assert pod_requests.pod_requests({"spec": spec}) == {"cpu": 1850, "memory": 3 * GIB, GPU: 2, "pods": 1}
    assert pod_requests.pod_requests({"spec": {"containers": [{"name": "c"}]}}) == {"pods": 1}
    assert pod_requests.pod_requests({}) == {"pods": 1}


@pytest.mark.parametrize(
    ("resource", "amount", "text"),
    [
        ("cpu", 1500, "1.5 CPU"),
        ("memory", 9 * GIB // 2, "4.5Gi memory"),
        ("memory", 12_345 * GIB, "12345Gi memory"),
        ("pods", 1, "1 pod"),
        (GPU, 2, f"2 {GPU}"),
    ],
)
def test_amounts_are_shown_in_the_units_of_people(resource: str, amount: int, text: str) -> None:
    assert pod_requests.format_amount(resource, amount) == text


def test_devices_are_counted_by_class_and_by_what_fits_on_one_node() -> None:
    l4, h100 = {PRODUCT: "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}, {PRODUCT: "NVIDIA-H100-NVL"}
    nodes = [
        node("a", l4, **{GPU: "4", "cpu": "8", "memory": "32Gi"}),
        node("b", l4, **{GPU: "4", "cpu": "16", "memory": "32Gi"}),
        node("c", l4, ready="False", **{GPU: "4", "cpu": "8", "memory": "32Gi"}),
        node("d", h100, **{GPU: "8", "nvidia.com/mig-1g.10gb": "7", "hugepages-2Mi": "0"}),
    ]
    pods = [
        worker("a", 1, **{GPU: "1", "cpu": "2", "memory": "4Gi"}),
        worker("b", 1, **{GPU: "1", "cpu": "2", "memory": "4Gi"}),
        worker("", 2, **{GPU: "1"}),
        pod("d", container(**{GPU: "8"})),
        pod("d", container(**{GPU: "8"}), phase="Failed"),
    ]
    seen = [each for each in map(usage.view_pod, pods) if each is not None]
    classes = usage.find_classes(usage.make_inventory(map(node_fit.trim_node, nodes), seen))
    shown = {(each.resource, each.type): each for each in classes}
    assert list(shown) == [
        (GPU, "NVIDIA-H100-NVL"),
        (GPU, "NVIDIA-L4"),
        ("nvidia.com/mig-1g.10gb", "NVIDIA-H100-NVL"),
        ("cpu", ""),
        ("memory", ""),
    ]
    small = shown[GPU, "NVIDIA-L4"]
    assert (small.memory_mib, small.nodes, small.total, small.usable) == (23034, 3, 12, 8)
    assert (small.used, small.free, small.by_free) == (2, 6, {3: 2})
    assert small.largest == {GPU: 3, "cpu": 14_000, "memory": 28 * GIB}
    large = shown[GPU, "NVIDIA-H100-NVL"]
    assert (large.total, large.used, large.free, large.by_free, large.largest) == (8, 8, 0, {0: 1}, {})
    assert (shown["cpu", ""].total, shown["cpu", ""].free) == (32_000, 20_000)


def test_usage_is_summed_by_revision_then_by_component_then_for_all_others() -> None:
    pods = [
        worker("a", 2, cpu="1"),
        worker("a", 1, cpu="2"),
        worker("", 1, cpu="2"),
        pod("a", container(cpu="500m"), **names.labels(names.EDGE)),
        pod("a", container(cpu="4"), team="b"),
        # The labels of a pod that Sundog did not make mean nothing.
        pod("a", container(cpu="4"), **{names.LABEL_MODEL_DEPLOYMENT: "digits"}),
    ]
    found = usage.sum_usage(each for each in map(usage.view_pod, pods) if each is not None)
    assert [(each.name, each.revision, each.placed, each.waiting, each.requests.get("cpu")) for each in found] == [
        ("digits", 1, 1, 1, 2000),
        ("digits", 2, 1, 0, 1000),
        (names.EDGE, None, 1, 0, 500),
        (usage.OTHER_PODS, None, 2, 0, 8000),
    ]


def test_devices_in_use_are_summed_by_the_type_of_the_pods_node() -> None:
    nodes = [node(name, {PRODUCT: type_}, **{GPU: "8"}) for name, type_ in (("a", "H100"), ("b", "L4"))]
    pods = [
        worker("a", 1, **{GPU: "2", "cpu": "1"}),
        worker("b", 1, **{GPU: "1"}),
        worker("b", 1, **{GPU: "1"}),
        worker("unknown", 1, **{GPU: "4"}),
        worker("", 1, **{GPU: "8"}),
    ]
    seen = [each for each in map(usage.view_pod, pods) if each is not None]
    (found,) = usage.sum_usage(seen, map(node_fit.trim_node, nodes))
    assert found.devices == {(GPU, "H100"): 2, (GPU, "L4"): 2, (GPU, ""): 4}
    assert found.requests[GPU] == 8


def quota(hard: dict[str, str], used: dict[str, str], **spec: Any) -> dict[str, Any]:
    meta = {"name": "team", "namespace": "vision"}
    return {"metadata": meta, "spec": spec, "status": {"hard": hard, "used": used}}


def test_quotas_limit_what_pods_request_in_each_of_their_keys() -> None:
    needs = {"cpu": 1500, "memory": GIB, "pods": 1, GPU: 2}
    hard = {"cpu": "4", "limits.memory": "8Gi", "count/pods": "10", f"requests.{GPU}": "4", "services": "1"}
    found = quotas.find_limits([quota(hard, {"cpu": "1500m"})], needs)
    assert {(each.key, each.left, each.per_pod) for each in found} == {
        ("cpu", 2500, 1500),
        ("limits.memory", 8 * GIB, GIB),
        ("count/pods", 10, 1),
        (f"requests.{GPU}", 4, 2),
    }
    assert quotas.find_exceeded(found, 1) is None
    assert quotas.find_exceeded(found, 2) == QuotaLimit("team", "cpu", "cpu", 2500, 1500)
    freed = quotas.add_freed(found, {"cpu": 500})
    assert quotas.find_exceeded(freed, 2) is None


def test_pods_that_exist_exceed_no_quota_that_is_lowered_below_its_use() -> None:
    lowered = quotas.find_limits([quota({"pods": "1"}, {"pods": "3"})], {"pods": 1})
    assert [each.left for each in lowered] == [-2]
    assert quotas.find_exceeded(lowered, 0) is None
    assert quotas.find_exceeded(lowered, 1) == lowered[0]


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        ({"scopes": ["NotTerminating", "NotBestEffort"]}, True),
        ({"scopes": ["BestEffort"]}, False),
        ({"scopes": ["Terminating"]}, False),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "Terminating", "operator": "Exists"}]}}, False),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "NotTerminating", "operator": "Exists"}]}}, True),
        *(
            ({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", **expression}]}}, counts)
            for expression, counts in (
                ({"operator": "In", "values": ["high"]}, True),
                ({"operator": "In", "values": ["low"]}, False),
                ({"operator": "NotIn", "values": ["low"]}, True),
                ({"operator": "Exists"}, True),
                ({"operator": "DoesNotExist"}, False),
            )
        ),
    ],
)
def test_a_quota_of_other_pods_limits_none_of_ours(spec: dict[str, Any], counts: bool) -> None:
    found = quotas.find_limits([quota({"pods": "1"}, {}, **spec)], {"pods": 1}, "high")
    assert bool(found) == counts


def test_the_use_of_a_quota_leaves_out_keys_of_other_objects() -> None:
    hard = {"requests.cpu": "4", f"requests.{GPU}": "2", "services": "1", "requests.storage": "1Gi"}
    assert list(quotas.find_use([quota(hard, {"requests.cpu": "1"})])) == [
        QuotaUse("vision", "team", "requests.cpu", "cpu", 4000, 1000),
        QuotaUse("vision", "team", f"requests.{GPU}", GPU, 2, 0),
    ]
