"""Rollouts with Prometheus checks, in memory."""

import dataclasses
import functools
from typing import Any

import pytest

from doubles.attempts import at_step, ended, experiment
from doubles.cluster import NAME, NAMESPACE, Cluster
from sundog_operator.app.background.requests import BackgroundRequests
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.reconcile_model_deployment import reconcile_model_deployment
from sundog_operator.core.observed import PrometheusResult
from sundog_operator.ports import MODEL_DEPLOYMENT, Ref

V2 = "file:///models/v2"
OOM = 'increase(oom_total{namespace="vision", revision="2"}[5m])'
GUARDRAIL: dict[str, Any] = {
    "name": "oom",
    "prometheus": {"query": 'increase(oom_total{namespace="{{namespace}}", revision="{{revision}}"}[5m])'},
    "threshold": {"max": 0},
}
SMOKE: dict[str, Any] = {
    "name": "smoke",
    "prometheus": {"query": "smoke", "interval": "30s"},
    "threshold": {"min": 0.9},
    "count": 2,
}
STEPS: list[dict[str, Any]] = [
    {"weight": 25, "gate": "time", "minDuration": "10s"},
    {"analysis": SMOKE},
    {"weight": 50, "gate": "manual"},
]


async def rolling(step: int, **rollout: Any) -> Cluster:
    """A rollout of revision 2 at a step."""
    cluster = Cluster()
    cluster.prometheus.numbers[OOM] = 0
    rollout = {"steps": STEPS, **rollout}
    await cluster.deploy(rollout=rollout)
    await cluster.settle(5)
    await cluster.apply(V2, rollout=rollout)
    await cluster.until(functools.partial(at_step, cluster, step))
    return cluster


async def test_an_analysis_lets_the_rollout_go_on_once_its_number_was_good_often_enough() -> None:
    cluster = await rolling(2)
    cluster.prometheus.numbers["smoke"] = 0.95
    await cluster.settle(10)
    step = (await experiment(cluster))["step"]
    assert step["reason"] == "check smoke gives 0.95, at least 0.9; 1 of 2 checks passed"
    assert (step["analysis"]["passed"], step["analysis"]["verdict"]) == (1, "Passed")
    await cluster.until_weight(2, 50, rounds=40)
    assert cluster.prometheus.asked.count("smoke") == 2


async def test_a_number_outside_of_its_limits_takes_the_traffic_back() -> None:
    cluster = await rolling(2, guardrails=[GUARDRAIL], steps=[STEPS[0], STEPS[2]])
    cluster.prometheus.numbers[OOM] = 2
    await cluster.until(functools.partial(ended, cluster), rounds=300)
    await cluster.settle(3)
    last = (await cluster.status())["lastRollout"]
    assert (last["outcome"], last["reason"]) == ("RolledBack", "check oom gives 2, more than 0: 3 times in a row")
    assert (await cluster.weights())[1] == 100
    assert "RolloutRolledBack" in await cluster.events()


async def test_an_operator_that_begins_anew_counts_on() -> None:
    cluster = await rolling(2, guardrails=[GUARDRAIL])
    cluster.prometheus.numbers[OOM] = 2
    await cluster.settle(70)
    failed = (await experiment(cluster))["checks"][0]["failed"]
    assert failed == 1
    for _ in range(3):
        cluster.world = dataclasses.replace(cluster.world, prometheus_requests=BackgroundRequests[PrometheusResult]())
        await cluster.settle(4)
    assert (await experiment(cluster))["checks"][0]["failed"] == failed, "what is asked too early does not count"
    await cluster.until(functools.partial(ended, cluster), rounds=200)


@pytest.mark.extended
async def test_without_a_prometheus_a_rollout_waits_and_is_paused() -> None:
    cluster = await rolling(1, guardrails=[GUARDRAIL])
    cluster.world = dataclasses.replace(cluster.world, prometheus=None)
    await cluster.until(functools.partial(paused, cluster), rounds=500)
    await cluster.settle(3)
    assert await cluster.message("Progressing") == (
        "revision 2, step 1 of 4: paused because check oom has no Prometheus to ask; an administrator names one in"
        " installation.prometheus.url: 5 times in a row"
    )
    assert await cluster.weights() == {1: 75, 2: 25}


async def paused(cluster: Cluster) -> bool:
    return (await experiment(cluster)).get("paused", {}).get("reason") == "Inconclusive"


async def test_one_that_hangs_holds_up_neither_commands_nor_passes() -> None:
    cluster = await rolling(2, guardrails=[GUARDRAIL])
    cluster.prometheus.hangs = True
    await cluster.settle(5)
    await cluster.command("promote revision=2 id=a")
    await cluster.until_weight(2, 50, rounds=10)


@pytest.mark.extended
async def test_waiting_writes_nothing_but_a_number_a_minute() -> None:
    cluster = await rolling(
        2, guardrails=[GUARDRAIL], steps=[STEPS[0], {"pause": {}}, {"weight": 50, "gate": "manual"}]
    )
    await cluster.command("promote revision=2 id=a")
    await cluster.until_weight(2, 50)
    await cluster.settle(70)
    before = [write for write in cluster.kube.writes if write.changed]
    await cluster.settle(180)
    after = [write for write in cluster.kube.writes if write.changed]
    assert len(after) - len(before) <= 4


async def test_nothing_is_asked_of_a_rollout_that_is_over_or_gone() -> None:
    cluster = await rolling(2, guardrails=[GUARDRAIL])
    cluster.prometheus.hangs = True
    await cluster.settle(70)
    assert cluster.world.prometheus_requests.pending != []
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME))
    assert await reconcile_model_deployment(cluster.world, Key("modeldeployment", NAMESPACE, NAME)) is None
    await cluster.webhooks.turn()
    assert cluster.world.prometheus_requests.pending == []


@pytest.mark.extended
async def test_the_plan_keeps_its_checks_whatever_the_spec_becomes() -> None:
    cluster = await rolling(2, guardrails=[GUARDRAIL])
    await cluster.apply(V2, rollout={"steps": STEPS})
    cluster.prometheus.numbers[OOM] = 1
    await cluster.until(functools.partial(ended, cluster), rounds=300)
