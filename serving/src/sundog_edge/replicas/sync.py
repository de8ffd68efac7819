"""Keeps every slot's servers in step with the replicas that Serve names."""

import asyncio
import logging
import random
import socket
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from sundog_edge.counting.evidence import ServerCounts
from sundog_edge.errors import HaproxyRefused, ServeUnavailable
from sundog_edge.haproxy.client import HaproxyClient, RequestLoad, ServerState
from sundog_edge.haproxy.names import FALLBACK_PREFIX, GRPC_SUFFIX
from sundog_edge.haproxy.workers import Worker, Workers
from sundog_edge.replicas.plan import (
    DesiredSlot,
    GrpcPorts,
    ReplicaAddresses,
    ServeClient,
    desired_servers,
    drain_limit_s,
    find_proven,
    plan_commands,
    plan_slow_replicas,
)
from sundog_edge.split.apply import SplitApplier
from sundog_edge.split.document import Cluster, Service
from sundog_edge.split.layout import CHECK_MS, DEFAULT_DRAIN_S, Layout, SlotAssignment, SlotServer, max_request_s

LOG = logging.getLogger(__name__)
POLL_S = 0.5
FAST_POLL_S = 0.15
POLL_JITTER = 0.2
RESOLVE_S = 5.0
"""How long the address of Serve's own proxy is taken as known while Serve answers; a new head has another."""

POLL_WAIT_S = 0.5
"""How long a round of questions waits for those that are slow to answer."""

COST_FACTOR = 50
"""What is done again and again takes a fiftieth of the time at most."""

SERVERS_AT_FULL_PACE = 64
MAX_CHECK_MS = 4000
"""Replicas are checked some hundred times a second in all: the more there are, the less often each is, up to this interval."""

FALLBACKS_AT_FULL_PACE = 64
"""Serve's own proxy is one process that every slot checks: the more slots, the less often each does."""

_NO_LOAD = RequestLoad({}, {})


class ServePoller:
    """What each cluster's Serve said last: its replicas, and its own proxy as numeric address.

    A cluster that has stopped answering has no entry in `targets`: unknown, not "no replicas".
    """

    def __init__(self, client: ServeClient) -> None:
        self.targets: dict[str, ReplicaAddresses] = {}
        self.calls: dict[str, GrpcPorts] = {}
        self.fallbacks: dict[str, str] = {}
        self.version = object()
        self.cost_s = 0.0
        self._client = client
        self._silent: set[str] = set()
        self._resolved: dict[str, tuple[str, float]] = {}
        self._told: tuple[object, ...] = ({}, {}, {})
        self._asking: dict[str, asyncio.Task[None]] = {}

    @property
    def count(self) -> int:
        """The ports of all replicas that are known."""
        replicas = sum(len(own) for targets in self.targets.values() for own in targets.values())
        return replicas + sum(len(own) for calls in self.calls.values() for own in calls.values())

    async def poll(self, clusters: Mapping[str, Cluster]) -> None:
        """Ask every cluster at once, but for those that have yet to answer the last time: one that hangs holds up no other.

        `version` is another object after an answer that differs, `cost_s` the time that it took the agent.
        """
        began = time.thread_time()
        for name in self._asking.keys() - clusters.keys():
            self._asking.pop(name).cancel()
        for name, cluster in clusters.items():
            if name not in self._asking:
                self._asking[name] = asyncio.create_task(self._ask(name, cluster))
        if self._asking:
            await asyncio.wait(self._asking.values(), timeout=POLL_WAIT_S)
        for name in [name for name, task in self._asking.items() if task.done()]:
            self._asking.pop(name).result()
        for name in self.targets.keys() - clusters.keys():
            del self.targets[name]
            del self.calls[name]
        self.cost_s = time.thread_time() - began
        now = dict(self.targets), dict(self.calls), dict(self.fallbacks)
        if now != self._told:
            self._told = now
            self.version = object()

    async def _ask(self, name: str, cluster: Cluster) -> None:
        if cluster.fallback and self._must_resolve(name, cluster.fallback):
            await self._resolve(name, cluster.fallback)
        try:
            self.targets[name], self.calls[name] = await self._client.targets(cluster)
            self._silent.discard(name)
        except ServeUnavailable as error:
            self.targets.pop(name, None)
            self.calls.pop(name, None)
            if name not in self._silent:
                LOG.warning("%s; keeping the replicas known", error)
            self._silent.add(name)

    def _must_resolve(self, name: str, address: str) -> bool:
        """Thousands of edges would be a burden for a name server that each asked twice a second."""
        known, at = self._resolved.get(name, ("", 0.0))
        return known != address or name in self._silent or time.monotonic() - at >= RESOLVE_S

    async def _resolve(self, name: str, address: str) -> None:
        # A server that is added at run time must have a numeric address.
        host, _, port = address.rpartition(":")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, int(port), family=socket.AF_INET)
        except (OSError, UnicodeError, OverflowError) as error:
            # Not only names that nobody knows: Python cannot encode some, such as a..b.
            LOG.info("fallback %s does not resolve: %s", address, error)
            return
        self.fallbacks[name] = f"{found[0][4][0]}:{port}"
        self._resolved[name] = (address, time.monotonic())


