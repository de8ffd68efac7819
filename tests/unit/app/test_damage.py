"""Damage to stored objects by users and accidents: traffic must go on, and no revision may be promoted by mistake."""

import copy

import pytest

from doubles.cluster import MANUAL, NAME, NAMESPACE, Cluster, model_deployment
from sundog_edge.split import document as edge_document
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.reconcile_model_deployment import reconcile_model_deployment
from sundog_operator.core.observed import ServeState
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    POD,
    Object,
    Ref,
)

REFUSED = {"baseline": {"uri": "file:///models/v1"}}


async def canary(**spec: object) -> Cluster:
    """Revision 1 with 75 %, revision 2 with 25 %."""
    cluster = Cluster()
    await cluster.deploy(**spec)
    await cluster.roll_out(**spec)
    await cluster.settle(5)
    return cluster


def deployed(cluster: Cluster) -> list[str]:
    return [app["name"] for app in cluster.serve.puts[-1]["applications"]]


@pytest.mark.parametrize("number", [1, 2])
async def test_a_deleted_revision_keeps_serving(number: int) -> None:
    cluster = await canary()
    await cluster.kube.delete(Ref(CONTROLLER_REVISION, NAMESPACE, f"digits-r{number}"))
    await cluster.settle(30)
    assert deployed(cluster) == ["digits-r1", "digits-r2"]
    assert await cluster.weights() == {1: 75, 2: 25}
    assert await cluster.condition("Ready") == ("True", "Serving")


async def test_a_deleted_revision_under_a_refused_spec_keeps_serving() -> None:
    cluster = await canary()
    await cluster.kube.delete(Ref(CONTROLLER_REVISION, NAMESPACE, "digits-r1"))
    await cluster.apply("file:///models/v2", **REFUSED)
    await cluster.settle(30)
    assert deployed(cluster) == ["digits-r1", "digits-r2"]


async def test_the_wanted_revision_gets_its_number_back() -> None:
    cluster = await canary()
    await cluster.kube.delete(Ref(CONTROLLER_REVISION, NAMESPACE, "digits-r2"))
    await cluster.settle(5)
    assert await cluster.kube.get(Ref(CONTROLLER_REVISION, NAMESPACE, "digits-r2")) is not None
    assert await cluster.kube.get(Ref(CONTROLLER_REVISION, NAMESPACE, "digits-r3")) is None


async def test_a_lost_status_is_taken_up_from_the_split_and_the_rollout() -> None:
    cluster = await canary()
    await cluster.lose_status()
    await cluster.settle(30)
    assert await cluster.weights() == {1: 75, 2: 25}
    assert deployed(cluster) == ["digits-r1", "digits-r2"]
    assert all(weights["digits-r1"] in (75, 100) for weights in cluster.edges.weights_seen if weights)


async def test_a_namesake_made_anew_is_not_what_the_split_still_tells_of_the_one_before() -> None:
    cluster = Cluster()
    await cluster.kube.apply(model_deployment(name="words"))
    await cluster.deploy()
    await cluster.settle(5)
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME))
    await cluster.apply("file:///models/v2")
    (service,) = (each for each in cluster.edges.in_force()[0]["services"] if each["name"] == NAME)
    assert [(arm["name"], arm["revision"]) for arm in service["arms"]] == [("stable", 1)]
    for _ in range(3):
        # The operator comes back, and has not read the edge yet.
        await reconcile_model_deployment(cluster.world, Key("modeldeployment", NAMESPACE, NAME))
    status = await cluster.status()
    assert status["candidate"]["revision"] == 2, "its number is not that of the content that serves"
    assert status["stable"]["revision"] == 1
    assert await cluster.condition("Promoted") == ("False", "NotPromoted")
    await cluster.until_serves(2)


async def test_a_lost_status_does_not_bring_an_aborted_revision_back() -> None:
    cluster = await canary()
    await cluster.command("abort revision=2 id=x")
    await cluster.settle(40)
    await cluster.lose_status()
    await cluster.settle(60)
    assert await cluster.weights() == {1: 100}
    assert await cluster.condition("Stalled") == ("True", "Aborted")


