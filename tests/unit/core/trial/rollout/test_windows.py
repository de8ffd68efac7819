"""Windows against the local clock, minute by minute, also when clocks change."""

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from profiles import examples
from sundog_operator.api import RolloutWindow
from sundog_operator.core.trial.rollout import windows

PRAGUE = ZoneInfo("Europe/Prague")
FORWARD, BACK = datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)
"""When Prague's clocks go from 2:00 to 3:00, and from 3:00 to 2:00."""

MINUTE = timedelta(minutes=1)
AROUND = timedelta(days=3)


def window(cron: str = "0 9 * * 1-5", duration: str = "8h", tz: str = "Europe/Prague") -> RolloutWindow:
    return RolloutWindow.from_json({"cron": cron, "duration": duration, "tz": tz})


def minutes_around(change: datetime) -> Iterator[datetime]:
    at = change - AROUND
    while at < change + AROUND:
        yield at
        at += MINUTE


def local_time(at: datetime) -> datetime:
    """Return the local time."""
    return at.astimezone(PRAGUE).replace(tzinfo=None)


def daily(change: datetime, hour: int, minute: int) -> list[datetime]:
    """Return, for each day, the first minute at which the local time is `hour:minute`, or a later one if that time is skipped."""
    found: dict[object, datetime] = {}
    for at in minutes_around(change):
        day = local_time(at).date()
        if local_time(at) >= datetime.combine(day, time(hour, minute)):
            found.setdefault(day, at)
    return list(found.values())[1:]  # the first day began before


def hourly(change: datetime, minute: int) -> list[datetime]:
    return [at for at in minutes_around(change) if local_time(at).minute == minute]


@pytest.mark.parametrize("cron", ["0 0 */31 * 5L", "0 0 */31 2 1L"])
def test_a_line_that_matches_no_date_is_reported_and_raises_a_known_error(cron: str) -> None:
    (problem,) = windows.find_problems([window(cron)], "spec.rollout.windows")
    assert str(problem) == f'spec.rollout.windows[0].cron: "{cron}" matches no date'
    with pytest.raises(CronSimError, match="no date"):
        windows.next_opening([window(cron)], FORWARD)


changes = st.sampled_from([FORWARD, BACK])
seconds = st.integers(-24 * 3600, 36 * 3600)
lengths = st.integers(1, 16 * 60)


def agrees(each: RolloutWindow, openings: list[datetime], now: datetime) -> None:
    is_open = any(opening <= now < opening + each.duration for opening in openings)
    expected = None if is_open else min(opening for opening in openings if opening > now)
    assert windows.next_opening([each], now) == expected


@settings(max_examples=examples(60), deadline=None)
@given(changes, st.integers(0, 23), st.integers(0, 59), lengths, seconds)
@example(BACK, 2, 45, 20, 30 * 60)  # between two equal hours
@example(BACK, 2, 30, 60, 29 * 60)
@example(FORWARD, 2, 30, 60, 0)  # a time that clocks leave out
@example(FORWARD, 2, 30, 60, -1)
def test_a_line_with_an_hour_opens_once_a_day_for_its_duration(
    change: datetime, hour: int, minute: int, length: int, second: int
) -> None:
    each = window(f"{minute} {hour} * * *", f"{length}m")
    agrees(each, daily(change, hour, minute), change + timedelta(seconds=second))


@settings(max_examples=examples(30), deadline=None)
@given(changes, st.integers(0, 59), st.integers(1, 59), seconds)
def test_a_line_without_an_hour_opens_in_both_repeated_hours(
    change: datetime, minute: int, length: int, second: int
) -> None:
    each = window(f"{minute} * * * *", f"{length}m")
    agrees(each, hourly(change, minute), change + timedelta(seconds=second))


@settings(max_examples=examples(25), deadline=None)
@given(changes, st.lists(st.tuples(st.integers(0, 23), lengths), min_size=1, max_size=3), seconds, lengths, lengths)
def test_the_time_within_windows_is_elapsed_time(
    change: datetime, given_windows: list[tuple[int, int]], second: int, length: int, limit: int
) -> None:
    several = [window(f"0 {hour} * * *", f"{minutes}m") for hour, minutes in given_windows]
    intervals = [
        (opening, opening + timedelta(minutes=minutes))
        for hour, minutes in given_windows
        for opening in daily(change, hour, 0)
    ]
    since = (change + timedelta(seconds=second)).replace(second=0)
    now = since + timedelta(minutes=length)
    within = sum(any(start <= since + MINUTE * passed < end for start, end in intervals) for passed in range(length))
    assert windows.has_lasted(several, since, now, timedelta(minutes=limit)) == (within >= limit)


def test_any_open_window_lets_traffic_advance() -> None:
    noon = datetime(2026, 11, 25, 12, tzinfo=UTC)
    morning, night = window("0 6 * * *", "1h", "UTC"), window("0 22 * * *", "2h", "UTC")
    assert windows.next_opening([morning, night], noon) == noon.replace(hour=22)
    assert windows.next_opening([morning, night], noon.replace(hour=23, minute=59)) is None
    assert windows.next_opening([morning, night], noon.replace(hour=6)) is None
    assert windows.next_opening([morning, night], noon.replace(hour=7)) == noon.replace(hour=22)


