"""Labels and taints of spot nodes, and pods that lost theirs."""

from typing import Any

import pytest

from sundog_operator.core.kubernetes import spot

EVICTED: dict[str, Any] = {"status": {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}}


def pod(node: str = "", *, phase: str = "Running", **fields: Any) -> dict[str, Any]:
    return {"metadata": {}, "spec": {"nodeName": node} if node else {}, "status": {"phase": phase}, **fields}


@pytest.mark.parametrize(
    "gone",
    [
        [],
        [pod(phase="Pending")],
        [pod("a", metadata={"deletionTimestamp": "now"}), pod(phase="Pending")],
        [pod("a", **EVICTED)],
        [pod("a", phase="Failed")],
    ],
)
def test_nodes_are_lost_once_no_pod_may_stay_on_one(gone: list[dict[str, Any]]) -> None:
    assert spot.have_lost_nodes(gone)
    assert not spot.have_lost_nodes([*gone, pod("b")])


def test_without_spot_nodes_a_pod_is_placed_as_before() -> None:
    assert spot.make_tolerations("never", {}) == []
    assert spot.make_required_expressions("never", {}) == spot.make_required_expressions("prefer", {}) == []
    assert spot.make_preferences("never", {}) == spot.make_preferences("require", {}) == []


def test_labels_of_the_administrator_are_added() -> None:
    more = {"karpenter.sh/capacity-type": ["reserved", "spot"], "tier": ["cheap"]}
    merged = spot.merge_labels(more)
    assert merged["karpenter.sh/capacity-type"] == ("spot", "reserved")
    assert merged["tier"] == ("cheap",)
    assert {"key": "tier", "operator": "Equal", "value": "cheap", "effect": "NoSchedule"} in spot.make_tolerations(
        "require", more
    )
    assert {"key": "tier", "operator": "In", "values": ["cheap"]} in spot.make_required_expressions("require", more)
