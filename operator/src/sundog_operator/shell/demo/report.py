"""Print the results of the demo as tables."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sundog_operator.shell.demo import manifest
from sundog_operator.shell.demo.results import PhaseResult, Results
from sundog_operator.shell.demo.run_record import DemoRecord
from sundog_operator.shell.demo.scenario import DemoFolder, DemoScenario
from sundog_operator.shell.view.palette import DEMO_MODELS


def print_results(console: Console, record: DemoRecord, files: Sequence[Path]) -> None:
    """Print the clients' measurements, the problems, and the written files."""
    summary = record.summary()
    if record.samples:
        console.print()
        console.print(_revisions_table(summary, record))
        console.print()
        console.print(_phases_table(summary.phases, record))
    console.print()
    _print_line(
        console,
        f"{summary.sent:,} requests sent, {summary.failed} failed",
        "bold red" if summary.failed else "bold green",
    )
    for text, count in summary.problems:
        _print_line(console, f"  {count} × {text}", "red")
    for problem in record.problems():
        _print_line(console, problem, "red")
    _print_line(console, f"took {record.seconds:.0f} s", "")
    for path in files:
        _print_line(console, f"wrote {path}", "dim")


def print_instance_help(console: Console, folder: DemoFolder, scenario: DemoScenario) -> None:
    """Print commands that use and stop the instance that still runs."""
    body = '{"inputs": [[' + ", ".join(["[0,0,5,13,9,1,0,0]"] * 8) + "]]}"
    for text in (
        "",
        "The instance still runs. Send a request, show it, edit its manifest, and stop it:",
        f"  curl -s {scenario.url} -H 'content-type: application/json' -d '{body}'",
        f"  sundog get mdep {manifest.DEPLOYMENT_NAME} --state-dir {scenario.state_dir}",
        f"  $EDITOR {folder.manifest}",
        f"  sundog local down --state-dir {scenario.state_dir} && rm -r {scenario.state_dir}",
    ):
        _print_line(console, text, "")


def _print_line(console: Console, text: str, style: str) -> None:
    # Without wrapping, because users copy paths and commands.
    console.print(Text(text, style=style), soft_wrap=True)


def _revisions_table(summary: Results, record: DemoRecord) -> Table:
    table = Table(title="Results at the clients", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("model", "revision", "requests", "accuracy", "offline", "images", "p50", "p99"):
        table.add_column(name, justify="left" if name == "model" else "right", header_style="dim")
    for result in summary.revisions:
        model = record.models.get(result.revision, "?")
        offline = record.offline.get(model)
        table.add_row(
            Text(model, style=DEMO_MODELS.get(model, "")),
            str(result.revision),
            f"{result.requests:,}",
            f"{result.accuracy:.2%}",
            "-" if offline is None else f"{offline:.2%}",
            f"{result.images} of {len(record.labels)}",
            f"{result.p50_ms:.1f} ms",
            f"{result.p99_ms:.1f} ms",
        )
    return table


def _phases_table(phases: Sequence[PhaseResult], record: DemoRecord) -> Table:
    table = Table(title="Shares of the traffic", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("phase", "requests", "model", "configured", "observed", "by chance"):
        table.add_column(name, justify="left" if name in ("phase", "model") else "right", header_style="dim")
    for result in phases:
        for index, share in enumerate(result.shares):
            model = record.models.get(share.revision, "?")
            table.add_row(
                result.phase.name if index == 0 else "",
                f"{result.requests:,}" if index == 0 else "",
                Text(model, style=DEMO_MODELS.get(model, "")),
                f"{share.configured:.0f} %",
                f"{share.observed:.1f} %",
                f"± {share.margin:.1f}",
            )
    return table
