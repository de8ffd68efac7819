"""Turns error answers of an API server into exceptions."""

import aiohttp
import orjson

from sundog_operator.errors import (
    AlreadyExists,
    Conflict,
    DependencyError,
    Forbidden,
    Invalid,
    NotFound,
    NotServed,
    RequestRefused,
)
from sundog_operator.ports import Object

_REFUSES_EVERY_REQUEST = frozenset({401, 408, 429, 502, 503, 504})


class ObjectNotFound(NotFound):
    """The server serves the kind, and the object does not exist."""


class HistoryExpired(DependencyError):
    """The server no longer has the changes since that resourceVersion."""


async def read_error(subject: str, response: aiohttp.ClientResponse) -> Exception:
    """Return the exception for an answer with an error status. `subject` begins its message."""
    try:
        text = await response.read()
        status = orjson.loads(text)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        status = {}
    if not isinstance(status, dict) or status.get("kind") != "Status":
        # From a proxy, or for a path that the server does not have. The object may exist.
        message = f"{subject}: the API server answered {response.status} {response.reason}"
        if response.status == 404:
            return NotServed(message)
        return RequestRefused(message) if response.status in (400, 413) else DependencyError(message)
    return make_error(subject, response.status, status)


def make_error(subject: str, code: int, status: Object) -> Exception:
    """Return the exception for an HTTP status and a `Status` object."""
    details = status.get("details") or {}
    message = f"{subject}: {status.get('message') or status.get('reason') or code}"
    if code == 404:
        return ObjectNotFound(message) if details.get("name") else NotServed(message)
    if code == 403:
        return Forbidden(f"{message} ({code})")
    if code == 409:
        return AlreadyExists(message) if status.get("reason") == "AlreadyExists" else Conflict(message)
    if code == 410:
        return HistoryExpired(message)
    if code == 422:
        causes = [f"{cause.get('field', '')}: {cause.get('message', '')}" for cause in details.get("causes") or ()]
        return Invalid(subject, causes or [str(status.get("message"))])
    # An error of etcd is 500 without a reason, and the write may have happened.
    is_unknown = code == 500 and status.get("reason") != "InternalError"
    is_refusal = code >= 400 and code not in _REFUSES_EVERY_REQUEST and not is_unknown
    return (RequestRefused if is_refusal else DependencyError)(f"{message} ({code})")
