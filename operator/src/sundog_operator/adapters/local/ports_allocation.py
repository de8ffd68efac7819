"""Ports that stay the same over restarts, and that two instances on one machine do not fight for."""

import contextlib
import hashlib
import random
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import psutil

from sundog_operator.errors import DependencyError

LOOPBACK: Final = "127.0.0.1"
BLOCK_SIZE: Final = 1000
# Below the ephemeral range of Linux (from 32768) and macOS (from 49152), whose ports any outgoing connection may take.
BLOCK_BASES: Final = tuple(range(10_000, 32_000, BLOCK_SIZE))
SINGLE_PORTS: Final = range(32_000, 32_768)
_FREE_SHARE: Final = 0.9


@dataclass(frozen=True, slots=True)
class RayPorts:
    """All ports of one Ray cluster: a block of 1000 from `base`.

    The first is bound by us and handed to the head process. It marks the block as taken, which Ray's own ports do not:
    gRPC binds them with SO_REUSEPORT, so that two clusters could share one without an error.
    """

    base: int

    @property
    def gcs(self) -> int:
        """Ray's control plane."""
        return self.base + 1

    @property
    def dashboard(self) -> int:
        """Dashboard, which carries Serve's REST API."""
        return self.base + 2

    @property
    def serve(self) -> int:
        """Serve's own proxy."""
        return self.base + 3

    @property
    def fixed(self) -> dict[str, int]:
        """The other single ports, by the option of `ray start` that takes them."""
        options = (
            "dashboard-agent-listen-port",
            "dashboard-agent-grpc-port",
            "runtime-env-agent-port",
            "ray-client-server-port",
            "metrics-export-port",
            "object-manager-port",
            "node-manager-port",
        )
        return {option: self.base + 4 + index for index, option in enumerate(options)}

    @property
    def dashboard_metrics(self) -> int:
        """Metrics of the dashboard, which has no option but an environment variable."""
        return self.base + 11

    @property
    def serve_grpc(self) -> int:
        """Serve's own proxy for gRPC."""
        return self.base + 12

    @property
    def workers(self) -> range:
        """One per worker process."""
        return range(self.base + 20, self.base + 340)

    @property
    def replicas_http(self) -> range:
        """One per replica; wide, because Serve keeps a released port unused for 150 s."""
        return range(self.base + 340, self.base + 670)

    @property
    def replicas_grpc(self) -> range:
        """One more per replica, for gRPC."""
        return range(self.base + 670, self.base + BLOCK_SIZE)

    @property
    def singles(self) -> list[int]:
        """The ports that must be free for Ray to start."""
        return [self.gcs, self.dashboard, self.serve, self.serve_grpc, self.dashboard_metrics, *self.fixed.values()]


def allocate_block(seed: str, bases: Collection[int] = BLOCK_BASES) -> tuple[RayPorts, socket.socket]:
    """A free block and the socket that claims it, which the caller closes.

    The search starts at a place that depends on `seed`, so that instances which start together seldom meet.
    Raises DependencyError when no block is free.
    """
    order = sorted(bases)
    first = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") % len(order)
    for base in order[first:] + order[:first]:
        ports = RayPorts(base)
        claim = claim_block(ports)
        if claim is not None:
            return ports, claim
    raise DependencyError(
        f"no {BLOCK_SIZE} ports in a row are free between {order[0]} and {order[-1] + BLOCK_SIZE - 1}, which Ray needs"
    )


def claim_block(ports: RayPorts) -> socket.socket | None:
    """The listening socket that marks a block as ours; None when the block is claimed or ports of it are in use."""
    claim = _bind(ports.base)
    if claim is None:
        return None
    claim.listen(1)
    ranges = (*ports.workers, *ports.replicas_http, *ports.replicas_grpc)
    if all(map(is_port_free, ports.singles)) and sum(map(is_port_free, ranges)) >= _FREE_SHARE * len(ranges):
        return claim
    claim.close()
    return None


def is_port_free(port: int) -> bool:
    """Whether a server could listen on a port of the loopback interface."""
    probe = _bind(port)
    if probe is None:
        return False
    probe.close()
    return True


def allocate_port(taken: Collection[int] = (), singles: Collection[int] = SINGLE_PORTS) -> int:
    """A free port of the loopback interface that is none of `taken`. Raises DependencyError when there is none."""
    candidates = [port for port in singles if port not in taken]
    random.shuffle(candidates)
    found = next(filter(is_port_free, candidates), None)
    if found is None:
        raise DependencyError(
            f"no port between {min(singles)} and {max(singles)} is free, of which an edge needs three"
        )
    return found


def describe_holder(port: int) -> str:
    """Who listens on a port, such as `nginx (pid 42)`; `another process` where the system does not tell."""
    pid = find_holder_pid(port)
    if pid is not None:
        with contextlib.suppress(psutil.Error, OSError):
            return f"{psutil.Process(pid).name()} (pid {pid})"
    return "another process"


def find_holder_pid(port: int) -> int | None:
    """The process that listens on a port; None where the system does not tell, as of other users."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port
            if listens and connection.pid:
                return int(connection.pid)
    return None


def _bind(port: int) -> socket.socket | None:
    server = socket.socket()
    # Connections that were closed a moment ago must not count as a server.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((LOOPBACK, port))
    except OSError:
        server.close()
        return None
    return server
