"""Whole rollouts that bake: stable keeps a small share after the last step or after a shadow, before the promotion."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest

from doubles.attempts import ended, experiment, paused
from doubles.cluster import NAME, Cluster
from doubles.crashes import die_at_every, live
from doubles.shadow_copies import service, tell
from doubles.traffic import Answers
from sundog_operator.api.installation import Installation, parse_installation

V2, V3 = "file:///models/v2", "file:///models/v3"
STABLE, CANARY = "digits-r1", "digits-r2"
FINE = Answers(errors=0.01)
BAKE = {"duration": "10m", "holdback": "5%"}
BY_HAND: dict[str, Any] = {"steps": [{"weight": 25, "gate": "manual"}], "bake": BAKE}
AGREEMENT = {"agreement": {"min": 0.99, "by": "tolerance", "rtol": 0.01}}
AFTER_COPIES: dict[str, Any] = {
    "strategy": "shadow",
    "steps": [{"shadow": {"compare": AGREEMENT, "minSamples": 400, "maxDuration": "5m"}}],
    "bake": BAKE,
}


@pytest.fixture(params=[BY_HAND, AFTER_COPIES], ids=["canary", "shadow"])
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The steps before a bake."""
    found: dict[str, Any] = request.param
    return found


async def bakes(cluster: Cluster) -> bool:
    step = (await experiment(cluster)).get("step", {})
    return step.get("gate") == "bake" and "since" in step


async def started(
    rollout: dict[str, Any],
    rps: float = 100,
    installation: Installation | None = None,
    numbers: Mapping[str, float] = MappingProxyType({}),
    **spec: Any,
) -> Cluster:
    """Start a canary beside stable, with the Prometheus results in `numbers`."""
    cluster = Cluster(installation=installation)
    cluster.prometheus.numbers.update(numbers)
    cluster.set_traffic(rps, FINE, FINE)
    await cluster.deploy(rollout=rollout, replicas=3, **spec)
    await cluster.settle(12, seconds=10)
    await cluster.apply(V2, rollout=rollout, replicas=3, **spec)
    return cluster


async def waits_for_promote(cluster: Cluster) -> bool:
    return (await experiment(cluster)).get("step", {}).get("reason") == "waits for promote"


async def copies(cluster: Cluster) -> bool:
    return "shadow" in service(cluster)


async def compared(cluster: Cluster) -> None:
    """Return whether the copies have passed."""
    assert await cluster.go_on(2, lambda: copies(cluster))
    await tell(cluster, agree=900)
    assert await cluster.go_on(7, lambda: waits_for_promote(cluster)), await experiment(cluster)


async def baking(rps: float = 100, rollout: dict[str, Any] = BY_HAND, **given: Any) -> Cluster:
    """Revision 2 has all traffic except the share that stable keeps; `given` as for `started`."""
    cluster = await started(rollout, rps, **given)
    copied = rollout.get("strategy") == "shadow"
    if copied:
        await compared(cluster)
    else:
        await cluster.go_on(3, lambda: cluster.at_weight(2, 25))
    if copied or rollout["steps"][0].get("gate") == "manual":
        await cluster.command("promote revision=2 id=gate")
    assert await cluster.go_on(60, lambda: bakes(cluster)), await experiment(cluster)
    assert await cluster.weights() == {1: 5, 2: 95}
    return cluster


def shares(cluster: Cluster) -> list[int]:
    """Return the canary's weights at the edges, in order."""
    seen = [weights.get(CANARY, 0) for weights in cluster.edges.weights_seen]
    return [weight for weight, before in zip(seen, [0, *seen], strict=False) if weight != before]


def minutes(cluster: Cluster, since: str) -> float:
    return (cluster.clock.now() - datetime.fromisoformat(since)) / timedelta(minutes=1)


async def test_stable_keeps_a_share_and_its_replicas_until_the_bake_is_over() -> None:
    cluster = await baking(rollout={"steps": [{"weight": 25}], "bake": BAKE, "guardrails": [{"metric": "errorRate"}]})
    await cluster.go_on(1)
    status, model = await experiment(cluster), await cluster.status()
    assert [(step["weight"], step["gate"]) for step in status["plan"]["steps"]] == [
        (25, "evidence"),
        (95, "bake"),
        (100, "none"),
    ]
    assert (model["stable"]["replicas"], model["candidate"]["replicas"]) == (3, 3)
    assert status["phase"] == "Running"
    assert status["step"]["reason"].startswith("bakes until ")
    condition = next(each for each in status["conditions"] if each["type"] == "Conclusive")
    assert (condition["status"], condition["message"]) == ("False", status["step"]["reason"])
    assert (await cluster.condition("Promoted"))[0] == "False"
    began = status["step"]["since"]
    assert await cluster.go_on(15, lambda: ended(cluster))
    assert 10 <= minutes(cluster, began) <= 10.5
    await cluster.go_on(1)
    assert shares(cluster) == [25, 95, 100]
    assert await cluster.weights() == {2: 100}
    status = await experiment(cluster)
    assert (status["verdict"]["decision"], status["verdict"]["winner"]) == ("Promoted", "canary")
    assert {each["verdict"] for each in status["metrics"] if each["role"] == "guardrail"} == {"Passed"}
    assert [point["weight"] for point in status["history"]][-1] == 100
    assert {0, 25, 95} <= {point["weight"] for point in status["history"]}


