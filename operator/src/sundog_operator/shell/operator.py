"""The command `sundog-operator`: assemble, run and stop the operator of a cluster."""

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
import click

from sundog_operator.adapters.cached.kubernetes import SCOPES
from sundog_operator.adapters.cached.shared import SharedEdges, SharedServe
from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.edges import HttpEdges
from sundog_operator.adapters.exposure_logs import EdgeExposureLogWriter
from sundog_operator.adapters.kopf_watch import silence_kopf_loggers
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.metrics import OperatorMetrics
from sundog_operator.adapters.prometheus import HttpPrometheus
from sundog_operator.adapters.ray_serve import RayServe, SecretTokens
from sundog_operator.adapters.webhooks import AddressPolicy, HttpWebhooks
from sundog_operator.api.installation import Installation, parse_installation
from sundog_operator.api.resource import API_VERSION
from sundog_operator.app.controller import Controller
from sundog_operator.app.dependencies import Dependencies, EventDeduplicator, OperatorSettings
from sundog_operator.app.leadership.election_thread import ElectionThread
from sundog_operator.app.leadership.elector import Elector
from sundog_operator.app.leadership.fence import FencedKubernetes, FencedServe
from sundog_operator.app.plan_threads import PlanThreads
from sundog_operator.errors import DependencyError, SundogError
from sundog_operator.ports import LEASE, MODEL_DEPLOYMENT, Ref
from sundog_operator.shell import probes
from sundog_operator.shell.crd_skew import log_crd_skew
from sundog_operator.shell.exit_codes import ExitCode, one_line
from sundog_operator.shell.json_logs import configure_json_logs
from sundog_operator.shell.object_watcher import ObjectWatcher
from sundog_operator.shell.run_until_signal import handle_signals, run_until

log = logging.getLogger("sundog.operator")

LEASE_NAME: Final = "sundog-operator"
RESYNC_S: Final = 120.0
"""Seconds between two lists of all objects: a watch that restarts misses the deletions in between."""
LONGEST_BLOCK_S: Final = 30.0
"""Seconds for which the Lease is renewed although the event loop does not run."""
_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class OperatorOptions:
    """Options of the command line."""

    installation: Installation
    kubeconfig: Path | None
    namespace: str
    lease: str
    identity: str
    host: str
    port: int
    resync_s: float = RESYNC_S


async def run_operator(options: OperatorOptions) -> ExitCode:
    """Run until SIGTERM or until another process leads. Raises DependencyError if there is no cluster configuration."""
    clock, metrics = SystemClock(), OperatorMetrics(options.installation.workers, options.identity)
    async with contextlib.AsyncExitStack() as stack:
        client = await _connect(options, metrics, stack)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        heartbeat = LoopHeartbeat()
        elector = ElectionThread(partial(_elector, options, metrics, heartbeat))
        watcher = ObjectWatcher(client, options.installation, metrics, options.resync_s)
        # Else kopf's thread may log errors after the last line, which says why the process ends.
        stack.push_async_callback(watcher.kopf.wait_until_ended)
        dependencies = Dependencies(
            FencedKubernetes(watcher.kube, lambda: elector.leads),
            FencedServe(SharedServe(RayServe(session, SecretTokens(client, clock)), clock), lambda: elector.leads),
            SharedEdges(HttpEdges(session), clock),
            HttpWebhooks(AddressPolicy(frozenset(options.installation.webhooks.hosts))),
            clock,
            OperatorSettings.of(options.installation, options.identity),
            EventDeduplicator(metrics.count_event),
            client,
            prometheus=_prometheus(session, options.installation),
            exposure_logs=EdgeExposureLogWriter(),
            make_plan=PlanThreads(on_abandoned=metrics.plan_abandoned),
            find_excess=watcher.kube.find_excess,
        )
        controller = Controller(dependencies, observer=metrics)
        watcher.set_controller(controller)
        await stack.enter_async_context(_serve_endpoints(options, metrics, watcher, controller, heartbeat))
        stop = asyncio.Event()
        with handle_signals(_STOP_SIGNALS, stop.set):
            try:
                await run_until(stop, (_lead(watcher, elector, controller, metrics, client), watcher.run()))
            finally:
                await elector.release()
    log.info("stopped as requested")
    return ExitCode.OK


def _prometheus(session: aiohttp.ClientSession, installation: Installation) -> HttpPrometheus | None:
    """Return the Prometheus that rollouts query; None if the installation names none."""
    server = installation.prometheus
    return HttpPrometheus(session, server.url, server.timeout.total_seconds()) if server.url else None


async def _connect(
    options: OperatorOptions, metrics: OperatorMetrics, stack: contextlib.AsyncExitStack
) -> KubernetesClient:
    client = await KubernetesClient.connect(options.kubeconfig)
    stack.push_async_callback(client.close)
    client.on_answer = metrics.asked
    return client


@contextlib.asynccontextmanager
async def _elector(
    options: OperatorOptions, metrics: OperatorMetrics, heartbeat: "LoopHeartbeat"
) -> AsyncIterator[Elector]:
    """Make the elector, with connections of its own, in the thread that calls it."""
    async with contextlib.AsyncExitStack() as stack:
        yield Elector(
            await _connect(options, metrics, stack),
            Ref(LEASE, options.namespace, options.lease),
            options.identity,
            SystemClock(),
            random.SystemRandom().random,
            heartbeat.is_alive,
        )


