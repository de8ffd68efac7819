"""Whole rollouts that the edges' counts decide: through planner, statuses, split document and traffic, in memory."""

import functools
import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from doubles.attempts import ended, experiment, paused
from doubles.cluster import NAME, NAMESPACE, Cluster, model_deployment
from doubles.crashes import die_at_every, live
from doubles.traffic import Answers, Users
from sundog_edge.split.assignment import unit_bucket
from sundog_operator.core.analysis import evaluate, unit_groups
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.ports import MODEL_DEPLOYMENT, POD, Object, Ref

FINE = Answers(errors=0.01)
STABLE, CANARY = "digits-r1", "digits-r2"
V2 = "file:///models/v2"
SHORT = {"steps": [{"weight": 25, "maxDuration": "6m"}]}


async def served(rps: float, rollout: Object, candidate: Answers = FINE, users: Users | None = None) -> Cluster:
    """Revision 1 has served for some minutes, and revision 2 was just applied."""
    cluster = Cluster()
    cluster.set_traffic(rps, FINE, candidate, users=users)
    await cluster.deploy(rollout=rollout)
    await cluster.settle(30, seconds=10)
    await cluster.apply(V2, rollout=rollout)
    await cluster.go_on(3, lambda: cluster.at_weight(2, first_weight(rps, rollout)))
    return cluster


def first_weight(rps: float, rollout: Object) -> int:
    steps = rollout.get("steps")
    return int(steps[0]["weight"]) if steps else 5 if rps >= 50 else 25


@pytest.mark.extended
async def test_promote_is_refused_while_the_split_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = ["600 of 1000 requests"]
    monkeypatch.setattr(evaluate, "mismatch_of_requests", lambda _: found[0])
    cluster = await served(20, SHORT)
    assert await cluster.go_on(3, functools.partial(paused, cluster))
    why = "requests do not follow the weights: 600 of 1000 requests. The rollout would be paused again at once"
    assert await cluster.answer("promote revision=2 id=a full=true") == ("Rejected", why)
    found[0] = ""
    assert (await cluster.answer("promote revision=2 id=b full=true"))[0] == "Accepted"
    assert await cluster.go_on(1, functools.partial(cluster.serves, 2))


async def decided(cluster: Cluster) -> bool:
    return await ended(cluster) or await paused(cluster)


def condition(status: dict[str, Any], type_: str) -> tuple[str, str]:
    return next((each["status"], each["reason"]) for each in status["conditions"] if each["type"] == type_)


def shares(cluster: Cluster) -> list[int]:
    """Return the canary's weights at the edges, in order."""
    seen = [weights.get(CANARY, 0) for weights in cluster.edges.weights_seen]
    return [weight for weight, before in zip(seen, [0, *seen], strict=False) if weight != before]


def writes(cluster: Cluster) -> Counter[str]:
    return Counter(write.ref.kind.kind for write in cluster.kube.writes if write.changed)


async def counted(cluster: Cluster, name: str = CANARY) -> Counter[tuple[int, str]]:
    """Return the stored requests of a rollout, by epoch and arm."""
    stored = await cluster.experiment(name)
    tallies, found = Counters.unpack(stored["status"]["tallies"], stored["metadata"]["uid"]), Counter[tuple[int, str]]()
    for rows in tallies.sources.values():
        for key, tally in rows.items():
            found[key] += tally.assigned
    return found


async def came(cluster: Cluster, name: str = CANARY) -> Counter[tuple[int, str]]:
    """Return the results of a rollout's requests, by epoch and arm."""
    uid = (await cluster.experiment(name))["metadata"]["uid"]
    assigned = cluster.edges.traffic.assigned
    return Counter({(at.epoch, at.arm): n for at, n in assigned.items() if at.attempt == uid and n})


