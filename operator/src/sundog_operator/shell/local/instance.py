"""One instance of local mode: everything it is made of, put together, run, and ended."""

import asyncio
import contextlib
import logging
import logging.handlers
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

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
from sundog_operator.adapters.memory_kubernetes.facade import serve_http
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
from sundog_operator.shell.local.view_feed import update_view
from sundog_operator.shell.local.views import InstanceView, LoggingInstanceView

log = logging.getLogger("sundog.local")


_STORE: Final = "objects.db"
_ORIGINS: Final = "origins.json"
_LOG: Final = "sundog.log"
_LOG_BYTES: Final = 5 * 2**20
_SETTINGS: Final = OperatorSettings(identity="sundog-local", runtime_image="local", edge_image="local")
_QUERY_S: Final = 10.0
_KILL_ROUNDS: Final = 100
_KILL_PAUSE_S: Final = 0.1


class LocalController(Protocol):
    """Makes objects of the API server real on this machine."""

    async def run(self) -> None:
        """Until cancelled; what was started then still runs."""

    async def stop_all(self) -> None:
        """End all that was ever started."""


def make_controllers(kube: Kubernetes, state: Path, clock: Clock) -> Sequence[LocalController]:
    """Ray and the edge."""
    return LocalRay(kube, state, clock), LocalEdge(kube, state, clock)


def make_dependencies(
    kube: Kubernetes, session: aiohttp.ClientSession, ray_token: str, clock: Clock, *, prometheus: str = ""
) -> Dependencies:
    """Ray Serve, the edges, webhooks and, where it has a URL, Prometheus over HTTP."""
    serve, webhooks = RayServe(session, fixed_token(ray_token)), HttpWebhooks(AddressPolicy(allow_loopback=True))
    asked = HttpPrometheus(session, prometheus, _QUERY_S) if prometheus else None
    return Dependencies(
        kube,
        serve,
        HttpEdges(session),
        webhooks,
        clock,
        _SETTINGS,
        prometheus=asked,
        exposure_logs=EdgeExposureLogWriter(),
    )


@dataclass(frozen=True, slots=True)
class InstanceParts:
    """What makes an instance real; tests put in others."""

    controllers: Callable[[Kubernetes, Path, Clock], Sequence[LocalController]] = make_controllers
    world: Callable[[Kubernetes, aiohttp.ClientSession, str, Clock], Dependencies] = make_dependencies


