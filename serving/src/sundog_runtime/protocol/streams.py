"""Answers in pieces: server-sent events if the client accepts them, otherwise one JSON document per line.

The first item is computed before anything is sent, so an error up to there gets a status of its own. A later error is
sent as an event, and the connection is cut, so that a counter of answers sees a truncated one.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

import orjson

from sundog_runtime.errors import ClientGoneError, Problem
from sundog_runtime.protocol.asgi import Receive, Send
from sundog_runtime.protocol.messages import JSON_TYPE, EncodedResponse
from sundog_runtime.scheduling.model_thread import as_exception

SSE_TYPE = b"text/event-stream"
NDJSON_TYPE = b"application/x-ndjson"


class BrokenStreamError(Exception):
    """A stream failed after its first item; `problem` is the reason, which the client has received."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def wants_events(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the client accepts server-sent events."""
    return SSE_TYPE in headers.get(b"accept", b"").lower()


async def send_stream(
    answers: AsyncGenerator[EncodedResponse, None],
    events: bool,
    receive: Receive,
    send: Send,
    as_problem: Callable[[Exception], tuple[Problem, bytes]],
) -> None:
    """Send every answer as soon as it is ready. The next one is computed only after the server has taken this one.

    `as_problem` returns the problem of an exception, and its document. Raises the error of `answers` before the first
    answer, BrokenStreamError after it, and ClientGoneError when the client goes away, which also stops `answers`.
    """
    gone = asyncio.create_task(until_gone(receive))
    try:
        async with aclosing(answers):
            answer = await _next(answers, gone)
            headers = [_content_type(events), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while answer is not None:
                await send({"type": "http.response.body", "body": _event(answer.body, events), "more_body": True})
                try:
                    answer = await _next(answers, gone)
                except ClientGoneError:
                    raise
                except Exception as error:
                    problem, document = as_problem(error)
                    event = _event(document, events, b"error")
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                    raise BrokenStreamError(problem) from error
            await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()


async def collect_stream(
    answers: AsyncGenerator[EncodedResponse, None], events: bool, receive: Receive
) -> EncodedResponse:
    """Return all pieces as one answer, for clients without chunks. Raises the error of `answers`, and ClientGoneError."""
    gone = asyncio.create_task(until_gone(receive))
    pieces = list[bytes]()
    try:
        async with aclosing(answers):
            while (answer := await _next(answers, gone)) is not None:
                pieces.append(_event(answer.body, events))
    finally:
        gone.cancel()
    return EncodedResponse(b"".join(pieces), _content_type(events)[1])


def _content_type(events: bool) -> tuple[bytes, bytes]:
    return b"content-type", SSE_TYPE if events else NDJSON_TYPE


async def _next(answers: AsyncGenerator[EncodedResponse, None], gone: "asyncio.Task[None]") -> EncodedResponse | None:
    upcoming = asyncio.ensure_future(anext(answers, None))
    try:
        await asyncio.wait((upcoming, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not upcoming.done():
            upcoming.cancel()
            await asyncio.wait((upcoming,))
    if gone.done():
        if not upcoming.cancelled():
            upcoming.exception()  # retrieved, so that asyncio does not log it; the client has gone away
        raise ClientGoneError
    try:
        answer = upcoming.result()
    except asyncio.CancelledError as error:
        # This code has not cancelled it, so the model has.
        raise as_exception(error) from error
    if answer is not None and answer.content_type != JSON_TYPE:
        raise Problem(406, "NotAcceptable", "a stream's answers are JSON; do not request binary outputs")
    return answer


async def until_gone(receive: Receive) -> None:
    """Return when the client has gone away. Other messages of `receive` are dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(document: bytes, events: bool, name: bytes = b"") -> bytes:
    if events:
        return b"".join((b"event: " + name + b"\n" if name else b"", b"data: ", document, b"\n\n"))
    return (orjson.dumps({name.decode(): orjson.Fragment(document)}) if name else document) + b"\n"