@pytest.mark.parametrize(("rps", "weights"), [(100, [5, 25, 50, 100]), (5, [25, 50, 100])])
async def test_a_good_revision_is_promoted_through_the_steps_of_its_traffic(rps: float, weights: list[int]) -> None:
    cluster = await served(rps, {})
    began, before = cluster.clock.now(), writes(cluster)
    assert await cluster.go_on(120, lambda: ended(cluster), seconds=15 if rps >= 50 else 30)
    minutes = (cluster.clock.now() - began).total_seconds() / 60
    assert minutes >= 5 * (len(weights) - 1)
    status = await experiment(cluster)
    await cluster.go_on(1)
    assert await cluster.weights() == {2: 100}
    assert shares(cluster) == weights
    assert [step["weight"] for step in status["plan"]["steps"]] == weights
    rate, latency, *harm = status["plan"]["guardrails"]
    assert (rate["metric"], rate["margin"], rate["floor"]) == ("errorRate", 0.25, 0.005 if rps >= 50 else 0.01)
    assert (latency["metric"], latency["margin"]) == (("latencyP99", 0.1) if rps >= 50 else ("latencyP95", 0.25))
    stable, more = latency["thresholdMicroseconds"], round(latency["thresholdMicroseconds"] * latency["margin"])
    assert latency["candidateThresholdMicroseconds"] == stable + max(more, 1000)
    assert [(each["metric"], each["role"]) for each in harm] == [("rejections", "harm"), ("retries", "harm")]
    assert abs(status["plan"]["requestsPerSecond"] / rps - 1) < 0.2
    assert [epoch["weight"] for epoch in status["evidenceEpochs"]] == weights[:-1]
    assert (status["verdict"]["decision"], status["verdict"]["winner"]) == ("Promoted", "canary")
    assert {each["verdict"] for each in status["metrics"] if each["role"] == "guardrail"} == {"Passed"}
    assert condition(status, "DataQuality") == ("True", "Consistent")
    assert condition(status, "Conclusive") == ("True", "Promoted")
    history = status["history"]
    assert [point["weight"] for point in history if point["weight"]] == sorted(
        point["weight"] for point in history if point["weight"]
    )
    assert {point["weight"] for point in history} == {0, *weights}
    assert [history[-1]["requests"], history[-1]["errors"]] == [
        [arm[name] for arm in status["arms"]] for name in ("requests", "errors")
    ]
    metrics = {each["name"]: each for each in history[-1]["metrics"]}
    assert {metrics[each["name"]]["verdict"] for each in status["metrics"] if each["role"] == "guardrail"} == {"Passed"}
    before_events = [each.get("upper", math.inf) for point in history for each in point.get("metrics", ())]
    assert metrics["errorRate"]["upper"] < max(before_events)
    # About one write a minute for the status, and some for each step.
    after = writes(cluster)
    for kind in ("Experiment", "ModelDeployment"):
        assert after[kind] - before[kind] <= minutes + 12 * len(weights), kind
    assert after["Event"] - before["Event"] <= 2 * len(weights)
    moved, promoted = (await cluster.notes("TrafficShifted"))[-1], (await cluster.notes("Promoted"))[-1]
    assert f"revision 2 gets 50 % of the traffic from epoch {2 * len(weights) - 3}: errorRate " in moved
    assert promoted.startswith(
        f"revision 2 is stable; it replaces revision 1: after step {len(weights)} at 100 %; errorRate "
    )
    assert moved.endswith(f"; also passed: {latency['metric']}")
    assert promoted.endswith(f"; also passed: {latency['metric']}")
    assert await cluster.notes("GateOpened") == []


@pytest.mark.parametrize(
    ("candidate", "metric", "within_s"),
    [
        (Answers(errors=0.05), "errorRate is ", 600),
        (Answers(errors=0.14), "errorRate: ", 150),
        (replace(FINE, median_ms=40), "latencyP99 (answers above ", 600),
        (Answers(rejections=1.0), "rejections never happened in stable", 240),
        (Answers(errors=1.0, median_ms=1), "errorRate: ", 100),
        (Answers(hanging=1.0), "the canary failed ", 150),
        (Answers(hanging=0.3), "errorRate: ", 330),
        (Answers(errors=0.1, failing="truncated"), "errorRate: ", 600),
        (Answers(errors=0.1, failing="invalid"), "errorRate: ", 600),
        (Answers(errors=0.3, median_ms=1), "errorRate: ", 600),
    ],
)
async def test_a_bad_revision_is_rolled_back_by_name(candidate: Answers, metric: str, within_s: float) -> None:
    cluster = await served(100, {}, candidate)
    began = cluster.clock.now()
    assert await cluster.go_on(within_s / 60, lambda: ended(cluster)), await experiment(cluster)
    assert (cluster.clock.now() - began).total_seconds() <= within_s
    await cluster.go_on(1)
    assert await cluster.weights() == {1: 100}
    status, model = await experiment(cluster), await cluster.status()
    assert max(shares(cluster)) == 5
    assert (status["phase"], status["verdict"]["decision"]) == ("Stopped", "RolledBack")
    assert condition(status, "Conclusive") == ("True", "RolledBack")
    assert model["lastRollout"]["outcome"] == "RolledBack"
    assert metric in model["lastRollout"]["reason"]
    assert any(letter.isdigit() for letter in model["lastRollout"]["reason"].partition(metric)[2])
    assert await cluster.condition("Stalled") == ("True", "RolledBack")
    assert await cluster.condition("Ready") == ("True", "Serving")
    assert (await cluster.events()).count("RolloutRolledBack") == 1


