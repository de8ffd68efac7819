"""The statuses that local mode writes."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sundog_operator.adapters.local.ports_allocation import RayPorts
from sundog_operator.adapters.local.status import (
    deployment_status,
    make_edge_pod,
    pod_status,
    ray_cluster_status,
    set_condition,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
CLUSTER = {"metadata": {"name": "sundog-0", "namespace": "vision", "generation": 3}}
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "sundog-edge",
        "namespace": "vision",
        "uid": "u-1",
        "generation": 2,
        "labels": {"app.kubernetes.io/name": "sundog-edge"},
    },
    "spec": {"template": {"metadata": {"labels": {"app.kubernetes.io/name": "sundog-edge", "extra": "1"}}}},
}


def test_a_ready_head_has_endpoints_as_strings() -> None:
    status = ray_cluster_status(CLUSTER, RayPorts(14_000), None, NOW)
    assert status["endpoints"] == {"dashboard": "14002", "serve": "14003", "serve-grpc": "14012"}
    assert status["head"]["serviceIP"] == status["head"]["podIP"] == "127.0.0.1"
    assert status["observedGeneration"] == 3
    assert status["conditions"] == [
        {
            "type": "HeadPodReady",
            "status": "True",
            "reason": "HeadPodRunningAndReady",
            "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        }
    ]


def test_the_transition_time_moves_with_the_status_alone() -> None:
    ready = {"conditions": set_condition({}, "Ready", None, "Fine", NOW)}
    still = {"conditions": set_condition(ready, "Ready", None, "Fine", LATER)}
    broken = {"conditions": set_condition(still, "Ready", ("Died", "first"), "Fine", LATER)}
    other = set_condition(broken, "Ready", ("Died", "second"), "Fine", LATER + timedelta(hours=1))
    assert still == ready
    assert broken["conditions"][0]["lastTransitionTime"] == "2026-01-02T03:05:05Z"
    assert other == [{**broken["conditions"][0], "message": "second"}]


def test_other_conditions_are_kept() -> None:
    foreign = {"type": "Foreign", "status": "True"}
    assert set_condition({"conditions": [foreign]}, "Ready", None, "Fine", NOW)[0] == foreign


def test_an_unchanged_status_is_equal() -> None:
    cluster = {**CLUSTER, "status": ray_cluster_status(CLUSTER, RayPorts(14_000), None, NOW)}
    assert ray_cluster_status(cluster, RayPorts(14_000), None, LATER) == cluster["status"]


def test_the_pod_belongs_to_its_deployment_and_names_its_ports() -> None:
    made = make_edge_pod(DEPLOYMENT, 8080, 8443, 4321)
    assert made["metadata"]["name"] == "sundog-edge-0"
    assert made["metadata"]["labels"]["extra"] == "1"
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("Deployment", "u-1", True)
    ports = {c["name"]: (c["ports"][0]["name"], c["ports"][0]["containerPort"]) for c in made["spec"]["containers"]}
    assert ports == {"haproxy": ("http", 8080), "agent": ("agent", 4321)}


def test_pod_and_deployment_are_ready_together() -> None:
    made = make_edge_pod(DEPLOYMENT, 8080, 8443, 4321)
    well, ill = None, ("ProcessExited", "the agent ended with signal 9")
    assert pod_status(made, True, well, NOW, {})["phase"] == "Running"
    assert pod_status(made, True, well, NOW, {})["podIP"] == "127.0.0.1"
    assert deployment_status(DEPLOYMENT, well, NOW)["readyReplicas"] == 1
    assert deployment_status(DEPLOYMENT, ill, NOW)["readyReplicas"] == 0
    assert deployment_status(DEPLOYMENT, ill, NOW)["observedGeneration"] == 2
    status = pod_status(made, False, ill, NOW, {"agent": ill})
    (condition,) = status["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "ProcessExited")
    haproxy, agent = status["containerStatuses"]
    assert (haproxy["ready"], haproxy["state"]) == (True, {"running": {}})
    waiting = {"reason": "ProcessExited", "message": "the agent ended with signal 9"}
    assert (agent["ready"], agent["state"]) == (False, {"waiting": waiting})
