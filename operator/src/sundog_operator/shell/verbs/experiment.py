"""`sundog experiment`: what evidence will have to say, and what it has said."""

import click

from sundog_operator.shell.verbs.export import export
from sundog_operator.shell.verbs.power import power
from sundog_operator.shell.verbs.report import report
from sundog_operator.shell.verbs.simulate import simulate


@click.group()
def experiment() -> None:
    """Tell what evidence will have to say, and what it has said."""


for _command in (simulate, power, report, export):
    experiment.add_command(_command)
