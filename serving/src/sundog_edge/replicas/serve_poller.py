"""Poll the Serve of each cluster for its replicas."""

import asyncio
import logging
import socket
import time
from collections.abc import Mapping

from sundog_edge.errors import ServeUnavailable
from sundog_edge.replicas.plan import GrpcPorts, ReplicaAddresses, ServeClient
from sundog_edge.split.document import Cluster

LOG = logging.getLogger(__name__)
RESOLVE_S = 5.0
"""Validity of the address of Serve's own proxy while Serve answers. A new head has another address."""

POLL_WAIT_S = 0.5
"""Longest wait of a polling round for clusters that it asks."""


class ServePoller:
    """The last answer of each cluster's Serve: its replicas, what it has scaled to zero, and the numeric address of its own proxy.

    `grpc_ports` has that proxy's port for gRPC, 0 for none. Like `fallbacks`, it keeps what Serve last reported.

    A cluster that no longer answers has no entry in `targets`: its replicas are unknown, which differs from no replicas.
    """

    def __init__(self, client: ServeClient) -> None:
        self.targets: dict[str, ReplicaAddresses] = {}
        self.calls: dict[str, GrpcPorts] = {}
        self.at_zero: dict[str, frozenset[str]] = {}
        self.fallbacks: dict[str, str] = {}
        self.grpc_ports: dict[str, int] = {}
        self.version = object()
        self.cost_s = 0.0
        self._client = client
        self._counted_s = 0.0
        self._silent_clusters: set[str] = set()
        self._resolved: dict[str, tuple[str, float]] = {}
        self._last_results: tuple[object, ...] = ({}, {}, {}, {}, {})
        self._polls: dict[str, asyncio.Task[None]] = {}

    @property
    def count(self) -> int:
        """Number of ports of all known replicas."""
        replicas = sum(len(own) for targets in self.targets.values() for own in targets.values())
        return replicas + sum(len(own) for calls in self.calls.values() for own in calls.values())

    @property
    def applications_at_zero(self) -> frozenset[str]:
        """Applications of all clusters that Serve has scaled to zero."""
        return frozenset(name for names in self.at_zero.values() for name in names)

    def grpc_fallback(self, cluster: str) -> tuple[str, int]:
        """Return the address of a cluster's own proxy for gRPC, and the proxy's HTTP port; empty and 0 for none."""
        host, _, http_port = self.fallbacks.get(cluster, "").rpartition(":")
        port = self.grpc_ports.get(cluster, 0)
        return (f"{host}:{port}", int(http_port)) if host and port else ("", 0)

    async def poll(self, clusters: Mapping[str, Cluster]) -> None:
        """Poll every cluster concurrently, except clusters that still owe an answer. So a hanging cluster delays no other.

        It waits only for those that it asks now. A different result replaces the object `version`. `cost_s` is the CPU time of parsing
        since the last round: other tasks of the agent run during the wait.
        """
        for name in self._polls.keys() - clusters.keys():
            self._polls.pop(name).cancel()
        started = {
            name: asyncio.create_task(self._poll_cluster(name, cluster))
            for name, cluster in clusters.items()
            if name not in self._polls
        }
        self._polls |= started
        if started:
            await asyncio.wait(started.values(), timeout=POLL_WAIT_S)
        for name in [name for name, task in self._polls.items() if task.done()]:
            self._polls.pop(name).result()
        for name in self.targets.keys() - clusters.keys():
            del self.targets[name]
            del self.calls[name]
            del self.at_zero[name]
        self.cost_s, self._counted_s = self._client.parse_s - self._counted_s, self._client.parse_s
        now = dict(self.targets), dict(self.calls), dict(self.at_zero), dict(self.fallbacks), dict(self.grpc_ports)
        if now != self._last_results:
            self._last_results = now
            self.version = object()

    async def _poll_cluster(self, name: str, cluster: Cluster) -> None:
        if cluster.fallback and self._needs_resolution(name, cluster.fallback):
            await self._resolve(name, cluster.fallback)
        try:
            found = await self._client.targets(cluster)
            self.targets[name], self.calls[name], self.at_zero[name], self.grpc_ports[name] = found
            self._silent_clusters.discard(name)
        except ServeUnavailable as error:
            self.targets.pop(name, None)
            self.calls.pop(name, None)
            self.at_zero.pop(name, None)
            if name not in self._silent_clusters:
                LOG.warning("%s; keeping the known replicas", error)
            self._silent_clusters.add(name)

    def _needs_resolution(self, name: str, address: str) -> bool:
        """Return whether to resolve the address again. Two queries a second of thousands of edges would overload a name server."""
        known, at = self._resolved.get(name, ("", 0.0))
        return known != address or name in self._silent_clusters or time.monotonic() - at >= RESOLVE_S

    async def _resolve(self, name: str, address: str) -> None:
        # A server added at run time needs a numeric address.
        host, _, port = address.rpartition(":")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, int(port), family=socket.AF_INET)
        except (OSError, UnicodeError, OverflowError) as error:
            # Besides unknown names, Python cannot encode some, such as a..b.
            LOG.info("DNS lookup of fallback %s failed: %s", address, error)
            return
        self.fallbacks[name] = f"{found[0][4][0]}:{port}"
        self._resolved[name] = (address, time.monotonic())
