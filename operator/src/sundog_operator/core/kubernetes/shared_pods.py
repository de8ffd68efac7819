"""Pods that several models share (`runtime.placement: shared`): their size, and how many of them replicas need. Pure."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sundog_operator.api import ModelDeploymentSpec, Resources, Violation, parse_bytes
from sundog_operator.api.installation import Installation, SharedWorkers
from sundog_operator.api.quantities import parse_quantity
from sundog_operator.core.kubernetes import pod_problems, pod_requests
from sundog_operator.core.kubernetes.pod_requests import CPU, MEMORY, OVERHEAD_BYTES, PODS, Amounts

SHARED: Final = "shared"

Json = Mapping[str, Any]


def is_shared(spec: ModelDeploymentSpec) -> bool:
    """Whether a spec's replicas run in pods with those of other models."""
    return spec.runtime.placement == SHARED


def replica_amounts(resources: Resources) -> Amounts:
    """Return the CPU and memory of one replica."""
    return {CPU: math.ceil(parse_quantity(resources.cpu) * 1000), MEMORY: parse_bytes(resources.memory)}


def pod_amounts(settings: SharedWorkers) -> Amounts:
    """Return the CPU and memory that a pod has for replicas."""
    return {CPU: settings.cpu * 1000, MEMORY: parse_bytes(settings.memory)}


def make_requests(settings: SharedWorkers) -> Amounts:
    """Return the requests of a pod: those of its replicas and of Ray."""
    pod = pod_amounts(settings)
    return {CPU: pod[CPU], MEMORY: pod[MEMORY] + OVERHEAD_BYTES, PODS: 1}


def worker_requests(spec: ModelDeploymentSpec, installation: Installation) -> Amounts:
    """Return the requests of a pod in which a spec's replicas run."""
    if is_shared(spec):
        return make_requests(installation.ray.shared_workers)
    return pod_requests.worker_requests(spec.resources)


def find_too_large(spec: ModelDeploymentSpec, installation: Installation | None) -> list[Violation]:
    """Return violations of a replica that no shared pod could hold. Without an installation, replicas are not in pods."""
    if installation is None or not is_shared(spec):
        return []
    size, pod = replica_amounts(spec.resources), pod_amounts(installation.ray.shared_workers)
    return [
        Violation(
            f"spec.resources.{resource}",
            f"{given} with runtime.placement: shared; expected at most {pod_requests.format_amount(resource, pod[resource])},"
            " the size of a shared pod. Ask for less, or use runtime.placement: dedicated",
        )
        for resource, given in ((CPU, spec.resources.cpu), (MEMORY, spec.resources.memory))
        if size[resource] > pod[resource]
    ]


def find_free_amounts(pods: Iterable[Json], used: Amounts) -> Amounts:
    """Return what replicas do not use of these pods together; none below zero."""
    found = [pod_requests.pod_requests(pod) for pod in pods if pod_problems.is_scheduled(pod)]
    total = {
        CPU: sum(each.get(CPU, 0) for each in found),
        MEMORY: sum(each.get(MEMORY, 0) - OVERHEAD_BYTES for each in found),
    }
    return {resource: max(amount - used.get(resource, 0), 0) for resource, amount in total.items()}


def count_new_pods(replicas: int, size: Amounts, free: Amounts, settings: SharedWorkers) -> int:
    """Return how many more pods so many replicas of a size need.

    The result assumes the best case: what is free in several pods is in one.
    """
    per_pod = count_fitting(pod_amounts(settings), size)
    left = max(replicas - count_fitting(free, size), 0)
    return math.ceil(left / max(per_pod, 1))


def count_fitting(pod: Amounts, size: Amounts) -> int:
    """Return how many replicas of a size fit into an amount."""
    return min(pod[resource] // amount for resource, amount in size.items() if amount)
