"""Texts of metrics that all views share."""

import pytest

from sundog_operator.api import ArmStatus, ExperimentStatus, FrozenPlan, MetricStatus, MetricValue, PlanUnit
from sundog_operator.core import metric_text


def metric(**fields: object) -> MetricStatus:
    return MetricStatus.model_validate({"name": "errorRate", "role": "guardrail", **fields})


BOUGHT = metric(
    measure="rate",
    ratio=1.64,
    interval=(1.36, 2.15),
    values=(
        MetricValue(value=0.206, interval=(0.181, 0.233), count=2902),
        MetricValue(value=0.338, interval=(0.3, 0.37), count=2266),
    ),
)


def test_a_result_is_read_as_two_values_and_a_change() -> None:
    assert metric_text.summarize_values(BOUGHT) == "20.6 % → 33.8 %, +64 % (36 to 115)"
    assert metric_text.describe_values(BOUGHT) == (
        "20.6 % (18.1 to 23.3) of 2902 → 33.8 % (30 to 37) of 2266, +64 % (36 to 115)"
    )
    spent = BOUGHT.model_copy(update={"measure": "mean"})
    assert metric_text.format_values(spent) == "0.206 → 0.338"


@pytest.mark.parametrize(
    ("ratio", "interval", "change"),
    [
        (None, (), "–"),
        (None, (0.0, 3.6e13), "unknown"),
        (None, (0.0,), "unknown"),
        (2.0, (0.0, 3.6e13), "+100 % (unknown)"),
        (None, (2.5, 3.6e13), "+150 % or more"),
        (2.0, (1.5,), "+100 % (50 or more)"),
        (0.9, (0.0, 5.0), "-10 % (-100 to 400)"),
    ],
)
def test_an_interval_without_information_is_unknown(
    ratio: float | None, interval: tuple[float, ...], change: str
) -> None:
    assert metric_text.format_change(metric(ratio=ratio, interval=interval)) == change


def test_requests_without_a_known_end_are_apart_from_failures() -> None:
    assert metric_text.format_events(metric(events=(5, 0), lost=(5, 0))) == "0 + 5 lost/0"
    assert metric_text.format_events(metric(events=(12, 9))) == "12/9"


def test_dependent_failures_are_shown_by_the_independent_events_that_they_count_as() -> None:
    burst = metric(events=(0, 100), independent_events=12.0)
    assert metric_text.describe_independence(burst) == "100 failures count as about 12 independent events"
    assert metric_text.describe_independence(metric(events=(0, 100), independent_events=95.0)) == ""
    assert metric_text.describe_independence(metric(events=(0, 100))) == ""


def test_more_lost_requests_than_events_are_not_subtracted_below_none() -> None:
    assert metric_text.format_events(metric(events=(0, 30), lost=(0, 40))) == "0/0 + 40 lost"


def test_a_row_that_says_nothing_is_not_shown() -> None:
    assert not metric_text.is_shown(metric(role="harm", events=(0, 0), interval=(0.0,)))
    assert metric_text.is_shown(metric(role="harm", events=(0, 1)))
    assert metric_text.is_shown(metric(events=(0, 0)))


@pytest.mark.parametrize(
    ("units_from", "kind", "text"),
    [
        ("sample", "header", "≈ 2800"),
        ("exposures", "header", "2800"),
        (None, "request", "2800"),
        (None, "header", "≈ 2800"),
    ],
)
def test_an_estimated_number_of_units_is_marked(units_from: str | None, kind: str, text: str) -> None:
    """A status of a release before `unitsFrom` has estimates of units."""
    arm = ArmStatus.model_validate({"name": "a", "units": 2800, "units_from": units_from})
    status = ExperimentStatus(arms=(arm,), plan=FrozenPlan(unit=PlanUnit(kind=kind)))  # type: ignore[arg-type]
    assert metric_text.format_units(arm, status) == text
    head = metric_text.units_head(status)
    assert ("evidence" in head) is (units_from == "exposures")
