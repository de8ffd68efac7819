"""Durations, Kubernetes quantities and percentages: text in manifests, numbers in decisions.

The CRDs use the same patterns, so these contain only syntax that RE2, Go and Python share.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

DURATION_PATTERN = r"^([0-9]{1,5}d|([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?([0-9]{1,6}ms)?([0-9]{1,6}us)?)$"
"""Days stand alone (`14d`); smaller units combine, largest first (`1h30m`)."""

_POSITIVE_NUMBER = r"(0*[1-9][0-9]*(\.[0-9]*)?|0*\.0*[1-9][0-9]*)"
_EXPONENT = r"[eE][+-]?[0-9]{1,2}"
CPU_PATTERN = rf"^{_POSITIVE_NUMBER}(m|k|{_EXPONENT})?$"
BYTES_PATTERN = rf"^{_POSITIVE_NUMBER}(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|{_EXPONENT})?$"
"""Bytes have no suffix `m`: `512m` is half a byte, and always a typo of `512M`."""
QUANTITY_PATTERN = rf"^{_POSITIVE_NUMBER}(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|{_EXPONENT})?$"

PERCENT_PATTERN = r"^([0-9]{1,4}(\.[0-9]{1,4})?)%$"
SHARE_PATTERN = r"^(100(\.0{1,4})?|[0-9]{1,2}(\.[0-9]{1,4})?)%$"
"""A percentage of a whole, 0% to 100%; PERCENT_PATTERN also accepts margins above 100%."""

RATE_PATTERN = r"^[1-9][0-9]{0,8}/(s|m|h)$"

_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
    "us": timedelta(microseconds=1),
}
_MAX_COUNT = 999_999
"""Limit of the pattern's six digits. More hours are written in minutes, so that every parsed duration can be formatted."""
_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}
_DURATION = re.compile(DURATION_PATTERN)
_QUANTITY = re.compile(r"(?P<number>[0-9]*\.?[0-9]*)(?P<suffix>[A-Za-z]{0,2}|[eE][+-]?[0-9]{1,2})")


def parse_duration(text: str) -> timedelta:
    """Parse `90s`, `1h30m`, `2ms` or `14d`. Raises ValueError."""
    if not text or not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration such as 30s, 5m, 1h30m or 14d")
    parts = re.findall(r"([0-9]+)([a-z]+)", text)
    return sum((int(number) * _UNITS[unit] for number, unit in parts), timedelta())


def format_duration(duration: timedelta) -> str:
    """Format a duration for `parse_duration`: whole days alone, else hours to microseconds, without zero parts except `0s`."""
    if not duration:
        return "0s"
    if not duration % _UNITS["d"]:
        return f"{duration // _UNITS['d']}d"
    text, rest = "", duration
    for unit, size in list(_UNITS.items())[1:]:
        count = min(rest // size, _MAX_COUNT)
        rest -= count * size
        text += f"{count}{unit}" if count else ""
    return text


@lru_cache(maxsize=1024)
def parse_quantity(text: str) -> Decimal:
    """Return the number of a Kubernetes quantity (`500m` is 0.5, `2Gi` is 2147483648). Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if not match or not match["number"].strip("."):
        raise ValueError(f"{text!r} is not a quantity such as 500m, 2 or 8Gi")
    number, suffix = Decimal(match["number"]), match["suffix"]
    if suffix[:1] in ("e", "E") and suffix[1:].lstrip("+-").isdigit():
        return number.scaleb(int(suffix[1:]))
    if suffix not in _SUFFIXES:
        raise ValueError(f"{text!r} has an unknown unit; expected one of quantities, such as m, k or Gi")
    return number * _SUFFIXES[suffix]


def canonical_quantity(text: str) -> str:
    """Return a quantity as the API server does: no fraction, and the largest unit that leaves none. Raises ValueError.

    From 1024 on, units of 1024 stay such units. Values are rounded up to thousandths.
    """
    value = parse_quantity(text)
    binary = text.endswith("i") and value >= 1024
    if not binary and value != value.to_integral_value():
        return f"{int((value * 1000).to_integral_value(ROUND_CEILING))}m"
    number, base, units = (
        int(value.to_integral_value(ROUND_CEILING)),
        *((1024, "KMGTPE") if binary else (1000, "kMGTPE")),
    )
    power = 0
    while power < len(units) and number and not number % base:
        number, power = number // base, power + 1
    return f"{number}{units[power - 1] if power else ''}{'i' if binary and power else ''}"


def parse_cpu_cores(quantity: str) -> float:
    """Parse cores: `500m` is 0.5. Raises ValueError."""
    return float(parse_quantity(quantity))


def parse_bytes(quantity: str) -> int:
    """Parse bytes: `2Gi` is 2147483648; parts of a byte round up. Raises ValueError."""
    return int(parse_quantity(quantity).to_integral_value(ROUND_CEILING))


def parse_percent(percentage: str) -> float:
    """Parse a percentage: `25%` is 0.25. Raises ValueError."""
    if not re.fullmatch(PERCENT_PATTERN, percentage):
        raise ValueError(f"{percentage!r} is not a percentage such as 25%")
    return float(Decimal(percentage[:-1]) / 100)


def parse_rate(text: str) -> tuple[int, int]:
    """Parse a rate into requests and seconds: `100/s` is (100, 1); `m` is a minute and `h` an hour. Raises ValueError."""
    if not re.fullmatch(RATE_PATTERN, text):
        raise ValueError(f"{text!r} is not a rate such as 100/s")
    count, _, unit = text.partition("/")
    return int(count), _UNITS[unit] // timedelta(seconds=1)


def parse_timestamp(text: str) -> datetime:
    """Parse an RFC 3339 time into UTC, to the second. Raises ValueError."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; expected one such as Z")
    return instant.astimezone(UTC).replace(microsecond=0)


def format_timestamp(instant: datetime) -> str:
    """Format a time as `2026-11-20T09:30:00Z`."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_micro_time(instant: datetime) -> str:
    """Format a time as `2026-11-20T09:30:00.000000Z`, the only form that Kubernetes accepts as a MicroTime."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
