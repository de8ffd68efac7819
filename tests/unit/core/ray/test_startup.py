"""The durations of a start's phases."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sundog_operator.core.observed import EdgeReport, ReplicaStart
from sundog_operator.core.ray import startup as ray_startup


def at(second: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)


def timestamp(second: int) -> str:
    return f"2026-01-01T00:00:{second:02d}Z"


def pod(made: int, scheduled: int, prepared: int, started: int) -> dict[str, Any]:
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(scheduled)},
        {"type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": timestamp(prepared)},
        {"type": "Ready", "status": "False", "lastTransitionTime": timestamp(prepared)},
    ]
    running = {"name": "ray-worker", "state": {"running": {"startedAt": timestamp(started)}}}
    status = {"conditions": conditions, "containerStatuses": [running]}
    return {"metadata": {"name": "w", "creationTimestamp": timestamp(made)}, "status": status}


def seconds(found: dict[str, timedelta]) -> dict[str, float]:
    return {name: span.total_seconds() for name, span in found.items()}


def test_all_phases_from_the_role_to_the_replicas() -> None:
    replica = ReplicaStart({"download": 0.25, "load": 2.0004, "warmup": 0.5, "list": 9.0}, at(24.5))
    found = ray_startup.startup_phases(at(0.5), [pod(10, 12, 13, 17)], replica, at(28))
    assert seconds(found) == {
        "cluster": 9.5,
        "scheduled": 2.0,
        "image": 4.0,
        "ray": 7.5,
        "download": 0.25,
        "load": 2.0,
        "warmup": 0.5,
        "total": 27.5,
    }


def test_of_several_pods_the_slowest_counts_and_the_first() -> None:
    found = ray_startup.startup_phases(at(0), [pod(2, 2, 3, 9), pod(1, 6, 7, 8)], ReplicaStart(began=at(12)), at(20))
    assert seconds(found) == {"cluster": 1, "scheduled": 5, "image": 6, "ray": 4, "total": 20}


def test_without_pods_ray_begins_with_the_role() -> None:
    found = ray_startup.startup_phases(at(1), [], ReplicaStart({"load": 1.0}, at(11.25)), at(13))
    assert seconds(found) == {"ray": 10.25, "load": 1, "total": 12}


def test_what_is_not_known_is_left_out() -> None:
    bare = {"metadata": {"name": "w", "creationTimestamp": "yesterday"}}
    assert ray_startup.startup_phases(None, [bare], ReplicaStart({"load": 1.0}), at(3)) == {
        "load": timedelta(seconds=1)
    }


def test_a_role_that_began_after_the_start_is_not_reported() -> None:
    found = ray_startup.startup_phases(at(20), [pod(2, 3, 4, 5)], ReplicaStart(began=at(9)), at(21))
    assert seconds(found) == {"scheduled": 1, "image": 1, "ray": 4}


def test_clocks_that_differ_make_no_phase_negative() -> None:
    found = ray_startup.startup_phases(at(5), [pod(4, 4, 4, 8)], ReplicaStart(began=at(7.5)), at(9))
    assert seconds(found) == {"cluster": 0, "scheduled": 0, "image": 4, "ray": 0, "total": 4}


def edge(*startups: Any) -> EdgeReport:
    """Return a report with an arm of `digits-r1` per startup, and with another application."""
    arms = {f"a{index}": {"application": "digits-r1", "startup": each} for index, each in enumerate(startups)}
    other = {"application": "digits-r2", "startup": {"phases": {"load": 9.0}}}
    return EdgeReport("e", True, False, {"services": {"digits": {"arms": {**arms, "other": other}}}})


def reported(*reports: EdgeReport) -> ReplicaStart | None:
    return ray_startup.find_reported_start("digits", "digits-r1", reports)


def test_an_edge_that_has_asked_no_replica_reports_no_start() -> None:
    assert reported(EdgeReport("e", True, False, None), edge()) is None


def test_phases_that_any_edge_has_are_reported() -> None:
    asked = {"phases": {"load": 2, "warmup": 0.5, "later": 1.0}, "beganAt": 1767225600.25}
    began = datetime(2026, 1, 1, microsecond=250_000, tzinfo=UTC)
    assert reported(edge({"phases": {}}), edge(asked)) == ReplicaStart({"load": 2.0, "warmup": 0.5}, began)
    assert reported(edge({"phases": {"load": 2}})) == ReplicaStart({"load": 2.0}, None)


@pytest.mark.parametrize(
    "startup",
    [
        None,
        [],
        {"phases": None},
        {"phases": {"load": "soon"}},
        {"phases": {"load": float("nan")}},
        {"phases": {"load": -1.0}},
        {"phases": {"load": 1e300}},
        {"phases": {"load": 1.0}, "beganAt": "noon"},
        {"phases": {"load": 1.0}, "beganAt": 1e300},
        {"phases": {"load": 1.0}, "beganAt": {"a": 1}},
    ],
)
def test_a_start_of_another_shape_has_no_phases(startup: Any) -> None:
    assert reported(edge(startup)) == ReplicaStart()


@pytest.mark.parametrize(
    "services", [None, [], {"digits": None}, {"digits": {"arms": []}}, {"digits": {"arms": {"a": 1}}}]
)
def test_evidence_of_another_shape_reports_no_start(services: Any) -> None:
    assert reported(EdgeReport("e", True, False, {"services": services})) is None


def test_a_cold_start_counts_from_the_request_and_pods_that_were_left_over_do_not() -> None:
    replica = ReplicaStart({"load": 2.0}, at(15.5), woken=at(5.0), answers=at(18.0))
    assert ray_startup.find_new_cold_start(replica, None) == at(5)
    found = ray_startup.cold_start_phases(at(5), [pod(1, 2, 2, 3), pod(6, 7, 8, 9)], replica)
    assert seconds(found) == {"cluster": 1, "scheduled": 1, "image": 1, "ray": 6.5, "load": 2, "total": 13}
    found = ray_startup.cold_start_phases(at(5), [pod(1, 2, 2, 3)], replica)
    assert seconds(found) == {"ray": 10.5, "load": 2, "total": 13}


@pytest.mark.parametrize(
    "start",
    [
        None,
        ReplicaStart({"load": 2.0}, at(15)),
        ReplicaStart({}, None, at(5), at(18)),
        ReplicaStart({"load": 2.0}, at(15), at(5), None),
        ReplicaStart({"load": 2.0}, at(15), at(9.9), at(18)),
    ],
    ids=["no report", "no cold start", "no phases yet", "no answer yet", "seen by another edge"],
)
def test_what_is_no_new_cold_start(start: ReplicaStart | None) -> None:
    assert ray_startup.find_new_cold_start(start, at(5)) is None
