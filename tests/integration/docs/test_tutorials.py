"""The tutorials for one machine, followed as they stand: each shell block in order, each output that they show compared."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tutorial_reader import Block, Reader, reader
from waiting import patience

pytestmark = [pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(patience(3600))]

ROOT = Path(__file__).parents[3]
TUTORIALS = ROOT / "docs" / "tutorials"


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Reader]:
    pytest.importorskip("torch")
    pytest.importorskip("ray")
    with reader(tmp_path) as made:
        yield made


def compared(blocks: list[Block]) -> int:
    return sum(block.shown is not None for block in blocks)


def reports(blocks: list[Block]) -> list[str]:
    """The outputs with a report, in order."""
    return [block.output for block in blocks if "sundog experiment report" in block.commands]


def test_first_model(newcomer: Reader) -> None:
    assert compared(newcomer.follow(TUTORIALS / "first-model.md")) >= 12


def test_first_rollout(newcomer: Reader) -> None:
    blocks = newcomer.follow(TUTORIALS / "first-rollout.md")
    assert compared(blocks) >= 6
    good, broken = reports(blocks)
    assert "Rollout default/greeter-r2\nPromoted on evidence\n" in good
    assert "Rollout default/greeter-r3\nRolled back on evidence\n" in broken


def test_first_experiment(newcomer: Reader) -> None:
    pytest.importorskip("sklearn")
    # The page is followed in a checkout. It trains the models.
    shutil.copytree(ROOT / "examples", newcomer.here / "examples", ignore=shutil.ignore_patterns("models"))
    # These tests run with all extras. An installation would need an index, and change the environment.
    newcomer.replace_program("pip", '[ "$*" = "install --editable .[feedback]" ]')
    blocks = newcomer.follow(TUTORIALS / "first-experiment.md")
    assert compared(blocks) >= 3
    [report] = reports(blocks)
    assert "Experiment default/reads-better\nconv won\nWinner: accuracy of conv is " in report
