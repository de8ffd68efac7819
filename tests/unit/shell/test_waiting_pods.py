"""Pods of a ModelDeployment that wait for a node, as `sundog describe` shows them."""

from typing import Any

from sundog_operator.core.kubernetes import names
from sundog_operator.shell.waiting_pods import describe_waiting_pods

GPU = "nvidia.com/gpu"


def pod(name: str, revision: int, message: str = "") -> dict[str, Any]:
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    meta = {"name": name, "uid": f"uid of {name}", "labels": {names.LABEL_REVISION: str(revision)}}
    return {"metadata": meta, "status": {"conditions": [unplaced] if message else []}}


def event(about: str, reason: str, note: str, at: str, **more: Any) -> dict[str, Any]:
    return {
        "regarding": {"uid": f"uid of {about}"},
        "reason": reason,
        "note": note,
        "deprecatedLastTimestamp": at,
        **more,
    }


def test_each_revision_has_its_constraints_and_the_newest_word_of_an_autoscaler() -> None:
    full = f"0/3 nodes are available: 3 Insufficient {GPU}."
    pods = [
        pod("a", 2, full),
        pod("b", 2, full),
        pod("c", 2, "0/2 nodes are available: 2 node(s) were unschedulable."),
        pod("d", 1),
        pod("e", 3, full),
    ]
    events = [
        event("a", "TriggeredScaleUp", "pod triggered scale-up", "2026-11-25T12:00:00Z"),
        event(
            "b",
            "NotTriggerScaleUp",
            "pod didn't trigger scale-up:\n1 max node group size reached",
            "2026-11-25T12:01:00Z",
        ),
        event("b", "FailedScheduling", full, "2026-11-25T12:02:00Z", reportingController="default-scheduler"),
        event("d", "NotTriggerScaleUp", "another", "2026-11-25T12:03:00Z"),
        event(
            "e", "FailedScheduling", "no instance type fits", "2026-11-25T12:00:00Z", reportingController="karpenter"
        ),
        event("e", "Nominated", "an older one", "2026-11-25T11:00:00Z", deprecatedSource={"component": "karpenter"}),
    ]
    assert list(describe_waiting_pods(pods, events)) == [
        ("Pods", f"revision 2: 3 pods without a node: 0 of 3 nodes: 3 without enough free {GPU}"),
        ("Autoscaler", "NotTriggerScaleUp: pod didn't trigger scale-up: 1 max node group size reached"),
        ("Pods", f"revision 3: 1 pod without a node: 0 of 3 nodes: 3 without enough free {GPU}"),
        ("Autoscaler", "FailedScheduling: no instance type fits"),
    ]
    assert list(describe_waiting_pods([pod("d", 1)], events)) == []
