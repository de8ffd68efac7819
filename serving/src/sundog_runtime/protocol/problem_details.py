"""What is told of an error: RFC 9457 problem details, the same in every protocol."""

import logging
from http import HTTPStatus
from typing import Any

from sundog_runtime.context import RequestContext
from sundog_runtime.errors import Problem
from sundog_runtime.protocol.plain_json import encode_json

PROBLEM_TYPE = b"application/problem+json"

_logger = logging.getLogger("ray.serve.sundog")


def make_problem(error: Exception, context: RequestContext) -> Problem:
    """The problem of an exception. What is none is the model's: it is logged, and clients are told no more than that."""
    if isinstance(error, Problem):
        return error
    _logger.error(
        "request %s: the model raised", context.request_id, exc_info=error, extra={"request_context": context}
    )
    return Problem(500, "ModelError", "the model raised an error; its log tells more under this request id")


_TITLES = {int(status): status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",
    422: "Unprocessable Content",
}
"""As HTTP has them now, and the edge. A predictor may raise a Problem of any status, also of one that has no phrase."""


def render_problem(problem: Problem, request_id: str) -> bytes:
    """Problem details as the edge's are, with `code`, `requestId` and, for clients of the Open Inference Protocol, `error`."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES.get(problem.status, ""),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "requestId": request_id,
        "error": problem.detail,
    }
    return encode_json(document)
