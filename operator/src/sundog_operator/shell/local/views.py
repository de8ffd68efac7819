"""Output of `sundog local up`: a live table on a terminal, else one plain line per change."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sundog_operator.ports import Object
from sundog_operator.shell.view import palette

log = logging.getLogger("sundog.local")

_SHOWN_EVENTS: Final = 8
_COLUMNS: Final = ("NAME", "READY", "REASON", "STABLE", "CANDIDATE", "WEIGHT", "REPLICAS", "URL")


class InstanceView:
    """Shows changes and problems of an instance, and logs them. A view overrides what it shows."""

    def notice(self, text: str) -> None:
        """Show an action of the instance."""
        log.info("%s", text)

    def problem(self, text: str) -> None:
        """Show a new problem for the user to fix."""
        log.warning("%s", text)

    def show_problems(self, problems: Sequence[str]) -> None:
        """Show all present problems of manifests. `problem` has shown each of them before."""

    def deployments(self, objects: Sequence[Object]) -> None:
        """Show the present state of all ModelDeployments."""

    def event(self, event: Object) -> None:
        """Show an event of an object."""
        log.log(logging.WARNING if event["type"] == "Warning" else logging.INFO, "%s", format_event(event))

    def close(self) -> None:
        """Stop showing."""


def make_summary_row(obj: Object) -> dict[str, str]:
    """Return the summary of a ModelDeployment by column."""
    meta, status = obj["metadata"], obj.get("status") or {}
    ready: dict[str, Any] = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), {})
    stable, candidate = status.get("stable"), status.get("candidate")
    return {
        "NAME": f"{meta['namespace']}/{meta['name']}",
        "READY": ready.get("status", "Unknown"),
        "REASON": ready.get("reason", "Pending"),
        "STABLE": _format_revision(stable),
        "CANDIDATE": _format_revision(candidate),
        "WEIGHT": f"{candidate['weight']} %" if candidate else "-",
        "REPLICAS": f"{status.get('readyReplicas', 0)}/{status.get('replicas', 0)}",
        "URL": status.get("url") or "-",
        "MESSAGE": ready.get("message", ""),
    }


def _format_revision(revision: Any) -> str:
    return f"r{revision['revision']}" if revision else "-"


def format_event(event: Object) -> str:
    """Format an event as one line."""
    regarding = event["regarding"]
    return f"{regarding['namespace']}/{regarding['name']}: {event['reason']}: {event['note']}"


class LineView(InstanceView):
    """A view with one plain line per change, for scripts and logs. With `quiet` it prints only problems, on standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._shown: dict[str, str] = {}

    def notice(self, text: str) -> None:
        """See InstanceView."""
        super().notice(text)
        self._print(text)

    def problem(self, text: str) -> None:
        """See InstanceView."""
        super().problem(text)
        _echo(f"error: {text}" if self._quiet else f"{_now()} error: {text}", err=True)

    def deployments(self, objects: Sequence[Object]) -> None:
        """See InstanceView."""
        lines = {row["NAME"]: _format_row(row) for row in map(make_summary_row, objects)}
        for name, line in lines.items():
            if self._shown.get(name) != line:
                self._print(line)
        self._shown = lines

    def event(self, event: Object) -> None:
        """See InstanceView."""
        super().event(event)
        self._print(format_event(event))

    def _print(self, text: str) -> None:
        if not self._quiet:
            _echo(f"{_now()} {text}")


def _format_row(row: dict[str, str]) -> str:
    candidate = (
        f" candidate={row['CANDIDATE']} weight={row['WEIGHT'].replace(' ', '')}" if row["CANDIDATE"] != "-" else ""
    )
    url = f" url={row['URL']}" if row["URL"] != "-" else ""
    ready = f"Ready={row['READY']} reason={row['REASON']}"
    message = f" ({row['MESSAGE']})" if row["MESSAGE"] else ""
    return f"{row['NAME']}: {ready} stable={row['STABLE']}{candidate} replicas={row['REPLICAS']}{url}{message}"


class LiveInstanceView(InstanceView):
    """A view with a table that is redrawn in place, and the last lines below it."""

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._rows: list[dict[str, str]] = []
        self._lines: deque[Text] = deque(maxlen=_SHOWN_EVENTS)
        self._problems: tuple[str, ...] = ()
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def notice(self, text: str) -> None:
        """See InstanceView."""
        super().notice(text)
        self._line(Text(text))

    def problem(self, text: str) -> None:
        """See InstanceView."""
        super().problem(text)
        self._line(Text(f"error: {text}", style="red"))

    def show_problems(self, problems: Sequence[str]) -> None:
        """See InstanceView. The problems stay below the table while they last."""
        if tuple(problems) != self._problems:
            self._problems = tuple(problems)
            self._draw()

    def deployments(self, objects: Sequence[Object]) -> None:
        """See InstanceView."""
        rows = [make_summary_row(obj) for obj in objects]
        if rows != self._rows:
            known = {row["NAME"]: row["MESSAGE"] for row in self._rows}
            self._rows = rows
            self._draw()
            for row in rows:
                if row["MESSAGE"] != known.get(row["NAME"], ""):
                    self._line(Text(f"{row['NAME']}: {row['MESSAGE']}"))

    def event(self, event: Object) -> None:
        """See InstanceView."""
        super().event(event)
        self._line(Text(format_event(event), style="yellow" if event["type"] == "Warning" else ""))

    def close(self) -> None:
        """See InstanceView."""
        with contextlib.suppress(OSError):
            self._live.stop()

    def _line(self, text: Text) -> None:
        self._lines.append(Text(f"{_now()} ", style="dim").append_text(text))
        self._draw()

    def _draw(self) -> None:
        table = Table(title=self._title, title_justify="left", box=None, pad_edge=False, title_style="bold")
        for column in _COLUMNS:
            table.add_column(column, overflow="fold")
        for row in self._rows:
            style = palette.TERMINAL_READY.get(row["READY"], "")
            table.add_row(*(Text(row[name], style=style if name == "READY" else "") for name in _COLUMNS))
        body = table if self._rows else Text(f"{self._title}\nno ModelDeployment yet")
        with contextlib.suppress(OSError):
            self._live.update(Group(body, *self._render_problems(), Text(), *self._lines), refresh=True)

    def _render_problems(self) -> list[Text]:
        if not self._problems:
            return []
        return [Text(), Text("not applied:"), *(Text(f"  {each}", style="red") for each in self._problems)]


def _echo(text: str, *, err: bool = False) -> None:
    # A closed terminal or pipe must not prevent an orderly stop.
    with contextlib.suppress(OSError):
        click.echo(text, err=err)


def _now() -> str:
    return time.strftime("%H:%M:%S")