async def test_late_harm_is_rolled_back_at_once_to_an_unchanged_stable(
    way: dict[str, Any],
) -> None:
    cluster = await baking(rollout=way)
    cluster.edges.traffic.answers[CANARY] = Answers(errors=0.2)
    available = []
    cluster.after_step = lambda: available.append(cluster.serve.running(STABLE))
    assert await cluster.go_on(9, lambda: ended(cluster)), await experiment(cluster)
    status = await experiment(cluster)
    assert (status["phase"], status["verdict"]["decision"]) == ("Stopped", "RolledBack")
    assert "errorRate: " in status["verdict"]["reason"]
    await cluster.go_on(0.5)
    assert await cluster.weights() == {1: 100}
    assert min(available) == 3
    assert await cluster.condition("Stalled") == ("True", "RolledBack")


async def test_where_load_grows_in_a_bake_stable_grows_with_the_candidate(way: dict[str, Any]) -> None:
    """Stable's share is too small to show the load, and stable would be too small after an abort."""
    installation = parse_installation("runtimeImage: example.com/runtime:1", "test")
    cluster = await baking(0, way, installation=installation, autoscaling={"minReplicas": 2, "maxReplicas": 9})
    assert (await cluster.status())["stable"]["replicas"] == 2
    (serve,) = cluster.serve_apis.by_dashboard.values()
    serve.load(CANARY, 5)
    await cluster.go_on(1)
    status = await cluster.status()
    assert (status["stable"]["replicas"], status["stable"]["readyReplicas"]) == (5, 5)
    assert status["candidate"]["replicas"] == 5
    serve.load(CANARY, 3)
    await cluster.go_on(1)
    assert (await cluster.status())["stable"]["replicas"] == 5, "as long as the bake lasts"


async def test_an_abort_of_a_bake_finds_replicas_for_all_traffic(
    way: dict[str, Any],
) -> None:
    installation = parse_installation("runtimeImage: example.com/runtime:1", "test")
    cluster = await baking(0, way, installation=installation, autoscaling={"minReplicas": 1, "maxReplicas": 9})
    (serve,) = cluster.serve_apis.by_dashboard.values()
    serve.load(CANARY, 5)
    await cluster.go_on(1)
    serve.load(STABLE, 1)
    ran = []
    cluster.after_step = lambda: ran.append(serve.running(STABLE))
    await cluster.command("abort revision=2 id=a")
    assert await cluster.go_on(1, lambda: ended(cluster))
    await cluster.round()
    assert (await cluster.status())["retiring"] != []
    # All edges now send it all traffic, and Serve counts that.
    serve.load(STABLE, 5)
    await cluster.go_on(2)
    assert (await cluster.status())["retiring"] == []
    assert min(ran) == 5
    serve.load(STABLE, 2)
    await cluster.go_on(0.5)
    assert serve.running(STABLE) == 2


async def test_a_dead_candidate_is_found_within_the_minute(way: dict[str, Any]) -> None:
    cluster = await baking(rollout=way)
    cluster.edges.traffic.answers[CANARY] = Answers(errors=1.0)
    assert await cluster.go_on(1.5, lambda: ended(cluster))
    assert "the canary failed " in (await experiment(cluster))["verdict"]["reason"]


async def test_gates_by_hand_before_a_bake_detect_harm_and_decide_nothing() -> None:
    cluster = await baking()
    plan = (await experiment(cluster))["plan"]
    assert {each["role"] for each in plan["guardrails"]} == {"harm"}
    assert await cluster.go_on(12, lambda: ended(cluster))
    status = await experiment(cluster)
    assert (status["phase"], status["verdict"]["decision"]) == ("Concluded", "Undecided")


