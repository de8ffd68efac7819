"""Services without requests: their replicas go, and a rollout or an Experiment has them all the same."""

from datetime import timedelta
from typing import Any

import pytest

from doubles.cluster import MANUAL, NAME, NAMESPACE, Cluster
from doubles.serve import FakeServe
from sundog_operator.api.installation import parse_installation
from sundog_operator.core.edge import split_document
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import ReplicaStart
from sundog_operator.ports import CONFIG_MAP, EXPERIMENT, POD, RAY_CLUSTER, Object, Ref

INSTALLATION = parse_installation("runtimeImage: example.com/runtime:1", "test")
TO_ZERO = {"autoscaling": {"minReplicas": 0, "maxReplicas": 3}}
RAY = names.ray_cluster(0, "example.com/runtime:1")
AT_ZERO = "revision 1 has no replica; the next request starts one"
STARTING = "revision 1 has no replica; one starts for waiting requests"


async def asleep(in_pods: bool = True, **spec: Any) -> tuple[Cluster, FakeServe]:
    """A service that has scaled to zero."""
    cluster = Cluster(installation=INSTALLATION if in_pods else None)
    await cluster.deploy(**(spec or TO_ZERO))
    await cluster.settle(30)
    serve = next(iter(cluster.serve_apis.by_dashboard.values())) if in_pods else cluster.serve
    assert serve.running("digits-r1") == 0
    return cluster, serve


def scaling(serve: FakeServe, name: str = "digits-r1") -> dict[str, Any]:
    (app,) = (each for each in serve.puts[-1]["applications"] if each["name"] == name)
    return dict(app["deployments"][0]["autoscaling_config"])


@pytest.mark.parametrize("in_pods", [True, False], ids=["in a cluster", "in local mode"])
async def test_at_zero_a_service_is_ready_because_edges_hold_its_requests(in_pods: bool) -> None:
    cluster, serve = await asleep(in_pods)
    assert await cluster.read_condition("Ready") == ("True", "Serving", AT_ZERO)
    assert (await cluster.condition("RevisionReady"))[0] == "True"
    status = await cluster.status()
    assert (status["replicas"], status["readyReplicas"]) == (0, 0)
    assert (scaling(serve)["min_replicas"], scaling(serve)["downscale_to_zero_delay_s"]) == (0, 600.0)
    config_map = await cluster.kube.get(Ref(CONFIG_MAP, NAMESPACE, names.EDGE))
    entry = split_document.find_service_entry(split_document.read_document(config_map), NAME)
    assert entry is not None
    assert entry["coldStartSeconds"] == 120.0


async def test_a_request_at_zero_starts_a_replica_and_its_pod() -> None:
    cluster, serve = await asleep()
    serve.start_s = 20
    serve.load("digits-r1", 1)
    await cluster.settle(3)
    assert await cluster.read_condition("Ready") == ("True", "Serving", STARTING)
    await cluster.settle(30)
    assert await cluster.read_condition("Ready") == ("True", "Serving", "revision 1 serves")
    status = await cluster.status()
    assert (status["replicas"], status["readyReplicas"]) == (1, 1)


async def test_the_phases_of_a_start_from_zero_replace_those_of_the_first_start() -> None:
    cluster, serve = await asleep(in_pods=False)
    serve.started = ReplicaStart({"load": 1.0}, cluster.clock.now())
    serve.load("digits-r1", 1)
    await cluster.settle(30)
    first = (await cluster.status()).get("startup") or {}
    assert "wokenAt" not in first
    woken = cluster.clock.now().replace(microsecond=0)
    began, answers = woken + timedelta(seconds=2), woken + timedelta(seconds=5)
    serve.started = ReplicaStart({"load": 2.5}, began, woken, answers)
    await cluster.settle(30)
    startup = (await cluster.status())["startup"]
    assert startup == {
        "revision": 1,
        "wokenAt": f"{woken:%Y-%m-%dT%H:%M:%SZ}",
        "ray": "2s",
        "load": "2s500ms",
        "total": "5s",
    }


