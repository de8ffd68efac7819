"""Directories of objects, and the pauses between restarts."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from sundog_operator.adapters.local.object_directories import ObjectDirectories, ObjectDirectory, RestartBackoff
from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.ports import RAY_CLUSTER, Ref
from waiting import PATIENCE_S

ONE, TWO, THREE = (Ref(RAY_CLUSTER, "vision", f"sundog-{number}") for number in range(3))
T = TypeVar("T")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def units(state: StateDirectory) -> ObjectDirectories:
    return ObjectDirectories(state.ray, RAY_CLUSTER)


def test_an_object_keeps_its_directory_and_facts(units: ObjectDirectories, state: StateDirectory) -> None:
    unit = units.remember(units.get_or_create(ONE), {"base": 14_000})
    again = ObjectDirectories(state.ray, RAY_CLUSTER).get_or_create(ONE)
    assert again == unit
    assert (again.name, again.number("base"), again.number("other")) == ("ray-0", 14_000, None)


def test_facts_are_added(units: ObjectDirectories) -> None:
    unit = units.remember(units.remember(units.get_or_create(ONE), {"a": 1}), {"b": "2"})
    assert units.find(ONE) == unit
    assert unit.facts == {"a": 1, "b": "2"}


def test_the_lowest_free_number_is_used_again(units: ObjectDirectories) -> None:
    names = [units.get_or_create(ref).name for ref in (ONE, TWO)]
    first = units.find(ONE)
    assert first is not None
    units.remove(first)
    assert [*names, units.get_or_create(THREE).name] == ["ray-0", "ray-1", "ray-0"]
    assert units.find(ONE) is None
    assert [unit.ref for unit in units.all()] == [THREE, TWO]


TEAMS = [Ref(RAY_CLUSTER, f"team-{number}", "sundog-0") for number in range(32)]


def all_at_once(act: Callable[[Ref], T]) -> list[T]:
    """Run it for each of the teams, in a thread each, and return the results."""
    together = threading.Barrier(len(TEAMS))

    def run(ref: Ref) -> T:
        together.wait(PATIENCE_S)
        return act(ref)

    with ThreadPoolExecutor(len(TEAMS)) as pool:
        return list(pool.map(run, TEAMS))


def test_objects_that_come_at_once_have_a_directory_each(units: ObjectDirectories) -> None:
    names = all_at_once(lambda ref: units.get_or_create(ref).name)
    assert sorted(names) == sorted(f"ray-{number}" for number in range(len(TEAMS)))
    # Later threads did not create them again.
    assert {unit.ref: unit.name for unit in units.all()} == dict(zip(TEAMS, names, strict=True))


def test_concurrent_choices_are_serialized(units: ObjectDirectories) -> None:
    made = {ref: units.get_or_create(ref) for ref in TEAMS}

    def next_one(known: Sequence[ObjectDirectory]) -> dict[str, int]:
        return {"base": 1 + max(unit.number("base") or 0 for unit in known)}

    chosen = all_at_once(lambda ref: units.choose(made[ref], next_one).number("base"))
    assert sorted(filter(None, chosen)) == list(range(1, len(TEAMS) + 1))


def test_a_directory_that_a_crash_left_is_used_again(units: ObjectDirectories, state: StateDirectory) -> None:
    (state.ray / "0").mkdir()
    (state.ray / "0" / "unit.json").write_text("{")
    (state.ray / "0" / "rest").touch()
    unit = units.get_or_create(ONE)
    assert unit.name == "ray-0"
    assert [path.name for path in unit.directory.iterdir()] == ["unit.json"]


def test_the_first_restart_is_at_once_and_the_others_wait_longer_and_longer() -> None:
    restarts = RestartBackoff()
    assert restarts.remaining_delay_s(NOW) == 0.0
    pauses = []
    for _ in range(10):
        restarts.record_exit(NOW)
        pauses.append(restarts.remaining_delay_s(NOW))
    assert pauses == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert restarts.remaining_delay_s(NOW + timedelta(seconds=59)) == 1.0
    assert restarts.remaining_delay_s(NOW + timedelta(minutes=5)) == 0.0
    assert restarts.remaining_delay_s(NOW - timedelta(days=1)) == 60.0, "the clock was set back"


def test_a_minute_of_life_is_forgiveness() -> None:
    restarts = RestartBackoff()
    for _ in range(5):
        restarts.record_exit(NOW)
    assert not restarts.reset_if_steady(timedelta(seconds=59))
    assert restarts.reset_if_steady(timedelta(seconds=60))
    restarts.record_exit(NOW)
    assert restarts.remaining_delay_s(NOW) == 0.0


def test_a_process_that_worked_restarts_at_once() -> None:
    restarts = RestartBackoff()
    for _ in range(5):
        restarts.record_exit(NOW)
    restarts.reset_backoff()
    restarts.record_exit(NOW)
    assert restarts.remaining_delay_s(NOW) == 0.0
    restarts.record_exit(NOW)
    assert restarts.remaining_delay_s(NOW) == 1.0
