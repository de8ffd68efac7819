"""Reported outcomes, parsed and checked one by one: bytes of strangers in, events and refusals out. Pure."""

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
"""By so much other edges may have a new attempt earlier, clocks included."""

MAX_ID_CHARACTERS = 200
MAX_UNIT_BYTES = 4096
KEY_BYTES = 16
_SHOWN = 60
_IN_FORCE = "an exposure of this service's attempt that is in force"
_NO_ID = "a text that is none (it is not told again)"
"""The same for all texts: an answer, or a log with it, holds no id, and does not tell whose one is."""

_MEMBERS = frozenset({"exposure", "unit", "metric", "value", "id", "time"})
# What RFC 3339 has of ISO 8601; Python reads more.
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})")


class BodyRefused(ValueError):
    """A body that is no list of items; the message says what was found and expected."""


class ItemRefusal(NamedTuple):
    """Why an item is refused: the result that it counts as, its field, what was found and what was expected."""

    result: str
    field: str
    found: str
    expected: str


class OutcomeEvent(NamedTuple):
    """One outcome. `key` is the same for a repetition and for nothing else, `value` is in millionths, `seconds` is Unix time.

    `exposure` is what a signed id told; None where the unit's value was told, whose `unit` is the hash of it. `timed` says whether an
    instant was told: else `seconds` is when the event came.
    """

    key: bytes
    unit: int
    exposure: SignedExposure | None
    metric: str
    value: int
    seconds: int
    timed: bool = True


@dataclass(frozen=True, slots=True)
class ParseContext:
    """What an item is read by: the clock in Unix seconds, the metrics of the service, whether it has sticky units, and its exposures.

    `exposure_of` gives the exposure of an id of the service, None for every other text. `attempt` is the one in force, which this edge
    knows since `began`, in Unix seconds; before that, where it does not matter.
    """

    now: float
    metrics: Sequence[str]
    sticky: bool
    exposure_of: Callable[[str], SignedExposure | None]
    attempt: str
    began: float = -math.inf


