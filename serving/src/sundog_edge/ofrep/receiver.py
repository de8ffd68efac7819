"""Receive look-ups from HAProxy, on the same Unix socket as feedback."""

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
import xxhash
from aiohttp import web

from sundog_edge.feedback.intake import RETRY_AFTER_S, FeedbackResponse
from sundog_edge.feedback.receiver import make_response, read_body
from sundog_edge.haproxy.rules.ofrep import MAX_BYTES, PATH
from sundog_edge.headers import ARM, ETAG, IF_NONE_MATCH, REQUEST_ID, RETRY_AFTER, SERVICE
from sundog_edge.ofrep.evaluation import EvaluationError, evaluate_flag, evaluate_flags
from sundog_edge.split.document import Service, SplitDocument


class _Lookup(NamedTuple):
    """The service and the body of a look-up; `chosen` is the arm by an override or a match, empty for none."""

    service: Service
    body: bytes
    chosen: str


def add_routes(app: web.Application, document: Callable[[], SplitDocument | None]) -> None:
    """Add the evaluation of one flag and of all. `document` returns the document in force."""

    async def evaluate_one(request: web.Request) -> web.Response:
        key = request.match_info["key"]
        return await respond(
            request, key, lambda lookup: evaluate_flag(lookup.service, key, lookup.body, lookup.chosen)
        )

    async def evaluate_all(request: web.Request) -> web.Response:
        return await respond(request, None, lambda lookup: evaluate_flags(*lookup))

    async def respond(
        request: web.Request, key: str | None, evaluate: Callable[[_Lookup], dict[str, Any]]
    ) -> web.Response:
        body = await read_body(request, MAX_BYTES)
        if isinstance(body, FeedbackResponse):
            return make_response(body, request.headers.get(REQUEST_ID, ""))
        try:
            answer = evaluate(_Lookup(_find_service(request, document()), body, request.headers.get(ARM, "")))
        except EvaluationError as error:
            return _render_error(error, key)
        encoded = orjson.dumps(answer)
        return _render_all(request, encoded) if key is None else _render(encoded)

    app.router.add_post(f"{PATH}/{{key}}", evaluate_one)
    app.router.add_post(PATH, evaluate_all)


def _find_service(request: web.Request, document: SplitDocument | None) -> Service:
    # HAProxy sets one name and at most one arm. Another one bypassed its rules, for example as a trailer, and either may be the true one.
    names = request.headers.getall(SERVICE, [])
    if len(names) != 1 or len(request.headers.getall(ARM, [])) > 1:
        raise EvaluationError(400, "GENERAL", f"{SERVICE} is expected once, {ARM} at most once")
    services = document.services if document else ()
    for service in services:
        if service.name == names[0]:
            return service
    raise EvaluationError(404, "FLAG_NOT_FOUND", "this edge has no such service now")


def _render_error(error: EvaluationError, key: str | None) -> web.Response:
    headers = {RETRY_AFTER: str(RETRY_AFTER_S)} if error.status == 503 else {}
    return _render(orjson.dumps(error.document(key)), error.status, headers)


def _render_all(request: web.Request, encoded: bytes) -> web.Response:
    """Return the answer to a bulk evaluation: 304 if the client has it."""
    tag = f'"{xxhash.xxh64_hexdigest(encoded)}"'
    known = [each.strip().removeprefix("W/") for each in request.headers.get(IF_NONE_MATCH, "").split(",")]
    if tag in known:
        return web.Response(status=304, headers={ETAG: tag})
    return _render(encoded, headers={ETAG: tag})


def _render(encoded: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=encoded, content_type="application/json", headers=headers)