@pytest.mark.extended
@pytest.mark.parametrize(
    ("command", "weights", "phase"),
    [
        ("promote revision=2 id=a", {2: 100}, "Concluded"),
        ("promote revision=2 id=a full=true", {2: 100}, "Concluded"),
        ("abort revision=2 id=a", {1: 100}, "Stopped"),
        ("rollback revision=1 id=a", {1: 100}, "Stopped"),
    ],
)
async def test_a_command_ends_a_bake(way: dict[str, Any], command: str, weights: dict[int, int], phase: str) -> None:
    cluster = await baking(rollout=way)
    await cluster.command(command)
    assert await cluster.go_on(1, lambda: ended(cluster))
    await cluster.go_on(0.5)
    assert await cluster.weights() == weights
    assert (await experiment(cluster))["phase"] == phase


@pytest.mark.extended
async def test_a_pause_takes_no_time_of_a_bake_and_hides_no_harm(way: dict[str, Any]) -> None:
    cluster = await baking(rollout=way)
    began = (await experiment(cluster))["step"]["since"]
    await cluster.command("pause revision=2 id=p")
    await cluster.go_on(20)
    assert await cluster.weights() == {1: 5, 2: 95}
    await cluster.command("resume revision=2 id=r")
    assert await cluster.go_on(15, lambda: ended(cluster))
    assert 29.5 <= minutes(cluster, began) <= 31
    assert (await experiment(cluster))["phase"] == "Concluded"

    cluster = await baking(rollout=way)
    await cluster.command("pause revision=2 id=p")
    cluster.edges.traffic.answers[CANARY] = Answers(errors=0.3)
    assert await cluster.go_on(10, lambda: ended(cluster))
    assert (await experiment(cluster))["verdict"]["decision"] == "RolledBack"


@pytest.mark.extended
@pytest.mark.parametrize("held", [{"paused": True}, {}], ids=["spec", "window"])
async def test_what_holds_a_rollout_holds_a_bakes_promotion(way: dict[str, Any], held: dict[str, Any]) -> None:
    cluster = await baking(rollout=way)
    began = (await experiment(cluster))["step"]["since"]
    minute = cluster.clock.now().minute
    window = {"windows": [{"cron": f"{(minute + 30) % 60} * * * *", "duration": "2m"}]} if not held else {}
    await cluster.apply(V2, rollout={**way, **window}, replicas=3, **held)
    await cluster.go_on(20)
    assert await cluster.weights() == {1: 5, 2: 95}
    await cluster.apply(V2, rollout={**way, **window}, replicas=3)
    assert await cluster.go_on(15, lambda: ended(cluster))
    assert (await experiment(cluster))["phase"] == "Concluded"
    # Ten minutes and the content of the spec; for a window, its opening.
    assert 29 <= minutes(cluster, began) <= 31.5


@pytest.mark.extended
async def test_a_new_revision_replaces_a_bake_or_waits_for_its_end(
    way: dict[str, Any],
) -> None:
    cluster = await baking(rollout=way)
    await cluster.apply(V3, rollout=BY_HAND, replicas=3)
    await cluster.go_on(2, lambda: cluster.at_weight(3, 25))
    assert await cluster.weights() == {1: 75, 3: 25}
    assert (await experiment(cluster))["verdict"]["reason"].startswith("Superseded: ")

    cluster = await baking(rollout=way)
    await cluster.apply(V3, rollout={**BY_HAND, "onNewRevision": "queue"}, replicas=3)
    await cluster.go_on(5)
    assert await cluster.weights() == {1: 5, 2: 95}
    assert (await cluster.status())["queued"] == 3
    assert await cluster.go_on(15, lambda: cluster.at_weight(3, 25))
    assert await cluster.weights() == {2: 75, 3: 25}


@pytest.mark.extended
@pytest.mark.parametrize(
    ("policy", "phase", "reason"),
    [("hold", "Running", ""), ("pause", "Running", "NoData"), ("promote", "Concluded", "")],
)
async def test_without_requests_nothing_is_promoted_unless_a_policy_says_so(
    way: dict[str, Any], policy: str, phase: str, reason: str
) -> None:
    cluster = await baking(rps=0, rollout={**way, "onNoData": policy})
    await cluster.go_on(20, lambda: ended(cluster))
    status = await experiment(cluster)
    assert (status["phase"], status.get("paused", {}).get("reason", "")) == (phase, reason)


@pytest.mark.extended
async def test_a_bake_that_is_over_ends_with_the_first_requests_of_both(way: dict[str, Any]) -> None:
    cluster = await baking(0, way)
    await cluster.go_on(12)
    reason = (await experiment(cluster))["step"]["reason"]
    assert reason == "has baked; waits for requests to both revisions, because no data is not success"
    cluster.edges.traffic.rps = {NAME: 20}
    assert await cluster.go_on(2, lambda: ended(cluster))


