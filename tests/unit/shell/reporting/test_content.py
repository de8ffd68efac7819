"""What a report tells of rollouts under way, ended, and without traffic."""

import io
from datetime import datetime
from typing import Any

import pytest
from rich.console import Console

from sundog_operator.api import EvidenceEpoch, ExperimentStatus, Paused, PlanUnit, Verdict
from sundog_operator.shell.reporting import terminal
from sundog_operator.shell.reporting.content import Report, report_of
from told_rollouts import (
    BEGUN,
    ERRORS,
    MINUTE,
    condition,
    looks,
    promoted,
    rolled_back,
    running,
    running_arms,
    stored,
    without_traffic,
)

NOW = BEGUN + 12 * MINUTE


def told(status: ExperimentStatus, now: datetime = NOW) -> Report:
    return report_of(stored(status), now)


def lines(status: ExperimentStatus, width: int = 10_000) -> list[str]:
    """What a terminal shows, with one space for many."""
    out = io.StringIO()
    Console(file=out, width=width).print(terminal.shown(told(status)))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def fact(report: Report, name: str) -> str:
    return dict([*report.facts, *report.quality])[name]


def test_one_that_goes_on_says_what_it_waits_for_and_what_is_known() -> None:
    report = told(running())
    assert (report.title, report.heading, report.tone) == ("vision/digits-r8", "Undecided, goes on", "open")
    assert report.why == (ERRORS.message,)
    assert fact(report, "so far") == "12m"
    assert fact(report, "traffic") == "100 requests a second when it began"
    assert report.seconds == 720
    assert [(arm.name, arm.revision, arm.weight, arm.requests, arm.evidence, arm.errors) for arm in report.arms] == [
        ("stable", 7, 75, 49_500, 49_000, 495),
        ("canary", 8, 25, 16_500, 16_333, 176),
    ]
    assert report.arms[0].error_rate == 0.01
    errors = report.metrics[0]
    assert (errors.name, errors.judged, errors.margin) == ("errorRate", True, 1.25)
    assert [bound.at_s for bound in errors.bounds] == [60.0 * n for n in range(1, 12)]
    assert (errors.bounds[0].lower, errors.bounds[0].upper) == (0.35, None)


def test_data_quality_has_the_split_and_what_nobody_knows_of() -> None:
    report = told(running())
    assert fact(report, "data quality") == "Consistent"
    assert fact(report, "silent edges") == "none, as of the last write"
    assert fact(report, "lost") == "3 of stable's requests and 1 of the candidate's ended, nobody knows how"
    assert fact(report, "running") == "2 of stable's and 0 of the candidate's, when that was last told"
    split = fact(report, "sample ratio")
    assert split.startswith("the candidate got 16333 of 65333 requests where 16333 were expected; log E against")
    silent = condition("DataQuality", "Unknown", "EdgeSilent", message="edge-1: does not tell what it has counted")
    report = told(running(conditions=(silent,), evidence_epochs=()))
    assert fact(report, "silent edges") == "edge-1: does not tell what it has counted"
    assert fact(report, "sample ratio") == "nothing was counted as evidence"


def test_requests_of_units_that_stay_with_an_arm_are_no_split_to_be_wrong() -> None:
    plan = running().plan.model_copy(update={"unit": PlanUnit(kind="header", name="x-user")})
    split = fact(told(running(plan=plan, evidence_epochs=(EvidenceEpoch(number=2, weight=50),))), "sample ratio")
    assert split.startswith("the candidate got 16333 of 65333 requests, which need not fall to the arms by the weights")


def test_a_split_that_is_wrong_is_seen() -> None:
    epochs = (EvidenceEpoch(number=2, weight=50),)
    log_e = float(fact(told(running(evidence_epochs=epochs)), "sample ratio").split("the split is ")[1].split(",")[0])
    assert log_e > 1000


@pytest.mark.parametrize(
    ("status", "heading", "tone", "why", "minutes"),
    [
        (promoted(), "Promoted on evidence", "good", "Promoted: after step 4 at 100 %", 11),
        (rolled_back(), "Rolled back on evidence", "bad", "RolledBack: errorRate is 3 times stable's", 5),
    ],
)
def test_one_that_ended_says_how_and_why(
    status: ExperimentStatus, heading: str, tone: str, why: str, minutes: int
) -> None:
    report = told(status)
    assert (report.heading, report.tone, report.why[0]) == (heading, tone, why)
    assert report.seconds == 60 * minutes
    assert fact(report, "ended") == f"2026-11-26 12:{minutes:02}:00 UTC, after {minutes}m"


