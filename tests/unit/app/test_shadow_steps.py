"""Steps that compare copies of requests, in memory: the split document, and the effects of the edges' reports."""

import functools
from typing import Any

import pytest

from doubles.attempts import at_step, experiment
from doubles.cluster import Cluster
from doubles.shadow_copies import EDGE, service, tell

V2 = "file:///models/v2"
SHADOW: dict[str, Any] = {
    "percent": 20,
    "compare": {"agreement": {"min": 0.99, "by": "tolerance", "rtol": 0.01}},
    "minSamples": 400,
}
STEPS: list[dict[str, Any]] = [{"shadow": SHADOW}, {"pause": {}}]


async def comparing(steps: list[dict[str, Any]] = STEPS) -> Cluster:
    """A rollout of revision 2 at its first step."""
    return await shadowed({"steps": steps})


async def test_edges_copy_requests_to_a_candidate_without_traffic_until_the_step_ends() -> None:
    cluster = await comparing()
    assert await cluster.weights() == {1: 100, 2: 0}
    assert service(cluster)["shadow"] == {
        "arm": "canary",
        "percent": 20,
        "comparator": {"kind": "tolerance", "atol": 0.0, "rtol": 0.01, "path": ""},
    }
    status = await experiment(cluster)
    assert "no answer of the canary yet" in status["step"]["reason"]
    await tell(cluster, agree=900)
    await cluster.until(functools.partial(at_step, cluster, 2), rounds=30)
    await cluster.settle(5)
    assert "shadow" not in service(cluster)
    assert await cluster.weights() == {1: 100, 2: 0}
    kept = (await experiment(cluster))["shadow"]
    assert (kept["agreed"], kept["sent"]) == (900, 900)


async def test_edges_get_the_parts_of_answers_to_compare() -> None:
    parts = [{"path": "$.a", "by": "argmax"}, {"path": "$.b", "by": "tolerance", "atol": 1.0}]
    shadow = {**SHADOW, "compare": {"agreement": {"min": 0.99, "by": "custom", "parts": parts}}}
    cluster = await comparing([{"shadow": shadow}, {"pause": {}}])
    assert service(cluster)["shadow"]["comparator"] == {
        "kind": "custom",
        "atol": 0.0,
        "rtol": 0.0,
        "path": "",
        "parts": [
            {"kind": "argmax", "atol": 0.0, "rtol": 0.0, "path": "$.a"},
            {"kind": "tolerance", "atol": 1.0, "rtol": 0.0, "path": "$.b"},
        ],
    }
    await tell(cluster, agree=0, verdicts={"custom": [900, 0, 0]}, paired=900, sampled=900, sent=900)
    await cluster.until(functools.partial(at_step, cluster, 2), rounds=30)


async def test_a_candidate_that_answers_otherwise_is_rolled_back_and_says_by_what() -> None:
    cluster = await comparing()
    await tell(cluster, agree=300, disagree=100)

    async def rolled_back() -> bool:
        return ((await cluster.status()).get("lastRollout") or {}).get("outcome") == "RolledBack"

    await cluster.until(rolled_back, rounds=30)
    reason = (await cluster.status())["lastRollout"]["reason"]
    assert "agreement by tolerance: 75 % of 400" in reason
    assert "at least 99 % required" in reason
    assert "RolloutRolledBack" in await cluster.events()
    await cluster.settle(10)
    assert await cluster.weights() == {1: 100}


@pytest.mark.extended
async def test_numbers_are_written_once_a_minute_and_nothing_where_nothing_changes() -> None:
    cluster = await comparing()
    await tell(cluster, agree=10)
    await cluster.settle(70)
    first = await cluster.experiment("digits-r2")
    assert first["status"]["shadow"]["agreed"] == 10
    assert {each["name"] for each in first["status"]["metrics"]} == {"agreement", "shadowFailures"}
    await cluster.settle(100)
    second = await cluster.experiment("digits-r2")
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    await tell(cluster, agree=11)
    versions = set()
    for number in range(12, 60):
        await tell(cluster, agree=number)
        await cluster.round()
        versions.add((await cluster.experiment("digits-r2"))["metadata"]["resourceVersion"])
    assert len(versions) <= 2


