"""Defaults from the service's own traffic."""

from typing import Any

import pytest

from sundog_operator.api import PlanGuardrail, Rollout
from sundog_operator.core.trial import default_plan
from sundog_operator.core.trial.default_plan import StableTraffic

EDGES_US = (100, 1000, 10_000)
KNOWN = StableTraffic(10, [50, 45, 4, 1], EDGES_US)


def weights(traffic: StableTraffic) -> list[int]:
    return [step.weight for step in default_plan.default_steps(traffic)]


def guardrail_rows(traffic: StableTraffic, *given: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    found = default_plan.resolve_guardrails(Rollout.from_json({"guardrails": list(given)} if given else {}), traffic)
    return [(each.metric, each.role, each.margin, each.floor) for each in found]


HARM = (("rejections", "harm", 0.25, 0.0), ("retries", "harm", 0.25, 0.0))
BUSY = [("errorRate", "guardrail", 0.25, 0.005), ("latencyP99", "guardrail", 0.1, 0.001), *HARM]
QUIET = [("errorRate", "guardrail", 0.25, 0.01), ("latencyP95", "guardrail", 0.25, 0.005), *HARM]


@pytest.mark.parametrize(
    ("requests_per_second", "steps", "guardrails"),
    [
        (None, [25, 50], QUIET),
        (0.0, [25, 50], QUIET),
        (49.9, [25, 50], QUIET),
        (50.0, [5, 25, 50], BUSY),
        (999.9, [5, 25, 50], BUSY),
        (1000.0, [1, 5, 25, 50], BUSY),
    ],
)
def test_more_traffic_means_smaller_first_weights_and_margins(
    requests_per_second: float | None, steps: list[int], guardrails: list[tuple[str, str, float, float]]
) -> None:
    traffic = StableTraffic(requests_per_second)
    assert weights(traffic) == steps
    assert guardrail_rows(traffic) == guardrails


def test_default_steps_collect_for_five_minutes_at_least_and_a_day_at_most() -> None:
    for step in default_plan.default_steps(StableTraffic(2000)):
        assert step.gate == "evidence"
        assert (step.min_duration.total_seconds(), step.max_duration) == (
            300,
            default_plan.default_steps(KNOWN)[0].max_duration,
        )
        assert step.max_duration is not None
        assert step.max_duration.total_seconds() == 86_400


def test_guardrails_of_the_spec_replace_defaults_and_harm_is_always_tested() -> None:
    assert guardrail_rows(StableTraffic(), {"metric": "latencyP50"}) == [
        ("latencyP50", "guardrail", 0.1, 0.05),
        ("latencyP95", "harm", 0.25, 0.0),
        ("errorRate", "harm", 0.25, 0.0),
        *HARM,
    ]
    assert guardrail_rows(StableTraffic(60), {"metric": "errorRate", "margin": "50%"}) == [
        ("errorRate", "guardrail", 0.5, 0.005),
        ("latencyP99", "harm", 0.1, 0.0),
        *HARM,
    ]
    assert guardrail_rows(StableTraffic(60), {"metric": "latencyP99", "margin": "50%"})[0] == (
        "latencyP99",
        "guardrail",
        0.5,
        0.001,
    )
    assert guardrail_rows(StableTraffic(60), {"metric": "errorRate", "floor": "0%"})[0] == (
        "errorRate",
        "guardrail",
        0.25,
        0.0,
    )


def test_a_latency_is_left_out_by_its_name_alone_or_where_edges_count_no_more_of_them() -> None:
    errors, off = {"metric": "errorRate"}, {"metric": "latencyP95", "enabled": False}
    assert [metric for metric, *_ in guardrail_rows(StableTraffic(), errors, off)] == [
        "errorRate",
        "rejections",
        "retries",
    ]
    assert [metric for metric, *_ in guardrail_rows(StableTraffic(60), errors, off)] == [
        "errorRate",
        "latencyP99",
        *NEVER_LATENCIES,
    ]
    assert guardrail_rows(StableTraffic(), off) == [QUIET[0], *HARM]
    three = [{"metric": f"latencyP{each}"} for each in (50, 90, 99)]
    assert [metric for metric, *_ in guardrail_rows(StableTraffic(), *three)][3:] == ["errorRate", *NEVER_LATENCIES]


def latency(metric: str = "latencyP95", margin: str = "25%", traffic: StableTraffic = KNOWN) -> PlanGuardrail:
    return default_plan.resolve_guardrails(
        Rollout.from_json({"guardrails": [{"metric": metric, "margin": margin}]}), traffic
    )[0]


@pytest.mark.parametrize(
    ("metric", "found", "allowed"),
    [("latencyP50", 100, 1100), ("latencyP90", 1000, 2000), ("latencyP99", 10_000, 12_500)],
)
def test_a_slow_answer_takes_longer_than_stables_quantile(metric: str, found: int, allowed: int) -> None:
    """The threshold is a quarter more, or a millisecond, whichever is more."""
    guardrail = latency(metric)
    assert guardrail.threshold_microseconds == found
    assert guardrail.candidate_threshold_microseconds == allowed


@pytest.mark.parametrize(("metric", "found", "allowed"), [("latencyP90", 1000, 800), ("latencyP99", 10_000, 9000)])
def test_an_arm_wins_by_a_latency_below_a_threshold_of_its_own(metric: str, found: int, allowed: int) -> None:
    """Its threshold is a millisecond less than control's, or a fifth, whichever is less."""
    (measured,) = default_plan.resolve_thresholds([PlanGuardrail(metric=metric, role="measured", margin=0.0)], KNOWN)
    assert (measured.threshold_microseconds, measured.candidate_threshold_microseconds) == (found, allowed)
    others = [measured.model_copy(update={"role": role}) for role in ("guardrail", "harm")]
    assert default_plan.tested_guardrails([measured, *others]) == tuple(others)


def test_too_few_answers_or_answers_beyond_the_last_bucket_have_no_quantile() -> None:
    few, long = StableTraffic(10, [0, 99, 0, 0], EDGES_US), StableTraffic(10, [0, 0, 90, 10], EDGES_US)
    for traffic in (StableTraffic(), few, long):
        assert latency(traffic=traffic).threshold_microseconds is None
        assert default_plan.needs_threshold([latency(traffic=traffic)])
    enough = StableTraffic(10, [0, 100, 0, 0], EDGES_US)
    assert latency(traffic=enough).threshold_microseconds == 1000
    assert not default_plan.needs_threshold([latency(traffic=enough)])


def test_a_known_threshold_stays_and_an_unknown_one_is_found_later() -> None:
    frozen, unknown = latency(), latency(traffic=StableTraffic())
    slower = StableTraffic(10, [0, 0, 100, 0], EDGES_US)
    assert default_plan.resolve_thresholds([frozen], slower) == (frozen,)
    (found,) = default_plan.resolve_thresholds([unknown], slower)
    assert found.threshold_microseconds == 10_000
    errors = PlanGuardrail(metric="errorRate", margin=0.25)
    assert default_plan.resolve_thresholds([errors], slower) == (errors,)
    assert not default_plan.needs_threshold([errors])


def test_several_latencies_have_a_threshold_each_and_all_are_known_at_once() -> None:
    spec = Rollout.from_json({"guardrails": [{"metric": "latencyP50"}, {"metric": "latencyP99", "margin": "20%"}]})
    first, second, *harm = default_plan.resolve_guardrails(spec, KNOWN)
    assert (first.threshold_microseconds, first.candidate_threshold_microseconds) == (100, 1100)
    assert (second.threshold_microseconds, second.candidate_threshold_microseconds) == (10_000, 12_000)
    hidden = ("latencyP95", "errorRate", *NEVER_LATENCIES)
    assert [(each.metric, each.role) for each in harm] == [(name, "harm") for name in hidden]
    # Half of the answers are in the first bucket, and the slowest 1 % are beyond the last.
    half = StableTraffic(10, [60, 0, 0, 40], EDGES_US)
    for each in default_plan.resolve_guardrails(spec, half):
        assert each.threshold_microseconds is None
    assert default_plan.resolve_thresholds(default_plan.resolve_guardrails(spec, half), KNOWN) == (first, second, *harm)


NEVER_LATENCIES = ("rejections", "retries")