async def test_a_lost_status_under_a_refused_spec_loses_nothing() -> None:
    cluster = await canary()
    await cluster.apply("file:///models/v2", **REFUSED)
    await cluster.lose_status()
    await cluster.settle(30)
    assert deployed(cluster) == ["digits-r1", "digits-r2"]
    assert cluster.edges.in_force()[0]["services"][0]["arms"]


async def test_a_lost_status_under_a_refused_spec_loses_no_replicas() -> None:
    """The number of replicas was in the lost status and in the replaced spec, so only Serve has it."""
    cluster = await canary(replicas=4)
    await cluster.apply("file:///models/v2", **REFUSED)
    assert (cluster.serve.running("digits-r1"), cluster.serve.running("digits-r2")) == (4, 1)
    await cluster.lose_status()
    await cluster.settle(30)
    assert (cluster.serve.running("digits-r1"), cluster.serve.running("digits-r2")) == (4, 1)
    assert await cluster.weights() == {1: 75, 2: 25}
    await cluster.apply("file:///models/v2", replicas=4)
    await cluster.promote()
    assert cluster.serve.running("digits-r2") == 4


async def test_a_deleted_split_document_is_written_again_although_the_spec_is_refused() -> None:
    cluster = await canary()
    await cluster.apply("file:///models/v2", **REFUSED)
    await cluster.settle(3)
    await cluster.kube.delete(Ref(CONFIG_MAP, NAMESPACE, "sundog-edge"))
    await cluster.settle(5)
    arms = cluster.edges.in_force()[0]["services"][0]["arms"]
    assert [(arm["application"], arm["weight"]) for arm in arms] == [("digits-r1", 75), ("digits-r2", 25)]


async def test_an_edit_to_another_strategy_never_promotes_what_is_under_way() -> None:
    cluster = Cluster()
    await cluster.deploy(rollout={"strategy": "recreate"})
    await cluster.apply("file:///models/v2", rollout={"strategy": "recreate"})
    await cluster.round()
    await cluster.apply("file:///models/v2", rollout={})
    await cluster.settle(60)
    assert (await cluster.status())["stable"]["revision"] == 1


async def test_a_deleted_experiment_starts_the_walk_again_from_nothing() -> None:
    cluster = await canary()
    await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, "digits-r2"))
    await cluster.settle(30)
    assert await cluster.weights() == {1: 75, 2: 25}
    assert (await cluster.experiment("digits-r2"))["status"]["epoch"]["number"] == 1


async def test_a_copy_of_an_experiment_is_no_record_of_the_rollout() -> None:
    cluster = await canary()
    stolen: Object = copy.deepcopy(await cluster.experiment("digits-r2"))
    stolen["metadata"] = {key: stolen["metadata"][key] for key in ("namespace", "labels", "ownerReferences")} | {
        "name": "copy"
    }
    await cluster.kube.create(stolen)
    await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, "digits-r2"))
    await cluster.settle(30)
    assert (await cluster.status())["experiment"] == "digits-r2"


@pytest.mark.parametrize("revision", ["two", "", "0"])
async def test_an_experiment_with_a_broken_label_stops_nobody(revision: str) -> None:
    cluster = await canary()
    stored = await cluster.experiment("digits-r2")
    meta = {"name": "odd", "namespace": NAMESPACE, "ownerReferences": stored["metadata"]["ownerReferences"]}
    labels = {**stored["metadata"]["labels"], "serving.sundog.dev/revision": revision}
    await cluster.kube.create({**stored, "metadata": {**meta, "labels": labels}, "status": {}})
    await cluster.promote()


async def test_an_experiment_of_a_user_is_answered_even_with_the_label_of_rollouts() -> None:
    cluster = Cluster()
    await cluster.kube.create(
        {
            "apiVersion": "serving.sundog.dev/v1alpha1",
            "kind": "Experiment",
            "metadata": {"name": "mine", "namespace": NAMESPACE, "labels": {"serving.sundog.dev/rollout": "true"}},
            "spec": {"modelDeployment": "digits", "arms": [{"name": "wide", "model": {"uri": "file:///m"}}]},
        }
    )
    await cluster.settle(2)
    conditions = (await cluster.experiment("mine"))["status"]["conditions"]
    assert {(c["type"], c["reason"]) for c in conditions} >= {("Ready", "ModelDeploymentNotFound")}