@pytest.mark.extended
async def test_an_outage_of_both_takes_no_time_of_a_bake(way: dict[str, Any]) -> None:
    cluster = await baking(rollout=way)
    began = (await experiment(cluster))["step"]["since"]
    cluster.edges.traffic.answers = {STABLE: Answers(errors=0.9), CANARY: Answers(errors=0.9)}
    assert await cluster.go_on(3, lambda: paused(cluster))
    assert (await experiment(cluster))["paused"]["reason"] == "ControlDegraded"
    await cluster.go_on(12)
    assert (await experiment(cluster))["phase"] == "Running"
    cluster.edges.traffic.answers = {STABLE: FINE, CANARY: FINE}
    assert await cluster.go_on(30, lambda: ended(cluster))
    assert (await experiment(cluster))["phase"] == "Concluded"
    assert minutes(cluster, began) >= 25


@pytest.mark.extended
async def test_an_outage_before_the_replicas_of_a_bake_are_there_hides_no_harm_in_it() -> None:
    cluster = await started({"steps": [{"weight": 25}], "bake": BAKE})
    cluster.serve.later_s, cluster.serve.room[CANARY] = 0, 1
    await cluster.go_on(3, lambda: cluster.at_weight(2, 25))

    async def waits() -> bool:
        return (await experiment(cluster)).get("step", {}).get("index", 0) > 1

    assert await cluster.go_on(60, waits, seconds=10), await experiment(cluster)
    cluster.edges.traffic.answers = {STABLE: Answers(errors=0.9), CANARY: Answers(errors=0.9)}
    assert await cluster.go_on(3, lambda: paused(cluster))
    cluster.edges.traffic.answers = {STABLE: FINE, CANARY: FINE}
    await cluster.go_on(9)
    status = await experiment(cluster)
    assert ("paused" in status, status["arms"][1]["weight"]) == (False, 25)
    del cluster.serve.room[CANARY]
    assert await cluster.go_on(3, lambda: cluster.at_weight(2, 95))
    cluster.edges.traffic.answers[CANARY] = Answers(errors=0.1)
    assert await cluster.go_on(30, lambda: ended(cluster))
    status = await experiment(cluster)
    assert (status["phase"], status["verdict"]["decision"]) == ("Stopped", "RolledBack"), status["evidenceEpochs"]


@pytest.mark.extended
@pytest.mark.parametrize(("candidate", "phase"), [(FINE, "Concluded"), (Answers(errors=0.3), "Stopped")])
async def test_a_dying_operator_ends_a_bake_alike(way: dict[str, Any], candidate: Answers, phase: str) -> None:
    cluster = await baking(rollout=way)
    cluster.edges.traffic.answers[CANARY] = candidate
    deaths = die_at_every(2, cluster)
    await live(cluster, 200, 5, lambda: ended(cluster))
    cluster.kube.on_write = lambda *_: None
    await cluster.go_on(0.5)
    assert (await experiment(cluster))["phase"] == phase
    assert await cluster.weights() == ({2: 100} if phase == "Concluded" else {1: 100})
    assert next(deaths) > 10


@pytest.mark.extended
async def test_limits_of_prometheus_hold_in_a_bake(way: dict[str, Any]) -> None:
    check = {"name": "oom", "prometheus": {"query": "oom", "interval": "30s"}, "threshold": {"max": 0}}
    cluster = await baking(50, {**way, "guardrails": [check]}, numbers={"oom": 0})
    cluster.prometheus.numbers["oom"] = 1
    assert await cluster.go_on(5, lambda: ended(cluster))
    assert "check oom gives 1, more than 0: 3 times in a row" in (await experiment(cluster))["verdict"]["reason"]
    await cluster.go_on(0.5)
    assert await cluster.weights() == {1: 100}


@pytest.mark.extended
async def test_a_bake_that_changes_nothing_writes_once_a_minute(way: dict[str, Any]) -> None:
    cluster = await baking(rollout=way)
    await cluster.go_on(3)
    before = sum(write.changed for write in cluster.kube.writes)
    await cluster.go_on(5)
    assert sum(write.changed for write in cluster.kube.writes) - before <= 2 * 6


async def read_condition(cluster: Cluster, condition: str) -> tuple[str, str, str]:
    found = next(each for each in (await experiment(cluster))["conditions"] if each["type"] == condition)
    return found["status"], found["reason"], found["message"]


