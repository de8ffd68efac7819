"""The one place that knows Serve from inside: where our own HTTP protocol is put into a replica's server.

Serve has no public way to choose the protocol of a replica's HTTP server, nor to count requests that its application did
not see. So this looks first whether everything is as it was in the Serve that it was written for. Where anything
is not, Serve's own way stays, which answers every request alike and only takes longer; but no trailer becomes a header there.
"""

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import uvicorn
from ray._private import worker
from ray.serve._private.common import RequestMetadata, RequestProtocol
from ray.serve._private.http_util import RequestIdMiddleware
from ray.serve._private.tracing_utils import is_tracing_enabled
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sundog_runtime.errors import one_line
from sundog_runtime.fast_path import FastPath, TrailerDroppingProtocol, make_protocol_class
from sundog_runtime.protocol.messages import Buffer, HttpResponse

AnswerAtOnce: TypeAlias = Callable[[str, Mapping[bytes, bytes], Buffer], HttpResponse | None]

_logger = logging.getLogger("ray.serve.sundog")


def install_fast_path(answer: AnswerAtOnce, paths: Iterable[str], *, is_on: bool = True) -> None:
    """Called while Serve constructs the replica: its HTTP server, when it starts, answers at once what `answer` can.

    `paths` are those below the prefix that `answer` knows. Where Serve is not as expected the log says so, once. Where it is not `is_on`,
    only trailers are kept from becoming headers.
    """
    try:
        replica = worker.global_worker.actors[worker.global_worker.actor_id]._replica_impl
        start = replica._maybe_start_direct_ingress_servers
    except Exception as error:  # noqa: BLE001 (whatever it is, Serve's own way is there)
        _tell(f"{type(error).__name__}: {error}")
        return

    async def start_with_a_short_way() -> None:
        await start()
        try:
            why_not = _put_in(replica, answer, paths, is_on=is_on)
        except Exception as error:  # noqa: BLE001 (as above)
            why_not = f"{type(error).__name__}: {error}"
        if why_not:
            _tell(why_not)
        else:
            _logger.info("small requests are answered at once")

    replica._maybe_start_direct_ingress_servers = start_with_a_short_way


def _tell(why_not: str) -> None:
    _logger.warning("requests take Serve's own way, which is longer: %s", one_line(why_not))


def _put_in(replica: Any, answer: AnswerAtOnce, paths: Iterable[str], *, is_on: bool = True) -> str:
    """Why it was not done; empty where it was. Raises whatever the internals of another Serve lead to."""
    server = replica._direct_ingress_http_server
    if server is None:
        return "the replica has no HTTP server of its own"
    if not _speaks_by_httptools(server.config):
        return "its HTTP server does not speak by httptools"
    # What it is configured with counts until it is loaded, and what it has loaded from then on.
    server.config.http = server.config.http_protocol_class = TrailerDroppingProtocol
    if not is_on:
        return "it was switched off"
    if why_not := _why_not(replica, server.config):
        return why_not
    prefix = replica._route_prefix.rstrip("/")
    whole = {f"{prefix}{path}".encode("ascii"): path for path in paths}
    if prefix:
        whole[prefix.encode("ascii")] = "/"
    metered = _Metered(replica, asyncio.get_running_loop())
    protocol = make_protocol_class(FastPath(whole, answer, metered))
    server.config.http = server.config.http_protocol_class = protocol
    return ""


def _speaks_by_httptools(config: uvicorn.Config) -> bool:
    return config.http == "auto" and AutoHTTPProtocol is HttpToolsProtocol


def _why_not(replica: Any, config: uvicorn.Config) -> str:
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


class _Metered:
    """Serve's own counts, by its own means: what it scales, limits and drains by, and its metrics.

    The model runs without a pause between `enter` and `leave`, so nobody on the event loop would ever see a request
    that is counted only that long, however busy the replica is. It counts until the loop comes round: what is seen then
    is what was worked on in one turn of the loop.
    """

    def __init__(self, replica: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._replica = replica
        self._counts = replica._metrics_manager
        self._loop = loop
        self._inside = 0
        self._app, self._deployment = replica._deployment_id.app_name, replica._deployment_id.name
        # Fails now, rather than at the first request, where Serve's parameters are others.
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

    def enter(self) -> bool:
        if self._replica._semaphore.locked() or not self._replica._can_accept_request(self._request):
            return False
        self._counts.inc_num_ongoing_requests(self._request)
        return True

    def leave(self, status: int, seconds: float) -> None:
        if not self._inside:
            self._loop.call_soon(self._come_round)
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

    def _come_round(self) -> None:
        for _ in range(self._inside):
            self._counts.dec_num_ongoing_requests(self._request)
        self._inside = 0
