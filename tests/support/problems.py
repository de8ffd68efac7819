"""Problem details of an answer."""

from http import HTTPStatus

import httpx


def problem(answer: httpx.Response, status: int, code: str) -> str:
    """Check that problem details conform to RFC 9457, and return their detail."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (answer.status_code, document["status"], document["code"]) == (status, status, code), document
    assert document["title"] == {413: "Content Too Large"}.get(status, HTTPStatus(status).phrase)
    assert set(document) == {"type", "title", "status", "detail", "code", "requestId", "error"}
    error = document["error"]
    assert (error["message"] if isinstance(error, dict) else error) == document["detail"]
    assert document["requestId"]
    assert "Traceback" not in answer.text
    detail: str = document["detail"]
    return detail
