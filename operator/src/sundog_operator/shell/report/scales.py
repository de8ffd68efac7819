"""Axes: where a value lies, and round values to write beside it. Pure."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_PAUSES: Final = (
    *(1, 2, 5, 10, 15, 30),
    *(_MINUTE * each for each in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * each for each in (1, 2, 3, 6, 12)),
    *(_DAY * each for each in (1, 2, 5, 10, 20, 50, 100)),
)
"""Seconds between two ticks of a time axis."""

_LEAST: Final = 5.0
_HUNDREDTHS: Final = 100
"""In a percent: weights are no finer."""

_MANTISSAS: Final = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))
"""Of the ticks of an axis of ratios, the sparsest first."""


@dataclass(frozen=True, slots=True)
class AxisScale:
    """A range of values on a stretch of a drawing.

    Attributes:
        low: the value at `start`.
        high: the value at `end`, above `low`.
        start: where the axis begins.
        end: where it ends; below `start` for an axis that goes up.
        kind: linear, or log for values above 0.
    """

    low: float
    high: float
    start: float
    end: float
    kind: Literal["linear", "log"] = "linear"

    def at(self, value: float) -> float:
        """Where a value lies; one beyond an end lies at that end."""
        low, high, kept = self.low, self.high, min(max(value, self.low), self.high)
        if self.kind == "log":
            low, high, kept = math.log(low), math.log(high), math.log(kept)
        return self.start + (kept - low) / (high - low) * (self.end - self.start)

    def shows(self, value: float) -> bool:
        """Whether a value is between the ends."""
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class AxisTick:
    """A mark at a place of the drawing, with what is written beside it."""

    at: float
    text: str


def time_ticks(scale: AxisScale, apart: float) -> list[AxisTick]:
    """Ticks of an axis of seconds from 0 on, at least so far from each other."""
    per_second = abs(scale.end - scale.start) / scale.high
    pause = next((each for each in _PAUSES if each * per_second >= apart), _PAUSES[-1])
    size, unit = next(each for each in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (1, "s")) if pause % each[0] == 0)
    return [
        AxisTick(scale.at(second), f"{second // size} {unit}" if second else "0")
        for second in range(0, int(scale.high) + 1, pause)
    ]


def count_scale(most: float, start: float, end: float) -> AxisScale:
    """A linear axis of whole numbers from 0 to a round one that is no less than `most`, nor than 5."""
    step = _step(most)
    return AxisScale(0.0, step * math.ceil(most / step) if most > _LEAST else _LEAST, start, end)


def percent_scale(most: float, start: float, end: float) -> AxisScale:
    """The same of percents, down to hundredths: a weight of half a percent fills it. Of none at all it goes to 5."""
    scale = count_scale(most * _HUNDREDTHS, start, end)
    return replace(scale, high=scale.high / _HUNDREDTHS if most else _LEAST)


def percent_ticks(scale: AxisScale) -> list[AxisTick]:
    """Those of a `percent_scale`."""
    step = _step(scale.high * _HUNDREDTHS) / _HUNDREDTHS
    return [AxisTick(scale.at(step * n), f"{step * n:.4g} %") for n in range(round(scale.high / step) + 1)]


def count_ticks(scale: AxisScale) -> list[AxisTick]:
    """Four to six ticks of a `count_scale`, both ends among them."""
    step = _step(scale.high)
    return [AxisTick(scale.at(step * n), counted(step * n)) for n in range(round(scale.high / step) + 1)]


def _step(most: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that is whole, and a fifth of `most` or more."""
    fifth = max(most, _LEAST) / 5
    power = 10.0 ** math.floor(math.log10(fifth))
    rounded = (each * power for each in (1, 2, 2.5, 5, 10))
    return next(each for each in rounded if each.is_integer() and each >= fifth * (1 - 1e-9))


def counted(number: float) -> str:
    """A number of requests in short, such as 2.5 k."""
    size, unit = next((each for each in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= each[0]), (1.0, ""))
    return f"{number / size:.3g} {unit}".rstrip()


def ratio_ticks(scale: AxisScale, apart: float) -> list[AxisTick]:
    """Ticks of a log axis, as many as are so far from each other; at least one at a round value where there is any."""
    chosen: list[float] = []
    for mantissas in _MANTISSAS:
        found = _between(scale, mantissas)
        places = [scale.at(value) for value in found]
        if chosen and any(abs(b - a) < apart for a, b in itertools.pairwise(places)):
            break
        chosen = found
    return [AxisTick(scale.at(value), f"{value:g}") for value in chosen]


def _between(scale: AxisScale, mantissas: Sequence[float]) -> list[float]:
    powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    values = [float(f"{mantissa * 10.0**power:.3g}") for power in powers for mantissa in mantissas]
    return [value for value in values if scale.shows(value)]