@pytest.mark.parametrize("edit", [REFUSED, {"paused": True}], ids=["refused", "paused"])
async def test_a_rollback_works_while_the_spec_is_refused_or_paused(edit: dict[str, object]) -> None:
    cluster = await canary()
    await cluster.promote()
    await cluster.settle(20)
    await cluster.apply("file:///models/v2", **edit)
    await cluster.command("rollback revision=1 id=b")
    await cluster.until_serves(1, rounds=30)


async def test_an_old_command_that_comes_back_is_not_run_again() -> None:
    cluster = await canary()
    await cluster.command("promote revision=2 id=a")
    await cluster.until_weight(2, 50)
    await cluster.command("pause revision=2 id=b")
    await cluster.settle(5)
    assert await cluster.answer("promote revision=2 id=a", rounds=20) == (
        "Rejected",
        "id a: already used. Use a new id",
    )
    assert await cluster.weights() == {1: 50, 2: 50}


async def test_an_answer_of_serve_that_takes_long_deletes_nothing_that_came_meanwhile() -> None:
    cluster = await canary()
    await cluster.promote()
    read = cluster.serve.read

    async def slowly(dashboard: str, namespace: str) -> ServeState:
        cluster.serve.read = read  # type: ignore[method-assign]
        answer = await read(dashboard, namespace)
        await cluster.command("rollback revision=1 id=b")
        await cluster.settle(4)
        return answer

    cluster.serve.read = slowly  # type: ignore[method-assign]
    await cluster.settle(20)
    assert "digits-r1" in deployed(cluster)
    assert await cluster.serves(1)


async def test_a_revision_keeps_its_own_limit_whatever_the_next_one_says() -> None:
    cluster = Cluster()
    await cluster.deploy(runtime={"maxOngoingRequests": 64})
    await cluster.roll_out(runtime={"maxOngoingRequests": 1})
    await cluster.settle(3)
    arms = cluster.edges.in_force()[0]["services"][0]["arms"]
    assert {arm["application"]: arm["maxOngoingRequests"] for arm in arms} == {"digits-r1": 64, "digits-r2": 1}


async def test_the_unit_of_a_rollout_stays_as_it_was_frozen() -> None:
    cluster = await canary(rollout={**MANUAL, "unit": {"header": "x-user-id"}})
    await cluster.apply("file:///models/v2", rollout={**MANUAL, "unit": {"header": "x-session"}})
    await cluster.settle(10)
    assert cluster.edges.in_force()[0]["services"][0]["unit"] == {"kind": "header", "name": "x-user-id"}


async def test_a_canary_comes_up_with_the_replicas_of_its_first_step() -> None:
    cluster = await canary(replicas=8)
    second = [app for put in cluster.serve.puts for app in put["applications"] if app["name"] == "digits-r2"]
    assert {app["deployments"][0]["num_replicas"] for app in second} == {2}


async def test_hosts_never_stand_twice_in_the_document() -> None:
    cluster = Cluster()
    await cluster.apply("file:///models/a", name="a")
    await cluster.apply("file:///models/b", name="b", endpoint={"host": "x.example"})
    await cluster.settle(20)
    await cluster.apply("file:///models/b", name="b", endpoint={"host": "y.example"}, **REFUSED)
    await cluster.apply("file:///models/a", name="a", endpoint={"host": "x.example"})
    await cluster.settle(10)
    stored = await cluster.read(Ref(CONFIG_MAP, NAMESPACE, "sundog-edge"))
    edge_document.parse_document(stored["data"]["split.json"].encode(), NAMESPACE)


async def test_a_clock_that_is_set_back_neither_promotes_nor_stops_the_work() -> None:
    timed = {"steps": [{"weight": 25, "gate": "time", "minDuration": "30s"}]}
    cluster = await canary(rollout=timed)
    cluster.clock.set_back(3600)
    await cluster.settle(20)
    assert await cluster.weights() == {1: 75, 2: 25}
    await cluster.command("abort revision=2 id=x")
    await cluster.settle(5)
    assert (await cluster.weights())[1] == 100


