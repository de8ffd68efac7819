"""The history of an attempt: small, spread over all of its time, and only with known values."""

import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from experiment_fixtures import at, frozen, guardrail, moving, one_name, outcome, with_history
from sundog_operator.api import ExperimentStatus, HistoryMetric, HistoryPoint, MetricStatus, PlanComparison, Rollout
from sundog_operator.core.trial import history
from sundog_operator.core.trial.rollout import freeze

T0 = datetime(2026, 11, 26, 12, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
ERRORS = MetricStatus(
    name="errorRate", arm="canary", events=(212, 74), ratio=1.0474, interval=(0.70321, 1.5312), verdict="Undecided"
)
NAMES = ("errorRate", "latencyP99", "rejections")


def status(weight: int = 25, **changes: Any) -> ExperimentStatus:
    frozen = freeze.freeze(Rollout(), stable=7, candidate=8, now=T0)
    arms = tuple(
        arm.model_copy(update={"requests": 1000 * (n + 1), "errors": 10 * (n + 1)})
        for n, arm in enumerate(freeze.arms_at_weight(weight, 7, 8))
    )
    return frozen.model_copy(update={"phase": "Running", "arms": arms, **changes})


def after(*looks: tuple[int, int, Sequence[MetricStatus]]) -> tuple[HistoryPoint, ...]:
    """Return the history after evaluations, one a second, each with a weight and metrics."""
    known = status()
    for at_s, weight, metrics in looks:
        shown = status(weight, history=known.history)
        known = history.record_point(shown, metrics, T0 + at_s * SECOND)
    return known.history


def test_a_point_has_the_metrics_of_its_time_in_few_digits() -> None:
    (point,) = after((0, 25, (ERRORS,)))
    result = HistoryMetric(name="errorRate", ratio=1.05, lower=0.703, upper=1.53)
    assert point == HistoryPoint(at=T0, epoch=0, weight=25, requests=(1000, 2000), errors=(10, 20), metrics=(result,))


@pytest.mark.parametrize(
    ("basis", "kept"), [("AllSteps", None), ("ThisStep", "ThisStep"), ("Harm", "Harm"), ("", None)]
)
def test_a_point_has_the_basis_of_its_intervals(basis: str, kept: str | None) -> None:
    (point,) = after((0, 25, (ERRORS.model_copy(update={"basis": basis}),)))
    assert [each.basis for each in point.metrics or ()] == [kept]


def test_only_a_rollouts_arm_goes_without_its_name() -> None:
    plan = status().plan.model_copy(update={"comparison": PlanComparison(arms=(), max_duration=MINUTE, max_units=1)})
    metrics = history.make_point(status(plan=plan), (ERRORS,), T0).metrics
    assert metrics is not None
    assert metrics[0].arm == "canary"


def test_an_experiment_has_a_weight_for_each_arm_and_a_rollout_one() -> None:
    result = at(frozen(("a",), exposure="1%"), {"control": 0.5, "a": 0.5}, 0)
    point = history.make_point(result, (), T0)
    assert point.weights == (99, 0.5, 0.5)
    assert point.to_json()["weights"] == [99, 0.5, 0.5]
    assert "weights" not in history.make_point(status(), (), T0).to_json()


def test_weights_that_move_among_arms_are_recorded_at_once_and_stay() -> None:
    result = at(frozen(), {"control": 10, "a": 10, "b": 10}, 1)
    known = history.record_point(result, (), T0)
    assert history.record_point(known, (), T0 + SECOND) == known
    moved = history.record_point(at(known, {"control": 10, "a": 15, "b": 5}, 1), (), T0 + SECOND)
    assert [each.weights for each in moved.history] == [(70, 10, 10, 10), (70, 10, 15, 5)]
    for minute in range(1, 200):
        moved = history.record_point(moved, (), T0 + minute * MINUTE)
    assert [each.at for each in moved.history[:2]] == [T0, T0 + SECOND]


def test_two_metrics_of_one_name_differ_by_their_role() -> None:
    newest = one_name().history[-1].metrics or ()
    assert [(each.name, each.role, each.ratio, each.verdict) for each in newest] == [
        ("errorRate", "success", 0.5, "Better"),
        ("errorRate", "harm", 1.1, "Harm"),
    ]
    assert "role" not in after((0, 25, (ERRORS.model_copy(update={"role": "guardrail"}),)))[0].to_json()["metrics"][0]


def test_outcomes_that_decide_come_before_the_metrics_of_the_edge() -> None:
    """Only 24 metrics are kept."""
    edge = ERRORS.model_copy(update={"role": "guardrail", "basis": "AllSteps"})
    told = [
        *([edge] * 23),
        edge.model_copy(update={"name": "spent", "role": "success", "basis": ""}),
        edge.model_copy(update={"name": "revenue", "basis": ""}),
    ]
    metrics = history.make_point(at(frozen(("a",)), {"control": 1, "a": 1}, 0), told, T0).metrics or ()
    assert [each.name for each in metrics[:3]] == ["spent", "revenue", "errorRate"]
    assert len(metrics) == 24


def test_a_changed_verdict_of_one_of_two_metrics_of_a_name_is_recorded() -> None:
    known = one_name()
    outcome_, harm = known.metrics
    now = known.history[-1].at + SECOND
    assert history.record_point(known, known.metrics, now) == known
    changed = (outcome_.model_copy(update={"verdict": "Undecided"}), harm)
    assert len(history.record_point(known, changed, now).history) == len(known.history) + 1


def test_unknown_values_are_left_out() -> None:
    none = ERRORS.model_copy(update={"events": (0, 0), "ratio": None, "interval": (0.0,)})
    alone = ERRORS.model_copy(update={"events": (0, 7), "ratio": None, "interval": (3.2,), "verdict": "Harm"})
    apart = ERRORS.model_copy(update={"interval": (), "verdict": "Heterogeneous"})
    first, second, third = after((0, 25, (none,)), (60, 25, (alone,)), (120, 25, (apart,)))
    assert first.metrics is None
    assert "metrics" not in first.to_json()
    assert second.metrics is not None
    assert second.metrics[0].to_json() == {"name": "errorRate", "lower": 3.2, "verdict": "Harm"}
    assert third.metrics is not None
    assert third.metrics[0].to_json() == {"name": "errorRate", "ratio": 1.05, "verdict": "Heterogeneous"}


def test_an_evaluation_without_news_is_not_recorded() -> None:
    passed = ERRORS.model_copy(update={"verdict": "Passed"})
    points = after(
        (0, 25, (ERRORS,)), (59, 25, (ERRORS,)), (60, 25, (ERRORS,)), (61, 50, (ERRORS,)), (62, 50, (passed,))
    )
    assert [(point.at - T0) // SECOND for point in points] == [0, 60, 61, 62]


def test_the_end_is_always_kept() -> None:
    known = status(history=after((0, 25, (ERRORS,))), phase="Stopped")
    assert len(history.record_point(known, (ERRORS,), T0 + SECOND).history) == 2


def point(at_s: int, weight: int) -> HistoryPoint:
    return HistoryPoint(at=T0 + at_s * SECOND, epoch=1, weight=weight)


rare = st.integers(0, 19).map(lambda number: number == 0)
looks = st.integers(1, 160).flatmap(
    lambda size: st.lists(st.tuples(st.integers(1, 600), rare), min_size=size, max_size=size)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(looks)
@example([(60, minute in (5, 10)) for minute in range(1440)])
def test_the_history_is_bounded_and_covers_the_whole_attempt(result: list[tuple[int, bool]]) -> None:
    """Each evaluation comes so many seconds after the one before; with some of them the weight rises."""
    kept: tuple[HistoryPoint, ...] = ()
    points, now, weight, rises = [], 0, 1, 20
    for pause, rise in result:
        now += pause
        weight, rises = (weight + 1, rises - 1) if rise and rises else (weight, rises)
        points.append(point(now, weight))
        kept = history.thin_points((*kept, points[-1]))
        assert len(kept) <= history.MAX_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert [each for each in points if each in kept] == list(kept)
    # The first point of each weight stays, and no gap is longer than the dropped points between can explain.
    firsts = {each.weight: each for each in reversed(points)}
    assert {each.weight: each for each in reversed(kept)} == firsts
    spare, longest = history.MAX_POINTS - len(firsts) - 1, max(pause for pause, _ in result)
    gaps = [(b.at - a.at) // SECOND for a, b in itertools.pairwise(kept)]
    assert max(gaps, default=0) <= max(longest, 2 * (now - result[0][0]) / max(spare, 1))
    assert history.thin_points(kept) == kept


def test_a_weight_at_every_point_breaks_nothing() -> None:
    points = [point(n, n % 100) for n in range(100)]
    kept = history.thin_points(points)
    assert len(kept) == history.MAX_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])


def test_the_history_takes_a_few_kibibytes() -> None:
    looks = [
        (
            60 * n,
            25,
            [
                ERRORS.model_copy(update={"name": name, "ratio": 1.0474 + n / 1000, "verdict": "Suspended"})
                for name in NAMES
            ],
        )
        for n in range(200)
    ]
    stored = [each.to_json() for each in after(*looks)]
    assert len(stored) == history.MAX_POINTS
    assert len(json.dumps(stored, separators=(",", ":"))) < 12 << 10


def test_the_history_of_ten_arms_with_moving_weights_is_bounded() -> None:
    beside = [f"a-name-of-an-arm-of-thirty-c-{n:02}"[:30] for n in range(9)]
    metrics = [[*(outcome({"name": "converted"}, arm, 1.0474, 5, "Undecided") for arm in beside)] for _ in range(100)]
    for result in metrics:
        result += [guardrail(arm, 5) for arm in beside]
        result += [guardrail(arm, 5, role="harm") for arm in beside]
    weights = [dict.fromkeys(["control", *beside], 0.11 + n % 7 / 100) for n in range(100)]
    stored = [each.to_json() for each in with_history(frozen(beside), weights, metrics).history]
    assert len(stored) == history.MAX_POINTS
    assert len(json.dumps(stored, separators=(",", ":"))) < 128 << 10


def test_weights_that_moved_now_and_then_are_all_kept() -> None:
    assert [each.weights for each in moving().history] == [(0, 33.34, 33.33, 33.33)] * 3 + [(0, 30, 50, 20)] * 2 + [
        (0, 15, 80, 5)
    ] * 3


def test_an_older_status_has_no_history() -> None:
    stored = status().to_json()
    del stored["history"]
    assert ExperimentStatus.parse(stored).history == ()
    assert history.record_point(ExperimentStatus.parse({"phase": "Running"}), (), T0).history[0].requests == ()