def test_no_sentence_is_told_twice_and_none_of_what_waits_for_nothing() -> None:
    assert told(rolled_back()).why == ("RolledBack: errorRate is 3 times stable's",)
    assert told(promoted()).why == (
        "Promoted: after step 4 at 100 %",
        "errorRate is 1.05 times stable's: no worse than allowed",
    )


def test_without_traffic_nothing_is_made_up() -> None:
    report = told(without_traffic())
    assert [metric.bounds for metric in report.metrics] == [(), (), ()]
    assert [arm.error_rate for arm in report.arms] == [None, None]
    assert fact(report, "counts") == "none are kept"
    shown = lines(without_traffic())
    assert "stable r7 75 % 0 – – 0 –" in shown
    assert not any("over time:" in line for line in shown)


def test_what_is_allowed_is_that_of_the_weight_under_which_it_was_counted() -> None:
    allowed = {bound.at_s // 60: bound.allowed for bound in told(promoted()).metrics[0].bounds}
    # 0, 5, 25, 50 and 100 %, twelve minutes: a new one in minutes 3, 5, 8 and 10.
    assert (allowed[4], allowed[5], allowed[6], allowed[8], allowed[9], allowed[11]) == (2, 2, 1.5, 1.5, 1.25, 1.25)


def test_one_of_before_has_no_looks_but_what_is_known_now() -> None:
    report = told(running(history=()))
    assert not report.remembered
    assert [(look.at_s, look.weight, look.requests) for look in report.looks] == [(660.0, 25, (49_500, 16_500))]
    assert [bound.ratio for bound in report.metrics[0].bounds] == [1.05]
    assert ExperimentStatus.parse({}).history == ()
    assert report_of({**stored(running()), "status": {}}, NOW).heading == "Has not begun"


def test_a_status_that_somebody_damaged_is_told_as_far_as_it_goes() -> None:
    many = tuple(ERRORS.model_copy(update={"name": f"m{n}"}) for n in range(40))
    report = told(running(metrics=many, history=(), arms=running().arms[:1]))
    assert (report.looks, [arm.name for arm in report.arms]) == ((), ["stable"])
    assert lines(running(metrics=many, history=(), arms=()))


def test_one_that_a_command_ended_between_two_looks_ends_when_it_did() -> None:
    status = running(
        phase="Stopped",
        arms=running_arms(0),
        history=looks(5),
        verdict=Verdict(reason="Aborted: by command abc"),
        conditions=(condition("Running", "False", "Aborted", BEGUN + 5 * MINUTE),),
    )
    report = told(status)
    assert report.heading == "Ended without a verdict of evidence: Aborted"
    assert (report.looks[-1].at_s, report.looks[-1].weight, report.looks[-1].requests) == (300.0, 0, (49_500, 16_500))


@pytest.mark.parametrize(
    ("changes", "heading"),
    [
        ({"paused": Paused(reason="Inconclusive", since=BEGUN)}, "Paused: Inconclusive"),
        (
            {"phase": "Concluded", "verdict": Verdict(reason="Promoted: after step 2 at 50 %")},
            "Promoted, not by evidence",
        ),
        ({"phase": "Pending"}, "Has not begun"),
    ],
)
def test_headings(changes: dict[str, Any], heading: str) -> None:
    assert told(running(**changes)).heading == heading


def test_a_terminal_shows_the_interval_shrink_between_its_limits() -> None:
    shown = lines(promoted())
    assert "▁▁▁" in next(line for line in shown if line.startswith("▕"))
    assert "0 % from 0:00:00, 5 % from 0:03:00, 25 % from 0:05:00, 50 % from 0:08:00, 100 % from 0:10:00" in shown
    head = shown.index("errorRate over time: up to 25 % more than stable, or 0.5 % of all requests")
    rows = [line for line in shown[head + 2 :] if line and line[0] == "0"]
    assert len(rows) == 10
    assert rows[0].startswith("0:01:00 1.05 0.35– ")
    assert "▸" in rows[0]
    assert rows[-1].startswith("0:11:00 1.05 0.788–1.4 ")
    assert rows[-1].endswith("Passed")
    widths = [sum(row.count(mark) for mark in "─●┼╎") for row in rows[1:]]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 2 * widths[-1]


def test_a_terminal_obeys_no_name_or_message() -> None:
    hostile = ERRORS.model_copy(update={"message": "\x1b[2J[bold]gone\x07 \x9b31m"})
    shown = "\n".join(lines(running(metrics=(hostile,))))
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "�[2J[bold]gone� �31m" in shown
