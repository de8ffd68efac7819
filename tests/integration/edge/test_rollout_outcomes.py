"""Outcomes of a rollout through a real HAProxy: the operator's split document, signed exposures, and what each gate counts."""

import os
from collections import Counter
from datetime import UTC, datetime

import pytest

from sundog_edge.feedback.exposure import verify_exposure
from sundog_operator.api import Epoch, EvidenceEpoch, ModelDeploymentStatus, Rollout, StepStatus
from sundog_operator.core.analysis import feedback, rollout_outcomes
from sundog_operator.core.analysis.arm_pair import CollectedCounts, rollout_limits
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSums
from sundog_operator.core.edge import split_document
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner import desired_state
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.rollout import freeze

pytestmark = pytest.mark.haproxy

UID = "3b9f6d6e-0000-4000-8000-000000000000"
KEY = bytes(range(32))
FAR_AGO = 1_700_000_000
HEADER = "x-sundog-exposure"
SERVED = ModelDeploymentStatus.parse({"stable": {"revision": 7}, "candidate": {"revision": 8}, "cluster": "sundog"})
ROLLOUT = {
    "unit": {"header": "x-user-id"},
    "steps": [{"weight": 25}, {"weight": 50}],
    "guardrails": [{"name": "kept", "feedback": "accepted"}],
}


@pytest.fixture(autouse=True)
def no_replicas(serve):
    """Who is refused there was exposed all the same."""
    serve.targets = {"digits-r7": [], "digits-r8": []}


@pytest.fixture
async def feeding(edge):
    """The edge with a key and a store."""
    await edge.kill_agent()
    file = edge.root / "key"
    file.write_text(f"{KEY.hex()}\n")
    os.utime(file, (FAR_AGO, FAR_AGO))
    edge.agent_options = ("--signing-key", str(file), "--store", f"sqlite://{edge.root}/feedback.db")
    await edge.start_agent()
    return edge


def at_step(index, *, warm=True):
    """Return the rollout at a step. Each step has an epoch of warm-up and one of evidence."""
    status = freeze.freeze(Rollout.from_json(ROLLOUT), 7, 8, datetime.now(UTC), StableTraffic())
    weights = [step.weight for step in status.plan.steps[:index]]
    evident = weights if warm else weights[:-1]
    return status.model_copy(
        update={
            "phase": "Running",
            "step": StepStatus(index=index, of=len(status.plan.steps), gate="evidence", warm=warm),
            "epoch": Epoch(number=2 * index - (not warm), since=datetime.now(UTC), confirmed=True),
            "arms": freeze.arms_at_weight(weights[-1], 7, 8),
            "evidence_epochs": tuple(
                EvidenceEpoch(number=2 * n, weight=each) for n, each in enumerate(evident, start=1)
            ),
        }
    )


async def apply(edge, status):
    deployment = {"metadata": {"name": "digits", "uid": "uid-of-digits"}}
    split = desired_state.desired_split(deployment, SERVED, UID, status)
    await edge.apply(edge.service("digits", **split_document.make_split_fields("digits", split, {})))


async def report(edge, users, *, is_accepted):
    """Ask as each user, and report the outcome by the exposure of the answer. Return the arms that answered."""
    arms, items = Counter(), []
    for user in users:
        text = (await edge.get("/digits/", headers={"x-user-id": user})).headers[HEADER]
        exposure = verify_exposure((KEY,), "digits", text, ("stable", "canary"))
        assert exposure is not None
        arms[exposure.arm] += 1
        items.append({"exposure": text, "metric": "accepted", "value": is_accepted})
    async with edge.session.post(edge.url + "/digits/-/feedback", json=items) as response:
        assert (response.status, (await response.json())["accepted"]) == (200, len(items))
    return arms


async def evaluate(edge, status, outcomes):
    """Return the operator's metric, once the edge has reported so many outcomes."""
    sums, problem = None, None

    async def is_counted():
        nonlocal sums, problem
        edges = [EdgeReport("edge-0", ready=True, terminating=False, evidence=await edge.evidence())]
        selection = rollout_outcomes.make_feedback_selection("digits", UID, status)
        sums, problem = feedback.update_sums(FeedbackSums(), edges, selection)
        return sums.accepted == outcomes

    await edge.comes_true(is_counted, f"{outcomes} outcomes in the evidence")
    collected = CollectedCounts(
        Counters(UID, feedback=sums), [], {}, StableTraffic(), datetime.now(UTC).timestamp(), 30.0
    )
    (found,) = rollout_outcomes.evaluate_outcomes(status, rollout_limits(status), collected, problem)
    assert problem is None
    return found


async def test_each_gate_counts_the_outcomes_of_users_that_are_first_seen_at_its_weight(feeding):
    edge = feeding
    await apply(edge, at_step(1, warm=False))
    assert HEADER not in (await edge.get("/digits/", headers={"x-user-id": "early"})).headers
    first = at_step(1)
    await apply(edge, first)
    before = await report(edge, [f"user-{number}" for number in range(60)], is_accepted=True)
    found = await evaluate(edge, first, 60)
    assert found.events == (before["stable"], before["canary"])
    assert min(found.events) > 0
    second = at_step(2)
    await apply(edge, second)
    # They return, some of them to the other revision, and change their mind.
    again = await report(edge, [f"user-{number}" for number in range(60)], is_accepted=False)
    assert again["canary"] > before["canary"]
    new = await report(edge, [f"new-{number}" for number in range(40)], is_accepted=True)
    found = await evaluate(edge, second, 160)
    assert found.events == (new["stable"], new["canary"])
    assert found.verdict == "Undecided"


async def test_an_edge_without_its_store_answers_and_its_report_names_the_cause(feeding):
    edge, status = feeding, at_step(1)
    await edge.kill_agent()
    edge.agent_options = ()
    await edge.start_agent()
    await apply(edge, status)
    assert HEADER not in (await edge.get("/digits/", headers={"x-user-id": "ada"})).headers
    edges = [EdgeReport("edge-0", ready=True, terminating=False, evidence=await edge.evidence())]
    selection = rollout_outcomes.make_feedback_selection("digits", UID, status)
    _, problem = feedback.update_sums(FeedbackSums(), edges, selection)
    assert problem == ("FeedbackUnavailable", "edge-0 has no outcomes: the agent was started without --store")
