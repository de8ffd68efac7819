"""Content of reports of rollouts under way, ended, and without traffic."""

import re
from datetime import datetime
from typing import Any

import pytest

from experiment_fixtures import in_old_format, means, moving, one_name, ten_arms, two_arms
from printed import printed, printed_lines
from rollout_fixtures import (
    BEGUN,
    ERRORS,
    MINUTE,
    UID,
    condition,
    make_history,
    promoted,
    rolled_back,
    running,
    running_arms,
    stored,
    without_traffic,
)
from sundog_operator.api import (
    EvidenceEpoch,
    ExperimentStatus,
    MetricStatus,
    PauseStatus,
    PlanOutcome,
    PlanUnit,
    Rollout,
    StepStatus,
    Verdict,
)
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSums
from sundog_operator.core.trial.rollout import freeze
from sundog_operator.shell.report import terminal
from sundog_operator.shell.report.build import make_report
from sundog_operator.shell.report.model import ExperimentReport
from sundog_operator.shell.report.page import render_html
from sundog_operator.shell.view.verdict import ONE_SIDED_NOTE

NOW = BEGUN + 12 * MINUTE


PASSED = Verdict(decision="Passed", reason="agreement by exact: 99.9 % of 901")


def report_of(status: ExperimentStatus, now: datetime = NOW) -> ExperimentReport:
    return make_report(stored(status), now)


def lines(status: ExperimentStatus, width: int = 10_000) -> list[str]:
    """Return the lines of a terminal, with single spaces."""
    now = max([NOW, *(point.at for point in status.history)])
    return printed_lines(terminal.render_report(report_of(status, now)), width=width)


def fact(report: ExperimentReport, name: str) -> str:
    return dict([*report.facts, *report.quality])[name]


def test_one_that_goes_on_says_what_it_waits_for_and_what_is_known() -> None:
    report = report_of(running())
    assert (report.title, report.heading, report.tone) == ("vision/digits-r8", "Undecided, still running", "open")
    assert report.why == (ERRORS.message,)
    assert fact(report, "so far") == "12m"
    assert fact(report, "traffic") == "100 requests a second at its start"
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


def test_an_interval_around_1_beside_a_verdict_is_explained() -> None:
    mistakes = MetricStatus(name="mistakes", role="secondary", arm="canary", verdict="Better", interval=(0.1, 1.02))
    status = running()
    beside = status.model_copy(update={"metrics": (*status.metrics, mistakes)})
    assert ONE_SIDED_NOTE in report_of(beside).why
    assert ONE_SIDED_NOTE in lines(beside)
    assert ONE_SIDED_NOTE not in lines(status)
    assert ONE_SIDED_NOTE in render_html(report_of(beside), "0.1.0", NOW)


def test_a_bake_is_shown_with_the_steps() -> None:
    rollout = Rollout.from_json({"steps": [{"weight": 25}], "bake": {"holdback": "2%"}})
    report = report_of(running(plan=freeze.freeze(rollout, 7, 8, BEGUN).plan))
    assert fact(report, "steps") == "25 % → 50 % → 98 % → 100 %"
    assert fact(report, "bake") == "2 % stays with stable for 30m"


def test_data_quality_has_the_split_and_what_nobody_knows_of() -> None:
    report = report_of(running())
    assert fact(report, "data quality") == "Consistent"
    assert fact(report, "silent edges") == "none, as of the last write"
    assert fact(report, "lost") == "3 of stable's requests and 1 of the candidate's have an unknown result"
    assert fact(report, "running") == "2 of stable's requests and 0 of the candidate's, as of the last report"
    split = fact(report, "sample ratio")
    assert split.startswith("the canary got 16333 of 65333 requests, expected 16333; log E against")
    silent = condition("DataQuality", "Unknown", "EdgeSilent", message="edge-1: does not tell what it has counted")
    report = report_of(running(conditions=(silent,), evidence_epochs=()))
    assert fact(report, "silent edges") == "edge-1: does not tell what it has counted"
    assert fact(report, "sample ratio") == "no evidence was counted"


