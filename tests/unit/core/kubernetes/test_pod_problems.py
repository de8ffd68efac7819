"""The problem that keeps pods from running, in one line."""

from typing import Any

import pytest

from sundog_operator.core.kubernetes.pod_problems import find_pod_problem


def pod(*states: dict[str, Any], name: str = "w", conditions: Any = (), **meta: Any) -> dict[str, Any]:
    statuses = [{"name": f"c{number}", **state} for number, state in enumerate(states)]
    return {
        "metadata": {"name": name, **meta},
        "status": {"conditions": list(conditions), "containerStatuses": statuses},
    }


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, **({"message": message} if message else {})}}, **more}


UNPLACED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.\nmore",
}


@pytest.mark.parametrize(
    ("found", "reason", "message"),
    [
        (
            pod(conditions=[UNPLACED]),
            "Unschedulable",
            "pod w: 0 of 1 nodes: 1 without enough free nvidia.com/gpu. Free some, add nodes, or ask for less",
        ),
        (
            pod(conditions=[{**UNPLACED, "message": "0/1 nodes are available: 1 node(s) were unschedulable."}]),
            "Unschedulable",
            "pod w: 0 of 1 nodes: 1 cordoned. Add a node that fits, or change what the pod needs",
        ),
        (pod(waiting("ErrImageNeverPull", "no such image")), "ImagePullBackOff", "pod w, container c0: no such image"),
        (pod(waiting("InvalidImageName")), "ImagePullBackOff", "pod w, container c0: InvalidImageName"),
        (
            pod(waiting("CreateContainerConfigError", 'secret "keys" not found')),
            "CreateContainerError",
            'pod w, container c0: secret "keys" not found',
        ),
        (
            pod(
                waiting(
                    "CrashLoopBackOff", "back-off", lastState={"terminated": {"reason": "OOMKilled", "exitCode": 137}}
                )
            ),
            "OOMKilled",
            "pod w, container c0: used more memory than its limit",
        ),
        (
            pod({"state": {"terminated": {"exitCode": 3, "message": "first\nsecond"}}}),
            "ContainerExited",
            "pod w, container c0: exited with code 3: first",
        ),
    ],
)
def test_a_problem_is_one_line_with_pod_and_container(found: dict[str, Any], reason: str, message: str) -> None:
    assert find_pod_problem([found]) == (reason, message)


def test_what_is_nearer_to_the_cause_counts() -> None:
    pods = [pod(conditions=[UNPLACED], name="a"), pod(waiting("ImagePullBackOff", "denied"), name="b")]
    assert find_pod_problem(pods) == ("ImagePullBackOff", "pod b, container c0: denied")


def test_pods_that_start_run_or_leave_have_no_problem() -> None:
    running = {"state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}}
    assert find_pod_problem([pod(waiting("ContainerCreating")), pod(running)]) is None
    assert find_pod_problem([pod(waiting("ImagePullBackOff"), deletionTimestamp="2026-01-01T00:00:00Z")]) is None
    assert find_pod_problem([{"metadata": {"name": "new"}}]) is None
