from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from sundog_operator.api import Condition, ConditionSet, experiment_conditions, model_deployment_conditions
from sundog_operator.api.conditions import MAX_MESSAGE_LENGTH

START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
LATER = START + timedelta(minutes=5)
DEPENDENCIES = ("SpecAccepted", "CapacityAvailable", "RevisionReady", "TrafficSynced")


def fresh(previous: tuple[Condition, ...] = (), generation: int = 1, at: datetime = START) -> ConditionSet:
    return model_deployment_conditions(previous, generation=generation, at=at)


def ready(at: datetime = START) -> tuple[Condition, ...]:
    conditions = fresh(at=at)
    for type_ in DEPENDENCIES:
        conditions.mark_true(type_, "Fine", at=at)
    return conditions.conditions()


def named(conditions: tuple[Condition, ...]) -> dict[str, Condition]:
    return {condition.type: condition for condition in conditions}


def test_at_first_everything_is_unknown_and_nothing_abnormal_is_there() -> None:
    conditions = fresh().conditions()
    assert [condition.type for condition in conditions] == ["Ready", *DEPENDENCIES, "Progressing", "Promoted"]
    assert {(condition.status, condition.reason, condition.last_transition_time) for condition in conditions} == {
        ("Unknown", "Pending", START)
    }


def test_the_transition_time_moves_only_when_the_status_flips() -> None:
    conditions = fresh(ready(), at=LATER)
    conditions.mark_true("RevisionReady", "StillFine", "3 of 3 replicas", at=LATER)
    found = named(conditions.conditions())
    assert (found["RevisionReady"].reason, found["RevisionReady"].last_transition_time) == ("StillFine", START)
    conditions.mark_false("RevisionReady", "Lost", at=LATER)
    found = named(conditions.conditions())
    assert found["RevisionReady"].last_transition_time == LATER
    assert found["SpecAccepted"].last_transition_time == START


def test_a_detour_within_one_pass_leaves_no_trace() -> None:
    conditions = fresh(ready(), at=LATER)
    conditions.mark_false("RevisionReady", "Checking", at=LATER)
    conditions.mark_true("RevisionReady", "Fine", at=LATER)
    assert conditions.conditions() == ready()


def test_a_clock_that_steps_back_moves_nothing_backwards() -> None:
    conditions = fresh(ready(at=LATER), at=START)
    conditions.mark_false("RevisionReady", "Lost", at=START)
    found = named(conditions.conditions())
    assert found["RevisionReady"].last_transition_time == LATER


def test_a_pass_that_finds_the_same_changes_nothing() -> None:
    before = ready()
    conditions = fresh(before, at=LATER)
    for type_ in DEPENDENCIES:
        conditions.mark_true(type_, "Fine", at=LATER)
    assert conditions.conditions() == before


def test_what_is_marked_carries_the_generation_that_was_looked_at() -> None:
    conditions = fresh(ready(), generation=2, at=LATER)
    conditions.mark_true("SpecAccepted", "Fine", at=LATER)
    found = named(conditions.conditions())
    assert found["SpecAccepted"].observed_generation == 2
    assert found["RevisionReady"].observed_generation == 1


def test_abnormal_conditions_are_there_only_while_they_are_true() -> None:
    conditions = fresh(ready())
    conditions.mark_true("Stalled", "InvalidSpec", at=LATER)
    stored = conditions.conditions()
    assert [condition.type for condition in stored][:2] == ["Ready", "Stalled"]
    again = fresh(stored, at=LATER)
    assert "Stalled" in named(again.conditions())
    again.mark_false("Stalled", "Accepted", at=LATER)
    assert again.get("Stalled") is None
    assert "Stalled" not in named(again.conditions())


def test_an_optional_condition_is_there_from_its_first_mark_until_it_is_dropped() -> None:
    conditions = fresh()
    assert conditions.get("RouteAccepted") is None
    conditions.mark_false("RouteAccepted", "NotOwned", at=START)
    stored = conditions.conditions()
    kept = fresh(stored, at=LATER)
    assert named(kept.conditions())["RouteAccepted"] == named(stored)["RouteAccepted"], "not marked, it stays"
    kept.drop("RouteAccepted")
    kept.drop("RouteAccepted")
    assert "RouteAccepted" not in named(kept.conditions())


def test_conditions_of_others_are_dropped() -> None:
    foreign = Condition(type="Foreign", status="True", reason="Other", last_transition_time=START)
    assert "Foreign" not in named(fresh((foreign,)).conditions())


def test_only_known_conditions_can_be_marked() -> None:
    with pytest.raises(ValueError, match="Redy: unknown condition; expected one of Ready, Reconciling"):
        fresh().mark_true("Redy", "Fine", at=START)


def test_long_messages_are_cut() -> None:
    conditions = fresh()
    conditions.mark_false("RevisionReady", "LoadFailed", "x" * 40_000, at=START)
    found = conditions.get("RevisionReady")
    assert found is not None
    assert len(found.message) == MAX_MESSAGE_LENGTH
    assert found.message.endswith("x…")


@pytest.mark.parametrize("reason", ["", "not camel", "dash-ed", "1st"])
def test_a_reason_is_one_word(reason: str) -> None:
    with pytest.raises(ValidationError):
        fresh().mark_false("RevisionReady", reason, at=START)


def test_an_experiment_that_ended_is_ready() -> None:
    conditions = experiment_conditions((), generation=1, at=START)
    conditions.mark_true("Ready", "Concluded", at=START)
    conditions.mark_false("Running", "Concluded", at=START)
    assert [(found.type, found.status) for found in conditions.conditions()] == [
        ("Ready", "True"), ("Running", "False"), ("DataQuality", "Unknown"), ("Conclusive", "Unknown"),
    ]  # fmt: skip