SEVERAL = {"guardrails": [{"metric": "errorRate"}, {"metric": "latencyP50"}, {"metric": "latencyP99"}]}
"""A canary like stable passes both; each guardrail detects a canary that leaves the other unchanged."""


@pytest.mark.extended
async def test_a_good_revision_is_promoted_by_two_latencies_each_with_its_own_time() -> None:
    cluster = await served(100, SEVERAL)
    assert await cluster.go_on(120, lambda: ended(cluster), seconds=15), await experiment(cluster)
    status = await experiment(cluster)
    assert (status["verdict"]["decision"], status["verdict"]["winner"]) == ("Promoted", "canary")
    metrics = {each["name"]: each for each in status["metrics"] if each["role"] == "guardrail"}
    assert {name: each["verdict"] for name, each in metrics.items()} == dict.fromkeys(
        ("errorRate", "latencyP50", "latencyP99"), "Passed"
    )
    # Half of the responses are slower than one, and a hundredth slower than the other.
    assert metrics["latencyP50"]["events"][0] > 20 * metrics["latencyP99"]["events"][0] > 0
    half, slowest = (each for each in status["plan"]["guardrails"] if "latency" in each["metric"])
    assert half["thresholdMicroseconds"] * 2 < slowest["thresholdMicroseconds"]


@pytest.mark.extended
@pytest.mark.parametrize(
    ("candidate", "harmed"),
    [
        (replace(FINE, median_ms=30, spread=0.2), "latencyP50"),
        (replace(FINE, lingering=0.05), "latencyP99"),
    ],
)
@pytest.mark.parametrize("users", [None, Users(2000)])
async def test_a_revision_that_is_slow_by_one_of_two_latencies_is_rolled_back_by_that_one(
    candidate: Answers, harmed: str, users: Users | None
) -> None:
    rollout = SEVERAL if users is None else {**BY_USER, **SEVERAL}
    cluster = await served(100, rollout, candidate, users=users)
    assert await cluster.go_on(30, lambda: ended(cluster)), await experiment(cluster)
    status = await experiment(cluster)
    assert status["verdict"]["decision"] == "RolledBack"
    await cluster.go_on(1)
    assert (await cluster.status())["lastRollout"]["reason"].startswith(f"{harmed} (answers above ")
    verdicts = {each["name"]: each["verdict"] for each in status["metrics"] if "latency" in each["name"]}
    assert [name for name, verdict in verdicts.items() if verdict == "Harm"] == [harmed]


@pytest.mark.extended
async def test_a_rollout_of_two_latencies_waits_for_an_edge_that_counts_by_one() -> None:
    """An edge that is older than the operator: it ignores unknown fields of the document."""
    third = "digits-r3"
    cluster = await served(100, SHORT)
    cluster.edges.of_one_latency.add("sundog-edge-0")
    await cluster.apply("file:///models/v3", rollout=SEVERAL)
    await cluster.go_on(10, seconds=15)
    status = await experiment(cluster, third)
    assert (status["phase"], status["epoch"]["confirmed"]) == ("Running", False)
    assert await cluster.weights() == {1: 95, 3: 5}
    held = await cluster.message("TrafficSynced")
    assert "sundog-edge-0 has arms" in held
    cluster.edges.of_one_latency.clear()

    async def promoted() -> bool:
        return bool((await experiment(cluster, third))["verdict"]["decision"] == "Promoted")

    assert await cluster.go_on(120, promoted, seconds=15), await experiment(cluster, third)


