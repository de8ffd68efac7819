"""The Serve builder: `import_path: sundog_runtime.serve:build`."""

import asyncio
import gc
import logging
import os
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import ray
from ray import serve
from ray.util.metrics import Counter, Gauge

from sundog_runtime.arguments import parse_arguments
from sundog_runtime.errors import StartError
from sundog_runtime.event_loop_watchdog import watch_event_loop
from sundog_runtime.placement_group import PlacementGroupCheck
from sundog_runtime.protocol.grpc_service import GrpcHandler, GrpcMethods
from sundog_runtime.telemetry.logs import LOGGER_NAME, SERVE_LOGGER_NAME, disable_request_logs, install_json_formatter
from sundog_runtime.telemetry.model_output import capture_model_output
from sundog_runtime.telemetry.ray_metrics import RayMetricsExporter

MAX_START_FAILURES = 3
"""Failed starts after which Serve gives up, for any number of replicas: most failures are permanent."""

KNOWN_RAY = "2.60"
"""The release whose private names `serve_internals` uses."""

FAST_PATH_VARIABLE, OFF = "SUNDOG_FAST_PATH", "off"
"""The environment variable of a replica that turns the fast path off, and the value for that."""

_logger = logging.getLogger(LOGGER_NAME)


class _Model(GrpcMethods):
    """The one deployment of an application. It implements Serve's interface and delegates to `replica.Replica`."""

    async def __init__(self, args: dict[str, Any], build: str = "") -> None:  # type: ignore[misc]  # Serve awaits constructors
        # Imported here, where a model runs: building an application needs no torch, and Serve builds one at a time.
        from sundog_runtime.replica import Replica

        arguments = parse_arguments(args)
        install_json_formatter(arguments.service, arguments.revision, logging.getLogger(SERVE_LOGGER_NAME))
        capture_model_output()
        self._group = _make_group_check()
        if self._group is not None:
            await self._group.start()
        with _log_start_error():
            self._replica = await Replica.start(args, build)
        exporter = RayMetricsExporter(self._replica.metrics, arguments.service, arguments.revision, Counter, Gauge)
        self._watching: asyncio.Task[NoReturn] | None = None
        self._exporting = asyncio.create_task(exporter.export_forever())
        disable_request_logs(logging.getLogger(SERVE_LOGGER_NAME))
        _install_fast_path(self._replica.app)

    def __serve_build_asgi_app__(self) -> Any:
        """Return the application that Serve calls; Serve calls this after the constructor."""
        return self._replica.app

    def grpc_handler(self) -> GrpcHandler:
        """Return the handler of the gRPC methods."""
        return self._replica.grpc

    async def reconfigure(self, user_config: Any) -> None:
        """Apply `user_config`. Serve calls this at the start, before the replica counts as ready, and on every change."""
        with _log_start_error():
            await self._replica.reconfigure(user_config)
        self._start_watchdog()

    async def check_health(self) -> None:
        """Check the replica. Serve calls this before it is ready, then every few seconds, and replaces it after three errors."""
        with _log_start_error():
            await self._replica.check_health()
        self._start_watchdog()
        if self._group is not None:
            await self._group.check()

    def _start_watchdog(self) -> None:
        """Watch the event loop once the replica has started. Until then `StartAttempts` watches the start."""
        if self._watching is None:
            _freeze_garbage_collection()
            self._watching = asyncio.create_task(watch_event_loop())


def _freeze_garbage_collection() -> None:
    """Exclude all present objects from garbage collection: modules, Serve, the model.

    These are some 400 000 objects. Each full collection would visit all of them, at any line of code: a request would wait
    100 ms and more, and a quick model would look slow.
    """
    gc.collect()
    gc.freeze()


def _make_group_check() -> PlacementGroupCheck | None:
    """Return the check of the replica's placement group; None for a replica without, which runs in one pod."""
    group = ray.util.get_current_placement_group()
    if group is None:
        return None
    node = ray.get_runtime_context().get_node_id()
    return PlacementGroupCheck(lambda: ray.util.placement_group_table(group), _read_draining_nodes, node)


def _read_draining_nodes() -> Collection[str]:
    """Return the ids of the nodes that drain; none where Ray's internals are not as known, which the fast path logs."""
    if not ray.__version__.startswith(f"{KNOWN_RAY}."):
        return ()
    try:
        from sundog_runtime.serve_internals import read_draining_nodes
    except ImportError:
        return ()
    return read_draining_nodes()


def _install_fast_path(app: Any) -> None:
    """Install the fast path if this is the Ray release whose internals are known."""
    if not ray.__version__.startswith(f"{KNOWN_RAY}."):
        _logger.warning("fast path disabled: Ray is %s; expected %s", ray.__version__, KNOWN_RAY)
        return
    try:
        from sundog_runtime.serve_internals import install_fast_path
    except ImportError as error:
        _logger.warning("fast path disabled: %s", error)
        return
    install_fast_path(app.try_answer, app.paths, is_on=os.environ.get(FAST_PATH_VARIABLE, "").lower() != OFF)


@contextmanager
def _log_start_error() -> Iterator[None]:
    """Log a start error with its traceback, and raise it without: Serve shows users the line that matters."""
    try:
        yield
    except StartError as error:
        _logger.exception("the replica cannot start")
        raise error.with_traceback(None) from None


Model = serve.deployment(name="Model", max_constructor_retry_count=MAX_START_FAILURES)(serve.ingress()(_Model))


def build(args: dict[str, Any]) -> serve.Application:
    """Return the application for one revision. Raises LoadFailed if `args` break the contract.

    Serve builds it once for all of its own attempts to start it, and again after it was removed and added.
    """
    parse_arguments(args)
    return Model.bind(args, uuid.uuid4().hex)
