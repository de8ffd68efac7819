"""The agent: follows the split document, Serve's replicas and HAProxy's counters. No request to a model passes through it."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from sundog_edge.agent.metrics import ScaledToZero, render_metrics
from sundog_edge.agent.periodic_task import PeriodicTask
from sundog_edge.counting.collector import CounterCollector
from sundog_edge.counting.evidence import FULL_QUERY, AgentState, EvidenceQuery, build_evidence
from sundog_edge.counting.sum_retention import forget_sums
from sundog_edge.errors import DocumentError, EdgeError, HaproxyUnavailable
from sundog_edge.feedback.intake import FeedbackIntake
from sundog_edge.feedback.signing_keys import SigningKeyFile
from sundog_edge.feedback.store import OutcomeStore
from sundog_edge.haproxy.client import HaproxyClient
from sundog_edge.haproxy.workers import Workers
from sundog_edge.mirror.supervisor import MirrorSupervisor
from sundog_edge.replicas.plan import ServeClient
from sundog_edge.replicas.serve_poller import ServePoller
from sundog_edge.replicas.startup_reports import StartupReports
from sundog_edge.replicas.sync import ReplicaSync
from sundog_edge.security.secrets import Secrets
from sundog_edge.split.apply import SplitApplier
from sundog_edge.split.document import SplitDocument, parse_document
from sundog_edge.state_dir import StateDir

LOG = logging.getLogger(__name__)
CONTROL_PERIOD_S = 0.1
DRAIN_PERIOD_S = 0.05
COUNT_PERIOD_S = 1.0
FEEDBACK_PERIOD_S = 1.0
MIRROR_PERIOD_S = 0.5
STARTUP_PERIOD_S = 0.5
FORGET_PERIOD_S = 60.0
SECRETS_PERIOD_S = 1.0
RETRY_S = 1.0
"""Pause before the retry of a failed task: each try may have HAProxy check a whole configuration."""

MAX_RETRY_S = 10.0

_STALE_S = 5.0
_STUCK_S = 60.0


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """The agent's start options. `settle_s`: longest wait for the replicas before the agent is ready without them.

    Without `signing_key` or `store`, the edge takes no feedback.
    """

    state: StateDir
    split: Path
    edge: str
    namespace: str
    token_file: Path | None
    secrets: Secrets
    settle_s: float = 0.0
    signing_key: Path | None = None
    store: OutcomeStore | None = None


class Agent:
    """The agent: composes the parts and runs them until it is cancelled."""

    def __init__(self, options: AgentOptions, session: aiohttp.ClientSession) -> None:
        haproxy = HaproxyClient(options.state.master_socket)
        self._options = options
        self._workers = Workers(haproxy)
        signing = SigningKeyFile(options.signing_key)
        self._split = SplitApplier(haproxy, self._workers, options.state, options.secrets, signing)
        self._collector = CounterCollector(haproxy, self._workers, options.state)
        self._poller = ServePoller(ServeClient(session, options.token_file))
        self._replica_sync = ReplicaSync(haproxy, self._workers, self._split, self._poller)
        self.intake = FeedbackIntake(
            options.store,
            lambda: self._split.signing_keys,
            lambda: self.document,
            self._collector.drain_lines,
        )
        # This comes before the first line is counted: lines waiting in the pipe may show first exposures.
        self._watch_units()
        self._mirror_supervisor = MirrorSupervisor(haproxy, self._workers, options.state)
        self._processed_version: tuple[int, ...] = ()
        self._failed_version: tuple[int, ...] = ()
        self._failures = 0
        self._startups = StartupReports(session)
        self._retry_at = 0.0
        self._error = ""
        self._last_turn_at = 0.0
        self._haproxy_away = asyncio.Event()
        self._haproxy_away.set()
        self._settle_deadline: float | None = None
        self._settled = options.settle_s == 0
        self._replica_task = PeriodicTask(self._replica_sync.tick)
        self._tasks = (
            PeriodicTask(self._apply_newest),
            PeriodicTask(self._renew_secrets, interval_s=SECRETS_PERIOD_S, retry_s=RETRY_S),
            PeriodicTask(self._enable_grpc, retry_s=RETRY_S),
            PeriodicTask(self._check_maps, retry_s=RETRY_S),
        )

    async def run(self) -> None:
        """Run until cancelled. At the end, write snapshots of all counts."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_repeat(PeriodicTask(self._control), lambda: CONTROL_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self._collector.drain), lambda: DRAIN_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self._collector.tick), lambda: COUNT_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self.intake.tick), lambda: FEEDBACK_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self._mirror), lambda: MIRROR_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self._read_startups), lambda: STARTUP_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self._forget), lambda: FORGET_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self._poll), lambda: self._replica_sync.poll_delay_s))
        finally:
            self._collector.stop()
            await self._mirror_supervisor.stop()

    async def wait_for_haproxy_exit(self, seconds: float) -> None:
        """Return `seconds` after HAProxy has ended, so that its last requests are counted and can be read."""
        await self._haproxy_away.wait()
        await asyncio.sleep(seconds)

    @property
    def document(self) -> SplitDocument | None:
        """The document in force; None before the first."""
        return self._split.in_force.document if self._split.in_force else None

    @property
    def alive(self) -> bool:
        """Whether the loops run. If not, a restart may help. HAProxy, another process, may be away."""
        return time.monotonic() - self._last_turn_at < _STUCK_S

    @property
    def healthy(self) -> bool:
        """Whether the loops run and HAProxy answers."""
        return not self._haproxy_away.is_set() and time.monotonic() - self._last_turn_at < _STALE_S

    @property
    def ready(self) -> bool:
        """Whether a document is in force in a running HAProxy that has the replicas of all arms with traffic."""
        return self.healthy and self._split.in_force is not None and self._settled

    async def evidence(self, query: EvidenceQuery = FULL_QUERY) -> dict[str, Any]:
        """Return the requested part of the evidence document, with HAProxy's present counts.

        Without HAProxy, it has the last read ones, and no requests in flight of services: these are unknown.
        Raises OSError if the counters cannot be written.
        """
        running: dict[str, dict[str, int]] | None = None
        with contextlib.suppress(EdgeError):
            await self._collector.settle()
            # Without a listed worker nothing is read, and an old one may still run requests.
            running = await self._replica_sync.running() if self._workers.all else None
            await self._mirror_supervisor.settle()
        # Written before it is shown: so no counter of a boot goes back, whatever is killed next.
        self._collector.save()
        self._mirror_supervisor.save()
        state = AgentState(
            self._options.edge,
            self._options.namespace,
            self._error,
            self._replica_sync.servers,
            running,
            self._split.problems,
            self.intake.sections(),
            self._mirror_supervisor.rows,
            self._mirror_supervisor.ready,
            self._startups.known,
            self._split.admitting,
        )
        return build_evidence(state, self._split.in_force, self._collector.ledger, time.time(), query)

    async def metrics(self) -> bytes:
        """Return the page for Prometheus, with HAProxy's present counts."""
        with contextlib.suppress(EdgeError):
            await self._collector.settle()
        # Written before it is shown: so no counter goes back when the agent is killed.
        self._collector.save()
        self._mirror_supervisor.save()
        now, woken_at = time.time(), self._startups.cold_starts.woken_at
        return render_metrics(
            self._collector.ledger,
            self._split.in_force,
            self._replica_sync.servers,
            self._error,
            self._mirror_supervisor.by_service,
            self.intake,
            ScaledToZero(
                self._poller.applications_at_zero,
                self._startups.phases.sums,
                {application: now - woken for application, woken in woken_at.items()},
            ),
        )

    async def _forget(self) -> None:
        in_force = self._split.in_force
        if in_force is not None:
            attempts = {(service.name, service.attempt) for service in in_force.document.services}
            await self._collector.forget(attempts)
            services = forget_sums(self._collector.ledger, in_force.document, time.time())
            self._mirror_supervisor.forget(self._collector.ledger.boots, attempts, services)
            self.intake.forget_others(services)

    async def _mirror(self) -> None:
        in_force = self._split.in_force
        await self._mirror_supervisor.tick(in_force.document if in_force else None, self._replica_sync.addresses)

    async def _read_startups(self) -> None:
        in_force = self._split.in_force
        await self._startups.tick(in_force.document if in_force else None, self._replica_sync.addresses)

    async def _poll(self) -> None:
        in_force = self._split.in_force
        if in_force is not None:
            await self._poller.poll(in_force.document.clusters)

    async def _control(self) -> None:
        self._last_turn_at = time.monotonic()
        try:
            await self._workers.refresh()
        except HaproxyUnavailable:
            self._haproxy_away.set()
            raise
        if self._workers.current is None:
            self._haproxy_away.set()
        else:
            self._haproxy_away.clear()
        # Replicas first: no request may go to an ended replica, whatever else fails or takes long.
        await self._replica_task.run_if_due()
        self._startups.observe(self._poller.applications_at_zero, self._split.layout.cold_applications, time.time())
        before = self._split.in_force
        for task in self._tasks:
            await task.run_if_due()
        if self._split.in_force is not before:
            await self._replica_task.run_if_due()
        self._check_settled()

    async def _renew_secrets(self) -> None:
        await self._split.renew(time.time())

    async def _enable_grpc(self) -> None:
        # Serve's own port matters too: a call may have to start the first replica.
        if any((*self._poller.calls.values(), *self._poller.grpc_ports.values())):
            await self._split.enable_grpc(time.time())

    async def _check_maps(self) -> None:
        await self._split.check(time.time())

    def _watch_units(self, coming: SplitDocument | None = None) -> None:
        if self.intake.update_trackers(coming):
            self._collector.ledger.watch(self.intake.first_seen)

    def _check_settled(self) -> None:
        """Set `_settled` once HAProxy has a healthy replica of every arm with traffic, or when `settle_s` has passed.

        Without this, a new edge would get requests that other edges could have answered.
        """
        in_force = self._split.in_force
        if self._settled or in_force is None or self._replica_task.failing:
            return
        if self._settle_deadline is None:
            self._settle_deadline = time.monotonic() + self._options.settle_s
        with_traffic = [arm.application for service in in_force.document.services for arm in service.arms if arm.weight]
        counts, cold = self._replica_sync.servers, self._split.layout.cold_applications
        is_complete = all(name in cold or (name in counts and counts[name].up) for name in with_traffic)
        self._settled = is_complete or time.monotonic() >= self._settle_deadline

    async def _apply_newest(self) -> None:
        """Apply the newest document. Retry a failed one with growing pauses, and a changed one at once."""
        try:
            status = self._options.split.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if version == self._processed_version or (
                version == self._failed_version and time.monotonic() < self._retry_at
            ):
                return
            raw = await asyncio.to_thread(self._options.split.read_bytes)
        except FileNotFoundError:
            return
        except OSError as error:
            self._processed_version = ()
            self._error = f"split document {self._options.split} cannot be read: {error.strerror}"
            return
        try:
            document = parse_document(raw, self._options.namespace)
        except DocumentError as error:
            LOG.warning("%s", error)
            self._processed_version, self._error = version, str(error)
            return
        try:
            await self._apply(document)
        except (EdgeError, OSError) as error:
            self._error = f"generation {document.generation} cannot be applied; still retrying: {error}"
            self._schedule_retry(version, error)
            raise
        self._processed_version, self._failures, self._error = version, 0, ""

    async def _apply(self, document: SplitDocument) -> None:
        in_force = self._split.in_force
        if in_force is None or in_force.document != document:
            # The document's first requests may end before all workers have it.
            self._watch_units(document)
            await self._split.apply(document, time.time())
            LOG.info("generation %d is in force", document.generation)
        self._collector.ledger.record_revisions(document)
        self._watch_units()

    def _schedule_retry(self, version: tuple[int, ...], error: Exception) -> None:
        self._failures = self._failures + 1 if version == self._failed_version else 1
        self._failed_version = version
        # It costs nothing to check whether HAProxy is back.
        pause_s = 0.0 if isinstance(error, HaproxyUnavailable) else retry_delay_s(self._failures)
        self._retry_at = time.monotonic() + pause_s


def retry_delay_s(failures: int) -> float:
    """Return the seconds until the retry of a document, after so many failures in a row."""
    return min(RETRY_S * 2.0 ** min(failures - 1, 10), MAX_RETRY_S)


async def _repeat(task: PeriodicTask, pause_s: Callable[[], float]) -> None:
    while True:
        await task.run_if_due()
        await asyncio.sleep(pause_s())
