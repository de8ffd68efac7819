"""An API server in memory with the nodes and pods of a large cluster: `python -m measuring.busy_cluster KUBECONFIG`, until it is ended.

Pods look like those of a usual Deployment, with managed fields. Some on each node have a GPU.
"""

import asyncio
import secrets
import sys
from pathlib import Path

from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.adapters.memory_kubernetes.http_server import serve_http
from sundog_operator.adapters.memory_kubernetes.kubeconfig import write_kubeconfig
from sundog_operator.ports import Object, ref_of

NODES = 500
PODS = 10_000
GPU = "nvidia.com/gpu"
GPUS = 8
TAKEN = 6
"""GPUs of each node, and those in use by its pods."""


def node(index: int) -> Object:
    """Return a node with accelerators."""
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "kubernetes.io/os": "linux", "pool": f"p{index % 5}"}
    names = ("MemoryPressure", "DiskPressure", "PIDPressure")
    conditions = [{"type": each, "status": "False"} for each in names] + [{"type": "Ready", "status": "True"}]
    allocatable = {"cpu": "64", "memory": "512Gi", "pods": "110", GPU: str(GPUS)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{index}", "labels": labels},
        "spec": {"taints": [{"key": GPU, "effect": "NoSchedule"}]},
        "status": {"allocatable": allocatable, "capacity": allocatable, "conditions": conditions},
    }


def pod(index: int) -> Object:
    """Return a running pod of another user, of 4 to 5 kB."""
    resources = {"cpu": "500m", "memory": "1Gi", **({GPU: "1"} if index // NODES < TAKEN else {})}
    container = {
        "name": "app",
        "image": f"registry.example.com/team/app:{index}",
        "env": [{"name": f"SETTING_{each}", "value": f"value of setting {each}"} for each in range(12)],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [{"name": f"volume-{each}", "mountPath": f"/mnt/{each}"} for each in range(4)],
    }
    managed: Object = {f"f:field-{each}": {"f:inner": {}, "f:other": {}} for each in range(40)}
    conditions = [
        {"type": each, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for each in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"app-{index}",
            "namespace": f"team-{index % 50}",
            "labels": {"app": f"app-{index % 500}", "pod-template-hash": "abcdef"},
            "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": managed}],
        },
        "spec": {
            "nodeName": f"node-{index % NODES}",
            "containers": [container],
            "volumes": [{"name": f"volume-{each}", "emptyDir": {}} for each in range(4)],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions},
    }


async def main(kubeconfig: Path) -> None:
    """Serve it."""
    clock, token = SystemClock(), secrets.token_urlsafe()
    kube = MemoryKubernetes(clock)
    for made in (*map(node, range(NODES)), *map(pod, range(PODS))):
        stored = await kube.create(made)
        # Like a real API server: the status is a subresource.
        await kube.patch_status(ref_of(stored), made["status"], resource_version=stored["metadata"]["resourceVersion"])
    async with serve_http(kube, clock, token=token) as url:
        write_kubeconfig(kubeconfig, url, token)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
