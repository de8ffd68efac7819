"""Whole rollouts with guardrails that are outcomes: edges join and report feedback minutes after its requests."""

import functools
from collections.abc import Mapping
from typing import Any

import pytest

from doubles.attempts import ended, experiment, paused
from doubles.cluster import NAME, Cluster
from doubles.traffic import Answers
from sundog_operator.core.kubernetes.names import application
from sundog_operator.ports import EXPERIMENT

FINE = Answers(errors=0.01)
V2 = "file:///models/v2"
KEPT = {"name": "kept", "feedback": "accepted", "margin": "20%"}
ONE_STEP = {"steps": [{"weight": 50, "maxDuration": "1h"}], "guardrails": [KEPT]}
Json = dict[str, Any]


async def rolling_out(chance: Mapping[int, float], rollout: Json, rps: float = 60, error: str = "") -> Cluster:
    """Revision 1 has served for some minutes, and revision 2 was just applied; this share of each revision's units accepts."""
    cluster = Cluster()
    cluster.set_traffic(rps, *[FINE] * len(chance), seed=3)
    cluster.edges.outcomes.chance = {application(NAME, number): {"accepted": own} for number, own in chance.items()}
    cluster.edges.outcomes.error = error
    await cluster.deploy(rollout=rollout)
    await cluster.settle(30, seconds=10)
    await cluster.apply(V2, rollout=rollout)
    assert await cluster.go_on(5, lambda: cluster.at_weight(2, rollout["steps"][0]["weight"]))
    return cluster


async def is_decided(cluster: Cluster) -> bool:
    return await ended(cluster) or await paused(cluster)


async def has_evidence(cluster: Cluster) -> bool:
    return bool((await experiment(cluster)).get("evidenceEpochs"))


def condition(status: Json, type_: str) -> Json:
    return next(dict(each) for each in status["conditions"] if each["type"] == type_)


def found(status: Json, name: str = "kept") -> Json:
    return next(dict(each) for each in status["metrics"] if each["name"] == name)


def feedback(cluster: Cluster) -> Any:
    return cluster.edges.in_force()[-1]["services"][0].get("feedback")


async def step_reason(cluster: Cluster) -> str:
    return str((await experiment(cluster))["step"]["reason"])


@pytest.mark.parametrize("unit", [{"request": {}}, {"header": "x-user-id"}])
async def test_a_candidate_with_worse_outcomes_alone_is_rolled_back(
    unit: Json,
) -> None:
    cluster = await rolling_out({1: 0.3, 2: 0.15}, {**ONE_STEP, "unit": unit})
    assert await cluster.go_on(60, functools.partial(ended, cluster))
    status = await experiment(cluster)
    assert (status["phase"], status["verdict"]["decision"]) == ("Stopped", "RolledBack")
    assert status["verdict"]["reason"].startswith("RolledBack: kept of the canary is ")
    assert status["verdict"]["reason"].endswith(": worse than its margin of 20 %")
    kept = found(status)
    assert (kept["role"], kept["arm"], kept["verdict"], kept["allowed"]) == ("guardrail", "canary", "Harm", 0.8)
    assert kept["interval"][0] < 0.5 < kept["interval"][1]
    assert {each["verdict"] for each in status["metrics"] if each["name"] != "kept"} & {"Harm"} == set()
    await cluster.go_on(1)
    assert await cluster.weights() == {1: 100}
    assert feedback(cluster) is None


@pytest.mark.parametrize("unit", [{"request": {}}, {"header": "x-user-id"}])
async def test_a_candidate_with_equal_outcomes_is_promoted_once_they_have_come(unit: Json) -> None:
    cluster = await rolling_out({1: 0.3, 2: 0.3}, {**ONE_STEP, "unit": unit})
    assert await cluster.go_on(60, functools.partial(ended, cluster))
    status = await experiment(cluster)
    assert (status["phase"], status["verdict"]["decision"]) == ("Concluded", "Promoted")
    assert found(status)["verdict"] == "Passed"
    assert "kept" in status["step"]["openedBy"]
    assert {each["name"] for point in status["history"] for each in point.get("metrics", ())} >= {"kept"}


