"""The frozen plan of an experiment: outcomes, and hashes that stay over releases."""

from datetime import timedelta
from typing import Any

import pytest

from experiment_statuses import freeze_experiment, stable_revision
from sundog_operator.api import ExperimentSpec, FrozenPlan, PlanOutcome
from sundog_operator.core.edge import feedback_store
from sundog_operator.core.trial.default_plan import StableTraffic, latency_guardrails, resolve_thresholds
from sundog_operator.core.trial.experiment import admission, arms, freeze, outcome_evaluation

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


def test_windows_are_part_of_the_plan() -> None:
    found = outcomes(
        success=[CONVERSION | {"window": "7d"}], guardrails=[REVENUE | {"window": "90m"}], secondary=[SEEN]
    )
    assert [each.window for each in found] == [timedelta(days=7), timedelta(minutes=90), None]
    assert len({plan_hash({"success": [CONVERSION | {"window": own}]}) for own in ("1d", "2d")}) == 2
    back = [CONVERSION | {"window": "7d", "after": own} for own in ("1d", "2d")]
    found = outcomes(success=[back[0]], guardrails=[REVENUE | {"window": "90m", "after": "1h"}], secondary=[SEEN])
    assert [each.after for each in found] == [timedelta(days=1), timedelta(hours=1), None]
    assert len({plan_hash({"success": [own]}) for own in (*back, CONVERSION | {"window": "7d"})}) == 3


def frozen(**spec: Any) -> FrozenPlan:
    return freeze_experiment(("a",), **spec).plan


def edge_guardrails(plan: FrozenPlan) -> list[str]:
    return [each.metric for each in plan.guardrails if each.role == "guardrail"]


def rule_of(plan: FrozenPlan) -> str | None:
    assert plan.comparison is not None
    return plan.comparison.win_by


def test_a_preset_fills_in_what_the_spec_leaves_out() -> None:
    success = {"success": [CONVERSION]}
    clear = frozen(preset="clearSignal", metrics=success)
    assert (rule_of(clear), edge_guardrails(clear)) == ("everyMetric", ["errorRate", "latencyP95"])
    plain = frozen(metrics=success)
    assert (rule_of(plain), edge_guardrails(plain)) == (None, [])
    given = frozen(
        preset="clearSignal",
        winBy="anyMetric",
        metrics={**success, "guardrails": [{"metric": "latencyP50"}, {"metric": "errorRate", "margin": "3%"}]},
    )
    assert (rule_of(given), edge_guardrails(given)) == (None, ["latencyP50", "errorRate"])
    assert [each.margin for each in given.guardrails if each.metric == "errorRate"] == [0.03]
    assert edge_guardrails(frozen(winBy="everyMetric", metrics=success)) == []


def test_without_harm_each_success_metric_is_a_guardrail_too() -> None:
    spent = {"name": "spent", "feedback": "paid", "type": "mean", "cap": 9, "minimumEffect": "2%"}
    metrics = {"success": [CONVERSION, spent], "secondary": [SEEN]}
    comparison = frozen(preset="doNoHarm", metrics=metrics).comparison
    assert comparison is not None
    assert comparison.win_by == "noHarm"
    assert [(each.name, each.role, each.margin, each.minimum_effect, each.cap) for each in comparison.outcomes] == [
        ("conversion", "success", None, 0.02, None),
        ("spent", "success", None, 0.02, 9),
        ("conversion.noHarm", "guardrail", 0.1, None, None),
        ("spent.noHarm", "guardrail", 0.1, None, 9),
        ("seen", "secondary", None, None, None),
    ]


