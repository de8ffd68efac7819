"""Whole rollouts through plan, statuses, Serve document and split document, in memory."""

import json

import pytest

from doubles.cluster import MANUAL, NAME, NAMESPACE, TIMED, Cluster, model_uri
from doubles.hooked_kubernetes import Write
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.reconcile_model_deployment import reconcile_model_deployment
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    RAY_CLUSTER,
    Ref,
)

MODEL = Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME)
V2 = model_uri(2)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def test_first_revision_becomes_stable_and_ready(cluster: Cluster) -> None:
    await cluster.deploy()
    status = await cluster.status()
    assert status["stable"]["revision"] == 1
    assert status["stable"]["weight"] == 100
    assert status["observedGeneration"] == 1
    assert await cluster.condition("Promoted") == ("True", "Promoted")
    assert await cluster.condition("Stalled") == ("Absent", "")
    assert await cluster.condition("Reconciling") == ("Absent", "")


async def test_manual_canary_walks_its_weights_and_is_promoted(cluster: Cluster) -> None:
    await cluster.start_canary()
    await cluster.settle(20)
    assert await cluster.weights() == {1: 75, 2: 25}
    assert (await cluster.condition("Progressing"))[1] == "RollingOut"
    assert await cluster.condition("Ready") == ("True", "Serving")

    await cluster.command("promote revision=2 id=a")
    await cluster.until_weight(2, 50)
    await cluster.command("promote revision=2 id=b")
    await cluster.until_serves(2)
    await cluster.settle(30)
    status = await cluster.status()
    assert "candidate" not in status
    assert status.get("retiring", []) == []
    assert status["lastRollout"]["outcome"] == "Promoted"
    assert await cluster.condition("Promoted") == ("True", "Promoted")
    experiment = await cluster.experiment("digits-r2")
    assert experiment["status"]["phase"] == "Concluded"
    assert experiment["status"]["verdict"]["decision"] == "Undecided"


async def test_timed_gate_passes_when_its_time_is_over_and_not_before(cluster: Cluster) -> None:
    await cluster.start_canary(rollout=TIMED)
    await cluster.settle(25)
    assert await cluster.weights() == {1: 75, 2: 25}
    await cluster.until_serves(2, rounds=15)


async def test_pause_holds_a_timed_gate_until_resume(cluster: Cluster) -> None:
    await cluster.start_canary(rollout=TIMED)
    await cluster.command("pause revision=2 id=p")
    await cluster.settle(100)
    assert await cluster.weights() == {1: 75, 2: 25}
    assert (await cluster.condition("Progressing"))[1] == "Paused"
    await cluster.command("resume revision=2 id=r")
    await cluster.settle(10)
    assert await cluster.weights() == {1: 75, 2: 25}, "the pause took nothing of its time"
    await cluster.until_serves(2)


async def test_what_is_not_paused_is_not_resumed(cluster: Cluster) -> None:
    await cluster.start_canary(rollout=TIMED)
    message = "revision 2 is not paused: there is nothing to resume"
    assert await cluster.answer("resume revision=2 id=a") == ("Rejected", message)
    assert (await cluster.answer("pause revision=2 id=b"))[0] == "Accepted"
    assert (await cluster.answer("resume revision=2 id=c"))[0] == "Accepted"
    assert await cluster.answer("resume revision=2 id=d") == ("Rejected", message)


class Died(Exception):
    """The operator crashed."""


async def test_a_command_that_was_run_before_the_operator_died_is_reported_as_accepted(cluster: Cluster) -> None:
    await cluster.start_canary()
    assert (await cluster.answer("pause revision=2 id=a"))[0] == "Accepted"
    await cluster.command("resume revision=2 id=b")

    def die(moment: str, write: Write) -> None:
        if moment == "after" and write.ref.kind == EXPERIMENT:
            raise Died

    cluster.kube.on_write = die
    with pytest.raises(Died):
        await cluster.settle(2)
    cluster.kube.on_write = lambda *_: None
    assert (await cluster.status())["lastCommand"]["id"] == "a"
    await cluster.settle(2)
    last = (await cluster.status())["lastCommand"]
    assert (last["id"], last["result"]) == ("b", "Accepted")
    assert "paused" not in (await cluster.experiment("digits-r2"))["status"]