def test_requests_of_units_that_stay_with_an_arm_are_no_split_to_be_wrong() -> None:
    plan = running().plan.model_copy(update={"unit": PlanUnit(kind="header", name="x-user")})
    split = fact(report_of(running(plan=plan, evidence_epochs=(EvidenceEpoch(number=2, weight=50),))), "sample ratio")
    assert split.startswith("the candidate got 16333 of 65333 requests. Only units split by the weights")


BY_USER = PlanUnit(kind="header", name="x-user-id")


def counting(status: ExperimentStatus, counted: Counters, unit: PlanUnit | None = None) -> ExperimentStatus:
    """Return a status of two arms with one epoch of evidence, and these counts."""
    epoch = EvidenceEpoch(number=2, buckets=(8000, 668, 666, 666))
    plan = status.plan.model_copy(update={"unit": unit})
    return status.model_copy(update={"evidence_epochs": (epoch,), "tallies": counted.pack(), "plan": plan})


def test_data_quality_of_an_experiment_has_the_split_and_what_was_refused() -> None:
    exposed = {(2, "stable"): 8000, (2, "control"): 700, (2, "a"): 660, (2, "b"): 640}
    sums = FeedbackSums("s1", 9, exposed, accepted=2000, late=30, early=20, future=4, unknown=7, overflow=1)
    rows = {(2, arm): ArmCounts(assigned=count) for (_, arm), count in exposed.items()}
    counted = Counters(UID, {"edge/boot": rows}, feedback=sums)
    report = report_of(counting(two_arms(), counted, BY_USER))
    assert fact(report, "sample ratio").startswith(
        "of 10000 units, stable got 8000 (8000 expected), control got 700 (668 expected), a got 660 (666 expected),"
        " b got 640 (666 expected); log E against the split is -"
    )
    assert fact(report, "outcomes") == (
        "2000 counted, 30 late (20 of them before the exposure that they name), 4 in the future, 7 of unknown units,"
        " 1 without space in the store"
    )
    without_outcomes = Counters(UID, {"edge/boot": rows})
    sticky = fact(report_of(counting(two_arms(), without_outcomes, BY_USER)), "sample ratio")
    assert sticky.startswith("of 10000 requests, stable got 8000")
    assert sticky.endswith(". Only units split by the weights; edges count those while the experiment runs")
    by_request = fact(report_of(counting(two_arms(), without_outcomes)), "sample ratio")
    assert "; log E against the split is " in by_request
    assert (
        fact(report_of(counting(two_arms(), Counters(UID, {"edge/boot": {}}))), "sample ratio")
        == "no evidence was counted"
    )


def test_an_experiment_that_goes_on_says_first_what_is_missing() -> None:
    missing = "arm a: converted of a is 1.3 times control's: needs about 400 more units"
    conclusive = condition("Conclusive", "False", "Undecided", message=missing)
    status = moving()
    report = report_of(status.model_copy(update={"conditions": (*status.conditions, conclusive)}))
    assert (report.heading, report.why[0]) == ("Undecided, still running", missing)
    ended = two_arms()
    over = report_of(ended.model_copy(update={"conditions": (*ended.conditions, conclusive)}))
    assert over.why[0].startswith("When it won: ")


def test_units_of_each_arm_are_shown() -> None:
    report = report_of(two_arms())
    assert [arm.units for arm in report.arms] == [arm.units for arm in two_arms().arms]
    assert all(arm.units for arm in report.arms)
    assert [arm.units for arm in report_of(running()).arms] == [None, None]
    shown = lines(two_arms())
    head = next(line for line in shown if line.startswith("ARM REVISION"))
    assert head.endswith("ERROR RATE UNITS SINCE THE START")
    assert shown[shown.index(head) + 2].endswith(f" {two_arms().arms[0].units}")


def test_a_discovery_is_marked_beside_its_verdict() -> None:
    status = means()
    waited = status.metrics[-1].model_copy(update={"verdict": "Undecided", "note": "Discovery"})
    shown = lines(status.model_copy(update={"metrics": (*status.metrics[:-1], waited)}))
    assert any(line.startswith("a: waited secondary Undecided, differs ") for line in shown)