async def test_the_report_of_an_edge_is_kept_when_it_is_gone() -> None:
    cluster = await comparing()
    await tell(cluster, agree=200)
    await cluster.settle(70)
    cluster.edges.mirrored[EDGE] = []
    await tell(cluster, agree=300, boot="b2")
    await cluster.until(functools.partial(at_step, cluster, 2), rounds=80)
    assert (await experiment(cluster))["shadow"]["agreed"] == 500


@pytest.mark.parametrize("first", [{"weight": 25, "gate": "manual"}], ids=str)
async def test_a_shadow_keeps_the_weight_before_it(first: dict[str, Any]) -> None:
    cluster = await comparing([first, {"shadow": SHADOW}, {"weight": 50, "gate": "manual"}])
    await cluster.command("promote revision=2 id=c1")
    await cluster.until(functools.partial(at_step, cluster, 2), rounds=60)
    await cluster.settle(10)
    assert await cluster.weights() == {1: 75, 2: 25}
    assert service(cluster)["shadow"]["arm"] == "canary"
    await tell(cluster, agree=900)
    await cluster.until_weight(2, 50, rounds=60)


async def test_two_shadows_with_other_percents_are_distinguished() -> None:
    cluster = await comparing([{"shadow": SHADOW}, {"shadow": {**SHADOW, "percent": 80}}, {"pause": {}}])
    await tell(cluster, agree=900)
    (first,) = cluster.edges.mirrored[EDGE]
    await cluster.until(functools.partial(at_step, cluster, 2), rounds=30)
    await cluster.settle(10)
    entry = service(cluster)
    assert (entry["shadow"]["percent"], entry["epoch"]) == (80, 1)
    attempt = await experiment(cluster)
    assert (attempt["step"]["index"], attempt["shadow"]["sent"]) == (2, 0)
    assert attempt["shadow"]["earlier"][0].startswith("step 1: agreement by tolerance: 100 % of 900")
    assert "no answer of the canary yet" in attempt["step"]["reason"]
    await tell(cluster, agree=500)
    cluster.edges.mirrored[EDGE].append(first)
    await cluster.until(functools.partial(at_step, cluster, 3), rounds=80)
    assert (await experiment(cluster))["shadow"]["agreed"] == 500
    assert await cluster.weights() == {1: 100, 2: 0}


ALONE: dict[str, Any] = {"strategy": "shadow", "steps": [{"shadow": {**SHADOW, "maxDuration": "1h"}}]}


async def shadowed(rollout: dict[str, Any] = ALONE, **spec: Any) -> Cluster:
    """Revision 2 beside stable with strategy: shadow, while requests are copied."""
    cluster = Cluster()
    await cluster.deploy(rollout=rollout, **spec)
    await cluster.apply(V2, rollout=rollout, **spec)
    await cluster.until(functools.partial(at_step, cluster, 1))
    await cluster.settle(5)
    return cluster


async def with_a_verdict() -> Cluster:
    cluster = await shadowed(replicas=3)
    await tell(cluster, agree=900)
    await cluster.settle(59, seconds=60)
    await cluster.until(functools.partial(at_step, cluster, 2), rounds=70)
    await cluster.settle(5)
    return cluster


