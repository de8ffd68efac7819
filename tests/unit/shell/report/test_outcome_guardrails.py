"""Outcomes as guardrails in descriptions and reports."""

from collections.abc import Sequence

import pytest

from experiment_fixtures import BOUGHT, HOUR, frozen, outcome, with_history
from printed import printed_lines
from rollout_fixtures import BEGUN, stored
from sundog_operator.api import EvidenceEpoch, ExperimentStatus
from sundog_operator.shell.report.build import make_report
from sundog_operator.shell.report.model import ExperimentReport
from sundog_operator.shell.report.page import render_html
from sundog_operator.shell.view.experiment import experiment_sections
from sundog_operator.shell.view.verdict import ONE_SIDED_NOTE

REVENUE = {"name": "revenue", "feedback": "paid", "type": "mean", "margin": "3%"}
LATE = {"name": "late", "feedback": "late", "goal": "decrease", "margin": "20%"}


def guarded(verdict: str = "Undecided", interval: Sequence[float] = (0.95, 1.03)) -> ExperimentStatus:
    metrics = {"success": [BOUGHT], "guardrails": [REVENUE, LATE]}
    metric = outcome(REVENUE, "a", 0.99, 3, verdict).model_copy(
        update={"role": "guardrail", "allowed": 0.97, "interval": tuple(interval)}
    )
    return with_history(frozen(("a",), metrics=metrics), [{"control": 10, "a": 10}] * 4, [[metric]] * 4)


def report_of(status: ExperimentStatus) -> ExperimentReport:
    return make_report(stored(status), BEGUN + 4 * HOUR)


def described(status: ExperimentStatus) -> list[str]:
    return printed_lines(*experiment_sections(stored(status), BEGUN + 4 * HOUR))


def test_the_plan_names_the_margin() -> None:
    lines = described(guarded())
    assert "revenue guardrail: mean of paid may be up to 3 % below control's" in lines
    assert "late guardrail: rate of late may be up to 20 % above control's" in lines


def test_the_metric_has_its_limit() -> None:
    (line,) = (each for each in described(guarded()) if each.startswith("a: revenue "))
    assert line.endswith(" guardrail 300/330 – -1 % (-5 to 3) -3 % Undecided unknown")


def test_the_report_draws_the_margin() -> None:
    report = report_of(guarded())
    metric = next(each for each in report.metrics if each.name == "a: revenue")
    assert (metric.judged, metric.margin, {point.allowed for point in metric.bounds}) == (True, 0.97, {0.97})
    assert "mean of paid may be up to 3 % below control" in render_html(report, "0.0", BEGUN + 4 * HOUR)
    assert dict(report.facts)["late"] == "guardrail: rate of late may be up to 20 % above control's"


def test_what_a_win_waits_for_is_described_once() -> None:
    running = guarded()
    won = running.metrics[0].message
    waits = running.verdict.model_copy(update={"reason": f"{won}; waits for late of a to pass"})
    epochs = (EvidenceEpoch(number=2, weight=50),)
    lines = described(running.model_copy(update={"verdict": waits, "evidence_epochs": epochs}))
    assert [line for line in lines if won in line] == [waits.reason]
    assert not any("waits for late" in line for line in described(running.model_copy(update={"verdict": waits})))


@pytest.mark.parametrize(
    ("verdict", "interval", "noted"),
    [
        ("Passed", (0.965, 1.02), True),
        ("Passed", (0.98, 1.02), False),
        ("Harm", (0.9, 0.98), True),
        ("Undecided", (0.95, 1.03), False),
    ],
)
def test_an_interval_around_the_limit_is_explained(verdict: str, interval: tuple[float, float], noted: bool) -> None:
    assert (ONE_SIDED_NOTE in described(guarded(verdict, interval))) == noted


def test_a_ratio_names_both_of_its_outcomes() -> None:
    basket = {"name": "basket", "feedback": "amount", "type": "ratio", "denominator": "orders", "margin": "3%"}
    counted = outcome(basket, "a", 0.99, 3).model_copy(update={"role": "guardrail", "allowed": 0.97})
    status = frozen(("a",), metrics={"success": [BOUGHT], "guardrails": [basket]})
    with_metric = with_history(status, [{"control": 10, "a": 10}] * 4, [[counted]] * 4)
    assert "basket guardrail: ratio of amount to orders may be up to 3 % below control's" in described(with_metric)
    metric = next(each for each in report_of(with_metric).metrics if each.name == "a: basket")
    assert (metric.meaning, metric.unit) == ("Ratio of the ratios of sums: arm a to control", "as much as control")


def test_a_covariate_is_named() -> None:
    status = frozen(("a",), unit={"header": "x-user-id"}, metrics={"guardrails": [REVENUE | {"covariate": "visits"}]})
    line = "revenue guardrail: mean of paid, adjusted by visits before the exposure, may be up to 3 % below control's"
    assert line in described(status)


def test_the_time_in_which_units_come_back_is_named() -> None:
    back = {"name": "kept", "feedback": "visited", "window": "7d", "after": "1d"}
    status = frozen(("a",), unit={"header": "x-user-id"}, metrics={"success": [back]})
    assert "kept success: rate of visited from 1d to 7d after the first exposure should increase" in described(status)
