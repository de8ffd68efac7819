"""Draw the panels of the chart's Grafana dashboard with the series of the recorded rollout.

The series are those of one edge of local mode, which has no metrics of the operator. So the panels that ask for those are left
out, except the canary's weight, which is in the status as well.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.ticker import FuncFormatter, MaxNLocator

from pictures.style import CANARY, FAINT, IMAGES, LINE, RECORDED, STABLE, picture
from reference.chart_values import CHART

_WINDOW: Final = 6
"""Scrapes that a rate spans: half a minute."""

_COLUMNS: Final = 2
_COLOURS: Final = {"1": STABLE, "2": CANARY}
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_FAILED: Final = ("server5xx", "edge5xx", "timeout", "truncated", "invalid")

Values = Sequence[float | None]
Series = Mapping[str, Values]
Lines = Mapping[str, Values]
"""Values by revision."""


def draw(folder: Path = IMAGES) -> None:
    """Write dashboard.svg."""
    recorded = json.loads(RECORDED.read_text())
    at, series = recorded["scrapes"]["at"], recorded["scrapes"]["series"]
    minutes = [(each - at[0]) / 60 for each in at]
    panels: Mapping[str, tuple[Callable[[], Lines], str]] = {
        "Requests per second by revision": (lambda: _rates(series, at, "requests_total"), "{:.0f}"),
        "Failed requests by revision": (lambda: _failures(series, at), "{:.0%}"),
        "p99 latency by revision": (lambda: _p99(series, at), "{:.2g} s"),
        "Healthy replicas by revision": (lambda: _gauge(series, "replicas", state="up"), "{:.0f}"),
        "Canary weight": (lambda: {"2": _weights(recorded["weights"], at)}, "{:.0f} %"),
    }
    shown = [panel for panel in _dashboard() if panel["title"] in panels]
    rows = -(-len(shown) // _COLUMNS)
    with picture(folder / "dashboard.svg", 11, 2.35 * rows + 0.3) as figure:
        grid = [*figure.subplots(rows, _COLUMNS, squeeze=False).flat]
        for axes, panel in zip(grid, shown, strict=False):
            lines, form = panels[panel["title"]]
            for revision, values in sorted(lines().items()):
                label = panel["targets"][0]["legendFormat"]
                for name, value in {"namespace": "default", "service": "digits", "name": "digits"}.items():
                    label = label.replace("{{" + name + "}}", value)
                label = label.replace("{{revision}}", revision)
                known = [value if value is not None else float("nan") for value in values]
                axes.plot(minutes, known, color=_COLOURS[revision], linewidth=1.8, label=label)
            _finish(axes, panel["title"], form)
            axes.set_xlim(0, minutes[-1])
        for axes in grid[len(shown) :]:
            axes.set_visible(False)
        figure.tight_layout(h_pad=1.6, w_pad=2)


def _dashboard() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
    return panels


def _finish(axes: Any, title: str, form: str) -> None:
    axes.set_title(title)
    axes.set_ylim(bottom=0)
    axes.grid(color=LINE)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=form == "{:.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: form.format(value)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} min"))
    axes.tick_params(labelsize=8.5)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=8.5, labelcolor=FAINT)


def _labels(name: str) -> dict[str, str]:
    return dict(_LABEL.findall(name))


def _select(series: Series, metric: str) -> list[tuple[dict[str, str], Values]]:
    return [(_labels(name), values) for name, values in series.items() if name.startswith(f"sundog_edge_{metric}{{")]


def _rate(values: Values, at: Sequence[float]) -> list[float | None]:
    """Return the rate per second over the window that ends at each scrape; a counter that was not there yet was 0."""
    known = [value or 0.0 for value in values]
    return [
        (known[end] - known[end - _WINDOW]) / (at[end] - at[end - _WINDOW]) if end >= _WINDOW else None
        for end in range(len(known))
    ]


def _rates(series: Series, at: Sequence[float], metric: str, ends: Sequence[str] = ()) -> dict[str, list[float | None]]:
    sums: dict[str, list[float | None]] = {}
    for labels, values in _select(series, metric):
        if not ends or labels["end"] in ends:
            added = _rate(values, at)
            before = sums.get(labels["revision"], [0.0] * len(added))
            sums[labels["revision"]] = [
                None if one is None or other is None else one + other for one, other in zip(before, added, strict=True)
            ]
    return sums


def _failures(series: Series, at: Sequence[float]) -> Lines:
    every, failed = _rates(series, at, "requests_total"), _rates(series, at, "requests_total", _FAILED)
    return {
        revision: [
            part / whole if part is not None and whole else None
            for part, whole in zip(parts, every[revision], strict=True)
        ]
        for revision, parts in failed.items()
    }


def _p99(series: Series, at: Sequence[float]) -> Lines:
    """Return the 99th percentile in seconds, interpolated within its bucket as `histogram_quantile` does."""
    buckets: dict[str, list[tuple[float, list[float | None]]]] = defaultdict(list)
    for labels, values in _select(series, "request_duration_seconds_bucket"):
        buckets[labels["revision"]].append((float(labels["le"]), _rate(values, at)))
    return {
        revision: [
            _quantile([(bound, rates[scrape] or 0.0) for bound, rates in sorted(found)]) for scrape in range(len(at))
        ]
        for revision, found in buckets.items()
    }


def _quantile(buckets: Sequence[tuple[float, float]]) -> float | None:
    wanted = 0.99 * buckets[-1][1]
    if not wanted:
        return None
    below, start = 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            return start + (bound - start) * (wanted - below) / (count - below)
        below, start = count, bound
    return None


def _gauge(series: Series, metric: str, **wanted: str) -> Lines:
    return {
        labels["revision"]: values
        for labels, values in _select(series, metric)
        if all(labels[name] == value for name, value in wanted.items())
    }


def _weights(changes: Sequence[tuple[float, int]], at: Sequence[float]) -> list[float | None]:
    """Return the canary's weight at each scrape, in percent."""
    return [float(([0] + [weight for moment, weight in changes if moment <= each])[-1]) for each in at]
