"""Run the demo once and draw what its clients measured: `PYTHONPATH=tests/support .venv/bin/python -m measuring.demo`.

It writes `docs/images/demo.json` and draws `docs/images/demo.svg` from it; `--draw` draws the recorded run again.
"""

import argparse
import asyncio
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.console import Console

from measuring.record import ROOT, machine
from sundog_operator.shell.demo.load import RequestSample
from sundog_operator.shell.demo.run_record import DemoRecord
from sundog_operator.shell.demo.scenario import DemoFolder, DemoScenario
from sundog_operator.shell.demo.view import make_view

RECORD: Final = ROOT / "docs" / "images" / "demo.json"
PLOT: Final = RECORD.with_suffix(".svg")
BIN_S: Final = 0.5
_ACCURACY_BINS: Final = 4
_LOWEST_ACCURACY: Final = 0.8
_COLOURS: Final = ("#5b7c99", "#f0a030", "#c0392b")
_INK: Final = "#2b2b2b"
_STYLE: Final[Mapping[str, Any]] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    # The same numbers make the same file.
    "svg.hashsalt": "sundog",
    "svg.fonttype": "none",
}


def run() -> DemoRecord:
    """Run the demo. Raises SundogError."""
    # Below /tmp, not below $TMPDIR: the sockets in it need a short path.
    with tempfile.TemporaryDirectory(prefix="sundog-demo-", dir="/tmp") as name:
        folder = DemoFolder(Path(name) / "out")
        folder.path.mkdir()
        scenario = DemoScenario(folder, Path(name) / "state", make_view(Console()))
        start = time.monotonic()
        asyncio.run(scenario.run(keep=False))
        scenario.record.seconds = time.monotonic() - start
        return scenario.record


def document(record: DemoRecord) -> dict[str, Any]:
    """Return a run as JSON: the demo's own results, its marks, and its responses in bins of half a second."""
    return {
        "command": "python -m measuring.demo",
        "taken": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        **record.document(),
        "marks": [{"seconds": round(each.at_s, 2), "text": each.text} for each in record.marks],
        "binSeconds": BIN_S,
        "bins": make_bins(record.samples, record.labels),
    }


def make_bins(samples: Sequence[RequestSample], labels: Sequence[int]) -> list[dict[str, Any]]:
    """Count responses by revision, correct predictions and failed requests, by the time of sending."""
    bins: dict[int, list[RequestSample]] = {}
    for sample in samples:
        bins.setdefault(int(sample.sent_s / BIN_S), []).append(sample)
    return [_count_bin(bins.get(index, []), labels) for index in range(max(bins, default=-1) + 1)]


def _count_bin(samples: Sequence[RequestSample], labels: Sequence[int]) -> dict[str, Any]:
    revisions = Counter(sample.revision for sample in samples if not sample.problem)
    return {
        "revisions": {str(revision): count for revision, count in sorted(revisions.items())},
        "correct": sum(not sample.problem and sample.predicted == labels[sample.image] for sample in samples),
        "failed": sum(bool(sample.problem) for sample in samples),
    }


def draw(path: Path, found: Mapping[str, Any]) -> None:
    """Draw over time the share of traffic of each revision and the accuracy of all responses; crosses are failed requests."""
    with mpl.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(9, 4.6), facecolor="white")
        FigureCanvasSVG(figure)
        shares, accuracy = figure.subplots(2, 1, sharex=True, height_ratios=(1.3, 1))
        figure.subplots_adjust(left=0.085, right=0.92, top=0.78, bottom=0.11, hspace=0.12)
        _draw_shares(shares, found)
        _draw_accuracy(accuracy, found)
        figure.align_ylabels()
        for mark in found["marks"]:
            _draw_mark(shares, accuracy, mark)
        figure.text(0.085, 0.945, _title(found), fontsize=11, fontweight="bold", color=_INK)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_shares(axes: Any, found: Mapping[str, Any]) -> None:
    bins = found["bins"]
    edges = [index * found["binSeconds"] for index in range(len(bins) + 1)]
    floor = [0.0] * len(edges)
    for each, colour in zip(found["revisions"], _COLOURS, strict=False):
        counts = [(one["revisions"].get(str(each["revision"]), 0), sum(one["revisions"].values())) for one in bins]
        values = [count / total if total else 0.0 for count, total in counts]
        top = [below + value for below, value in zip(floor, [*values, values[-1]], strict=True)]
        axes.fill_between(edges, floor, top, step="post", color=colour, linewidth=0, label=each["model"])
        floor = top
    axes.set(ylim=(0, 1), xlim=(0, edges[-1]), ylabel="share of requests")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(loc="lower left", frameon=True, framealpha=0.9, fontsize=9)


def _draw_accuracy(axes: Any, found: Mapping[str, Any]) -> None:
    width = _ACCURACY_BINS * found["binSeconds"]
    windows = [found["bins"][at : at + _ACCURACY_BINS] for at in range(0, len(found["bins"]), _ACCURACY_BINS)]
    answered = [sum(sum(one["revisions"].values()) for one in window) for window in windows]
    correct = [sum(one["correct"] for one in window) for window in windows]
    failed = [index * width for index, window in enumerate(windows) if any(one["failed"] for one in window)]
    shares = [count / total if total else math.nan for count, total in zip(correct, answered, strict=True)]
    axes.plot([(index + 0.5) * width for index in range(len(windows))], shares, color=_INK, linewidth=1.6)
    axes.plot(failed, [_LOWEST_ACCURACY] * len(failed), "x", color=_COLOURS[2], clip_on=False)
    axes.grid(axis="y")
    axes.set(ylim=(_LOWEST_ACCURACY, 1), ylabel="accuracy", xlabel="seconds since the clients began")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _draw_mark(shares: Any, accuracy: Any, mark: Mapping[str, Any]) -> None:
    for axes in (shares, accuracy):
        axes.axvline(mark["seconds"], color=_INK, linewidth=0.8, alpha=0.6)
    shares.annotate(
        mark["text"],
        (mark["seconds"], 1),
        xytext=(2, 4),
        textcoords="offset points",
        rotation=24,
        ha="left",
        va="bottom",
        fontsize=9,
        annotation_clip=False,
    )


def _title(found: Mapping[str, Any]) -> str:
    requests = found["requests"]
    accuracies = ", ".join(f"{each['model']} {each['accuracy']['endpoint']:.1%}" for each in found["revisions"])
    return f"{requests['sent']:,} requests, {requests['failed']} failed. Accuracy at the endpoint: {accuracies}."


def main() -> None:
    """Run the demo and record it unless `--draw` is given, then draw the record."""
    parser = argparse.ArgumentParser(description="Record the demo and draw its plot.")
    parser.add_argument("--draw", action="store_true", help="draw the recorded run again")
    if not parser.parse_args().draw:
        RECORD.write_text(json.dumps(document(run()), ensure_ascii=False, separators=(",", ":")) + "\n")
    draw(PLOT, json.loads(RECORD.read_text()))


if __name__ == "__main__":
    main()
