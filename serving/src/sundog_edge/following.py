"""Keeps every slot's servers in step with the replicas that Serve names."""

import asyncio
import logging
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sundog_edge.document import Cluster, Service
from sundog_edge.errors import HaproxyRefused, ServeUnavailable
from sundog_edge.evidence import ServerCounts
from sundog_edge.haproxy.names import FALLBACK
from sundog_edge.layout import Holding, Layout, Server
from sundog_edge.replicas import ServeClient, Targets, Wish, plan, wanted
from sundog_edge.runtime_api import Haproxy, Load, ServerState
from sundog_edge.traffic import Traffic
from sundog_edge.workers import Worker, Workers

LOG = logging.getLogger(__name__)
POLL_S = 0.5
POLL_EAGERLY_S = 0.15
_NO_LOAD = Load({}, {}, {})


class Answers:
    """What each cluster's Serve said last: its replicas, and its own proxy as numeric address.

    A cluster that has stopped answering has no entry in `targets`: unknown, not "no replicas".
    """

    def __init__(self, client: ServeClient) -> None:
        self.targets: dict[str, Targets] = {}
        self.fallbacks: dict[str, str] = {}
        self._client = client
        self._silent: set[str] = set()

    async def poll(self, clusters: Mapping[str, Cluster]) -> None:
        """Ask every cluster at once."""
        await asyncio.gather(*(self._ask(name, cluster) for name, cluster in clusters.items()))
        for name in self.targets.keys() - clusters.keys():
            del self.targets[name]

    async def _ask(self, name: str, cluster: Cluster) -> None:
        if cluster.fallback:
            await self._resolve(name, cluster.fallback)
        try:
            self.targets[name] = await self._client.targets(cluster)
            self._silent.discard(name)
        except ServeUnavailable as error:
            self.targets.pop(name, None)
            if name not in self._silent:
                LOG.warning("%s; keeping the replicas known", error)
            self._silent.add(name)

    async def _resolve(self, name: str, address: str) -> None:
        # A server that is added at run time must have a numeric address.
        host, _, port = address.rpartition(":")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, int(port), family=socket.AF_INET)
        except OSError as error:
            LOG.info("fallback %s does not resolve: %s", address, error)
            return
        self.fallbacks[name] = f"{found[0][4][0]}:{port}"