async def test_a_candidate_that_has_not_failed_is_not_tried_again(cluster: Cluster) -> None:
    await cluster.deploy()
    cluster.serve.start_s = 60
    await cluster.apply(V2, rollout={"steps": [{"pause": {}}, {"weight": 50}]})
    await cluster.settle(5)
    message = "revision 2 is starting and has not failed: there is nothing to retry"
    assert await cluster.answer("retry revision=2 id=a") == ("Rejected", message)

    async def ready() -> bool:
        return await cluster.condition("RevisionReady") == ("True", "Ready")

    await cluster.until(ready, rounds=90)
    message = "revision 2 is ready: there is nothing to retry"
    assert await cluster.answer("retry revision=2 id=b") == ("Rejected", message)


async def test_a_candidate_that_failed_is_tried_again_once(cluster: Cluster) -> None:
    await cluster.deploy()
    cluster.serve.failures["file:///models/v2"] = ("ModelNotFound", "/models/v2: No such file")
    await cluster.apply("file:///models/v2")
    await cluster.settle(6)
    cluster.serve.failures.clear()
    cluster.serve.start_s = 60
    assert (await cluster.answer("retry revision=2 id=a"))[0] == "Accepted"
    await cluster.settle(3)
    assert (await cluster.answer("retry revision=2 id=b"))[0] == "Rejected"


async def test_abort_returns_all_traffic_and_holds_the_revision_back(cluster: Cluster) -> None:
    await cluster.start_canary()
    await cluster.command("abort revision=2 id=x")
    await cluster.settle(60)
    status = await cluster.status()
    assert await cluster.weights() == {1: 100}
    assert status["lastCommand"]["result"] == "Accepted"
    assert status["lastRollout"] | {"at": ""} == {
        "experiment": "digits-r2",
        "revision": 2,
        "outcome": "Aborted",
        "code": "Aborted",
        "reason": "by command",
        "at": "",
    }
    assert await cluster.condition("Ready") == ("True", "Serving")
    assert await cluster.condition("Stalled") == ("True", "Aborted")
    assert await cluster.condition("Promoted") == ("False", "NotPromoted")
    assert [app["name"] for app in cluster.serve.puts[-1]["applications"]] == ["digits-r1"]


async def test_retry_starts_another_attempt_with_a_record_of_its_own(cluster: Cluster) -> None:
    await cluster.start_canary()
    await cluster.command("abort revision=2 id=x")
    await cluster.settle(30)
    await cluster.command("retry revision=2 id=y")
    await cluster.until_weight(2, 25)
    assert (await cluster.status())["experiment"] == "digits-r2-a2"
    assert (await cluster.experiment("digits-r2"))["status"]["phase"] == "Stopped"


async def test_a_candidate_with_traffic_that_a_status_says_is_to_be_tried_again_goes_on(cluster: Cluster) -> None:
    await cluster.start_canary(replicas=4)
    stored = await cluster.get()
    status = {**stored["status"], "candidate": {**stored["status"]["candidate"], "retryAt": "2026-01-01T00:00:00Z"}}
    await cluster.set_status(MODEL, status)
    await cluster.command("promote revision=2 id=p")
    await cluster.until_weight(2, 50)


async def test_rollback_goes_to_the_named_revision_and_stays_there(cluster: Cluster) -> None:
    await cluster.start_canary()
    await cluster.promote()
    await cluster.command("rollback revision=1 id=b")
    await cluster.until_serves(1)
    await cluster.settle(60)
    assert await cluster.weights() == {1: 100}
    assert await cluster.condition("Stalled") == ("True", "RolledBack")
    assert await cluster.condition("Ready") == ("True", "Serving")
    await cluster.command("retry revision=2 id=c")
    await cluster.until_weight(2, 25)


async def test_rollback_during_a_rollout_ends_it(cluster: Cluster) -> None:
    await cluster.start_canary()
    await cluster.command("rollback revision=1 id=b")
    await cluster.settle(40)
    assert await cluster.weights() == {1: 100}
    assert (await cluster.experiment("digits-r2"))["status"]["phase"] == "Stopped"
    assert (await cluster.status())["lastRollout"]["outcome"] == "RolledBack"