async def test_a_step_with_too_little_time_for_its_traffic_is_reported_at_its_freeze() -> None:
    cluster = await served(1, SHORT)
    await cluster.go_on(2)
    status = await experiment(cluster)
    (message,) = [each["message"] for each in status["conditions"] if each["type"] == "Conclusive"]
    assert "; step 1 at 25 % is unlikely to be decided within its 6m: at " in message


async def test_without_any_traffic_nothing_is_promoted() -> None:
    cluster = await served(0, {})
    await cluster.go_on(23 * 60, seconds=1800)
    assert not await decided(cluster)
    assert await cluster.go_on(2 * 60, lambda: paused(cluster), seconds=900)
    assert (await experiment(cluster))["paused"]["reason"] == "NoData"
    await cluster.go_on(24 * 60, seconds=1800)
    assert await cluster.weights() == {1: 75, 2: 25}
    assert shares(cluster) == [25]


async def test_little_traffic_is_not_called_none() -> None:
    """Too few responses for a quantile: nothing is evaluated yet, but `onNoData` does not apply."""
    cluster = await served(0.05, {**SHORT, "onNoData": "promote"})
    assert await cluster.go_on(8, lambda: decided(cluster))
    status = await experiment(cluster)
    assert (status["phase"], status["paused"]["reason"]) == ("Running", "Inconclusive")
    assert min((await came(cluster)).values()) > 0


@pytest.mark.extended
async def test_the_rate_of_a_service_is_known_although_a_rollout_took_some_of_the_hour() -> None:
    cluster = await served(60, {"steps": [{"weight": 5, "gate": "manual"}]})
    await cluster.settle(15, seconds=60)
    await cluster.apply("file:///models/v3", rollout={})
    await cluster.go_on(1)
    plan = (await experiment(cluster, "digits-r3"))["plan"]
    assert plan["steps"][0]["weight"] == 5
    assert abs(plan["requestsPerSecond"] / 60 - 1) < 0.1


@pytest.mark.extended
async def test_traffic_that_ends_promotes_nothing() -> None:
    cluster = await served(100, {"steps": [{"weight": 25, "maxDuration": "20m"}]})
    await cluster.go_on(3)
    cluster.edges.traffic.rps[NAME] = 0
    assert await cluster.go_on(30, lambda: decided(cluster), seconds=30)
    status = await experiment(cluster)
    assert status["paused"]["reason"] in ("NoData", "Inconclusive")
    assert await cluster.weights() == {1: 75, 2: 25}


@pytest.mark.extended
async def test_an_outage_of_both_arms_is_not_held_against_the_candidate() -> None:
    cluster = await served(100, {})
    await cluster.go_on(3)
    cluster.edges.traffic.answers = {STABLE: Answers(errors=0.5), CANARY: Answers(errors=0.5)}
    await cluster.go_on(5)
    status = await experiment(cluster)
    assert (status["phase"], status["paused"]["reason"]) == ("Running", "ControlDegraded")
    assert "before the rollout" in status["paused"]["message"]
    assert await cluster.weights() == {1: 95, 2: 5}
    cluster.edges.traffic.answers = {STABLE: FINE, CANARY: FINE}
    await cluster.go_on(9)
    status = await experiment(cluster)
    assert (status["phase"], "paused" in status) == ("Running", False)
    assert [each.get("troubled", False) for each in status["evidenceEpochs"]][:2] == [True, False]
    assert len(await cluster.notes("RolloutPaused")) == 1
    (note,) = await cluster.notes("RolloutResumed")
    assert note.startswith("rollout digits-r2 resumed: it was paused (ControlDegraded) since ")
    assert "lastRollout" not in await cluster.status()
    assert await cluster.go_on(120, lambda: ended(cluster), seconds=15)
    assert (await experiment(cluster))["verdict"]["decision"] == "Promoted"