async def test_a_stable_revision_that_could_not_come_back_is_started_anew_and_says_why() -> None:
    cluster = Cluster()
    await cluster.deploy()
    await cluster.settle(10)
    cluster.serve.failures["file:///models/v1"] = ("ModelNotFound", "/models/v1 does not exist")
    await cluster.settle(5)
    assert await cluster.condition("Ready") == ("False", "NoHealthyReplica")
    assert await cluster.condition("RevisionReady") == ("False", "ModelNotFound")
    cluster.serve.failures.clear()
    await cluster.until_serves(1, rounds=40)
    await cluster.settle(20)
    assert await cluster.condition("RevisionReady") == ("True", "Ready")


async def test_retry_starts_a_failed_stable_revision_at_once() -> None:
    cluster = Cluster()
    await cluster.deploy()
    cluster.serve.failures["file:///models/v1"] = ("LoadFailed", "no")
    await cluster.settle(45)
    cluster.serve.failures.clear()
    await cluster.command("retry revision=1 id=a")
    await cluster.until_serves(1, rounds=8)


async def test_promote_before_there_is_a_step_to_pass_is_rejected() -> None:
    cluster = Cluster()
    await cluster.deploy()
    await cluster.apply("file:///models/v2")
    await cluster.settle(2)
    await cluster.command("promote revision=2 id=a")
    await cluster.settle(1)
    assert "revision 2 is not ready yet" in (await cluster.status())["lastCommand"]["message"]
    await cluster.until_weight(2, 25)


async def not_ready(cluster: Cluster, name: str) -> None:
    ref = Ref(POD, NAMESPACE, name)
    conditions = [{"type": "Ready", "status": "False", "message": "GET /readyz: ClientConnectorError"}]
    await cluster.set_status(ref, {**(await cluster.read(ref))["status"], "conditions": conditions})


@pytest.mark.parametrize("state", ["silent", "silent and not ready", "young"])
async def test_while_an_agent_starts_anew_what_serves_is_called_neither_dead_nor_healthy(state: str) -> None:
    cluster = await canary()
    (cluster.edges.young if state == "young" else cluster.edges.silent).add("sundog-edge-0")
    if "not ready" in state:
        await not_ready(cluster, "sundog-edge-0")
    for _ in range(15):
        await cluster.round()
        assert await cluster.condition("Ready") == ("True", "Serving")
        assert await cluster.condition("RevisionReady") == ("True", "Ready")
    assert await cluster.weights() == {1: 75, 2: 25}


async def test_edges_that_report_nothing_for_long_make_a_deployment_unready() -> None:
    cluster = await canary()
    cluster.edges.silent.add("sundog-edge-0")
    await cluster.settle(45)
    assert await cluster.condition("Ready") == ("False", "NoHealthyReplica")
    assert await cluster.weights() == {1: 75, 2: 25}


async def test_a_stable_revision_that_one_edge_knows_to_be_dead_is_dead() -> None:
    cluster = await canary()
    await cluster.add_edge("sundog-edge-1")
    await cluster.settle(5)
    cluster.edges.silent.add("sundog-edge-1")
    cluster.serve.failures["file:///models/v1"] = ("ModelNotFound", "/models/v1 does not exist")
    await cluster.settle(3)
    assert await cluster.condition("Ready") == ("False", "NoHealthyReplica")


@pytest.mark.parametrize("state", ["silent", "young"])
async def test_a_dead_candidate_is_rolled_back_while_the_agent_of_another_edge_starts_anew(state: str) -> None:
    cluster = await canary()
    await cluster.add_edge("sundog-edge-1")
    await cluster.settle(5)
    (cluster.edges.young if state == "young" else cluster.edges.silent).add("sundog-edge-1")
    for _ in range(160):
        cluster.serve.crash_replicas("digits-r2")
        await cluster.round()
        if (await cluster.status()).get("lastRollout"):
            break
    assert "CandidateUnavailable" in (await cluster.status())["lastRollout"]["reason"]


async def test_a_candidate_that_an_edge_has_not_looked_at_gets_no_traffic_yet() -> None:
    cluster = Cluster()
    await cluster.deploy()
    await cluster.add_edge("sundog-edge-1")
    await cluster.settle(5)
    cluster.edges.young.add("sundog-edge-1")
    await cluster.apply("file:///models/v2")
    await cluster.settle(30)
    assert (await cluster.weights())[1] == 100
    cluster.edges.young.clear()
    await cluster.until_weight(2, 25)