NEVER = [{"cron": "0 3 1 1 *", "duration": "1h", "tz": "UTC"}]
VERBS = "promote, skip, pause, resume, abort, retry, rollback, stop"
WITH_TRAFFIC = "revision 2 has 25 % of the traffic: there is nothing to retry"
NOT_PAUSED = "revision 2 is not paused: there is nothing to resume"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("promote revision=7 id=a", "revision 7 is not the candidate; expected revision 2"),
        ("skip revision=7 id=a", "revision 7 is not the candidate; expected revision 2"),
        ("launch revision=2 id=a", f"verb: 'launch'; expected one of {VERBS}"),
        ("promote revision=2", "id: ''; expected 1 to 64 letters, digits, '.', '_' or '-'"),
        ("promote revision=two id=a", "revision: 'two'; expected a revision number"),
        ("promote revision=2 speed=9 id=a", "'speed': unknown option; expected revision or full"),
        ("rollback revision=9 id=a", "revision 9 is not in the history; expected one of 1, 2"),
        ("rollback revision=2 id=a", "revision 2 is the revision of the spec. Use retry"),
        ("retry revision=1 id=a", "revision 1 is not the revision of the spec; expected revision 2"),
        ("retry revision=2 id=a", f"{WITH_TRAFFIC}. Use abort, then retry, to restart its rollout"),
        ("resume revision=2 id=a", f"{NOT_PAUSED}; it waits for promote"),
    ],
)
async def test_a_wrong_command_is_rejected_once_and_changes_nothing(cluster: Cluster, command: str, why: str) -> None:
    await cluster.start_canary()
    assert await cluster.answer(command, rounds=10) == ("Rejected", why)
    assert await cluster.weights() == {1: 75, 2: 25}
    assert (await cluster.events()).count("CommandRejected") == 1
    await cluster.command("promote revision=2 id=p")
    await cluster.until_weight(2, 50)


@pytest.mark.parametrize(
    ("edit", "command", "why"),
    [
        ({"paused": True}, "promote", "spec.paused is true"),
        ({"paused": True}, "resume", f"{NOT_PAUSED}; spec.paused is true"),
        ({"rollout": {**MANUAL, "paused": True}}, "promote", "spec.rollout.paused is true"),
        ({"rollout": {**MANUAL, "paused": True}}, "skip", "spec.rollout.paused is true"),
        ({"rollout": {**MANUAL, "windows": NEVER}}, "skip", "outside its windows; the next opens at 2027-01-01T03:00"),
    ],
)
async def test_no_command_moves_what_the_spec_holds(
    cluster: Cluster, edit: dict[str, object], command: str, why: str
) -> None:
    await cluster.start_canary()
    await cluster.apply(V2, **edit)
    result, message = await cluster.answer(f"{command} revision=2 id=a", rounds=10)
    assert (result, message[: len(why)]) == ("Rejected", why)
    assert await cluster.weights() == {1: 75, 2: 25}


async def test_skip_leaves_out_a_step_and_leads_to_no_promotion(cluster: Cluster) -> None:
    steps = {"steps": [{"weight": 25, "gate": "manual"}, {"pause": {}}, {"weight": 50, "gate": "manual"}]}
    await cluster.deploy(rollout=steps)
    await cluster.apply(V2, rollout=steps)

    async def pending() -> bool:
        name = (await cluster.status()).get("experiment")
        return bool(name) and (await cluster.experiment(name)).get("status", {}).get("phase") == "Pending"

    await cluster.until(pending)
    message = "the canary is not ready yet: there is no step to skip"
    assert await cluster.answer("skip revision=2 id=early", rounds=1) == ("Rejected", message)
    await cluster.until_weight(2, 25)
    assert (await cluster.answer("skip revision=2 id=b"))[0] == "Accepted"
    assert (await cluster.experiment("digits-r2"))["status"]["step"]["index"] == 2
    assert await cluster.weights() == {1: 75, 2: 25}
    assert (await cluster.answer("skip revision=2 id=c"))[0] == "Accepted"
    await cluster.until_weight(2, 50)
    message = "all traffic follows step 3 of 4; use promote instead"
    assert await cluster.answer("skip revision=2 id=d", rounds=30) == ("Rejected", message)
    assert await cluster.weights() == {1: 50, 2: 50}


async def test_a_repeated_id_does_nothing_and_says_so(cluster: Cluster) -> None:
    await cluster.start_canary()
    await cluster.command("pause revision=2 id=a")
    await cluster.settle(5)
    assert await cluster.answer("abort revision=2 id=a", rounds=10) == (
        "Rejected",
        "id a: already used for pause revision=2. Use a new id",
    )
    assert await cluster.weights() == {1: 75, 2: 25}