def parse_items(body: bytes) -> list[Any]:
    """The items of a body: a list of them, or one. Raises BodyRefused."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BodyRefused(f"the body is no JSON: {error.msg} at byte {error.pos}"[:200]) from None
    items = parsed if isinstance(parsed, list) else [parsed]
    if isinstance(parsed, str | int | float | bool | None):
        raise BodyRefused(f"the body is {_kind(parsed)}; an object, or a list of objects, is expected")
    if not 0 < len(items) <= MAX_ITEMS:
        raise BodyRefused(f"the body has {len(items)} items; 1 to {MAX_ITEMS} are expected")
    return items


def parse_item(item: Any, reading: ParseContext) -> OutcomeEvent | ItemRefusal:
    """The event that an item is, or why it is none."""
    if not isinstance(item, dict):
        return ItemRefusal("invalid", "", _kind(item), "an object")
    wrong = _shape(item, reading) or _value(item) or _id(item)
    if wrong:
        return wrong
    seconds = _seconds(item.get("time"), reading.now)
    if isinstance(seconds, ItemRefusal):
        return seconds
    whose = _whose(item, reading)
    if isinstance(whose, ItemRefusal):
        return whose
    unit, exposure = whose
    value = round(item.get("value", 1) * MILLION)
    timed = item.get("time") is not None
    return OutcomeEvent(_key(item, unit, value), unit, exposure, item["metric"], value, seconds, timed)


def _shape(item: Mapping[str, Any], reading: ParseContext) -> ItemRefusal | None:
    surplus = item.keys() - _MEMBERS
    if surplus:
        return ItemRefusal("invalid", _shown(min(surplus)), "a field", f"none but {', '.join(sorted(_MEMBERS))}")
    if ("exposure" in item) == ("unit" in item):
        found = "both" if "unit" in item else "neither"
        return ItemRefusal("invalid", "exposure", f"{found} of exposure and unit", "one of the two")
    metric = item.get("metric")
    if not isinstance(metric, str) or metric not in reading.metrics:
        found = _shown(metric) if "metric" in item else "nothing"
        return ItemRefusal("invalid", "metric", found, f"one of {', '.join(reading.metrics)}")
    return None


def _value(item: Mapping[str, Any]) -> ItemRefusal | None:
    value = item.get("value", 1)
    # `orjson` takes neither NaN nor infinity; a number too large for it to hold is infinite.
    if not isinstance(value, int | float) or not -MAX_VALUE <= value <= MAX_VALUE:
        return ItemRefusal("invalid", "value", _shown(value), f"a boolean or a number from {-MAX_VALUE} to {MAX_VALUE}")
    return None


def _id(item: Mapping[str, Any]) -> ItemRefusal | None:
    told = item.get("id", "-")
    if not isinstance(told, str) or not 0 < len(told) <= MAX_ID_CHARACTERS:
        return ItemRefusal("invalid", "id", _shown(told), f"a string of 1 to {MAX_ID_CHARACTERS} characters")
    return None


def _seconds(told: Any, now: float) -> int | ItemRefusal:
    """The instant of the event in whole Unix seconds: an exposure is known no more exactly."""
    if told is None:
        return int(now)
    expected = "an instant as of RFC 3339, such as 2026-01-31T12:00:00Z"
    if not isinstance(told, str) or not _TIME.fullmatch(told):
        return ItemRefusal("invalid", "time", _shown(told), expected)
    try:
        seconds = int(datetime.fromisoformat(told.upper()).timestamp())
    except (ValueError, OverflowError):
        return ItemRefusal("invalid", "time", _shown(told), expected)
    if seconds > now + MAX_FUTURE_S:
        return ItemRefusal("future", "time", _shown(told), f"no more than {MAX_FUTURE_S} s from now")
    return seconds


def _whose(item: Mapping[str, Any], reading: ParseContext) -> tuple[int, SignedExposure | None] | ItemRefusal:
    if "exposure" in item:
        told = item["exposure"]
        exposure = reading.exposure_of(told) if isinstance(told, str) else None
        if exposure is None:
            found = _NO_ID if isinstance(told, str) else _kind(told)
            result = "unknown" if isinstance(told, str) else "invalid"
            return ItemRefusal(result, "exposure", found, _IN_FORCE)
        if exposure.attempt != reading.attempt:
            if exposure.seconds < reading.began - ATTEMPT_SKEW_S:
                return ItemRefusal("late", "exposure", "an exposure of an attempt that has ended", _IN_FORCE)
            # Other edges may have its attempt already: it looks like any other that is not known.
            return ItemRefusal("unknown", "exposure", _NO_ID, _IN_FORCE)
        return exposure.unit, exposure
    if not reading.sticky:
        return ItemRefusal(
            "invalid", "unit", "a unit", "an exposure: every request is a unit of its own in this service"
        )
    unit = json_unit(item["unit"])
    if not 0 < len(unit) <= MAX_UNIT_BYTES:
        found = _kind(item["unit"]) + (f" of {len(unit)} bytes" if unit else "")
        return ItemRefusal("invalid", "unit", found, f"a string of 1 to {MAX_UNIT_BYTES} bytes, or a number")
    return unit_hash(unit), None


def _key(item: Mapping[str, Any], unit: int, value: int) -> bytes:
    """What says whether an event has come before: its id; else which exposure (or unit), which value and which instant it told.

    Unit and metric belong to it in either case, so an id need be no other's only where both are the same.
    """
    told = ("id", item["id"]) if "id" in item else ("as", item.get("exposure", ""), str(value), item.get("time") or "")
    parts = (f"{unit:016x}", item["metric"], *told)
    return blake2b("\0".join(parts).encode(errors="replace"), digest_size=KEY_BYTES).digest()


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "a boolean"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a number"


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return _kind(value)
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
