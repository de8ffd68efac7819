"""Parse and check reported outcomes one by one: untrusted bytes in, events and refusals out. Pure."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from sundog_edge.feedback.exposure import SignedExposure
from sundog_edge.split.assignment import json_unit, unit_hash

MAX_ITEMS = 1000
MAX_VALUE = 10**9
MILLION = 1_000_000
MAX_FUTURE_S = 60
ATTEMPT_SKEW_S = 60
"""Seconds by which other edges may have a new attempt earlier, including clock differences."""

MAX_ID_CHARACTERS = 200
MAX_UNIT_BYTES = 4096
MAX_PROPERTIES = 8
MAX_PROPERTY_NAME_CHARACTERS = 64
MAX_PROPERTIES_BYTES = 512
KEY_BYTES = 16
_EXCERPT_CHARACTERS = 60
_EXPECTED_EXPOSURE = "an exposure of this service's attempt that is in force"
_EXPECTED_PROPERTIES = (
    f"an object of at most {MAX_PROPERTIES} names of 1 to {MAX_PROPERTY_NAME_CHARACTERS} characters, each with a string,"
    f" a number or a boolean, of at most {MAX_PROPERTIES_BYTES} bytes as JSON"
)
_NO_ID = "a text that is none (it is not repeated)"
"""The same for all texts: so no answer, and no log of it, repeats an id or shows whose it is."""

_MEMBERS = frozenset({"exposure", "unit", "metric", "value", "id", "time", "properties"})
# RFC 3339's part of ISO 8601; Python accepts more.
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})")


class BodyRefused(ValueError):
    """A body that is not a list of items. The message states what was found and what is expected."""


class ItemRefusal(NamedTuple):
    """The reason why an item is refused: its result, its field, what was found and what was expected."""

    result: str
    field: str
    found: str
    expected: str


class OutcomeEvent(NamedTuple):
    """One outcome.

    Attributes:
        key: the same for repetitions of the event, and different for all others.
        unit: hash of the unit.
        exposure: the signed exposure that was reported; None if the unit's value was reported.
        value: in millionths.
        seconds: Unix time.
        timed: whether the event had a time; otherwise `seconds` is its arrival.
        properties: a JSON object that is kept beside the event and that no sum depends on; empty for none.
    """

    key: bytes
    unit: int
    exposure: SignedExposure | None
    metric: str
    value: int
    seconds: int
    timed: bool = True
    properties: str = ""


@dataclass(frozen=True, slots=True)
class ParseContext:
    """Everything that parsing an item depends on.

    Attributes:
        now: the clock in Unix seconds.
        metrics: metrics of the service.
        sticky: whether the service has sticky units.
        exposure_of: gives the exposure of an id of the service; None for other texts.
        attempt: the attempt in force.
        began: Unix seconds since when this edge has the attempt.
    """

    now: float
    metrics: Sequence[str]
    sticky: bool
    exposure_of: Callable[[str], SignedExposure | None]
    attempt: str
    began: float = -math.inf


def parse_items(body: bytes) -> list[Any]:
    """Return the items of a body: a list of items, or one item. Raises BodyRefused."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BodyRefused(f"the body is no JSON: {error.msg} at byte {error.pos}"[:200]) from None
    items = parsed if isinstance(parsed, list) else [parsed]
    if isinstance(parsed, str | int | float | bool | None):
        raise BodyRefused(f"the body is {_describe_type(parsed)}; an object, or a list of objects, is expected")
    if not 0 < len(items) <= MAX_ITEMS:
        raise BodyRefused(f"the body has {len(items)} items; 1 to {MAX_ITEMS} are expected")
    return items


def parse_item(item: Any, context: ParseContext) -> OutcomeEvent | ItemRefusal:
    """Return the event of an item, or why the item is refused."""
    if not isinstance(item, dict):
        return ItemRefusal("invalid", "", _describe_type(item), "an object")
    refusal = _check_members(item, context) or _check_value(item) or _check_id(item)
    if refusal:
        return refusal
    seconds = _parse_time(item.get("time"), context.now)
    if isinstance(seconds, ItemRefusal):
        return seconds
    properties = _parse_properties(item.get("properties", {}))
    if isinstance(properties, ItemRefusal):
        return properties
    found = _find_unit(item, context)
    if isinstance(found, ItemRefusal):
        return found
    unit, exposure = found
    value = round(item.get("value", 1) * MILLION)
    timed = item.get("time") is not None
    return OutcomeEvent(_key(item, unit, value), unit, exposure, item["metric"], value, seconds, timed, properties)


def _check_members(item: Mapping[str, Any], context: ParseContext) -> ItemRefusal | None:
    surplus = item.keys() - _MEMBERS
    if surplus:
        return ItemRefusal("invalid", _excerpt(min(surplus)), "a field", f"none but {', '.join(sorted(_MEMBERS))}")
    if ("exposure" in item) == ("unit" in item):
        found = "both" if "unit" in item else "neither"
        return ItemRefusal("invalid", "exposure", f"{found} of exposure and unit", "one of the two")
    metric = item.get("metric")
    if not isinstance(metric, str) or metric not in context.metrics:
        found = _excerpt(metric) if "metric" in item else "nothing"
        return ItemRefusal("invalid", "metric", found, f"one of {', '.join(context.metrics)}")
    return None


