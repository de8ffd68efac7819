"""Ray's internals: the one module that puts Sundog's HTTP protocol into a replica's server, and reads which nodes drain.

Serve has no public way to choose the protocol of a replica's HTTP server, nor to count requests that its application did
not see. This module therefore first checks that everything is as in the Serve release that it was written for. If
anything differs, Serve's own path stays, which answers every request alike but slower. Trailers are dropped on both paths.
"""

import asyncio
import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

import uvicorn
from ray._private import state, worker
from ray.serve._private.common import RequestMetadata, RequestProtocol
from ray.serve._private.http_util import RequestIdMiddleware
from ray.serve._private.tracing_utils import is_tracing_enabled
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sundog_runtime.errors import one_line
from sundog_runtime.fast_path import FastPath, TrailerDroppingProtocol, make_protocol_class
from sundog_runtime.protocol.messages import Buffer, HttpResponse
from sundog_runtime.telemetry.logs import LOGGER_NAME

AnswerAtOnce: TypeAlias = Callable[[str, Mapping[bytes, bytes], Buffer], HttpResponse | None]

_logger = logging.getLogger(LOGGER_NAME)


def install_fast_path(answer: AnswerAtOnce, paths: Iterable[str], *, is_on: bool = True) -> None:
    """Make the replica's HTTP server answer at once what `answer` can. To be called while Serve constructs the replica.

    `paths` are those below the prefix that `answer` handles. If Serve is not as expected, the log reports it once. Without `is_on`,
    the server only drops trailers.
    """
    try:
        replica = worker.global_worker.actors[worker.global_worker.actor_id]._replica_impl
        start = replica._maybe_start_direct_ingress_servers
    except Exception as error:  # noqa: BLE001 (after any error Serve's own path still works)
        _log_disabled(f"{type(error).__name__}: {error}")
        return

    async def start_with_fast_path() -> None:
        await start()
        try:
            reason = _set_protocol(replica, answer, paths, is_on=is_on)
        except Exception as error:  # noqa: BLE001 (as above)
            reason = f"{type(error).__name__}: {error}"
        if reason:
            _log_disabled(reason)
        else:
            _logger.info("fast path enabled")

    replica._maybe_start_direct_ingress_servers = start_with_fast_path


def read_draining_nodes() -> Collection[str]:
    """Return the ids of the nodes that drain. Nothing public has them."""
    draining: dict[str, int] = state.state.get_draining_nodes()
    return draining.keys()


def _log_disabled(reason: str) -> None:
    _logger.warning("fast path disabled: %s", one_line(reason))


def _set_protocol(replica: Any, answer: AnswerAtOnce, paths: Iterable[str], *, is_on: bool = True) -> str:
    """Set the server's protocol. Return the reason if the fast path stays off, otherwise "". Raises any error of Serve's internals."""
    server = replica._direct_ingress_http_server
    if server is None:
        return "the replica has no HTTP server of its own"
    if not _uses_httptools(server.config):
        return "its HTTP server does not use httptools"
    # uvicorn reads `http` until it has loaded the configuration, and `http_protocol_class` after that.
    server.config.http = server.config.http_protocol_class = TrailerDroppingProtocol
    if not is_on:
        return "it is turned off"
    if reason := _unsupported_setting(replica, server.config):
        return reason
    prefix = replica._route_prefix.rstrip("/")
    whole = {f"{prefix}{path}".encode("ascii"): path for path in paths}
    if prefix:
        whole[prefix.encode("ascii")] = "/"
    metered = _ServeAdmissionCounter(replica, asyncio.get_running_loop())
    protocol = make_protocol_class(FastPath(whole, answer, metered))
    server.config.http = server.config.http_protocol_class = protocol
    return ""


def _uses_httptools(config: uvicorn.Config) -> bool:
    return config.http == "auto" and AutoHTTPProtocol is HttpToolsProtocol


def _unsupported_setting(replica: Any, config: uvicorn.Config) -> str:
    make: Any = config.app
    outermost = make()
    reasons = {
        "its HTTP server has middlewares": type(outermost) is not RequestIdMiddleware
        or outermost._app != replica._direct_ingress_asgi,
        "its HTTP server has a root path": bool(config.root_path),
        "its HTTP server has limits": config.limit_concurrency is not None or config.limit_max_requests is not None,
        "the model's event loop is not the server's": replica._user_callable_wrapper._run_user_code_in_separate_thread,
        "requests are traced": is_tracing_enabled(),
        "requests are logged": logging.getLogger("ray.serve").isEnabledFor(logging.INFO),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


class _ServeAdmissionCounter:
    """Serve's own counts and metrics, by which it scales, limits and drains.

    The model runs without a pause between `try_admit` and `record_response`. A request that counted only that long would be invisible to
    all other code on the event loop, however busy the replica is. A request therefore counts until the loop's next turn:
    the count is the number of requests that one turn answered.
    """

    def __init__(self, replica: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._replica = replica
        self._counts = replica._metrics_manager
        self._loop = loop
        self._inside = 0
        self._app, self._deployment = replica._deployment_id.app_name, replica._deployment_id.name
        # Fail now, and not at the first request, if this Serve has other parameters.
        inspect.signature(self._counts.record_request_metrics).bind(route="", latency_ms=0.0, is_error=False)
        self._request = RequestMetadata(
            request_id="",
            internal_request_id="",
            route=replica._route_prefix,
            app_name=self._app,
            is_streaming=True,
            _request_protocol=RequestProtocol.HTTP,
            _http_method="POST",
            is_direct_ingress=True,
        )

    def try_admit(self) -> bool:
        if self._replica._semaphore.locked() or not self._replica._can_accept_request(self._request):
            return False
        self._counts.inc_num_ongoing_requests(self._request)
        return True

    def record_response(self, status: int, seconds: float) -> None:
        if not self._inside:
            self._loop.call_soon(self._release_counted)
        self._inside += 1
        route, milliseconds = self._request.route, seconds * 1000.0
        self._counts.record_request_metrics(route=route, latency_ms=milliseconds, is_error=False)
        self._counts.record_ingress_request_metrics(
            protocol=RequestProtocol.HTTP,
            method="POST",
            route=route,
            app_name=self._app,
            deployment_name=self._deployment,
            latency_ms=milliseconds,
            is_error=status >= 400,
            status_code=str(status),
        )

    def cancel_admission(self) -> None:
        self._counts.dec_num_ongoing_requests(self._request)

    def _release_counted(self) -> None:
        for _ in range(self._inside):
            self._counts.dec_num_ongoing_requests(self._request)
        self._inside = 0
