"""Draw the plots of the benchmarks' page from the tables of their archive."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.patches import Patch

from pictures.style import BAD, CANARY, FAINT, GOOD, IMAGES, INK, LINE, PAPER, ROOT, WAITS, picture

ARCHIVE: Final = ROOT / "docs" / "benchmarks" / "archive.md"

_AS_GOOD: Final = "as good"
"""How the names of canaries begin that are to be promoted."""

Rows = Sequence[Sequence[str]]


def draw(folder: Path = IMAGES) -> None:
    """Write decisions.svg, real-harm.svg and servers.svg."""
    page = ARCHIVE.read_text()
    draw_decisions(folder / "decisions.svg", read_table(page, "rollouts_thresholds"))
    draw_harm(folder / "real-harm.svg", read_table(page, "real_harm_thresholds"))
    draw_servers(folder / "servers.svg", read_table(page, "peers"))


def read_table(page: str, part: str) -> Rows:
    """Return the rows of a part's first table, without its head. Raises ValueError if the page has no such part."""
    found = re.search(rf"<!-- bench:{part} -->\n(.*?)<!-- /bench:{part} -->", page, re.DOTALL)
    if found is None:
        raise ValueError(f"{ARCHIVE.name}: no part {part}; expected <!-- bench:{part} -->")
    lines = [line for line in found[1].splitlines() if line.startswith("| ")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def draw_decisions(path: Path, rows: Rows) -> None:
    """Draw a panel for each candidate, with a bar for each way to decide: shares of right and wrong ends. `rows` as recorded."""
    kinds = [kind for kind in dict.fromkeys(row[0] for row in rows) if "floor" not in kind]
    with picture(path, 9.6, 1.25 * len(kinds) + 1.2) as figure:
        panels = figure.subplots(len(kinds), 1, sharex=True)
        for axes, kind in zip(panels, kinds, strict=True):
            _draw_ends(axes, kind, [row for row in rows if row[0] == kind])
        panels[-1].set_xlabel("share of the rollouts, %", color=FAINT)
        _legend(figure, {"right decision": GOOD, "no decision within an hour": WAITS, "wrong decision": BAD})
        figure.tight_layout(rect=(0, 0, 1, 0.96))


def _draw_ends(axes: Any, kind: str, rows: Rows) -> None:
    is_good = kind.startswith(_AS_GOOD)
    names = [row[1] for row in rows]
    runs, promoted, back = ([int(row[column]) for row in rows] for column in (2, 3, 4))
    right, wrong = (
        [100 * number / every for number, every in zip(ends, runs, strict=True)]
        for ends in ((promoted, back) if is_good else (back, promoted))
    )
    waiting = [100 - one - other for one, other in zip(right, wrong, strict=True)]
    floor = [0.0] * len(rows)
    for colour, widths in ((GOOD, right), (WAITS, waiting), (BAD, wrong)):
        axes.barh(names, widths, left=floor, color=colour, height=0.72, linewidth=0)
        for number, (left, width) in enumerate(zip(floor, widths, strict=True)):
            if width >= 2:
                axes.text(left + width / 2, number, f"{width:.0f}", ha="center", va="center", color=PAPER, fontsize=8)
        floor = [left + width for left, width in zip(floor, widths, strict=True)]
    axes.set_title(f"{kind}: to be {'promoted' if is_good else 'rolled back'} ({runs[0]} rollouts each)")
    _bare(axes)


def draw_harm(path: Path, rows: Rows) -> None:
    """Draw a panel for each candidate, with a bar for each way to decide; red where most runs were promoted. `rows` as recorded."""
    rows = [row for row in rows if "too short" not in row[1] and not row[0].startswith(_AS_GOOD)]
    kinds = list(dict.fromkeys(row[0] for row in rows))
    with picture(path, 9.6, 1.5 * len(kinds) + 1.2) as figure:
        panels = figure.subplots(len(kinds), 1, squeeze=False)[:, 0]
        for axes, kind in zip(panels, kinds, strict=True):
            _draw_harm(axes, kind, [row for row in rows if row[0] == kind])
        panels[-1].set_xlabel("answers of the canary that failed or took long, until it was decided", color=FAINT)
        _legend(figure, {"rolled back, or not promoted yet": WAITS, "promoted": BAD})
        figure.tight_layout(rect=(0, 0, 1, 0.965))


def _draw_harm(axes: Any, kind: str, rows: Rows) -> None:
    harm = [float(row[6]) + float(row[7]) for row in rows]
    promoted = [2 * int(row[3]) > int(row[2]) for row in rows]
    bars = axes.barh([row[1] for row in rows], harm, color=[BAD if each else WAITS for each in promoted], height=0.72)
    labels = [f"{count:.0f} in {row[5]} min" for count, row in zip(harm, rows, strict=True)]
    axes.bar_label(bars, labels, padding=4, fontsize=8, color=INK)
    axes.margins(x=0.2)
    axes.set_title(kind)
    _bare(axes)


def draw_servers(path: Path, rows: Rows) -> None:
    """Draw a bar for each server: answers per second at 16 connections, with the slowest and the fastest round. `rows` as recorded."""
    rows = sorted((row for row in rows if "with batching" not in row[0]), key=lambda row: -_rate(row[2]))
    with picture(path, 9.6, 0.36 * len(rows) + 0.9) as figure:
        axes = figure.subplots()
        names = [row[0].partition(":")[0] for row in rows]
        rates = [_rate(row[2]) for row in rows]
        colours = [CANARY if name.startswith("Sundog") else WAITS for name in names]
        axes.barh(names, rates, color=colours, height=0.72)
        for number, (row, rate) in enumerate(zip(rows, rates, strict=True)):
            low, high = map(float, re.findall(r"\d+", row[2])[1:3])
            axes.plot([low, high], [number, number], color=INK, linewidth=1.2)
            axes.text(30, number, f"{rate:,.0f}", va="center", color=PAPER, fontsize=9, fontweight="bold")
        axes.set_xlabel("answers per second, 16 connections; lines: slowest and fastest round", color=FAINT)
        _bare(axes)
        figure.tight_layout()


def _rate(cell: str) -> float:
    return float(cell.partition(" ")[0])


def _bare(axes: Any) -> None:
    axes.invert_yaxis()
    axes.grid(axis="x", color=LINE)
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False, labelsize=8.5)


def _legend(figure: Any, colours: dict[str, str]) -> None:
    """Draw the legend above all panels, where it covers nothing."""
    figure.legend(
        handles=[Patch(color=colour, label=name) for name, colour in colours.items()],
        loc="upper center",
        ncols=len(colours),
        fontsize=9,
    )
