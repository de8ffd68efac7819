"""Plot the failures that each decision method let through in the campaign of bad revisions: `python -m campaigning.plotting`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from measuring.record import FOLDER, ROOT

PART: Final = "real_harm_thresholds"
PLOT: Final = ROOT / "docs" / "images" / "real-harm.svg"
_TAKEN_BACK: Final = "#5b7c99"
_PROMOTED: Final = "#c0392b"
_STYLE: Final[Mapping[str, Any]] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    # The same numbers make the same file.
    "svg.hashsalt": "sundog",
    "svg.fonttype": "none",
}


def draw(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """A panel per candidate, a bar per way to decide; red where most runs were promoted. `rows` as recorded."""
    kinds = list(dict.fromkeys(row[0] for row in rows))
    with mpl.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(9, 1.6 * len(kinds) + 0.8), facecolor="white")
        FigureCanvasSVG(figure)
        panels = figure.subplots(len(kinds), 1, squeeze=False)[:, 0]
        for axes, kind in zip(panels, kinds, strict=True):
            _panel(axes, kind, [row for row in rows if row[0] == kind])
        panels[-1].set_xlabel(
            "answers of the candidate that failed or took long, until it was decided; mean of the runs"
        )
        legend = [
            Patch(color=_TAKEN_BACK, label="taken back, or not promoted yet"),
            Patch(color=_PROMOTED, label="promoted"),
        ]
        panels[0].legend(handles=legend, loc="upper right", frameon=False, fontsize=8)
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(axes: Any, kind: str, rows: Sequence[Sequence[str]]) -> None:
    names = [row[1] for row in rows]
    harm = [float(row[6]) + float(row[7]) for row in rows]
    promoted = [2 * int(row[3]) > int(row[2]) for row in rows]
    bars = axes.barh(names, harm, color=[_PROMOTED if each else _TAKEN_BACK for each in promoted], height=0.7)
    axes.bar_label(
        bars, [f"{count:.0f} in {row[5]} min" for count, row in zip(harm, rows, strict=True)], padding=3, fontsize=7
    )
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.grid(axis="x")
    axes.tick_params(labelsize=7)
    axes.set_title(kind, loc="left", fontsize=9)


def main() -> None:
    """The program; without a record it draws nothing."""
    recorded = FOLDER / f"{PART}.json"
    if recorded.exists():
        draw(PLOT, json.loads(recorded.read_text())["rows"])


if __name__ == "__main__":
    main()
