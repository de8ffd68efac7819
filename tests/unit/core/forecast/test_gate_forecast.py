"""Estimates of a gate, compared with its simulation."""

import math
from datetime import timedelta
from typing import Any

import pytest

from sundog_operator.api import FrozenPlan, PlanGuardrail, PlanStep
from sundog_operator.core.forecast.gate_forecast import estimate_gate_power, find_undecidable_step
from sundog_operator.core.forecast.gate_sample_size import estimate_sample_size
from sundog_operator.core.forecast.rollout_forecast import RolloutForecast, ServiceTraffic
from sundog_operator.core.stats.event_counts import MetricLimits

MINUTE = timedelta(minutes=1)


def plan(weight: int = 50, floor: float = 0.0, **gate: Any) -> FrozenPlan:
    """Return a plan without warm-up and minimum durations, which power does not depend on."""
    step = PlanStep(weight=weight, gate="evidence", max_duration=gate.pop("max_duration", timedelta(days=1)), **gate)
    return FrozenPlan(
        steps=(step, PlanStep(weight=100, gate="none")),
        alpha=0.05,
        guardrails=(PlanGuardrail(metric="errorRate", margin=0.25, floor=floor),),
    )


@pytest.mark.extended
@pytest.mark.parametrize(
    ("weight", "floor", "errors", "times", "by"),
    [
        (50, 0.0, 0.02, 1.0, "margin"),
        (50, 0.0, 0.02, 0.5, "margin"),
        (25, 0.0, 0.05, 0.8, "margin"),
        (50, 0.01, 0.0, 1.0, "floor"),
        (50, 0.005, 0.01, 1.0, "floor"),
        (25, 0.01, 0.005, 0.5, "floor"),
        (50, 0.0, 0.01, 2.0, "harm"),
        (5, 0.0, 0.01, 5.0, "harm"),
        (25, 0.01, 0.01, 3.0, "harm"),
        # Few events, of which bursts that fall by replica could be most.
        (1, 0.0, 0.002, 30.0, "harm"),
    ],
)
def test_half_of_simulated_rollouts_need_about_as_long(
    weight: int, floor: float, errors: float, times: float, by: str
) -> None:
    found = estimate_gate_power(plan(weight, floor), ServiceTraffic(20.0, errors), times, runs=60)
    assert found.typical is not None
    assert found.typical.by == by
    assert found.forecast.promoted + found.forecast.rolled_back == 1.0
    assert (found.forecast.rolled_back > 0.5) is (by == "harm")
    assert found.seconds >= 120
    # Simulated rollouts are evaluated every 30 s.
    assert 0.6 * found.seconds <= 60 * found.forecast.median_minutes <= 1.7 * found.seconds + 30


def test_events_are_a_share_of_the_requests() -> None:
    found = estimate_gate_power(plan(25), ServiceTraffic(20.0, 0.01), 2.0, runs=10).typical
    assert found is not None
    assert found.events / found.requests == pytest.approx(0.01 * 0.75 + 0.02 * 0.25)


def test_at_the_margin_nothing_decides_without_a_floor() -> None:
    found = estimate_gate_power(plan(max_duration=timedelta(hours=1)), ServiceTraffic(20.0, 0.01), 1.25, runs=20)
    assert (found.typical, found.seconds) == (None, float("inf"))
    assert found.forecast.undecided > 0.9
    assert estimate_gate_power(plan(floor=0.01), ServiceTraffic(20.0, 0.01), 1.25, runs=10).typical is not None


def test_a_step_lasts_as_long_as_it_says_but_harm_does_not_wait_for_that() -> None:
    long = plan(50, 0.05, min_duration=30 * MINUTE)
    assert estimate_gate_power(long, ServiceTraffic(100.0, 0.001), 1.0, runs=10).seconds == 1800
    assert estimate_gate_power(long, ServiceTraffic(100.0, 0.01), 20.0, runs=10).seconds < 300


def test_harm_beside_shadows_takes_more_and_what_passes_does_not() -> None:
    alone, shared = plan(), plan().model_copy(update={"harm_shares": 3})
    for times, more in ((3.0, True), (0.5, False)):
        found = [estimate_gate_power(each, ServiceTraffic(20.0, 0.01), times, runs=40) for each in (alone, shared)]
        typically = [each.typical.events for each in found if each.typical]
        assert (typically[0] < typically[1]) is more
        assert (found[0].forecast.median_minutes < found[1].forecast.median_minutes) is more


@pytest.mark.parametrize("times", [0.0, 1000.0])
def test_extremes_are_numbers(times: float) -> None:
    found = estimate_gate_power(plan(), ServiceTraffic(1.0, 0.5), times, runs=10).typical
    assert found is not None
    assert 0 < found.events <= found.requests < 1000


def frozen(rps: float | None, errors: float | None, floor: float = 0.01, **gates: Any) -> FrozenPlan:
    """Return a plan with two steps, frozen at that traffic."""
    first, *others = plan(25, floor, **gates).steps
    second = first.model_copy(update={"weight": 50})
    return plan(25, floor).model_copy(
        update={"steps": (first, second, *others), "requests_per_second": rps, "error_rate": errors}
    )


@pytest.mark.parametrize(
    ("rps", "errors", "floor", "gates", "expected"),
    [
        (20.0, 0.005, 0.01, {}, ""),
        (None, None, 0.01, {}, ""),
        (0.0, None, 0.01, {}, ""),
        (
            1.0,
            0.0,
            0.01,
            {"max_duration": 10 * MINUTE},
            "step 1 at 25 % is unlikely to be decided within its 10m: at 1 requests/s with",
        ),
        (
            20.0,
            0.01,
            0.0,
            {"max_duration": 60 * MINUTE},
            "step 2 at 50 % is unlikely to be decided within its 1h: at 20 requests/s with",
        ),
        (1.0, 0.0, 0.0, {}, "no amount of data decides"),
        (0.5, 0.001, 0.0, {}, "it takes about "),
        (20.0, 0.005, 0.0, {"max_duration": None}, ""),
    ],
)
def test_a_plan_with_too_little_time_for_its_traffic_is_shown(
    rps: float | None, errors: float | None, floor: float, gates: dict[str, Any], expected: str
) -> None:
    found = find_undecidable_step(frozen(rps, errors, floor, **gates))
    assert expected in found
    assert bool(found) is bool(expected)


def test_what_is_shown_of_too_little_time_is_what_a_gate_typically_takes() -> None:
    found = find_undecidable_step(frozen(2.0, 0.02, 0.0, max_duration=5 * MINUTE))
    # The first step needs half of the traffic.
    needed = estimate_sample_size(0.02, 1.0, 0.25, MetricLimits(0.25, 0.0, 0.5, 0.05))
    assert needed is not None
    assert found.endswith(f"it takes about {math.ceil(needed.requests / 2 / 3600)}h")


def test_rounding_leaves_nothing_undecided_where_all_is_decided() -> None:
    each = RolloutForecast(times=2, promoted=0.55, rolled_back=0.45, median_minutes=1, p80_minutes=2, failed=3)
    assert 1 - each.promoted - each.rolled_back < 0
    assert each.undecided == 0