class Following:
    """Applies what `replicas.plan` wants to every worker, and tells what it saw."""

    def __init__(self, haproxy: Haproxy, workers: Workers, traffic: Traffic, answers: Answers) -> None:
        self.servers: dict[str, ServerCounts] = {}
        self._haproxy = haproxy
        self._workers = workers
        self._traffic = traffic
        self._answers = answers
        self._draining_since: dict[tuple[int, str, str], float] = {}

    @property
    def poll_pause_s(self) -> float:
        """How long to wait before Serve is asked again, in seconds: short while an application has no healthy replica."""
        return POLL_EAGERLY_S if any(counts.up == 0 for counts in self.servers.values()) else POLL_S

    async def tick(self) -> None:
        """One step in every worker. Raises HaproxyUnavailable."""
        layout = self._traffic.layout
        wishes = self._wishes(layout)
        occupied: set[str] = set()
        for worker in self._workers.all:
            states = await self._haproxy.servers(worker.pid)
            by_slot = _by_slot(states)
            busy = any(server.draining for server in states) or bool(layout.leaving)
            load = await self._haproxy.load(worker.pid) if busy else _NO_LOAD
            occupied |= {slot for slot, count in load.backends.items() if count}
            if worker.old:
                # HAProxy takes no new server in a worker that is on its way out; its servers stay as they were.
                continue
            occupied |= {slot for slot, own in by_slot.items() if own}
            await self._step(worker, layout, wishes, by_slot, load)
            up = self._record(layout, wishes, by_slot)
            leaving = frozenset(holding.slot for holding in layout.leaving)
            self._traffic.note_servers(up, leaving & occupied if len(self._workers.all) == 1 else leaving)

    async def running(self) -> dict[str, dict[str, int]]:
        """Requests running, by service and application, over all workers; also of applications that have left the document."""
        layout = self._traffic.layout
        found: dict[str, dict[str, int]] = defaultdict(dict)
        loads = [await self._haproxy.load(worker.pid) for worker in self._workers.all]
        for holding in (*layout.leaving, *layout.held):
            count = sum(load.backends.get(holding.slot, 0) for load in loads)
            found[holding.service][holding.application] = count
        return dict(found)

    def _wishes(self, layout: Layout) -> dict[str, Wish]:
        in_force = self._traffic.in_force
        services = {service.name: service for service in in_force.document.services} if in_force else {}
        return {
            holding.slot: self._wish(holding, services[holding.service])
            for holding in layout.held
            if holding.service in services
        }

    def _wish(self, holding: Holding, service: Service) -> Wish:
        targets = self._answers.targets.get(service.cluster)
        return Wish(
            slot=holding.slot,
            listed=None if targets is None else targets.get(holding.application, ()),
            fallback=self._answers.fallbacks.get(service.cluster, ""),
            maxconn=_limit(holding, service),
        )

    async def _step(
        self,
        worker: Worker,
        layout: Layout,
        wishes: Mapping[str, Wish],
        by_slot: Mapping[str, list[ServerState]],
        load: Load,
    ) -> None:
        for slot in {*wishes, *by_slot, *(holding.slot for holding in layout.leaving)}:
            present = by_slot.get(slot, [])
            want = wanted(wishes[slot], present) if slot in wishes else {}
            commands = plan(slot, want, present, load.servers, self._drained_for(worker, present))
            commands += self._limits(slot, want, present)
            if not commands:
                continue
            try:
                await self._haproxy.batch(commands, worker.pid)
            except HaproxyRefused as error:
                # Such as a deletion while one connection is still closing: the next step sees the true state and tries again.
                LOG.info("%s", error)

    def _drained_for(self, worker: Worker, present: Sequence[ServerState]) -> dict[tuple[str, str], float]:
        now = time.monotonic()
        ages: dict[tuple[str, str], float] = {}
        for server in present:
            key = (worker.pid, server.slot, server.name)
            if server.draining:
                ages[server.slot, server.name] = now - self._draining_since.setdefault(key, now)
            else:
                self._draining_since.pop(key, None)
        return ages

    def _limits(self, slot: str, want: Mapping[str, Server], present: Iterable[ServerState]) -> list[str]:
        # HAProxy does not tell a server's limit, so it is set when the layout, which has the limits set before, differs.
        names = {server.name for server in present}
        return [
            f"set maxconn server {slot}/{known.name} {want[known.name].maxconn}"
            for known in self._traffic.layout.servers
            if known.slot == slot
            and known.name in names
            and known.name in want
            and known.maxconn != want[known.name].maxconn
        ]

    def _record(
        self, layout: Layout, wishes: Mapping[str, Wish], by_slot: Mapping[str, Sequence[ServerState]]
    ) -> tuple[Server, ...]:
        up: list[Server] = []
        for holding in layout.held:
            states = by_slot.get(holding.slot, ())
            want = wanted(wishes[holding.slot], states) if holding.slot in wishes else {}
            up += [want[server.name] for server in states if server.up and server.name in want]
            replicas = [server for server in states if not server.name.startswith(FALLBACK)]
            leaving = sum(server.draining or server.maintenance for server in replicas)
            healthy = sum(server.up for server in replicas)
            self.servers[holding.application] = ServerCounts(healthy, len(replicas) - healthy - leaving, leaving)
        self.servers = {holding.application: self.servers[holding.application] for holding in layout.held}
        return tuple(sorted(up))


def _limit(holding: Holding, service: Service) -> int:
    """Requests that one replica gets at once: what its own revision admits, else what the service says."""
    own = (arm.maxOngoingRequests for arm in service.arms if arm.application == holding.application)
    return next(own, None) or service.maxOngoingRequests


def _by_slot(states: Iterable[ServerState]) -> dict[str, list[ServerState]]:
    grouped: dict[str, list[ServerState]] = defaultdict(list)
    for server in states:
        if server.slot.startswith("slot"):
            grouped[server.slot].append(server)
    return grouped