@dataclass(slots=True)
class StopRequest:
    """What the user asked for: an orderly end, and then a fast one."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self) -> None:
        """End; asked twice, end at once."""
        (self.hurry if self.asked.is_set() else self.asked).set()


@contextlib.contextmanager
def handle_signals(stop: StopRequest) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal ask for the end."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop.ask)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def run_instance(
    path: Path,
    manifests: Path,
    stop: StopRequest,
    view: InstanceView,
    *,
    namespace: str = "default",
    parts: InstanceParts | None = None,
) -> ExitCode:
    """Run an instance until it is asked to stop, and leave no process behind.

    Raises StateDirectoryError (of which AnotherInstance) and StateRefused before anything is started.
    """
    parts, clock = parts or InstanceParts(), SystemClock()
    state, view = await asyncio.to_thread(state_dir_paths.prepare_state_dir, path), LoggingInstanceView(view)
    with state.hold():
        await _run(path, state, manifests, stop, view, namespace, parts, clock)
        await asyncio.to_thread(state_dir_paths.remove_short_link, path)
    return ExitCode.INTERRUPTED if stop.hurry.is_set() else ExitCode.OK


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
    with _logging(state), contextlib.closing(open_api_server(state.path / _STORE, clock)) as kube:
        controllers = parts.controllers(kube, state.path, clock)
        try:
            async with _reachable(kube, state, clock, namespace), aiohttp.ClientSession() as session:
                world = parts.world(kube, session, state.ray_token.read_text().strip(), clock)
                files = ManifestFiles(
                    manifests,
                    kube,
                    OriginStore(state.path / _ORIGINS),
                    clock,
                    view,
                    namespace=namespace,
                    keep=partial(_keep_problems, state.path),
                )
                work = [
                    Controller(world).run(),
                    *(each.run() for each in controllers),
                    files.run(),
                    update_view(kube, view),
                ]
                view.notice(f"serving {manifests}; state is in {path}, Ctrl-C ends it")
                await _until_asked(stop, work)
        finally:
            view.notice("stopping Ray and the edge; Ctrl-C again kills them")
            await stop_all_processes(state, controllers, stop)
        view.notice("stopped, no process is left")


def _keep_problems(state: Path, problems: Sequence[str]) -> None:
    """Keep them for other commands; an instance goes on where the disk is full."""
    try:
        state_dir_paths.write_manifest_problems(state, problems)
    except OSError as err:
        log.warning("problems of manifests cannot be kept for others: %s", one_line(err))


@contextlib.asynccontextmanager
async def _reachable(kube: MemoryKubernetes, state: StateDirectory, clock: Clock, namespace: str) -> AsyncIterator[str]:
    """Answer on loopback, for whoever can read the kubeconfig."""
    token, kubeconfig = secrets.token_urlsafe(32), state.path / state_dir_paths.KUBECONFIG_FILE
    async with serve_http(kube, clock, token=token, columns=printer_columns()) as url:
        write_kubeconfig(kubeconfig, url, token, namespace=namespace)
        try:
            yield url
        finally:
            kubeconfig.unlink(missing_ok=True)


async def _until_asked(stop: StopRequest, work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run everything until the user asks for the end. Raises what a part raised, after all others were cancelled."""
    tasks = [asyncio.create_task(part) for part in work]
    asked = asyncio.create_task(stop.asked.wait())
    try:
        await asyncio.wait((asked, *tasks), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (asked, *tasks):
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise _cause(end)


def _cause(error: Exception) -> Exception:
    """The first error inside the groups of task groups."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def stop_all_processes(state: StateDirectory, controllers: Sequence[LocalController], stop: StopRequest) -> None:
    """End every process of an instance: in order, or at once when the user is in a hurry. Raises DependencyError when one survives."""
    orderly = asyncio.create_task(_stop_orderly(controllers))
    hurry = asyncio.create_task(stop.hurry.wait())
    await asyncio.wait((orderly, hurry), return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not orderly.done():
        orderly.cancel()
    await asyncio.gather(orderly, hurry, return_exceptions=True)
    await kill_all_processes(state)


async def _stop_orderly(controllers: Sequence[LocalController]) -> None:
    for end in await asyncio.gather(*(each.stop_all() for each in controllers), return_exceptions=True):
        if isinstance(end, Exception):
            log.warning("not ended in order: %s", one_line(end))


async def kill_all_processes(state: StateDirectory) -> None:
    """SIGKILL to every process that belongs to a state directory, until none is left. Raises DependencyError when one survives."""
    table = SystemProcessTable()
    processes = Processes(state, table, SystemClock())
    for name in processes.recorded():
        await processes.clear(name)
    for _ in range(_KILL_ROUNDS):
        left = await processes.leftovers()
        if not left:
            return
        for seen in left:
            table.signal(seen, signal.SIGKILL)
        await asyncio.sleep(_KILL_PAUSE_S)
    raise DependencyError(f"processes survived SIGKILL: {', '.join(str(seen.pid) for seen in left)}")


async def stop_leftover_instance(path: Path) -> bool:
    """End what a killed instance left. False when there was nothing. Raises AnotherInstance while one runs."""
    state = await asyncio.to_thread(state_dir_paths.prepare_state_dir, path)
    with state.hold():
        processes = Processes(state, SystemProcessTable(), SystemClock())
        found = bool(processes.recorded()) or bool(await processes.leftovers())
        if found:
            clock = SystemClock()
            with contextlib.closing(open_api_server(state.path / _STORE, clock)) as kube:
                await stop_all_processes(state, make_controllers(kube, state.path, clock), StopRequest())
        (state.path / state_dir_paths.KUBECONFIG_FILE).unlink(missing_ok=True)
        await asyncio.to_thread(state_dir_paths.remove_short_link, path)
        return found


class _LogFile(logging.handlers.RotatingFileHandler):
    """A log that is lost where the disk is full, without a traceback through the table for each line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 logging's name
        """Drop the line."""


@contextlib.contextmanager
def _logging(state: StateDirectory) -> Iterator[None]:
    """Log into a file, so that nothing runs through the table."""
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
