"""Amounts that pods request: CPU in millicores, memory in bytes, devices by their resource name, and the pods themselves."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sundog_operator.api import Resources, parse_bytes
from sundog_operator.api.quantities import parse_quantity
from sundog_operator.core.kubernetes import accelerators

Json = Mapping[str, Any]
Amounts = Mapping[str, int]
"""Amounts by resource."""

CPU: Final = "cpu"
MEMORY: Final = "memory"
PODS: Final = "pods"
OVERHEAD_BYTES: Final = 512 * 2**20
"""Memory of Ray's own processes and its object store, beside the model, in each worker pod."""

_GIB: Final = 2**30


def is_device(resource: str) -> bool:
    """Whether a resource is a device. Its name has a domain and a slash, which those of CPU, memory and a DeviceClass lack."""
    return "/" in resource


def is_counted(resource: str) -> bool:
    """Whether a resource limits where worker pods run."""
    return resource in (CPU, MEMORY, PODS) or is_device(resource)


def parse_amount(resource: str, quantity: Any) -> int:
    """Return a quantity as an amount of a resource."""
    number = parse_quantity(str(quantity))
    return math.ceil(number * 1000 if resource == CPU else number)


def worker_requests(resources: Resources) -> Amounts:
    """Return the requests of one worker pod: those of all its replicas and of Ray."""
    devices = accelerators.replica_devices(resources.gpu)
    replicas = devices.replicas_per_pod if devices else 1
    return {
        CPU: math.ceil(parse_quantity(resources.cpu) * replicas * 1000),
        MEMORY: parse_bytes(resources.memory) * replicas + OVERHEAD_BYTES,
        PODS: 1,
        **({devices.resource: devices.count} if devices else {}),
    }


def pod_requests(pod: Json) -> dict[str, int]:
    """Return the requests of a pod as the scheduler counts them.

    Containers and sidecars run together, and each init container alone before them.
    """
    spec = pod.get("spec") or {}
    together: dict[str, int] = {PODS: 1}
    for container in (*(spec.get("containers") or ()), *_sidecars(spec)):
        for name, amount in _container_requests(container):
            together[name] = together.get(name, 0) + amount
    for container in spec.get("initContainers") or ():
        for name, amount in _container_requests(container):
            together[name] = max(together.get(name, 0), amount)
    for name, quantity in (spec.get("overhead") or {}).items():
        if is_counted(name):
            together[name] = together.get(name, 0) + parse_amount(name, quantity)
    return together


def requested_devices(pod: Json, resource: str) -> int:
    """Return how many devices of a resource a pod requests."""
    return pod_requests(pod).get(resource, 0)


def format_amount(resource: str, amount: int) -> str:
    """Return an amount for people, such as `1.5 CPU`, `8.5Gi memory` or `2 nvidia.com/gpu`."""
    if resource == CPU:
        return f"{amount / 1000:g} CPU"
    if resource == MEMORY:
        return f"{round(amount / _GIB, 2):.10g}Gi memory"
    return f"{amount} {resource if amount != 1 or resource != PODS else 'pod'}"


def format_amounts(amounts: Amounts) -> str:
    """Return the requests of a pod for people, such as `4 CPU, 16.5Gi memory, 1 nvidia.com/gpu`."""
    return ", ".join(format_amount(*each) for each in amounts.items() if each[0] != PODS)


def _sidecars(spec: Json) -> Iterator[Json]:
    return (each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always")


def _container_requests(container: Json) -> Iterator[tuple[str, int]]:
    requests = (container.get("resources") or {}).get("requests") or {}
    return ((name, parse_amount(name, quantity)) for name, quantity in requests.items() if is_counted(name))
