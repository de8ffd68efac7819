"""Allocates ports that stay the same over restarts and that two instances on one machine do not share."""

import contextlib
import hashlib
import random
import socket
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

import psutil

from sundog_operator.errors import DependencyError

LOOPBACK: Final = "127.0.0.1"
BLOCK_SIZE: Final = 1000
# Below the ephemeral ports of Linux (from 32768) and macOS (from 49152), which any outgoing connection may take.
BLOCK_BASES: Final = tuple(range(10_000, 32_000, BLOCK_SIZE))
SINGLE_PORTS: Final = range(32_000, 32_768)
_MIN_FREE_SHARE: Final = 0.9


@dataclass(frozen=True, slots=True)
class RayPorts:
    """All ports of one Ray cluster: a block of 1000 from `base`.

    Local mode binds the first port and hands it to the head process, to mark the block as taken. Ray's own ports do not
    mark it: gRPC binds them with SO_REUSEPORT, so that two clusters could share one without an error.
    """

    base: int

    @property
    def gcs(self) -> int:
        """Port of Ray's control plane."""
        return self.base + 1

    @property
    def dashboard(self) -> int:
        """Port of the dashboard, which has Serve's REST API."""
        return self.base + 2

    @property
    def serve(self) -> int:
        """Port of Serve's proxy."""
        return self.base + 3

    @property
    def fixed(self) -> dict[str, int]:
        """The other single ports, by option of `ray start`."""
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
        """Port of the dashboard's metrics, which only an environment variable sets."""
        return self.base + 11

    @property
    def serve_grpc(self) -> int:
        """Port of Serve's proxy for gRPC."""
        return self.base + 12

    @property
    def workers(self) -> range:
        """Ports of worker processes, one each."""
        return range(self.base + 20, self.base + 340)

    @property
    def replicas_http(self) -> range:
        """HTTP ports of replicas, one each. The range is wide, because Serve does not reuse a released port for 150 s."""
        return range(self.base + 340, self.base + 670)

    @property
    def replicas_grpc(self) -> range:
        """GRPC ports of replicas, one each."""
        return range(self.base + 670, self.base + BLOCK_SIZE)

    @property
    def singles(self) -> list[int]:
        """The ports that must be free for Ray to start."""
        return [self.gcs, self.dashboard, self.serve, self.serve_grpc, self.dashboard_metrics, *self.fixed.values()]


def allocate_block(seed: str, bases: Collection[int] = BLOCK_BASES) -> tuple[RayPorts, socket.socket]:
    """Return a free block and the socket that claims it, which the caller closes.

    The search starts at a block that depends on `seed`, so that instances which start together rarely collide.
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
        f"ports {order[0]} to {order[-1] + BLOCK_SIZE - 1}: no {BLOCK_SIZE} in a row are free, which Ray needs. End servers there."
    )


def claim_block(ports: RayPorts) -> socket.socket | None:
    """Claim a block with a listening socket. Return None when the block is claimed or its ports are in use."""
    claim = _bind(ports.base)
    if claim is None:
        return None
    claim.listen(1)
    ranges = (*ports.workers, *ports.replicas_http, *ports.replicas_grpc)
    if all(map(is_port_free, ports.singles)) and sum(map(is_port_free, ranges)) >= _MIN_FREE_SHARE * len(ranges):
        return claim
    claim.close()
    return None


def is_port_free(port: int) -> bool:
    """Return whether a server could listen on a port of the loopback interface."""
    probe = _bind(port)
    if probe is None:
        return False
    probe.close()
    return True


class PortClaims:
    """Claims single ports for one instance until its servers listen, and as long as this process lives.

    HAProxy binds with SO_REUSEPORT, so two that start at once would share a port without an error. A claim is a UDP socket
    of that number, which only one process can bind.
    """

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def claim(self, port: int) -> bool:
        """Claim a port. Return False when another instance claims it or a server listens on it."""
        if port not in self._sockets:
            claim = socket.socket(type=socket.SOCK_DGRAM)
            try:
                claim.bind((LOOPBACK, port))
            except OSError:
                claim.close()
                return False
            self._sockets[port] = claim
        if is_port_free(port):
            return True
        self.release((port,))
        return False

    def release(self, ports: Iterable[int] | None = None) -> None:
        """End the claims of some ports, by default of all."""
        for port in [*self._sockets] if ports is None else ports:
            if (claim := self._sockets.pop(port, None)) is not None:
                claim.close()


def allocate_port(
    taken: Collection[int] = (),
    singles: Collection[int] = SINGLE_PORTS,
    is_free: Callable[[int], bool] = is_port_free,
) -> int:
    """Return a free port of the loopback interface that is not in `taken`. Raises DependencyError when there is none."""
    candidates = [port for port in singles if port not in taken]
    random.shuffle(candidates)
    found = next(filter(is_free, candidates), None)
    if found is None:
        raise DependencyError(
            f"ports {min(singles)} to {max(singles)}: none is free, and an edge needs three. End servers there."
        )
    return found


def describe_holder(port: int) -> str:
    """Return which process listens on a port, such as `nginx (pid 42)`; `another process` where that is unknown."""
    pid = find_holder_pid(port)
    if pid is not None:
        with contextlib.suppress(psutil.Error, OSError):
            return f"{psutil.Process(pid).name()} (pid {pid})"
    return "another process"


def find_holder_pid(port: int) -> int | None:
    """Return the pid of the process that listens on a port; None where that is unknown, as for other users' processes."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            is_listener = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port
            if is_listener and connection.pid:
                return int(connection.pid)
    return None


def _bind(port: int) -> socket.socket | None:
    server = socket.socket()
    # A recently closed connection must not count as a server.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((LOOPBACK, port))
    except OSError:
        server.close()
        return None
    return server