def test_the_minimum_effect_is_drawn_in_the_direction_of_the_goal() -> None:
    effects = {metric.name: metric.effect for metric in report_of(two_arms()).metrics}
    assert effects["a: converted"] == 1.02
    assert effects["a: errorRate"] is None
    less = PlanOutcome(name="waited", role="success", feedback="seconds", goal="decrease", minimum_effect=0.1)
    comparison = means().plan.comparison
    assert comparison is not None
    plan = means().plan.model_copy(update={"comparison": comparison.model_copy(update={"outcomes": (less,)})})
    (waited,) = (
        each for each in report_of(means().model_copy(update={"plan": plan})).metrics if each.name == "a: waited"
    )
    assert waited.effect == 0.9


def test_a_split_that_is_wrong_is_seen() -> None:
    epochs = (EvidenceEpoch(number=2, weight=50),)
    log_e = float(
        fact(report_of(running(evidence_epochs=epochs)), "sample ratio").split("the split is ")[1].split(";")[0]
    )
    assert log_e > 1000


@pytest.mark.parametrize(
    ("status", "heading", "tone", "why", "minutes"),
    [
        (promoted(), "Promoted on evidence", "good", "Promoted: after step 4 at 100 %", 11),
        (rolled_back(), "Rolled back on evidence", "bad", "RolledBack: errorRate is 3 times stable's", 5),
    ],
)
def test_an_ended_one_says_why(status: ExperimentStatus, heading: str, tone: str, why: str, minutes: int) -> None:
    report = report_of(status)
    assert (report.heading, report.tone, report.why[0]) == (heading, tone, why)
    assert report.seconds == 60 * minutes
    assert fact(report, "ended") == f"2026-11-26 12:{minutes:02}:00 UTC, after {minutes}m"


def test_no_sentence_is_shown_twice_and_none_of_what_waits_for_nothing() -> None:
    assert report_of(rolled_back()).why == ("RolledBack: errorRate is 3 times stable's",)
    assert report_of(promoted()).why == (
        "Promoted: after step 4 at 100 %",
        "errorRate is 1.05 times stable's: no worse than allowed",
    )


def test_without_traffic_nothing_is_made_up() -> None:
    report = report_of(without_traffic())
    assert {metric.bounds for metric in report.metrics} == {()}
    assert [arm.error_rate for arm in report.arms] == [None, None]
    assert fact(report, "counts") == "none are kept"
    shown = lines(without_traffic())
    assert "stable r7 75 % 0 – – 0 –" in shown
    assert not any("over time:" in line for line in shown)