async def test_both_arms_above_the_ceiling_pause_a_rollout_from_its_first_minute_on() -> None:
    """Stable has no data from before: it was applied less than a minute ago."""
    cluster = await served(100, {**SHORT, "guardrails": [{"metric": "errorRate", "max": "2%"}]}, Answers(errors=0.3))
    cluster.edges.traffic.answers = {STABLE: Answers(errors=0.3), CANARY: Answers(errors=0.3)}
    await cluster.go_on(3)
    status = await experiment(cluster)
    assert status["paused"]["reason"] == "ControlUnhealthy"
    assert "RolloutPaused" in await cluster.events()


@pytest.mark.extended
@pytest.mark.parametrize("lives", [2, 3])
async def test_an_operator_that_dies_again_and_again_decides_the_same(lives: int) -> None:
    cluster = await served(100, SHORT, Answers(errors=0.05))
    deaths = die_at_every(lives, cluster)
    await live(cluster, 120, 5, lambda: ended(cluster))
    status = await experiment(cluster)
    assert status["verdict"]["decision"] == "RolledBack"
    assert next(deaths) > 10
    assert status["verdict"]["reason"].startswith("RolledBack: errorRate")
    stored, sent = await counted(cluster), await came(cluster)
    assert max(stored) == max(sent)
    assert all(stored[key] <= sent[key] for key in sent)
    assert stored[1, "stable"] == sent[1, "stable"]


@pytest.mark.extended
async def test_counts_outlive_the_edges_that_counted_them() -> None:
    cluster = await served(100, SHORT)
    await cluster.add_edge("sundog-edge-1")
    await cluster.go_on(2)
    await cluster.replace_edge("sundog-edge-0", "sundog-edge-2")
    await cluster.go_on(1)
    for pod in await cluster.kube.list(POD, NAMESPACE):
        cluster.edges.counting(pod).restart(cluster.clock.now().timestamp())
    await cluster.go_on(1)
    cluster.edges.traffic.rps[NAME] = 0
    await cluster.go_on(1.5)
    assert await counted(cluster) == await came(cluster)
    arms = {arm["name"]: arm["requests"] for arm in (await experiment(cluster))["arms"]}
    assert arms == {name: sum(n for (_, arm), n in (await came(cluster)).items() if arm == name) for name in arms}
    assert (await came(cluster)).total() > 10_000
    assert not await decided(cluster)


async def test_an_edge_that_is_killed_takes_a_minute_of_counts_with_it_at_most() -> None:
    cluster = await served(100, SHORT)
    await cluster.add_edge("sundog-edge-1")
    await cluster.go_on(2)
    await cluster.kube.delete(Ref(POD, NAMESPACE, "sundog-edge-1"))
    cluster.edges.traffic.rps[NAME] = 0
    await cluster.go_on(1.5)
    stored, sent = await counted(cluster), await came(cluster)
    assert sent.total() - 3500 < stored.total() <= sent.total()
    assert not await decided(cluster)


@pytest.mark.extended
async def test_an_edge_that_reports_nothing_is_named_and_nothing_is_concluded_without_it() -> None:
    cluster = await served(100, {"steps": [{"weight": 25}]})
    await cluster.add_edge("sundog-edge-1")
    await cluster.go_on(1.5)
    cluster.edges.silent.add("sundog-edge-1")
    await cluster.go_on(8)
    status = await experiment(cluster)
    assert condition(status, "DataQuality") == ("Unknown", "EdgeSilent")
    assert not await decided(cluster)
    cluster.edges.silent.clear()
    assert await cluster.go_on(30, lambda: ended(cluster))
    status = await experiment(cluster)
    assert (status["phase"], condition(status, "DataQuality")) == ("Concluded", ("True", "Consistent"))


@pytest.mark.extended
async def test_counts_of_a_candidate_that_restarts_all_the_time_are_reported() -> None:
    cluster = await served(20, {})
    assert await cluster.go_on(3, lambda: warm(cluster))
    for _ in range(20):
        cluster.serve.crash_replicas(CANARY)
        await cluster.go_on(0.5)
    status = await experiment(cluster)
    metric = next(each for each in status["metrics"] if each["name"] == "errorRate")
    assert sum(metric["events"]) > 20, metric["message"]
    assert "so far" not in metric["message"]


