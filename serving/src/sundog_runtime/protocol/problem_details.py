"""RFC 9457 problem details of an error, the same in every protocol."""

import logging
from http import HTTPStatus
from typing import Any

from sundog_runtime.context import RequestContext
from sundog_runtime.errors import Problem, is_out_of_memory
from sundog_runtime.protocol.plain_json import encode_json
from sundog_runtime.telemetry.logs import LOGGER_NAME

PROBLEM_TYPE = b"application/problem+json"

_logger = logging.getLogger(LOGGER_NAME)


def make_problem(error: Exception, context: RequestContext) -> Problem:
    """Return the problem of an exception. Any other exception is the model's: it is logged, and clients get no details of it.

    A problem of status 500 is logged too: its cause is in the model, whose owner need not see the answers.
    """
    if isinstance(error, Problem):
        if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            named = context.request_id, error.code, error.detail
            _logger.error("request %s: %s: %s", *named, extra={"request_context": context})
        return error
    _logger.error(
        "request %s: the model raised", context.request_id, exc_info=error, extra={"request_context": context}
    )
    if is_out_of_memory(error):
        return Problem(
            500,
            "OutOfMemory",
            "the model ran out of memory on this request; send fewer or smaller inputs at once, or see the replica's log for this"
            " request id",
        )
    return Problem(500, "ModelError", "the model raised an error; see the replica's log for this request id")


_TITLES = {int(status): status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",
    422: "Unprocessable Content",
}
"""Titles as in today's HTTP, and as the edge has them. A predictor may raise a Problem of any status, even without a phrase."""


def render_problem(problem: Problem, request_id: str) -> bytes:
    """Return problem details in the edge's format, with `code`, `requestId` and, for the Open Inference Protocol, `error`."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES.get(problem.status, ""),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "requestId": request_id,
        "error": problem.detail if problem.error is None else dict(problem.error),
    }
    return encode_json(document)
