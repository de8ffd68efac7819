"""The final figures of a report as tables of text, for a terminal and for a page. Pure functions."""

from dataclasses import dataclass

from sundog_operator.api import MetricStatus
from sundog_operator.core import metric_text
from sundog_operator.shell.report.model import ROLLOUT, ExperimentReport, ReportArm, ReportMetric


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table of text. The first `words` columns hold words, the others numbers."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


def make_tables(report: ExperimentReport) -> list[ReportTable]:
    """Return the table of arms, and the table of metrics if it has rows."""
    total = sum(arm.requests for arm in report.arms)
    with_units = any(arm.units is not None for arm in report.arms)
    arms = ReportTable(
        "Sample",
        (
            *("ARM", "REVISION", "WEIGHT", "REQUESTS", "SHARE", "EVIDENCE", "ERRORS", "ERROR RATE"),
            *([report.units_head.upper()] if with_units else []),
        ),
        tuple(_arm_cells(arm, total) for arm in report.arms),
    )
    metrics = ReportTable(
        f"Metrics, with the events of {'both arms' if report.kind == ROLLOUT else 'control and of the arm'}",
        ("METRIC", "ROLE", "VERDICT", "VALUES", "CHANGE", "ALLOWED", *(name.upper() for name in report.arms_compared)),
        tuple(
            _metric_cells(metric, metric.last)
            for metric in report.metrics
            if metric.last is not None and metric_text.is_shown(metric.last)
        ),
        words=3,
    )
    values = ReportTable(
        "Values, each with the units or requests behind it and an interval of its own",
        ("METRIC", *(head for name in report.arms_compared for head in (name.upper(), "OF")), "CHANGE"),
        tuple(
            _value_cells(metric, metric.last)
            for metric in report.metrics
            if metric.last is not None and metric.last.values and metric_text.is_shown(metric.last)
        ),
    )
    return [table for table in (arms, metrics, values) if table.rows]


def _value_cells(metric: ReportMetric, last: MetricStatus) -> tuple[str, ...]:
    own = (cell for each in last.values or () for cell in (metric_text.describe_value(last, each), str(each.count)))
    return (metric.name, *own, metric_text.format_change(last))


def _arm_cells(arm: ReportArm, total: int) -> tuple[str, ...]:
    return (
        arm.name,
        f"r{arm.revision}",
        f"{arm.weight:g} %",
        str(arm.requests),
        f"{arm.requests / total:.1%}" if total else "–",
        "–" if arm.evidence is None else str(arm.evidence),
        str(arm.errors),
        "–" if arm.error_rate is None else f"{arm.error_rate:.3%}",
        *([] if arm.units is None else [arm.units_text]),
    )


def _metric_cells(metric: ReportMetric, last: MetricStatus) -> tuple[str, ...]:
    events = metric_text.format_events(last).split("/") if last.events else []
    stable, candidate = (*events, "–", "–")[:2]
    return (
        metric.name,
        last.role,
        metric_text.format_verdict(last),
        metric_text.format_values(last),
        metric_text.format_change(last),
        metric_text.format_allowed(last) if metric.judged else "–",
        stable,
        candidate,
    )
