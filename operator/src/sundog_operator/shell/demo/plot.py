"""Plot the shares of the traffic and the latencies of a run."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sundog_operator.shell.demo.dataset import BROKEN_MODEL, GOOD_MODEL, WEAK_MODEL
from sundog_operator.shell.demo.load import RequestSample
from sundog_operator.shell.demo.results import percentile
from sundog_operator.shell.demo.run_record import DemoRecord, PlotMark

_COLOURS: Final[Mapping[str, str]] = {WEAK_MODEL: "#5b7c99", GOOD_MODEL: "#f0a030", BROKEN_MODEL: "#c0392b"}
_FAILED: Final = "#c0392b"
_OTHER: Final = "#999999"
_INK: Final = "#2b2b2b"
_FAINT: Final = "#8a8a8a"
_DASHED: Final = (0, (3, 1.5))
_LEGEND: Final[Mapping[str, Any]] = {
    "loc": "upper left",
    "bbox_to_anchor": (1.005, 1.0),
    "frameon": False,
    "fontsize": 9,
    "handlelength": 1.8,
}
_LABEL_MIN_SHARE: Final = 80.0
_STYLE: Final[Mapping[str, Any]] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#bbbbbb",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
}


def write_plot(path: Path, record: DemoRecord) -> None:
    """Write the plot as a PNG file of some 1 600 × 1 000 pixels. Blocks for about a second; raises OSError."""
    with mpl.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(11, 6.8), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        share, latency = figure.subplots(2, 1, sharex=True, height_ratios=(1.15, 1))
        figure.subplots_adjust(left=0.075, right=0.93, top=0.79, bottom=0.085, hspace=0.12)
        bins = _Bins(record.samples)
        _draw_shares(share, bins, record)
        _draw_latencies(latency, bins, record)
        _draw_marks(share, latency, record.marks)
        _draw_title(figure, record)
        figure.savefig(path, bbox_inches="tight", pad_inches=0.25)


class _Bins:
    """Latencies of successful requests by revision and by the time of sending."""

    def __init__(self, samples: Sequence[RequestSample]) -> None:
        self.end_s = max((sample.sent_s for sample in samples), default=1.0)
        self.width_s = max(0.5, self.end_s / 160)
        self.count = max(1, math.ceil(self.end_s / self.width_s))
        self.latencies: dict[int, list[list[float]]] = defaultdict(lambda: [[] for _ in range(self.count)])
        self.failures = [sample.sent_s for sample in samples if sample.problem]
        for sample in samples:
            if not sample.problem:
                index = min(int(sample.sent_s / self.width_s), self.count - 1)
                self.latencies[sample.revision][index].append(1000 * sample.latency_s)

    @property
    def edges(self) -> list[float]:
        """Start of each bin, and end of the last one."""
        return [index * self.width_s for index in range(self.count + 1)]

    @property
    def centres(self) -> list[float]:
        """Middle of each bin."""
        return [(index + 0.5) * self.width_s for index in range(self.count)]

    def shares(self) -> dict[int, list[float]]:
        """Return the percent of each bin's responses by revision; NaN for a bin without responses."""
        totals = [sum(len(bins[index]) for bins in self.latencies.values()) for index in range(self.count)]
        return {
            revision: [
                100 * len(found) / total if total else math.nan for found, total in zip(bins, totals, strict=True)
            ]
            for revision, bins in sorted(self.latencies.items())
        }

    def percentiles(self, revision: int, share: float) -> list[float]:
        """Return a percentile of the latency in each bin, in ms."""
        return [percentile(found, share) for found in self.latencies[revision]]


