"""Assemble, run and stop one instance of local mode."""

import asyncio
import contextlib
import logging
import logging.handlers
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import aiohttp

from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.edges import HttpEdges
from sundog_operator.adapters.exposure_logs import EdgeExposureLogWriter
from sundog_operator.adapters.local.edge import LocalEdge
from sundog_operator.adapters.local.process_table import SystemProcessTable
from sundog_operator.adapters.local.processes import Processes
from sundog_operator.adapters.local.ray_cluster import LocalRay
from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.adapters.memory_kubernetes.http_server import serve_http
from sundog_operator.adapters.memory_kubernetes.kubeconfig import write_kubeconfig
from sundog_operator.adapters.prometheus import HttpPrometheus
from sundog_operator.adapters.ray_serve import RayServe, fixed_token
from sundog_operator.adapters.webhooks import AddressPolicy, HttpWebhooks
from sundog_operator.app.controller import Controller
from sundog_operator.app.dependencies import Dependencies, OperatorSettings
from sundog_operator.errors import DependencyError
from sundog_operator.ports import Clock, Kubernetes
from sundog_operator.shell.exit_codes import ExitCode, one_line
from sundog_operator.shell.local import state_dir_paths
from sundog_operator.shell.local.api_server import open_api_server, printer_columns
from sundog_operator.shell.local.files import ManifestFiles
from sundog_operator.shell.local.manifest_origins import OriginStore
from sundog_operator.shell.local.model_files import ModelFiles
from sundog_operator.shell.local.stored_readiness import mark_unready
from sundog_operator.shell.local.view_feed import update_view
from sundog_operator.shell.local.views import InstanceView
from sundog_operator.shell.run_until_signal import run_until

log = logging.getLogger("sundog.local")


STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STORE: Final = "objects.db"
_ORIGINS: Final = "origins.json"
_LOG: Final = "sundog.log"
_LOG_BYTES: Final = 5 * 2**20
_SETTINGS: Final = OperatorSettings(identity="sundog-local", runtime_image="local", edge_image="local")
_QUERY_TIMEOUT_S: Final = 10.0
_KILL_ROUNDS: Final = 100
_KILL_PAUSE_S: Final = 0.1


class LocalController(Protocol):
    """A controller that runs processes on this machine for objects of the API server."""

    async def run(self) -> None:
        """Reconcile until cancelled. The processes still run then."""

    async def stop_all(self) -> None:
        """End all processes of this controller."""


def make_controllers(kube: Kubernetes, state: Path, clock: Clock) -> Sequence[LocalController]:
    """Return the controllers of Ray and the edge."""
    return LocalRay(kube, state, clock), LocalEdge(kube, state, clock)


def make_dependencies(
    kube: Kubernetes, session: aiohttp.ClientSession, ray_token: str, clock: Clock, *, prometheus: str = ""
) -> Dependencies:
    """Return the dependencies of the operator: Ray Serve, the edges, webhooks and, if it has a URL, Prometheus."""
    return Dependencies(
        kube,
        RayServe(session, fixed_token(ray_token)),
        HttpEdges(session),
        HttpWebhooks(AddressPolicy(allow_loopback=True)),
        clock,
        _SETTINGS,
        prometheus=HttpPrometheus(session, prometheus, _QUERY_TIMEOUT_S) if prometheus else None,
        exposure_logs=EdgeExposureLogWriter(),
    )


@dataclass(frozen=True, slots=True)
class InstanceParts:
    """Factories of an instance's parts, which tests replace. `watch_models`: a changed model file makes a revision."""

    controllers: Callable[[Kubernetes, Path, Clock], Sequence[LocalController]] = make_controllers
    dependencies: Callable[[Kubernetes, aiohttp.ClientSession, str, Clock], Dependencies] = make_dependencies
    watch_models: bool = False


@dataclass(slots=True)
class StopRequest:
    """A user's request to stop: first an orderly end, then a fast one."""

    end_requested: asyncio.Event = field(default_factory=asyncio.Event)
    kill_requested: asyncio.Event = field(default_factory=asyncio.Event)

    def request(self) -> None:
        """Request an orderly end; the second call requests a fast one."""
        (self.kill_requested if self.end_requested.is_set() else self.end_requested).set()


async def run_instance(
    path: Path,
    manifests: Path,
    stop: StopRequest,
    view: InstanceView,
    *,
    namespace: str = "default",
    parts: InstanceParts | None = None,
) -> ExitCode:
    """Run an instance until `stop` requests the end, and leave no process behind.

    Raises StateDirectoryError, AnotherInstance and StateRefused before it starts a process.
    """
    parts, clock = parts or InstanceParts(), SystemClock()
    state = await asyncio.to_thread(state_dir_paths.prepare_state_dir, path)
    with state.hold():
        await _run(path, state, manifests, stop, view, namespace, parts, clock)
        await asyncio.to_thread(state_dir_paths.remove_short_link, path)
    return ExitCode.INTERRUPTED if stop.kill_requested.is_set() else ExitCode.OK