def test_what_is_allowed_is_that_of_the_weight_under_which_it_was_counted() -> None:
    allowed = {bound.at_s // 60: bound.allowed for bound in report_of(promoted()).metrics[0].bounds}
    # 0, 5, 25, 50 and 100 %, twelve minutes: a new one in minutes 3, 5, 8 and 10.
    assert (allowed[4], allowed[5], allowed[6], allowed[8], allowed[9], allowed[11]) == (2, 2, 1.5, 1.5, 1.25, 1.25)


def test_one_of_before_has_no_looks_but_what_is_known_now() -> None:
    report = report_of(running(history=()))
    assert not report.remembered
    assert [(point.at_s, point.weight, point.requests) for point in report.points] == [(660.0, 25, (49_500, 16_500))]
    assert report.points[0].weights == (75, 25)
    assert [bound.ratio for bound in report.metrics[0].bounds] == [1.05]
    assert ExperimentStatus.parse({}).history == ()
    assert make_report({**stored(running()), "status": {}}, NOW).heading == "Not started"


def test_a_status_that_is_damaged_is_shown_as_far_as_it_goes() -> None:
    many = tuple(ERRORS.model_copy(update={"name": f"m{n}"}) for n in range(40))
    report = report_of(running(metrics=many, history=(), arms=running().arms[:1]))
    assert (report.points, [arm.name for arm in report.arms]) == ((), ["stable"])
    assert lines(running(metrics=many, history=(), arms=()))


def test_one_that_a_command_ended_between_two_looks_ends_when_it_did() -> None:
    status = running(
        phase="Stopped",
        arms=running_arms(0),
        history=make_history(5),
        verdict=Verdict(reason="Aborted: by command abc"),
        conditions=(condition("Running", "False", "Aborted", BEGUN + 5 * MINUTE),),
    )
    report = report_of(status)
    assert report.heading == "Ended without a verdict on evidence: Aborted"
    assert (report.points[-1].at_s, report.points[-1].weight, report.points[-1].requests) == (
        300.0,
        0,
        (49_500, 16_500),
    )


@pytest.mark.parametrize(
    ("changes", "heading"),
    [
        ({"paused": PauseStatus(reason="Inconclusive", since=BEGUN)}, "Paused: Inconclusive"),
        (
            {"phase": "Concluded", "verdict": Verdict(reason="Promoted: after step 2 at 50 %")},
            "Promoted, not by evidence",
        ),
        ({"phase": "Pending"}, "Not started"),
        ({"verdict": PASSED, "step": None}, "Its copies passed: promote or abort it"),
        ({"phase": "Concluded", "verdict": PASSED}, "Promoted by command, after its copies passed"),
        (
            {"phase": "Stopped", "verdict": PASSED.model_copy(update={"reason": "Aborted: by command c"})},
            "Its copies passed, but it was not promoted: Aborted",
        ),
    ],
)
def test_headings(changes: dict[str, Any], heading: str) -> None:
    assert report_of(running(**changes)).heading == heading


def test_what_copies_came_to_is_shown_before_anybody_decides() -> None:
    assert report_of(copied(2, "manual")).why[0] == PASSED.reason


def copied(index: int, gate: Any, **changes: Any) -> ExperimentStatus:
    """Return a status between a passed shadow step and a bake."""
    plan = freeze.freeze(Rollout.from_json({"strategy": "shadow", "bake": {}}), 7, 8, BEGUN).plan
    step = StepStatus(
        index=index, of=4, gate=gate, reason="bakes until noon" if gate == "bake" else "waits for promote"
    )
    return running(plan=plan, step=step, verdict=PASSED, **changes)


def test_a_bake_after_a_shadow_is_shown_as_any_other_until_it_is_over() -> None:
    report = report_of(copied(3, "bake"))
    assert (report.heading, report.why[0]) == ("Undecided, still running", "bakes until noon")
    assert fact(report, "steps") == "0 % → 0 % → 99 % → 100 %"
    assert fact(report, "bake") == "1 % stays with stable for 30m"
    assert report_of(copied(3, "bake", paused=PauseStatus(reason="NoData", since=BEGUN))).heading == "Paused: NoData"
    assert report_of(copied(4, "none", phase="Concluded")).heading == "Promoted by command, after its copies passed"


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


@pytest.mark.parametrize("width", [10_000, 80])
def test_an_interval_of_one_step_alone_says_so(width: int) -> None:
    *before, last = running().history
    metrics = tuple(each.model_copy(update={"basis": "ThisStep"}) for each in last.metrics or ())
    status = running(history=(*before, last.model_copy(update={"metrics": metrics})))
    found = lines(status, width)
    assert not any("this step" in line for line in lines(running(), width))
    assert any("this step" in line for line in found)
    assert "in this step</td>" in render_html(report_of(status), "0.1.0", NOW)
    assert all(len(line) <= width for line in found)


def test_a_terminal_repeats_no_row() -> None:
    status = promoted()
    again = (*status.history, status.history[-1])
    assert lines(status.model_copy(update={"history": again})) == lines(status)


def test_a_terminal_executes_no_name_or_message() -> None:
    hostile = ERRORS.model_copy(update={"message": "\x1b[2J[bold]gone\x07 \x9b31m"})
    shown = "\n".join(lines(running(metrics=(hostile,))))
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "�[2J[bold]gone� �31m" in shown


def test_a_terminal_shows_the_traffic_of_each_arm() -> None:
    shown = lines(moving())
    head = shown.index("Traffic of the arms over time, to 80 %")
    assert [line.split()[0] for line in shown[head + 1 : head + 4]] == ["control", "a", "b"]
    assert shown[head + 1].endswith(" 33.34 % → 15 %, moved 2 times")
    assert shown[head + 2].endswith("█▏ 33.33 % → 80 %, moved 2 times")
    assert shown[head + 3].endswith("▁▏ 33.33 % → 5 %, moved 2 times")
    assert shown[head + 4] == "in 7:00:00"


def test_a_terminal_shows_weights_below_one_percent() -> None:
    shown = lines(means())
    head = shown.index("Traffic of the arms over time, to 0.5 %")
    assert shown[head + 1].startswith("control ▕███")
    assert shown[head + 1].endswith("▏ 0.5 %")


def test_a_terminal_shows_ten_arms_and_that_one_was_dropped() -> None:
    shown = lines(ten_arms())
    head = shown.index("Traffic of the arms over time, to 1 %")
    assert [line.split()[0] for line in shown[head + 1 : head + 11]] == ["control", *"abcdefghi"]
    assert shown[head + 10].endswith("▏ 1 % → 0 %, moved 1 time")


def test_a_terminal_shows_what_was_kept_before_weights_of_arms_were() -> None:
    shown = lines(in_old_format(moving()))
    head = shown.index("Traffic of the arms over time, to 85 %")
    assert shown[head + 1].startswith("all arms except control, rounded ▕")
    assert shown[head + 1].endswith("▏ 67 % → 85 %, moved 2 times")
    assert shown[head + 2] == "in 7:00:00"


def test_a_terminal_says_what_the_ratio_of_a_metric_of_an_arm_is() -> None:
    def below(status: ExperimentStatus, title: str) -> str:
        shown = lines(status)
        return shown[shown.index(title) + 1]

    assert below(means(), "a: spent over time: mean of amount should increase") == (
        "Ratio of the mean by unit: arm a to control"
    )
    assert below(two_arms(), "a: converted over time: rate of bought should increase, by 2 % or more") == (
        "Ratio of the frequency: arm a to control"
    )
    assert below(
        two_arms(), "b: errorRate over time: up to 25 % more than control, or 0.5 % of all requests"
    ).startswith("Ratio of the frequency: arm b")


def test_a_terminal_has_better_and_worse_in_colours_of_their_own() -> None:
    report = terminal.render_report(report_of(two_arms(), BEGUN + 60 * 11 * MINUTE))
    text = printed(report, width=200, force_terminal=True, color_system="standard")
    colours = {
        verdict: re.findall(rf"\x1b\[(\d+)m[^\x1b]*\x1b\[0m  {verdict}", text)
        for verdict in ("Better", "Worse", "Passed")
    }
    assert [set(found) for found in colours.values()] == [{"36"}, {"35"}, {"32"}]


def test_what_is_shown_of_two_metrics_of_one_name_is_shown_of_each() -> None:
    found = {metric.name: metric for metric in report_of(one_name(), BEGUN + 4 * 60 * MINUTE).metrics}
    success, harm = found["a: errorRate (success)"], found["a: errorRate (harm)"]
    assert success.last is not None
    assert harm.last is not None
    assert [(each.last.role, each.last.ratio) for each in (success, harm) if each.last] == [
        ("success", 0.5),
        ("harm", 1.1),
    ]
    assert {bound.ratio for bound in success.bounds} == {0.5}
    assert {bound.ratio for bound in harm.bounds} == {1.1}
    before = {metric.name: metric for metric in report_of(in_old_format(one_name()), BEGUN + 4 * 60 * MINUTE).metrics}
    assert before["a: errorRate (harm)"].bounds == before["a: errorRate (success)"].bounds == ()
    alone = report_of(in_old_format(two_arms()), BEGUN + 11 * 60 * MINUTE).metrics
    assert all(len(metric.bounds) == 12 for metric in alone if metric.last is not None)