@pytest.mark.parametrize(
    ("differs", "expected"),
    [
        ({}, [("revenue", 0.03, 9, timedelta(days=7))]),
        ({"cap": 8}, [("revenue", 0.03, 8, timedelta(days=7)), ("spent.noHarm", 0.1, 9, timedelta(days=7))]),
        ({"after": "1d"}, [("revenue", 0.03, 9, timedelta(days=7)), ("spent.noHarm", 0.1, 9, timedelta(days=7))]),
        ({"window": None}, [("revenue", 0.03, 9, None), ("spent.noHarm", 0.1, 9, timedelta(days=7))]),
    ],
)
def test_a_guardrail_replaces_only_that_of_the_very_same_outcome(
    differs: dict[str, Any], expected: list[tuple[Any, ...]]
) -> None:
    spent = {"name": "spent", "feedback": "paid", "type": "mean", "cap": 9, "window": "7d"}
    guardrail = {key: own for key, own in {**REVENUE, "cap": 9, "window": "7d", **differs}.items() if own is not None}
    comparison = frozen(
        winBy="noHarm", unit={"header": "x-user-id"}, metrics={"success": [spent], "guardrails": [guardrail]}
    ).comparison
    assert comparison is not None
    assert [(each.name, each.margin, each.cap, each.window) for each in comparison.outcomes[1:]] == expected


def test_a_guardrail_of_another_denominator_does_not_stand_for_a_ratio() -> None:
    ratio = {"name": "ctr", "feedback": "clicks", "type": "ratio", "denominator": "views"}
    for denominator, names in (("views", ["kept"]), ("visits", ["kept", "ctr.noHarm"])):
        kept = {**ratio, "name": "kept", "denominator": denominator}
        comparison = frozen(winBy="noHarm", metrics={"success": [ratio], "guardrails": [kept]}).comparison
        assert comparison is not None
        assert [each.name for each in comparison.outcomes if each.role == "guardrail"] == names
        assert comparison.outcomes[-1].type == "ratio"
        assert comparison.outcomes[-1].denominator == "views"


def test_presets_are_part_of_the_plan_and_expected_values_are_not() -> None:
    found = ExperimentSpec.from_json({**SPEC, "metrics": {"success": [CONVERSION]}})
    changed = [
        ExperimentSpec.from_json({**SPEC, "metrics": {"success": [CONVERSION]}, **change})
        for change in ({"preset": "clearSignal"}, {"preset": "doNoHarm"}, {"winBy": "noHarm"})
    ]
    assert len({freeze.plan_hash(each, []) for each in (found, *changed)}) == 4
    expecting = ExperimentSpec.from_json({**SPEC, "metrics": {"success": [{**CONVERSION, "expected": {"rate": "3%"}}]}})
    assert freeze.plan_hash(expecting, []) == freeze.plan_hash(found, [])
    plan = frozen(metrics={"success": [CONVERSION]})
    assert "spec.preset or spec.winBy" in freeze.find_changed_fields(plan, changed[0], [])


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({}, {"winBy": "anyMetric"}, ""),
        ({"preset": "doNoHarm"}, {"preset": "doNoHarm", "winBy": "noHarm"}, ""),
        ({"preset": "doNoHarm"}, {"preset": "clearSignal", "winBy": "noHarm"}, ""),
        # A preset adds guardrails too.
        ({"preset": "doNoHarm"}, {"winBy": "noHarm"}, "spec.preset or spec.metrics.guardrails"),
        ({"preset": "doNoHarm"}, {"preset": "clearSignal"}, "spec.preset or spec.winBy"),
    ],
)
def test_an_edit_that_resolves_to_the_same_plan_is_none(
    before: dict[str, Any], after: dict[str, Any], changed: str
) -> None:
    metrics = {"success": [CONVERSION]}
    spec = ExperimentSpec.from_json({**SPEC, "metrics": metrics, **after})
    planned = arms.plan_arms(stable_revision(), spec)
    assert freeze.find_changed_fields(frozen(metrics=metrics, **before), spec, planned) == changed


def test_a_plan_of_an_earlier_release_differs_in_no_field_by_its_test_of_rates() -> None:
    metrics = {"success": [CONVERSION]}
    plan = frozen(metrics=metrics, unit={"header": "x"})
    assert plan.comparison is not None
    earlier = tuple(each.model_copy(update={"rate_by": None}) for each in plan.comparison.outcomes)
    plan = plan.model_copy(update={"comparison": plan.comparison.model_copy(update={"outcomes": earlier})})
    spec = ExperimentSpec.from_json(
        {**SPEC, "unit": {"header": "x"}, "metrics": {"success": [{**CONVERSION, "minimumEffect": "5%"}]}}
    )
    planned = arms.plan_arms(stable_revision(), spec)
    assert freeze.find_changed_fields(plan, spec, planned) == "spec.metrics.success[0].minimumEffect"


