"""Render a report as one HTML document without scripts, other files or network access."""

from datetime import datetime
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from sundog_operator.shell.report import chart_parts, charts, tables
from sundog_operator.shell.report.model import MAX_ARMS, ExperimentReport
from sundog_operator.shell.view import palette

_TEMPLATE: Final = "page.html.j2"
_DASHED: Final = 5
"""Lines of arms after this number are dashed, because nine colours are hard to distinguish."""


def render_html(report: ExperimentReport, version: str, now: datetime) -> str:
    """Render the document. It escapes every text of the report, and ends with `version` and `now`."""
    environment = Environment(
        loader=PackageLoader("sundog_operator.shell.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        report=report,
        tables=tables.make_tables(report),
        charts=charts.make_charts(report),
        size=chart_parts,
        palette=palette,
        arms=MAX_ARMS,
        dashed=_DASHED,
        version=version,
        made=f"{now:%Y-%m-%d %H:%M:%S} UTC",
    )
