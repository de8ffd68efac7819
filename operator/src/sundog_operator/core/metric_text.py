"""Text of the state of a metric, the same in all views: messages, `describe`, and reports. Without numpy, which is slow to import."""

import math
from typing import Final

from sundog_operator.api import ArmStatus, ExperimentStatus, MetricStatus, MetricValue
from sundog_operator.api.reasons import MetricNote
from sundog_operator.api.rollout.guardrail_defaults import EDGE_METRICS
from sundog_operator.core.stats.known_ends import known_ends

_SHADOW: Final = "shadow"
"""Role of the comparison of copies, whose ratio is a share of them and no change."""
_UNKNOWN: Final = "unknown"
_NO_VALUE: Final = "–"
_LEAST_DISPERSION: Final = 1.5
"""Dispersion from which on a text has the number of independent events."""


def _metric_ends(metric: MetricStatus) -> tuple[float, ...]:
    return known_ends(*(*metric.interval, math.inf)[:2]) if metric.interval else ()


def format_interval(metric: MetricStatus) -> str:
    """Format the interval of a ratio, and note if it is of this step only; empty without one, `unknown` if it says nothing."""
    basis = " in this step" if metric.basis == "ThisStep" else ""
    match _metric_ends(metric):
        case (lower, upper):
            return f"{lower:.3g}–{upper:.3g}{basis}"
        case (lower,):
            return f"{lower:.3g}–{basis}"
    return _UNKNOWN if metric.interval else ""


def format_change(metric: MetricStatus) -> str:
    """Format a ratio and its interval as a change, such as `+64 % (36 to 115)`; a dash if nothing was compared."""
    if (metric.ratio is None and not metric.interval) or metric.role == _SHADOW:
        return _NO_VALUE
    basis = " in this step" if metric.basis == "ThisStep" else ""
    ends = _metric_ends(metric)
    if metric.ratio is None and len(ends) < 2:
        return f"{_percent(ends[0] - 1, sign=True)} % or more{basis}" if ends else _UNKNOWN
    change = _UNKNOWN if metric.ratio is None else f"{_percent(metric.ratio - 1, sign=True)} %"
    if not ends:
        between = _UNKNOWN
    elif len(ends) == 1:
        between = f"{_percent(ends[0] - 1)} or more"
    else:
        between = f"{_percent(ends[0] - 1)} to {_percent(ends[1] - 1)}"
    return f"{change} ({between}){basis}"


def format_allowed(metric: MetricStatus) -> str:
    """Format the allowed ratio as a change; a dash without one."""
    if metric.allowed is None:
        return _NO_VALUE
    if metric.role == _SHADOW:
        return f"{_percent(metric.allowed)} %"
    return f"{_percent(metric.allowed - 1, sign=True)} %"


def _percent(share: float, *, sign: bool = False) -> str:
    number = 100 * share
    text = f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"
    return f"+{text}" if sign and number >= 0 else text


def format_value(metric: MetricStatus, value: float | None) -> str:
    """Format a rate as a percentage, and a mean or a ratio as a number."""
    if value is None:
        return _NO_VALUE
    return f"{100 * value:.3g} %" if metric.measure == "rate" else f"{value:.4g}"


def format_values(metric: MetricStatus) -> str:
    """Format the values of control and of the arm, such as `20.6 % → 33.8 %`, or the share of copies; a dash without values."""
    if metric.role == _SHADOW and metric.ratio is not None:
        ends = f" ({' to '.join(map(_percent, metric.interval))})" if len(metric.interval) == 2 else ""
        return f"{_percent(metric.ratio)} %{ends}"
    if not metric.values:
        return _NO_VALUE
    return " → ".join(format_value(metric, each.value) for each in metric.values)


def describe_values(metric: MetricStatus) -> str:
    """Describe values, intervals and denominators, and the change: `20.6 % (18.1 to 23.3) of 2902 → …, +64 % (36 to 115)`."""
    if not metric.values:
        return format_change(metric)
    values = " → ".join(f"{describe_value(metric, each)} of {each.count}" for each in metric.values)
    return f"{values}, {format_change(metric)}"


def summarize_values(metric: MetricStatus) -> str:
    """Return values and change in short, such as `20.6 % → 33.8 %, +64 % (36 to 115)`."""
    return f"{format_values(metric)}, {format_change(metric)}" if metric.values else format_change(metric)


def describe_value(metric: MetricStatus, own: MetricValue) -> str:
    """Return a value with its interval, such as `20.6 % (18.1 to 23.3)`."""
    between = f" ({_UNKNOWN})"
    if own.interval:
        lower, upper = own.interval
        is_rate = metric.measure == "rate"
        between = f" ({_percent(lower)} to {_percent(upper)})" if is_rate else f" ({lower:.4g} to {upper:.4g})"
    return f"{format_value(metric, own.value)}{between if own.value is not None else ''}"


def format_events(metric: MetricStatus) -> str:
    """Format the events of both arms, such as `12/9`, with those of an unknown end apart: `0 + 5 lost/0`."""
    lost = metric.lost or (0,) * len(metric.events)
    return "/".join(
        f"{max(events - own, 0)} + {own} lost" if own else str(events)
        for events, own in zip(metric.events, lost, strict=True)
    )


def describe_independence(metric: MetricStatus) -> str:
    """Describe as how many independent events the events count; empty if they count about in full."""
    events, independent = sum(metric.events), metric.independent_events
    if independent is None or not events or events < _LEAST_DISPERSION * independent:
        return ""
    return f"{events} {event_noun(metric.name)} count as about {independent:.3g} independent events"


def units_head(status: ExperimentStatus) -> str:
    """Return the head of the column of units, with the period that they are counted in."""
    sources = {arm.units_from for arm in status.arms}
    if "exposures" in sources:
        return "Units of the evidence"
    return "Units since the start" if status.plan.comparison is not None else "Units"


def format_units(arm: ArmStatus, status: ExperimentStatus) -> str:
    """Format the units of an arm, with `≈` if they are estimated, as those of units in statuses of earlier releases are."""
    unit = status.plan.unit
    is_sticky = unit is not None and unit.kind != "request"
    is_estimated = arm.units_from == "sample" or (arm.units_from is None and is_sticky)
    return f"≈ {arm.units}" if is_estimated and arm.units else str(arm.units)


def event_noun(metric: str) -> str:
    """Return what the events of a metric of the edge are called."""
    return EDGE_METRICS[metric].events if metric in EDGE_METRICS else "events"


def format_verdict(metric: MetricStatus) -> str:
    """Format a verdict, and that an undecided secondary metric is a discovery nevertheless."""
    return f"{metric.verdict}, differs" if metric.note == MetricNote.DISCOVERY else metric.verdict


def is_shown(metric: MetricStatus) -> bool:
    """Report whether a table has a row for it: a metric that can only do harm needs an event, and so does its interval."""
    return metric.role != "harm" or any(metric.events) or metric.verdict == "Harm"
