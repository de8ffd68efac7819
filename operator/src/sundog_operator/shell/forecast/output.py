"""Progress, tables and numbers of forecasts, and the one object of a manifest."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from rich.console import Console, Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from sundog_operator.api import Experiment, ModelDeployment
from sundog_operator.errors import SpecError
from sundog_operator.shell import manifests
from sundog_operator.shell.exit_codes import CommandFailed
from sundog_operator.shell.output import PIPE_WIDTH_COLUMNS, print_document, print_rich

T = TypeVar("T")
R = TypeVar("R", ModelDeployment, Experiment)

_BAR_WIDTH: Final = 20
_LEFT_COLUMNS: Final = ("", "ERRORS", "EFFECT", "TYPICALLY")


def read_only_object(file: Path, kind: type[R], hint: str = "") -> R:
    """Return the one object of a kind in a manifest. Raises CommandFailed, with the hint if there is none."""
    documents, problems = manifests.read_all_manifests((file,), "default")
    found = [each for each in documents if each.object["kind"] == kind.__name__]
    if mistake := next((each for each in problems if not each.skipped), None):
        raise CommandFailed(str(mistake))
    if len(found) != 1:
        problem = f"{file}: found {len(found)} {kind.__name__}s; expected one"
        raise CommandFailed(f"{problem}; {hint}" if hint and documents and not found else problem)
    try:
        return kind.parse(found[0].object)
    except SpecError as err:
        raise CommandFailed(f"{file}: {found[0].ref} is invalid: {err}") from None


def simulate_effects(
    effects: Sequence[float],
    max_ticks: int,
    simulate: Callable[[float, Callable[[int], None]], T],
    name: Callable[[float], str] = lambda each: f"{each:g} times the errors",
) -> list[T]:
    """Return the result of `simulate` for each effect. Show the progress, of at most `max_ticks` ticks, on standard error."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        results = []
        for each in effects:
            task = progress.add_task(name(each), total=max_ticks)
            on_tick = lambda tick, task=task: progress.update(task, completed=tick + 1)  # noqa: E731
            results.append(simulate(each, on_tick))
    return results


def print_forecast(output: str, document: Callable[[], dict[str, object]], text: Callable[[], RenderableType]) -> None:
    """Print a forecast as text, JSON or YAML."""
    if output == "text":
        print_rich(text(), None if sys.stdout.isatty() else PIPE_WIDTH_COLUMNS)
    else:
        print_document(document(), output)


def make_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[RenderableType]]) -> Group:
    """Return a table below its title. Numbers are aligned to the right."""
    table = Table(box=None, header_style="", padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=True, justify="left" if name in _LEFT_COLUMNS else "right")
    for row in rows:
        table.add_row(*row)
    return Group(Text(title), table)


def format_likelihoods(good: float, bad: float, *others: float) -> tuple[RenderableType, ...]:
    """Format the likelihoods of the ends, the last one that of no decision, and draw them.

    `others` may begin with the likelihood that no arm can win.
    """
    no_winner = others[0] if len(others) > 1 else 0.0
    return *(f"{share:.0%}" for share in (good, bad, *others)), _draw_bar(good, bad, no_winner)


def _draw_bar(good: float, bad: float, no_winner: float) -> Text:
    """Draw the shares of the ends. The rest of the bar is undecided."""
    parts = [round(share * _BAR_WIDTH) for share in (good, bad, no_winner)]
    bar = Text("█" * parts[0], style="green")
    bar.append("▓" * parts[1], style="red").append("▒" * parts[2])
    return bar.append("░" * (_BAR_WIDTH - sum(parts)), style="dim")


def format_minutes(minutes: float) -> str:
    """Format a duration in minutes, hours or days."""
    if not math.isfinite(minutes):
        return "–"
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} d"


def finite_or_none(value: float) -> float | None:
    """Return a rounded number, or None for infinity, which JSON cannot hold."""
    return round(value, 2) if math.isfinite(value) else None