async def test_each_step_waits_for_outcomes_that_edges_take_after_the_warm_up() -> None:
    cluster = await rolling_out({1: 0.3, 2: 0.3}, {"guardrails": [KEPT], "steps": [{"weight": 25}, {"weight": 50}]})
    assert feedback(cluster) is None
    assert await cluster.go_on(5, functools.partial(has_evidence, cluster))
    await cluster.settle(3)
    assert feedback(cluster) == {"metrics": ["accepted"], "maxUnits": 100_000_000}
    assert await cluster.go_on(60, functools.partial(ended, cluster))
    status = await experiment(cluster)
    assert status["verdict"]["decision"] == "Promoted"
    assert [each["weight"] for each in status["evidenceEpochs"]] == [25, 50]


async def test_without_any_outcome_a_step_says_how_to_report_one_and_pauses_after_its_time() -> None:
    cluster = await rolling_out({1: 0.0, 2: 0.0}, {**ONE_STEP, "steps": [{"weight": 50, "maxDuration": "20m"}]})
    assert await cluster.go_on(15, functools.partial(has_evidence, cluster))
    await cluster.go_on(8)
    why = "kept of the canary: no outcome accepted of any unit was reported yet; POST it to -/feedback "
    assert (await step_reason(cluster)).startswith(why)
    assert condition(await cluster.status(), "Progressing")["message"].count(why) == 1
    assert await cluster.go_on(30, functools.partial(is_decided, cluster))
    status = await experiment(cluster)
    assert (status["phase"], status["paused"]["reason"]) == ("Running", "Inconclusive")
    await cluster.go_on(1)
    assert (await step_reason(cluster)).startswith(f"paused because it took too long: {why}")
    assert await cluster.weights() == {1: 50, 2: 50}


async def test_a_policy_that_promotes_without_evidence_is_named_in_the_verdict() -> None:
    rollout = {**ONE_STEP, "steps": [{"weight": 50, "maxDuration": "12m"}], "onInconclusive": "promote"}
    cluster = await rolling_out({1: 0.0, 2: 0.0}, rollout)
    assert await cluster.go_on(40, functools.partial(ended, cluster))
    status = await experiment(cluster)
    assert status["phase"] == "Concluded"
    assert status["verdict"]["decision"] == "Undecided"
    assert "without evidence: step 1 at 50 % by onInconclusive: promote" in status["verdict"]["reason"]


async def test_while_the_store_is_away_stable_serves_and_the_conditions_name_the_cause() -> None:
    error = "redis://sundog-edge-store: does not answer"
    cluster = await rolling_out({1: 0.3, 2: 0.3}, ONE_STEP, error=error)
    assert await cluster.go_on(15, functools.partial(has_evidence, cluster))
    await cluster.go_on(20)
    why = f"sundog-edge-0 has no outcomes: {error}"
    status = await experiment(cluster)
    assert status["phase"] == "Running"
    assert [each["verdict"] for each in status["metrics"] if each["name"] == "errorRate"] == ["Passed"]
    assert (found(status)["verdict"], found(status)["message"]) == ("Undecided", f"kept: {why}")
    quality = condition(status, "DataQuality")
    assert (quality["status"], quality["reason"], quality["message"]) == ("False", "FeedbackUnavailable", why)
    assert why in condition(await cluster.status(), "Progressing")["message"]
    assert await cluster.weights() == {1: 50, 2: 50}
    assert condition(await cluster.status(), "Ready")["status"] == "True"
    written = await cluster.writes_of(cluster.go_on(2))
    written = [each for each in written if each.changed and each.ref.kind == EXPERIMENT]
    assert len(written) <= 3
    cluster.edges.outcomes.error = ""
    assert await cluster.go_on(30, functools.partial(ended, cluster))
    status = await experiment(cluster)
    assert status["verdict"]["decision"] == "Promoted"
    assert condition(status, "DataQuality")["status"] == "True"


async def test_a_lost_store_takes_no_outcome_back_and_opens_no_gate() -> None:
    cluster = await rolling_out(
        {1: 0.05, 2: 0.05}, {**ONE_STEP, "steps": [{"weight": 50, "maxDuration": "20m"}]}, rps=20
    )
    assert await cluster.go_on(15, functools.partial(has_evidence, cluster))
    await cluster.go_on(4)
    cluster.edges.outcomes.lose()
    assert await cluster.go_on(40, functools.partial(is_decided, cluster))
    status = await experiment(cluster)
    assert status["paused"]["reason"] == "Inconclusive"
    assert condition(status, "DataQuality")["reason"] == "FeedbackStoreReplaced"
