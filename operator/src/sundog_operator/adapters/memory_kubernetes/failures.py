"""Turns errors into answers of the API server: an HTTP status and a `Status` object."""

from sundog_operator.adapters.memory_kubernetes.history import Expired
from sundog_operator.adapters.memory_kubernetes.patches import BadPatch
from sundog_operator.errors import AlreadyExists, Conflict, DependencyError, Forbidden, Invalid, NotFound, NotServed
from sundog_operator.ports import Kind, Object


class BadRequest(ValueError):
    """The request is malformed, or asks for something that the server does not support."""


class UnsupportedMediaType(ValueError):
    """The server does not support the media type."""


# The first match counts, so subclasses come before their base classes.
_ANSWERS: tuple[tuple[type[Exception], int, str], ...] = (
    (NotFound, 404, "NotFound"),
    (NotServed, 404, "NotFound"),
    (Forbidden, 403, "Forbidden"),
    (AlreadyExists, 409, "AlreadyExists"),
    (Conflict, 409, "Conflict"),
    (Expired, 410, "Expired"),
    (UnsupportedMediaType, 415, "UnsupportedMediaType"),
    (Invalid, 422, "Invalid"),
    (BadPatch, 422, "Invalid"),
    (DependencyError, 503, "ServiceUnavailable"),
    (ValueError, 400, "BadRequest"),
)


def make_failure_status(error: Exception, kind: Kind, name: str) -> tuple[int, Object]:
    """Return the HTTP status and the `Status` object of an error about an object. An empty name stands for its kind."""
    code, reason = next(
        ((code, reason) for type_, code, reason in _ANSWERS if isinstance(error, type_)), (500, "InternalError")
    )
    details: Object = {"group": kind.group, "kind": kind.plural}
    if name and not isinstance(error, NotServed):
        details["name"] = name
    if isinstance(error, Invalid):
        details["causes"] = [_cause(line) for line in error.causes]
    return code, {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(error) if code != 500 else f"in sundog itself: {type(error).__name__}: {error}",
        "reason": reason,
        "details": details,
        "code": code,
    }


def _cause(line: str) -> Object:
    field, colon, message = line.partition(": ")
    return {"reason": "FieldValueInvalid", "field": field if colon else "", "message": message if colon else line}
