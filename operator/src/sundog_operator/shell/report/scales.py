"""Axes of charts: positions of values, and ticks at round values. Pure functions."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_TICK_SECONDS: Final = (
    *(1, 2, 5, 10, 15, 30),
    *(_MINUTE * each for each in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * each for each in (1, 2, 3, 6, 12)),
    *(_DAY * each for each in (1, 2, 5, 10, 20, 50, 100)),
)
"""Seconds between two ticks of a time axis."""

_MIN_HIGH: Final = 5.0
_HUNDREDTHS: Final = 100
"""Steps in a percent: weights are no finer."""

_MANTISSAS: Final = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))
"""Mantissas of the ticks of a ratio axis, the sparsest first."""


@dataclass(frozen=True, slots=True)
class AxisScale:
    """A range of values on a stretch of a drawing.

    Attributes:
        low: the value at `start`.
        high: the value at `end`, above `low`.
        start: position of the axis' start.
        end: position of its end; below `start` for an axis that goes up.
        kind: linear, or log for values above 0.
    """

    low: float
    high: float
    start: float
    end: float
    kind: Literal["linear", "log"] = "linear"

    def at(self, value: float) -> float:
        """Return the position of a value, clamped to the ends."""
        low, high, clamped = self.low, self.high, min(max(value, self.low), self.high)
        if self.kind == "log":
            low, high, clamped = math.log(low), math.log(high), math.log(clamped)
        return self.start + (clamped - low) / (high - low) * (self.end - self.start)

    def shows(self, value: float) -> bool:
        """Report whether a value is between the ends."""
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class AxisTick:
    """A mark at a position of the drawing, with its label."""

    at: float
    text: str


def make_time_ticks(scale: AxisScale, min_distance: float) -> list[AxisTick]:
    """Return ticks of an axis of seconds from 0 on, at least `min_distance` from each other."""
    per_second = abs(scale.end - scale.start) / scale.high
    step = next((each for each in _TICK_SECONDS if each * per_second >= min_distance), _TICK_SECONDS[-1])
    size, unit = next(each for each in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (1, "s")) if step % each[0] == 0)
    return [
        AxisTick(scale.at(second), f"{second // size} {unit}" if second else "0")
        for second in range(0, int(scale.high) + 1, step)
    ]


def make_count_scale(largest: float, start: float, end: float) -> AxisScale:
    """Return a linear axis of whole numbers from 0 to a round number of at least `largest` and 5."""
    step = _step(largest)
    return AxisScale(0.0, step * math.ceil(largest / step) if largest > _MIN_HIGH else _MIN_HIGH, start, end)


def make_percent_scale(largest: float, start: float, end: float) -> AxisScale:
    """Return a linear axis of percents from 0 to a round value of at least `largest`, in hundredths; to 5 if that is 0."""
    scale = make_count_scale(largest * _HUNDREDTHS, start, end)
    return replace(scale, high=scale.high / _HUNDREDTHS if largest else _MIN_HIGH)


def make_percent_ticks(scale: AxisScale) -> list[AxisTick]:
    """Return the ticks of a `make_percent_scale`."""
    step = _step(scale.high * _HUNDREDTHS) / _HUNDREDTHS
    return [AxisTick(scale.at(step * n), f"{step * n:.4g} %") for n in range(round(scale.high / step) + 1)]


def make_count_ticks(scale: AxisScale) -> list[AxisTick]:
    """Return four to six ticks of a `make_count_scale`, including both ends."""
    step = _step(scale.high)
    return [AxisTick(scale.at(step * n), format_count(step * n)) for n in range(round(scale.high / step) + 1)]


def _step(largest: float) -> float:
    """Return the smallest whole number of 1, 2, 2.5 and 5 times a power of ten that is a fifth of `largest` or more."""
    fifth = max(largest, _MIN_HIGH) / 5
    power = 10.0 ** math.floor(math.log10(fifth))
    rounded = (each * power for each in (1, 2, 2.5, 5, 10))
    return next(each for each in rounded if each.is_integer() and each >= fifth * (1 - 1e-9))


def format_count(number: float) -> str:
    """Format a number of requests in short, such as 2.5 k."""
    size, unit = next((each for each in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= each[0]), (1.0, ""))
    return f"{number / size:.3g} {unit}".rstrip()


def make_ratio_ticks(scale: AxisScale, min_distance: float) -> list[AxisTick]:
    """Return as many ticks of a log axis as fit with that distance; at least one if the axis has a round value."""
    chosen: list[float] = []
    for mantissas in _MANTISSAS:
        values = _round_values(scale, mantissas)
        positions = [scale.at(value) for value in values]
        if chosen and any(abs(b - a) < min_distance for a, b in itertools.pairwise(positions)):
            break
        chosen = values
    return [AxisTick(scale.at(value), f"{value:g}") for value in chosen]


def _round_values(scale: AxisScale, mantissas: Sequence[float]) -> list[float]:
    powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    values = [float(f"{mantissa * 10.0**power:.3g}") for power in powers for mantissa in mantissas]
    return [value for value in values if scale.shows(value)]
