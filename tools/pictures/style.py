"""Colours and sizes of all pictures, and SVG files that follow the reader's light or dark mode."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

ROOT: Final = Path(__file__).parents[2]
IMAGES: Final = ROOT / "docs" / "images"
RECORDED: Final = Path(__file__).with_name("recorded.json")
"""The rollout that `make record-rollout` recorded."""

PAPER: Final = "#fefefe"
INK: Final = "#2b2b2c"
FAINT: Final = "#6f7680"
LINE: Final = "#d6dadf"
STABLE: Final = "#4a78a8"
CANARY: Final = "#e08a1e"
BAD: Final = "#c0392b"
GOOD: Final = "#3b8f5a"
WAITS: Final = "#9aa3ad"

_DARK: Final[Mapping[str, str]] = {
    PAPER: "#1b1e23",
    INK: "#e8eaed",
    FAINT: "#a2aab4",
    LINE: "#3a4048",
    STABLE: "#79a9dc",
    CANARY: "#f3a94a",
    BAD: "#ef6a5b",
    GOOD: "#63bd85",
    WAITS: "#7b848f",
}
"""The colour in dark mode of each colour above."""

_STYLE: Final[Mapping[str, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": PAPER,
    "axes.titlecolor": INK,
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    # The same numbers make the same file.
    "svg.hashsalt": "sundog",
    "svg.fonttype": "none",
}


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure of so many inches, and write it as an SVG file. Blocks for about a second; raises OSError."""
    with mpl.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(width, height), facecolor=PAPER)
        FigureCanvasSVG(figure)
        yield figure
        written = BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    path.write_text(_with_modes(written.getvalue().decode()))


def _with_modes(svg: str) -> str:
    """Return the picture with a second set of colours for dark mode. A viewer without variables shows the first set."""
    names = {colour: f"--c{number}" for number, colour in enumerate(_DARK)}
    dark = ";".join(f"{names[colour]}:{other}" for colour, other in _DARK.items())
    style = f"<style>@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    coloured = re.sub("|".join(_DARK), lambda found: f"var({names[found[0]]},{found[0]})", svg)
    # Wide letters leave space for those of any viewer.
    coloured = coloured.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
    head, tag, body = coloured.partition("<defs>")
    return f"{head}{style}{tag}{body}"
