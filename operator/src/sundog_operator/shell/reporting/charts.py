"""The charts of a report as lines, bars and dots of a drawing of 400 × 200: what goes where, and nothing of how it looks. Pure."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sundog_operator.shell.reporting import scales
from sundog_operator.shell.reporting.content import Bound, Look, Metric, Report, told_interval
from sundog_operator.shell.reporting.scales import Scale, Tick

WIDTH: Final = 400
HEIGHT: Final = 200
LEFT: Final = 46
RIGHT: Final = 388
TOP: Final = 10
BOTTOM: Final = 172

_APART_X: Final = 58
_APART_Y: Final = 20
_ENOUGH: Final = 20
"""Requests between two looks, for their share to be drawn."""

_BEYOND: Final = 2.5
"""How many times further than what must be seen the ends of early intervals may take an axis."""

_LEAST_RATIO: Final = 1e-6

_FARTHEST: Final = 8.0
"""How many times further than the ratio the end of an interval is shown."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line through places as SVG has them; `kind` says what it stands for."""

    kind: str
    places: str


@dataclass(frozen=True, slots=True)
class Bar:
    """An interval: its ends, whether the drawing ends before it does, and where the ratio is, if it is known and in sight."""

    kind: str
    x: float
    top: float
    bottom: float
    cut_top: bool
    cut_bottom: bool
    centre: float | None
    told: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A place."""

    kind: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, what it shows in words, and its numbers.

    Attributes:
        ident: unique in a document.
        title: what is shown.
        description: how it is to be read.
        legend: (kind, words) of what is drawn.
        rows: its numbers as a table below `head`.
    """

    ident: str
    title: str
    description: str
    legend: tuple[tuple[str, str], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    dots: tuple[Dot, ...] = ()
    area: str = ""


def charts_of(report: Report) -> list[Chart]:
    """Traffic, requests, and each metric of which anything is known."""
    time = Scale(0.0, report.seconds, LEFT, RIGHT)
    metrics = [_of_metric(metric, number, time) for number, metric in enumerate(report.metrics) if metric.bounds]
    return [*_of_looks(report.looks, time), *metrics]


def elapsed(seconds: float) -> str:
    """A time since the begin, such as 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def _of_looks(looks: Sequence[Look], time: Scale) -> Iterator[Chart]:
    if looks:
        yield _share(looks, time)
        yield _requests(looks, time)


def _share(looks: Sequence[Look], time: Scale) -> Chart:
    up = scales.count_scale(max(look.weight for look in looks), BOTTOM, TOP)
    steps = [(look.at_s, float(look.weight)) for look in looks]
    observed = list(_observed(looks))
    line = _stepped([*steps, (time.high, steps[-1][1])], time, up)
    by_time = dict(observed)
    return Chart(
        ident="share",
        title="Traffic of the candidate",
        description="The percent of the traffic that goes to the candidate over time, as configured and as counted between two looks.",
        legend=(("candidate", "configured"), ("observed", "counted")),
        x_ticks=tuple(scales.time_ticks(time, _APART_X)),
        y_ticks=tuple(Tick(tick.at, f"{tick.text} %") for tick in scales.count_ticks(up)),
        head=("time", "configured", "counted until then"),
        rows=tuple(
            (elapsed(at), f"{weight:g} %", f"{by_time[at]:.3g} %" if at in by_time else "–") for at, weight in steps
        ),
        lines=(Line("candidate", line),),
        dots=tuple(Dot("observed", _place(time.at(at)), _place(up.at(share))) for at, share in observed),
        area=f"{_place(time.at(steps[0][0]))},{BOTTOM} {line} {_place(time.end)},{BOTTOM}",
    )


def _observed(looks: Sequence[Look]) -> Iterator[tuple[float, float]]:
    """(time, percent) of the requests that the candidate got since the look before."""
    for before, look in itertools.pairwise(looks):
        stable, canary = (new - old for new, old in zip(look.requests, before.requests, strict=True))
        if min(stable, canary) >= 0 and stable + canary >= _ENOUGH:
            yield look.at_s, 100 * canary / (stable + canary)


def _requests(looks: Sequence[Look], time: Scale) -> Chart:
    up = scales.count_scale(max(max(look.requests) for look in looks), BOTTOM, TOP)
    lines = tuple(
        Line(kind, _joined([(look.at_s, float(look.requests[index])) for look in looks], time, up))
        for index, kind in enumerate(("stable", "candidate"))
    )
    return Chart(
        ident="requests",
        title="Requests by arm",
        description="How many requests stable and the candidate have got since the rollout began.",
        legend=(("stable", "stable"), ("candidate", "candidate")),
        x_ticks=tuple(scales.time_ticks(time, _APART_X)),
        y_ticks=tuple(scales.count_ticks(up)),
        head=("time", "stable", "errors", "candidate", "errors"),
        rows=tuple(
            (elapsed(look.at_s), *(str(each) for pair in zip(look.requests, look.errors, strict=True) for each in pair))
            for look in looks
        ),
        lines=lines,
    )


def _of_metric(metric: Metric, number: int, time: Scale) -> Chart:
    up = ratio_scale(metric, BOTTOM, TOP)
    allowed = [(bound.at_s, bound.allowed) for bound in metric.bounds]
    margin = [(0.0, metric.margin), (time.high, metric.margin)]
    stable = [(0.0, 1.0), (time.high, 1.0)]
    gates = metric.judged and any(bound.allowed != metric.margin for bound in metric.bounds)
    lines = [Line("one", _joined(stable, time, up))]
    legend = [("interval", "ratio and interval"), ("one", "as often as stable (1)")]
    if metric.margin != 1:
        lines.append(Line("margin", _joined(margin, time, up)))
        legend.append(("margin", f"margin ({metric.margin:.3g})"))
    if gates:
        lines.append(Line("gate", _stepped([*allowed, (time.high, allowed[-1][1])], time, up)))
        legend.append(("gate", "what the next gate lets pass"))
    return Chart(
        ident=f"metric-{number}",
        title=metric.name,
        description=(
            f"How many times as often it happens with the candidate as with stable, and between which ends that is known to be, over time;"
            f" on a log scale. Held to: {metric.limit}. An end beyond the drawing has an arrow."
        ),
        legend=tuple(legend),
        x_ticks=tuple(scales.time_ticks(time, _APART_X)),
        y_ticks=tuple(scales.ratio_ticks(up, _APART_Y)),
        head=("time", "ratio", "interval", "allowed", "verdict"),
        rows=tuple(_row(bound, judged=metric.judged) for bound in metric.bounds),
        lines=tuple(lines),
        bars=tuple(_bar(bound, time, up) for bound in metric.bounds if bound.lower is not None or bound.ratio),
    )


def _row(bound: Bound, *, judged: bool) -> tuple[str, ...]:
    return (
        elapsed(bound.at_s),
        "–" if bound.ratio is None else f"{bound.ratio:.3g}",
        told_interval(bound) or "–",
        f"{bound.allowed:.3g}" if judged else "–",
        bound.verdict,
    )


def ratio_scale(metric: Metric, start: float, end: float) -> Scale:
    """An axis with everything that decides: limits, ratios, and the last interval; of the others what is not far beyond."""
    last = metric.bounds[-1]
    ratios = [bound.ratio for bound in metric.bounds if bound.ratio]
    limits = [1.0, metric.margin, *(bound.allowed for bound in metric.bounds if metric.judged)]
    # Of what stable never had the lower end is all that is known.
    known = [*limits, *ratios, *([last.lower] if last.ratio is None and last.lower else [])]
    low, high = min(known), max(known)
    low = min(low, max(last.lower or 0.0, low / _FARTHEST))
    high = max(high, min(last.upper or 0.0, high * _FARTHEST))
    lowers = [bound.lower for bound in metric.bounds if bound.lower]
    uppers = [bound.upper for bound in metric.bounds if bound.upper]
    low = min(low, max(min(lowers, default=low), low / _BEYOND))
    high = max(high, min(max(uppers, default=high), high * _BEYOND))
    # A status that somebody damaged may hold any number.
    return Scale(max(low / 1.1, _LEAST_RATIO), min(high * 1.1, 1 / _LEAST_RATIO), start, end, "log")


def _bar(bound: Bound, time: Scale, up: Scale) -> Bar:
    lower = bound.lower if bound.lower is not None else bound.ratio or up.low
    known = bound.lower is not None
    upper = bound.upper if bound.upper is not None else up.high if known else lower
    seen = bound.ratio is not None and up.shows(bound.ratio)
    return Bar(
        kind={"Harm": "harm", "Passed": "passed"}.get(bound.verdict, "open"),
        x=_place(time.at(bound.at_s)),
        top=_place(up.at(upper)),
        bottom=_place(up.at(max(lower, up.low))),
        cut_top=known and (bound.upper is None or bound.upper > up.high),
        cut_bottom=known and lower < up.low,
        centre=_place(up.at(bound.ratio)) if seen and bound.ratio is not None else None,
        told=f"{elapsed(bound.at_s)}: {' '.join(_row(bound, judged=False)[1:3])}, {bound.verdict}",
    )


def _joined(places: Sequence[tuple[float, float]], time: Scale, up: Scale) -> str:
    return " ".join(f"{_place(time.at(x))},{_place(up.at(y))}" for x, y in places)


def _stepped(places: Sequence[tuple[float, float]], time: Scale, up: Scale) -> str:
    """Each value holds until the next one."""
    corners = [(after[0], before[1]) for before, after in itertools.pairwise(places)]
    return _joined([each for pair in zip(places, [*corners, places[-1]], strict=True) for each in pair], time, up)


def _place(value: float) -> float:
    """To a tenth: nobody sees more."""
    return round(value, 1)