async def test_at_zero_the_worker_group_may_have_no_pod() -> None:
    cluster, _ = await asleep()
    stored = await cluster.read(Ref(RAY_CLUSTER, NAMESPACE, RAY))
    (group,) = stored["spec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (0, 3)


async def test_a_start_that_finds_no_node_is_named_and_recovers() -> None:
    cluster, serve = await asleep()
    serve.room["digits-r1"] = 0
    serve.load("digits-r1", 1)
    said = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    }
    # Ray's autoscaler has no stand-in, so the pod of the first replica is still there.
    (pod,) = await cluster.kube.list(POD, NAMESPACE, {names.LABEL_REVISION: "1"})
    ref, version = Ref(POD, NAMESPACE, pod["metadata"]["name"]), pod["metadata"]["resourceVersion"]
    await cluster.kube.patch_status(ref, {"phase": "Pending", "conditions": [said]}, resource_version=version)
    await cluster.settle(5)
    assert await cluster.condition("Ready") == ("False", "Unschedulable")
    assert "1 without enough free nvidia.com/gpu" in (await cluster.read_condition("Ready"))[2]
    del serve.room["digits-r1"]
    await cluster.settle(30)
    assert await cluster.read_condition("Ready") == ("True", "Serving", "revision 1 serves")


async def test_during_a_rollout_no_revision_is_at_zero() -> None:
    cluster, serve = await asleep()
    await cluster.roll_out(**TO_ZERO, rollout=MANUAL)
    assert (scaling(serve)["min_replicas"], scaling(serve, "digits-r2")["min_replicas"]) == (1, 1)
    assert (serve.running("digits-r1"), serve.running("digits-r2")) == (1, 1)
    await cluster.promote()
    await cluster.settle(60)
    assert serve.running("digits-r2") == 0
    assert (await cluster.status())["replicas"] == 0


async def test_an_experiment_that_starts_at_zero_has_a_replica_of_each_arm() -> None:
    cluster, serve = await asleep()
    arms = [{"name": "wide", "model": {"uri": "file:///models/v2"}}]
    experiment: Object = {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "wide-or-narrow", "namespace": NAMESPACE},
        "spec": {"modelDeployment": NAME, "arms": arms, "exposure": "40%"},
    }
    await cluster.kube.apply(experiment)

    async def runs() -> bool:
        stored = await cluster.kube.get(Ref(EXPERIMENT, NAMESPACE, "wide-or-narrow"))
        return stored is not None and stored.get("status", {}).get("phase") == "Running"

    await cluster.until(runs)
    await cluster.settle(30)
    assert (serve.running("digits-r1"), serve.running("digits-r2")) == (1, 1)
    await cluster.kube.apply({**experiment, "spec": {**experiment["spec"], "stopped": True}})
    await cluster.settle(90)
    assert serve.running("digits-r1") == 0
    assert await cluster.read_condition("Ready") == ("True", "Serving", AT_ZERO)


async def test_replicas_0_is_a_replica_on_request() -> None:
    cluster, serve = await asleep(replicas=0)
    config = scaling(serve)
    assert (config["min_replicas"], config["max_replicas"], config["downscale_to_zero_delay_s"]) == (0, 1, 60.0)
    assert await cluster.read_condition("Ready") == ("True", "Serving", AT_ZERO)
    serve.load("digits-r1", 5)
    await cluster.settle(10)
    assert serve.running("digits-r1") == 1
    # An autoscaler that finds load sets a number.
    await cluster.apply(replicas=3)
    await cluster.settle(30)
    assert serve.running("digits-r1") == 3


async def test_a_spec_that_is_refused_leaves_a_service_at_zero_ready_and_able_to_wake() -> None:
    cluster, serve = await asleep()
    await cluster.apply(**TO_ZERO, baseline={"uri": "file:///models/v1"})
    await cluster.settle(15)
    assert (await cluster.condition("SpecAccepted"))[0] == "False"
    ready = await cluster.read_condition("Ready")
    assert ready == ("True", "Serving", AT_ZERO)
    serve.load("digits-r1", 1)
    await cluster.settle(30)
    assert (await cluster.condition("Ready"))[0] == "True"
    assert serve.running("digits-r1") == 1


async def test_a_service_that_keeps_a_replica_has_no_cold_start() -> None:
    cluster = Cluster()
    await cluster.deploy(autoscaling={"minReplicas": 1, "maxReplicas": 3})
    await cluster.settle(15)
    assert "downscale_to_zero_delay_s" not in scaling(cluster.serve)
    config_map = await cluster.kube.get(Ref(CONFIG_MAP, NAMESPACE, names.EDGE))
    entry = split_document.find_service_entry(split_document.read_document(config_map), NAME)
    assert entry is not None
    assert "coldStartSeconds" not in entry


EVIDENCE_TO_ZERO = {
    "autoscaling": {"minReplicas": 0, "maxReplicas": 3, "scaleToZeroDelay": "2m"},
    "rollout": {"steps": [{"weight": 25}]},
}


