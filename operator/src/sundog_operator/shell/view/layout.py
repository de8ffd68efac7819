"""Lay out sections, facts, conditions and events for terminals."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sundog_operator.api import Condition
from sundog_operator.api.conditions import has_problem
from sundog_operator.api.reasons import is_documented, reason_link
from sundog_operator.ports import Object


def title_line(text: str) -> RenderableType:
    """Return a heading."""
    return Text(text, style="bold")


def make_section(title: str, body: RenderableType | None) -> list[RenderableType]:
    """Return a heading with its body; empty without a body."""
    return [] if body is None else [Text(), title_line(title), body]


def facts_section(facts: Iterable[tuple[str, str]]) -> RenderableType:
    """Return names and values in two columns."""
    table = grid("", "")
    for name, value in facts:
        table.add_row(Text(name), Text(value))
    return table


def grid(*columns: str, header: bool = False) -> Table:
    """Return a table without lines."""
    table = Table(box=None, show_header=header, header_style="", pad_edge=True, padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        last = index == len(columns) - 1
        table.add_column(name, overflow="fold", no_wrap=not last and name != "REASON")
    return table


def conditions_section(conditions: Sequence[Condition], now: datetime) -> RenderableType | None:
    """Return conditions as a table; None if there are none."""
    table = grid("TYPE", "STATUS", "SINCE", "REASON", "MESSAGE", header=True)
    for each in conditions:
        table.add_row(
            *map(Text, (each.type, each.status, ago(each.last_transition_time, now), each.reason, each.message))
        )
    return table if conditions else None


def reasons_section(conditions: Sequence[Condition]) -> RenderableType | None:
    """Return each reason of a condition that is not as it should be, with the link to its entry; None if all are."""
    found = dict.fromkeys(each.reason for each in conditions if has_problem(each) and is_documented(each.reason))
    return facts_section((reason, reason_link(reason)) for reason in found) if found else None


def events_section(events: Sequence[Object], now: datetime) -> RenderableType | None:
    """Return events as a table, oldest first; None if there are none."""
    table = grid("AGO", "REASON", "NOTE", header=True)
    for event in sorted(events, key=_time_of):
        table.add_row(
            *map(Text, (ago(_parse_time(_time_of(event)), now), event.get("reason", ""), event.get("note", "")))
        )
    return table if events else None


def _time_of(event: Object) -> str:
    return str(event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def _parse_time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def ago(since: Any, now: datetime) -> str:
    """Format the time since then in one unit; empty if `since` is no time."""
    return format_span(max(now - since, timedelta(0))) if isinstance(since, datetime) else ""


def format_seconds(time: timedelta) -> str:
    """Format a duration for readers, such as `4.2 s`, `55 s` or `5 min 7 s`."""
    seconds = time.total_seconds()
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes >= 2 else f"{round(seconds)} s"


def format_span(time: timedelta) -> str:
    """Format a duration in one unit, such as `5m`."""
    seconds = int(time.total_seconds())
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * unit:
            return f"{seconds // unit}{name}"
    return f"{seconds}s"
