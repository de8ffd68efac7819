"""Charts that only an Experiment has: units and their split, effects by day, power, and the probability to be best. Pure functions."""

from collections.abc import Iterator, Sequence
from typing import Final

from sundog_operator.shell.report import chart_parts, scales
from sundog_operator.shell.report.chart_parts import Chart, ChartLine, IntervalBar
from sundog_operator.shell.report.model import (
    OUTSIDE,
    ArmChance,
    ExperimentReport,
    MetricPoint,
    OutcomeChances,
    PeriodEffect,
    ReportMetric,
)
from sundog_operator.shell.report.scales import AxisScale, AxisTick

PLANNED_POWER: Final = 0.8
"""The usual power of a plan, which a chart marks."""


def make_units_chart(report: ExperimentReport, time: AxisScale) -> Iterator[Chart]:
    """Yield the chart of units of control and of each arm, if they were counted exactly."""
    points = [(point.at_s, point.units) for point in report.points if point.units is not None]
    lanes = [(index, lane) for index, lane in enumerate(report.lanes) if lane.kind != OUTSIDE]
    if not points or not any(max(units) for _, units in points):
        return
    up = scales.make_count_scale(
        max(units[index] for _, units in points for index, _ in lanes), chart_parts.BOTTOM, chart_parts.TOP
    )
    series: list[chart_parts.Series] = [
        (lane.kind, lane.name, [(at_s, float(units[index])) for at_s, units in points]) for index, lane in lanes
    ]
    yield chart_parts.make_line_chart(
        ident="units",
        title="Units by arm since the warm-up",
        description="The number of units that were first exposed in control and in each arm, exactly, and their split in percent.",
        series=series,
        up=up,
        y_ticks=scales.make_count_ticks(up),
        time=time,
        head=("time", *(name for _, lane in lanes for name in (lane.name, "split"))),
        rows=tuple(
            (chart_parts.format_elapsed(at_s), *_split_cells([units[index] for index, _ in lanes]))
            for at_s, units in points
        ),
    )


def _split_cells(units: Sequence[int]) -> Iterator[str]:
    whole = sum(units)
    for own in units:
        yield str(own)
        yield f"{100 * own / whole:.1f} %" if whole else "–"


def make_period_chart(metric: ReportMetric, number: int) -> Iterator[Chart]:
    """Yield the chart of a metric's effect by day or by hour, if there are two of them at least."""
    periods = metric.periods
    if len(periods) < 2:
        return
    as_points = tuple(
        MetricPoint(place + 0.5, each.ratio, each.lower, each.upper, "", metric.margin)
        for place, each in enumerate(periods)
    )
    across = AxisScale(0.0, float(len(periods)), chart_parts.LEFT, chart_parts.RIGHT)
    up = chart_parts.make_ratio_scale(as_points, metric)
    rows = tuple(_period_row(each) for each in periods)
    lines = [ChartLine("one", chart_parts.horizontal_line(1.0, across, up))]
    legend = [("interval", f"ratio of the {metric.period}, with its interval"), ("one", f"{metric.unit} (1)")]
    if metric.effect is not None:
        lines.append(ChartLine("effect", chart_parts.horizontal_line(metric.effect, across, up)))
        legend.append(("effect", f"minimum effect ({metric.effect:.3g})"))
    yield Chart(
        ident=f"period-{number}",
        title=f"{metric.name} by {metric.period}",
        description=(
            f"{metric.meaning}, of the units and outcomes that each {metric.period} (UTC) added, on a log scale. An effect that fades"
            f" suggests novelty. An interval is of that {metric.period} alone; of many, some miss the truth."
        ),
        note=(
            f"Of what each {metric.period} added alone. An effect that fades suggests novelty; of many intervals, some miss the truth."
        ),
        legend=tuple(legend),
        x_ticks=tuple(_period_ticks(periods, across)),
        y_ticks=tuple(scales.make_ratio_ticks(up, 20)),
        head=(metric.period, "units", "values", "ratio", "interval"),
        rows=rows,
        lines=tuple(lines),
        bars=tuple(_period_bar(point, row, across, up) for point, row in zip(as_points, rows, strict=True)),
    )