@pytest.mark.extended
async def test_a_clock_that_is_set_back_keeps_nothing_from_being_reported() -> None:
    cluster = await served(20, {"steps": [{"weight": 25, "minDuration": "1h"}]})
    assert await cluster.go_on(3, lambda: warm(cluster))
    await cluster.settle(36, seconds=10)
    cluster.clock.set_back(240)
    counted_at = set()
    for _ in range(18):
        await cluster.round(10)
        counted_at.add((await experiment(cluster))["countedAt"])
    assert len(counted_at) >= 3, "each minute of three"


@pytest.mark.parametrize(("errors", "phase"), [(0.3, "Stopped"), (0.01, "Concluded")])
async def test_a_clock_that_steps_forth_changes_no_verdict(errors: float, phase: str) -> None:
    cluster = await served(20, {}, Answers(errors=errors))
    await cluster.settle(6, seconds=10)
    cluster.clock.set_back(-3600)
    await cluster.settle(6, seconds=10)
    before = (await experiment(cluster))["step"]
    assert (before["index"], await ended(cluster)) == (1, False), "the hour is no evidence"
    assert await cluster.go_on(120, lambda: ended(cluster))
    assert (await experiment(cluster))["phase"] == phase


async def test_a_clock_that_steps_past_a_limit_pauses_without_a_verdict() -> None:
    cluster = await served(20, {"steps": [{"weight": 25, "maxDuration": "30m"}]}, Answers(errors=0.01))
    await cluster.settle(6, seconds=10)
    cluster.clock.set_back(-3600)
    assert await cluster.go_on(3, lambda: decided(cluster))
    status = await experiment(cluster)
    assert (status["phase"], status["paused"]["reason"], status["verdict"]["decision"]) == (
        "Running",
        "NoData",
        "Undecided",
    )


async def warm(cluster: Cluster) -> bool:
    return bool((await experiment(cluster))["step"].get("warm"))


@pytest.mark.extended
@pytest.mark.parametrize(
    ("policies", "rps", "phase", "reason"),
    [
        ({"onInconclusive": "pause"}, 1, "Running", "Inconclusive"),
        ({"onInconclusive": "rollback"}, 1, "Stopped", "Inconclusive: "),
        ({"onInconclusive": "promote"}, 1, "Concluded", "Promoted: "),
        ({"onNoData": "hold"}, 0, "Running", "NoData"),
        ({"onNoData": "pause"}, 0, "Running", "NoData"),
        ({"onNoData": "promote"}, 0, "Concluded", "Promoted: "),
    ],
)
async def test_what_follows_on_an_undecided_step(policies: Object, rps: float, phase: str, reason: str) -> None:
    # Rejections need no quantile of stable, which a few requests cannot give.
    rollout = {**SHORT, **policies, "guardrails": [{"metric": "errorRate", "floor": "0.1%"}], "warmup": {"requests": 0}}
    cluster = await served(rps, rollout)
    began = cluster.clock.now()
    assert await cluster.go_on(8, lambda: decided(cluster))
    minutes = (cluster.clock.now() - began).total_seconds() / 60
    at_once = policies.get("onNoData") in ("pause", "promote")
    assert (5 if at_once else 6) - 0.5 <= minutes <= (5 if at_once else 6) + 0.5
    status = await experiment(cluster)
    assert status["phase"] == phase
    assert status["verdict"]["decision"] == "Undecided"
    assert (status.get("paused") or status["verdict"])["reason"].startswith(reason)


async def test_without_warmup_the_first_epoch_of_a_step_is_evidence() -> None:
    cluster = await served(100, {**SHORT, "warmup": {"requests": 0}, "guardrails": [{"metric": "errorRate"}]})
    await cluster.go_on(0.5)
    assert [each["number"] for each in (await experiment(cluster))["evidenceEpochs"]] == [1]


@pytest.mark.extended
async def test_another_revision_replaces_a_candidate_that_is_being_weighed() -> None:
    cluster = await served(100, SHORT)
    await cluster.go_on(2)
    await cluster.apply("file:///models/v3", rollout=SHORT)
    await cluster.go_on(3)
    first, second = await experiment(cluster), await experiment(cluster, "digits-r3")
    assert (first["phase"], first["verdict"]["decision"]) == ("Stopped", "Undecided")
    assert await cluster.weights() == {1: 75, 3: 25}
    assert second["plan"]["guardrails"][1]["thresholdMicroseconds"] > 0
    assert (await counted(cluster, "digits-r3"))[1, "canary"] == (await came(cluster, "digits-r3"))[1, "canary"]


