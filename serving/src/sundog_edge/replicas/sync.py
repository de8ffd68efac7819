"""Keep every slot's servers in sync with the replicas that Serve lists."""

import logging
import random
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from sundog_edge.counting.evidence import ServerCounts
from sundog_edge.errors import EdgeError, HaproxyRefused
from sundog_edge.haproxy.client import HaproxyClient, RequestLoad, ServerState
from sundog_edge.haproxy.names import FALLBACK_PREFIX, GRPC_SUFFIX
from sundog_edge.haproxy.workers import Worker, Workers
from sundog_edge.replicas.plan import (
    DesiredSlot,
    desired_servers,
    drain_limit_s,
    find_proven,
    plan_commands,
    plan_slow_replicas,
)
from sundog_edge.replicas.serve_poller import ServePoller
from sundog_edge.split.apply import SplitApplier
from sundog_edge.split.document import Service
from sundog_edge.split.layout import CHECK_MS, DEFAULT_DRAIN_S, Layout, SlotAssignment, SlotServer, max_request_s

LOG = logging.getLogger(__name__)
POLL_S = 0.5
FAST_POLL_S = 0.15
POLL_JITTER = 0.2
COST_FACTOR = 50
"""Repeated work takes at most a fiftieth of the time."""

SERVERS_AT_FULL_PACE = 64
MAX_CHECK_MS = 4000
"""Longest check interval. All replicas together get some hundred checks a second, so with more replicas each gets fewer."""

FALLBACKS_AT_FULL_PACE = 64
"""Every slot checks Serve's own proxy, which is one process: with more slots, each checks less often."""

_NO_LOAD = RequestLoad({}, {})


