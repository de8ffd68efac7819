"""A stored status is read whatever it holds."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sundog_operator.api import (
    ArmStatus,
    CapacityStatus,
    Condition,
    DrainingRevision,
    Epoch,
    ExperimentStatus,
    FrozenPlan,
    HistoryMetric,
    HistoryPoint,
    LastCommand,
    LastRollout,
    MetricStatus,
    ModelDeployment,
    ModelDeploymentStatus,
    PauseStatus,
    PlanStep,
    RevisionStatus,
    Startup,
    StepStatus,
    Verdict,
)

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
CONDITION = Condition(type="Ready", status="True", reason="Ready", last_transition_time=NOW, observed_generation=4)

FULL = ModelDeploymentStatus(
    observed_generation=4,
    url="http://digits.vision.svc",
    replicas=3,
    ready_replicas=3,
    selector="serving.sundog.dev/model-deployment=digits",
    cluster="sundog",
    stable=RevisionStatus(revision=7, weight=75, uri="file:///a", replicas=2, ready_replicas=2),
    candidate=RevisionStatus(revision=8, weight=25, uri="file:///b", replicas=1, ready_replicas=1),
    retiring=(DrainingRevision(revision=6, since=NOW),),
    experiment="digits-r8",
    capacity=CapacityStatus(gpus_requested=3.0, gpus_allocated=2.5, mode="surge"),
    startup=Startup(scheduled=timedelta(seconds=3), load=timedelta(milliseconds=1500)),
    last_command=LastCommand(id="abc", verb="promote", revision=8, result="Accepted", at=NOW),
    last_rollout=LastRollout(experiment="digits-r7", revision=7, outcome="Promoted", at=NOW),
    conditions=(CONDITION,),
)
RUNNING = ExperimentStatus(
    observed_generation=1,
    phase="Running",
    plan=FrozenPlan(
        hash="ab",
        strategy="canary",
        steps=(PlanStep(weight=5, gate="time", min_duration=timedelta(minutes=5)),),
        alpha=0.05,
        frozen_at=NOW,
    ),
    step=StepStatus(index=1, of=3, since=NOW, gate="time", reason="waits"),
    paused=PauseStatus(reason="Manual", since=NOW),
    epoch=Epoch(number=2, since=NOW, confirmed=True),
    arms=(ArmStatus(name="canary", revision=8, weight=25, ranges=((0, 2500),), units=3, requests=9, errors=1),),
    metrics=(
        MetricStatus(
            name="errorRate",
            role="guardrail",
            arm="canary",
            ratio=1.047,
            interval=(0.7, 1.53),
            verdict="Undecided",
            eta=timedelta(minutes=11),
        ),
    ),
    history=(
        HistoryPoint(
            at=NOW,
            epoch=2,
            weight=25,
            requests=(30, 9),
            errors=(2, 1),
            metrics=(
                HistoryMetric(name="errorRate", ratio=1.05, lower=0.7, upper=1.53, basis="ThisStep", verdict="Passed"),
            ),
        ),
        HistoryPoint(
            at=NOW,
            epoch=3,
            weight=0,
            weights=(99, 0.5, 0.5),
            metrics=(HistoryMetric(name="spent", role="success", arm="a", ratio=1.05),),
        ),
    ),
    verdict=Verdict(reason="no evidence"),
    conditions=(CONDITION,),
)


def test_written_and_read_it_is_the_same_byte_for_byte(admission_of_status: Any) -> None:
    for status in (FULL, RUNNING):
        written = json.dumps(status.to_json())
        assert type(status).parse(json.loads(written)) == status
        assert json.dumps(type(status).parse(json.loads(written)).to_json()) == written
        assert admission_of_status(status) == []


def test_times_are_text_in_utc_to_the_second() -> None:
    moment = datetime(2026, 11, 20, 10, 30, 15, 999_999, tzinfo=UTC)
    retiring = DrainingRevision(revision=6, since=moment)
    assert retiring.since == moment.replace(microsecond=0)
    assert retiring.to_json()["since"] == "2026-11-20T10:30:15Z"
    assert DrainingRevision.model_validate(retiring.to_json()) == retiring


def test_nothing_at_all_is_the_initial_status() -> None:
    for nothing in (None, {}, [], "x", 5, {"unheardOf": 1}):
        assert ModelDeploymentStatus.parse(nothing) == ModelDeploymentStatus()
    assert ModelDeploymentStatus().observed_generation == -1


def test_only_what_does_not_fit_is_dropped() -> None:
    stored = FULL.to_json()
    stored["replicas"] = "three"
    stored["stable"]["weight"] = 101
    stored["candidate"]["revision"] = None
    stored["conditions"] = [{"type": "Ready"}, stored["conditions"][0], 7]
    stored["retiring"] = "none"
    read = ModelDeploymentStatus.parse(stored)
    assert read.replicas == 0
    assert read.stable is not None
    assert (read.stable.revision, read.stable.weight) == (7, 0)
    assert read.candidate is None
    assert read.conditions == (CONDITION,)
    assert read.retiring == ()
    assert read.url == FULL.url


def test_a_status_is_read_beside_a_spec_that_is_not() -> None:
    obj = {"spec": {"model": 5}, "status": FULL.to_json()}
    assert ModelDeploymentStatus.parse(obj["status"]) == FULL


def test_a_bad_status_does_not_spoil_a_good_spec() -> None:
    obj = {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits"},
        "spec": {"model": {"uri": "file:///a"}},
        "status": {"stable": {"weight": 3}, "replicas": 2},
    }
    assert ModelDeployment.violations(obj) == []
    assert ModelDeployment.parse(obj).status == ModelDeploymentStatus(replicas=2)


KEYS = (
    st.sampled_from([*FULL.to_json(), *RUNNING.to_json(), "revision", "since", "type", "steps", "of"]) | st.integers()
)
GARBAGE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.just("2026-11-20T09:30:00Z")
    | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=15,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(GARBAGE)
def test_garbage_never_raises(garbage: Any) -> None:
    for type_ in (ModelDeploymentStatus, ExperimentStatus):
        read = type_.parse(garbage)
        assert type_.parse(read.to_json()) == read


@pytest.mark.parametrize(
    ("reason", "code", "message"),
    [
        ("RolledBack: errorRate: 3 times stable's", "RolledBack", "errorRate: 3 times stable's"),
        ("ModelNotFound: nothing at s3://a/b: 404", "ModelNotFound", "nothing at s3://a/b: 404"),
        ("wide won and was then dropped: Harm: worse", None, "wide won and was then dropped: Harm: worse"),
        ("agreement: 99 % of 1000 pairs", None, "agreement: 99 % of 1000 pairs"),
        ("", None, ""),
    ],
)
def test_a_verdict_of_an_older_release_has_its_code(reason: str, code: str | None, message: str) -> None:
    verdict = ExperimentStatus.parse({"verdict": {"decision": "Undecided", "reason": reason}}).verdict
    assert (verdict.code, verdict.message, verdict.reason) == (code, message, reason)


def test_a_stored_code_is_not_read_again_from_the_text() -> None:
    verdict = ExperimentStatus.parse({"verdict": {"reason": "Harm: by wide", "code": "NoWinner"}}).verdict
    assert (verdict.code, verdict.message) == ("NoWinner", "Harm: by wide")


def test_a_dropped_arm_and_a_notice_of_an_older_release_have_their_codes() -> None:
    notice = {
        "event": "paused",
        "reason": "NoData: paused because an arm has no requests",
        "time": "2026-11-20T09:30:00Z",
    }
    status = ExperimentStatus.parse({"arms": [{"name": "wide", "dropped": "Harm: worse"}], "notices": [notice]})
    assert (status.arms[0].dropped_code, status.notices[0].code) == ("Harm", "NoData")


@pytest.mark.parametrize(
    ("reason", "code"),
    [("by command c1", "Aborted"), ("LoadFailed: size mismatch", "LoadFailed"), ("it took too long", None)],
)
def test_a_hold_of_an_older_release_has_its_code(reason: str, code: str | None) -> None:
    hold = {"experiment": "", "revision": 2, "outcome": "Aborted", "reason": reason, "at": "2026-11-20T09:30:00Z"}
    status = ModelDeploymentStatus.parse({"heldBack": [hold], "lastRollout": hold})
    assert status.last_rollout is not None
    assert [status.held_back[0].code, status.last_rollout.code] == [code, code]


@pytest.mark.parametrize(("since", "brought_back"), [("2026-11-20T09:30:00Z", True), ("2026-11-20T09:31:00Z", None)])
def test_a_rollback_of_an_older_release_is_known_by_the_time_of_its_command(
    since: str, brought_back: bool | None
) -> None:
    last = {"experiment": "", "revision": 2, "outcome": "RolledBack", "reason": "r", "at": "2026-11-20T09:30:00Z"}
    status = ModelDeploymentStatus.parse({"candidate": {"revision": 1, "since": since}, "lastRollout": last})
    assert status.candidate is not None
    assert status.candidate.brought_back is brought_back
