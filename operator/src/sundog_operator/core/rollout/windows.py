"""Rollout windows: traffic may advance while one is open. A cron line opens a window, in its own time zone, for a duration.

A line with fixed hours and minutes opens once a day, also when clocks change. An opening in the skipped hour happens when the clocks go
on; an opening in the repeated hour happens at the first one, as in Debian's cron. A window's duration is elapsed time, not clock time.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from sundog_operator.api import RolloutWindow, Violation, format_duration, format_timestamp
from sundog_operator.api.schema.validation import quote_value

MIN_WINDOW: Final = timedelta(minutes=1)
"""Shortest window: cron lines have minutes."""

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
    if not windows:
        return None
    is_open, until = _state_at(windows, now)
    return None if is_open else until


def has_lasted(windows: Sequence[RolloutWindow], since: datetime, now: datetime, limit: timedelta) -> bool:
    """Whether the time inside windows between two instants is `limit` or more; all time counts without windows.

    Raises as `next_opening` does.
    """
    if not windows or now - since < limit:
        return now - since >= limit
    passed, at = timedelta(0), since
    while passed < limit and at < now:
        is_open, until = _state_at(windows, at)
        passed += min(until, now) - at if is_open else timedelta(0)
        at = until
    return passed >= limit


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


def _state_at(windows: Sequence[RolloutWindow], now: datetime) -> tuple[bool, datetime]:
    """Return (whether a window is open, until when at least that stays so), in UTC."""
    openings = [(_first_after(window, now - window.duration), window.duration) for window in windows]
    ends = [opening + duration for opening, duration in openings if opening <= now]
    return (True, max(ends)) if ends else (False, min(opening for opening, _ in openings))


def _first_after(window: RolloutWindow, start: datetime) -> datetime:
    """Return the first opening after an instant, in UTC. An opening in a repeated hour counts only at the first one."""
    openings = CronSim(window.cron, start.astimezone(ZoneInfo(window.tz)))
    found = next((opening for each in openings if (opening := each.astimezone(UTC)) > start), None)
    if found is None:
        raise CronSimError(f"{window.cron} matches no date")
    return found