class ReplicaSync:
    """Applies what `replicas.plan` wants to every worker, and tells what it saw.

    Reading all servers costs as much as there are. So all are read only as often as that takes a small part of the time, and between
    two such sweeps only the slots of which something is changing: what Serve says of them, or their servers.
    """

    def __init__(self, haproxy: HaproxyClient, workers: Workers, traffic: SplitApplier, answers: ServePoller) -> None:
        self.servers: dict[str, ServerCounts] = {}
        self._haproxy = haproxy
        self._workers = workers
        self._traffic = traffic
        self._answers = answers
        self._draining_since: dict[tuple[int, str, str], float] = {}
        self._drain_limits: dict[str, float] = {}
        self._proven: dict[tuple[int, str], frozenset[str]] = {}
        self._wishes: dict[str, DesiredSlot] = {}
        self._wished_for: tuple[object, ...] = ()
        self._unsettled: set[str] = set()
        self._up: dict[str, tuple[SlotServer, ...]] = {}
        self._sweep_at = 0.0
        self._again_at = 0.0
        self._pids: list[int] = []

    @property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        """The healthy replicas of each application, by HTTP."""
        return {
            application: tuple(server.address for server in servers if not server.backup and not server.check_port)
            for application, servers in self._up.items()
        }

    @property
    def poll_delay_s(self) -> float:
        """How long to wait before Serve is asked again, in seconds: short while an application has no healthy replica.

        Drawn at random, so that many edges do not ask at the same instant, and never so short that asking takes up the agent.
        """
        eager = any(counts.up == 0 for counts in self.servers.values())
        pause = max(FAST_POLL_S if eager else POLL_S, COST_FACTOR * self._answers.cost_s)
        return pause * random.uniform(1 - POLL_JITTER, 1 + POLL_JITTER)  # noqa: S311 - no secret hangs on it

    async def tick(self) -> None:
        """One step in every worker. Raises HaproxyUnavailable."""
        now, began = time.monotonic(), time.thread_time()
        layout = self._traffic.layout
        changed = self._renew_wishes(layout)
        pids = [worker.pid for worker in self._workers.all]
        if now >= self._sweep_at or pids != self._pids:
            self._pids = pids
            self._proven = {key: names for key, names in self._proven.items() if key[0] in pids}
            await self._sweep(layout)
            self._sweep_at = now + COST_FACTOR * (time.thread_time() - began)
        elif changed or (self._unsettled and now >= self._again_at):
            for worker in self._workers.all[:1]:
                await self._look_at(worker, layout, self._unsettled | changed)
            self._note(layout, layout.leaving)
            self._again_at = now + COST_FACTOR * (time.thread_time() - began)

    async def _sweep(self, layout: Layout) -> None:
        """Look at every slot of every worker."""
        slots = {holding.slot for holding in (*layout.leaving, *layout.held)}
        occupied: set[str] = set()
        for worker in self._workers.all:
            if layout.leaving:
                load = await self._haproxy.load(worker.pid)
                occupied |= {slot.removesuffix(GRPC_SUFFIX) for slot, count in load.backends.items() if count}
            # HAProxy takes no new server in a worker that is on its way out; its servers stay as they were.
            if not worker.old:
                occupied |= await self._look_at(worker, layout, slots, whole=True)
        alone = len(self._workers.all) == 1
        self._note(layout, [holding for holding in layout.leaving if not alone or holding.slot in occupied])

    async def _look_at(
        self, worker: Worker, layout: Layout, slots: Collection[str], *, whole: bool = False
    ) -> set[str]:
        """Bring some slots of a worker one step closer to what is wished. Gives the slots that have servers."""
        if layout.grpc:
            bare = {slot.removesuffix(GRPC_SUFFIX) for slot in slots}
            slots = bare | {slot + GRPC_SUFFIX for slot in bare}
        by_slot = _by_slot(await self._haproxy.servers(worker.pid, None if whole else slots))
        known: dict[str, list[SlotServer]] = defaultdict(list)
        for server in self._traffic.layout.servers:
            known[server.slot].append(server)
        draining = [slot for slot, own in by_slot.items() if any(server.draining for server in own)]
        load = await self._haproxy.load(worker.pid, draining) if draining else _NO_LOAD
        self._unsettled -= {*slots}
        for slot in {*slots, *by_slot}:
            present = by_slot.get(slot, [])
            want = desired_servers(self._wishes[slot], present) if slot in self._wishes else {}
            # Nothing is known of a slot that was left before this agent began.
            limit_s = self._drain_limits.get(slot, max(DEFAULT_DRAIN_S, layout.drain_s))
            commands = plan_commands(slot, want, present, load.servers, self._drained_for(worker, present), limit_s)
            commands += _limits(want, present, known.get(slot, ()))
            proven = self._proven[worker.pid, slot] = find_proven(self._proven.get((worker.pid, slot), ()), present)
            if slot in self._wishes:
                commands += plan_slow_replicas(self._wishes[slot], present, proven)
            if commands or any(_is_unsettled(server) for server in present):
                self._unsettled.add(slot)
            if commands:
                await self._run(worker, commands)
        self._record(layout, by_slot, slots)
        return {slot.removesuffix(GRPC_SUFFIX) for slot, own in by_slot.items() if own}

    async def _run(self, worker: Worker, commands: Sequence[str]) -> None:
        try:
            await self._haproxy.batch(commands, worker.pid)
        except HaproxyRefused as error:
            # Such as a deletion while one connection is still closing: the next step sees the true state and tries again.
            LOG.info("%s", error)

    async def running(self) -> dict[str, dict[str, int]]:
        """Requests running, by service and application, over all workers; also of applications that have left the document."""
        layout = self._traffic.layout
        found: dict[str, dict[str, int]] = defaultdict(dict)
        loads = [await self._haproxy.load(worker.pid) for worker in self._workers.all]
        for holding in (*layout.leaving, *layout.held):
            count = sum(
                load.backends.get(slot, 0) for slot in (holding.slot, holding.slot + GRPC_SUFFIX) for load in loads
            )
            found[holding.service][holding.application] = count
        return dict(found)

    def _renew_wishes(self, layout: Layout) -> set[str]:
        """Take over what the document and Serve want by now; the slots of which that has changed."""
        in_force = self._traffic.in_force
        wished_for = (layout.held, layout.slots, layout.grpc, in_force, self._answers.version)
        if all(now is before for now, before in zip(wished_for, self._wished_for, strict=False)) and self._wished_for:
            return set()
        services = {service.name: service for service in in_force.document.services} if in_force else {}
        fallback_check_ms = CHECK_MS * max(1, layout.slots // FALLBACKS_AT_FULL_PACE)
        # Of a cluster that is silent nothing is known, but its servers are there.
        check_ms = check_interval_ms(max(self._answers.count, len(layout.servers)))
        wishes: dict[str, DesiredSlot] = {}
        for holding in layout.held:
            if holding.service in services:
                wishes[holding.slot] = self._wish(holding, services[holding.service], check_ms, fallback_check_ms)
                if layout.grpc:
                    wishes[holding.slot + GRPC_SUFFIX] = self._call_wish(holding, services[holding.service], check_ms)
        before, self._wishes, self._wished_for = self._wishes, wishes, wished_for
        # A slot that is left keeps the limit that it had.
        self._drain_limits |= {slot: drain_limit_s(wish.request_s) for slot, wish in wishes.items()}
        return {slot for slot in {*before, *wishes} if before.get(slot) != wishes.get(slot)}

    def _wish(self, holding: SlotAssignment, service: Service, check_ms: int, fallback_check_ms: int) -> DesiredSlot:
        targets = self._answers.targets.get(service.cluster)
        return DesiredSlot(
            slot=holding.slot,
            listed=None if targets is None else targets.get(holding.application, ()),
            fallback=self._answers.fallbacks.get(service.cluster, ""),
            maxconn=_limit(holding, service),
            check_ms=check_ms,
            fallback_check_ms=fallback_check_ms,
            request_s=max_request_s(service),
        )

    def _call_wish(self, holding: SlotAssignment, service: Service, check_ms: int) -> DesiredSlot:
        # Serve's own proxy is no backup here: it has another port for gRPC, which the document does not tell.
        calls = self._answers.calls.get(service.cluster)
        listed = {} if calls is None else calls.get(holding.application, {})
        return DesiredSlot(
            holding.slot + GRPC_SUFFIX,
            None if calls is None else tuple(listed),
            "",
            _limit(holding, service),
            check_ms,
            check_ports=listed,
            request_s=max_request_s(service),
        )

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

    def _record(self, layout: Layout, by_slot: Mapping[str, Sequence[ServerState]], slots: Collection[str]) -> None:
        for holding in layout.held:
            if holding.slot not in slots:
                continue
            states = by_slot.get(holding.slot, ())
            up: list[SlotServer] = []
            for slot in (holding.slot, holding.slot + GRPC_SUFFIX):
                present = by_slot.get(slot, ())
                want = desired_servers(self._wishes[slot], present) if slot in self._wishes else {}
                up += [want[server.name] for server in present if server.up and server.name in want]
            for level, told in health_changes(holding, self._up.get(holding.application, ()), up, states):
                LOG.log(level, "%s", told)
            self._up[holding.application] = tuple(up)
            replicas = [server for server in states if not server.name.startswith(FALLBACK_PREFIX)]
            leaving = sum(server.draining or server.maintenance for server in replicas)
            healthy = sum(server.up for server in replicas)
            self.servers[holding.application] = ServerCounts(healthy, len(replicas) - healthy - leaving, leaving)
        if len(self.servers) > len(layout.held):
            known = {holding.application for holding in layout.held}
            self.servers = {name: counts for name, counts in self.servers.items() if name in known}
            self._up = {name: servers for name, servers in self._up.items() if name in known}

    def _note(self, layout: Layout, leaving: Collection[SlotAssignment]) -> None:
        up = tuple(sorted(server for holding in layout.held for server in self._up.get(holding.application, ())))
        self._traffic.record_servers(up, frozenset(holding.slot for holding in leaving))


def _is_unsettled(server: ServerState) -> bool:
    return not server.name.startswith(FALLBACK_PREFIX) and (server.failing or not server.up)


def health_changes(
    holding: SlotAssignment, before: Iterable[SlotServer], now: Iterable[SlotServer], states: Iterable[ServerState]
) -> list[tuple[int, str]]:
    """Which replicas began to answer, failed or left: a level and a line for the log. Those of gRPC are the same processes.

    HAProxy writes this too, but without a time, and with the name of a slot in place of the application's.
    """
    was, has = ({server.name for server in each if not (server.check_port or server.backup)} for each in (before, now))
    leaving = {server.name for server in states if server.draining or server.maintenance}
    known = {server.name for server in states}
    of = f"of {holding.application} ({holding.slot})"
    lines = [(logging.INFO, f"replica {name} {of} answers") for name in sorted(has - was)]
    for name in sorted(was - has):
        if name in leaving or name not in known:
            lines.append((logging.INFO, f"replica {name} {of} leaves"))
        else:
            lines.append(
                (logging.WARNING, f"replica {name} {of} is down: it refuses connections or fails its health check")
            )
    return lines


def _limits(want: Mapping[str, SlotServer], present: Iterable[ServerState], known: Iterable[SlotServer]) -> list[str]:
    # HAProxy does not tell a server's limit, so it is set when the layout, which has the limits set before, differs.
    names = {server.name for server in present}
    return [
        f"set maxconn server {server.slot}/{server.name} {want[server.name].maxconn}"
        for server in known
        if server.name in names and server.name in want and server.maxconn != want[server.name].maxconn
    ]


def check_interval_ms(servers: int) -> int:
    """Milliseconds between two health checks of one of so many servers: they double as the servers do, so that few changes change them."""
    crowds = max(0, (servers - 1) // SERVERS_AT_FULL_PACE).bit_length()
    return min(MAX_CHECK_MS, CHECK_MS << crowds)


def _limit(holding: SlotAssignment, service: Service) -> int:
    """Requests that one replica gets at once: what its own revision admits, else what the service says."""
    own = (arm.maxOngoingRequests for arm in service.arms if arm.application == holding.application)
    return next(own, None) or service.maxOngoingRequests


def _by_slot(states: Iterable[ServerState]) -> dict[str, list[ServerState]]:
    grouped: dict[str, list[ServerState]] = defaultdict(list)
    for server in states:
        if server.slot.startswith("slot"):
            grouped[server.slot].append(server)
    return grouped
