"""Render the layout of the chart's Grafana dashboard as an SVG picture: each panel with its title and its description."""

import json
import textwrap
from collections.abc import Iterator
from html import escape
from typing import Any, Final

from reference.chart_values import CHART

COLUMN_PX: Final = 40
ROW_PX: Final = 14
GAP_PX: Final = 8
LINE_CHARACTERS: Final = 58
STYLE: Final = (
    "rect{fill:#fff;stroke:#9aa3ad}text{font:13px sans-serif;fill:#3c4650}.title{font-weight:bold;fill:#111}"
    "@media(prefers-color-scheme:dark){rect{fill:#1e2227;stroke:#5b6570}text{fill:#c3cad1}.title{fill:#fff}}"
)


def render_picture() -> str:
    """Return the picture. Panels keep their places and proportions; there is no data in them."""
    panels = json.loads((CHART / "files" / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    width = COLUMN_PX * max(panel["gridPos"]["x"] + panel["gridPos"]["w"] for panel in panels)
    height = ROW_PX * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    drawn = "".join(line for panel in panels for line in _draw_panel(panel))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<title>Panels of the dashboard</title><style>{STYLE}</style>\n{drawn}</svg>\n"
    )


def _draw_panel(panel: dict[str, Any]) -> Iterator[str]:
    place = panel["gridPos"]
    x, y = COLUMN_PX * place["x"], ROW_PX * place["y"]
    size = f'width="{COLUMN_PX * place["w"] - GAP_PX}" height="{ROW_PX * place["h"] - GAP_PX}" rx="4"'
    yield f'<rect x="{x}" y="{y}" {size}/>\n'
    yield f'<text class="title" x="{x + 12}" y="{y + 24}">{escape(panel["title"])}</text>\n'
    for number, line in enumerate(textwrap.wrap(panel["description"].replace("`", ""), LINE_CHARACTERS)):
        yield f'<text x="{x + 12}" y="{y + 46 + 18 * number}">{escape(line)}</text>\n'
