"""The ASGI application: methods, limits, streams and problem details. The paths are in `routes`.

Raw ASGI, because a framework's share of the time of a small model's request is larger than the model's. Who waits for
the model looks for itself whether its client is gone: Serve would start two tasks for every request to do it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from math import inf
from typing import Any

from sundog_runtime.context import RequestContext, deadline_of
from sundog_runtime.errors import ClientGoneError, Problem
from sundog_runtime.inference import Inference
from sundog_runtime.metrics import CLIENT_GONE, OK, Metrics
from sundog_runtime.protocol.oip import padding_of
from sundog_runtime.protocol.problems import PROBLEM_TYPE, problem_body, problem_of
from sundog_runtime.protocol.query import Answer, Buffer, Reply
from sundog_runtime.protocol.routes import Route, Routes
from sundog_runtime.protocol.streams import BrokenStreamError, send_stream, until_gone, wants_events

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class App:
    """Serves one model. `max_request_bytes` may be set at any time and holds for requests that begin afterwards."""

    def __init__(self, routes: Routes, inference: Inference, metrics: Metrics, max_request_bytes: int) -> None:
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
        """Those that `at_once` may have an answer for."""
        return self._routes.predicting

    def at_once(self, path: str, headers: Mapping[bytes, bytes], body: Buffer) -> Reply | None:
        """The reply to a whole POST below the prefix, where nothing has to be waited for.

        None where it must, and for whatever is not the usual: then nothing has happened, and `__call__` takes it.
        """
        begun = time.monotonic()
        if len(body) > self.max_request_bytes or b"content-encoding" in headers:
            return None
        try:
            decode = self._routes.find(path).decode
            query = self._inference.read_at_once(decode, headers, body) if decode is not None else None
        except Problem:
            return None
        if query is None:
            return None
        context = RequestContext(headers, deadline_of(headers, begun))
        end = OK
        try:
            answer = self._inference.answer_at_once(query, context)
            if answer is None:
                return None
            reply = Reply(200, ((b"content-type", answer.content_type), *answer.headers), answer.body)
        except Exception as error:  # noqa: BLE001 (the model's; `problem_of` logs it)
            problem, document = as_problem(error, path, context)
            end = problem.code
            reply = Reply(problem.status, ((b"content-type", PROBLEM_TYPE), *problem.headers), document)
        self._metrics.answered(end, time.monotonic() - begun)
        self._metrics.at_once += 1
        return reply

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.monotonic()
        headers = dict(scope["headers"])
        context = RequestContext(headers, deadline_of(headers, begun), partial(until_gone, receive))
        end: str | None = CLIENT_GONE
        try:
            end = await self._reply(scope, headers, context, receive, send)
        except ClientGoneError:
            return
        except BrokenStreamError as broken:
            # Not the whole answer was sent: when the call returns now, the server cuts the connection.
            end = broken.problem.code
        except Exception as error:  # noqa: BLE001 (the model's; `problem_of` logs it)
            problem, document = as_problem(error, _path(scope), context)
            end = problem.code
            headers_of_problem = [(b"content-type", PROBLEM_TYPE), *problem.headers]
            await _send(send, problem.status, headers_of_problem, document)
        finally:
            if end is not None:
                self._metrics.answered(end, time.monotonic() - begun)

    async def _reply(
        self, scope: Scope, headers: Mapping[bytes, bytes], context: RequestContext, receive: Receive, send: Send
    ) -> str | None:
        """How the request is counted; None for what says nothing of the model, such as a probe."""
        route = self._route(scope)
        if route.answer is not None:
            await _send_answer(send, route.answer() if callable(route.answer) else route.answer)
            return None
        assert route.decode is not None
        scheduler = self._inference.scheduler
        scheduler.expect()
        try:
            reading = read_body(headers, receive, self.max_request_bytes)
            body = await _in_time(reading, context.deadline)
            query = await self._inference.read(route.decode, headers, body)
        finally:
            scheduler.expected()
        if self._inference.streams:
            answers = self._inference.stream(query, context)
            tell = partial(as_problem, path=_path(scope), context=context)
            await send_stream(answers, wants_events(headers), receive, send, tell)
        else:
            await _send_answer(send, await self._inference.answer(query, context))
        return OK

    def _route(self, scope: Scope) -> Route:
        route = self._routes.find(_path(scope))
        if scope["method"] not in route.methods:
            allowed = ", ".join(route.methods)
            detail = f"{scope['method'][:20]} is not allowed here; allowed: {allowed}"
            raise Problem(405, "MethodNotAllowed", detail, ((b"allow", allowed.encode()),))
        return route


def _path(scope: Scope) -> str:
    """The path below the application's prefix, as `Routes.find` wants it."""
    root: str = scope.get("root_path", "")
    whole: str = scope["path"]
    return (whole.removeprefix(root).rstrip("/") if len(whole) > 1 else "") or "/"


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> Buffer:
    """The whole body, at most `limit` bytes of it in memory, and once: pieces are joined as they come.

    What comes in pieces lies so that binary tensors behind their JSON are aligned, and can be written to.

    Raises Problem 413 (by Content-Length before anything is read, or while reading), 415 for a content encoding, and
    ClientGoneError when there is nobody left to answer.
    """
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length[:20]) > limit:
        raise _too_large(limit)
    if headers.get(b"content-encoding", b"").strip().lower() not in (b"", b"identity"):
        raise Problem(415, "ContentEncoding", "a compressed body is not supported; send it as it is")
    whole, padding = bytearray(), padding_of(headers)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        if max(0, len(whole) - padding) + len(part) > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
        if not whole:
            if not more:
                return bytes(part)
            whole += bytes(padding)
        whole += part
        if not more:
            return memoryview(whole)[padding:] if padding else whole


async def _in_time(reading: Awaitable[Buffer], deadline: float) -> Buffer:
    """The body. Raises Problem 504 where the deadline passes first: whoever sends drop by drop is never silent.

    It is not 408, the client's fault: a replica that is too busy to read looks the same from here.
    """
    if deadline == inf:
        return await reading
    limit = asyncio.timeout(max(0.0, deadline - time.monotonic()))
    try:
        async with limit:
            return await reading
    except TimeoutError:
        if not limit.expired():
            raise
        # What still comes would hold the connection, and with it a place at the edge, for as long as it comes.
        close = ((b"connection", b"close"),)
        detail = "the request's time was over before its body had arrived"
        raise Problem(504, "DeadlineExceeded", detail, close) from None


def as_problem(error: Exception, path: str, context: RequestContext) -> tuple[Problem, bytes]:
    """The problem of an exception on a path, and its document."""
    problem = problem_of(error, context)
    return problem, problem_body(problem, path, context.request_id)


def _too_large(limit: int) -> Problem:
    # The connection stays open, and the server discards what still comes: closing it would make a client that is still
    # sending see a reset instead of this answer.
    return Problem(413, "BodyTooLarge", f"the body is larger than {limit} bytes")


async def _send_answer(send: Send, answer: Answer) -> None:
    await _send(send, 200, [(b"content-type", answer.content_type), *answer.headers], answer.body)


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
