"""Labels and taints of spot nodes, and pods that lost theirs."""

from typing import Any

import pytest

from sundog_operator.core.kubernetes import spot

EVICTED: dict[str, Any] = {"status": {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}}


def pod(node: str = "", *, phase: str = "Running", **fields: Any) -> dict[str, Any]:
    return {"metadata": {}, "spec": {"nodeName": node} if node else {}, "status": {"phase": phase}, **fields}


OWN_USE: dict[str, Any] = {"status": {"phase": "Failed", "reason": "Evicted"}}


def ended_by_kubelet(**status: str) -> dict[str, Any]:
    disruption = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    return pod("a", status={"conditions": [disruption], **status})


@pytest.mark.parametrize(
    "gone",
    [
        [pod("a", metadata={"deletionTimestamp": "now"}), pod(phase="Pending")],
        [pod("a", **EVICTED)],
        [pod("a", phase="Failed")],
        [ended_by_kubelet(phase="Failed", reason="Terminated")],
    ],
)
def test_pods_are_reclaimed_once_no_pod_may_stay_on_its_node(gone: list[dict[str, Any]]) -> None:
    assert spot.have_lost_nodes(gone)
    assert spot.were_reclaimed(gone)
    assert not spot.have_lost_nodes([*gone, pod("b")])
    assert not spot.were_reclaimed([*gone, pod("b")])
    # A replica over two pods has lost one of them.
    assert spot.were_reclaimed([*gone, pod("b")], 2)
    assert not spot.were_reclaimed([*gone, pod("b"), pod("c")], 2)


@pytest.mark.parametrize("others", [[], [pod(phase="Pending")]])
def test_a_pod_that_is_left_is_no_proof_of_what_the_other_pods_of_its_replica_were_lost_to(
    others: list[dict[str, Any]],
) -> None:
    assert spot.have_lost_nodes([pod("b"), *others], 2)
    assert not spot.were_reclaimed([pod("b"), *others], 2)


@pytest.mark.parametrize("unplaced", [[], [pod(phase="Pending")]])
def test_pods_that_never_had_a_node_are_not_reclaimed(unplaced: list[dict[str, Any]]) -> None:
    assert spot.have_lost_nodes(unplaced)
    assert not spot.were_reclaimed(unplaced)


@pytest.mark.parametrize(
    "evicted",
    [
        pod("a", **OWN_USE),
        pod("a", metadata={"deletionTimestamp": "now"}, **OWN_USE),
        ended_by_kubelet(phase="Running"),
        ended_by_kubelet(phase="Failed", reason="Evicted"),
    ],
)
def test_a_pod_that_the_kubelet_evicts_for_its_use_is_not_reclaimed(evicted: dict[str, Any]) -> None:
    assert not spot.have_lost_nodes([evicted])
    assert not spot.were_reclaimed([evicted, pod(phase="Pending")])


def test_pods_that_keep_off_spot_nodes_tolerate_none_of_their_taints() -> None:
    assert spot.make_tolerations("never", {}) == []


def test_expressions_have_the_label_of_karpenter_last_because_it_drops_the_others() -> None:
    found = [each["key"] for each in spot.make_expressions("In", {"tier": ["cheap"]})]
    assert (found[0], found[-1], len(found)) == ("tier", "karpenter.sh/capacity-type", 5)
    assert [each["key"] for each in spot.make_expressions("In", {"tier": ["a"]}, [spot.GKE])] == ["tier", spot.GKE]


def test_labels_of_the_administrator_are_added() -> None:
    more = {"karpenter.sh/capacity-type": ["reserved", "spot"], "tier": ["cheap"]}
    merged = spot.merge_labels(more)
    assert merged["karpenter.sh/capacity-type"] == ("spot", "reserved")
    assert merged["tier"] == ("cheap",)
    assert {"key": "tier", "operator": "Equal", "value": "cheap", "effect": "NoSchedule"} in spot.make_tolerations(
        "require", more
    )
    assert {"key": "tier", "operator": "In", "values": ["cheap"]} in spot.make_expressions("In", more)
