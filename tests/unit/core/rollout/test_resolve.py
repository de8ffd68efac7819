"""What a spec leaves to the service's own traffic."""

import pytest

from sundog_operator.api import PlanGuardrail, Rollout
from sundog_operator.core.rollout import resolve
from sundog_operator.core.rollout.resolve import Traffic

EDGES_US = (100, 1000, 10_000)
KNOWN = Traffic(10, [50, 45, 4, 1], EDGES_US)


def weights(traffic: Traffic) -> list[int]:
    return [step.weight for step in resolve.default_steps(traffic)]


def told(traffic: Traffic, *given: dict[str, str]) -> list[tuple[str, str, float, float]]:
    found = resolve.guardrails(Rollout.from_json({"guardrails": list(given)} if given else {}), traffic)
    return [(each.metric, each.role, each.margin, each.floor) for each in found]


REJECTIONS = ("rejections", "harm", 0.25, 0.0)
BUSY = [("errorRate", "guardrail", 0.25, 0.005), ("latencyP99", "guardrail", 0.1, 0.0), REJECTIONS]
QUIET = [("errorRate", "guardrail", 0.25, 0.01), ("latencyP95", "guardrail", 0.25, 0.0), REJECTIONS]


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
def test_the_more_traffic_the_smaller_the_first_weight_and_what_is_told_apart(
    requests_per_second: float | None, steps: list[int], guardrails: list[tuple[str, str, float, float]]
) -> None:
    traffic = Traffic(requests_per_second)
    assert weights(traffic) == steps
    assert told(traffic) == guardrails


def test_steps_that_are_resolved_collect_for_five_minutes_at_least_and_a_day_at_most() -> None:
    for step in resolve.default_steps(Traffic(2000)):
        assert step.gate == "evidence"
        assert (step.min_duration.total_seconds(), step.max_duration) == (
            300,
            resolve.default_steps(KNOWN)[0].max_duration,
        )
        assert step.max_duration is not None
        assert step.max_duration.total_seconds() == 86_400


def test_guardrails_of_the_spec_take_the_place_of_all_that_are_resolved_but_rejections() -> None:
    assert told(Traffic(), {"metric": "latencyP50"}) == [("latencyP50", "guardrail", 0.1, 0.0), REJECTIONS]
    assert told(Traffic(60), {"metric": "errorRate", "margin": "50%"}) == [
        ("errorRate", "guardrail", 0.5, 0.005),
        REJECTIONS,
    ]
    assert told(Traffic(60), {"metric": "errorRate", "floor": "0%"})[0] == ("errorRate", "guardrail", 0.25, 0.0)


def latency(metric: str = "latencyP95", margin: str = "25%", traffic: Traffic = KNOWN) -> PlanGuardrail:
    return resolve.guardrails(Rollout.from_json({"guardrails": [{"metric": metric, "margin": margin}]}), traffic)[0]


@pytest.mark.parametrize(("metric", "found"), [("latencyP50", 100), ("latencyP90", 1000), ("latencyP99", 10_000)])
def test_a_long_answer_takes_longer_than_that_quantile_of_stables(metric: str, found: int) -> None:
    guardrail = latency(metric)
    assert guardrail.threshold_microseconds == found
    assert guardrail.candidate_threshold_microseconds == round(1.25 * found)


def test_of_too_few_answers_or_answers_beyond_the_last_bucket_no_quantile_is_known() -> None:
    few, long = Traffic(10, [0, 99, 0, 0], EDGES_US), Traffic(10, [0, 0, 90, 10], EDGES_US)
    for traffic in (Traffic(), few, long):
        assert latency(traffic=traffic).threshold_microseconds is None
        assert resolve.lacks_threshold([latency(traffic=traffic)])
    enough = Traffic(10, [0, 100, 0, 0], EDGES_US)
    assert latency(traffic=enough).threshold_microseconds == 1000
    assert not resolve.lacks_threshold([latency(traffic=enough)])


def test_a_time_that_is_known_stays_and_one_that_is_not_is_found_later() -> None:
    frozen, unknown = latency(), latency(traffic=Traffic())
    slower = Traffic(10, [0, 0, 100, 0], EDGES_US)
    assert resolve.with_thresholds(frozen, slower) == frozen
    assert resolve.with_thresholds(unknown, slower).threshold_microseconds == 10_000
    errors = PlanGuardrail(metric="errorRate", margin=0.25)
    assert resolve.with_thresholds(errors, slower) == errors
    assert not resolve.lacks_threshold([errors])