async def waiting_for_evidence() -> tuple[Cluster, FakeServe]:
    """A rollout that has traffic for two minutes, and then none."""
    cluster, serve = await asleep(in_pods=False, **EVIDENCE_TO_ZERO)
    await cluster.roll_out(**EVIDENCE_TO_ZERO)
    cluster.edges.traffic.rps = {NAME: 5}
    await cluster.settle(12, seconds=10)
    return cluster, serve


def running(serve: FakeServe) -> tuple[int, int]:
    return serve.running("digits-r1"), serve.running("digits-r2")


async def test_a_rollout_that_begins_at_zero_leaves_the_service_ready() -> None:
    cluster, serve = await asleep()
    serve.start_s = 20
    seen = set()

    async def look() -> None:
        seen.add(await cluster.read_condition("Ready"))

    await cluster.apply("file:///models/v2", **TO_ZERO, rollout=MANUAL)
    for _ in range(40):
        await cluster.settle(1)
        await look()
    assert {each[0] for each in seen} == {"True"}, seen
    await cluster.until_weight(2, 25)
    await cluster.settle(3)
    assert (await cluster.status())["idle"]["state"] == "Counting"


async def test_stable_that_finds_no_node_when_a_rollout_begins_at_zero_is_not_ready() -> None:
    cluster, serve = await asleep(in_pods=False)
    serve.failures["file:///models/v1"] = ("ModelNotFound", "gone")
    await cluster.apply("file:///models/v2", **TO_ZERO, rollout=MANUAL)
    await cluster.settle(30)
    assert (await cluster.condition("Ready"))[0] == "False"


async def test_an_idle_rollout_frees_its_replicas_and_one_request_wakes_both() -> None:
    cluster, serve = await waiting_for_evidence()
    assert (running(serve), (await cluster.status())["idle"]["state"]) == ((1, 1), "Counting")
    cluster.edges.traffic.rps = {NAME: 0}
    await cluster.settle(60, seconds=10)
    assert running(serve) == (0, 0)
    status = await cluster.status()
    assert (status["idle"]["state"], status["replicas"], status["candidate"]["weight"]) == ("AtZero", 0, 25)
    assert await cluster.read_condition("Ready") == ("True", "Serving", AT_ZERO)
    assert (await cluster.read_condition("Progressing"))[2].endswith(
        "no request comes, so both revisions are at zero: the next one starts them"
    )
    config = scaling(serve, "digits-r2")
    assert (config["min_replicas"], config["downscale_to_zero_delay_s"]) == (0, 60.0)
    # It neither promotes nor fails, however long nobody asks.
    await cluster.settle(30, seconds=2000)
    status = await cluster.status()
    assert (status["stable"]["revision"], status["candidate"]["weight"], running(serve)) == (1, 25, (0, 0))
    # The first request wakes the revision that it is for, by Serve alone. The operator wakes the other one.
    serve.load("digits-r1", 1)
    cluster.edges.traffic.rps = {NAME: 1}
    serve.start_s = 60
    await cluster.settle(6, seconds=5)
    assert (await cluster.status())["idle"]["state"] == "Waking"
    assert (scaling(serve)["min_replicas"], scaling(serve, "digits-r2")["min_replicas"]) == (1, 1)
    await cluster.settle(30, seconds=5)
    assert running(serve) == (1, 1)
    assert (await cluster.status())["idle"]["state"] == "Counting"
    assert (await cluster.status())["candidate"]["weight"] == 25


async def test_a_rollout_at_zero_that_is_promoted_by_command_gets_its_replicas() -> None:
    cluster, serve = await waiting_for_evidence()
    cluster.edges.traffic.rps = {NAME: 0}
    await cluster.settle(60, seconds=10)
    assert running(serve) == (0, 0)
    await cluster.promote()
    assert "idle" not in await cluster.status()


async def test_a_model_that_cannot_start_again_ends_a_rollout_at_zero() -> None:
    cluster, serve = await waiting_for_evidence()
    cluster.edges.traffic.rps = {NAME: 0}
    await cluster.settle(60, seconds=10)
    serve.failures["file:///models/v2"] = ("ModelNotFound", "gone")
    serve.load("digits-r2", 1)
    cluster.edges.traffic.rps = {NAME: 1}
    await cluster.settle(60, seconds=5)
    status = await cluster.status()
    assert status.get("candidate") is None
    assert status["lastRollout"]["reason"].startswith("ModelNotFound")
