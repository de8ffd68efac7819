"""Parse the counts in edge reports. Another process wrote the JSON, so every value is checked."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

ERRORS: Final = ("server5xx", "edge5xx", "timeout", "truncated", "invalid")
REJECTIONS: Final = ("client4xx", "throttled", "abortBefore", "abortDuring")
FIRST_ATTEMPT_FAILED: Final = "firstAttemptFailed"
"""The column of requests whose first attempt failed, so that the edge tried another replica."""

SLOW: Final = ("slow", "slow2", "slow3")
"""The columns of slow responses: one for each latency guardrail of a plan, in the plan's order."""

EVENTS: Final = ("errors", "slow", "rejections", "retried", *SLOW[1:])
"""The columns of events. An error never counts as a slow response as well."""

SINGLE_LATENCY_EVENT_COUNT: Final = len(EVENTS) - len(SLOW) + 1
"""How many of `EVENTS`, from the first, a plan with at most one latency has. The others are stored only where they were counted."""

LEGACY_EVENT_COUNT: Final = 3
"""How many of `EVENTS`, from the first, documents of older releases store."""

MAX_COUNT: Final = 2**53

PARSE_ERRORS: Final = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""Errors that parsing raises on JSON of another shape."""


def parse_count(value: Any, most: int = 2**64) -> int:
    """Return a value that is an integer in [0, most). Raises ValueError for any other."""
    if type(value) is not int or not 0 <= value < most:
        raise ValueError(f"count: {value!r}; expected an integer from 0 to {most - 1}")
    return value


def parse_counts(values: Sequence[Any], most: int) -> Sequence[int]:
    """Return values that are all integers in [0, most). Raises ValueError for any other."""
    for value in values:
        if type(value) is not int or not 0 <= value < most:
            parse_count(value, most)
    return values


def parse_failed_first_attempts(row: Mapping[str, Any]) -> int:
    """Return how many requests of a row failed on their first replica. Raises one of `PARSE_ERRORS`."""
    return parse_count(row.get("retries", {}).get(FIRST_ATTEMPT_FAILED, 0), MAX_COUNT)


def count_errors_and_rejections(ends: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many ends are `ERRORS`, and how many `REJECTIONS`. Raises one of `PARSE_ERRORS`."""
    errors, rejections = (sum(parse_count(ends.get(end, 0), MAX_COUNT) for end in of) for of in (ERRORS, REJECTIONS))
    return errors, rejections


def column_indexes(columns: Sequence[str]) -> dict[str, int]:
    """Return the index of each column by name."""
    return {name: index for index, name in enumerate(columns)}


def list_or_empty(value: Any) -> Sequence[Any]:
    """Return the value if it is a list or tuple, else an empty tuple."""
    return value if isinstance(value, list | tuple) else ()
