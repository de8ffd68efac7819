"""The result as tables."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sundog_operator.shell.demo import manifest
from sundog_operator.shell.demo.results import PhaseResult, Results
from sundog_operator.shell.demo.run_record import DemoRecord
from sundog_operator.shell.demo.scenario import DemoFolder, DemoScenario
from sundog_operator.shell.demo.view import MODEL_STYLES


def print_results(console: Console, record: DemoRecord, files: Sequence[Path]) -> None:
    """What the clients saw, whether the demo succeeded, and where to look."""
    summary = record.summary()
    if record.samples:
        console.print()
        console.print(_revisions(summary, record))
        console.print()
        console.print(_phases(summary.phases, record))
    console.print()
    _line(
        console,
        f"{summary.sent:,} requests sent, {summary.failed} failed",
        "bold red" if summary.failed else "bold green",
    )
    for text, count in summary.problems:
        _line(console, f"  {count} × {text}", "red")
    for problem in record.problems():
        _line(console, problem, "red")
    _line(console, f"took {record.seconds:.0f} s", "")
    for path in files:
        _line(console, f"wrote {path}", "dim")


def print_instance_help(console: Console, folder: DemoFolder, story: DemoScenario) -> None:
    """How to use what was left up, and how to end it."""
    body = '{"inputs": [[' + ", ".join(["[0,0,5,13,9,1,0,0]"] * 8) + "]]}"
    for text in (
        "",
        "It is still up. Ask it, look at it, edit its manifest, and end it:",
        f"  curl -s {story.url} -H 'content-type: application/json' -d '{body}'",
        f"  sundog get mdep {manifest.DEPLOYMENT_NAME} --state-dir {story.state_dir}",
        f"  $EDITOR {folder.manifest}",
        f"  sundog local down --state-dir {story.state_dir} && rm -r {story.state_dir}",
    ):
        _line(console, text, "")


def _line(console: Console, text: str, style: str) -> None:
    # Unwrapped: a path or a command that is cut into lines cannot be copied.
    console.print(Text(text, style=style), soft_wrap=True)


def _revisions(summary: Results, record: DemoRecord) -> Table:
    table = Table(title="What the clients saw", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("model", "revision", "requests", "accuracy", "offline", "images", "p50", "p99"):
        table.add_column(name, justify="left" if name == "model" else "right", header_style="dim")
    for found in summary.revisions:
        model = record.models.get(found.revision, "?")
        offline = record.offline.get(model)
        table.add_row(
            Text(model, style=MODEL_STYLES.get(model, "")),
            str(found.revision),
            f"{found.requests:,}",
            f"{found.accuracy:.2%}",
            "-" if offline is None else f"{offline:.2%}",
            f"{found.images} of {len(record.labels)}",
            f"{found.p50_ms:.1f} ms",
            f"{found.p99_ms:.1f} ms",
        )
    return table


def _phases(phases: Sequence[PhaseResult], record: DemoRecord) -> Table:
    table = Table(title="Who got the traffic", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("phase", "requests", "model", "configured", "observed", "by chance"):
        table.add_column(name, justify="left" if name in ("phase", "model") else "right", header_style="dim")
    for found in phases:
        for index, share in enumerate(found.shares):
            model = record.models.get(share.revision, "?")
            table.add_row(
                found.phase.name if index == 0 else "",
                f"{found.requests:,}" if index == 0 else "",
                Text(model, style=MODEL_STYLES.get(model, "")),
                f"{share.configured:.0f} %",
                f"{share.observed:.1f} %",
                f"± {share.margin:.1f}",
            )
    return table
