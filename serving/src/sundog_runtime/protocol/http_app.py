"""The ASGI application: methods, streams and problem details. `routes` has the paths, `body` reads bodies.

It is raw ASGI, because a framework takes more time for a small model's request than the model does. A request that waits
for the model checks for a disconnect itself: Serve would start two tasks for every request to do so.
"""

import time
from collections.abc import Mapping
from functools import partial

from sundog_runtime.context import RequestContext, deadline_of, headers_of
from sundog_runtime.errors import ClientGoneError, Problem
from sundog_runtime.inference import Inference
from sundog_runtime.protocol.asgi import Receive, Scope, Send
from sundog_runtime.protocol.body import (
    RequestBody,
    content_encoding,
    decompress,
    read_body_before_deadline,
)
from sundog_runtime.protocol.messages import Buffer, DecodedRequest, Decoder, EncodedResponse, HttpResponse
from sundog_runtime.protocol.problem_details import PROBLEM_TYPE, make_problem, render_problem
from sundog_runtime.protocol.routes import Route, Routes
from sundog_runtime.protocol.streams import BrokenStreamError, collect_stream, send_stream, until_gone, wants_events
from sundog_runtime.telemetry.replica_metrics import END_CLIENT_GONE, END_OK, ReplicaMetrics


class HttpApp:
    """The HTTP API of one model. `max_request_bytes` may be set at any time and applies to requests that begin afterwards."""

    def __init__(self, routes: Routes, inference: Inference, metrics: ReplicaMetrics, max_request_bytes: int) -> None:
        self.max_request_bytes = max_request_bytes
        self._routes = routes
        self._inference = inference
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the paths that `try_answer` can answer."""
        return self._routes.prediction_paths

    def try_answer(self, path: str, headers: Mapping[bytes, bytes], body: Buffer) -> HttpResponse | None:
        """Return the reply to a whole POST below the prefix, if nothing has to be waited for.

        Return None otherwise, and for any unusual request. Then nothing has happened, and `__call__` handles the request.
        """
        started = time.monotonic()
        if len(body) > self.max_request_bytes or b"content-encoding" in headers:
            return None
        try:
            decode = self._routes.find(path).decode
            query = self._inference.try_read_at_once(decode, headers, body) if decode is not None else None
        except Problem:
            return None
        if query is None:
            return None
        context = RequestContext(headers, deadline_of(headers, started))
        end = END_OK
        try:
            answer = self._inference.answer_at_once(query, context)
            if answer is None:
                return None
            reply = HttpResponse(200, ((b"content-type", answer.content_type), *answer.headers), answer.body)
        except Exception as error:  # noqa: BLE001 (the model's; `make_problem` logs it)
            problem, document = as_problem(error, context)
            end = problem.code
            reply = HttpResponse(problem.status, ((b"content-type", PROBLEM_TYPE), *problem.headers), document)
        self._metrics.record_answer(end, time.monotonic() - started)
        self._metrics.fast_path_answers += 1
        return reply

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        headers = headers_of(scope["headers"])
        deadline = deadline_of(headers, started)
        context = RequestContext(headers, deadline, partial(until_gone, receive))
        incoming = RequestBody(headers, receive, deadline)
        end: str | None = END_CLIENT_GONE
        try:
            end = await self._reply(scope, headers, context, incoming, send)
        except ClientGoneError:
            return
        except BrokenStreamError as broken:
            # The answer is incomplete: when this call returns now, the server cuts the connection.
            end = broken.problem.code
        except Exception as error:  # noqa: BLE001 (the model's; `make_problem` logs it)
            problem, document = as_problem(error, context)
            end = problem.code
            headers_of_problem = [(b"content-type", PROBLEM_TYPE), *problem.headers]
            await _send(send, problem.status, headers_of_problem, document, more=incoming.is_blocking_connection)
        finally:
            if end is not None:
                self._metrics.record_answer(end, time.monotonic() - started)
        # If the connection were closed now, a client that still sends would see a reset instead of its answer. If it stayed open, the
        # client could hold it for good. The server closes it when this call returns without the end of the response.
        if incoming.is_blocking_connection and await incoming.discard():
            await send({"type": "http.response.body"})

    async def _reply(
        self, scope: Scope, headers: Mapping[bytes, bytes], context: RequestContext, incoming: RequestBody, send: Send
    ) -> str | None:
        """Answer the request. Return the result to count; None for requests that do not reach the model, such as a probe."""
        route = self._route(scope)
        if route.answer is not None:
            answer = route.answer() if callable(route.answer) else route.answer
            await _send_answer(send, answer, more=incoming.is_blocking_connection)
            return None
        assert route.decode is not None
        scheduler = self._inference.scheduler
        scheduler.begin_arrival()
        try:
            limit = self.max_request_bytes
            body = await read_body_before_deadline(headers, incoming, limit)
            query = await self._read(route.decode, headers, body, limit)
        finally:
            scheduler.end_arrival()
        if self._inference.is_streaming and scope.get("http_version") == "1.0":
            # HTTP/1.0 has no chunks, and the HTTP server would send some.
            answers = self._inference.stream(query, context)
            await _send_answer(send, await collect_stream(answers, wants_events(headers), incoming.receive))
        elif self._inference.is_streaming:
            answers = self._inference.stream(query, context)
            to_problem = partial(as_problem, context=context)
            await send_stream(answers, wants_events(headers), incoming.receive, send, to_problem)
        else:
            await _send_answer(send, await self._inference.answer(query, context))
        return END_OK

    async def _read(self, decode: Decoder, headers: Mapping[bytes, bytes], body: Buffer, limit: int) -> DecodedRequest:
        """Decode a body, which may be compressed."""
        if not (encoding := content_encoding(headers)):
            return await self._inference.read(decode, headers, body)

        def read(headers: Mapping[bytes, bytes], body: Buffer) -> DecodedRequest:
            return decode(headers, decompress(body, encoding, limit))

        # For any size: a few bytes may expand to very many.
        return await self._inference.read(read, headers, body, max_loop_bytes=-1)

    def _route(self, scope: Scope) -> Route:
        route = self._routes.find(_path(scope))
        if scope["method"] not in route.methods:
            allowed = ", ".join(route.methods)
            detail = f"{scope['method'][:20]} is not allowed here; allowed: {allowed}"
            raise Problem(405, "MethodNotAllowed", detail, ((b"allow", allowed.encode()),))
        return route


def _path(scope: Scope) -> str:
    """Return the path below the application's prefix, in the form that `Routes.find` needs."""
    root: str = scope.get("root_path", "")
    whole: str = scope["path"]
    return (whole.removeprefix(root).rstrip("/") if len(whole) > 1 else "") or "/"


def as_problem(error: Exception, context: RequestContext) -> tuple[Problem, bytes]:
    """Return the problem of an exception, and its document."""
    problem = make_problem(error, context)
    return problem, render_problem(problem, context.request_id)


async def _send_answer(send: Send, answer: EncodedResponse, *, more: bool = False) -> None:
    await _send(send, 200, [(b"content-type", answer.content_type), *answer.headers], answer.body, more=more)


async def _send(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, more: bool = False
) -> None:
    """Send the whole answer. With `more`, the response stays open for the server."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
