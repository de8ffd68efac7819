"""What a step asks its webhook, and when."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sundog_operator.api import ModelDeploymentSpec, Rollout
from sundog_operator.core.planner import webhook_gate
from sundog_operator.core.planner.context import RolloutAttempt as Attempt
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout import freeze, state, state_machine
from sundog_operator.core.rollout.state import RolloutInputs

T0 = datetime(2026, 11, 25, 12, tzinfo=UTC)
DEPLOYMENT = {"metadata": {"name": "digits", "namespace": "vision"}}
GATE = {"webhook": {"url": "https://gate/?token=t", "timeout": "3s"}}


def spec(**fields: Any) -> ModelDeploymentSpec:
    return ModelDeploymentSpec.from_json({"model": {"uri": "file:///a"}, **fields})


@pytest.fixture
def attempt() -> Attempt:
    """At the first of two webhooks that follow each other."""
    status = freeze.freeze(Rollout.from_json({"steps": [GATE, GATE, {"weight": 50}]}), 7, 8, T0)
    while state.pending_webhook(status) is None:
        status = state_machine.tick(status, RolloutInputs(T0, 1, 1, confirmed=True))
    return Attempt("digits-r8", "u", 1, 8, status)


def at(attempt: Attempt, index: int) -> Attempt:
    step = attempt.status.step
    assert step is not None
    moved = step.model_copy(update={"index": index})
    return replace(attempt, status=attempt.status.model_copy(update={"step": moved}))


def test_a_question_has_flaggers_document_and_the_plans_address(attempt: Attempt) -> None:
    asked = webhook_gate.make_webhook_request(
        DEPLOYMENT, spec(), attempt, [Revision(8, "abc", {}), Revision(7, "old", {})], T0
    )
    assert asked == webhook_gate.WebhookRequest(
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


def test_questions_of_other_steps_and_attempts_are_others(attempt: Attempt) -> None:
    attempts = (attempt, at(attempt, 2), replace(attempt, uid="v"))
    questions = [webhook_gate.make_webhook_request(DEPLOYMENT, spec(), each, (), T0) for each in attempts]
    assert len({question.about for question in questions if question is not None}) == 3


def test_a_revision_that_is_gone_has_no_checksum(attempt: Attempt) -> None:
    asked = webhook_gate.make_webhook_request(DEPLOYMENT, spec(), attempt, (), T0)
    assert asked is not None
    assert asked.document["checksum"] == ""


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
def test_what_the_spec_holds_asks_nothing(attempt: Attempt, held: ModelDeploymentSpec | None) -> None:
    assert webhook_gate.make_webhook_request(DEPLOYMENT, held, attempt, (), T0) is None
    open_ = spec(rollout={"windows": [{"cron": "0 12 * * *", "duration": "1h"}]})
    assert webhook_gate.make_webhook_request(DEPLOYMENT, open_, attempt, (), T0) is not None
    assert webhook_gate.make_webhook_request(DEPLOYMENT, spec(), None, (), T0) is None
    assert webhook_gate.make_webhook_request(DEPLOYMENT, spec(), at(attempt, 3), (), T0) is None
