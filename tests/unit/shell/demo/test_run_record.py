"""Success and failure of a run, and its output."""

from io import StringIO
from pathlib import Path

import orjson
from rich.console import Console

from sundog_operator.shell.demo import report, view
from sundog_operator.shell.demo.load import RequestSample
from sundog_operator.shell.demo.results import RecentTraffic, WeightPhase
from sundog_operator.shell.demo.run_record import DemoRecord, DemoStep


def record(*, problem: str = "", reached: bool = True) -> DemoRecord:
    found = DemoRecord(
        steps=[
            DemoStep("train", "Train", 2.0, True, "done"),
            DemoStep("serve", "Serve v1", 1.0, reached, "" if reached else "no v1"),
        ],
        models={1: "v1"},
        offline={"v1": 0.9},
        labels=[3],
        samples=[RequestSample(0, 0.01, 0, 1, 3), RequestSample(1, 0.01, 0, 1, 3, problem)],
        seconds=3.5,
    )
    found.phases = [WeightPhase("v1 alone", 0, 2, {1: 100})]
    return found


def printed(found: DemoRecord) -> str:
    console = Console(file=StringIO(), width=100)
    report.print_results(console, found, [Path("out/results.json")])
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_all_steps_and_no_failed_request_are_a_success() -> None:
    document = record().document()
    assert (document["succeeded"], document["failures"]) == (True, [])
    assert orjson.loads(orjson.dumps(document))["requests"] == {"sent": 2, "failed": 0, "problems": []}


def test_a_step_that_was_not_reached_is_no_success() -> None:
    assert record(reached=False).problems() == ["not reached: Serve v1: no v1"]
    assert "not reached: Serve v1: no v1" in printed(record(reached=False))


def test_a_failed_request_is_no_success() -> None:
    assert record(problem="HTTP 500").problems() == ["1 of 2 requests failed; the first: HTTP 500"]
    text = printed(record(problem="HTTP 500"))
    assert "2 requests sent, 1 failed" in text
    assert "1 × HTTP 500" in text


def test_a_run_that_sent_nothing_can_be_shown() -> None:
    empty = DemoRecord(steps=[DemoStep("train", "Train", 1.0, False, "no torch")])
    assert empty.document()["succeeded"] is False
    assert "not reached: Train: no torch" in printed(empty)


def test_the_tables_name_accuracy_and_shares() -> None:
    text = printed(record())
    assert "100.00%   90.00%  1 of 1" in text
    assert "v1 alone" in text
    assert "\x1b" not in text


def test_without_a_terminal_there_are_plain_lines() -> None:
    console = Console(file=StringIO(), width=60)
    shown = view.make_view(console)
    shown.start_step("Serve v1")
    shown.detail("left out, because it changes all the time")
    shown.traffic(RecentTraffic(10, 5.0, {1: 1.0}, 4.0, 9.0), {1: "v1"}, 0)
    shown.log_line("[bold] is no markup here, and a line that is longer than the width of the console is not cut")
    shown.end_step("revision 1 answers", 2.0, reached=True)
    shown.clear_traffic()
    shown.end_step("no process is left", 1.0, reached=True)
    shown.close()
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().splitlines() == [
        "Serve v1 …",
        "  [bold] is no markup here, and a line that is longer than the width of the console is not cut",
        "  traffic: v1 100%; 5 requests/s, p50 4.0 ms, p99 9.0 ms; 10 sent, 0 failed",
        "  done in 2.0 s: revision 1 answers",
        "  done in 1.0 s: no process is left",
    ]


def test_the_bar_has_one_width_whatever_the_shares_are() -> None:
    for shares in ({1: 1.0}, {1: 0.755, 2: 0.245}, {1: 1 / 3, 2: 2 / 3}, {}):
        bar = view.render_traffic_bar(RecentTraffic(1, 1.0, shares, 1.0, 1.0), {1: "v1", 2: "v2"}).plain
        assert bar.count("█") + bar.count("░") == 40


def test_a_plain_view_prints_each_reason_to_wait_once() -> None:
    console = Console(file=StringIO(), width=100)
    plain = view.PlainDemoView(console)
    for text in ("Ray is starting", "Ray is starting", "Serve does not answer"):
        plain.wait(text)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue() == "  waits: Ray is starting\n  waits: Serve does not answer\n"
