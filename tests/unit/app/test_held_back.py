"""A revision that was aborted or rolled back stays held back during other rollouts and rollbacks."""

from typing import Any

import pytest

from doubles.cluster import MANUAL, NAME, NAMESPACE, TIMED, Cluster
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.reconcile_model_deployment import reconcile_model_deployment
from sundog_operator.ports import MODEL_DEPLOYMENT, Ref

MODEL = "file:///models/v{}"


async def serving(*rollouts: dict[str, Any]) -> Cluster:
    """Revision 1, or after it the others, serves; each came by the rollout of its place."""
    cluster = Cluster()
    for number, rollout in enumerate(rollouts, start=1):
        await cluster.deploy(number, rollout=rollout)
        await cluster.settle(20)
    return cluster


async def aborted(cluster: Cluster, number: int, rollout: dict[str, Any]) -> None:
    """A canary that had traffic, and has none any more."""
    await cluster.roll_out(number, rollout=rollout)
    await cluster.command(f"abort revision={number} id=abort-{number}")
    await cluster.settle(20)


async def going_back() -> Cluster:
    """Revision 2 serves, and a rollback to revision 1 waits for its replicas."""
    cluster = await serving(TIMED, TIMED)
    cluster.serve.start_s = 120
    await cluster.command("rollback revision=1 id=back")
    await cluster.settle(5)
    return cluster


async def held(cluster: Cluster) -> list[int]:
    return [each["revision"] for each in (await cluster.status()).get("heldBack", ())]


async def weights_during(cluster: Cluster, looks: int) -> list[dict[int, int]]:
    """Return the observed weights, without repetitions."""
    seen: list[dict[int, int]] = []
    for _ in range(looks):
        await cluster.settle(5)
        weights = await cluster.weights()
        if not seen or seen[-1] != weights:
            seen.append(weights)
    return seen


@pytest.mark.parametrize("policy", ["replaceCanary", "restart"])
async def test_an_abort_that_is_seen_together_with_an_edit_holds_back(policy: str) -> None:
    rollout = {**MANUAL, "onNewRevision": policy}
    cluster = await serving(MANUAL)
    await cluster.roll_out(rollout=rollout)
    await cluster.apply(MODEL.format(3), rollout=rollout)
    await cluster.command("abort revision=2 id=no")
    await cluster.until_weight(3, 25)
    assert await held(cluster) == [2]
    status = await cluster.status()
    assert (status["lastCommand"]["id"], status["lastCommand"]["result"]) == ("no", "Accepted")
    last = status["lastRollout"]
    assert (last["revision"], last["outcome"], last["reason"]) == (2, "Aborted", "by command")
    assert (await cluster.experiment("digits-r2"))["status"]["verdict"]["reason"] == "Aborted: by command"


async def test_an_edit_back_to_what_is_held_back_ends_what_is_under_way_and_begins_nothing() -> None:
    cluster = await serving(TIMED)
    await aborted(cluster, 2, TIMED)
    await cluster.roll_out(3, rollout=TIMED)
    await cluster.apply(MODEL.format(2), rollout=TIMED)
    await cluster.settle(2)
    assert await weights_during(cluster, 40) == [{1: 100}]
    status = await cluster.status()
    assert (status["lastRollout"]["revision"], status["lastRollout"]["outcome"]) == (3, "Superseded")
    assert await held(cluster) == [2]
    truth, reason, message = await cluster.read_condition("Stalled")
    assert (truth, reason) == ("True", "Aborted")
    assert message.startswith("revision 2 is held back: by command")


async def test_with_a_queue_what_is_under_way_ends_first() -> None:
    queued = {**TIMED, "onNewRevision": "queue"}
    cluster = await serving(queued)
    await aborted(cluster, 2, queued)
    await cluster.roll_out(3, rollout=queued)
    await cluster.apply(MODEL.format(2), rollout=queued)
    await cluster.until_serves(3)
    assert await weights_during(cluster, 20) == [{3: 100}]
    assert await held(cluster) == [2]


async def test_a_retry_releases_and_a_spec_that_stands_for_stable_does() -> None:
    cluster = await serving(MANUAL)
    await aborted(cluster, 2, MANUAL)
    await cluster.command("retry revision=2 id=again")
    await cluster.until_weight(2, 25)
    assert await held(cluster) == []
    first, second = [(await cluster.experiment(name))["status"]["plan"] for name in ("digits-r2", "digits-r2-a2")]
    assert (first.get("attempt"), second["attempt"]) == (None, 2)
    assert first["hash"] == second["hash"]
    await cluster.command("abort revision=2 id=no")
    await cluster.settle(20)
    assert await held(cluster) == [2]
    await cluster.apply(MODEL.format(1), rollout=MANUAL)
    await cluster.settle(5)
    assert await held(cluster) == []
    assert "lastRollout" not in await cluster.status()


