"""The command `sundog-operator`: the operator of a cluster, put together, run, and ended."""

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import click

from sundog_operator.adapters.cached.kubernetes import OPTIONAL, SCOPES, CachedKubernetes
from sundog_operator.adapters.cached.shared import SharedEdges, SharedServe
from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.edges import HttpEdges
from sundog_operator.adapters.exposure_logs import EdgeExposureLogWriter
from sundog_operator.adapters.kopf_watch import KopfWatch, WatchTarget, silence_kopf_loggers
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.metrics import OperatorMetrics
from sundog_operator.adapters.prometheus import HttpPrometheus
from sundog_operator.adapters.ray_serve import RayServe, SecretTokens
from sundog_operator.adapters.stale_watches import StaleWatchDetector
from sundog_operator.adapters.webhooks import AddressPolicy, HttpWebhooks
from sundog_operator.api.installation import Installation, parse_installation
from sundog_operator.api.resource import API_VERSION
from sundog_operator.app.controller import Controller
from sundog_operator.app.dependencies import Dependencies, EventDeduplicator, OperatorSettings
from sundog_operator.app.leadership.elector import Elector
from sundog_operator.app.leadership.fence import FencedKubernetes, FencedServe
from sundog_operator.errors import DependencyError, NotServed, SundogError
from sundog_operator.ports import LEASE, MODEL_DEPLOYMENT, SECRET, Kind, Object, Ref
from sundog_operator.shell import probes
from sundog_operator.shell.crd_skew import log_crd_skew
from sundog_operator.shell.exit_codes import ExitCode, one_line
from sundog_operator.shell.json_logs import configure_json_logs

log = logging.getLogger("sundog.operator")

LEASE_NAME: Final = "sundog-operator"
RESYNC_S: Final = 120.0
"""How often everything is listed: a watch that lost its place never tells of what was deleted meanwhile."""
OPTIONAL_KIND_CHECK_S: Final = 20.0
"""How often an optional kind that the API server does not serve is looked for."""
_RETRY_S: Final = 2.0
_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# Of a large cluster's Secrets the largest and the most numerous are none that an endpoint could name.
_SECRETS: Final = (
    "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=kubernetes.io/dockerconfigjson"
)


@dataclass(frozen=True, slots=True)
class OperatorOptions:
    """What the command line says."""

    installation: Installation
    kubeconfig: Path | None
    namespace: str
    lease: str
    identity: str
    host: str
    port: int
    resync_s: float = RESYNC_S