async def test_an_old_command_annotation_is_not_run_again_by_a_new_rollout(cluster: Cluster) -> None:
    await cluster.start_canary()
    await cluster.promote()
    await cluster.roll_out(3)
    await cluster.settle(20)
    assert await cluster.weights() == {2: 75, 3: 25}


async def test_a_broken_revision_never_gets_traffic_and_says_why(cluster: Cluster) -> None:
    cluster.serve.failures["file:///models/bad"] = ("LoadFailed", "size mismatch for fc.weight")
    await cluster.deploy()
    await cluster.apply("file:///models/bad")
    await cluster.settle(60)
    assert all(weights.get("digits-r2", 0) == 0 for weights in cluster.edges.weights_seen)
    assert await cluster.weights() == {1: 100}
    assert await cluster.condition("Ready") == ("True", "Serving")
    assert await cluster.condition("RevisionReady") == ("False", "LoadFailed")
    assert await cluster.condition("Stalled") == ("True", "Aborted")
    assert await cluster.message("RevisionReady") == "revision 2: size mismatch for fc.weight"
    # The columns of `kubectl get`.
    assert await cluster.message("Ready") == "revision 1 serves; LoadFailed: revision 2: size mismatch for fc.weight"
    await cluster.roll_out(3)


async def test_a_missing_model_is_tried_again_and_starts_once_it_is_there(cluster: Cluster) -> None:
    cluster.serve.failures["file:///models/late"] = ("ModelNotFound", "/models/late does not exist")
    await cluster.deploy()
    await cluster.apply("file:///models/late")
    await cluster.settle(30)
    assert await cluster.condition("RevisionReady") == ("False", "ModelNotFound")
    assert (await cluster.condition("Progressing"))[1] in ("Retrying", "RollingOut")
    assert await cluster.condition("Stalled") == ("Absent", "")
    cluster.serve.failures.clear()
    await cluster.until_weight(2, 25)


@pytest.mark.parametrize("way", ["edit", "back", "abort"])
async def test_what_waits_for_its_next_attempt_is_not_started_to_drain(cluster: Cluster, way: str) -> None:
    await cluster.deploy()
    cluster.serve.failures["file:///models/v2"] = ("ModelNotFound", "/models/v2 does not exist")
    await cluster.apply("file:///models/v2")
    await cluster.settle(6)
    assert "retryAt" in (await cluster.status())["candidate"]
    assert {app["name"] for app in cluster.serve.puts[-1]["applications"]} == {"digits-r1"}
    puts = len(cluster.serve.puts)
    match way:
        case "edit":
            await cluster.roll_out(3)
        case "back":
            await cluster.apply()
        case _:
            await cluster.command("abort revision=2 id=a")
    await cluster.settle(15)
    status = await cluster.status()
    assert (status.get("candidate") or {}).get("revision") == (3 if way == "edit" else None)
    assert status["retiring"] == []
    asked = {app["name"] for put in cluster.serve.puts[puts:] for app in put["applications"]}
    assert asked == ({"digits-r1", "digits-r3"} if way == "edit" else set())


async def test_a_model_that_stays_missing_ends_at_the_progress_deadline(cluster: Cluster) -> None:
    cluster.serve.failures["file:///models/late"] = ("ModelNotFound", "/models/late does not exist")
    await cluster.deploy()
    await cluster.apply("file:///models/late")
    await cluster.settle(100, seconds=10)
    assert await cluster.condition("Stalled") == ("True", "Aborted")
    assert (
        "ProgressDeadlineExceeded: not ready within 15m, spec.rollout.progressDeadline: revision 2: /models/late does not exist"
        in (await cluster.status())["lastRollout"]["reason"]
    )
    assert await cluster.condition("RevisionReady") == ("False", "ModelNotFound")


async def test_a_first_revision_that_fails_is_mended_by_an_edit(cluster: Cluster) -> None:
    cluster.serve.failures["file:///models/bad"] = ("EntrypointMissing", "net.py has no attribute Net")
    await cluster.apply("file:///models/bad")
    await cluster.settle(20)
    assert (await cluster.events()).count("EntrypointMissing") == 1
    assert await cluster.condition("Ready") == ("False", "EntrypointMissing")
    assert await cluster.condition("Stalled") == ("True", "EntrypointMissing")
    await cluster.apply("file:///models/v1")
    await cluster.until_serves(2)


