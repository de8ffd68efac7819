"""The heads to replace."""

from typing import Any

import pytest

from sundog_operator.core.ray.heads import find_heads_without_autoscaler


def pod(node_type: str = "head", policy: str = "Never", **status: Any) -> dict[str, Any]:
    labels = {"ray.io/node-type": node_type}
    spec = {"restartPolicy": policy, "containers": [{"env": [{"name": "RAY_REDIS_ADDRESS", "value": STORE}]}]}
    return {"metadata": {"name": node_type, "labels": labels}, "spec": spec, "status": status}


def containers(state: dict[str, Any], name: str = "autoscaler") -> dict[str, Any]:
    return {
        "phase": "Running",
        "containerStatuses": [{"name": "ray-head", "state": {"running": {}}}, {"name": name, "state": state}],
    }


STORE = "demo-valkey:6379"
ENDED = {"terminated": {"exitCode": 1}}
WORKER = pod("worker", phase="Running")


@pytest.mark.parametrize(
    ("found", "is_replaced"),
    [
        (pod(**containers(ENDED)), True),
        (pod(**containers({"terminated": {"exitCode": 0}})), True),
        (pod(**containers({"running": {}})), False),
        (pod(**containers({"waiting": {"reason": "ContainerCreating"}})), False),
        (pod(), False),
        (pod(policy="Always", **containers(ENDED)), False),
        (pod("worker", **containers(ENDED)), False),
        (pod(**containers(ENDED, "sidecar")), False),
    ],
    ids=("ended", "without an error", "runs", "starts", "no status", "kubelet restarts it", "a worker", "another"),
)
def test_the_autoscaler_s_end_is_a_head_s(found: dict[str, Any], is_replaced: bool) -> None:
    assert find_heads_without_autoscaler([found, WORKER], STORE) == ([found] if is_replaced else [])


def test_one_that_is_going_is_not_deleted_again() -> None:
    going = pod(**containers(ENDED))
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert find_heads_without_autoscaler([going], STORE) == []


@pytest.mark.parametrize(
    ("of_head", "of_cluster"),
    [("", ""), ("", STORE), (STORE, ""), ("redis.example.com:6379", STORE)],
    ids=["no store", "a later store", "a former store", "another store"],
)
def test_one_whose_state_the_next_does_not_have_is_replaced_only_while_no_worker_runs(
    of_head: str, of_cluster: str
) -> None:
    head = pod(**containers(ENDED))
    head["spec"]["containers"][0] = {"env": [{"name": "RAY_REDIS_ADDRESS", "value": of_head}]} if of_head else {}
    assert find_heads_without_autoscaler([head, WORKER], of_cluster) == []
    assert find_heads_without_autoscaler([head, pod("worker", phase="Pending")], of_cluster) == [head]


def test_the_store_of_a_head_is_found_behind_an_injected_container() -> None:
    head = pod(**containers(ENDED))
    head["spec"]["containers"].insert(0, {"name": "istio-proxy"})
    assert find_heads_without_autoscaler([head, WORKER], STORE) == [head]
