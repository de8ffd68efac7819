"""Outcomes as guardrails of a rollout in descriptions and reports."""

from printed import printed_lines
from rollout_fixtures import BEGUN, MINUTE, running, stored
from sundog_operator.api import ExperimentStatus, MetricStatus, PlanOutcome
from sundog_operator.core.trial import history
from sundog_operator.shell.report.build import make_report
from sundog_operator.shell.view.experiment import experiment_sections

KEPT = PlanOutcome(name="kept", role="guardrail", feedback="accepted", margin=0.1)
FOUND = MetricStatus(
    name="kept",
    role="guardrail",
    arm="canary",
    events=(900, 280),
    ratio=0.93,
    interval=(0.85, 1.02),
    allowed=0.9,
    verdict="Undecided",
    needed=9000.0,
    message="kept of the canary is 7 % below stable's; up to 10 % below is allowed: needs about 3000 more units",
)


def waiting() -> ExperimentStatus:
    before = running()
    plan = before.plan.model_copy(update={"outcomes": (KEPT,)})
    status = before.model_copy(update={"plan": plan, "metrics": (*before.metrics, FOUND), "history": ()})
    return history.record_point(status, status.metrics, BEGUN + 11 * MINUTE)


def test_the_description_names_the_margin_and_what_is_known() -> None:
    lines = printed_lines(*experiment_sections(stored(waiting()), BEGUN + 11 * MINUTE))
    assert "kept guardrail: rate of accepted may be up to 10 % below stable's" in lines
    assert any(line.startswith("kept ") and "(-15 to 2) -10 % Undecided" in line for line in lines)
    assert any(FOUND.message in line for line in lines)


def test_the_report_draws_the_outcome_against_its_limit() -> None:
    report = make_report(stored(waiting()), BEGUN + 11 * MINUTE)
    metric = next(each for each in report.metrics if each.name == "kept")
    assert (metric.judged, metric.compared, metric.type, metric.margin) == (
        True,
        ("the candidate", "stable"),
        "rate",
        0.9,
    )
    assert [(point.ratio, point.allowed) for point in metric.bounds] == [(0.93, 0.9)]
    assert metric.last is not None
    assert dict(report.facts)["kept"] == "guardrail: rate of accepted may be up to 10 % below stable's"
    assert dict(report.quality)["outcomes"].startswith("0 counted, 0 late ")


def test_a_report_of_a_rollout_without_outcomes_says_nothing_of_them() -> None:
    report = make_report(stored(running()), BEGUN + 11 * MINUTE)
    assert "outcomes" not in dict(report.quality)
    assert {each.type for each in report.metrics} == {"event"}