async def test_a_new_revision_replaces_the_candidate(cluster: Cluster) -> None:
    await cluster.start_canary()
    await cluster.roll_out(3)
    await cluster.settle(40)
    assert await cluster.weights() == {1: 75, 3: 25}
    assert (await cluster.experiment("digits-r2"))["status"]["phase"] == "Stopped"
    assert [app["name"] for app in cluster.serve.puts[-1]["applications"]] == ["digits-r1", "digits-r3"]


async def test_going_back_to_the_stable_content_ends_the_rollout_and_makes_no_revision(cluster: Cluster) -> None:
    await cluster.start_canary()
    await cluster.apply("file:///models/v1")
    await cluster.settle(40)
    assert await cluster.weights() == {1: 100}
    assert await cluster.condition("Promoted") == ("True", "Promoted")
    assert await cluster.condition("Stalled") == ("Absent", "")
    assert (await cluster.status())["lastRollout"]["outcome"] == "Superseded"


async def test_recreate_switches_once_the_new_revision_can_carry_everything(cluster: Cluster) -> None:
    await cluster.deploy(rollout={"strategy": "recreate"}, replicas=3)
    await cluster.deploy(2, rollout={"strategy": "recreate"}, replicas=3)
    assert cluster.serve.running("digits-r2") == 3
    assert {tuple(w.items()) for w in cluster.edges.weights_seen if w} <= {
        (("digits-r1", 100),),
        (("digits-r1", 100), ("digits-r2", 0)),
        (("digits-r2", 100),),
    }


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"baseline": {"uri": "file:///models/v1"}}, "NotYetSupported"),
        ({"autoscaling": {"minReplicas": 4, "maxReplicas": 3}}, "InvalidSpec"),
        ({"replicas": "three"}, "InvalidSpec"),
        ({"model": {"uri": "ftp://models/v2"}}, "InvalidSpec"),
        ({"model": {"uri": "pvc://models/v2"}}, "NotYetSupported"),
        ({"resources": {"gpu": {"count": 1}}}, "NotYetSupported"),
        ({"rollout": {"strategy": "recreate", "bake": {}}}, "InvalidSpec"),
    ],
)
async def test_a_refused_spec_changes_nothing_that_serves(
    cluster: Cluster, spec: dict[str, object], reason: str
) -> None:
    await cluster.deploy(runtime={"userConfig": {"temperature": 2}})
    deployed, weights = cluster.serve.puts[-1], len(cluster.edges.weights_seen)
    await cluster.apply("file:///models/v2", **spec)
    await cluster.settle(30)
    assert await cluster.condition("SpecAccepted") == ("False", reason)
    assert await cluster.condition("Stalled") == ("True", reason)
    assert await cluster.condition("Ready") == ("True", "Serving")
    assert cluster.serve.puts[-1] == deployed
    assert len(cluster.edges.weights_seen) == weights


async def test_a_bake_that_was_stored_beside_recreate_holds_up_what_is_mended_no_longer(cluster: Cluster) -> None:
    """Older versions accepted it, and refused to act on it."""
    await cluster.deploy()
    await cluster.apply("file:///models/v2", rollout={"strategy": "recreate", "bake": {}}, replicas=2)
    await cluster.settle(5)
    reasons = [each["message"] for each in (await cluster.status())["conditions"] if each["type"] == "SpecAccepted"]
    assert "spec.rollout.bake: bake with strategy: recreate; expected none" in reasons[0]
    cluster.serve.crash_replicas("digits-r1")
    await cluster.until_serves(1)
    assert await cluster.weights() == {1: 100}
    await cluster.deploy(2, rollout={"strategy": "recreate"}, replicas=2)


async def test_ray_being_silent_keeps_the_split_and_ready(cluster: Cluster) -> None:
    await cluster.start_canary()
    cluster.serve.down = True
    await cluster.settle(120)
    assert await cluster.weights() == {1: 75, 2: 25}
    assert await cluster.condition("Ready") == ("True", "Serving")
    assert (await cluster.condition("RevisionReady"))[0] == "Unknown"
    cluster.serve.down = False
    cluster.serve.forgotten = True
    await cluster.promote()


async def test_a_candidate_that_loses_its_replicas_is_rolled_back(cluster: Cluster) -> None:
    await cluster.start_canary()
    cluster.serve.failures["file:///models/v2"] = ("DeployFailed", "out of memory")
    await cluster.settle(60)
    assert await cluster.weights() == {1: 100}
    assert await cluster.condition("Stalled") == ("True", "Aborted")