@pytest.mark.extended
async def test_after_a_shadow_it_bakes_once_somebody_says_so_and_then_everything_follows() -> None:
    spec = {"keepPrevious": {"for": "1h"}, "notify": [{"webhook": "http://hooks.example/a"}]}
    cluster = await started({**AFTER_COPIES, **spec})
    await compared(cluster)
    status = await experiment(cluster)
    assert [(step["weight"], step["gate"]) for step in status["plan"]["steps"]] == [
        (0, "shadow"),
        (0, "manual"),
        (95, "bake"),
        (100, "none"),
    ]
    passed = status["verdict"]
    assert passed["decision"] == "Passed"
    assert {each["name"] for each in status["metrics"]} == {"agreement", "shadowFailures"}
    await cluster.settle(60, seconds=60)
    assert await cluster.weights() == {1: 100, 2: 0}
    assert await read_condition(cluster, "Conclusive") == ("True", "Passed", passed["reason"])
    assert (await read_condition(cluster, "DataQuality"))[:2] == ("Unknown", "NotEvaluated")
    assert (await experiment(cluster))["metrics"] == status["metrics"]

    await cluster.command("promote revision=2 id=a")
    assert await cluster.go_on(3, lambda: bakes(cluster))
    await cluster.go_on(5)
    status, model = await experiment(cluster), await cluster.status()
    assert await cluster.weights() == {1: 5, 2: 95}
    assert (model["stable"]["replicas"], model["candidate"]["replicas"]) == (3, 3)
    assert "shadow" not in service(cluster)
    assert status["step"]["reason"].startswith("bakes until ")
    assert await read_condition(cluster, "Conclusive") == ("False", "Undecided", status["step"]["reason"])
    assert (await read_condition(cluster, "DataQuality"))[:2] == ("True", "Consistent")
    errors = next(each for each in status["metrics"] if each["name"] == "errorRate")
    assert (errors["role"], min(errors["events"]) > 0, "ratio" in errors) == ("harm", True, True)
    assert (status["verdict"], status["shadow"]["agreed"]) == (passed, 900)

    assert await cluster.go_on(15, lambda: ended(cluster))
    await cluster.go_on(1)
    status, model = await experiment(cluster), await cluster.status()
    assert shares(cluster) == [95, 100]
    assert await cluster.weights() == {2: 100}
    assert (status["phase"], status["verdict"]["decision"], status["verdict"]["winner"]) == ("Concluded", "Passed", "")
    assert {0, 95, 100} <= {point["weight"] for point in status["history"]}
    assert [each["revision"] for each in model["kept"]] == [1]
    assert [(each["event"], each["step"]) for each in status["notices"]] == [
        ("started", 0),
        ("paused", 2),
        ("promoted", 4),
    ]


@pytest.mark.extended
async def test_harm_in_a_bake_after_a_shadow_is_rolled_back_though_copies_passed() -> None:
    cluster = await baking(rollout={**AFTER_COPIES, "notify": [{"webhook": "http://hooks.example/a"}]})
    assert (await experiment(cluster))["verdict"]["decision"] == "Passed"
    cluster.edges.traffic.answers[CANARY] = Answers(errors=0.2)
    assert await cluster.go_on(9, lambda: ended(cluster))
    await cluster.go_on(0.5)
    status, model = await experiment(cluster), await cluster.status()
    assert (status["verdict"]["decision"], status["verdict"]["winner"]) == ("RolledBack", "stable")
    assert await read_condition(cluster, "Conclusive") == ("True", "RolledBack", status["verdict"]["reason"])
    assert [each["revision"] for each in model["heldBack"]] == [2]
    assert status["shadow"]["agreed"] == 900
    assert status["notices"][-1]["event"] == "rolledBack"
    await cluster.go_on(5)
    assert await cluster.weights() == {1: 100}, "it is not tried again by itself"


@pytest.mark.extended
async def test_promote_leads_past_undecided_copies_to_the_bake_by_two_steps() -> None:
    cluster = await started(AFTER_COPIES)
    assert await cluster.go_on(2, lambda: copies(cluster))
    await cluster.command("promote revision=2 id=a")
    assert await cluster.go_on(1, lambda: waits_for_promote(cluster))
    assert await cluster.weights() == {1: 100, 2: 0}
    await cluster.command("skip revision=2 id=b")
    await cluster.go_on(1)
    assert (await cluster.status())["lastCommand"]["result"] == "Rejected"
    assert await cluster.weights() == {1: 100, 2: 0}
    await cluster.command("promote revision=2 id=c")
    assert await cluster.go_on(3, lambda: bakes(cluster))
    assert await cluster.weights() == {1: 5, 2: 95}
    assert await cluster.go_on(15, lambda: ended(cluster))
    assert (await experiment(cluster))["verdict"]["decision"] == "Undecided"