@pytest.mark.extended
async def test_alone_it_takes_its_time_and_then_a_person_decides() -> None:
    cluster = await shadowed(replicas=3)
    begun = cluster.clock.now()
    assert service(cluster)["shadow"]["percent"] == 20
    await tell(cluster, agree=900)
    await cluster.settle(58, seconds=60)
    assert (await experiment(cluster))["step"]["index"] == 1
    assert "shadow" in service(cluster)
    await cluster.until(functools.partial(at_step, cluster, 2), rounds=130)
    assert (cluster.clock.now() - begun).total_seconds() >= 3580
    await cluster.settle(20)
    assert "shadow" not in service(cluster)
    assert await cluster.weights() == {1: 100, 2: 0}
    attempt = await experiment(cluster)
    assert attempt["verdict"]["decision"] == "Passed"
    assert "99" in attempt["verdict"]["reason"]
    (condition,) = (each for each in attempt["conditions"] if each["type"] == "Conclusive")
    assert (condition["status"], condition["reason"]) == ("True", "Passed")
    ready = next(each for each in (await cluster.status())["conditions"] if each["type"] == "Ready")
    assert ready["message"] == "revision 1 serves; revision 2 waits for promote"
    version = (await cluster.experiment("digits-r2"))["metadata"]["resourceVersion"]
    await cluster.settle(60, seconds=60)
    assert await cluster.weights() == {1: 100, 2: 0}
    assert (await cluster.experiment("digits-r2"))["metadata"]["resourceVersion"] == version


async def test_alone_promote_gives_it_all_traffic_once_it_has_the_replicas() -> None:
    cluster = await with_a_verdict()
    candidate = (await cluster.status())["candidate"]
    assert (candidate["revision"], candidate["replicas"]) == (2, 1)
    await cluster.command("promote revision=2 id=c1")
    await cluster.until_serves(2)
    status = await cluster.status()
    assert status["stable"]["replicas"] == 3
    assert status["lastRollout"]["outcome"] == "Promoted"
    assert (await experiment(cluster))["verdict"]["decision"] == "Passed"


@pytest.mark.extended
async def test_alone_abort_removes_it_and_an_edit_begins_anew() -> None:
    cluster = await with_a_verdict()
    await cluster.command("abort revision=2 id=c1")
    await cluster.settle(30)
    status = await cluster.status()
    assert "candidate" not in status
    assert status["lastRollout"]["outcome"] == "Aborted"
    await cluster.apply("file:///models/v3", rollout=ALONE, replicas=3)
    await cluster.settle(30)
    assert await cluster.weights() == {1: 100, 3: 0}


async def test_alone_a_candidate_that_answers_otherwise_is_rolled_back() -> None:
    cluster = await shadowed()
    await tell(cluster, agree=300, disagree=100)
    await cluster.settle(30)
    status = await cluster.status()
    assert status["lastRollout"]["outcome"] == "RolledBack"
    assert await cluster.condition("Stalled") == ("True", "RolledBack")
    attempt = await experiment(cluster)
    (condition,) = (each for each in attempt["conditions"] if each["type"] == "Conclusive")
    assert (condition["status"], condition["reason"]) == ("True", "RolledBack")


@pytest.mark.extended
async def test_alone_an_edit_of_the_strategy_does_not_let_it_go_on_by_itself() -> None:
    cluster = await with_a_verdict()
    await cluster.apply(V2, rollout={"steps": [{"weight": 50, "gate": "time", "minDuration": "1s"}]}, replicas=3)
    await cluster.settle(100)
    assert await cluster.weights() == {1: 100, 2: 0}


async def away(cluster: Cluster, minutes: int) -> None:
    """Let the canary's replicas restart repeatedly for a time."""
    for _ in range(minutes):
        cluster.serve.crash_replicas("digits-r2")
        await cluster.round(60)


async def test_a_candidate_without_traffic_that_is_away_for_a_while_goes_on() -> None:
    cluster = await shadowed({**ALONE, "progressDeadline": "5m"})
    await cluster.settle(20, seconds=60)
    for _ in range(2):
        await away(cluster, 4)
        assert await cluster.condition("RevisionReady") == ("False", "Deploying")
        await cluster.settle(5, seconds=60)
        assert await cluster.weights() == {1: 100, 2: 0}
    await away(cluster, 4)
    assert "candidate" in await cluster.status()
    await away(cluster, 4)
    assert "spec.rollout.progressDeadline: revision 2: 0 of 1" in (await cluster.status())["lastRollout"]["reason"]