def test_a_window_that_opens_before_it_closes_is_always_open() -> None:
    always = window("* * * * *", "1m", "UTC")
    at = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
    assert windows.next_opening([always], at) is None
    assert windows.has_lasted([always], at, at + timedelta(hours=1), timedelta(hours=1))
    assert not windows.has_lasted([always], at, at + timedelta(hours=1), timedelta(hours=1, seconds=1))


def test_without_windows_traffic_advances_at_any_time_and_all_time_counts() -> None:
    at = datetime(2026, 11, 25, 12, tzinfo=UTC)
    assert windows.next_opening([], at) is None
    assert windows.has_lasted([], at, at + MINUTE, MINUTE)
    assert not windows.has_lasted([], at, at + MINUTE, MINUTE * 2)


DENSE, RARE = "*/2 * * * *", "0 0 */28 2 1L"
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cron lines of all openings that are computed."""
    found: list[str] = []

    class Counted(CronSim):
        def __next__(self) -> datetime:
            found.append(" ".join(self.parts[1:]))
            return super().__next__()

    monkeypatch.setattr(windows, "CronSim", Counted)
    return found


def test_a_dense_window_and_a_rare_one_are_merged_once(openings: list[str]) -> None:
    hours = timedelta(hours=1)
    assert not windows.has_lasted([window(DENSE, "1m"), window(RARE)], NOW - 168 * hours, NOW, 85 * hours)
    assert windows.has_lasted([window(DENSE, "1m"), window(RARE)], NOW - 168 * hours, NOW, 84 * hours)
    assert openings.count(RARE) == 2
    assert openings.count(DENSE) <= 2 * (168 * 30 + 2)


def test_the_openings_that_one_call_counts_are_bounded(openings: list[str]) -> None:
    zones = ("UTC", "Europe/Prague", "Asia/Tokyo", "America/New_York")
    dense = [window(DENSE, "1m", zone) for zone in zones] * 4
    assert windows.has_lasted(dense, NOW - timedelta(days=365), NOW, timedelta(days=364))
    assert len(openings) <= windows.MAX_OPENINGS + len(zones)


def test_one_pass_computes_the_next_opening_once(openings: list[str]) -> None:
    several = [window(), window(RARE)]
    at = NOW + timedelta(microseconds=1)
    assert len({windows.next_opening(several, at) for _ in range(5)}) == 1
    assert len(openings) <= len(several)


def test_the_reason_stays_the_same_until_the_window_opens() -> None:
    saturday = datetime(2026, 11, 28, 0, tzinfo=UTC)
    texts = set()
    for hour in range(56):
        opening = windows.next_opening([window()], saturday + timedelta(hours=hour))
        assert opening is not None
        texts.add(windows.describe_closed_windows(opening))
    assert texts == {"outside its windows; the next opens at 2026-11-30T08:00:00Z"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (window("0 25 * * *"), 'windows[0].cron: "0 25 * * *" is not a cron line: bad hour; expected one such as 0 9 * * 1-5'),
        (window("61 * * * *"), 'windows[0].cron: "61 * * * *" is not a cron line: bad minute; expected one such as 0 9 * * 1-5'),
        (window("0 9 31 2 *"), 'windows[0].cron: "0 9 31 2 *" is not a cron line: bad day-of-month; expected one such as 0 9 * * 1-5'),
        (window("0 9 * * 1-9"), 'windows[0].cron: "0 9 * * 1-9" is not a cron line: bad day-of-week; expected one such as 0 9 * * 1-5'),
        (window(tz="Mars/Base"), "windows[0].tz: Mars/Base is not a time zone; expected one such as UTC or Europe/Prague"),
        (window(tz="Europe"), "windows[0].tz: Europe is not a time zone; expected one such as UTC or Europe/Prague"),
        (window(duration="59s"), "windows[0].duration: 59s is too short; expected 1m or more"),
    ],
)  # fmt: skip
def test_an_invalid_window_is_reported(wrong: RolloutWindow, message: str) -> None:
    assert [str(violation) for violation in windows.find_problems([wrong], "windows")] == [message]
    (second,) = windows.find_problems([window(), wrong], "windows")
    assert second.path == message.partition(":")[0].replace("[0]", "[1]")


@pytest.mark.parametrize("cron", ["0 9 * * 1-5", "*/15 * * * *", "0 9,13 1-7 JAN-MAR mon", "0 0 29 2 *"])
def test_cron_lines_of_every_form_are_accepted(cron: str) -> None:
    assert windows.find_problems([window(cron)], "windows") == []
    assert windows.next_opening([window(cron, "1m")], datetime(2026, 11, 25, 12, 1, tzinfo=UTC)) is not None


def test_time_zones_are_known_where_the_system_has_none() -> None:
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=())
    ZoneInfo.clear_cache()
    try:
        assert windows.find_problems([window()], "windows") == []
        assert windows.next_opening([window()], BACK) == datetime(2026, 10, 26, 8, tzinfo=UTC)
        assert windows.find_problems([window(tz="Mars/Base")], "windows") != []
    finally:
        zoneinfo.reset_tzpath(to=before)
        ZoneInfo.clear_cache()