def _draw_shares(axes: Any, bins: _Bins, record: DemoRecord) -> None:
    floor = [0.0] * (bins.count + 1)
    for revision, shares in bins.shares().items():
        # The last value is repeated: it gives the last step its width.
        top = [below + share for below, share in zip(floor, [*shares, shares[-1]], strict=True)]
        model = record.models.get(revision, "?")
        colour = _COLOURS.get(model, _OTHER)
        axes.fill_between(bins.edges, floor, top, step="post", color=colour, alpha=0.85, linewidth=0)
        _label_area(axes, bins, shares, floor, f"{model} · revision {revision}")
        floor = top
    for phase in record.phases:
        below = 100.0 - phase.weights[max(phase.weights)]
        if 0 < below < 100:
            axes.hlines(below, phase.from_s, phase.to_s, colors=_INK, linestyles=_DASHED, linewidth=1.6)
    areas = (Patch(color=_COLOURS.get(model, _OTHER), alpha=0.85, label=model) for model in record.models.values())
    dashes = Line2D([], [], color=_INK, linestyle=_DASHED, linewidth=1.6, label="configured")
    axes.legend(handles=[*areas, dashes], **_LEGEND)
    axes.set(ylim=(0, 100), xlim=(0, bins.end_s), ylabel="share of requests")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))


def _label_area(axes: Any, bins: _Bins, shares: Sequence[float], floor: Sequence[float], text: str) -> None:
    """Write a revision's name into the middle of the longest time in which it had most of the traffic."""
    runs = [
        [index for index, _ in run]
        for is_large, run in groupby(enumerate(shares), lambda item: item[1] > _LABEL_MIN_SHARE)
        if is_large
    ]
    if not runs:
        return
    longest = max(runs, key=len)
    x = (longest[0] + longest[-1] + 1) / 2 * bins.width_s
    y = floor[longest[len(longest) // 2]] + 50
    axes.text(x, y, text, ha="center", va="center", color="white", fontsize=12, fontweight="bold")


def _draw_latencies(axes: Any, bins: _Bins, record: DemoRecord) -> None:
    for revision in sorted(bins.latencies):
        model = record.models.get(revision, "?")
        colour = _COLOURS.get(model, _OTHER)
        p50, p99 = bins.percentiles(revision, 0.50), bins.percentiles(revision, 0.99)
        axes.fill_between(bins.centres, p50, p99, color=colour, alpha=0.22, linewidth=0)
        axes.plot(bins.centres, p50, color=colour, linewidth=2.0, label=f"{model} p50")
        axes.plot(bins.centres, p99, color=colour, linewidth=1.0, linestyle=_DASHED, label=f"{model} p99")
    if bins.failures:
        floor = [0.03] * len(bins.failures)
        axes.plot(bins.failures, floor, "x", color=_FAILED, transform=axes.get_xaxis_transform(), label="failed")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ms"))
    axes.grid(axis="y")
    axes.set(ylabel="latency at the client", xlabel="seconds since the clients began")
    axes.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 2, 5, 10]))
    if bins.latencies:
        axes.legend(**_LEGEND)


def _draw_marks(share: Any, latency: Any, marks: Sequence[PlotMark]) -> None:
    """Draw a line through both panels for each event, with a slanted label: slanted labels do not overlap."""
    for mark in marks:
        for axes in (share, latency):
            axes.axvline(mark.at_s, color=_INK, linewidth=0.8, alpha=0.55)
        share.annotate(
            mark.text,
            (mark.at_s, 100),
            xytext=(2, 5),
            textcoords="offset points",
            rotation=28,
            ha="left",
            va="bottom",
            fontsize=9,
            annotation_clip=False,
        )


def _draw_title(figure: Any, record: DemoRecord) -> None:
    summary = record.summary()
    failed = "none failed" if not summary.failed else f"{summary.failed} failed"
    figure.text(0.075, 0.955, "A canary of handwritten-digit models", fontsize=15, fontweight="bold")
    accuracies = ", ".join(f"{record.models.get(each.revision, '?')} {each.accuracy:.1%}" for each in summary.revisions)
    text = f"{summary.sent:,} requests, {failed}; accuracy on the held-out images: {accuracies}"
    figure.text(0.075, 0.92, text, fontsize=10, color=_FAINT)