def _period_bar(point: MetricPoint, row: tuple[str, ...], across: AxisScale, up: AxisScale) -> IntervalBar:
    bar = chart_parts.make_bar(point, across, up)
    return IntervalBar(
        "open", bar.x, bar.top, bar.bottom, bar.cut_top, bar.cut_bottom, bar.centre, f"{row[0]}: {row[3]}, {row[4]}"
    )


def _period_ticks(periods: Sequence[PeriodEffect], across: AxisScale) -> Iterator[AxisTick]:
    each = -(-len(periods) // 6)
    for place in range(0, len(periods), each):
        yield AxisTick(across.at(place + 0.5), periods[place].label)


def _period_row(each: PeriodEffect) -> tuple[str, ...]:
    interval = "–" if each.lower is None or each.upper is None else f"{each.lower:.3g}–{each.upper:.3g}"
    values = " → ".join(f"{own:.4g}" for own in each.values)
    ratio = "–" if each.ratio is None else f"{each.ratio:.3g}"
    return each.label, f"{each.units[0]}/{each.units[1]}", values, ratio, interval


def make_chance_charts(report: ExperimentReport, time: AxisScale) -> Iterator[Chart]:
    """Yield the charts of power and of the probability to be best of each success metric."""
    for number, chances in enumerate(report.chances):
        powers = _chance_series(report, chances, "power")
        if powers:
            yield _percent_chart(
                f"power-{number}",
                f"{chances.metric}: power reached",
                f"The probability that so many units show an effect of {100 * chances.effect:.3g} %, the plan's, at one look. It says"
                " nothing of the effect seen.",
                powers,
                time,
                PLANNED_POWER,
            )
        best = _chance_series(report, chances, "best")
        if best:
            yield _percent_chart(
                f"best-{number}",
                f"{chances.metric}: probability to be best",
                "The probability that the arm's true value is the best, if all values were as likely before. It is no test: it holds"
                " at no fixed error, and chance alone moves it far.",
                best,
                time,
            )


def _chance_series(report: ExperimentReport, chances: OutcomeChances, name: str) -> list[chart_parts.Series]:
    found: list[chart_parts.Series] = []
    for lane, own in zip(report.lanes, chances.lanes, strict=True):
        values = [(each.at_s, value) for each in own if (value := _chance(each, name)) is not None]
        if values:
            found.append((lane.kind, lane.name, values))
    return found


def _chance(each: ArmChance, name: str) -> float | None:
    return each.power if name == "power" else each.best


def _percent_chart(
    ident: str,
    title: str,
    description: str,
    series: Sequence[chart_parts.Series],
    time: AxisScale,
    mark: float | None = None,
) -> Chart:
    up = AxisScale(0.0, 1.0, chart_parts.BOTTOM, chart_parts.TOP)
    times = sorted({at_s for _, _, values in series for at_s, _ in values})
    by_time = [dict(values) for _, _, values in series]
    return chart_parts.make_line_chart(
        ident=ident,
        title=title,
        description=description,
        note=description,
        series=series,
        up=up,
        y_ticks=[AxisTick(up.at(each / 4), f"{25 * each} %") for each in range(5)],
        time=time,
        head=("time", *(name for _, name, _ in series)),
        rows=tuple(
            (chart_parts.format_elapsed(at_s), *(f"{100 * own[at_s]:.1f} %" if at_s in own else "–" for own in by_time))
            for at_s in times
        ),
        extra=[]
        if mark is None
        else [
            (ChartLine("effect", chart_parts.horizontal_line(mark, time, up)), f"{100 * mark:.0f} %, usual in a plan")
        ],
    )
