"""The Serve builder: `import_path: sundog_runtime.serve:build`."""

import asyncio
import gc
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import ray
from ray import serve
from ray.util.metrics import Counter, Gauge

from sundog_runtime.arguments import parse_arguments
from sundog_runtime.errors import StartError
from sundog_runtime.event_loop_watchdog import watch_event_loop
from sundog_runtime.protocol.grpc_service import GrpcHandler, GrpcMethods
from sundog_runtime.telemetry.logs import SERVE_LOGGER_NAME, disable_request_logs, install_json_formatter
from sundog_runtime.telemetry.model_output import capture_model_output
from sundog_runtime.telemetry.ray_metrics import RayMetricsExporter

MAX_START_FAILURES = 3
"""Serve gives up after so many failed starts, whatever the number of replicas: most failures are for good."""

KNOWN_RAY = "2.60"
"""The release whose private names `serve_internals` uses."""

FAST_PATH_VARIABLE, OFF = "SUNDOG_FAST_PATH", "off"
"""The environment variable of a replica, and its value, with which every request takes Serve's own way."""

_logger = logging.getLogger("ray.serve.sundog")


class _Model(GrpcMethods):
    """The one deployment of an application. It speaks Serve's language, and leaves the work to `replica.Replica`."""

    async def __init__(self, args: dict[str, Any], build: str = "") -> None:  # type: ignore[misc]  # Serve awaits constructors
        # Imported where a model runs: building an application needs no torch, and builds are done one after the other.
        from sundog_runtime.replica import Replica

        arguments = parse_arguments(args)
        install_json_formatter(arguments.service, arguments.revision, logging.getLogger(SERVE_LOGGER_NAME))
        capture_model_output()
        with _told():
            self._replica = await Replica.start(args, build)
        exporter = RayMetricsExporter(self._replica.metrics, arguments.service, arguments.revision, Counter, Gauge)
        self._watching: asyncio.Task[NoReturn] | None = None
        self._exporting = asyncio.create_task(exporter.export_forever())
        disable_request_logs(logging.getLogger(SERVE_LOGGER_NAME))
        _shorten_the_way(self._replica.app)

    def __serve_build_asgi_app__(self) -> Any:
        """The application that Serve calls; made after the constructor."""
        return self._replica.app

    def grpc_handler(self) -> GrpcHandler:
        """What answers Serve's calls of the gRPC methods."""
        return self._replica.grpc

    async def reconfigure(self, user_config: Any) -> None:
        """Serve hands over `user_config`, at the start, before the replica counts as ready, and on every change."""
        with _told():
            await self._replica.reconfigure(user_config)
        self._watch()

    async def check_health(self) -> None:
        """Serve asks before the replica is ready, then every few seconds; raising three times makes it replace it."""
        with _told():
            await self._replica.check_health()
        self._watch()

    def _watch(self) -> None:
        """Watch the event loop from when the replica has started: until then the start is what is watched."""
        if self._watching is None:
            _leave_what_stays_to_no_collection()
            self._watching = asyncio.create_task(watch_event_loop())


def _leave_what_stays_to_no_collection() -> None:
    """Have Python's garbage collector never look again at what was made for the start: modules, Serve, the model.

    There are some 400 000 objects of it, and each full collection looks at all of them, between two lines of whatever runs:
    a request waits 100 ms and more for nothing, and a quick model looks slow.
    """
    gc.collect()
    gc.freeze()


def _shorten_the_way(app: Any) -> None:
    """Have small requests answered at once, where Ray is the one whose inside we know."""
    if not ray.__version__.startswith(f"{KNOWN_RAY}."):
        _logger.warning(
            "requests take Serve's own way, which is longer: Ray is %s, known is %s", ray.__version__, KNOWN_RAY
        )
        return
    try:
        from sundog_runtime.serve_internals import install_fast_path
    except ImportError as error:
        _logger.warning("requests take Serve's own way, which is longer: %s", error)
        return
    install_fast_path(app.at_once, app.paths, is_on=os.environ.get(FAST_PATH_VARIABLE, "").lower() != OFF)


@contextmanager
def _told() -> Iterator[None]:
    """A start error is logged whole. Serve shows people the line that matters, without the way through the code."""
    try:
        yield
    except StartError as error:
        _logger.exception("the replica cannot start")
        raise error.with_traceback(None) from None


Model = serve.deployment(name="Model", max_constructor_retry_count=MAX_START_FAILURES)(serve.ingress()(_Model))


def build(args: dict[str, Any]) -> serve.Application:
    """The application for one revision. Raises LoadFailed when `args` are not the contract's.

    Serve builds it once for all of its own attempts to start it, and anew where it was taken out and put in again.
    """
    parse_arguments(args)
    return Model.bind(args, uuid.uuid4().hex)
