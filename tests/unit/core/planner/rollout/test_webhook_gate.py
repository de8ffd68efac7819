"""Webhook requests of a rollout's steps."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sundog_operator.api import ModelDeploymentSpec, Rollout
from sundog_operator.core.planner.facts import RolloutAttempt
from sundog_operator.core.planner.rollout import webhook_gate
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial.rollout import freeze, state, state_machine
from sundog_operator.core.trial.rollout.state import RolloutInputs

T0 = datetime(2026, 11, 25, 12, tzinfo=UTC)
DEPLOYMENT = {"metadata": {"name": "digits", "namespace": "vision"}}
GATE = {"webhook": {"url": "https://gate/?token=t", "timeout": "3s"}}


def spec(**fields: Any) -> ModelDeploymentSpec:
    return ModelDeploymentSpec.from_json({"model": {"uri": "file:///a"}, **fields})


@pytest.fixture
def attempt() -> RolloutAttempt:
    """A rollout at the first of two steps with webhooks."""
    status = freeze.freeze(Rollout.from_json({"steps": [GATE, GATE, {"weight": 50}]}), 7, 8, T0)
    while state.pending_webhook(status) is None:
        status = state_machine.tick(status, RolloutInputs(now=T0, replicas=1, available=1, confirmed=True))
    return RolloutAttempt("digits-r8", "u", 1, 8, status)


def at(attempt: RolloutAttempt, index: int) -> RolloutAttempt:
    step = attempt.status.step
    assert step is not None
    moved = step.model_copy(update={"index": index})
    return replace(attempt, status=attempt.status.model_copy(update={"step": moved}))


def test_a_request_has_flaggers_document_and_the_url_of_the_plan(attempt: RolloutAttempt) -> None:
    request = webhook_gate.make_webhook_request(
        DEPLOYMENT, spec(), attempt, [Revision(8, "abc", {}), Revision(7, "old", {})], T0
    )
    assert request == webhook_gate.WebhookRequest(
        about="u/1",
        url="https://gate/?token=t",
        document={
            "name": "digits",
            "namespace": "vision",
            "phase": "Progressing",
            "checksum": "abc",
            "metadata": {"revision": "8", "experiment": "digits-r8", "step": "1", "weight": "0"},
        },
        timeout_s=3.0,
    )


def test_requests_of_other_steps_and_attempts_differ(attempt: RolloutAttempt) -> None:
    attempts = (attempt, at(attempt, 2), replace(attempt, uid="v"))
    requests = [webhook_gate.make_webhook_request(DEPLOYMENT, spec(), each, (), T0) for each in attempts]
    assert len({request.about for request in requests if request is not None}) == 3


def test_a_deleted_revision_has_no_checksum(attempt: RolloutAttempt) -> None:
    request = webhook_gate.make_webhook_request(DEPLOYMENT, spec(), attempt, (), T0)
    assert request is not None
    assert request.document["checksum"] == ""


@pytest.mark.parametrize(
    "held",
    [
        None,
        spec(paused=True),
        spec(rollout={"paused": True}),
        spec(rollout={"dryRun": True}),
        spec(rollout={"windows": [{"cron": "0 3 * * *", "duration": "1h"}]}),
    ],
)
def test_a_held_rollout_has_no_request(attempt: RolloutAttempt, held: ModelDeploymentSpec | None) -> None:
    assert webhook_gate.make_webhook_request(DEPLOYMENT, held, attempt, (), T0) is None
    open_ = spec(rollout={"windows": [{"cron": "0 12 * * *", "duration": "1h"}]})
    assert webhook_gate.make_webhook_request(DEPLOYMENT, open_, attempt, (), T0) is not None
    assert webhook_gate.make_webhook_request(DEPLOYMENT, spec(), None, (), T0) is None
    assert webhook_gate.make_webhook_request(DEPLOYMENT, spec(), at(attempt, 3), (), T0) is None
