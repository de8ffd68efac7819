"""RFC 9457 problem details."""

from http import HTTPStatus
from typing import Any

from sundog_runtime.errors import Problem
from sundog_runtime.protocol.plain import encode

OIP_ROOT = "/v2"
"""Everything of the Open Inference Protocol is at this path or below it."""

PROBLEM_TYPE = b"application/problem+json"


def problem_body(problem: Problem, path: str, request_id: str) -> bytes:
    """Problem details, with `code` and `requestId` as extension members.

    Where `path`, below the application's prefix, is one of the Open Inference Protocol, there is also `error`: that is
    what its clients read.
    """
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "requestId": request_id,
    }
    if path == OIP_ROOT or path.startswith(f"{OIP_ROOT}/"):
        document["error"] = problem.detail
    return encode(document)
