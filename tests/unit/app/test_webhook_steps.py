"""Steps that an external service must confirm, in memory."""

import dataclasses
import functools
from typing import Any

import pytest

from doubles.attempts import at_step, ended, experiment
from doubles.cluster import NAME, NAMESPACE, Cluster
from doubles.traffic import Answers
from sundog_operator.app.background.requests import BackgroundRequests
from sundog_operator.app.observe import observe
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.reconcile_model_deployment import reconcile_model_deployment
from sundog_operator.ports import MODEL_DEPLOYMENT, Ref

URL = "https://ci:password@gate.example/confirm?token=secret"
ASKED = "webhook https://gate.example/confirm"
V2 = "file:///models/v2"
STEPS: list[dict[str, Any]] = [{"weight": 25, "gate": "time", "minDuration": "10s"}, {"webhook": {"url": URL}}]
AFTER_IT = [*STEPS, {"weight": 50, "gate": "manual"}]


async def asked(rollout: dict[str, Any], *, status: int | None = None, hangs: bool = False) -> Cluster:
    """A rollout of revision 2 at its webhook."""
    cluster = Cluster()
    if status is not None:
        cluster.webhooks.answers[URL] = status
    if hangs:
        cluster.webhooks.hanging.add(URL)
    await cluster.deploy(rollout=rollout)
    await cluster.settle(5)
    await cluster.apply(V2, rollout=rollout)
    await cluster.until(functools.partial(at_step, cluster, 2))
    await cluster.settle(5)
    return cluster


@pytest.mark.parametrize("status", [200, 201, 202])
async def test_a_step_ends_once_the_answer_confirms(status: int) -> None:
    cluster = await asked({"steps": AFTER_IT}, status=404)
    assert (await experiment(cluster))["step"]["reason"] == f"{ASKED} answered 404; asks again"
    assert await cluster.weights() == {1: 75, 2: 25}
    cluster.webhooks.answers[URL] = status
    await cluster.until_weight(2, 50, rounds=30)
    received = len(cluster.webhooks.received)
    await cluster.settle(30)
    assert len(cluster.webhooks.received) == received, "what has confirmed is not asked again"


async def test_the_last_step_that_confirms_promotes() -> None:
    cluster = await asked({"steps": STEPS}, status=200)
    await cluster.until_serves(2, rounds=60)
    assert [document["metadata"]["weight"] for document in cluster.webhooks.posted(URL)] == ["25"]


async def test_it_is_asked_as_flagger_asks() -> None:
    cluster = await asked({"steps": STEPS}, status=403)
    stored = await cluster.get()
    (document, *_) = cluster.webhooks.posted(URL)
    assert document == {
        "name": "digits",
        "namespace": "vision",
        "phase": "Progressing",
        "checksum": document["checksum"],
        "metadata": {"revision": "2", "experiment": "digits-r2", "step": "2", "weight": "25"},
    }
    seen = await observe(cluster.world, stored)
    assert document["checksum"] == next(each.hash for each in seen.revisions if each.number == 2)


@pytest.mark.parametrize("status", [203, 204, 302, 401, 500])
async def test_any_other_answer_is_asked_again_at_the_operators_pace(status: int) -> None:
    cluster = await asked({"steps": AFTER_IT}, status=status)
    before = len(cluster.webhooks.received)
    await cluster.settle(60)
    assert 10 <= len(cluster.webhooks.received) - before <= 12
    assert (await experiment(cluster))["step"]["reason"] == f"{ASKED} answered {status}; asks again"
    assert await cluster.weights() == {1: 75, 2: 25}


async def test_waiting_writes_nothing_while_the_answer_is_the_same() -> None:
    cluster = await asked({"steps": AFTER_IT}, status=404)
    assert await cluster.writes_during(30, changed=True) == []


async def test_an_absent_receiver_is_reported_without_secrets_and_asked_again() -> None:
    cluster = await asked({"steps": AFTER_IT})
    assert (await experiment(cluster))["step"]["reason"] == f"{ASKED} cannot be connected to; asks again"
    unreachable = f"{ASKED} cannot be connected to; asks again"
    assert await cluster.message("Progressing") == f"revision 2, step 2 of 4: {unreachable}"
    cluster.webhooks.answers[URL] = 200
    await cluster.until_weight(2, 50, rounds=30)


async def test_a_receiver_that_hangs_holds_up_neither_commands_nor_others() -> None:
    steps = [STEPS[0], {"webhook": {"url": URL, "timeout": "1h"}}, AFTER_IT[-1]]
    cluster = await asked({"steps": steps}, hangs=True)
    assert (await experiment(cluster))["step"]["reason"] == f"asks {ASKED}"
    await cluster.settle(100)
    assert len(cluster.webhooks.received) == 1, "one question at a time"
    # Passes do not wait: each of these rounds has ended.
    await cluster.command("promote revision=2 id=a")
    await cluster.until_weight(2, 50, rounds=10)
    assert cluster.world.webhook_requests.pending == [], "nobody waits for the answer any more"


