"""Evaluate flags: which arm of a service a unit is assigned to. Pure.

A flag is a service or the Experiment that its split belongs to; its variants are the arms. Shapes, error codes and reasons are those of
OFREP, https://github.com/open-feature/protocol.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from sundog_edge.split.assignment import arm_of_bucket, unit_bucket
from sundog_edge.split.document import Arm, Service, Unit

STABLE_ARM: Final = "stable"
CONTROL_ARM: Final = "control"
"""In a split with this arm, stable has the units outside the exposure."""

ErrorCode = Literal["FLAG_NOT_FOUND", "GENERAL", "INVALID_CONTEXT", "PARSE_ERROR", "TARGETING_KEY_MISSING"]
_Reason = Literal["DEFAULT", "SPLIT", "STATIC", "TARGETING_MATCH"]

_UNIT_TEXT: Final = {
    "header": "the value of the header {}",
    "cookie": "the value of the cookie {}",
    "jsonPath": "the value at {} of the body",
    "jwtClaim": "the value of the claim {} of the token",
}
_JSON_TYPES: Final = {bool: "a boolean", dict: "an object", float: "a number", int: "a number", list: "a list"}


class EvaluationError(Exception):
    """A flag cannot be evaluated. `status` is that of HTTP."""

    def __init__(self, status: int, code: ErrorCode, details: str) -> None:
        super().__init__(details)
        self.status = status
        self.code = code
        self.details = details

    def document(self, key: str | None) -> dict[str, Any]:
        """Return the answer; `key` is None for a bulk evaluation, whose errors name no flag."""
        named = {} if key is None else {"key": key}
        return {**named, "errorCode": self.code, "errorDetails": self.details}


@dataclass(frozen=True, slots=True)
class _Assignment:
    """The arm of a unit. `is_chosen`: an override or a match gives it, in place of the unit's bucket."""

    arm: Arm
    is_chosen: bool


def flag_keys(service: Service) -> tuple[str, ...]:
    """Return the keys of the flags of a service: its name, and its Experiment."""
    return tuple(dict.fromkeys(filter(None, (service.name, service.experiment))))


def evaluate_flag(service: Service, key: str, body: bytes, chosen: str = "") -> dict[str, Any]:
    """Return the evaluation of one flag for the unit in a request's body. Raises EvaluationError.

    `chosen` is the arm that an override or a match gives to the request; empty for none.
    """
    _require_reveal(service)
    keys = flag_keys(service)
    if key not in keys:
        raise EvaluationError(404, "FLAG_NOT_FOUND", f"this service has no such flag; expected {' or '.join(keys)}")
    return _render(service, key, _assign(service, body, chosen))


def evaluate_flags(service: Service, body: bytes, chosen: str = "") -> dict[str, Any]:
    """Return the evaluation of all flags of a service, as `evaluate_flag` does. Raises EvaluationError."""
    _require_reveal(service)
    assignment = _assign(service, body, chosen)
    return {"flags": [_render(service, key, assignment) for key in flag_keys(service)]}


def _require_reveal(service: Service) -> None:
    """Raise EvaluationError if the service hides its arms. It comes first, because other errors name the Experiment."""
    if not service.reveal:
        raise EvaluationError(403, "GENERAL", "this service does not reveal its arms (endpoint.reveal)")


def _assign(service: Service, body: bytes, chosen: str) -> _Assignment:
    unit = parse_unit(body, service.unit)
    if not service.arms:
        raise EvaluationError(503, "GENERAL", "the service is not ready yet")
    for arm in service.arms:
        if arm.name == chosen:
            return _Assignment(arm, is_chosen=True)
    number = arm_of_bucket(service.table, unit_bucket(service.salt, unit))
    return _Assignment(service.arms[number], is_chosen=False)


def parse_unit(body: bytes, unit: Unit) -> bytes:
    """Return the unit that a body names by `context.targetingKey`, as the bytes that HAProxy hashes. Raises EvaluationError."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise EvaluationError(400, "PARSE_ERROR", f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise EvaluationError(400, "PARSE_ERROR", f"the body is {_json_type(document)}; expected an object")
    context = document.get("context", {})
    if not isinstance(context, dict):
        raise EvaluationError(400, "INVALID_CONTEXT", f"context: found {_json_type(context)}; expected an object")
    if unit.kind == "request":
        raise EvaluationError(
            400, "INVALID_CONTEXT", "each request is its own unit here, so no unit has a stable arm; set `unit`"
        )
    found = context.get("targetingKey")
    expected = f"expected {_UNIT_TEXT[unit.kind].format(unit.name)}, as a string"
    if found is not None and not isinstance(found, str):
        raise EvaluationError(400, "INVALID_CONTEXT", f"context.targetingKey: found {_json_type(found)}; {expected}")
    # A header's value has no outer blanks.
    text = found.strip(" \t") if found and unit.kind == "header" else found
    if not text:
        raise EvaluationError(400, "TARGETING_KEY_MISSING", f"context.targetingKey is missing; {expected}")
    return text.encode()


def _json_type(value: object) -> str:
    return "null" if value is None else _JSON_TYPES.get(type(value), "a string")


def _render(service: Service, key: str, assignment: _Assignment) -> dict[str, Any]:
    arm, named = assignment.arm, {"experiment": service.experiment} if service.experiment else {}
    metadata = {
        **named,
        "revision": arm.revision,
        "epoch": service.epoch,
        "inExperiment": bool(named) and not assignment.is_chosen and not _is_outside(service, arm),
    }
    reason = _reason(service, assignment)
    return {"key": key, "reason": reason, "variant": arm.name, "value": arm.name, "metadata": metadata}


def _reason(service: Service, assignment: _Assignment) -> _Reason:
    if assignment.is_chosen:
        return "TARGETING_MATCH"
    if _is_outside(service, assignment.arm):
        return "DEFAULT"
    return "STATIC" if len(service.table) == 1 else "SPLIT"


def _is_outside(service: Service, arm: Arm) -> bool:
    """Return whether an arm has the units outside the exposure."""
    return arm.name == STABLE_ARM and any(other.name == CONTROL_ARM for other in service.arms)