async def _lead(
    watcher: ObjectWatcher,
    elector: ElectionThread,
    controller: Controller,
    metrics: OperatorMetrics,
    client: KubernetesClient,
) -> None:
    """Wait for the leadership, then reconcile. Raises LeadershipLost."""
    await elector.acquire()
    async with asyncio.TaskGroup() as group:
        group.create_task(elector.keep())
        metrics.set_leading(leads=True)
        group.create_task(log_crd_skew(client, API_VERSION))
        await watcher.list_until_complete()
        log.info("all objects are listed; reconciling")
        group.create_task(controller.work())


@contextlib.asynccontextmanager
async def _serve_endpoints(
    options: OperatorOptions,
    metrics: OperatorMetrics,
    watcher: ObjectWatcher,
    controller: Controller,
    heartbeat: "LoopHeartbeat",
) -> AsyncIterator[None]:
    metrics.measure(lambda: controller.queue.depth, lambda: [(k.kind, watcher.kube.objects.count(k)) for k in SCOPES])
    metrics.describe(lambda: (entry.load() for entry in watcher.kube.objects.find(MODEL_DEPLOYMENT, None, {})))
    health = {
        "loop": probes.make_heartbeat_check(lambda: heartbeat.last_heartbeat_s, "the event loop"),
        "watches": probes.make_heartbeat_check(lambda: watcher.kopf.last_heartbeat_s, "the watches' event loop"),
        "changes": watcher.stale_watches.problem,
    }
    readiness = {"objects": lambda: "" if watcher.kube.ready else "not every kind was listed yet"}
    async with probes.serve_probes(
        options.host, options.port, health=health, readiness=readiness, metrics=metrics.text
    ) as port:
        log.info("serving probes and metrics on port %d", port)
        beating = asyncio.create_task(heartbeat.run())
        try:
            yield
        finally:
            beating.cancel()


class LoopHeartbeat:
    """Record when the event loop last ran, by time.monotonic."""

    def __init__(self) -> None:
        self.last_heartbeat_s = time.monotonic()

    def is_alive(self) -> bool:
        """Return whether the loop has run lately. One that is blocked for longer gives the Lease to another process."""
        return time.monotonic() - self.last_heartbeat_s < LONGEST_BLOCK_S

    async def run(self) -> None:
        """Record until cancelled."""
        while True:
            self.last_heartbeat_s = time.monotonic()
            await asyncio.sleep(1.0)


def _own_namespace() -> str:
    """Return the namespace of this pod; `default` outside of a cluster."""
    try:
        return os.environ.get("POD_NAMESPACE") or _SERVICE_ACCOUNT.read_text().strip()
    except OSError:
        return "default"


def _own_name() -> str:
    """Return a unique name of this process: the pod's name, else host and process id."""
    return os.environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}"


@click.command("sundog-operator", context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The YAML file of the installation."
)
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The cluster. Default: the one that this pod runs in.",
)
@click.option("--namespace", help="Namespace of the Lease. Default: this pod's namespace.")
@click.option(
    "--lease",
    default=LEASE_NAME,
    help="Name of the Lease. Operators with the same Lease are replicas of each other.",
)
@click.option("--identity", help="Name of this process in the Lease and in events. Default: the pod's name.")
@click.option("--host", default="0.0.0.0", help="Address of probes and metrics.")  # noqa: S104 - of a pod
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, help="Port of probes and metrics; 0 takes a free one."
)
@click.option(
    "--resync-seconds",
    type=click.FloatRange(min=1),
    default=RESYNC_S,
    help="Seconds between two lists of all objects, which find changes that a watch missed.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.version_option(package_name="sundog", prog_name="sundog-operator")
def main(
    config: Path | None,
    kubeconfig: Path | None,
    namespace: str | None,
    lease: str,
    identity: str | None,
    host: str,
    port: int,
    resync_seconds: float,
    log_level: str,
) -> None:
    """Reconcile the ModelDeployments of a cluster.

    The replica that holds the Lease acts. The others watch, and one takes over when the leader ends or stops renewing the Lease.
    """
    configure_json_logs(log_level)
    silence_kopf_loggers()
    try:
        options = OperatorOptions(
            installation=parse_installation(config.read_text() if config else "", str(config or "defaults")),
            kubeconfig=kubeconfig,
            namespace=namespace or _own_namespace(),
            lease=lease,
            identity=identity or _own_name(),
            host=host,
            port=port,
            resync_s=resync_seconds,
        )
        sys.exit(asyncio.run(run_operator(options)))
    except SundogError as err:
        log.error("%s", one_line(err), extra={"reason": type(err).__name__})  # noqa: TRY400 - one line, no traceback
        # The last line says why the process ends. Connections and tasks that end with the interpreter may log more.
        logging.disable()
        sys.exit(ExitCode.UNREACHABLE if isinstance(err, DependencyError) else ExitCode.REFUSED)
