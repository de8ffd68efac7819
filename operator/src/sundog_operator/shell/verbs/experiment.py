"""`sundog experiment`: estimate, report and export rollouts and Experiments."""

import click

from sundog_operator.shell.verbs.export import export
from sundog_operator.shell.verbs.power import power
from sundog_operator.shell.verbs.report import report
from sundog_operator.shell.verbs.simulate import simulate


@click.group()
def experiment() -> None:
    """Estimate how a rollout or an Experiment ends, report it, or export its data."""


for _command in (simulate, power, report, export):
    experiment.add_command(_command)
