"""The charts of a report as lines, bars and dots of a drawing of 400 × 200: what goes where, and nothing of how it looks. Pure."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sundog_operator.shell.report import scales
from sundog_operator.shell.report.build import format_point_interval
from sundog_operator.shell.report.model import (
    OUTSIDE,
    ROLLOUT,
    ExperimentReport,
    MetricPoint,
    ReportMetric,
    ReportPoint,
)
from sundog_operator.shell.report.scales import AxisScale, AxisTick

WIDTH: Final = 400
HEIGHT: Final = 200
LEFT: Final = 50
RIGHT: Final = 388
TOP: Final = 10
BOTTOM: Final = 172

_APART_X: Final = 58
_APART_Y: Final = 20
_ENOUGH: Final = 20
"""Requests between two looks, for their share to be drawn."""

_BEYOND: Final = 2.5
"""How many times further than what must be seen the ends of early intervals may take an axis."""

_WIDE: Final = 3.0
"""Of a line, with what has to be between it and the next one."""

_TOGETHER: Final = "together"
"""The kind of the line of all arms beside control."""

_ROOM: Final = 1.1
"""What is above the greatest weight, for lines that lie beside its own."""

_COLOURED: Final = {"Better": "better", "Worse": "worse", "Passed": "passed", "Harm": "harm"}
"""The verdicts that have a colour of their own."""

_LEAST_RATIO: Final = 1e-6

_FARTHEST: Final = 8.0
"""How many times further than the ratio the end of an interval is shown."""


@dataclass(frozen=True, slots=True)
class ChartLine:
    """A line through places as SVG has them; `kind` says what it stands for."""

    kind: str
    places: str


@dataclass(frozen=True, slots=True)
class IntervalBar:
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
class ChartDot:
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
    x_ticks: tuple[AxisTick, ...]
    y_ticks: tuple[AxisTick, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[ChartLine, ...] = ()
    bars: tuple[IntervalBar, ...] = ()
    dots: tuple[ChartDot, ...] = ()
    area: str = ""


def make_charts(report: ExperimentReport) -> list[Chart]:
    """Traffic, requests, and each metric of which anything is known."""
    time = AxisScale(0.0, report.seconds, LEFT, RIGHT)
    metrics = [_of_metric(metric, number, time) for number, metric in enumerate(report.metrics) if metric.bounds]
    return [*_of_looks(report, time), *metrics]


def format_elapsed(seconds: float) -> str:
    """A time since the begin, such as 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def _of_looks(report: ExperimentReport, time: AxisScale) -> Iterator[Chart]:
    if report.looks:
        yield _share(report.looks, time) if report.kind == ROLLOUT else _shares(report, time)
        yield _requests(report, time)


def _share(looks: Sequence[ReportPoint], time: AxisScale) -> Chart:
    """Of a rollout: stable has what its candidate has not."""
    up = scales.percent_scale(max(look.weight for look in looks), BOTTOM, TOP)
    counted = [None if shares is None else shares[-1] for shares in _counted(looks)]
    line = _joined(_held(looks, [up.at(look.weight) for look in looks], time))
    return Chart(
        ident="share",
        title="Traffic of the candidate",
        description="The percent of the traffic that goes to the candidate over time, as configured and as counted between two looks.",
        legend=(("candidate", "configured"), ("observed", "counted")),
        x_ticks=tuple(scales.time_ticks(time, _APART_X)),
        y_ticks=tuple(scales.percent_ticks(up)),
        head=("time", "configured", "counted until then"),
        rows=tuple(
            (format_elapsed(look.at_s), f"{look.weight:g} %", _share_told(share))
            for look, share in zip(looks, counted, strict=True)
        ),
        lines=(ChartLine("candidate", line),),
        dots=tuple(_dots("observed", looks, counted, time, up)),
        area=f"{_place(time.at(looks[0].at_s))},{BOTTOM} {line} {_place(time.end)},{BOTTOM}",
    )


@dataclass(frozen=True, slots=True)
class TrafficSeries:
    """What somebody was to get from each look on, and got until then, in percent; None where that is not known."""

    kind: str
    name: str
    weights: Sequence[float | None]
    counted: Sequence[float | None]

    @property
    def has_weights(self) -> bool:
        """Whether any weight is known."""
        return any(weight is not None for weight in self.weights)