async def _run(
    path: Path,
    state: StateDirectory,
    manifests: Path,
    stop: StopRequest,
    view: InstanceView,
    namespace: str,
    parts: InstanceParts,
    clock: Clock,
) -> None:
    with _log_to_file(state), contextlib.closing(open_api_server(state.path / _STORE, clock)) as kube:
        if kube.corrupt_file is not None:
            view.notice(
                f"{_STORE} is corrupt: moved to {kube.corrupt_file}; the manifests are applied to a new one; apply again"
                " what came from `sundog apply`"
            )
        if not await Processes(state, SystemProcessTable(), clock).leftovers():
            await mark_unready(kube, clock.now())
        controllers = parts.controllers(kube, state.path, clock)
        try:
            async with _serve_api(kube, state, clock, namespace), aiohttp.ClientSession() as session:
                dependencies = parts.dependencies(kube, session, state.ray_token.read_text().strip(), clock)
                files = ManifestFiles(
                    manifests,
                    kube,
                    OriginStore(state.path / _ORIGINS),
                    clock,
                    view,
                    namespace=namespace,
                    models=ModelFiles(watch=parts.watch_models),
                    save_problems=partial(_save_problems, state.path),
                )
                work = [
                    Controller(dependencies).run(),
                    *(each.run() for each in controllers),
                    files.run(),
                    update_view(kube, view),
                ]
                view.notice(f"serving {manifests}; state is in {path}, Ctrl-C stops it")
                await run_until(stop.end_requested, work)
        finally:
            view.notice("stopping Ray and the edge; Ctrl-C again kills them")
            await stop_all_processes(state, controllers, stop)
        view.notice("stopped, no process is left")


def _save_problems(state: Path, problems: Sequence[str]) -> None:
    """Save the problems for other commands. A full disk does not stop the instance."""
    try:
        state_dir_paths.write_manifest_problems(state, problems)
    except OSError as err:
        log.warning("problems of manifests cannot be saved: %s", one_line(err))


@contextlib.asynccontextmanager
async def _serve_api(kube: MemoryKubernetes, state: StateDirectory, clock: Clock, namespace: str) -> AsyncIterator[str]:
    """Serve the API on loopback, for users who can read the kubeconfig."""
    token, kubeconfig = secrets.token_urlsafe(32), state.path / state_dir_paths.KUBECONFIG_FILE
    async with serve_http(kube, clock, token=token, columns=printer_columns()) as url:
        write_kubeconfig(kubeconfig, url, token, namespace=namespace)
        try:
            yield url
        finally:
            kubeconfig.unlink(missing_ok=True)


async def stop_all_processes(state: StateDirectory, controllers: Sequence[LocalController], stop: StopRequest) -> None:
    """End every process of an instance in order, or at once if `stop` requests that. Raises DependencyError when one survives."""
    orderly = asyncio.create_task(_stop_orderly(controllers))
    kill = asyncio.create_task(stop.kill_requested.wait())
    await asyncio.wait((orderly, kill), return_when=asyncio.FIRST_COMPLETED)
    kill.cancel()
    if not orderly.done():
        orderly.cancel()
    await asyncio.gather(orderly, kill, return_exceptions=True)
    await kill_all_processes(state)


async def _stop_orderly(controllers: Sequence[LocalController]) -> None:
    for result in await asyncio.gather(*(each.stop_all() for each in controllers), return_exceptions=True):
        if isinstance(result, Exception):
            log.warning("orderly stop failed: %s", one_line(result))


async def kill_all_processes(state: StateDirectory) -> None:
    """Send SIGKILL to every process of a state directory until none is left. Raises DependencyError when one survives."""
    table = SystemProcessTable()
    processes = Processes(state, table, SystemClock())
    for name in processes.recorded():
        await processes.clear(name)
    for _ in range(_KILL_ROUNDS):
        leftovers = await processes.leftovers()
        if not leftovers:
            return
        for process in leftovers:
            table.signal(process, signal.SIGKILL)
        await asyncio.sleep(_KILL_PAUSE_S)
    raise DependencyError(f"processes survived SIGKILL: {', '.join(str(process.pid) for process in leftovers)}")


async def stop_leftover_instance(path: Path) -> bool:
    """End the processes of a killed instance; return whether there were any. Raises AnotherInstance while one runs."""
    state = await asyncio.to_thread(state_dir_paths.prepare_state_dir, path)
    with state.hold():
        processes = Processes(state, SystemProcessTable(), SystemClock())
        has_leftovers = bool(processes.recorded()) or bool(await processes.leftovers())
        if has_leftovers:
            clock = SystemClock()
            with contextlib.closing(open_api_server(state.path / _STORE, clock)) as kube:
                await stop_all_processes(state, make_controllers(kube, state.path, clock), StopRequest())
        (state.path / state_dir_paths.KUBECONFIG_FILE).unlink(missing_ok=True)
        await asyncio.to_thread(state_dir_paths.remove_short_link, path)
        return has_leftovers


class _LogFile(logging.handlers.RotatingFileHandler):
    """A log file that drops lines if the disk is full: logging would print a traceback into the table for each."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 logging's name
        """Drop the line."""


@contextlib.contextmanager
def _log_to_file(state: StateDirectory) -> Iterator[None]:
    """Log to a file, which keeps log lines out of the table."""
    handler = _LogFile(state.logs / _LOG, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
