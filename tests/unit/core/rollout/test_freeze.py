"""The plan of an attempt, frozen."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sundog_operator.api import ExperimentStatus, Rollout
from sundog_operator.core.rollout import freeze
from sundog_operator.core.rollout.resolve import Traffic

T0 = datetime(2026, 11, 25, 12, tzinfo=UTC)
BUSY = Traffic(60.12345, [0, 100], (400, 500))


def frozen(spec: dict[str, Any], traffic: Traffic = BUSY) -> ExperimentStatus:
    return freeze.freeze(Rollout.from_json(spec), 7, 8, T0, traffic)


def steps(spec: dict[str, Any], traffic: Traffic = BUSY) -> list[tuple[int, str]]:
    return [(step.weight, step.gate) for step in frozen(spec, traffic).plan.steps]


def test_a_rollout_without_anything_has_the_plan_of_its_traffic() -> None:
    plan = frozen({}).plan
    assert steps({}) == [(5, "evidence"), (25, "evidence"), (50, "evidence"), (100, "none")]
    assert steps({}, Traffic()) == [(25, "evidence"), (50, "evidence"), (100, "none")]
    assert (plan.alpha, plan.requests_per_second) == (0.05, 60.123)
    assert (plan.warmup_requests, plan.warmup_duration) == (200, timedelta(seconds=60))
    assert (plan.on_inconclusive, plan.on_no_data) == ("pause", "hold")
    assert [each.threshold_microseconds for each in plan.guardrails] == [None, 500, None]
    assert plan.frozen_at == T0


def test_traffic_that_is_not_known_is_left_out() -> None:
    assert frozen({}, Traffic()).plan.requests_per_second is None
    assert frozen({}, Traffic(0.0)).plan.requests_per_second == 0


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


def test_no_evidence_gates_the_last_weight_for_there_is_nothing_to_compare_with() -> None:
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
    plan = freeze.resolved(rollout, BUSY, replicas)
    assert [step.weight for step in plan.steps] == walked
    assert {step.max_duration for step in plan.steps[:-1]} == {timedelta(hours=2)}


def test_twenty_steps_and_the_one_that_is_implied_fit_the_plan() -> None:
    status = frozen({"steps": [{"weight": weight} for weight in range(1, 21)]})
    assert len(status.plan.steps) == 22, "one at 50 % as well"
    assert ExperimentStatus.parse(status.to_json()).plan == status.plan


def test_steps_by_time_and_by_hand_weigh_nothing_and_say_so() -> None:
    status = frozen({"steps": [{"weight": 10, "gate": "time"}, {"weight": 20, "gate": "manual"}]})
    assert status.plan.guardrails == ()
    assert (status.plan.warmup_requests, status.plan.warmup_duration) == (0, timedelta(0))
    assert status.verdict.reason == freeze.NO_EVIDENCE
    assert frozen({}).verdict.reason == freeze.WEIGHED


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
def test_the_hash_tells_plans_apart(change: dict[str, Any]) -> None:
    assert frozen(change).plan.hash != frozen({}).plan.hash


def test_the_hash_tells_resolved_plans_apart_and_is_that_of_the_same_plan_later() -> None:
    assert frozen({}, Traffic(60.12345, [100, 0], (400, 500))).plan.hash != frozen({}).plan.hash
    assert frozen({}, Traffic()).plan.hash != frozen({}).plan.hash
    assert freeze.freeze(Rollout(), 9, 10, T0 + timedelta(days=1), BUSY).plan.hash == frozen({}).plan.hash