async def test_one_that_hangs_is_asked_again_when_its_time_is_over() -> None:
    cluster = await asked({"steps": [STEPS[0], {"webhook": {"url": URL, "timeout": "20s"}}]}, hangs=True)
    await cluster.settle(40)
    assert (await experiment(cluster))["step"]["reason"] == f"{ASKED} did not answer within 20 s; asks again"
    assert len(cluster.webhooks.received) in (2, 3)


@pytest.mark.parametrize("hold", ["spec", "command"])
async def test_a_rollout_that_stands_still_asks_nothing_and_asks_anew_when_it_goes_on(hold: str) -> None:
    cluster = await asked({"steps": AFTER_IT}, hangs=True)
    if hold == "spec":
        await cluster.apply(V2, rollout={"steps": AFTER_IT}, paused=True)
    else:
        await cluster.command("pause revision=2 id=a")
    await cluster.settle(3)
    assert cluster.world.webhook_requests.pending == []
    cluster.webhooks.hanging.clear()
    cluster.webhooks.answers[URL] = 200
    received = len(cluster.webhooks.received)
    await cluster.settle(30)
    assert len(cluster.webhooks.received) == received
    assert await cluster.weights() == {1: 75, 2: 25}
    if hold == "spec":
        await cluster.apply(V2, rollout={"steps": AFTER_IT})
    else:
        await cluster.command("resume revision=2 id=b")
    await cluster.until_weight(2, 50, rounds=30)


async def test_another_operator_asks_anew() -> None:
    cluster = await asked({"steps": AFTER_IT}, hangs=True)
    cluster.webhooks.hanging.clear()
    cluster.webhooks.answers[URL] = 202
    cluster.world = dataclasses.replace(cluster.world, webhook_requests=BackgroundRequests())
    await cluster.until_weight(2, 50, rounds=30)


async def test_each_webhook_is_asked_for_itself() -> None:
    steps = [*STEPS, {"webhook": {"url": URL}}, {"webhook": {"url": "http://other.example"}}]
    cluster = await asked({"steps": steps}, status=200)
    await cluster.until(functools.partial(at_step, cluster, 4), rounds=30)
    assert [document["metadata"]["step"] for document in cluster.webhooks.posted(URL)] == ["2", "3"]
    await cluster.settle(5)
    assert (await experiment(cluster))["step"][
        "reason"
    ] == "webhook http://other.example cannot be connected to; asks again"


async def test_before_the_first_weight_it_decides_whether_there_is_any_traffic() -> None:
    cluster = Cluster()
    cluster.webhooks.answers[URL] = 403
    rollout = {"steps": [{"webhook": {"url": URL}}, {"weight": 50, "gate": "manual"}]}
    await cluster.deploy(rollout=rollout)
    await cluster.apply(V2, rollout=rollout)
    await cluster.settle(30)
    assert cluster.webhooks.posted(URL)[0]["metadata"]["weight"] == "0"
    assert await cluster.weights() == {1: 100, 2: 0}
    cluster.webhooks.answers[URL] = 200
    await cluster.until_weight(2, 50, rounds=30)


async def test_the_plan_of_a_rollout_keeps_its_webhook_whatever_the_spec_becomes() -> None:
    cluster = await asked({"steps": AFTER_IT}, status=404)
    await cluster.apply(V2, rollout={"steps": [{"weight": 25, "gate": "manual"}]})
    cluster.webhooks.answers[URL] = 200
    await cluster.until_weight(2, 50, rounds=30)


async def test_harm_is_found_while_a_receiver_hangs() -> None:
    cluster = Cluster()
    cluster.webhooks.hanging.add(URL)
    cluster.set_traffic(50, Answers(errors=0.01), Answers(errors=0.01))
    hanging = {"webhook": {"url": URL, "timeout": "1h"}}
    rollout = {"steps": [{"weight": 25, "minDuration": "0s"}, hanging], "guardrails": [{"metric": "errorRate"}]}
    await cluster.deploy(rollout=rollout)
    await cluster.settle(6, seconds=10)
    await cluster.apply(V2, rollout=rollout)
    assert await cluster.go_on(240, functools.partial(at_step, cluster, 2), seconds=20)
    cluster.edges.traffic.answers["digits-r2"] = Answers(errors=0.5)
    assert await cluster.go_on(30, functools.partial(ended, cluster), seconds=10)
    await cluster.settle(3)
    assert (await cluster.status())["lastRollout"]["outcome"] == "RolledBack"


async def test_a_deployment_that_is_gone_has_no_question_any_more() -> None:
    cluster = await asked({"steps": AFTER_IT}, hangs=True)
    assert len(cluster.world.webhook_requests.pending) == 1
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME))
    assert await reconcile_model_deployment(cluster.world, Key("modeldeployment", NAMESPACE, NAME)) is None
    await cluster.webhooks.turn()
    assert cluster.world.webhook_requests.pending == []