@pytest.mark.extended
async def test_a_pause_by_hand_holds_what_has_passed_but_no_harm() -> None:
    cluster = await served(100, {"steps": [{"weight": 50}]}, Answers(errors=0.001))
    await cluster.command("pause revision=2 id=p")
    await cluster.go_on(8)
    assert await cluster.weights() == {1: 50, 2: 50}
    await cluster.command("resume revision=2 id=r")
    assert await cluster.go_on(8, lambda: ended(cluster))
    assert (await experiment(cluster))["verdict"]["decision"] == "Promoted"

    cluster = await served(100, {"steps": [{"weight": 50}]}, Answers(errors=0.1))
    await cluster.command("pause revision=2 id=p")
    assert await cluster.go_on(8, lambda: ended(cluster))
    assert (await experiment(cluster))["verdict"]["decision"] == "RolledBack"


@pytest.mark.extended
@pytest.mark.parametrize(
    ("command", "weights", "phase"),
    [("promote revision=2 id=a full=true", {2: 100}, "Concluded"), ("abort revision=2 id=a", {1: 100}, "Stopped")],
)
async def test_a_command_ends_what_evidence_has_not_decided(command: str, weights: dict[int, int], phase: str) -> None:
    cluster = await served(100, {})
    await cluster.go_on(2)
    await cluster.command(command)
    assert await cluster.go_on(1, lambda: ended(cluster))
    await cluster.go_on(0.5)
    status = await experiment(cluster)
    assert await cluster.weights() == weights
    assert (status["phase"], status["verdict"]["decision"]) == (phase, "Undecided")
    assert condition(status, "Conclusive")[0] == "False"


@pytest.mark.extended
async def test_two_services_keep_their_counts_apart() -> None:
    cluster = await served(100, SHORT)
    cluster.edges.traffic.rps["words"] = 60
    await cluster.apply("file:///models/w1", name="words", rollout=SHORT)
    await cluster.go_on(1)
    await cluster.apply("file:///models/w2", name="words", rollout=SHORT)
    await cluster.go_on(2.5)
    cluster.edges.traffic.rps = {}
    await cluster.go_on(1.5)
    for name in (CANARY, "words-r2"):
        assert await counted(cluster, name) == await came(cluster, name)
        assert (await came(cluster, name))[2, "canary"] > 500


BY_USER = {"steps": [{"weight": 25}, {"weight": 50}], "unit": {"header": "x-user-id"}}


async def asked_by(users: Users, candidate: Answers, rps: float = 60, rollout: Object = BY_USER) -> Cluster:
    """Like `served`, with returning users."""
    cluster = await served(rps, rollout, candidate, users=users)
    assert (await experiment(cluster))["plan"]["unit"] == {"kind": "header", "name": "x-user-id"}
    return cluster


@pytest.mark.extended
async def test_a_good_revision_is_promoted_to_users_who_come_back() -> None:
    rollout = {**BY_USER, "guardrails": [{"metric": "errorRate"}]}
    cluster = await asked_by(Users(1000, anonymous=0.2), Answers(errors=0.002), rollout=rollout)
    assert await cluster.go_on(60, lambda: ended(cluster), seconds=30)
    status = await experiment(cluster)
    await cluster.go_on(1)
    assert (status["verdict"]["decision"], status["verdict"]["winner"]) == ("Promoted", "canary")
    assert condition(status, "DataQuality") == ("True", "Consistent")
    assert shares(cluster) == [25, 50, 100]


async def test_a_revision_that_fails_more_users_is_rolled_back() -> None:
    cluster = await asked_by(Users(300, zipf=0.7), Answers(errors=0.06))
    assert await cluster.go_on(30, lambda: ended(cluster), seconds=10)
    status = await experiment(cluster)
    assert status["verdict"]["decision"] == "RolledBack"
    assert status["verdict"]["reason"].startswith("RolledBack: errorRate is ")
    await cluster.go_on(1)
    assert await cluster.weights() == {1: 100}


