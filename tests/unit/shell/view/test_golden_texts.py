"""`describe` and `report` print, to the byte, what a file beside this test has."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from experiment_fixtures import two_arms
from rollout_fixtures import BEGUN, MINUTE, promoted, rolled_back, running, stored
from sundog_operator.api import ExperimentStatus
from sundog_operator.shell.report import terminal
from sundog_operator.shell.report.build import make_report
from sundog_operator.shell.view.experiment import describe_experiment

GOLDEN = Path(__file__).with_name("golden")
STATUSES = {"running": running(), "promoted": promoted(), "rolled-back": rolled_back(), "experiment": two_arms()}


@pytest.mark.parametrize(("name", "status"), STATUSES.items(), ids=STATUSES)
def test_texts_of_a_status_equal_the_golden_file(name: str, status: ExperimentStatus) -> None:
    now = max([BEGUN + 12 * MINUTE, *(point.at + MINUTE for point in status.history)])
    console = Console(file=io.StringIO(), width=160)
    console.print(describe_experiment(stored(status), (), now))
    console.print(terminal.render_report(make_report(stored(status), now)))
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert lines == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8").splitlines()
