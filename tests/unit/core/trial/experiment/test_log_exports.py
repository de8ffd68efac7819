"""When an exposure log is exported, and where to."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sundog_operator.api import Epoch, ExperimentStatus
from sundog_operator.core.observed import ExposureLogResult
from sundog_operator.core.trial.experiment import log_exports

BEGUN = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
EXPERIMENT = {"metadata": {"namespace": "vision", "name": "ab", "uid": "u-1"}}
FOLDER = "s3://logs/a/vision/ab/u-1"
COMPARISON = {
    "arms": [],
    "outcomes": [{"name": "bought", "role": "success", "feedback": "bought"}],
    "maxDuration": "14d",
    "maxUnits": 1000,
}


def hours(count: float) -> datetime:
    return BEGUN + timedelta(hours=count)


def status(phase: str = "Running", begun: bool = True, **comparison: Any) -> ExperimentStatus:
    since = {"since": "2026-11-20T09:00:00Z"} if begun else {}
    return ExperimentStatus.parse({"phase": phase, "plan": {"comparison": {**COMPARISON, **comparison}}, **since})


def after(own: ExperimentStatus, at: datetime, *, folder: str = FOLDER, final: bool = False) -> ExperimentStatus:
    answer = ExposureLogResult(at, 5, 1, complete=True, final=final)
    return log_exports.record_export(own, log_exports.next_uri(folder, own), answer, 1, at)


def test_the_first_is_due_an_hour_after_the_arms_have_their_traffic() -> None:
    assert log_exports.next_export_at(status(), FOLDER) == hours(1)


@pytest.mark.parametrize("without_export", [status(begun=False), status("Stopped", begun=False), status(outcomes=[])])
def test_no_export_is_due_without_traffic_or_outcomes(without_export: ExperimentStatus) -> None:
    assert log_exports.next_export_at(without_export, FOLDER) is None


@pytest.mark.parametrize(("at", "next_"), [(1, 2), (9, 10), (10, 11), (20, 22), (300, 330)])
def test_the_next_is_due_after_an_hour_or_a_tenth_of_its_time(at: float, next_: float) -> None:
    assert log_exports.next_export_at(after(status(), hours(at)), FOLDER) == hours(next_)


def test_two_weeks_have_a_few_dozen_exports() -> None:
    own, count = status(), 0
    while (due := log_exports.next_export_at(own, FOLDER)) is not None and due <= BEGUN + timedelta(days=14):
        own, count = after(own, due), count + 1
    assert 40 <= count <= 50


def test_at_the_end_one_is_due_once_edges_take_no_more_outcomes_and_then_no_more() -> None:
    running = after(status(), hours(1))
    ended = running.model_copy(update={"phase": "Concluded", "epoch": Epoch(number=3, since=hours(1.05))})
    due = hours(1.05) + log_exports.EDGES_SETTLE
    assert log_exports.next_export_at(ended, FOLDER) == due
    # This export was read before the end and written after it.
    assert log_exports.next_export_at(after(ended, hours(1.1)), FOLDER) == due
    last = after(ended, hours(1.1), final=True)
    assert log_exports.next_export_at(last, FOLDER) is None
    assert last.exposure_log is not None
    assert (last.exposure_log.uri, last.exposure_log.sequence) == (f"{FOLDER}/000002", 2)


def test_at_another_place_it_is_due_at_once() -> None:
    other = FOLDER.replace("logs/a", "logs/ab")
    for phase in ("Running", "Stopped"):
        own = after(status(phase), hours(3), final=phase == "Stopped")
        assert log_exports.next_export_at(own, other) in (BEGUN, BEGUN + log_exports.EDGES_SETTLE)
        assert log_exports.next_uri(other, own) == f"{other}/000002"


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("s3://logs", "s3://logs/vision/ab/u-1"),
        ("s3://logs/a/", FOLDER),
        ("file:///home/ada", "file:///home/ada/vision/ab/u-1"),
    ],
)
def test_an_experiment_has_a_folder_of_its_own(uri: str, folder: str) -> None:
    assert log_exports.export_folder(uri, EXPERIMENT) == folder


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("s3://logs/a", ["s3://logs"]),
        ("s3://logs", ["s3://logs"]),
        ("s3://logs/", ["gs://other", "s3://logs"]),
        ("s3://logs/a/b", ["s3://logs/a"]),
        ("pvc://logs/a", ["pvc://logs"]),
        ("file:///home/ada", None),
    ],
)
def test_a_place_that_is_allowed(uri: str, allowed: list[str] | None) -> None:
    assert log_exports.find_place_violation(uri, allowed) == ""


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("s3://logs/a", []),
        ("s3://logs-of-others", ["s3://logs"]),
        ("s3://logs", ["s3://logs/a"]),
        ("s3://logs/ab", ["s3://logs/a"]),
        ("gs://logs/a", ["s3://logs/a"]),
        ("pvc://logs/a", ["s3://logs/a", "pvc://log"]),
    ],
)
def test_a_place_that_is_not_allowed(uri: str, allowed: list[str]) -> None:
    found = "not below a place in installation.exposureLogs.places. Use an allowed place, or ask an administrator to add this one."
    assert log_exports.find_place_violation(uri, allowed) == f"{uri}: {found}"


def test_local_mode_has_no_claims() -> None:
    assert log_exports.find_place_violation("pvc://logs/a", None) == "pvc:// needs a cluster; use file:// in local mode"


def test_a_cluster_has_no_directories() -> None:
    assert log_exports.find_place_violation("file:///home/ada", ["s3://logs"]).startswith("file:// needs local mode")


def test_the_condition_shows_an_export_and_a_failure() -> None:
    own = after(status(), hours(1))
    (condition,) = [each for each in own.conditions if each.type == "LogWritten"]
    assert (condition.status, condition.reason) == ("True", "Written")
    assert condition.message == f"5 exposures and 1 outcome in {FOLDER}/000001"
    failing = log_exports.record_export_failure(own, "NotWritten", "the bucket is gone", 4, hours(2))
    (condition,) = [each for each in failing.conditions if each.type == "LogWritten"]
    assert (condition.status, condition.message, condition.observed_generation) == ("False", "the bucket is gone", 4)
    assert failing.exposure_log == own.exposure_log
    assert [
        each.type for each in log_exports.remove_condition(failing, 4, hours(2)).conditions if "Log" in each.type
    ] == []
    assert log_exports.remove_condition(status(), 1, BEGUN) == status()


@pytest.mark.parametrize("other", ["DataQuality", "Ready"])
def test_conditions_of_other_writers_stay_theirs(other: str) -> None:
    """One name sorts before LogWritten, the other one after it."""
    known = {
        "type": other,
        "status": "True",
        "reason": "Known",
        "message": "",
        "lastTransitionTime": "2026-11-25T12:00:00Z",
    }
    with_other = ExperimentStatus.parse({**status().to_json(), "conditions": [known]})
    assert log_exports.remove_condition(with_other, 1, hours(2)) == with_other
    stale, log = {**known, "status": "False"}, {**known, "type": "LogWritten"}
    merged = log_exports.merge_log_status({"conditions": [known]}, {"conditions": [stale, log]})
    assert merged["conditions"] == [known, log]


def test_the_metrics_of_the_final_export_stay_with_it() -> None:
    """The pass of the ModelDeployment may still write a status that it read before."""
    stored = {"exposureLog": {"final": True}, "metrics": [{"name": "last"}], "tallies": "last"}
    written = {"phase": "Stopped", "metrics": [{"name": "before"}], "tallies": "before"}
    assert log_exports.merge_log_status(written, stored) == {"phase": "Stopped", **stored}
    assert log_exports.merge_log_status(written, {**stored, "exposureLog": {"final": False}})["tallies"] == "before"
