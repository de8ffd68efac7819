"""The plot of the demo is drawn from what the clients of one run measured."""

import json
from pathlib import Path

from measuring import demo
from sundog_operator.shell.demo.load import RequestSample

LABELS = (3, 8)


def test_bins_count_each_request_once_by_the_time_of_sending() -> None:
    samples = [
        RequestSample(0.1, 2.0, image=0, revision=1, predicted=3),
        RequestSample(0.4, 0.1, image=1, revision=1, predicted=3),
        RequestSample(1.2, 0.1, image=1, revision=2, predicted=8),
        RequestSample(1.3, 0.1, image=0, revision=2, problem="HTTP 503: "),
    ]
    assert demo.make_bins(samples, LABELS) == [
        {"revisions": {"1": 2}, "correct": 1, "failed": 0},
        {"revisions": {}, "correct": 0, "failed": 0},
        {"revisions": {"2": 1}, "correct": 1, "failed": 1},
    ]
    assert demo.make_bins([], LABELS) == []


def test_the_recorded_run_succeeded_and_its_plot_fits_the_readme(tmp_path: Path) -> None:
    found = json.loads(demo.RECORD.read_text())
    assert found["succeeded"]
    assert sum(each["failed"] for each in found["bins"]) == found["requests"]["failed"] == 0
    assert sum(sum(each["revisions"].values()) for each in found["bins"]) == found["requests"]["sent"]
    demo.draw(tmp_path / "plot.svg", found)
    for plot in (tmp_path / "plot.svg", demo.PLOT):
        text = plot.read_text()
        assert f"{found['requests']['sent']:,} requests, 0 failed" in text
        assert len(text) < 100_000
