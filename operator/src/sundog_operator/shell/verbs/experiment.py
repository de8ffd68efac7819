"""`sundog experiment`: what evidence will have to say, and what it has said."""

import math
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import click
from rich.console import Console, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from sundog_operator.api import FrozenPlan, ModelDeployment, PlanGuardrail, Rollout
from sundog_operator.core import forecast as forecasting
from sundog_operator.core.forecast import Forecast, Service
from sundog_operator.core.rollout import freeze
from sundog_operator.core.rollout.resolve import Traffic
from sundog_operator.shell import manifests
from sundog_operator.shell.exits import CommandFailed
from sundog_operator.shell.output import NO_TERMINAL, print_document, print_rich
from sundog_operator.shell.verbs.report import report

_RUNS: Final = 200
_BAR: Final = 20
_HOURS: Final = 24.0


class _Share(click.ParamType[float]):
    """A share such as 0.5%."""

    name = "percentage"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        try:
            share = float(text.removesuffix("%")) / 100
        except ValueError:
            share = math.nan
        if not text.endswith("%") or not 0 <= share < 1:
            self.fail(f"{text!r} is not a percentage from 0% to below 100%", param, ctx)
        return share


@click.group()
def experiment() -> None:
    """Tell what evidence will have to say, and what it has said."""


experiment.add_command(report)


@experiment.command()
@click.option(
    "-f", "--filename", "file", type=click.Path(exists=True, path_type=Path), help="A manifest with a rollout."
)
@click.option("--rps", type=click.FloatRange(0.01, 100_000), required=True, help="Requests per second of the service.")
@click.option("--errors", type=_Share(), required=True, help="The share of stable's requests that fail, such as 0.5%.")
@click.option(
    "--times",
    type=click.FloatRange(0, 1000),
    multiple=True,
    help="How many times as many of the candidate's fail; may be repeated. By default once, the most that is allowed, 2 and 5 times.",
)
@click.option(
    "--hours", type=click.FloatRange(0.05, 24 * 14), default=_HOURS, show_default=True, help="For how long at most."
)
@click.option(
    "--runs", type=click.IntRange(10, 10_000), default=_RUNS, show_default=True, help="Simulated rollouts of each."
)
@click.option("-o", "--output", type=click.Choice(("text", "json", "yaml")), default="text", show_default=True)
def simulate(
    file: Path | None, rps: float, errors: float, times: Sequence[float], hours: float, runs: int, output: str
) -> None:
    """Simulate a rollout: how long its gates of evidence take, and how likely each end is.

    The plan is that of the manifest, or `rollout: {}` resolved for that traffic. Errors alone are simulated, of requests that are
    independent of each other: latency and bursts take longer. Nothing is asked of a server.
    """
    plan = _plan(file, rps)
    guardrail = forecasting.error_guardrail(plan)
    if not forecasting.weighed_steps(plan):
        raise CommandFailed(f"{file}: spec.rollout has no step that is gated by evidence; there is nothing to simulate")
    if guardrail is None:
        raise CommandFailed(f"{file}: spec.rollout.guardrails has no errorRate, and other metrics are not simulated")
    service, within = Service(rps, errors), timedelta(hours=hours)
    found = _play(plan, service, times or _candidates(guardrail, service), runs, within)
    if output in ("json", "yaml"):
        print_document(_document(plan, found), "json" if output == "json" else "yaml")
        return
    print_rich(_shown(plan, found, within), None if sys.stdout.isatty() else NO_TERMINAL)


def _plan(file: Path | None, rps: float) -> FrozenPlan:
    """The plan as it would be frozen with that traffic. Raises CommandFailed for a manifest without one ModelDeployment."""
    return freeze.resolved(Rollout() if file is None else _rollout(file), Traffic(rps))


def _candidates(guardrail: PlanGuardrail, service: Service) -> list[float]:
    """As good as stable, as bad as gates may let pass, and worse. Of a service without errors no number of times is more."""
    if not service.errors:
        return [1.0]
    return sorted({1.0, round(1 + max(guardrail.margin, guardrail.floor / service.errors), 3), 2.0, 5.0})


def _rollout(file: Path) -> Rollout:
    reading = manifests.read(file, "default")
    found = [each for each in reading.documents if each.object["kind"] == "ModelDeployment"]
    if reading.problems:
        raise CommandFailed(str(reading.problems[0]))
    if len(found) != 1:
        raise CommandFailed(f"{file}: has {len(found)} ModelDeployments; one is expected")
    return ModelDeployment.parse(found[0].object).spec.rollout


def _play(plan: FrozenPlan, service: Service, times: Sequence[float], runs: int, within: timedelta) -> list[Forecast]:
    limit = forecasting.ticks(plan, within)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        found = []
        for each in times:
            task = progress.add_task(f"{each:g} times the errors", total=limit)
            on_tick = lambda tick, task=task: progress.update(task, completed=tick + 1)  # noqa: E731
            found.append(forecasting.forecast(plan, service, each, runs=runs, within=within, on_tick=on_tick))
    return found


def _document(plan: FrozenPlan, found: Sequence[Forecast]) -> dict[str, object]:
    def finite(value: float) -> float | None:
        return round(value, 2) if math.isfinite(value) else None

    return {
        "steps": [step.weight for step in plan.steps],
        "candidates": [
            {
                "times": each.times,
                "promoted": each.promoted,
                "rolledBack": each.rolled_back,
                "undecided": round(each.undecided, 6),
                "medianMinutes": finite(each.median_minutes),
                "lateMinutes": finite(each.late_minutes),
                "failedRequests": each.failed,
            }
            for each in found
        ],
    }


def _shown(plan: FrozenPlan, found: Sequence[Forecast], within: timedelta) -> RenderableType:
    errors = forecasting.error_guardrail(plan)
    assert errors is not None
    title = (
        f"{' → '.join(f'{step.weight} %' for step in plan.steps)}, errorRate with a margin of {errors.margin:.0%}, a floor of"
        f" {errors.floor:.2%}, for {within.total_seconds() / 3600:g} h at most"
    )
    table = Table(title=title, title_style="", title_justify="left", box=None, header_style="", padding=(0, 2, 0, 0))
    for name in ("ERRORS", "PROMOTED", "ROLLED BACK", "UNDECIDED", "", "MEDIAN", "80 %", "FAILED"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("", "ERRORS") else "right")
    for each in found:
        table.add_row(
            f"{each.times:g} × stable's",
            *(f"{share:.0%}" for share in (each.promoted, each.rolled_back, each.undecided)),
            _bar(each),
            _told(each.median_minutes),
            _told(each.late_minutes),
            f"{each.failed:.0f}",
        )
    return table


def _bar(each: Forecast) -> Text:
    """The three shares, drawn."""
    promoted, back = round(each.promoted * _BAR), round(each.rolled_back * _BAR)
    drawn = Text("█" * promoted, style="green")
    drawn.append("▓" * back, style="red")
    return drawn.append("░" * (_BAR - promoted - back), style="dim")


def _told(minutes: float) -> str:
    if not math.isfinite(minutes):
        return "–"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