def _shares(report: ExperimentReport, time: AxisScale) -> Chart:
    """Of an experiment: a line for control and one for each arm."""
    looks, courses = report.looks, list(make_traffic_series(report))
    drawn = [course for course in courses if course.has_weights]
    most = max(filter(None, (weight for course in drawn for weight in course.weights)), default=0)
    up = scales.percent_scale(min(most * _ROOM, 100), BOTTOM, TOP)
    return Chart(
        ident="share",
        title="Traffic of the arms",
        description=(
            "The percent of the traffic that goes to control and to each arm over time, as configured and as counted between two looks;"
            " what is left is stable's, outside of the experiment. Lines of the same percent lie side by side."
        ),
        legend=(*((course.kind, course.name) for course in courses), ("counted", "counted")),
        x_ticks=tuple(scales.time_ticks(time, _APART_X)),
        y_ticks=tuple(scales.percent_ticks(up)),
        head=("time", *(name for course in courses for name in _heads(course))),
        rows=tuple(
            (format_elapsed(look.at_s), *(cell for course in courses for cell in _cells(course, number)))
            for number, look in enumerate(looks)
        ),
        lines=tuple(
            ChartLine(course.kind, _joined(_held(looks, heights, time)))
            for course, heights in zip(drawn, _heights(drawn, up), strict=True)
        ),
        dots=tuple(dot for course in courses for dot in _dots(course.kind, looks, course.counted, time, up)),
    )


def make_traffic_series(report: ExperimentReport) -> Iterator[TrafficSeries]:
    """Those of control and of the arms; before them what all arms had together, where a history has no more than that."""
    looks, counted = report.looks, _counted(report.looks)
    if any(look.weights is None for look in looks):
        sums = [float(look.weight) if look.weights is None else None for look in looks]
        yield TrafficSeries(_TOGETHER, "beside control, rounded", sums, [None] * len(looks))
    for place, lane in enumerate(report.lanes):
        if lane.kind != OUTSIDE:
            yield TrafficSeries(
                lane.kind,
                lane.name,
                [None if look.weights is None else look.weights[place] for look in looks],
                [None if shares is None else shares[place] for shares in counted],
            )


def _heads(course: TrafficSeries) -> Iterator[str]:
    if course.has_weights:
        yield course.name
    if course.kind != _TOGETHER:
        yield f"{course.name}, counted"


def _cells(course: TrafficSeries, number: int) -> Iterator[str]:
    weight = course.weights[number]
    if course.has_weights:
        yield "–" if weight is None else f"{weight:g} %"
    if course.kind != _TOGETHER:
        yield _share_told(course.counted[number])


def _share_told(share: float | None) -> str:
    return "–" if share is None else f"{share:.3g} %"


def _counted(looks: Sequence[ReportPoint]) -> list[tuple[float, ...] | None]:
    """Percent of the requests that each lane got since the look before; None where they were too few to tell."""
    found: list[tuple[float, ...] | None] = [None]
    for before, look in itertools.pairwise(looks):
        since = [new - old for new, old in zip(look.requests, before.requests, strict=True)]
        known = min(since) >= 0 and sum(since) >= _ENOUGH
        found.append(tuple(100 * each / sum(since) for each in since) if known else None)
    return found


def _dots(
    kind: str, looks: Sequence[ReportPoint], shares: Sequence[float | None], time: AxisScale, up: AxisScale
) -> Iterator[ChartDot]:
    for look, share in zip(looks, shares, strict=True):
        if share is not None:
            yield ChartDot(kind, _place(time.at(look.at_s)), _place(up.at(share)))


def _heights(courses: Sequence[TrafficSeries], up: AxisScale) -> list[list[float | None]]:
    """Where the line of each course is from each look on; what would lie on each other lies side by side."""
    found: list[list[float | None]] = [[] for _ in courses]
    for weights in zip(*(course.weights for course in courses), strict=True):
        apart = iter(_side_by_side([up.at(weight) for weight in weights if weight is not None]))
        for heights, weight in zip(found, weights, strict=True):
            heights.append(None if weight is None else next(apart))
    return found


