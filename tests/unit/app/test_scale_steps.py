"""Steps that give a canary replicas, in memory."""

import math

import pytest

from doubles.cluster import Cluster

V2 = "file:///models/v2"
STEPS = {"steps": [{"scale": {"percent": 75}}, {"weight": 10, "gate": "manual"}, {"weight": 50, "gate": "manual"}]}


async def test_a_candidate_has_its_replicas_before_its_traffic_and_keeps_them() -> None:
    cluster = Cluster()
    await cluster.deploy(replicas=4, rollout=STEPS)
    await cluster.settle(5)
    await cluster.apply(V2, replicas=4, rollout=STEPS)
    await cluster.settle(2)
    assert (await cluster.status())["candidate"]["replicas"] == 3
    await cluster.until_weight(2, 10)
    candidate = (await cluster.status())["candidate"]
    assert (candidate["replicas"], candidate["readyReplicas"]) == (3, 3)
    await cluster.command("promote revision=2 id=a")
    await cluster.until_weight(2, 50)
    assert (await cluster.status())["candidate"]["replicas"] == 3
    await cluster.command("promote revision=2 id=b full=true")
    await cluster.until_serves(2, rounds=100)
    assert (await cluster.status())["stable"]["replicas"] == 4


@pytest.mark.parametrize("capacity", ["auto", "surge"])
async def test_stable_keeps_its_replicas_to_the_end_and_no_arm_lacks_any(capacity: str) -> None:
    cluster = Cluster()
    rollout = {"steps": [{"weight": 50, "gate": "time", "minDuration": "20s"}], "capacity": capacity}
    await cluster.deploy(replicas=4, rollout=rollout)
    least: dict[int, list[tuple[int, int]]] = {1: [], 2: []}

    async def look() -> None:
        for number, weight in (await cluster.weights()).items():
            least[number].append((weight, cluster.serve.running(f"digits-r{number}")))

    await cluster.apply(V2, replicas=4, rollout=rollout)
    cluster.after_step = look
    await cluster.until_weight(2, 100)
    assert {running for _, running in least[1]} == {4}
    assert all(running >= math.ceil(4 * weight / 100) for weight, running in least[2])
    assert {weight for weight, _ in least[2]} == {0, 50, 100}
