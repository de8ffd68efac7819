"""Receive feedback and too large bodies from HAProxy, on a Unix socket in the state directory that only HAProxy reaches."""

import asyncio
import json
from http import HTTPStatus

import orjson
from aiohttp import web

from sundog_edge.feedback import oversized_bodies
from sundog_edge.feedback.intake import RETRY_AFTER_S, FeedbackIntake, FeedbackResponse
from sundog_edge.haproxy.rules.drain import PATH as DRAIN_PATH
from sundog_edge.haproxy.rules.feedback import MAX_BYTES, PATH
from sundog_edge.headers import REQUEST_ID, RETRY_AFTER, SERVICE

_TITLES = {status: status.phrase for status in HTTPStatus} | {HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Content Too Large"}
"""HTTP's present titles, the same as in HAProxy's answers."""

BODY_TIMEOUT_S = 10.0
"""Longest wait for a body: a slow client must not block others."""


def make_feedback_app(intake: FeedbackIntake) -> web.Application:
    """Return the application: `POST /-/feedback`, and the path of bodies to discard."""

    async def feedback(request: web.Request) -> web.Response:
        body = await read_body(request, MAX_BYTES)
        if isinstance(body, FeedbackResponse):
            answer = body
        else:
            services = request.headers.getall(SERVICE, [])
            # HAProxy sets one. A second one bypassed its rules, for example as a trailer, and either may be the true one.
            answer = await intake.take(services[0], body) if len(services) == 1 else _refuse_service_headers(services)
        return make_response(answer, request.headers.get(REQUEST_ID, ""))

    app = web.Application(client_max_size=MAX_BYTES)
    app.router.add_post(PATH, feedback)
    app.router.add_route("*", DRAIN_PATH, oversized_bodies.handle_drain)
    return app


async def read_body(request: web.Request, max_bytes: int) -> bytes | FeedbackResponse:
    """Return the body of a request, or the refusal of one that is late or larger than `max_bytes`, which is at most MAX_BYTES."""
    too_large = FeedbackResponse(413, code="BodyTooLarge", detail=f"the body is larger than {max_bytes} bytes")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError:
        return FeedbackResponse(408, code="RequestTimeout", detail="the body did not arrive in time")
    except web.HTTPRequestEntityTooLarge:
        await oversized_bodies.drain_body(request.content)
        return too_large
    return body if len(body) <= max_bytes else too_large


def _refuse_service_headers(services: list[str]) -> FeedbackResponse:
    return FeedbackResponse(
        400,
        code="BadFeedback",
        detail=f"{SERVICE} is expected once, with a service, and came {len(services)} times",
    )


def make_response(answer: FeedbackResponse, request_id: str) -> web.Response:
    """Return an answer as HTTP. An answer with a code becomes a problem document."""
    if not answer.code:
        return web.Response(status=answer.status, body=orjson.dumps(answer.document), content_type="application/json")
    members = {
        "type": "about:blank",
        "title": _TITLES[HTTPStatus(answer.status)],
        "status": answer.status,
        "detail": answer.detail,
        "code": answer.code,
        "requestId": request_id,
        "error": answer.detail,
    }
    headers = {RETRY_AFTER: str(RETRY_AFTER_S)} if answer.status == 503 else {}
    # A client that still sends its body must see that the edge no longer reads.
    force_close = answer.status in {408, 413}
    response = web.Response(
        status=answer.status, text=json.dumps(members), content_type="application/problem+json", headers=headers
    )
    if force_close:
        response.force_close()
    return response