async def test_a_candidate_whose_replicas_crash_for_long_is_rolled_back(cluster: Cluster) -> None:
    await cluster.start_canary()
    for _ in range(69):
        cluster.serve.crash_replicas("digits-r2")
        await cluster.settle(2)
        assert await cluster.weights() == {1: 75, 2: 25}, "a restart of two minutes costs nothing"
    cluster.serve.crash_replicas("digits-r2")
    await cluster.settle(8)
    assert await cluster.weights() == {1: 100}
    assert "CandidateUnavailable" in (await cluster.status())["lastRollout"]["reason"]


async def test_a_cluster_that_starts_anew_does_not_cost_the_candidate_its_rollout(cluster: Cluster) -> None:
    await cluster.start_canary()
    for _ in range(30):
        cluster.serve.crash_replicas("digits-r1")
        cluster.serve.crash_replicas("digits-r2")
        await cluster.settle(2)
    assert (await cluster.condition("Ready"))[0] == "False"
    await cluster.settle(10)
    assert await cluster.weights() == {1: 75, 2: 25}
    assert await cluster.condition("Ready") == ("True", "Serving")


async def test_an_edge_that_takes_no_split_stops_the_rollout_and_is_named(cluster: Cluster) -> None:
    await cluster.deploy()
    await cluster.add_edge("sundog-edge-1")
    await cluster.settle(10)
    await cluster.roll_out()
    await cluster.settle(10)
    cluster.edges.stale.add("sundog-edge-1")
    await cluster.command("promote revision=2 id=a full=true")
    await cluster.settle(60)
    status = await cluster.status()
    assert status["stable"]["revision"] == 2
    assert [retiring["revision"] for retiring in status["retiring"]] == [1]
    assert cluster.serve.running("digits-r1") > 0
    synced = next(c for c in status["conditions"] if c["type"] == "TrafficSynced")
    assert (synced["status"], synced["reason"]) == ("False", "EdgeNotConfirmed")
    assert "sundog-edge-1 has attempt" in synced["message"]
    cluster.edges.stale.clear()
    await cluster.settle(20)
    assert cluster.serve.running("digits-r1") == 0


@pytest.mark.parametrize("in_flight", [{"digits-r1": 1}, None], ids=["some", "not read by the edge"])
async def test_requests_in_flight_keep_a_revision_to_a_deadline(
    cluster: Cluster, in_flight: dict[str, int] | None
) -> None:
    await cluster.deploy(rollout={"strategy": "recreate"})
    cluster.edges.in_flight = in_flight
    await cluster.deploy(2, rollout={"strategy": "recreate"})
    await cluster.settle(25)
    assert cluster.serve.running("digits-r1") == 1
    await cluster.settle(20)
    assert cluster.serve.running("digits-r1") == 0


async def test_a_canary_gets_the_replicas_for_its_weight_before_the_weight(cluster: Cluster) -> None:
    await cluster.start_canary(replicas=4)
    assert (await cluster.status())["candidate"]["replicas"] == 1
    await cluster.command("promote revision=2 id=a")
    await cluster.until_weight(2, 50)
    assert cluster.serve.running("digits-r2") == 2
    await cluster.command("promote revision=2 id=b")
    await cluster.until_serves(2)
    assert cluster.serve.running("digits-r2") == 4


@pytest.mark.parametrize(
    "after", [{}, {"greedy": True}, {"temperature": 3}, {"greedy": 1, "temperature": 3, "beams": 2}]
)
async def test_a_user_config_and_replicas_apply_in_place(cluster: Cluster, after: dict[str, object]) -> None:
    before = {"greedy": 1, "temperature": 3}
    await cluster.deploy(runtime={"userConfig": before})
    await cluster.apply("file:///models/v1", replicas=2, runtime={"userConfig": after})
    await cluster.settle(15)
    (app,) = cluster.serve.puts[-1]["applications"]
    (deployment,) = app["deployments"]
    assert (app["name"], deployment["num_replicas"]) == ("digits-r1", 2)
    found = deployment["user_config"]["userConfig"]
    assert json.dumps(found, sort_keys=True) == json.dumps(after, sort_keys=True)
    assert await cluster.condition("Promoted") == ("True", "Promoted")


