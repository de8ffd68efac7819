"""Options, plans and output that the forecast commands share."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from rich.console import Console, Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from sundog_operator.api import Experiment, FrozenPlan, ModelDeployment, Rollout
from sundog_operator.core.analysis import forecast as forecasting
from sundog_operator.core.analysis.forecast import RolloutForecast, ServiceTraffic
from sundog_operator.core.ray.scaling import replicas_of_rollout
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.rollout import freeze
from sundog_operator.errors import SpecError
from sundog_operator.shell import manifests
from sundog_operator.shell.exit_codes import CommandFailed
from sundog_operator.shell.output import PIPE_WIDTH_COLUMNS, print_document, print_rich
from sundog_operator.shell.url_options import LocalPath

T = TypeVar("T")
R = TypeVar("R", ModelDeployment, Experiment)

_BAR_WIDTH: Final = 20
_LEFT_COLUMNS: Final = ("", "ERRORS", "EFFECT", "TYPICALLY")


class PercentParam(click.ParamType[float]):
    """A share such as 0.5%, below `limit` percent."""

    name = "percentage"

    def __init__(self, limit: int = 100) -> None:
        self._limit = limit

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the share as a number from 0 on."""
        text = str(value)
        try:
            share = float(text.removesuffix("%")) / 100
        except ValueError:
            share = math.nan
        if not text.endswith("%") or not 0 <= share < self._limit / 100:
            self.fail(f"{text!r} is not a percentage from 0% to below {self._limit}%", param, ctx)
        return share


class NumberParam(click.FloatRange):
    """A finite number of a range. Click takes `nan` for a number of each range, and `inf` for one of an open range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


FILE_OPTION: Final = click.option(
    "-f",
    "--filename",
    "file",
    type=LocalPath(allow_dash=True),
    help="A manifest with a ModelDeployment or an Experiment.",
)
RPS_OPTION: Final = click.option("--rps", type=NumberParam(0.01, 100_000), help="Requests per second of the service.")
ERRORS_OPTION: Final = click.option("--errors", type=PercentParam(), help="Rollout: stable's error rate, such as 0.5%.")
RUNS_OPTION: Final = click.option(
    "--runs",
    type=click.IntRange(10, 10_000),
    default=200,
    show_default=True,
    help="Number of simulations of each case.",
)


def read_plan(file: Path | None, rps: float) -> FrozenPlan:
    """Return the plan as it would be frozen with that traffic. Raises CommandFailed if it cannot be simulated."""
    rollout, replicas = (Rollout(), 1) if file is None else _read_rollout(file)
    if rollout.strategy != "canary":
        raise CommandFailed(
            f"{file}: spec.rollout.strategy: found {rollout.strategy}; expected canary, which has steps to simulate"
        )
    plan = freeze.resolve_plan(rollout, StableTraffic(rps), replicas)
    if not forecasting.gated_steps(plan):
        raise CommandFailed(f"{file}: spec.rollout has no step with an evidence gate; expected one to simulate")
    if forecasting.find_error_guardrail(plan) is None:
        raise CommandFailed(
            f"{file}: spec.rollout.guardrails has no errorRate; expected it, as no other metric can be simulated"
        )
    return plan


def _read_rollout(file: Path) -> tuple[Rollout, int]:
    """Return (rollout, replicas) of a manifest."""
    spec = read_only_object(file, ModelDeployment, "an Experiment needs --rate or --mean").spec
    return spec.rollout, replicas_of_rollout(spec)


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


def make_service(rps: float | None, errors: float | None) -> ServiceTraffic:
    """Return the traffic of a rollout's service. Raises click.UsageError if an option is missing."""
    if rps is None or errors is None:
        raise click.UsageError("a rollout needs --rps and --errors; an Experiment needs -f with --rate or --mean")
    return ServiceTraffic(rps, errors)


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


def describe_unsimulated_outcomes(plan: FrozenPlan) -> str:
    """Describe the guardrails that a simulation of errors leaves out, for the end of a title; empty without any."""
    names = ", ".join(outcome.name for outcome in plan.outcomes or ())
    return f"; outcomes are taken as passed: {names}" if names else ""


def format_likelihoods(forecast: RolloutForecast) -> tuple[str, str, str]:
    """Format the likelihoods of promotion, rollback and no decision."""
    promoted, rolled_back, undecided = (
        f"{share:.0%}" for share in (forecast.promoted, forecast.rolled_back, forecast.undecided)
    )
    return promoted, rolled_back, undecided


def render_likelihood_bar(good: float, bad: float, no_winner: float = 0.0) -> Text:
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