class ObjectWatcher:
    """Objects in memory, kept by kopf's watches and by lists now and then."""

    def __init__(self, client: KubernetesClient, options: OperatorOptions, metrics: OperatorMetrics) -> None:
        self._metrics = metrics
        self._resync_s = options.resync_s
        self._waking: set[asyncio.Task[None]] = set()
        self._absent: set[Kind] = set()
        self._closed: frozenset[str] = frozenset()
        self._operator: Controller | None = None
        self.deafness = StaleWatchDetector()
        namespaces = tuple(options.installation.watch_namespaces)
        self.kube = CachedKubernetes(client, self._changed, SystemClock(), namespaces, on_write=self._wrote)
        self._secrets = options.installation.watch_secrets
        self.kopf = KopfWatch(self.watched, self._told, client.login, namespaces, lambda: self.kube.closed)

    def watched(self) -> list[WatchTarget]:
        """What kopf is told to watch. It would warn of an optional kind that is not served."""
        watched = [WatchTarget(kind, labels) for kind, labels in SCOPES.items() if not self.kube.lacks(kind)]
        return [*watched, WatchTarget(SECRET, fields=_SECRETS)] if self._secrets else watched

    def set_controller(self, operator: Controller) -> None:
        """Whom to tell of changes from now on."""
        self._operator = operator

    async def run(self) -> None:
        """Watch and list until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resync())
            await self._look_for(OPTIONAL)
            group.create_task(self.kopf.run())
            while True:
                await asyncio.sleep(OPTIONAL_KIND_CHECK_S)
                await self._look_for(filter(self.kube.lacks, OPTIONAL))

    async def _look_for(self, kinds: Iterable[Kind]) -> None:
        for kind in kinds:
            with contextlib.suppress(DependencyError):
                await self._list(kind)

    async def list_all(self) -> None:
        """List every kind once. Raises DependencyError."""
        await asyncio.gather(*(self._list(kind) for kind in SCOPES))
        closed = self.kube.closed
        if closed - self._closed:
            told = ", ".join(sorted(closed - self._closed))
            log.warning("the operator may not look at namespace %s: is it gone? It goes on with the others", told)
        if closed != self._closed:
            self._closed = closed
            self.kopf.renew()

    async def _resync(self) -> None:
        while True:
            first = not self.kube.ready
            try:
                await self.list_all()
            except DependencyError as err:
                log.warning("objects cannot be listed: %s", one_line(err), extra={"reason": type(err).__name__})
            await asyncio.sleep(_RETRY_S if first and not self.kube.ready else self._resync_s)

    async def _list(self, kind: Kind) -> None:
        first, lacked = not self.kube.synced(kind), self.kube.lacks(kind)
        try:
            missed = await self.kube.resync(kind)
        except NotServed as err:
            if kind not in self._absent:
                level = logging.INFO if kind in OPTIONAL else logging.WARNING
                log.log(
                    level, "%s of %s are not served: is it installed? %s", kind.plural, kind.api_version, one_line(err)
                )
            self._absent.add(kind)
            return
        except DependencyError:
            self._absent.add(kind)
            raise
        if lacked or kind in self._absent:
            # kopf looks once which kinds there are: one that could not be listed is perhaps not among them.
            self._absent.discard(kind)
            self.kopf.renew()
        elif not first:
            self._metrics.missed(kind.kind, missed)
            if self.deafness.listed(kind, missed):
                log.warning("the watch of %s tells nothing of changes: the watches begin anew", kind.plural)
                self.kopf.renew()

    def _told(self, kind: Kind, change: str | None, obj: Object) -> None:
        """What a watch says."""
        if change is not None:
            self.deafness.heard(kind)
        if kind != SECRET:
            self.kube.feed(change, obj)
        elif change is not None and self._operator is not None:
            meta = obj["metadata"]
            self.kube.forget_secret(Ref(SECRET, meta["namespace"], meta["name"]))
            task = asyncio.ensure_future(self._wake_users(self._operator, meta["namespace"], meta["name"]))
            self._waking.add(task)
            task.add_done_callback(self._waking.discard)

    async def _wake_users(self, operator: Controller, namespace: str, secret: str) -> None:
        try:
            await operator.enqueue_secret_users(namespace, secret)
        except DependencyError as err:
            log.warning("users of Secret %s/%s: %s", namespace, secret, one_line(err))

    def _changed(self, obj: Object) -> None:
        if self._operator is not None:
            self._operator.wake(obj)

    def _wrote(self, obj: Object) -> None:
        if self._operator is not None:
            self._operator.handle_own_write(obj)


async def run_operator(options: OperatorOptions) -> ExitCode:
    """Run until SIGTERM or until another process leads. Raises DependencyError where there is no configuration."""
    clock, metrics = SystemClock(), OperatorMetrics(options.installation.workers, options.identity)
    async with contextlib.AsyncExitStack() as stack:
        client = await _connected(options, metrics, stack)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        lease = Ref(LEASE, options.namespace, options.lease)
        # Connections of its own, as client-go has them: no other request stands before the Lease's renewal.
        elector = Elector(
            await _connected(options, metrics, stack), lease, options.identity, clock, random.SystemRandom().random
        )
        watching = ObjectWatcher(client, options, metrics)
        # A thread that the end of the process surprises complains after what is to be its last word: why it ends.
        stack.push_async_callback(watching.kopf.ended)
        world = Dependencies(
            FencedKubernetes(watching.kube, lambda: elector.leads),
            FencedServe(SharedServe(RayServe(session, SecretTokens(client, clock)), clock), lambda: elector.leads),
            SharedEdges(HttpEdges(session), clock),
            HttpWebhooks(AddressPolicy(frozenset(options.installation.webhooks.hosts))),
            clock,
            OperatorSettings.of(options.installation, options.identity),
            EventDeduplicator(metrics.told),
            client,
            prometheus=_prometheus(session, options.installation),
            exposure_logs=EdgeExposureLogWriter(),
        )
        operator = Controller(world, observer=metrics)
        watching.set_controller(operator)
        await stack.enter_async_context(_endpoints(options, metrics, watching, operator))
        work = _work(watching, elector, operator, metrics, client)
        return await _until_asked(work, watching.run(), release=elector.release)


def _prometheus(session: aiohttp.ClientSession, installation: Installation) -> HttpPrometheus | None:
    """Where rollouts read numbers; None where the installation names no Prometheus."""
    named = installation.prometheus
    return HttpPrometheus(session, named.url, named.timeout.total_seconds()) if named.url else None


async def _connected(
    options: OperatorOptions, metrics: OperatorMetrics, stack: contextlib.AsyncExitStack
) -> KubernetesClient:
    client = await KubernetesClient.connect(options.kubeconfig)
    stack.push_async_callback(client.close)
    client.on_answer = metrics.asked
    return client


async def _work(
    watching: ObjectWatcher, elector: Elector, operator: Controller, metrics: OperatorMetrics, client: KubernetesClient
) -> None:
    """Follow, then lead. Raises LeadershipLost."""
    await elector.acquire()
    async with asyncio.TaskGroup() as group:
        group.create_task(elector.keep())
        metrics.set_leading(leads=True)
        group.create_task(log_crd_skew(client, API_VERSION))
        # What the last leader wrote must be known before anything is decided.
        while True:
            try:
                await watching.list_all()
                break
            except DependencyError as err:
                log.warning("this process leads, and waits for a first list: %s", one_line(err))
                await asyncio.sleep(_RETRY_S)
        log.info("all objects are known, work begins")
        group.create_task(operator.work())


@contextlib.asynccontextmanager
async def _endpoints(
    options: OperatorOptions, metrics: OperatorMetrics, watching: ObjectWatcher, operator: Controller
) -> AsyncIterator[None]:
    heart = LoopHeartbeat()
    metrics.measure(lambda: operator.queue.depth, lambda: [(k.kind, watching.kube.objects.count(k)) for k in SCOPES])
    metrics.describe(lambda: (entry.load() for entry in watching.kube.objects.find(MODEL_DEPLOYMENT, None, {})))
    health = {
        "loop": probes.make_heartbeat_check(lambda: heart.beat, "the event loop"),
        "watches": probes.make_heartbeat_check(lambda: watching.kopf.beat, "the watches' event loop"),
        "changes": watching.deafness.problem,
    }
    readiness = {"objects": lambda: "" if watching.kube.ready else "not every kind was listed yet"}
    async with probes.serve_probes(
        options.host, options.port, health=health, readiness=readiness, metrics=metrics.text
    ) as port:
        log.info("probes and metrics are at port %d", port)
        beating = asyncio.create_task(heart.run())
        try:
            yield
        finally:
            beating.cancel()


class LoopHeartbeat:
    """Notes that an event loop turns."""

    def __init__(self) -> None:
        self.beat = time.monotonic()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.beat = time.monotonic()
            await asyncio.sleep(1.0)


async def _until_asked(*work: Coroutine[Any, Any, None], release: Any) -> ExitCode:
    """Run all until a signal asks for the end, or one of them fails; then let another process lead."""
    asked = asyncio.Event()
    with _signals(asked):
        tasks = [asyncio.create_task(part) for part in work]
        waiter = asyncio.create_task(asked.wait())
        try:
            await asyncio.wait((waiter, *tasks), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (waiter, *tasks):
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            await release()
    for end in ends:
        if isinstance(end, Exception):
            raise _cause(end)
    log.info("ended as asked")
    return ExitCode.OK


def _cause(error: Exception) -> Exception:
    """The first error inside the groups of task groups."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


