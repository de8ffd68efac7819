"""How long each layer lets requests that run come to their end: longer than any request of the service may run.

From the inside out: the model server ends a request at its service's `requestTimeout`; Serve kills a replica that it stops; Ray leaves a
node that ends; the kubelet kills its pod; HAProxy gives up a worker that was replaced, and the kubelet the edge's pod.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

DEFAULT_EDGE_DRAIN_S: Final = 120
"""What an edge has where no service asks for more."""

_REPLICA_MARGIN_S: Final = 15
"""What Serve's rounds of looking, the edges' of asking, and the second that a replica has more than the edge take together."""

_SUCCESSOR_S: Final = 60
"""How long a replica of a node that ends waits for the one that takes its place to start."""

_POD_MARGIN_S: Final = 15
_EDGE_MARGIN_S: Final = 20


def replica_grace_s(request_timeout: timedelta) -> float:
    """Seconds after which Serve kills a replica that it stops."""
    return request_timeout.total_seconds() + _REPLICA_MARGIN_S


def node_grace_s(request_timeout: timedelta) -> int:
    """Seconds that Ray leaves a node between SIGTERM and its end. One without a replica ends at once."""
    return math.ceil(replica_grace_s(request_timeout)) + _SUCCESSOR_S


def worker_pod_termination_grace_s(request_timeout: timedelta) -> int:
    """Seconds of grace of a worker's pod."""
    return node_grace_s(request_timeout) + _POD_MARGIN_S


def request_timeout_of_grace(worker_pod_grace_s: int) -> timedelta:
    """The `requestTimeout` that a worker's pod was given its grace for."""
    return timedelta(seconds=max(0, worker_pod_grace_s - worker_pod_termination_grace_s(timedelta())))


def edge_drain_s(services: Iterable[Mapping[str, Any]]) -> int:
    """Seconds after which a HAProxy that leaves ends what it has, for the services of a split document.

    It doubles, so that few changes of a timeout change it: with it the pods of the edge are made anew.
    """
    waits = (
        float(service.get("requestTimeoutSeconds", 0)) + float((service.get("queue") or {}).get("timeoutSeconds", 0))
        for service in services
    )
    needed, found = max(waits, default=0.0) + _EDGE_MARGIN_S, DEFAULT_EDGE_DRAIN_S
    while found < needed:
        found *= 2
    return found