@pytest.mark.parametrize(
    ("where", "change", "changed"),
    [
        ("success", {"minimumEffect": "5%"}, "spec.metrics.success[1].minimumEffect"),
        ("success", {"cap": 500, "window": "1d"}, "spec.metrics.success[1].cap, spec.metrics.success[1].window"),
        ("success", {"name": "sold"}, "spec.metrics.success"),
        ("guardrails", {"margin": "5%"}, "spec.metrics.guardrails[1].margin"),
        ("secondary", {"goal": "decrease"}, "spec.metrics.secondary[0].goal"),
    ],
)
def test_a_changed_field_of_a_metric_is_named_by_its_path(where: str, change: dict[str, Any], changed: str) -> None:
    spent = {"name": "spent", "feedback": "amount", "type": "mean", "minimumEffect": "2%"}
    metrics: dict[str, list[dict[str, Any]]] = {
        "success": [CONVERSION, spent],
        "guardrails": [{"metric": "errorRate", "margin": "25%"}, {"metric": "latencyP99"}, REVENUE],
        "secondary": [SEEN],
    }
    edited = {name: [dict(each) for each in own] for name, own in metrics.items()}
    place = {"success": 1, "guardrails": 1, "secondary": 0}[where]
    edited[where][place] |= change
    spec = ExperimentSpec.from_json({**SPEC, "unit": {"header": "x"}, "metrics": edited})
    planned = arms.plan_arms(stable_revision(), spec)
    plan = freeze_experiment(("a",), unit={"header": "x"}, metrics=metrics).plan
    assert freeze.find_changed_fields(plan, spec, planned) == changed


SPEC = {"modelDeployment": "digits", "arms": [{"name": "a"}]}


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


@pytest.mark.parametrize(
    ("spelled", "hash_"),
    [
        ({"exposure": "20.0%", "weights": {"control": 50, "a": 50}}, "32a188b12284ea2f"),
        ({"exposure": "20%", "weights": {"control": 40, "a": 60}}, "0233f90c50c79838"),
    ],
)
def test_plans_of_earlier_releases_do_not_differ_from_an_unchanged_spec(spelled: dict[str, Any], hash_: str) -> None:
    """Earlier releases hashed exposure and weights as they were written."""
    status = freeze_experiment(("a",), **spelled)
    earlier = status.plan.model_copy(update={"hash": hash_})
    spec = ExperimentSpec.from_json({"modelDeployment": "digits", "arms": [{"name": "a"}], **spelled})
    planned = arms.plan_arms(stable_revision(), spec)
    assert freeze.find_changed_fields(earlier, spec, planned) == ""
    assert freeze.find_changed_fields(status.plan, spec, planned) == ""
    more = spec.model_copy(update={"exposure": "21%"})
    assert freeze.find_changed_fields(earlier, more, planned) == "spec.exposure or spec.weights"


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


P95 = {"metric": "latencyP95", "goal": "decrease"}
REJECTIONS = {"metric": "rejections", "goal": "decrease"}


def test_a_latency_to_win_by_is_measured_at_one_threshold_and_errors_must_pass() -> None:
    status = freeze_experiment(("a",), metrics={"success": [P95], "guardrails": [{"metric": "latencyP95"}]})
    traffic = StableTraffic(latencies=(940, 10, 50), edges_us=(80_000, 120_000, 500_000))
    found = resolve_thresholds(status.plan.guardrails, traffic)
    assert [
        (each.metric, each.role, each.threshold_microseconds, each.candidate_threshold_microseconds) for each in found
    ] == [
        ("latencyP95", "guardrail", 120_000, 132_000),
        ("errorRate", "guardrail", None, None),
        ("rejections", "harm", None, None),
        ("retries", "harm", None, None),
        ("latencyP95", "measured", 120_000, 119_000),
    ]


