"""When traffic may move forward: windows that cron lines open, each in a time zone of its own and for so long.

A line that names its hours and minutes opens once a day on the two days a year when clocks are set as on all others: what the clocks leave
out opens when they go on, and what they show twice opens at the first time, as in Debian's cron. How long a window stays open is counted
in hours that pass, not in those that clocks show.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from sundog_operator.api import RolloutWindow, Violation, format_duration, format_timestamp
from sundog_operator.api.schema.validation import quote_value

MIN_WINDOW: Final = timedelta(minutes=1)
"""Of a window: cron lines know minutes."""

_ANY_TIME: Final = datetime(2024, 1, 1, tzinfo=UTC)


def find_problems(windows: Sequence[RolloutWindow], path: str) -> list[Violation]:
    """What of them nobody can follow, although it has the right form."""
    return [violation for index, window in enumerate(windows) for violation in _problems(window, f"{path}[{index}]")]


def next_opening(windows: Sequence[RolloutWindow], now: datetime) -> datetime | None:
    """When the first of them opens, in UTC; None within one, or where there is none.

    Raises CronSimError or ZoneInfoNotFoundError for what `problems` finds.
    """
    if not windows:
        return None
    is_open, until = _look(windows, now)
    return None if is_open else until


def has_lasted(windows: Sequence[RolloutWindow], since: datetime, now: datetime, limit: timedelta) -> bool:
    """Whether the time within windows between two instants is `limit` or more; all time counts where there are none.

    Raises as `next_opening` does.
    """
    if not windows or now - since < limit:
        return now - since >= limit
    passed, at = timedelta(0), since
    while passed < limit and at < now:
        is_open, until = _look(windows, at)
        passed += min(until, now) - at if is_open else timedelta(0)
        at = until
    return passed >= limit


def describe_closed_windows(opening: datetime) -> str:
    """Why a rollout stands still outside its windows."""
    return f"outside its windows; the next opens at {format_timestamp(opening)}"


def _problems(window: RolloutWindow, place: str) -> Iterator[Violation]:
    try:
        next(CronSim(window.cron, _ANY_TIME))
    except CronSimError as error:
        why = str(error).lower()
        yield Violation(f"{place}.cron", f"{quote_value(window.cron)} is not a cron line such as 0 9 * * 1-5: {why}")
    except StopIteration:
        yield Violation(f"{place}.cron", f"{quote_value(window.cron)} names no day that ever comes")
    try:
        ZoneInfo(window.tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # A folder of the time zone database, such as Europe, is an OSError.
        yield Violation(f"{place}.tz", f"{quote_value(window.tz)} is not a time zone such as UTC or Europe/Prague")
    if window.duration < MIN_WINDOW:
        yield Violation(
            f"{place}.duration", f"{format_duration(window.duration)} is not {format_duration(MIN_WINDOW)} or more"
        )


def _look(windows: Sequence[RolloutWindow], now: datetime) -> tuple[bool, datetime]:
    """(whether one is open, until when that stays so at least), in UTC."""
    openings = [(_first_after(window, now - window.duration), window.duration) for window in windows]
    ends = [opening + duration for opening, duration in openings if opening <= now]
    return (True, max(ends)) if ends else (False, min(opening for opening, _ in openings))


def _first_after(window: RolloutWindow, start: datetime) -> datetime:
    """Its first opening after an instant, in UTC. One that opened at the first of two equal hours is not met again in the second."""
    openings = CronSim(window.cron, start.astimezone(ZoneInfo(window.tz)))
    found = next((opening for each in openings if (opening := each.astimezone(UTC)) > start), None)
    if found is None:
        raise CronSimError(f"{window.cron} names no day that ever comes")
    return found
