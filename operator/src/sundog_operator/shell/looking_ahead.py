"""What verbs that look ahead have in common: what they are asked, the plan that is meant, and how they show likelihoods."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import click
from rich.console import Console, RenderableType
from rich.progress import Progress
from rich.text import Text

from sundog_operator.api import FrozenPlan, ModelDeployment, Rollout
from sundog_operator.core import forecast as forecasting
from sundog_operator.core.forecast import Forecast
from sundog_operator.core.rollout import freeze
from sundog_operator.core.rollout.resolve import Traffic
from sundog_operator.shell import manifests
from sundog_operator.shell.exits import CommandFailed
from sundog_operator.shell.output import NO_TERMINAL, print_document, print_rich

T = TypeVar("T")

_BAR: Final = 20


class Share(click.ParamType[float]):
    """A share such as 0.5%, below `most` percent."""

    name = "percentage"

    def __init__(self, most: int = 100) -> None:
        self._most = most

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The share as a number."""
        text = str(value)
        try:
            share = float(text.removesuffix("%")) / 100
        except ValueError:
            share = math.nan
        if not text.endswith("%") or not 0 <= share < self._most / 100:
            self.fail(f"{text!r} is not a percentage from 0% to below {self._most}%", param, ctx)
        return share


FILE: Final = click.option(
    "-f", "--filename", "file", type=click.Path(exists=True, path_type=Path), help="A manifest with a rollout."
)
RPS: Final = click.option(
    "--rps", type=click.FloatRange(0.01, 100_000), required=True, help="Requests per second of the service."
)
ERRORS: Final = click.option(
    "--errors", type=Share(), required=True, help="The share of stable's requests that fail, such as 0.5%."
)
RUNS: Final = click.option(
    "--runs", type=click.IntRange(10, 10_000), default=200, show_default=True, help="Simulated rollouts of each."
)
OUTPUT: Final = click.option(
    "-o", "--output", type=click.Choice(("text", "json", "yaml")), default="text", show_default=True
)


def plan_of(file: Path | None, rps: float) -> FrozenPlan:
    """The plan as it would be frozen with that traffic. Raises CommandFailed for a manifest without one that can be simulated."""
    plan = freeze.resolved(Rollout() if file is None else _rollout(file), Traffic(rps))
    if not forecasting.weighed_steps(plan):
        raise CommandFailed(f"{file}: spec.rollout has no step that is gated by evidence; there is nothing to simulate")
    if forecasting.error_guardrail(plan) is None:
        raise CommandFailed(f"{file}: spec.rollout.guardrails has no errorRate, and other metrics are not simulated")
    return plan


def _rollout(file: Path) -> Rollout:
    reading = manifests.read(file, "default")
    found = [each for each in reading.documents if each.object["kind"] == "ModelDeployment"]
    if reading.problems:
        raise CommandFailed(str(reading.problems[0]))
    if len(found) != 1:
        raise CommandFailed(f"{file}: has {len(found)} ModelDeployments; one is expected")
    return ModelDeployment.parse(found[0].object).spec.rollout


def played(times: Sequence[float], ticks: int, play: Callable[[float, Callable[[int], None]], T]) -> list[T]:
    """What `play` makes of each candidate, with its progress on standard error; of each there are so many ticks at most."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        found = []
        for each in times:
            task = progress.add_task(f"{each:g} times the errors", total=ticks)
            on_tick = lambda tick, task=task: progress.update(task, completed=tick + 1)  # noqa: E731
            found.append(play(each, on_tick))
    return found


def show(output: str, document: Callable[[], dict[str, object]], shown: Callable[[], RenderableType]) -> None:
    """Print what was found as `OUTPUT` asks."""
    match output:
        case "json" | "yaml":
            print_document(document(), output)
        case _:
            print_rich(shown(), None if sys.stdout.isatty() else NO_TERMINAL)


def likelihoods(each: Forecast) -> tuple[str, str, str]:
    """Of each end, as text."""
    promoted, back, undecided = (f"{share:.0%}" for share in (each.promoted, each.rolled_back, each.undecided))
    return promoted, back, undecided


def bar(each: Forecast) -> Text:
    """The three shares, drawn."""
    promoted, back = round(each.promoted * _BAR), round(each.rolled_back * _BAR)
    drawn = Text("█" * promoted, style="green")
    drawn.append("▓" * back, style="red")
    return drawn.append("░" * (_BAR - promoted - back), style="dim")


def told(minutes: float) -> str:
    """A time for people."""
    if not math.isfinite(minutes):
        return "–"
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} d"


def finite(value: float) -> float | None:
    """A number for JSON, which knows no infinity."""
    return round(value, 2) if math.isfinite(value) else None
