"""Grace periods: how long each layer waits for running requests. Each is longer than any request of the service may take.

From the inside out:
- the model server ends a request at its service's `requestTimeout`;
- Serve kills a replica that it stops;
- Ray ends a node that drains;
- the kubelet kills the worker's pod;
- HAProxy ends a worker process that was replaced, and the kubelet kills the edge's pod.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

DEFAULT_EDGE_DRAIN_S: Final = 120
"""Drain time of an edge whose services need no more."""

_REPLICA_MARGIN_S: Final = 15
"""Time for Serve's control loop, the edges' polling, and the second that a replica has more than the edge."""

_SUCCESSOR_S: Final = 60
"""How long a replica on a draining node waits until its replacement has started."""

_POD_MARGIN_S: Final = 15
_EDGE_MARGIN_S: Final = 20


def replica_grace_s(request_timeout: timedelta) -> float:
    """Return the seconds after which Serve kills a replica that it stops."""
    return request_timeout.total_seconds() + _REPLICA_MARGIN_S


def node_grace_s(request_timeout: timedelta) -> int:
    """Return the seconds that a Ray node has from SIGTERM to its end. A node without a replica ends at once."""
    return math.ceil(replica_grace_s(request_timeout)) + _SUCCESSOR_S


def worker_pod_termination_grace_s(request_timeout: timedelta) -> int:
    """Return the termination grace period of a worker's pod, in seconds."""
    return node_grace_s(request_timeout) + _POD_MARGIN_S


def request_timeout_of_grace(worker_pod_grace_s: int) -> timedelta:
    """Return the `requestTimeout` from which a worker pod's grace period was computed."""
    return timedelta(seconds=max(0, worker_pod_grace_s - worker_pod_termination_grace_s(timedelta())))


def replica_wait_s(service: Mapping[str, Any]) -> float:
    """Return the longest time that a request may wait for a replica, in seconds, by its service's entry in a split document.

    Where the service may scale to zero, the wait for its first replica counts too: `coldStartSeconds`.
    """
    queue_s = float((service.get("queue") or {}).get("timeoutSeconds", 0))
    return max(queue_s, float(service.get("coldStartSeconds", 0)))


def edge_drain_s(services: Iterable[Mapping[str, Any]], least_wait: timedelta = timedelta()) -> int:
    """Return the seconds that a terminating HAProxy has to finish its requests, for the services of a split document.

    The result doubles from `DEFAULT_EDGE_DRAIN_S`, so that few changes of a timeout change it: most changes replace the edge pods.
    `least_wait` is a time that a request to any of the services may wait for a replica.
    """
    least_s = least_wait.total_seconds()
    waits = (
        float(service.get("requestTimeoutSeconds", 0)) + max(replica_wait_s(service), least_s) for service in services
    )
    needed, drain_s = max(waits, default=0.0) + _EDGE_MARGIN_S, DEFAULT_EDGE_DRAIN_S
    while drain_s < needed:
        drain_s *= 2
    return drain_s
