"""The ASGI application: paths, methods, limits and problem details.

Raw ASGI, because a framework's share of the time of a small model's request is larger than the model's.
"""

import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from sundog_runtime.errors import Problem
from sundog_runtime.formats.model import LoadedModel
from sundog_runtime.model_thread import ModelThread
from sundog_runtime.pace import Pace
from sundog_runtime.protocol.problems import PROBLEM_TYPE, problem_body
from sundog_runtime.protocol.query import Answer
from sundog_runtime.protocol.routes import Decode, Routes
from sundog_runtime.signature import conform
from sundog_runtime.tensors import plain

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_logger = logging.getLogger("ray.serve.sundog")


class _ClientGoneError(Exception):
    """The client went away while it sent its body."""


class App:
    """Serves one model. `max_request_bytes` may be set at any time and holds for requests that begin afterwards."""

    def __init__(
        self, name: str, version: str, model: LoadedModel, thread: ModelThread, max_request_bytes: int
    ) -> None:
        self.max_request_bytes = max_request_bytes
        self._model = model
        self._thread = thread
        # A predictor's own code may depend on its thread (a database connection, asyncio.run); a module does not.
        self._pace = Pace() if model.platform == "pytorch" else None
        self._routes = Routes(name, version, model)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive)
            status, body = 200, answer.body
            headers = [(b"content-type", answer.content_type), *answer.headers]
        except Problem as problem:
            status, headers, body = _problem(problem, scope)
        except _ClientGoneError:
            return
        except Exception:
            request_id = _request_id(scope)
            _logger.exception("request %s: the model raised", request_id)
            detail = "the model raised an error; its log tells more under this request id"
            status, headers, body = _problem(Problem(500, "ModelError", detail), scope, request_id)
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        route = self._routes.find(_path(scope))
        if scope["method"] not in route.methods:
            allowed = ", ".join(route.methods)
            detail = f"{scope['method'][:20]} is not allowed here; allowed: {allowed}"
            raise Problem(405, "MethodNotAllowed", detail, ((b"allow", allowed.encode()),))
        if route.answer is not None:
            return route.answer
        assert route.decode is not None
        body = await read_body(scope, receive, self.max_request_bytes)
        return await self._infer(route.decode, dict(scope["headers"]), body)

    async def _infer(self, decode: Decode, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        def infer() -> Answer:
            query = decode(headers, body)
            return query.encode(conform(self._model.signature.outputs, plain(self._model.predict(query.batch))))

        pace = self._pace
        if pace is None:
            return await self._thread.run(infer)

        def timed() -> Answer:
            begun = time.perf_counter()
            try:
                return infer()
            except (SystemExit, KeyboardInterrupt) as error:
                raise RuntimeError(f"the model raised {type(error).__name__}") from error
            finally:
                pace.observe(time.perf_counter() - begun)

        # Never beside a call on the thread: a model is used by one at a time.
        if self._thread.idle and pace.quick(len(body)):
            return timed()
        return await self._thread.run(timed)


def _path(scope: Scope) -> str:
    """The path below the application's prefix, as `Routes.find` wants it."""
    root: str = scope.get("root_path", "")
    whole: str = scope["path"]
    return (whole.removeprefix(root).rstrip("/") if len(whole) > 1 else "") or "/"


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body, at most `limit` bytes of it in memory.

    Raises Problem 413 (by Content-Length before anything is read, or while reading), 415 for a content encoding, and
    _ClientGoneError when there is nobody left to answer.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > limit:
            raise _too_large(limit)
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise Problem(415, "ContentEncoding", "a compressed body is not supported; send it as it is")
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGoneError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(limit: int) -> Problem:
    # The connection stays open, and the server discards what still comes: closing it would make a client that is still
    # sending see a reset instead of this answer.
    return Problem(413, "BodyTooLarge", f"the body is larger than {limit} bytes")


def _problem(problem: Problem, scope: Scope, request_id: str = "") -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    body = problem_body(problem, _path(scope), request_id or _request_id(scope))
    return problem.status, [(b"content-type", PROBLEM_TYPE), *problem.headers], body


def _request_id(scope: Scope) -> str:
    """The one the client or Serve gave, where it is fit to be printed; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return uuid.uuid4().hex


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