def _check_value(item: Mapping[str, Any]) -> ItemRefusal | None:
    value = item.get("value", 1)
    # `orjson` takes neither NaN nor infinity; a number too large for it to hold is infinite.
    if not isinstance(value, int | float) or not -MAX_VALUE <= value <= MAX_VALUE:
        return ItemRefusal(
            "invalid", "value", _excerpt(value), f"a boolean or a number from {-MAX_VALUE} to {MAX_VALUE}"
        )
    return None


def _check_id(item: Mapping[str, Any]) -> ItemRefusal | None:
    event_id = item.get("id", "-")
    if not isinstance(event_id, str) or not 0 < len(event_id) <= MAX_ID_CHARACTERS:
        return ItemRefusal("invalid", "id", _excerpt(event_id), f"a string of 1 to {MAX_ID_CHARACTERS} characters")
    return None


def _parse_time(text: Any, now: float) -> int | ItemRefusal:
    """Return the time of the event in whole Unix seconds: times of exposures are no more exact."""
    if text is None:
        return int(now)
    expected = "an instant as of RFC 3339, such as 2026-01-31T12:00:00Z"
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        return ItemRefusal("invalid", "time", _excerpt(text), expected)
    try:
        seconds = int(datetime.fromisoformat(text.upper()).timestamp())
    except (ValueError, OverflowError):
        return ItemRefusal("invalid", "time", _excerpt(text), expected)
    if seconds > now + MAX_FUTURE_S:
        return ItemRefusal("future", "time", _excerpt(text), f"no more than {MAX_FUTURE_S} s from now")
    return seconds


def _parse_properties(properties: Any) -> str | ItemRefusal:
    """Return properties as JSON, in the order of their names; empty for none. No refusal repeats a value."""
    if not isinstance(properties, dict):
        return ItemRefusal("invalid", "properties", _describe_type(properties), _EXPECTED_PROPERTIES)
    if len(properties) > MAX_PROPERTIES:
        return ItemRefusal("invalid", "properties", f"{len(properties)} names", _EXPECTED_PROPERTIES)
    for name, value in properties.items():
        if not 0 < len(name) <= MAX_PROPERTY_NAME_CHARACTERS:
            return ItemRefusal("invalid", "properties", f"a name of {len(name)} characters", _EXPECTED_PROPERTIES)
        if not isinstance(value, str | int | float):
            found = f"{_describe_type(value)} as {_excerpt(name)}"
            return ItemRefusal("invalid", "properties", found, _EXPECTED_PROPERTIES)
    encoded = orjson.dumps(properties, option=orjson.OPT_SORT_KEYS) if properties else b""
    if len(encoded) > MAX_PROPERTIES_BYTES:
        return ItemRefusal("invalid", "properties", f"{len(encoded)} bytes", _EXPECTED_PROPERTIES)
    return encoded.decode()


def _find_unit(item: Mapping[str, Any], context: ParseContext) -> tuple[int, SignedExposure | None] | ItemRefusal:
    if "exposure" in item:
        exposure_id = item["exposure"]
        exposure = context.exposure_of(exposure_id) if isinstance(exposure_id, str) else None
        if exposure is None:
            found = _NO_ID if isinstance(exposure_id, str) else _describe_type(exposure_id)
            result = "unknown" if isinstance(exposure_id, str) else "invalid"
            return ItemRefusal(result, "exposure", found, _EXPECTED_EXPOSURE)
        if exposure.attempt != context.attempt:
            if exposure.seconds < context.began - ATTEMPT_SKEW_S:
                return ItemRefusal("late", "exposure", "an exposure of an attempt that has ended", _EXPECTED_EXPOSURE)
            # Other edges may already have this attempt; here it is an unknown exposure.
            return ItemRefusal("unknown", "exposure", _NO_ID, _EXPECTED_EXPOSURE)
        return exposure.unit, exposure
    if not context.sticky:
        return ItemRefusal(
            "invalid", "unit", "a unit", "an exposure: every request is a unit of its own in this service"
        )
    unit = json_unit(item["unit"])
    if not 0 < len(unit) <= MAX_UNIT_BYTES:
        found = _describe_type(item["unit"]) + (f" of {len(unit)} bytes" if unit else "")
        return ItemRefusal("invalid", "unit", found, f"a string of 1 to {MAX_UNIT_BYTES} bytes, or a number")
    return unit_hash(unit), None


def _key(item: Mapping[str, Any], unit: int, value: int) -> bytes:
    """Return the key that identifies an event: a hash of unit, metric and id; without an id, of unit, metric, exposure, value and time.

    An id need be unique only among events of the same unit and metric.
    """
    identity = (
        ("id", item["id"]) if "id" in item else ("as", item.get("exposure", ""), str(value), item.get("time") or "")
    )
    parts = (f"{unit:016x}", item["metric"], *identity)
    return blake2b("\0".join(parts).encode(errors="replace"), digest_size=KEY_BYTES).digest()


def _describe_type(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "a boolean"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a number"


def _excerpt(value: Any) -> str:
    if isinstance(value, dict | list):
        return _describe_type(value)
    text = repr(value)
    return text if len(text) <= _EXCERPT_CHARACTERS else f"{text[:_EXCERPT_CHARACTERS]}…"
