"""A report as one HTML document that needs nothing else: no script, no other file, no network."""

from datetime import datetime
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from sundog_operator.shell.report import charts, tables
from sundog_operator.shell.report.model import MAX_ARMS, ExperimentReport

_TEMPLATE: Final = "page.html.j2"
_DASHED: Final = 5
"""Beyond that arm lines have dashes: nine colours are many."""


def render_html(report: ExperimentReport, version: str, now: datetime) -> str:
    """The document. Every text of the report is escaped; `version` and the time it was made are told at its end."""
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
        size=charts,
        arms=MAX_ARMS,
        dashed=_DASHED,
        version=version,
        made=f"{now:%Y-%m-%d %H:%M:%S} UTC",
    )
