"""The frozen plan of an experiment: outcomes, and hashes that stay over releases."""

from typing import Any

from experiment_statuses import freeze_experiment, stable_revision
from sundog_operator.api import ExperimentSpec, PlanOutcome
from sundog_operator.core.experiments import arms, freeze

CONVERSION = {"name": "conversion", "feedback": "converted", "minimumEffect": "2%"}
REVENUE = {"name": "revenue", "feedback": "paid", "type": "mean", "margin": "3%"}
SEEN = {"name": "seen", "feedback": "seen"}


def outcomes(**metrics: Any) -> tuple[PlanOutcome, ...]:
    comparison = freeze_experiment(("a",), metrics=metrics).plan.comparison
    assert comparison is not None
    return comparison.outcomes


def test_outcomes_are_ordered_by_role_and_have_their_margins() -> None:
    late = {"name": "late", "feedback": "late", "goal": "decrease"}
    found = outcomes(success=[CONVERSION], guardrails=[{"metric": "errorRate"}, REVENUE, late], secondary=[SEEN])
    assert [(each.name, each.role, each.type, each.goal, each.margin) for each in found] == [
        ("conversion", "success", "rate", "increase", None),
        ("revenue", "guardrail", "mean", "increase", 0.03),
        ("late", "guardrail", "rate", "decrease", 0.1),
        ("seen", "secondary", "rate", "increase", None),
    ]


def test_caps_are_part_of_the_plan() -> None:
    spent = {"name": "spent", "feedback": "paid", "type": "mean", "cap": 250}
    found = outcomes(success=[spent], guardrails=[REVENUE | {"cap": 99.5}], secondary=[SEEN])
    assert [each.cap for each in found] == [250, 99.5, None]
    assert len({plan_hash({"success": [spent | {"cap": cap}]}) for cap in (250, 251)}) == 2


def test_denominators_are_part_of_the_plan() -> None:
    ratio = {"name": "ctr", "feedback": "clicks", "type": "ratio", "denominator": "views"}
    found = outcomes(success=[ratio], guardrails=[{**ratio, "name": "ctr-kept", "margin": "2%"}], secondary=[SEEN])
    assert [(each.type, each.denominator) for each in found][:2] == [("ratio", "views")] * 2
    assert found[2].denominator is None
    assert len({plan_hash({"success": [ratio | {"denominator": name}]}) for name in ("views", "visits")}) == 2


def test_covariates_are_part_of_the_plan() -> None:
    spent = {"name": "spent", "feedback": "paid", "type": "mean", "covariate": "paid"}
    found = outcomes(success=[spent], guardrails=[REVENUE | {"covariate": "visits"}], secondary=[SEEN])
    assert [each.covariate for each in found] == ["paid", "visits", None]
    assert len({plan_hash({"success": [spent | {"covariate": name}]}) for name in ("paid", "visits")}) == 2


def test_an_outcome_is_no_guardrail_of_the_edge() -> None:
    plan = freeze_experiment(("a",), metrics={"guardrails": [REVENUE]}).plan
    assert [(each.metric, each.role) for each in plan.guardrails] == [
        (metric, "harm") for metric in ("errorRate", "rejections", "retries")
    ]


def plan_hash(metrics: dict[str, Any]) -> str:
    spec = ExperimentSpec.from_json({"modelDeployment": "digits", "arms": [{"name": "a"}], "metrics": metrics})
    return freeze.plan_hash(spec, arms.plan_arms(stable_revision(), spec))


def test_plans_of_earlier_releases_keep_their_hashes() -> None:
    """Else an upgrade would refuse the spec of every experiment that runs."""
    edge = [{"metric": "errorRate", "margin": "25%", "floor": "0.5%"}, {"metric": "latencyP99", "max": "500ms"}]
    everything = {"success": [CONVERSION], "guardrails": edge, "secondary": [SEEN | {"type": "mean"}]}
    found = [plan_hash(each) for each in ({}, {"guardrails": edge}, everything)]
    assert found == ["300bc266ccf0b9d1", "83a43a90ea662ce7", "ffe47b3fd72f9f26"]


def test_each_field_of_an_outcome_guardrail_is_part_of_the_plan() -> None:
    changes: tuple[dict[str, str], ...] = (
        {},
        {"margin": "4%"},
        {"type": "rate"},
        {"goal": "decrease"},
        {"feedback": "other"},
        {"name": "other"},
    )
    assert len({plan_hash({"guardrails": [REVENUE | each]}) for each in changes}) == len(changes)
