import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_operator.api import (
    format_duration,
    format_timestamp,
    parse_bytes,
    parse_cpu_cores,
    parse_duration,
    parse_percent,
    parse_timestamp,
)


@pytest.mark.parametrize(
    ("text", "duration", "canonical"),
    [
        ("30s", timedelta(seconds=30), "30s"),
        ("90s", timedelta(seconds=90), "1m30s"),
        ("60m", timedelta(hours=1), "1h"),
        ("1h30m", timedelta(minutes=90), "1h30m"),
        ("2ms", timedelta(milliseconds=2), "2ms"),
        ("1500us", timedelta(microseconds=1500), "1ms500us"),
        ("14d", timedelta(days=14), "14d"),
        ("24h", timedelta(days=1), "1d"),
        ("25h", timedelta(hours=25), "25h"),
        ("999999h61m", timedelta(hours=1_000_000, minutes=1), "999999h61m"),
        ("0m", timedelta(), "0s"),
        ("0s", timedelta(), "0s"),
    ],
)
def test_durations(text: str, duration: timedelta, canonical: str) -> None:
    assert parse_duration(text) == duration
    assert format_duration(duration) == canonical


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "1.5h", "5 m", "1m1h", "1d12h", "5S", "1w", "5m\n", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 30s, 5m, 1h30m or 14d"):
        parse_duration(text)


@given(st.timedeltas(min_value=timedelta(), max_value=timedelta(hours=999_999)))
def test_every_duration_survives_text(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "cores"),
    [("1", 1.0), ("500m", 0.5), ("0.25", 0.25), (".5", 0.5), ("2.", 2.0), ("1k", 1000.0), ("2e0", 2.0), ("1e-1", 0.1)],
)
def test_cpu(text: str, cores: float) -> None:
    assert math.isclose(parse_cpu_cores(text), cores)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("2Gi", 2 * 1024**3),
        ("10Mi", 10 * 1024**2),
        ("512k", 512_000),
        ("1M", 1_000_000),
        ("1E", 10**18),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1.5Ki", 1536),
        ("0.3Ki", 308),
        ("7Ti", 7 * 1024**4),
        ("8Ei", 8 * 1024**6),
    ],
)
def test_memory(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", ".", "Gi", "1GB", "1 Gi", "-1", "1g", "0x10", "1ee3", "1.2.3"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="quantit"):
        parse_bytes(text)


def test_percentages() -> None:
    assert parse_percent("25%") == 0.25
    assert parse_percent("0.5%") == 0.005
    assert parse_percent("250%") == 2.5
    with pytest.raises(ValueError, match="is not a percentage such as 25%"):
        parse_percent("25")


def test_instants_are_utc_to_the_second() -> None:
    instant = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
    assert parse_timestamp("2026-11-20T09:30:00Z") == instant
    assert parse_timestamp("2026-11-20T10:30:00.987654+01:00") == instant
    assert format_timestamp(instant) == "2026-11-20T09:30:00Z"
    assert format_timestamp(instant.astimezone(timezone(timedelta(hours=-5)))) == "2026-11-20T09:30:00Z"
    with pytest.raises(ValueError, match="has no time zone"):
        parse_timestamp("2026-11-20T09:30:00")
