"""Units of an Experiment's arms in its status: exact where first exposures are counted, else estimated."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from experiment_statuses import T0, begin_experiment
from sundog_operator.api import EvidenceEpoch, ExperimentStatus
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSums
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.experiment.evaluation import count_arm

EXPOSED = {(1, "control"): 999, (2, "control"): 1400, (3, "control"): 1502, (2, "a"): 700, (3, "a"): 800}
"""Epoch 1 was the warm-up."""
CONVERSION = {"success": [{"name": "conversion", "feedback": "converted"}]}


def running(
    unit: dict[str, Any], units: int = 0, units_from: str | None = None, metrics: dict[str, Any] = CONVERSION
) -> ExperimentStatus:
    begun = begin_experiment(("a",), unit=unit, exposure="60%", metrics=metrics)
    arms = tuple(arm.model_copy(update={"units": units, "units_from": units_from}) for arm in begun.arms)
    epochs = tuple(EvidenceEpoch(number=number, buckets=(4000, 3000, 3000)) for number in (2, 3))
    return begun.model_copy(update={"evidence_epochs": epochs, "arms": arms})


def reported(status: ExperimentStatus, exposed: dict[tuple[int, str], int]) -> dict[str, tuple[int, str | None]]:
    """Return units and their source by arm, where a sample estimates 2800 and 2096."""
    sampled = SimpleNamespace(units={"stable": 5000, "control": 2800, "a": 2096})
    context = cast("PlanContext", SimpleNamespace(experiment_evaluation=sampled, now=T0))
    rows = {
        "edge/b1": {(0, "stable"): ArmCounts(7000, errors=70), (1, "stable"): ArmCounts(40), (2, "a"): ArmCounts(60)}
    }
    counted = Counters("uid", rows, feedback=FeedbackSums("s", 9, exposed))
    arms = [arm.model_copy(update=count_arm(context, status, arm, counted)) for arm in status.arms]
    assert {arm.name: (arm.requests, arm.errors) for arm in arms} == {
        "stable": (40, 0),
        "control": (0, 0),
        "a": (60, 0),
    }
    return {arm.name: (arm.units, arm.units_from) for arm in arms if arm.name != "stable"}


BY_USER = {"header": "x-user-id"}


@pytest.mark.parametrize("before", [(0, None), (2800, None), (2950, "sample"), (1200, "exposures")])
def test_exact_units_of_the_evidence_replace_an_estimate(before: tuple[int, str | None]) -> None:
    expected = {"control": (2902, "exposures"), "a": (1500, "exposures")}
    assert reported(running(BY_USER, *before), EXPOSED) == expected


def test_an_exact_number_never_falls_and_no_estimate_replaces_it() -> None:
    known = running(BY_USER, 3000, "exposures")
    assert reported(known, EXPOSED)["control"] == (3000, "exposures")
    assert reported(known, {})["control"] == (3000, "exposures")


def test_without_feedback_units_are_marked_as_estimated() -> None:
    assert reported(running(BY_USER, metrics={}), {}) == {"control": (2800, "sample"), "a": (2096, "sample")}


def test_where_each_request_is_a_unit_these_are_counted_since_the_start() -> None:
    assert reported(running({"request": {}}), {}) == {"control": (0, None), "a": (60, None)}
