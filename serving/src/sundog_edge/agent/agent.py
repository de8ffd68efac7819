"""The agent: follows the split document, Serve's replicas and HAProxy's counters. It is on the path of no request to a model."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from sundog_edge.agent import metrics as agent_metrics
from sundog_edge.agent.periodic_task import PeriodicTask
from sundog_edge.counting import evidence as counting_evidence
from sundog_edge.counting.collector import CounterCollector
from sundog_edge.errors import DocumentError, EdgeError, HaproxyUnavailable
from sundog_edge.feedback.intake import FeedbackIntake
from sundog_edge.feedback.signing_keys import SigningKeyFile
from sundog_edge.feedback.store import OutcomeStore
from sundog_edge.haproxy.client import HaproxyClient
from sundog_edge.haproxy.workers import Workers
from sundog_edge.mirror.supervisor import MirrorSupervisor
from sundog_edge.replicas.plan import ServeClient
from sundog_edge.replicas.startup_reports import StartupReports
from sundog_edge.replicas.sync import ReplicaSync, ServePoller
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
"""Pause before what HAProxy refused is tried again: each try may have it check a whole configuration."""

MAX_RETRY_S = 10.0

_STALE_S = 5.0
_STUCK_S = 60.0


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How the agent was started. `settle_s` is how long it may take to find the replicas before it calls itself ready without them.

    Without `signing_key` or `store` no feedback is taken.
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
    """Composes the parts; `run` until cancelled."""

    def __init__(self, options: AgentOptions, session: aiohttp.ClientSession) -> None:
        haproxy = HaproxyClient(options.state.master_socket)
        self._options = options
        self._workers = Workers(haproxy)
        signing = SigningKeyFile(options.signing_key)
        self._traffic = SplitApplier(haproxy, self._workers, options.state, options.secrets, signing)
        self._counting = CounterCollector(haproxy, self._workers, options.state)
        self._answers = ServePoller(ServeClient(session, options.token_file))
        self._following = ReplicaSync(haproxy, self._workers, self._traffic, self._answers)
        self.intake = FeedbackIntake(
            options.store,
            lambda: self._traffic.signing_keys,
            lambda: self._traffic.in_force.document if self._traffic.in_force else None,
            self._counting.drain_lines,
        )
        # Before any line is counted: those that wait in the pipe show first exposures too.
        self._watch_units()
        self._shadowing = MirrorSupervisor(haproxy, self._workers, options.state)
        self._done: tuple[int, ...] = ()
        self._failed: tuple[int, ...] = ()
        self._failures = 0
        self._starts = StartupReports(session)
        self._again_at = 0.0
        self._error = ""
        self._alive_at = 0.0
        self._away = asyncio.Event()
        self._away.set()
        self._settle_until: float | None = None
        self._settled = options.settle_s == 0
        self._replicas = PeriodicTask(self._following.tick)
        self._steps = (
            PeriodicTask(self._follow_document),
            PeriodicTask(self._renew_secrets, every_s=SECRETS_PERIOD_S, again_s=RETRY_S),
            PeriodicTask(self._offer_grpc, again_s=RETRY_S),
            PeriodicTask(self._check_maps),
        )

    async def run(self) -> None:
        """Serve until cancelled; on the way out everything counted is written down."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_repeat(PeriodicTask(self._control), lambda: CONTROL_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self._counting.drain), lambda: DRAIN_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self._counting.tick), lambda: COUNT_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self.intake.tick), lambda: FEEDBACK_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self._mirror), lambda: MIRROR_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self._ask_starts), lambda: STARTUP_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self._forget), lambda: FORGET_PERIOD_S))
                tasks.create_task(_repeat(PeriodicTask(self._poll), lambda: self._following.poll_delay_s))
        finally:
            self._counting.stop()
            await self._shadowing.stop()

    async def wait_for_haproxy_exit(self, seconds: float) -> None:
        """Return some seconds after HAProxy has ended: what it served last is still counted, and can still be read."""
        await self._away.wait()
        await asyncio.sleep(seconds)

    @property
    def alive(self) -> bool:
        """Whether the loops turn, which a start anew could help; HAProxy is another process and may be away."""
        return time.monotonic() - self._alive_at < _STUCK_S

    @property
    def healthy(self) -> bool:
        """Whether the loops turn and HAProxy answers."""
        return not self._away.is_set() and time.monotonic() - self._alive_at < _STALE_S

    @property
    def ready(self) -> bool:
        """Whether a document is in force in a running HAProxy that has got to know the replicas of what has traffic."""
        return self.healthy and self._traffic.in_force is not None and self._settled

    async def evidence(
        self, question: counting_evidence.EvidenceQuery = counting_evidence.FULL_QUERY
    ) -> dict[str, Any]:
        """The evidence document, or what of it is asked for, with HAProxy's counts as they are now or, without HAProxy, were last read.

        Raises OSError where the counters cannot be written down.
        """
        running: dict[str, dict[str, int]] = {}
        with contextlib.suppress(EdgeError):
            await self._counting.settle()
            running = await self._following.running()
            await self._shadowing.settle()
        # What is told here is on disk first: no counter of a boot ever goes back, whatever is killed next.
        self._counting.save()
        self._shadowing.save()
        seen = counting_evidence.AgentState(
            self._options.edge,
            self._options.namespace,
            self._error,
            self._following.servers,
            running,
            self._traffic.problems,
            self.intake.sections(),
            self._shadowing.rows,
            self._shadowing.ready,
            self._starts.known,
        )
        return counting_evidence.build_evidence(
            seen, self._traffic.in_force, self._counting.ledger, time.time(), question
        )

    async def metrics(self) -> bytes:
        """The page for Prometheus, with HAProxy's counts as they are now."""
        with contextlib.suppress(EdgeError):
            await self._counting.settle()
        # A counter that has been told must not go back when the agent is killed.
        self._counting.save()
        self._shadowing.save()
        return agent_metrics.render_metrics(
            self._counting.ledger,
            self._traffic.in_force,
            self._following.servers,
            self._error,
            self._shadowing.by_service,
            self.intake,
        )

    async def _forget(self) -> None:
        in_force = self._traffic.in_force
        if in_force is not None:
            attempts = {(service.name, service.attempt) for service in in_force.document.services}
            await self._counting.forget(attempts)
            self._shadowing.forget(self._counting.ledger.boots, attempts)

    async def _mirror(self) -> None:
        in_force = self._traffic.in_force
        await self._shadowing.tick(in_force.document if in_force else None, self._following.addresses)

    async def _ask_starts(self) -> None:
        in_force = self._traffic.in_force
        await self._starts.tick(in_force.document if in_force else None, self._following.addresses)

    async def _poll(self) -> None:
        in_force = self._traffic.in_force
        if in_force is not None:
            await self._answers.poll(in_force.document.clusters)

    async def _control(self) -> None:
        self._alive_at = time.monotonic()
        try:
            await self._workers.refresh()
        except HaproxyUnavailable:
            self._away.set()
            raise
        if self._workers.current is None:
            self._away.set()
        else:
            self._away.clear()
        # Replicas first: whatever else fails, or takes long, no request is to be sent to one that is gone.
        await self._replicas.take()
        before = self._traffic.in_force
        for step in self._steps:
            await step.take()
        if self._traffic.in_force is not before:
            await self._replicas.take()
        self._settle()

    async def _renew_secrets(self) -> None:
        await self._traffic.renew(time.time())

    async def _offer_grpc(self) -> None:
        if any(self._answers.calls.values()):
            await self._traffic.enable_grpc(time.time())

    async def _check_maps(self) -> None:
        await self._traffic.check(time.time())

    def _watch_units(self, coming: SplitDocument | None = None) -> None:
        if self.intake.update_trackers(coming):
            self._counting.ledger.watch(self.intake.first_seen)

    def _settle(self) -> None:
        """Note once that HAProxy knows a healthy replica of all that has traffic, or that there was time enough to find one.

        Without this an edge that has just been started would be sent requests that the others could have answered.
        """
        in_force = self._traffic.in_force
        if self._settled or in_force is None or self._replicas.failing:
            return
        if self._settle_until is None:
            self._settle_until = time.monotonic() + self._options.settle_s
        carrying = [arm.application for service in in_force.document.services for arm in service.arms if arm.weight]
        counts = self._following.servers
        found = all(name in counts and counts[name].up for name in carrying)
        self._settled = found or time.monotonic() >= self._settle_until

    async def _follow_document(self) -> None:
        """Put the newest document in force. What fails is tried again, more rarely each time; a document that has changed, at once."""
        try:
            status = self._options.split.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if version == self._done or (version == self._failed and time.monotonic() < self._again_at):
                return
            raw = await asyncio.to_thread(self._options.split.read_bytes)
        except FileNotFoundError:
            return
        except OSError as error:
            self._done = ()
            self._error = f"split document {self._options.split} cannot be read: {error.strerror}"
            return
        try:
            document = parse_document(raw, self._options.namespace)
        except DocumentError as error:
            LOG.warning("%s", error)
            self._done, self._error = version, str(error)
            return
        try:
            await self._take(document)
        except (EdgeError, OSError) as error:
            self._error = f"generation {document.generation} cannot be applied; still retrying: {error}"
            self._postpone(version, error)
            raise
        self._done, self._failures, self._error = version, 0, ""

    async def _take(self, document: SplitDocument) -> None:
        in_force = self._traffic.in_force
        if in_force is None or in_force.document != document:
            # Its first requests may have ended before all workers have it.
            self._watch_units(document)
            await self._traffic.apply(document, time.time())
            LOG.info("generation %d is in force", document.generation)
        self._counting.ledger.record_revisions(document)
        self._watch_units()

    def _postpone(self, version: tuple[int, ...], error: Exception) -> None:
        self._failures = self._failures + 1 if version == self._failed else 1
        self._failed = version
        # Whether HAProxy is back costs nothing to find out.
        pause_s = 0.0 if isinstance(error, HaproxyUnavailable) else retry_delay_s(self._failures)
        self._again_at = time.monotonic() + pause_s


def retry_delay_s(failures: int) -> float:
    """Seconds until a document that could not be applied so many times in a row is tried again."""
    return min(RETRY_S * 2.0 ** min(failures - 1, 10), MAX_RETRY_S)


async def _repeat(step: PeriodicTask, pause_s: Callable[[], float]) -> None:
    while True:
        await step.take()
        await asyncio.sleep(pause_s())
