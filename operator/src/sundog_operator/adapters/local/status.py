"""Build the statuses that KubeRay and the kubelet write in a cluster, as plain JSON."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sundog_operator.adapters.local.ports_allocation import LOOPBACK, RayPorts
from sundog_operator.core.ray.clusters import GRPC_ENDPOINT
from sundog_operator.ports import Object

Conditions = list[dict[str, Any]]
Problem = tuple[str, str]
"""Reason and message of a condition that is not met."""


def format_timestamp(now: datetime) -> str:
    """Format a time in RFC 3339 with seconds, as Kubernetes does."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def set_condition(
    previous: Mapping[str, Any] | None, condition_type: str, problem: Problem | None, reason: str, now: datetime
) -> Conditions:
    """Return the conditions of a status with one of them set.

    Args:
        previous: the status so far, whose other conditions are kept.
        condition_type: type of the condition to set.
        problem: reason and message of a condition that is not met (status False); None if it is met (status True).
        reason: the reason if the condition is met.
        now: becomes lastTransitionTime when the condition's status changes.
    """
    before: Conditions = list((previous or {}).get("conditions") or ())
    old = next((condition for condition in before if condition.get("type") == condition_type), {})
    value = "True" if problem is None else "False"
    since = old.get("lastTransitionTime") if old.get("status") == value else None
    reason, message = problem or (reason, "")
    condition = {
        "type": condition_type,
        "status": value,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since or format_timestamp(now),
    }
    return [*(c for c in before if c.get("type") != condition_type), condition]


def ray_cluster_status(obj: Object, ports: RayPorts | None, problem: Problem | None, now: datetime) -> dict[str, Any]:
    """Return the status of a RayCluster.

    Args:
        obj: the stored object.
        ports: the head's ports; None leaves out the endpoints.
        problem: reason and message of a head that is not ready; None if it is ready.
        now: the current time.
    """
    name = obj["metadata"]["name"]
    status: dict[str, Any] = {
        "observedGeneration": obj["metadata"].get("generation", 1),
        "conditions": set_condition(obj.get("status"), "HeadPodReady", problem, "HeadPodRunningAndReady", now),
        "head": {
            "podIP": LOOPBACK,
            "serviceIP": LOOPBACK,
            "podName": f"{name}-head",
            "serviceName": f"{name}-head-svc",
        },
    }
    if ports is not None:
        status["endpoints"] = {
            "dashboard": str(ports.dashboard),
            "serve": str(ports.serve),
            GRPC_ENDPOINT: str(ports.serve_grpc),
        }
    return status


def make_edge_pod(deployment: Object, http_port: int, https_port: int, agent_port: int) -> Object:
    """Return the edge's only pod. Its owner is the Deployment, and its labels are those of the Deployment's template."""
    meta = deployment["metadata"]
    template = deployment.get("spec", {}).get("template", {}).get("metadata", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{meta['name']}-0",
            "namespace": meta["namespace"],
            "labels": dict(template.get("labels") or meta.get("labels") or {}),
            "ownerReferences": [
                {
                    "apiVersion": deployment["apiVersion"],
                    "kind": deployment["kind"],
                    "name": meta["name"],
                    "uid": meta["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {
            "containers": [
                {
                    "name": "haproxy",
                    "ports": [
                        {"name": "http", "containerPort": http_port},
                        {"name": "https", "containerPort": https_port},
                    ],
                },
                {"name": "agent", "ports": [{"name": "agent", "containerPort": agent_port}]},
            ]
        },
    }


def pod_status(
    obj: Object,
    running: bool,
    problem: Problem | None,
    now: datetime,
    stopped: Mapping[str, Problem],
) -> dict[str, Any]:
    """Return the status of the edge's pod.

    Args:
        obj: the stored pod.
        running: whether both of the pod's processes run.
        problem: reason and message of a pod that is not ready; None if it is ready.
        now: the current time.
        stopped: by name, reason and message of each container whose process does not run.
    """
    status: dict[str, Any] = {
        "phase": "Running" if running else "Pending",
        "podIP": LOOPBACK,
        "hostIP": LOOPBACK,
        "conditions": set_condition(obj.get("status"), "Ready", problem, "ContainersReady", now),
        "containerStatuses": [_container_status(each["name"], stopped) for each in obj["spec"]["containers"]],
    }
    return status


def _container_status(name: str, stopped: Mapping[str, Problem]) -> dict[str, Any]:
    reason, message = stopped.get(name, ("", ""))
    state = {"waiting": {"reason": reason, "message": message}} if name in stopped else {"running": {}}
    return {"name": name, "ready": name not in stopped, "state": state}


def deployment_status(obj: Object, problem: Problem | None, now: datetime) -> dict[str, Any]:
    """Return the status of the edge's Deployment, which has one pod."""
    ready = int(problem is None)
    return {
        "observedGeneration": obj["metadata"].get("generation", 1),
        "replicas": 1,
        "updatedReplicas": 1,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": 1 - ready,
        "conditions": set_condition(obj.get("status"), "Available", problem, "MinimumReplicasAvailable", now),
    }
