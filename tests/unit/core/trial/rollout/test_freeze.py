"""The frozen plan of an attempt."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sundog_operator.api import ExperimentStatus, Rollout
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.rollout import freeze

T0 = datetime(2026, 11, 25, 12, tzinfo=UTC)
BUSY = StableTraffic(60.12345, [0, 100], (400, 500))


def frozen(spec: dict[str, Any], traffic: StableTraffic = BUSY) -> ExperimentStatus:
    return freeze.freeze(Rollout.from_json(spec), 7, 8, T0, traffic)


def steps(spec: dict[str, Any], traffic: StableTraffic = BUSY) -> list[tuple[int, str]]:
    return [(step.weight, step.gate) for step in frozen(spec, traffic).plan.steps]


def test_a_rollout_without_anything_has_the_plan_of_its_traffic() -> None:
    plan = frozen({}).plan
    assert steps({}) == [(5, "evidence"), (25, "evidence"), (50, "evidence"), (100, "none")]
    assert steps({}, StableTraffic()) == [(25, "evidence"), (50, "evidence"), (100, "none")]
    assert (plan.alpha, plan.requests_per_second) == (0.05, 60.123)
    assert (plan.warmup_requests, plan.warmup_duration) == (200, timedelta(seconds=60))
    assert (plan.on_inconclusive, plan.on_no_data) == ("pause", "hold")
    assert [each.threshold_microseconds for each in plan.guardrails] == [None, 500, None, None]
    assert plan.frozen_at == T0


def test_unknown_traffic_is_left_out() -> None:
    assert frozen({}, StableTraffic()).plan.requests_per_second is None
    assert frozen({}, StableTraffic(0.0)).plan.requests_per_second == 0


def test_steps_of_the_spec_are_kept() -> None:
    steps = [{"weight": 10, "minDuration": "1m", "maxDuration": "2h"}, {"pause": {"duration": "3m"}}]
    spec = {"steps": steps, "guardrails": [{"metric": "errorRate"}]}
    first, pause, last = frozen(spec).plan.steps
    assert (first.weight, first.gate) == (10, "evidence")
    assert (first.min_duration, first.max_duration) == (timedelta(minutes=1), timedelta(hours=2))
    assert (pause.weight, pause.gate, pause.min_duration) == (10, "time", timedelta(minutes=3))
    assert (last.weight, last.gate) == (100, "none")


def test_a_webhook_is_a_step_at_the_weight_before_it() -> None:
    gate = {"url": "https://gate.example/", "timeout": "3s"}
    spec = {"steps": [{"webhook": gate}, {"weight": 50}, {"webhook": gate}]}
    before, weight, after, last = frozen(spec).plan.steps
    assert [(each.weight, each.gate) for each in (before, weight, after, last)] == [
        (0, "webhook"),
        (50, "evidence"),
        (50, "webhook"),
        (100, "none"),
    ]
    assert after.webhook is not None
    assert (after.webhook.url, after.webhook.timeout) == ("https://gate.example/", timedelta(seconds=3))
    assert (weight.webhook, last.webhook) == (None, None)
    assert ExperimentStatus.parse(frozen(spec).to_json()).plan == frozen(spec).plan


def test_headers_hold_until_the_next_headers_or_weight() -> None:
    first, second = {"headers": {"x-b": "2", "x-a": "1"}}, {"headers": {"x-a": "2"}}
    weight = {"weight": 5, "gate": "manual"}
    walked = [first, {"pause": {}}, second, {"scale": {"replicas": 2}}, weight, first, {"pause": {}}]
    plan = frozen({"steps": walked}).plan
    result = [(each.weight, [f"{h.name}={h.value}" for h in each.headers or ()]) for each in plan.steps]
    both, other = ["x-a=1", "x-b=2"], ["x-a=2"]
    assert result == [(0, both), (0, both), (0, other), (0, other), (5, []), (5, both), (5, both), (100, [])]
    assert [each.gate for each in plan.steps][:3] == ["headers", "manual", "headers"]
    assert ExperimentStatus.parse(frozen({"steps": walked}).to_json()).plan == plan
    assert frozen({"steps": [first]}).plan.hash != frozen({"steps": [second]}).plan.hash


def test_the_last_weight_has_no_evidence_gate_without_another_arm() -> None:
    assert steps({"steps": [{"weight": 60}, {"weight": 100, "gate": "evidence"}]}) == [(60, "evidence"), (100, "none")]
    assert steps({"steps": [{"weight": 100}]}) == [(100, "none")]


@pytest.mark.parametrize(
    ("weights", "replicas", "guardrail", "walked"),
    [
        ([25], 1, "latencyP99", [25, 50, 100]),
        ([10, 25], 3, "latencyP99", [10, 25, 100]),
        ([10], 2, "latencyP99", [10, 50, 100]),
        ([25], 1, "errorRate", [25, 100]),
        ([5, 50], 1, "latencyP99", [5, 50, 100]),
        ([60], 1, "latencyP99", [60, 100]),
    ],
)
def test_latencies_are_compared_once_under_the_same_load(
    weights: list[int], replicas: int, guardrail: str, walked: list[int]
) -> None:
    rollout = Rollout.from_json(
        {
            "steps": [{"weight": weight, "maxDuration": "2h"} for weight in weights],
            "guardrails": [{"metric": guardrail}],
        }
    )
    plan = freeze.resolve_plan(rollout, BUSY, replicas)
    assert [step.weight for step in plan.steps] == walked
    assert {step.max_duration for step in plan.steps[:-1]} == {timedelta(hours=2)}


def test_twenty_steps_and_the_one_that_is_implied_fit_the_plan() -> None:
    status = frozen({"steps": [{"weight": weight} for weight in range(1, 21)]})
    assert len(status.plan.steps) == 22, "one at 50 % as well"
    assert ExperimentStatus.parse(status.to_json()).plan == status.plan


def test_timed_and_manual_steps_evaluate_nothing_and_say_so() -> None:
    status = frozen({"steps": [{"weight": 10, "gate": "time"}, {"weight": 20, "gate": "manual"}]})
    assert status.plan.guardrails == ()
    assert (status.plan.warmup_requests, status.plan.warmup_duration) == (0, timedelta(0))
    assert status.verdict.reason == freeze.NO_EVIDENCE
    assert frozen({}).verdict.reason == freeze.EVIDENCE_IS_EVALUATED


@pytest.mark.parametrize(
    "change",
    [
        {"steps": [{"weight": 10}]},
        {"steps": [{"weight": 10, "minDuration": "1m"}]},
        {"steps": [{"weight": 10, "maxDuration": "1h"}]},
        {"steps": [{"weight": 10, "gate": "manual"}]},
        {"steps": [{"weight": 25}, {"webhook": {"url": "http://a"}}, {"weight": 50}]},
        {"guardrails": [{"metric": "errorRate"}]},
        {"guardrails": [{"metric": "errorRate", "margin": "26%"}]},
        {"guardrails": [{"metric": "errorRate", "floor": "2%"}]},
        {"warmup": {"requests": 100}},
        {"warmup": {"duration": "30s"}},
        {"onInconclusive": "rollback"},
        {"onNoData": "pause"},
        {"alpha": 0.01},
        {"unit": {"salt": "mine"}},
        {"unit": {"header": "x-user-id"}},
    ],
    ids=str,
)
def test_different_plans_have_different_hashes(change: dict[str, Any]) -> None:
    assert frozen(change).plan.hash != frozen({}).plan.hash


def test_the_hash_depends_on_the_resolved_plan_and_not_on_the_time() -> None:
    assert frozen({}, StableTraffic(60.12345, [100, 0], (400, 500))).plan.hash != frozen({}).plan.hash
    assert frozen({}, StableTraffic()).plan.hash != frozen({}).plan.hash
    assert freeze.freeze(Rollout(), 9, 10, T0 + timedelta(days=1), BUSY).plan.hash == frozen({}).plan.hash


BAKE = {"bake": {"duration": "1h", "holdback": "2%"}}


def test_a_bake_is_the_step_before_the_last() -> None:
    assert steps(BAKE) == [(5, "evidence"), (25, "evidence"), (50, "evidence"), (98, "bake"), (100, "none")]
    *_, bake, last = frozen(BAKE).plan.steps
    assert (bake.min_duration, bake.max_duration, last.weight) == (timedelta(hours=1), None, 100)
    # One replica at 25 % needs one more step, with equal load.
    assert steps({**BAKE, "steps": [{"weight": 25}]}) == [
        (25, "evidence"),
        (50, "evidence"),
        (98, "bake"),
        (100, "none"),
    ]
    assert ExperimentStatus.parse(frozen(BAKE).to_json()).plan == frozen(BAKE).plan


def test_all_steps_that_a_spec_may_have_fit_beside_a_bake() -> None:
    many = {**BAKE, "steps": [{"weight": weight} for weight in range(1, 21)]}
    assert len(steps(many)) == 23
    ExperimentStatus.from_json(frozen(many).to_json())


def test_a_manual_rollout_with_a_bake_is_evaluated_for_harm_alone() -> None:
    by_hand = {"steps": [{"weight": 25, "gate": "manual"}]}
    assert frozen(by_hand).plan.guardrails == ()
    plan = frozen({**by_hand, **BAKE}).plan
    assert [(each.metric, each.role) for each in plan.guardrails] == [
        ("errorRate", "harm"),
        ("latencyP99", "harm"),
        ("rejections", "harm"),
        ("retries", "harm"),
    ]
    assert plan.warmup_requests == 200
    assert {each.role for each in frozen(BAKE).plan.guardrails} == {"guardrail", "harm"}


def test_a_shadow_alone_bakes_behind_the_gate_that_a_command_opens() -> None:
    assert steps({"strategy": "shadow", **BAKE}) == [(0, "shadow"), (0, "manual"), (98, "bake"), (100, "none")]
    by_hand = {"strategy": "shadow", "steps": [{"shadow": {}}, {"pause": {}}], **BAKE}
    assert steps(by_hand) == [(0, "shadow"), (0, "manual"), (98, "bake"), (100, "none")]
    plan = frozen({"strategy": "shadow", "guardrails": [{"metric": "errorRate", "margin": "50%"}], **BAKE}).plan
    assert (plan.strategy, plan.warmup_requests) == ("shadow", 200)
    assert next((each.metric, each.role, each.margin) for each in plan.guardrails) == ("errorRate", "harm", 0.5)
    assert {each.role for each in plan.guardrails} == {"harm"}
    assert frozen({"strategy": "shadow"}).plan.guardrails == ()


def test_guardrails_that_are_outcomes_are_frozen_beside_the_default_ones() -> None:
    cost = {"name": "cost", "feedback": "cost", "type": "mean", "goal": "decrease", "margin": "25%", "cap": 50}
    plan = frozen({"guardrails": [{"name": "kept", "feedback": "accepted"}, cost]}).plan
    assert plan.outcomes is not None
    assert [each.to_json() for each in plan.outcomes] == [
        {
            "name": "kept",
            "role": "guardrail",
            "feedback": "accepted",
            "type": "rate",
            "rateBy": "units",
            "goal": "increase",
            "margin": 0.1,
        },
        {**cost, "role": "guardrail", "margin": 0.25},
    ]
    assert plan.guardrails == frozen({}).plan.guardrails
    wider = [{"name": "kept", "feedback": "accepted", "margin": "20%"}, cost]
    assert len({each.plan.hash for each in (frozen({}), frozen({"guardrails": wider}))} | {plan.hash}) == 3


def test_a_plan_with_an_outcome_keeps_its_hash() -> None:
    spec = {"guardrails": [{"name": "conversion", "feedback": "converted"}]}
    assert frozen(spec, StableTraffic()).plan.hash == "c53e81d232c73739"


def test_a_plan_without_outcomes_has_no_trace_of_them() -> None:
    plan = frozen({}).plan
    assert plan.outcomes is None
    assert "outcomes" not in plan.to_json()
    assert "outcomes" not in frozen({"guardrails": [{"metric": "errorRate"}]}).plan.to_json()


def test_a_plan_without_a_bake_keeps_its_hash() -> None:
    status = frozen({})
    assert status.plan.hash == "e98f26973a1ecf89"
    before = status.plan.model_copy(update={"hash": "", "frozen_at": None, "early_harm": None})
    assert freeze.plan_hash(before) == "23452c78682c3188"


@pytest.mark.parametrize(
    ("spec", "share"),
    [
        ({}, freeze.EARLY_HARM),
        ({"steps": [{"weight": 10, "gate": "manual"}], **BAKE}, freeze.EARLY_HARM),
        ({"unit": {"header": "x-user-id"}}, None),
        ({"steps": [{"weight": 10, "gate": "manual"}]}, None),
        ({"strategy": "shadow"}, None),
    ],
    ids=str,
)
def test_a_plan_tests_early_harm_if_each_request_is_a_unit(spec: dict[str, Any], share: float | None) -> None:
    status = frozen(spec)
    assert status.plan.early_harm == share
    assert ExperimentStatus.parse(status.to_json()).plan == status.plan


COPIED: dict[str, Any] = {"shadow": {}}
BY_HAND = {"weight": 50, "gate": "manual"}


@pytest.mark.parametrize(
    ("spec", "shares"),
    [
        ({}, None),
        ({"steps": [BY_HAND]}, None),
        ({"steps": [COPIED, BY_HAND]}, None),
        ({"strategy": "shadow"}, None),
        (BAKE, None),
        ({"steps": [COPIED, {"weight": 25}]}, 2),
        ({"steps": [COPIED, COPIED, BY_HAND]}, 2),
        ({"steps": [COPIED, BY_HAND], **BAKE}, 2),
        ({"strategy": "shadow", **BAKE}, 2),
        ({"steps": [COPIED, {"weight": 25}, COPIED, {"weight": 50}], **BAKE}, 3),
    ],
    ids=str,
)
def test_the_error_of_rolling_back_is_shared_among_shadows_and_traffic(
    spec: dict[str, Any], shares: int | None
) -> None:
    status = frozen(spec, StableTraffic())
    assert status.plan.harm_shares == shares
    assert status.plan.to_json().get("harmShares") == shares
    assert ExperimentStatus.parse(status.to_json()).plan == status.plan


def test_a_plan_with_unshared_alpha_keeps_its_hash() -> None:
    assert frozen({"strategy": "shadow"}, StableTraffic()).plan.hash == "fcb825630d5fc1ff"
