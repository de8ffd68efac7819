"""The status of a trial in a pass: when its counts are written, and how long a request may be at the edges."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from experiment_statuses import T0, begin_experiment
from sundog_operator.api import ExperimentStatus, ShadowStatus
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.trial_status import next_status, request_deadline_s


@pytest.mark.parametrize(
    ("split", "seconds"),
    [
        (None, 30.0),
        ({"requestTimeoutSeconds": 10.0}, 10.0),
        ({"requestTimeoutSeconds": 10.0, "queue": {"timeoutSeconds": 5.0}}, 15.0),
        ({"requestTimeoutSeconds": 10.0, "queue": {"timeoutSeconds": 5.0}, "coldStartSeconds": 120.0}, 130.0),
        ({"requestTimeoutSeconds": 10.0, "queue": {"timeoutSeconds": 5.0}, "coldStartSeconds": 2.0}, 15.0),
    ],
)
def test_a_request_may_wait_for_the_first_replica_too(split: dict[str, Any] | None, seconds: float) -> None:
    assert request_deadline_s(split) == seconds


COUNTED = Counters("uid", {"edge/b1": {(1, "a"): ArmCounts(60)}})
REPORTED = begin_experiment(("a",)).model_copy(update={"counted_at": T0})
PAUSED = REPORTED.model_copy(update={"verdict": REPORTED.verdict.model_copy(update={"reason": "waits"})})
SHADOW = ShadowStatus(step=1, epoch=1)


def commit(ticked: ExperimentStatus, *, due: bool = False, terminating: bool = False, **given: Any) -> Any:
    """Return what is written 61 s after the last report of counts; None if nothing is."""
    context = SimpleNamespace(
        now=T0 + timedelta(seconds=61), is_report_due=lambda _: due, has_terminating_edge=lambda _: terminating
    )
    kwargs: dict[str, Any] = {"count_arm": lambda arm, _: {"requests": 60}, "metrics": (), "counted": COUNTED, **given}
    return next_status(cast("PlanContext", context), REPORTED, ticked, **kwargs)


@pytest.mark.parametrize(
    ("ticked", "how"),
    [
        pytest.param(REPORTED, {"due": True}, id="once-a-minute"),
        pytest.param(PAUSED, {}, id="at-a-transition"),
        pytest.param(REPORTED, {"terminating": True}, id="before-an-edge-is-gone"),
    ],
)
def test_counts_are_written_with_their_counters_and_a_point(ticked: ExperimentStatus, how: dict[str, Any]) -> None:
    written = commit(ticked, **how, shadow=SHADOW)
    assert {arm.requests for arm in written.arms} == {60}
    assert written.counted_at == T0 + timedelta(seconds=61)
    assert (written.tallies, written.shadow) == (COUNTED.pack(), SHADOW)
    assert len(written.history) == len(REPORTED.history) + 1


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, id="between-two-reports"),
        pytest.param({"terminating": True, "metrics": None}, id="an-edge-goes-and-nothing-is-evaluated"),
        pytest.param({"due": True, "count_arm": lambda *_: {}}, id="nothing-is-counted"),
        pytest.param({"due": True, "count_arm": lambda *_: {"requests": 0}}, id="no-new-request"),
    ],
)
def test_nothing_is_written_for_counts_alone(how: dict[str, Any]) -> None:
    assert commit(REPORTED, **how) is None


def test_the_time_of_the_counts_changes_with_the_verdict_but_not_while_nothing_is_counted() -> None:
    same = commit(PAUSED, count_arm=lambda *_: {"requests": 0})
    assert same.counted_at == T0 + timedelta(seconds=61)
    assert commit(PAUSED, count_arm=lambda *_: {}).counted_at == T0
