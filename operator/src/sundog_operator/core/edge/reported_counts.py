"""What edges report is JSON that another process wrote: read as counts, or found to be none. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

ERRORS: Final = ("server5xx", "edge5xx", "timeout", "truncated", "invalid")
REJECTIONS: Final = ("client4xx", "throttled", "abortBefore", "abortDuring")
FIRST_ATTEMPT_FAILED: Final = "firstAttemptFailed"
"""The column of requests that another replica was tried for."""

SLOW: Final = ("slow", "slow2", "slow3")
"""What edges count of answers that take long: one for each latency of a plan, in the order in which its guardrails have them."""

EVENTS: Final = ("errors", "slow", "rejections", "retried", *SLOW[1:])
"""What is told apart. No request is two of the first two: an error is no slow answer."""

SINGLE_LATENCY_EVENT_COUNT: Final = len(EVENTS) - len(SLOW) + 1
"""How many of them, the first, there are where a plan has no more than one latency; others are stored only where they were counted."""

LEGACY_EVENT_COUNT: Final = 3
"""How many of them, the first, what was stored before there were more tells apart."""

MAX_COUNT: Final = 2**53

PARSE_ERRORS: Final = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What comes of reading something that has another shape."""


def parse_count(value: Any, most: int = 2**64) -> int:
    """What is a count; ValueError for anything else."""
    if type(value) is not int or not 0 <= value < most:
        raise ValueError(f"{value!r} is no count")
    return value


def parse_failed_first_attempts(row: Mapping[str, Any]) -> int:
    """For how many requests of a row another replica was tried; what it raises is `DAMAGED`."""
    return parse_count(row.get("retries", {}).get(FIRST_ATTEMPT_FAILED, 0), MAX_COUNT)


def count_errors_and_rejections(ends: Mapping[str, Any]) -> tuple[int, int]:
    """How many of these ends are `ERRORS`, and how many `REJECTIONS`; what it raises is `DAMAGED`."""
    errors, rejections = (sum(parse_count(ends.get(end, 0), MAX_COUNT) for end in of) for of in (ERRORS, REJECTIONS))
    return errors, rejections


def column_indexes(columns: Sequence[str]) -> dict[str, int]:
    """Where each column is."""
    return {name: index for index, name in enumerate(columns)}


def list_or_empty(value: Any) -> Sequence[Any]:
    """What is a list; an empty one for anything else."""
    return value if isinstance(value, list | tuple) else ()
