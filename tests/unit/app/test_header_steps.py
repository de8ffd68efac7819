"""Steps that send requests to a canary by header, in memory."""

import functools
from typing import Any

import pytest

from doubles.attempts import at_step, experiment, has_drained
from doubles.cluster import NAME, NAMESPACE, Cluster
from doubles.traffic import Place
from sundog_operator.ports import POD, Ref

V2 = "file:///models/v2"
BY_HEADER = {"headers": {"x-team": "ranking", "x-canary": 'a "b" | c %[src]'}}
FROZEN = [{"name": name, "value": value} for name, value in sorted(BY_HEADER["headers"].items())]
STEPS: list[dict[str, Any]] = [
    BY_HEADER,
    {"pause": {}},
    {"weight": 25, "gate": "manual"},
    {"pause": {}},
]


async def begun(steps: list[dict[str, Any]] = STEPS, **rollout: Any) -> Cluster:
    """A running rollout of revision 2."""
    cluster = Cluster()
    spec = {"steps": steps, **rollout}
    await cluster.deploy(rollout=spec)
    await cluster.apply(V2, rollout=spec)
    return cluster


def match(cluster: Cluster) -> dict[str, Any] | None:
    """Return the headers that edges match."""
    (document,) = cluster.edges.in_force()
    return next(each for each in document["services"] if each["name"] == NAME).get("match")


async def test_requests_by_header_go_to_a_candidate_without_weight_until_a_weight_begins() -> None:
    cluster = await begun()
    await cluster.until(functools.partial(at_step, cluster, 2))
    await cluster.settle(10)
    assert await cluster.weights() == {1: 100, 2: 0}
    assert match(cluster) == {"arm": "canary", **BY_HEADER}
    assert (await experiment(cluster))["step"]["reason"] == "waits for promote"
    plan = (await experiment(cluster))["plan"]["steps"]
    assert [step.get("headers") for step in plan] == [FROZEN, FROZEN, None, None, None]
    await cluster.command("retry revision=2 id=r")
    await cluster.settle(3)
    assert (await cluster.status())["lastCommand"]["message"].startswith("revision 2 has requests by their headers: ")
    await cluster.command("promote revision=2 id=a")
    await cluster.until_weight(2, 25)
    await cluster.settle(5)
    assert match(cluster) is None
    await cluster.command("promote revision=2 id=b full=true")
    await cluster.until_serves(2, rounds=100)


async def test_the_step_waits_for_every_edge() -> None:
    cluster = await begun()
    cluster.edges.lag_s = 20.0
    await cluster.until(functools.partial(at_step, cluster, 1), rounds=300)
    await cluster.settle(10)
    step = (await experiment(cluster))["step"]
    assert (step["index"], step["reason"]) == (1, "waits for the edges to confirm the split")
    await cluster.until(functools.partial(at_step, cluster, 2), rounds=60)


async def test_behind_a_weight_that_is_in_force_the_step_waits_for_every_edge_too() -> None:
    cluster = await begun([{"weight": 25, "gate": "manual"}, BY_HEADER, {"pause": {}}])
    await cluster.until_weight(2, 25)
    await cluster.settle(5)
    cluster.edges.stale.add("sundog-edge-0")
    await cluster.command("promote revision=2 id=a")
    await cluster.settle(20)
    step = (await experiment(cluster))["step"]
    assert (step["index"], step["reason"]) == (2, "waits for the edges to confirm the split")
    cluster.edges.stale.clear()
    await cluster.until(functools.partial(at_step, cluster, 3))
    assert await cluster.weights() == {1: 75, 2: 25}


async def test_a_step_by_header_waits_for_an_edge_that_knows_no_headers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = await begun()
    count = cluster.edges.count

    async def older(*args: Any, **kwargs: Any) -> Any:
        reports = await count(*args, **kwargs)
        for report in reports:
            for service in ((report.evidence or {}).get("services") or {}).values():
                service.pop("match", None)
        return reports

    monkeypatch.setattr(cluster.edges, "count", older)
    await cluster.until(functools.partial(at_step, cluster, 1))
    await cluster.settle(60)
    assert (await experiment(cluster))["step"]["index"] == 1
    assert await cluster.condition("TrafficSynced") == ("False", "EdgeNotConfirmed")
    condition = next(c for c in (await cluster.status())["conditions"] if c["type"] == "TrafficSynced")["message"]
    assert "sundog-edge-0 does not send requests with x-canary and x-team to canary" in condition
    monkeypatch.setattr(cluster.edges, "count", count)
    await cluster.until(functools.partial(at_step, cluster, 2))