@pytest.mark.extended
@pytest.mark.parametrize("salt", ["a", "b", "c"])
async def test_users_who_ask_or_fail_more_than_others_are_not_held_against_the_candidate(salt: str) -> None:
    """Five of a hundred users have nearly all errors, and the first user a fifth of all requests."""
    users = Users(100, zipf=1.0, failing=dict.fromkeys((0, 3, 9, 30, 80), 0.3))
    cluster = await asked_by(users, FINE, rollout={**BY_USER, "unit": {"header": "x-user-id", "salt": salt}})
    await cluster.go_on(15, lambda: ended(cluster), seconds=30)
    status = await experiment(cluster)
    assert status["phase"] == "Running", status["verdict"]
    assert condition(status, "DataQuality") == ("True", "Consistent")


@pytest.mark.extended
async def test_one_user_whose_every_request_fails_makes_no_dead_candidate() -> None:
    """That user makes most of the canary's requests once assigned to the canary."""
    users = Users(60, zipf=2.0, failing={0: 1.0})
    salt = next(salt for salt in map(str, itertools.count()) if unit_bucket(salt, users.name(0)) < 2500)
    cluster = await asked_by(users, FINE, rollout={**BY_USER, "unit": {"header": "x-user-id", "salt": salt}})
    await cluster.go_on(4)
    status = await experiment(cluster)
    assert status["phase"] == "Running", status["verdict"]
    assert next(each for each in status["metrics"] if each["name"] == "errorRate")["ratio"] > 5


@pytest.mark.extended
async def test_groups_of_users_outlive_edges_workers_and_the_operator() -> None:
    cluster = await asked_by(Users(100, anonymous=0.2), FINE, rollout={**BY_USER, "steps": [{"weight": 25}]})
    await cluster.add_edge("sundog-edge-1")
    await cluster.go_on(1.5)
    await cluster.replace_edge("sundog-edge-0", "sundog-edge-2")
    for pod in await cluster.kube.list(POD, NAMESPACE):
        cluster.edges.counting(pod).restart(cluster.clock.now().timestamp())
    await cluster.go_on(1)
    cluster.edges.traffic.rps[NAME] = 0
    await cluster.go_on(1.5)
    stored = await cluster.experiment(CANARY)
    tallies = Counters.unpack(stored["status"]["tallies"], stored["metadata"]["uid"])
    (epoch,) = [each["number"] for each in stored["status"]["evidenceEpochs"]]
    for arm in ("stable", "canary"):
        requests = unit_groups.sum_groups(tallies.groups, epoch, arm)[0]
        assert sum(requests) == (await came(cluster))[epoch, arm] > 1000
        assert 0.15 < requests[unit_groups.WITHOUT_UNIT] / sum(requests) < 0.25
    assert len(tallies.groups) == 5


@pytest.mark.extended
async def test_what_an_earlier_service_of_the_name_was_like_says_nothing_of_this_one() -> None:
    """The edges stay, because they serve other services."""
    cluster = Cluster()
    cluster.set_traffic(100, replace(FINE, median_ms=2000))
    await cluster.kube.apply(model_deployment(name="words"))
    await cluster.deploy(rollout=SHORT)
    await cluster.settle(90, seconds=10)
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME))
    await cluster.settle(5)

    cluster.edges.traffic.rps = {NAME: 20}
    cluster.edges.traffic.answers = {STABLE: FINE, CANARY: FINE}
    await cluster.apply("file:///models/another", rollout=SHORT)
    await cluster.until_serves(1)
    await cluster.settle(30, seconds=10)
    await cluster.apply(V2, rollout=SHORT)
    await cluster.go_on(3, lambda: cluster.at_weight(2, 25))
    plan = (await experiment(cluster))["plan"]
    assert abs(plan["requestsPerSecond"] / 20 - 1) < 0.2
    assert all("thresholdMicroseconds" not in each for each in plan["guardrails"]), "ten minutes are not over"
    await cluster.go_on(5)
    (latency,) = (each for each in (await experiment(cluster))["plan"]["guardrails"] if "latency" in each["metric"])
    assert latency["thresholdMicroseconds"] < 200_000
