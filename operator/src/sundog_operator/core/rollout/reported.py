"""What edges report is JSON that another process wrote: read as counts, or found to be none. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

ERRORS: Final = ("server5xx", "edge5xx", "timeout", "truncated", "invalid")
REJECTIONS: Final = ("client4xx", "throttled", "abortBefore", "abortDuring")
EVENTS: Final = ("errors", "slow", "rejections")
"""What is told apart. No request is two of the first two: an error is no slow answer."""

MOST: Final = 2**53

DAMAGED: Final = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What comes of reading something that has another shape."""


def count(value: Any, most: int = 2**64) -> int:
    """What is a count; ValueError for anything else."""
    if type(value) is not int or not 0 <= value < most:
        raise ValueError(f"{value!r} is no count")
    return value


def failed_and_refused(ends: Mapping[str, Any]) -> tuple[int, int]:
    """How many of these ends are `ERRORS`, and how many `REJECTIONS`; what it raises is `DAMAGED`."""
    errors, rejections = (sum(count(ends.get(end, 0), MOST) for end in of) for of in (ERRORS, REJECTIONS))
    return errors, rejections


def places(columns: Sequence[str]) -> dict[str, int]:
    """Where each column is."""
    return {name: index for index, name in enumerate(columns)}


def listed(value: Any) -> Sequence[Any]:
    """What is a list; an empty one for anything else."""
    return value if isinstance(value, list | tuple) else ()
