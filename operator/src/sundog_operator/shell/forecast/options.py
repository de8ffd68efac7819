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

from sundog_operator.api import Experiment, FrozenPlan, ModelDeployment, Rollout
from sundog_operator.core.analysis import forecast as forecasting
from sundog_operator.core.analysis.forecast import RolloutForecast, ServiceTraffic
from sundog_operator.core.rollout import freeze
from sundog_operator.core.rollout.resolve import StableTraffic
from sundog_operator.errors import SpecError
from sundog_operator.shell import manifests
from sundog_operator.shell.exit_codes import CommandFailed
from sundog_operator.shell.output import PIPE_WIDTH_COLUMNS, print_document, print_rich
from sundog_operator.shell.url_options import LocalPath

T = TypeVar("T")
R = TypeVar("R", ModelDeployment, Experiment)

_BAR: Final = 20


class PercentParam(click.ParamType[float]):
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


FILE_OPTION: Final = click.option(
    "-f",
    "--filename",
    "file",
    type=LocalPath(),
    help="A manifest with a rollout or an Experiment.",
)
RPS_OPTION: Final = click.option(
    "--rps", type=click.FloatRange(0.01, 100_000), help="Requests per second of the service."
)
ERRORS_OPTION: Final = click.option(
    "--errors", type=PercentParam(), help="Of a rollout: the share of stable's requests that fail, such as 0.5%."
)
RUNS_OPTION: Final = click.option(
    "--runs", type=click.IntRange(10, 10_000), default=200, show_default=True, help="How many are simulated of each."
)
FORECAST_OUTPUT_OPTION: Final = click.option(
    "-o", "--output", type=click.Choice(("text", "json", "yaml")), default="text", show_default=True
)


def read_plan(file: Path | None, rps: float) -> FrozenPlan:
    """The plan as it would be frozen with that traffic. Raises CommandFailed for a manifest without one that can be simulated."""
    rollout, replicas = (Rollout(), 1) if file is None else _asked(file)
    if rollout.strategy != "canary":
        raise CommandFailed(f"{file}: spec.rollout.strategy is {rollout.strategy}; canary alone has steps to simulate")
    plan = freeze.resolve_plan(rollout, StableTraffic(rps), replicas)
    if not forecasting.gated_steps(plan):
        raise CommandFailed(f"{file}: spec.rollout has no step that is gated by evidence; there is nothing to simulate")
    if forecasting.find_error_guardrail(plan) is None:
        raise CommandFailed(f"{file}: spec.rollout.guardrails has no errorRate, and other metrics are not simulated")
    return plan


def _asked(file: Path) -> tuple[Rollout, int]:
    """The rollout of a manifest, and the replicas of its service."""
    spec = read_only_object(file, ModelDeployment, "of an Experiment tell --rate or --mean").spec
    return spec.rollout, spec.replicas


def read_only_object(file: Path, kind: type[R], hint: str = "") -> R:
    """The one object of a kind in a manifest. Raises CommandFailed where there is not one, with the hint, or it is invalid."""
    reading = manifests.read_manifests(file, "default")
    found = [each for each in reading.documents if each.object["kind"] == kind.__name__]
    if reading.problems:
        raise CommandFailed(str(reading.problems[0]))
    if len(found) != 1:
        problem = f"{file}: has {len(found)} {kind.__name__}s; one is expected"
        raise CommandFailed(f"{problem}; {hint}" if hint and reading.documents and not found else problem)
    try:
        return kind.parse(found[0].object)
    except SpecError as err:
        raise CommandFailed(f"{file}: {found[0].ref} is invalid: {err}") from None


def make_service(rps: float | None, errors: float | None) -> ServiceTraffic:
    """The traffic of a rollout's service. Raises click.UsageError where it is not told."""
    if rps is None or errors is None:
        raise click.UsageError("a rollout needs --rps and --errors; an Experiment -f, with --rate or --mean")
    return ServiceTraffic(rps, errors)


def simulate_effects(
    times: Sequence[float],
    ticks: int,
    play: Callable[[float, Callable[[int], None]], T],
    name: Callable[[float], str] = lambda each: f"{each:g} times the errors",
) -> list[T]:
    """What `play` makes of each effect, with its progress on standard error; of each there are so many ticks at most."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        found = []
        for each in times:
            task = progress.add_task(name(each), total=ticks)
            on_tick = lambda tick, task=task: progress.update(task, completed=tick + 1)  # noqa: E731
            found.append(play(each, on_tick))
    return found


def print_forecast(output: str, document: Callable[[], dict[str, object]], shown: Callable[[], RenderableType]) -> None:
    """Print what was found as `OUTPUT` asks."""
    match output:
        case "json" | "yaml":
            print_document(document(), output)
        case _:
            print_rich(shown(), None if sys.stdout.isatty() else PIPE_WIDTH_COLUMNS)


def format_likelihoods(each: RolloutForecast) -> tuple[str, str, str]:
    """Of each end, as text."""
    promoted, back, undecided = (f"{share:.0%}" for share in (each.promoted, each.rolled_back, each.undecided))
    return promoted, back, undecided


def render_likelihood_bar(good: float, bad: float, nobody: float = 0.0) -> Text:
    """Shares of the ends, drawn, with what is not decided in the rest."""
    parts = [round(share * _BAR) for share in (good, bad, nobody)]
    drawn = Text("█" * parts[0], style="green")
    drawn.append("▓" * parts[1], style="red").append("▒" * parts[2])
    return drawn.append("░" * (_BAR - sum(parts)), style="dim")


def format_minutes(minutes: float) -> str:
    """A time for people."""
    if not math.isfinite(minutes):
        return "–"
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} d"


def finite_or_none(value: float) -> float | None:
    """A number for JSON, which knows no infinity."""
    return round(value, 2) if math.isfinite(value) else None