async def test_replicas_that_are_on_their_way_are_looked_at_often(cluster: Cluster) -> None:
    await cluster.deploy()
    key = Key("modeldeployment", NAMESPACE, NAME)
    calm = await reconcile_model_deployment(cluster.world, key)
    assert calm is not None
    await cluster.apply(replicas=2)
    await cluster.round()
    soon = await reconcile_model_deployment(cluster.world, key)
    assert soon is not None
    assert soon < calm / 10
    await cluster.settle(10)
    assert (await cluster.status())["readyReplicas"] == 2
    assert await reconcile_model_deployment(cluster.world, key) == calm


async def test_two_deployments_share_a_cluster_and_one_edge(cluster: Cluster) -> None:
    await cluster.deploy()
    await cluster.apply("file:///models/w1", name="words")
    await cluster.settle(30)
    assert [app["name"] for app in cluster.serve.puts[-1]["applications"]] == ["digits-r1", "words-r1"]
    assert await cluster.condition("Ready", "words") == ("True", "Serving")
    await cluster.kube.delete(MODEL)
    await cluster.settle(10)
    assert [app["name"] for app in cluster.serve.puts[-1]["applications"]] == ["words-r1"]


async def test_after_the_last_deployment_nothing_is_left(cluster: Cluster) -> None:
    await cluster.deploy()
    await cluster.kube.delete(MODEL)
    await cluster.settle(5)
    kinds = (CONTROLLER_REVISION, EXPERIMENT, CONFIG_MAP, DEPLOYMENT, RAY_CLUSTER)
    assert [await cluster.kube.list(kind) for kind in kinds] == [[], [], [], [], []]


async def test_a_foreign_object_is_neither_adopted_nor_deleted(cluster: Cluster) -> None:
    foreign = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "sundog-edge", "namespace": "vision"},
        "data": {"theirs": "yes"},
    }
    await cluster.kube.create(foreign)
    await cluster.apply()
    await cluster.settle(20)
    assert await cluster.condition("SpecAccepted") == ("False", "NotOwned")
    stored = await cluster.read(Ref(CONFIG_MAP, "vision", "sundog-edge"))
    assert stored["data"] == {"theirs": "yes"}
    assert await cluster.kube.list(RAY_CLUSTER) == []
    await cluster.kube.delete(Ref(CONFIG_MAP, "vision", "sundog-edge"))
    await cluster.settle(60)
    assert await cluster.condition("Ready") == ("True", "Serving")


async def test_a_split_is_not_called_late_because_nothing_served_for_long(cluster: Cluster) -> None:
    cluster.serve.start_s = 40
    await cluster.apply()
    seen = set()
    while not await cluster.serves(1):
        await cluster.round()
        seen.add(await cluster.condition("TrafficSynced"))
    assert ("Unknown", "Confirming") in seen
    assert ("False", "EdgeNotConfirmed") not in seen


async def test_at_the_fixpoint_nothing_is_written(cluster: Cluster) -> None:
    await cluster.deploy()
    await cluster.settle(30)
    before = len(cluster.kube.writes)
    puts = len(cluster.serve.puts)
    await cluster.settle(200)
    assert (len(cluster.kube.writes), len(cluster.serve.puts)) == (before, puts)


async def test_a_host_of_another_is_named_and_does_not_stop_the_edge(cluster: Cluster) -> None:
    await cluster.deploy()
    await cluster.apply("file:///models/w1", name="words", endpoint={"host": "digits.vision.svc"})
    await cluster.settle(30)
    assert await cluster.condition("SpecAccepted", "words") == ("False", "HostTaken")
    hosts = [host for service in cluster.edges.in_force()[0]["services"] for host in service["hosts"]]
    assert len(hosts) == len(set(hosts))
    assert await cluster.condition("Ready", "words") == ("True", "Serving")


async def test_an_abort_reaches_the_edges_while_the_head_of_ray_is_gone(cluster: Cluster) -> None:
    await cluster.start_canary()
    ref = Ref(RAY_CLUSTER, NAMESPACE, "sundog-0")
    await cluster.set_status(ref, {"conditions": []})
    await cluster.command("abort revision=2 id=x")
    await cluster.settle(10)
    service = cluster.edges.in_force()[0]["services"][0]
    assert [(arm["application"], arm["weight"]) for arm in service["arms"]] == [("digits-r1", 100)]
