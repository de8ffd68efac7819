"""Pods of a ModelDeployment that wait for a node, as `sundog describe` shows them."""

from typing import Any

from doubles.cluster import NAMESPACE, Cluster
from doubles.kuberay import create_with_status
from sundog_operator.core.kubernetes import names
from sundog_operator.errors import Forbidden
from sundog_operator.ports import POD, Ref
from sundog_operator.shell.view.waiting_pods import describe_waiting_pods

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


async def leave_unplaced(cluster: Cluster) -> None:
    """A pod of `digits` without a node, and an event of an autoscaler about it."""
    labels = {names.LABEL_MODEL_DEPLOYMENT: "digits", names.LABEL_REVISION: "2"}
    condition = pod("w", 2, f"0/3 nodes are available: 3 Insufficient {GPU}.")["status"]["conditions"][0]
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "w", "namespace": NAMESPACE, "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    await create_with_status(cluster.kube, POD, made, {"phase": "Pending", "conditions": [condition]})
    (stored,) = await cluster.kube.list(POD, NAMESPACE, labels)
    about = {"kind": "Pod", "name": "w", "uid": stored["metadata"]["uid"]}
    note = event("w", "NotTriggerScaleUp", "pod didn't trigger scale-up", "2026-11-25T12:01:00Z") | {"regarding": about}
    meta = {"name": "w.1", "namespace": NAMESPACE}
    await cluster.kube.create({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": meta, **note})


def test_describe_shows_them_where_the_user_may_list_pods(on_server: Any, server: Any, manifest: Any) -> None:
    on_server("apply", "-f", str(manifest()))
    server.do(leave_unplaced)
    waits = f"revision 2: 1 pod without a node: 0 of 3 nodes: 3 without enough free {GPU}"
    done = on_server("describe", "digits")
    assert done.code == 0
    assert waits in done.out
    assert "NotTriggerScaleUp: pod didn't trigger scale-up" in done.out
    assert on_server("describe", "digits", "-o", "json").json["waitingPods"][0] == waits

    def refuse(verb: str, ref: Ref) -> Exception | None:
        return Forbidden("pods is forbidden (403)") if ref.kind == POD else None

    server.cluster.kube.faults = refuse
    done = on_server("describe", "digits")
    assert done.code == 0
    assert waits not in done.out