async def test_a_rollback_that_fails_releases_nothing() -> None:
    cluster = await serving(TIMED, TIMED)
    await aborted(cluster, 3, TIMED)
    cluster.serve.failures[MODEL.format(1)] = ("LoadFailed", "gone")
    await cluster.command("rollback revision=1 id=back")
    assert await weights_during(cluster, 30) == [{2: 100}]
    assert await held(cluster) == [3]
    assert (await cluster.read_condition("Stalled"))[2] == (
        "revision 3 is held back: rollback to revision 1 by command; revision 1: LoadFailed: gone"
    )


async def test_a_rollback_from_what_serves_that_fails_is_reported_until_a_retry() -> None:
    cluster = await serving({"strategy": "recreate"}, {"strategy": "recreate"})
    cluster.serve.failures[MODEL.format(1)] = ("LoadFailed", "gone")
    await cluster.command("rollback revision=1 id=back")
    await cluster.settle(30)
    assert "; revision 1: LoadFailed" in (await cluster.read_condition("Stalled"))[2]
    await cluster.command("retry revision=2 id=stay")
    await cluster.settle(5)
    assert (await cluster.status())["lastCommand"]["result"] == "Accepted"
    assert (await cluster.condition("Stalled"))[0] == "Absent"
    assert await cluster.weights() == {2: 100}


async def test_a_retry_of_what_serves_calls_the_rollback_off() -> None:
    cluster = await going_back()
    await cluster.command("retry revision=2 id=stay")
    await cluster.settle(5)
    cluster.serve.start_s = 3
    assert await weights_during(cluster, 30) == [{2: 100}]
    assert (await cluster.condition("Stalled"))[0] == "Absent"


async def test_an_abort_of_a_rollback_keeps_what_serves_and_holds_back_what_was() -> None:
    cluster = await going_back()
    await cluster.command("abort revision=1 id=no")
    await cluster.settle(5)
    assert (await cluster.condition("Stalled"))[0] == "Absent"
    cluster.serve.start_s = 3
    await aborted(cluster, 3, TIMED)
    cluster.serve.start_s = 120
    await cluster.command("rollback revision=1 id=again")
    await cluster.settle(5)
    await cluster.command("abort revision=1 id=never")
    assert await weights_during(cluster, 20) == [{2: 100}]
    assert await held(cluster) == [3]


async def test_an_edit_to_what_a_rollback_brings_back_makes_no_canary_of_it() -> None:
    cluster = await serving(MANUAL, {"strategy": "recreate"})
    await cluster.apply(MODEL.format(2), rollout=MANUAL)
    cluster.serve.start_s = 60
    await cluster.command("rollback revision=1 id=back")
    await cluster.settle(10)
    await cluster.deploy(rollout=MANUAL)
    assert not (await cluster.status()).get("experiment")
    await cluster.settle(20)
    assert await held(cluster) == []


async def test_a_rollback_that_an_operator_of_before_has_begun_is_one_all_the_same() -> None:
    cluster = await going_back()
    await cluster.apply(MODEL.format(2), rollout=TIMED, paused=True)
    stored = await cluster.get()
    assert stored["status"]["candidate"].pop("broughtBack") is True
    version = stored["metadata"]["resourceVersion"]
    await cluster.kube.patch_status(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME), stored["status"], resource_version=version)
    await cluster.until_serves(1)


async def test_what_is_applied_at_the_moment_of_a_rollback_is_none() -> None:
    cluster = await serving(MANUAL)
    await cluster.roll_out(rollout=MANUAL)
    await cluster.command("rollback revision=1 id=back")
    await reconcile_model_deployment(cluster.world, Key("modeldeployment", NAMESPACE, NAME))
    await cluster.apply(MODEL.format(3), rollout=MANUAL)
    await reconcile_model_deployment(cluster.world, Key("modeldeployment", NAMESPACE, NAME))
    status = await cluster.status()
    assert status["candidate"]["since"] == status["lastRollout"]["at"]
    await cluster.until_weight(3, 25)


async def test_a_promotion_that_no_traffic_followed_on_is_none_for_what_may_return() -> None:
    by_header = {"steps": [{"headers": {"x-canary": "1"}}, {"weight": 25, "gate": "manual"}]}
    cluster = await serving({"strategy": "recreate"}, {"strategy": "recreate"})
    cluster.serve.start_s = 120
    await cluster.apply(MODEL.format(1), rollout=by_header)
    await cluster.settle(3)
    await cluster.command("promote revision=1 id=up full=true")
    await cluster.settle(3)
    await cluster.command("abort revision=1 id=no")
    await cluster.settle(10)
    status = await cluster.status()
    assert (status["lastRollout"]["revision"], status["lastRollout"]["outcome"]) == (1, "Aborted")
    assert status["stableBefore"] == [1]


async def test_headers_are_traffic_for_what_may_return() -> None:
    by_header = {"steps": [{"headers": {"x-canary": "1"}}, {"pause": {}}, {"weight": 25, "gate": "manual"}]}
    cluster = await serving({"strategy": "recreate"}, {"strategy": "recreate"})
    assert (await cluster.status())["stableBefore"] == [1]
    await cluster.apply(MODEL.format(1), rollout=by_header)
    await cluster.settle(30)
    await cluster.command("abort revision=1 id=no")
    await cluster.settle(20)
    assert (await cluster.status()).get("stableBefore", []) == []