@contextlib.contextmanager
def _signals(asked: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, asked.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _own_namespace() -> str:
    """Where this pod runs; `default` outside of a cluster."""
    try:
        return os.environ.get("POD_NAMESPACE") or _SERVICE_ACCOUNT.read_text().strip()
    except OSError:
        return "default"


def _own_name() -> str:
    """A name that no other candidate has: that of the pod, else of the machine and the process."""
    return os.environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}"


@click.command("sundog-operator", context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The installation's file, YAML."
)
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Which cluster; without it the one that this pod runs in.",
)
@click.option("--namespace", help="Where the Lease is; without it the pod's own.")
@click.option(
    "--lease",
    default=LEASE_NAME,
    help="Name of the Lease. Operators that name the same one are replicas of each other.",
)
@click.option("--identity", help="Names this process in the Lease and in events; without it the pod's name.")
@click.option("--host", default="0.0.0.0", help="Where probes and metrics are answered.")  # noqa: S104 - of a pod
@click.option("--port", type=click.IntRange(0, 65535), default=8080, help="Likewise; 0 takes a free one.")
@click.option(
    "--resync-seconds",
    type=click.FloatRange(min=1),
    default=RESYNC_S,
    help="How often all objects are listed, for what a watch missed.",
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

    Of several replicas the one that holds the Lease acts; the others watch, and take over when it ends or falls silent.
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
        sys.exit(ExitCode.UNREACHABLE if isinstance(err, DependencyError) else ExitCode.REFUSED)