def test_thresholds_come_from_the_same_answers_and_all_or_none_are_known() -> None:
    """The slowest 1 % are beyond the last bucket, so the p99 is unknown at first."""
    half = StableTraffic(latencies=(940, 30, 10, 20), edges_us=(80_000, 120_000, 500_000))
    slower = StableTraffic(latencies=(500, 0, 500), edges_us=(80_000, 120_000, 500_000))
    metrics = {"success": [P95, P95 | {"metric": "latencyP99"}], "guardrails": [{"metric": "latencyP95"}]}
    unknown = latency_guardrails(freeze_experiment(("a",), traffic=half, metrics=metrics).plan.guardrails)
    assert [each.threshold_microseconds for each in unknown] == [None] * 3
    found = latency_guardrails(resolve_thresholds(unknown, slower))
    assert [each.threshold_microseconds for each in found] == [500_000] * 3
    first = found[0].model_copy(update={"threshold_microseconds": 7})
    assert resolve_thresholds([first, *unknown[1:]], slower)[0] == first


@pytest.mark.parametrize(
    ("success", "guardrails", "floor"),
    [
        ([P95 | {"metric": "latencyP99"}], [], 0.001),
        ([P95], [], 0.005),
        ([REJECTIONS], [], 0.01),
        ([P95 | {"metric": "latencyP99"}], [{"metric": "errorRate"}], 0.01),
    ],
)
def test_an_unlisted_error_rate_grants_no_more_than_the_latency_to_win_by(
    success: list[dict[str, str]], guardrails: list[dict[str, str]], floor: float
) -> None:
    plan = frozen(metrics={"success": success, "guardrails": guardrails})
    assert [each.floor for each in plan.guardrails if each.metric == "errorRate"] == [pytest.approx(floor)]


def test_rejections_that_nobody_has_pass_by_no_harm() -> None:
    plan = frozen(winBy="noHarm", metrics={"success": [REJECTIONS]})
    floors = {each.metric: each.floor for each in plan.guardrails if each.role == "guardrail"}
    assert floors == {"errorRate": 0.01, "rejections": 0.01}


def test_by_no_harm_each_success_metric_of_the_edge_is_a_guardrail_too() -> None:
    plan = frozen(preset="doNoHarm", metrics={"success": [P95, REJECTIONS]})
    assert {(each.metric, each.margin) for each in plan.guardrails if each.role == "guardrail"} == {
        ("latencyP95", 0.1),
        ("errorRate", 0.25),
        ("rejections", 0.1),
    }
    assert plan.comparison is not None
    assert [each.name for each in plan.comparison.outcomes] == ["latencyP95", "rejections"]


def test_the_preset_adds_no_latency_without_room() -> None:
    success = [P95 | {"metric": f"latencyP{share}"} for share in (50, 90, 99)]
    plan = frozen(preset="clearSignal", metrics={"success": success})
    assert len(latency_guardrails(plan.guardrails)) == 3
    assert edge_guardrails(plan) == ["errorRate"]


def test_metrics_of_the_edge_need_no_feedback() -> None:
    spec = {
        "modelDeployment": "digits",
        "arms": [{"name": "a"}],
        "metrics": {"success": [P95], "secondary": [REJECTIONS]},
    }
    stored = {"metadata": {"name": "e", "namespace": "n"}, "spec": spec}
    assert not feedback_store.is_needed_by(stored)
    status = freeze_experiment(("a",), metrics=spec["metrics"])
    assert not feedback_store.is_needed_by(stored | {"status": status.to_json()})
    assert outcome_evaluation.make_feedback_selection("digits", "uid", status) is None


def test_latencies_that_no_harm_adds_count_too() -> None:
    success = [P95, P95 | {"metric": "latencyP50"}]
    spec = {"modelDeployment": "digits", "arms": [{"name": "a"}], "metrics": {"success": success}}
    stored = {"metadata": {"name": "e", "namespace": "n"}, "spec": spec}
    assert admission.check_admission(stored).spec is not None
    refused = admission.check_admission({**stored, "spec": {**spec, "winBy": "noHarm"}})
    assert refused.message.startswith(
        "spec.metrics: 4 latencies, with a guardrail for each success metric by winBy noHarm"
    )


def test_units_are_tested_where_they_stay_with_their_arm() -> None:
    header = {"unit": {"header": "x-user-id"}}
    specs: list[dict[str, Any]] = [header, {}, {**header, "allocation": {"mode": "thompson"}}]
    plans = [frozen(metrics={"success": [CONVERSION]}, **spec).comparison for spec in specs]
    assert [plan and plan.guardrails_by_unit for plan in plans] == [True, None, None]
