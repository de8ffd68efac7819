"""Replicas that were lost, and replicas that were stopped on purpose."""

from typing import Any

import pytest

from sundog_operator.core.observed import ApplicationState, DeploymentState, ReplicaState
from sundog_operator.core.ray.lost_replicas import make_lost_replica_events

States = dict[str, str]


TO_ZERO = {"deployments": [{"autoscaling_config": {"min_replicas": 0}}]}


def application(
    states: States, target: int, status: str = "HEALTHY", message: str = "", config: Any = None
) -> ApplicationState:
    replicas = tuple(ReplicaState(*each) for each in states.items())
    deployment = DeploymentState("Model", status, message, target, replicas)
    return ApplicationState("digits-r8", "RUNNING", "", config or {}, (deployment,))


TWO = application({"a": "RUNNING", "b": "RUNNING"}, 2)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"b": "RUNNING", "c": "STARTING"}, "replica a ended; Serve starts a replacement; 1 of 2 run"),
        ({"a": "STOPPING", "b": "RUNNING"}, "replica a ended; Serve starts a replacement; 1 of 2 run"),
        ({"c": "RUNNING", "d": "RUNNING"}, "2 replicas ended; Serve starts a replacement; 2 of 2 run"),
    ],
)
def test_what_ended_unasked_is_reported(states: States, message: str) -> None:
    (event,) = make_lost_replica_events(8, TWO, application(states, 2))
    assert (event.type, event.reason, event.note) == ("Warning", "ReplicaLost", f"revision 8: {message}")


@pytest.mark.parametrize(
    ("states", "target", "status"),
    [
        ({"a": "RUNNING", "b": "RUNNING"}, 2, "HEALTHY"),
        ({"a": "UPDATING", "b": "PENDING_MIGRATION"}, 2, "HEALTHY"),
        ({"a": "RUNNING", "b": "STOPPING"}, 1, "DOWNSCALING"),
        ({"a": "RUNNING"}, 1, "HEALTHY"),
        ({"a": "RUNNING", "b": "RUNNING", "c": "STARTING"}, 3, "UPSCALING"),
        ({"c": "STARTING", "d": "STARTING"}, 2, "UPDATING"),
    ],
)
def test_what_was_asked_for_is_not(states: States, target: int, status: str) -> None:
    assert make_lost_replica_events(8, TWO, application(states, target, status)) == []


def test_the_message_of_serve_is_reported_and_a_loss_is_one_event() -> None:
    now = application({"b": "RUNNING"}, 2, "UNHEALTHY", "Health check of\n replica a failed")
    (event,) = make_lost_replica_events(8, TWO, now)
    assert event.note.endswith("1 of 2 run: Health check of replica a failed")
    assert event.dedupe_key == "a"
    assert make_lost_replica_events(8, now, now) == []


def test_what_never_ran_is_not_lost() -> None:
    assert make_lost_replica_events(8, application({"a": "STARTING"}, 1), application({"b": "STARTING"}, 1)) == []


@pytest.mark.parametrize("last", ["RUNNING", "STOPPING"])
def test_the_last_replica_that_went_is_not_lost_when_the_service_wakes(last: str) -> None:
    at_zero = application({"a": last}, 0, "DOWNSCALING", config=TO_ZERO)
    assert make_lost_replica_events(8, at_zero, application({"b": "STARTING"}, 1, "UPSCALING", config=TO_ZERO)) == []
    assert make_lost_replica_events(8, at_zero, application({"b": "RUNNING"}, 1, config=TO_ZERO)) == []


def test_a_service_that_was_at_zero_between_two_states_has_lost_nothing() -> None:
    one = application({"a": "RUNNING"}, 1, config=TO_ZERO)
    assert make_lost_replica_events(8, one, application({"b": "STARTING"}, 1, "UPSCALING", config=TO_ZERO)) == []
    failed = application({"b": "STARTING"}, 1, "UNHEALTHY", config=TO_ZERO)
    assert len(make_lost_replica_events(8, one, failed)) == 1


def test_a_replica_lost_while_others_are_added_is_reported() -> None:
    now = application({"b": "RUNNING", "c": "STARTING", "d": "STARTING"}, 3, "UPSCALING", config=TO_ZERO)
    assert len(make_lost_replica_events(8, application({"a": "RUNNING", "b": "RUNNING"}, 2, config=TO_ZERO), now)) == 1