async def test_an_abort_ends_it_and_the_candidate_drains() -> None:
    cluster = await begun()
    await cluster.until(functools.partial(at_step, cluster, 2))
    await cluster.command("abort revision=2 id=a")
    await cluster.until(functools.partial(has_drained, cluster), rounds=60)
    assert match(cluster) is None


async def test_a_candidate_stays_deployed_while_an_edge_still_sends_requests_by_header() -> None:
    cluster = await begun()
    await cluster.until(functools.partial(at_step, cluster, 2))
    cluster.edges.stale.add("sundog-edge-0")
    await cluster.command("abort revision=2 id=a")
    await cluster.settle(20)
    assert cluster.serve.running("digits-r2") == 1
    cluster.edges.stale.clear()
    await cluster.until(functools.partial(has_drained, cluster), rounds=60)


async def test_outside_of_windows_no_request_goes_there_by_header() -> None:
    never = [{"cron": "0 3 1 1 *", "duration": "1h", "tz": "UTC"}]
    cluster = await begun(windows=never)
    await cluster.settle(60)
    assert (await experiment(cluster)).get("phase") == "Pending"
    assert match(cluster) is None


async def test_a_candidate_that_requests_reach_by_header_alone_is_missed_when_it_is_gone() -> None:
    cluster = await begun()
    await cluster.until(functools.partial(at_step, cluster, 2))
    for _ in range(80):
        cluster.serve.crash_replicas("digits-r2")
        await cluster.settle(2)
        if (await cluster.status()).get("lastRollout"):
            break
    assert "CandidateUnavailable" in (await cluster.status())["lastRollout"]["reason"]


async def test_requests_by_header_are_counted_apart_and_are_no_evidence() -> None:
    steps = [{"weight": 25}, BY_HEADER, {"pause": {}}]
    cluster = await begun(steps, warmup={"requests": 0, "duration": "0s"})
    await cluster.until_weight(2, 25)
    await cluster.command("promote revision=2 id=a")
    await cluster.until(functools.partial(at_step, cluster, 3))
    pod = await cluster.read(Ref(POD, NAMESPACE, "sundog-edge-0"))
    uid = (await cluster.experiment("digits-r2"))["metadata"]["uid"]
    epoch = (await experiment(cluster))["epoch"]["number"]
    place = Place(NAME, uid, epoch, "canary", "override")
    for second in range(200):
        cluster.edges.counting(pod).answered(cluster.clock.now().timestamp() + second / 10, place, "server5xx", [900])
    await cluster.settle(100, seconds=10)
    status = await experiment(cluster)
    (canary,) = (arm for arm in status["arms"] if arm["name"] == "canary")
    assert (canary["requests"], canary["errors"]) == (0, 0)
    assert (canary["headerRequests"], canary["headerErrors"]) == (200, 200)
    assert "headerRequests" not in status["arms"][0]
    assert {tuple(metric["events"]) for metric in status["metrics"]} <= {(), (0, 0)}
    assert await cluster.weights() == {1: 75, 2: 25}, "no harm is seen in what was not assigned"


async def test_counts_without_evaluation_go_on_after_an_edge_lost_its_counters() -> None:
    cluster = await begun()
    await cluster.until(functools.partial(at_step, cluster, 2))
    await cluster.command("promote revision=2 id=a")
    await cluster.until_weight(2, 25)
    pod = await cluster.read(Ref(POD, NAMESPACE, "sundog-edge-0"))
    uid = (await cluster.experiment("digits-r2"))["metadata"]["uid"]
    edge, epoch = cluster.edges.counting(pod), (await experiment(cluster))["epoch"]["number"]
    for count in (50, 20):
        for origin, counted in (("assigned", count), ("override", 2 * count)):
            place = Place(NAME, uid, epoch, "canary", origin)
            edge.answered(cluster.clock.now().timestamp(), place, "ok", [900] * counted)
        await cluster.settle(20, seconds=10)
        edge.restart(cluster.clock.now().timestamp(), forgetting=True)
    status = await experiment(cluster)
    (canary,) = (arm for arm in status["arms"] if arm["name"] == "canary")
    assert not status["plan"].get("guardrails")
    assert (canary["requests"], canary["headerRequests"]) == (70, 140)