def _side_by_side(heights: Sequence[float]) -> list[float]:
    """Heights of lines with those that are closer than lines are wide moved apart, in their order and around where they were."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    groups: list[list[int]] = []
    for place in order:
        if groups and heights[place] - heights[groups[-1][-1]] < _WIDE:
            groups[-1].append(place)
        else:
            groups.append([place])
    found = [0.0] * len(heights)
    for group in groups:
        reach = _WIDE * (len(group) - 1)
        middle = sum(heights[place] for place in group) / len(group)
        top = min(max(middle - reach / 2, TOP), BOTTOM - reach)
        for number, place in enumerate(group):
            found[place] = top + number * _WIDE
    return found


def _held(looks: Sequence[ReportPoint], heights: Sequence[float | None], time: AxisScale) -> list[tuple[float, float]]:
    """Each height holds until the next look, the last one until the end."""
    ends = [*(time.at(look.at_s) for look in looks), time.end]
    known = [(x, after, y) for (x, after), y in zip(itertools.pairwise(ends), heights, strict=True) if y is not None]
    return [place for x, after, y in known for place in ((x, y), (after, y))]


def _requests(report: ExperimentReport, time: AxisScale) -> Chart:
    looks = report.looks
    drawn = [(place, lane) for place, lane in enumerate(report.lanes) if lane.kind != OUTSIDE]
    up = scales.count_scale(max(look.requests[place] for look in looks for place, _ in drawn), BOTTOM, TOP)
    who = "stable and the candidate" if report.kind == ROLLOUT else "control and each arm"
    return Chart(
        ident="requests",
        title="Requests by arm, in all since the begin",
        description=f"How many requests {who} have got since the begin.",
        legend=tuple((lane.kind, lane.name) for _, lane in drawn),
        x_ticks=tuple(scales.time_ticks(time, _APART_X)),
        y_ticks=tuple(scales.count_ticks(up)),
        head=("time", *(name for lane in report.lanes for name in (lane.name, "errors"))),
        rows=tuple(
            (
                format_elapsed(look.at_s),
                *(str(each) for pair in zip(look.requests, look.errors, strict=True) for each in pair),
            )
            for look in looks
        ),
        lines=tuple(
            ChartLine(lane.kind, _joined([(time.at(look.at_s), up.at(look.requests[place])) for look in looks]))
            for place, lane in drawn
        ),
    )


def _of_metric(metric: ReportMetric, number: int, time: AxisScale) -> Chart:
    up = make_ratio_scale(metric, BOTTOM, TOP)
    gates = metric.judged and any(bound.allowed != metric.margin for bound in metric.bounds)
    bars = tuple(_bar(bound, time, up) for bound in metric.bounds if bound.lower is not None or bound.ratio)
    lines = [ChartLine("one", _across(1.0, time, up))]
    legend = [("interval", "ratio and interval"), *_verdicts(bars), ("one", f"{metric.unit} (1)")]
    if metric.margin != 1:
        lines.append(ChartLine("margin", _across(metric.margin, time, up)))
        legend.append(("margin", f"margin ({metric.margin:.3g})"))
    if gates:
        lines.append(ChartLine("gate", _joined(_allowed(metric.bounds, time, up))))
        legend.append(("gate", "what the next gate lets pass"))
    asked = "Held to" if metric.type == "event" else "Wanted"
    return Chart(
        ident=f"metric-{number}",
        title=metric.name,
        description=(
            f"{metric.meaning}, and between which ends that is known to be, over time; on a log scale. {asked}: {metric.limit}."
            " An end beyond the drawing has an arrow."
        ),
        legend=tuple(legend),
        x_ticks=tuple(scales.time_ticks(time, _APART_X)),
        y_ticks=tuple(scales.ratio_ticks(up, _APART_Y)),
        head=("time", "ratio", "interval", "allowed", "verdict"),
        # A change of weight and a look may fall into one second.
        rows=tuple(dict.fromkeys(_row(bound, judged=metric.judged) for bound in metric.bounds)),
        lines=tuple(lines),
        bars=bars,
    )


def _verdicts(bars: Sequence[IntervalBar]) -> Iterator[tuple[str, str]]:
    """(kind, words) of the verdicts that have a colour of their own, of those that are there."""
    there = {bar.kind for bar in bars}
    return ((kind, verdict) for verdict, kind in _COLOURED.items() if kind in there)


def _across(ratio: float, time: AxisScale, up: AxisScale) -> str:
    return _joined([(time.start, up.at(ratio)), (time.end, up.at(ratio))])


def _allowed(bounds: Sequence[MetricPoint], time: AxisScale, up: AxisScale) -> Iterator[tuple[float, float]]:
    """What is allowed holds until another is."""
    ends = [*(time.at(bound.at_s) for bound in bounds), time.end]
    for (x, after), bound in zip(itertools.pairwise(ends), bounds, strict=True):
        yield from ((x, up.at(bound.allowed)), (after, up.at(bound.allowed)))


def _row(bound: MetricPoint, *, judged: bool) -> tuple[str, ...]:
    return (
        format_elapsed(bound.at_s),
        "–" if bound.ratio is None else f"{bound.ratio:.3g}",
        format_point_interval(bound) or "–",
        f"{bound.allowed:.3g}" if judged else "–",
        bound.verdict,
    )


def make_ratio_scale(metric: ReportMetric, start: float, end: float) -> AxisScale:
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
    return AxisScale(max(low / 1.1, _LEAST_RATIO), min(high * 1.1, 1 / _LEAST_RATIO), start, end, "log")


def _bar(bound: MetricPoint, time: AxisScale, up: AxisScale) -> IntervalBar:
    lower = bound.lower if bound.lower is not None else bound.ratio or up.low
    known = bound.lower is not None
    upper = bound.upper if bound.upper is not None else up.high if known else lower
    seen = bound.ratio is not None and up.shows(bound.ratio)
    return IntervalBar(
        kind=_COLOURED.get(bound.verdict, "open"),
        x=_place(time.at(bound.at_s)),
        top=_place(up.at(upper)),
        bottom=_place(up.at(max(lower, up.low))),
        cut_top=known and (bound.upper is None or bound.upper > up.high),
        cut_bottom=known and lower < up.low,
        centre=_place(up.at(bound.ratio)) if seen and bound.ratio is not None else None,
        told=f"{format_elapsed(bound.at_s)}: {' '.join(_row(bound, judged=False)[1:3])}, {bound.verdict}",
    )


def _joined(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_place(x)},{_place(y)}" for x, y in places)


def _place(value: float) -> float:
    """To a tenth: nobody sees more."""
    return round(value, 1)
