"""The final figures of a report as tables of text, for a terminal and for a page. Pure functions."""

from dataclasses import dataclass

from sundog_operator.api import MetricStatus
from sundog_operator.shell.describe_experiment import format_interval, format_verdict
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
            *(["UNITS"] if with_units else []),
        ),
        tuple(_arm_cells(arm, total) for arm in report.arms),
    )
    metrics = ReportTable(
        f"Metrics, with the events of {'both arms' if report.kind == ROLLOUT else 'control and of the arm'}",
        ("METRIC", "ROLE", "VERDICT", *(name.upper() for name in report.arms_compared), "RATIO", "INTERVAL", "ALLOWED"),
        tuple(_metric_cells(metric, metric.last) for metric in report.metrics if metric.last is not None),
        words=3,
    )
    return [table for table in (arms, metrics) if table.rows]


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
        *([] if arm.units is None else [str(arm.units)]),
    )


def _metric_cells(metric: ReportMetric, last: MetricStatus) -> tuple[str, ...]:
    stable, candidate = (*map(str, last.events), "–", "–")[:2]
    return (
        metric.name,
        last.role,
        format_verdict(last),
        stable,
        candidate,
        "–" if last.ratio is None else f"{last.ratio:.3g}",
        format_interval(last) or "–",
        f"{last.allowed:.3g}" if metric.judged and last.allowed is not None else "–",
    )
