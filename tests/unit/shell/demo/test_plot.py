"""The plot, from recorded data."""

import random
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from matplotlib.image import imread

from sundog_operator.shell.demo import plot
from sundog_operator.shell.demo.load import RequestSample
from sundog_operator.shell.demo.results import WeightPhase
from sundog_operator.shell.demo.run_record import DemoRecord, PlotMark

SLATE, AMBER, RED = (0x5B, 0x7C, 0x99), (0xF0, 0xA0, 0x30), (0xC0, 0x39, 0x2B)


def recorded(*, problem: str = "") -> DemoRecord:
    """20 s: v1 alone, then half and half, then v2 alone."""
    chance = random.Random(1)
    samples = []
    for number in range(2000):
        at = number / 100
        revision = 1 if at < 8 else 2 if at > 14 else chance.choice((1, 2))
        samples.append(RequestSample(at, 0.004 + chance.expovariate(500), number % 540, revision, number % 10))
    if problem:
        samples.append(RequestSample(10.0, 0.1, 0, problem=problem))
    record = DemoRecord(models={1: "v1", 2: "v2"}, labels=[0] * 540, samples=samples)
    record.phases = [WeightPhase("half", 8, 14, {1: 50, 2: 50})]
    record.marks = [PlotMark(8, "50 %"), PlotMark(14, "promoted")]
    return record


def amount(path: Path, colour: tuple[int, int, int]) -> int:
    """Count the pixels of about that colour."""
    pixels = imread(path)[..., :3] * 255
    return int((abs(pixels - colour).max(axis=2) < 4).sum())


def test_both_revisions_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "rollout.png"
    plot.write_plot(path, recorded())
    height, width, _ = imread(path).shape
    assert (width, height) >= (1400, 800)
    # Lines are opaque; areas are lighter.
    assert amount(path, SLATE) > 1000
    assert amount(path, AMBER) > 1000
    assert amount(path, RED) == 0


def test_failed_requests_are_marked(tmp_path: Path) -> None:
    path = tmp_path / "rollout.png"
    plot.write_plot(path, recorded(problem="HTTP 503"))
    assert amount(path, RED) > 10


def test_a_run_that_ended_early_is_drawn_too(tmp_path: Path) -> None:
    path = tmp_path / "rollout.png"
    record = recorded()
    record.samples, record.phases, record.marks = record.samples[:5], [], []
    plot.write_plot(path, record)
    assert path.stat().st_size > 10_000


def test_only_failures_are_drawn_too(tmp_path: Path) -> None:
    path = tmp_path / "rollout.png"
    plot.write_plot(path, DemoRecord(samples=[RequestSample(0.1, 0.1, 0, problem="no answer")], labels=[0]))
    assert amount(path, RED) > 10
