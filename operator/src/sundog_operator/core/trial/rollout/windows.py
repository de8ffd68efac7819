"""Rollout windows: traffic may advance while one is open. A cron line opens a window, in its own time zone, for a duration.

A line with fixed hours and minutes opens once a day, also when clocks change. An opening in the skipped hour happens when the clocks go
on; an opening in the repeated hour happens at the first one, as in Debian's cron. A window's duration is elapsed time, not clock time.
"""

import heapq
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from sundog_operator.api import RolloutWindow, Violation, format_duration, format_timestamp
from sundog_operator.api.schema.validation import quote_value

MIN_WINDOW: Final = timedelta(minutes=1)
"""Shortest window: cron lines have minutes."""

MAX_OPENINGS: Final = 10_000
"""Most openings of all windows of a rollout that one call counts, in half a second at most. A time with more counts as passed.

A window that opens four times an hour has as many in three months.
"""

_ANY_TIME: Final = datetime(2024, 1, 1, tzinfo=UTC)


def find_problems(windows: Sequence[RolloutWindow], path: str) -> list[Violation]:
    """Return the problems of windows that the schema cannot find."""
    return [
        violation for index, window in enumerate(windows) for violation in _window_problems(window, f"{path}[{index}]")
    ]


def next_opening(windows: Sequence[RolloutWindow], now: datetime) -> datetime | None:
    """Return when the first window opens, in UTC; None inside a window, or without windows.

    Raises CronSimError or ZoneInfoNotFoundError for windows with problems (`find_problems`).
    """
    return _next_opening(tuple(windows), now) if windows else None


def has_lasted(windows: Sequence[RolloutWindow], since: datetime, now: datetime, limit: timedelta) -> bool:
    """Whether the time inside windows between two instants is `limit` or more; all time counts without windows.

    Also true after `MAX_OPENINGS`. Raises as `next_opening` does.
    """
    if not windows or now - since < limit:
        return now - since >= limit
    passed, at = timedelta(0), since
    periods = heapq.merge(*(_periods(window, since) for window in dict.fromkeys(windows)))
    for opening, end in islice(periods, MAX_OPENINGS):
        if opening >= now or passed >= limit:
            return passed >= limit
        passed += max(min(end, now) - max(opening, at), timedelta(0))
        at = max(at, min(end, now))
    return True


def describe_closed_windows(opening: datetime) -> str:
    """Describe why a rollout waits outside its windows."""
    return f"outside its windows; the next opens at {format_timestamp(opening)}"


def _window_problems(window: RolloutWindow, place: str) -> Iterator[Violation]:
    try:
        next(CronSim(window.cron, _ANY_TIME))
    except CronSimError as error:
        why = str(error).lower()
        yield Violation(
            f"{place}.cron", f"{quote_value(window.cron)} is not a cron line: {why}; expected one such as 0 9 * * 1-5"
        )
    except StopIteration:
        yield Violation(f"{place}.cron", f"{quote_value(window.cron)} matches no date")
    try:
        ZoneInfo(window.tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # A directory of the time zone database, such as Europe, raises an OSError.
        yield Violation(
            f"{place}.tz", f"{quote_value(window.tz)} is not a time zone; expected one such as UTC or Europe/Prague"
        )
    if window.duration < MIN_WINDOW:
        yield Violation(
            f"{place}.duration",
            f"{format_duration(window.duration)} is too short; expected {format_duration(MIN_WINDOW)} or more",
        )


@lru_cache(maxsize=256)
def _next_opening(windows: tuple[RolloutWindow, ...], now: datetime) -> datetime | None:
    """See `next_opening`. A pass asks several times."""
    openings = [next(_periods(window, now))[0] for window in windows]
    return None if min(openings) <= now else min(openings)


def _periods(window: RolloutWindow, since: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yield the periods of a window that end after an instant, in UTC, in order.

    An opening in a repeated hour counts only at the first one.
    """
    last = since - window.duration
    for each in CronSim(window.cron, last.astimezone(ZoneInfo(window.tz))):
        opening = each.astimezone(UTC)
        if opening > last:
            yield opening, opening + window.duration
            last = opening
    raise CronSimError(f"{window.cron} matches no date")