class ReplicaSync:
    """Applies the plans of `replicas.plan` to every worker, and records the health of replicas.

    The cost of reading all servers grows with their number. So sweeps over all slots take only a small part of the time. Between two
    sweeps, only slots with changes in Serve's answer or in their servers are read.
    """

    def __init__(self, haproxy: HaproxyClient, workers: Workers, split: SplitApplier, poller: ServePoller) -> None:
        self.servers: dict[str, ServerCounts] = {}
        self._haproxy = haproxy
        self._workers = workers
        self._split = split
        self._poller = poller
        self._draining_since: dict[tuple[int, str, str], float] = {}
        self._drain_limits: dict[str, float] = {}
        self._proven: dict[tuple[int, str], frozenset[str]] = {}
        self._refusals: dict[tuple[int, str], str] = {}
        self._desired: dict[str, DesiredSlot] = {}
        self._desired_inputs: tuple[object, ...] = ()
        self._unsettled: set[str] = set()
        self._up_servers: dict[str, tuple[SlotServer, ...]] = {}
        self._next_sweep_at = 0.0
        self._next_step_at = 0.0
        self._pids: list[int] = []

    @property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        """HTTP addresses of the healthy replicas of each application."""
        return {
            application: tuple(server.address for server in servers if not server.backup and not server.check_port)
            for application, servers in self._up_servers.items()
        }

    @property
    def poll_delay_s(self) -> float:
        """Seconds until the next poll of Serve: short while an application has no healthy replica and is not scaled to zero.

        The delay is random, so that edges do not poll at the same time, and limits the agent's time for polling.
        """
        at_zero = self._poller.applications_at_zero
        is_urgent = any(counts.up == 0 and name not in at_zero for name, counts in self.servers.items())
        pause = max(FAST_POLL_S if is_urgent else POLL_S, COST_FACTOR * self._poller.cost_s)
        return pause * random.uniform(1 - POLL_JITTER, 1 + POLL_JITTER)  # noqa: S311 - no secret hangs on it

    async def tick(self) -> None:
        """Take one step in every worker. Raises EdgeError or OSError. If only the held slots cannot be set, it comes after the step."""
        now, began = time.monotonic(), time.thread_time()
        changed = self._update_desired(self._split.layout)
        # They stay for a later step if this one fails.
        self._unsettled |= changed
        # Before the last replica drains: from then on, a request may have to wait for the next one.
        error = await self._set_cold()
        layout = self._split.layout
        pids = [worker.pid for worker in self._workers.all]
        if now >= self._next_sweep_at or pids != self._pids:
            self._pids = pids
            self._proven = {key: names for key, names in self._proven.items() if key[0] in pids}
            self._refusals = {key: text for key, text in self._refusals.items() if key[0] in pids}
            await self._sweep(layout)
            self._next_sweep_at = now + COST_FACTOR * (time.thread_time() - began)
        elif changed or (self._unsettled and now >= self._next_step_at):
            for worker in self._workers.all[:1]:
                await self._sync_slots(worker, layout, self._unsettled)
            self._record_servers(layout, layout.leaving)
            self._next_step_at = now + COST_FACTOR * (time.thread_time() - began)
        if error is not None:
            raise error

    async def _set_cold(self) -> Exception | None:
        """Set the slots whose requests are held. Return the error, if any: servers must follow Serve all the same."""
        try:
            await self._split.set_cold(self._cold_slots(self._split.layout), time.time())
        except (EdgeError, OSError) as error:
            return error
        return None

    async def _sweep(self, layout: Layout) -> None:
        """Sync every slot of every worker."""
        slots = {assignment.slot for assignment in (*layout.leaving, *layout.held)}
        occupied: set[str] = set()
        for worker in self._workers.all:
            if layout.leaving:
                load = await self._haproxy.load(worker.pid)
                occupied |= {slot.removesuffix(GRPC_SUFFIX) for slot, count in load.backends.items() if count}
            # HAProxy adds no server to a replaced worker, so its servers stay unchanged.
            if not worker.old:
                occupied |= await self._sync_slots(worker, layout, slots, whole=True)
        is_only_worker = len(self._workers.all) == 1
        self._record_servers(
            layout, [assignment for assignment in layout.leaving if not is_only_worker or assignment.slot in occupied]
        )

    async def _sync_slots(
        self, worker: Worker, layout: Layout, slots: Collection[str], *, whole: bool = False
    ) -> set[str]:
        """Bring some slots of a worker one step closer to the desired state. Return the slots that have servers."""
        if layout.grpc:
            bare = {slot.removesuffix(GRPC_SUFFIX) for slot in slots}
            slots = bare | {slot + GRPC_SUFFIX for slot in bare}
        by_slot = _by_slot(await self._haproxy.servers(worker.pid, None if whole else slots))
        known: dict[str, list[SlotServer]] = defaultdict(list)
        for server in self._split.layout.servers:
            known[server.slot].append(server)
        draining = [
            slot for slot, own in by_slot.items() if slot not in self._desired or any(server.draining for server in own)
        ]
        load = await self._haproxy.load(worker.pid, draining) if draining else _NO_LOAD
        self._unsettled -= {*slots}
        for slot in {*slots, *by_slot}:
            present = by_slot.get(slot, [])
            servers = desired_servers(self._desired[slot], present) if slot in self._desired else {}
            # For slots that were leaving at this agent's start, the limit is unknown.
            limit_s = self._drain_limits.get(slot, max(DEFAULT_DRAIN_S, layout.drain_s))
            commands = plan_commands(
                slot,
                servers,
                present,
                load.servers,
                self._draining_seconds(worker, present),
                limit_s,
                cold=slot.removesuffix(GRPC_SUFFIX) in layout.cold,
                leaving_load=None if slot in self._desired else load.backends.get(slot, 0),
            )
            commands += _maxconn_commands(servers, present, known.get(slot, ()))
            proven = self._proven[worker.pid, slot] = find_proven(self._proven.get((worker.pid, slot), ()), present)
            if slot in self._desired:
                commands += plan_slow_replicas(self._desired[slot], present, proven)
            if commands or any(slot not in self._desired or _is_unsettled(server) for server in present):
                self._unsettled.add(slot)
            if commands:
                await self._run_commands(worker, slot, commands)
            else:
                self._refusals.pop((worker.pid, slot), None)
        self._record_health(layout, by_slot, slots)
        return {slot.removesuffix(GRPC_SUFFIX) for slot, own in by_slot.items() if own}

    async def _run_commands(self, worker: Worker, slot: str, commands: Sequence[str]) -> None:
        place = worker.pid, slot
        try:
            await self._haproxy.batch(commands, worker.pid)
            self._refusals.pop(place, None)
        except HaproxyRefused as error:
            # For example, a deletion while a connection is closing. The next step sees the true state and retries.
            if self._refusals.get(place) != str(error):
                LOG.info("%s", error)
            self._refusals[place] = str(error)

    async def running(self) -> dict[str, dict[str, int]]:
        """Return running requests of all workers by service and application, including applications that left the document."""
        layout = self._split.layout
        found: dict[str, dict[str, int]] = defaultdict(dict)
        loads = [await self._haproxy.load(worker.pid) for worker in self._workers.all]
        for assignment in (*layout.leaving, *layout.held):
            count = sum(
                load.backends.get(slot, 0)
                for slot in (assignment.slot, assignment.slot + GRPC_SUFFIX)
                for load in loads
            )
            found[assignment.service][assignment.application] = count
        return dict(found)

    def _update_desired(self, layout: Layout) -> set[str]:
        """Compute the desired slots from the document and Serve's answers. Return the slots that changed."""
        in_force = self._split.in_force
        inputs = (layout.held, layout.slots, layout.grpc, in_force, self._poller.version)
        if (
            all(now is before for now, before in zip(inputs, self._desired_inputs, strict=False))
            and self._desired_inputs
        ):
            return set()
        services = {service.name: service for service in in_force.document.services} if in_force else {}
        fallback_check_ms = CHECK_MS * max(1, layout.slots // FALLBACKS_AT_FULL_PACE)
        # A silent cluster has no known replicas, but its servers remain.
        check_ms = check_interval_ms(max(self._poller.count, len(layout.servers)))
        desired: dict[str, DesiredSlot] = {}
        for assignment in layout.held:
            if assignment.service in services:
                desired[assignment.slot] = self._desired_slot(
                    assignment, services[assignment.service], check_ms, fallback_check_ms
                )
                if layout.grpc:
                    desired[assignment.slot + GRPC_SUFFIX] = self._desired_grpc_slot(
                        assignment, services[assignment.service], check_ms, fallback_check_ms
                    )
        before, self._desired, self._desired_inputs = self._desired, desired, inputs
        # A leaving slot keeps its limit.
        self._drain_limits |= {slot: drain_limit_s(state.request_s) for slot, state in desired.items()}
        return {slot for slot in {*before, *desired} if before.get(slot) != desired.get(slot)}

    def _cold_slots(self, layout: Layout) -> tuple[str, ...]:
        """Return the slots whose application is scaled to zero, or was and has no healthy replica yet."""
        return tuple(
            assignment.slot
            for assignment in layout.held
            if (desired := self._desired.get(assignment.slot)) is not None
            and desired.may_be_cold
            and (desired.at_zero or (assignment.slot in layout.cold and not self.addresses.get(assignment.application)))
        )

    def _desired_slot(
        self, assignment: SlotAssignment, service: Service, check_ms: int, fallback_check_ms: int
    ) -> DesiredSlot:
        targets = self._poller.targets.get(service.cluster)
        return DesiredSlot(
            slot=assignment.slot,
            listed=None if targets is None else targets.get(assignment.application, ()),
            fallback=self._poller.fallbacks.get(service.cluster, ""),
            maxconn=_max_ongoing_requests(assignment, service),
            check_ms=check_ms,
            fallback_check_ms=fallback_check_ms,
            request_s=max_request_s(service),
            may_be_cold=service.coldStartSeconds is not None,
            at_zero=self._is_at_zero(assignment, service),
        )

    def _desired_grpc_slot(
        self, assignment: SlotAssignment, service: Service, check_ms: int, fallback_check_ms: int
    ) -> DesiredSlot:
        may_be_cold = service.coldStartSeconds is not None
        # For calls, Serve's own proxy only has to start the first replica.
        fallback, fallback_port = self._poller.grpc_fallback(service.cluster) if may_be_cold else ("", 0)
        calls = self._poller.calls.get(service.cluster)
        listed = {} if calls is None else calls.get(assignment.application, {})
        return DesiredSlot(
            assignment.slot + GRPC_SUFFIX,
            None if calls is None else tuple(listed),
            fallback,
            _max_ongoing_requests(assignment, service),
            check_ms,
            fallback_check_ms,
            check_ports={**listed, fallback: fallback_port},
            request_s=max_request_s(service),
            may_be_cold=may_be_cold,
            at_zero=self._is_at_zero(assignment, service),
        )

    def _is_at_zero(self, assignment: SlotAssignment, service: Service) -> bool:
        at_zero = self._poller.at_zero.get(service.cluster, frozenset())
        return service.coldStartSeconds is not None and assignment.application in at_zero

    def _draining_seconds(self, worker: Worker, present: Sequence[ServerState]) -> dict[tuple[str, str], float]:
        now = time.monotonic()
        ages: dict[tuple[str, str], float] = {}
        for server in present:
            key = (worker.pid, server.slot, server.name)
            if server.draining or server.slot not in self._desired:
                ages[server.slot, server.name] = now - self._draining_since.setdefault(key, now)
            else:
                self._draining_since.pop(key, None)
        return ages

    def _record_health(
        self, layout: Layout, by_slot: Mapping[str, Sequence[ServerState]], slots: Collection[str]
    ) -> None:
        for assignment in layout.held:
            if assignment.slot not in slots:
                continue
            states = by_slot.get(assignment.slot, ())
            up: list[SlotServer] = []
            wanted: set[str] = set()
            for slot in (assignment.slot, assignment.slot + GRPC_SUFFIX):
                present = by_slot.get(slot, ())
                servers = desired_servers(self._desired[slot], present) if slot in self._desired else {}
                up += [servers[server.name] for server in present if server.up and server.name in servers]
                wanted |= servers.keys()
            before = self._up_servers.get(assignment.application, ())
            for level, message in health_changes(assignment, before, up, wanted):
                LOG.log(level, "%s", message)
            self._up_servers[assignment.application] = tuple(up)
            replicas = [server for server in states if not server.name.startswith(FALLBACK_PREFIX)]
            leaving = sum(server.draining or server.maintenance for server in replicas)
            healthy = sum(server.up for server in replicas)
            self.servers[assignment.application] = ServerCounts(healthy, len(replicas) - healthy - leaving, leaving)
        if len(self.servers) > len(layout.held):
            known = {assignment.application for assignment in layout.held}
            self.servers = {name: counts for name, counts in self.servers.items() if name in known}
            self._up_servers = {name: servers for name, servers in self._up_servers.items() if name in known}

    def _record_servers(self, layout: Layout, leaving: Collection[SlotAssignment]) -> None:
        up = tuple(
            sorted(server for assignment in layout.held for server in self._up_servers.get(assignment.application, ()))
        )
        self._split.record_servers(up, frozenset(assignment.slot for assignment in leaving))


def _is_unsettled(server: ServerState) -> bool:
    return not server.name.startswith(FALLBACK_PREFIX) and (server.failing or not server.up)


def health_changes(
    assignment: SlotAssignment, before: Iterable[SlotServer], now: Iterable[SlotServer], wanted: Collection[str]
) -> list[tuple[int, str]]:
    """Return level and log line for replicas that started to answer, failed or left. gRPC servers are the same processes and are skipped.

    `wanted` are the names of all servers that stay: one that fails is down, any other one leaves as Serve has decided. HAProxy logs this
    too, but without a time, and with the slot's name in place of the application's.
    """
    was, has = ({server.name for server in each if not (server.check_port or server.backup)} for each in (before, now))
    of = f"of {assignment.application} ({assignment.slot})"
    lines = [(logging.INFO, f"replica {name} {of} answers") for name in sorted(has - was)]
    for name in sorted(was - has):
        if name in wanted:
            lines.append(
                (logging.WARNING, f"replica {name} {of} is down: it refuses connections or fails its health check")
            )
        else:
            lines.append((logging.INFO, f"replica {name} {of} leaves"))
    return lines


def _maxconn_commands(
    servers: Mapping[str, SlotServer], present: Iterable[ServerState], known: Iterable[SlotServer]
) -> list[str]:
    # HAProxy does not show a server's limit. The layout has the last set limits, so a difference means that the limit must be set.
    names = {server.name for server in present}
    return [
        f"set maxconn server {server.slot}/{server.name} {servers[server.name].maxconn}"
        for server in known
        if server.name in names and server.name in servers and server.maxconn != servers[server.name].maxconn
    ]


def check_interval_ms(servers: int) -> int:
    """Return the milliseconds between two health checks of a server. They double when the number of servers does, so they change rarely."""
    doublings = max(0, (servers - 1) // SERVERS_AT_FULL_PACE).bit_length()
    return min(MAX_CHECK_MS, CHECK_MS << doublings)


def _max_ongoing_requests(assignment: SlotAssignment, service: Service) -> int:
    """Return the largest number of concurrent requests of a replica: the limit of its revision, else that of the service."""
    of_revision = (arm.maxOngoingRequests for arm in service.arms if arm.application == assignment.application)
    return next(of_revision, None) or service.maxOngoingRequests


def _by_slot(states: Iterable[ServerState]) -> dict[str, list[ServerState]]:
    grouped: dict[str, list[ServerState]] = defaultdict(list)
    for server in states:
        if server.slot.startswith("slot"):
            grouped[server.slot].append(server)
    return grouped
