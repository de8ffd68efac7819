"""Whole Experiments of users: through planner, statuses, split document and traffic, in memory."""

import functools
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from doubles.cluster import NAME, NAMESPACE, Cluster, model_deployment
from doubles.experiments import (
    FINE,
    WIDE,
    Json,
    condition,
    counts,
    in_phase,
    message,
    named_arms,
    running,
    serving,
    status,
    until_phase,
    user_experiment,
)
from doubles.serve import FakeServe
from doubles.traffic import Answers
from sundog_operator.api.installation import parse_installation
from sundog_operator.app.controller import RECONCILERS
from sundog_operator.app.queue.keys import Key
from sundog_operator.errors import Conflict
from sundog_operator.ports import CONTROLLER_REVISION, EXPERIMENT, MODEL_DEPLOYMENT, Ref


async def phase(cluster: Cluster, name: str = WIDE) -> str:
    return str((await status(cluster, name)).get("phase"))


def weights(experiment_status: Json) -> dict[str, float]:
    return {arm["name"]: arm["weight"] for arm in experiment_status["arms"]}


async def settled(cluster: Cluster) -> bool:
    """Return whether no part of an Experiment is left on the ModelDeployment."""
    status = await cluster.status()
    return not status["retiring"] and not status["experiment"] and "arms" not in status


async def test_an_experiment_runs_until_it_is_stopped() -> None:
    cluster = await running()
    experiment_status = await status(cluster)
    assert weights(experiment_status) == {"stable": 60, "control": 20, "wide": 20}
    assert [arm["revision"] for arm in experiment_status["arms"]] == [1, 1, 2]
    deployment = await cluster.status()
    assert (deployment["experiment"], deployment["stable"]["weight"]) == (WIDE, 80)
    assert [(arm["name"], arm["revision"], arm["weight"]) for arm in deployment["arms"]] == [("wide", 2, 20)]
    await cluster.go_on(5, functools.partial(counts, cluster))
    await cluster.go_on(5)
    experiment_status = await status(cluster)
    assert condition(experiment_status, "Ready") == ("True", "Running")
    assert condition(experiment_status, "DataQuality") == ("True", "Consistent")
    assert {each["name"] for each in experiment_status["metrics"]} == {"errorRate", "rejections", "retries"}
    assert all(arm["requests"] for arm in experiment_status["arms"])
    await cluster.kube.apply(user_experiment(stopped=True))
    await until_phase(cluster, "Stopped")
    await cluster.until(functools.partial(settled, cluster))
    experiment_status = await status(cluster)
    assert condition(experiment_status, "Ready") == ("True", "Stopped")
    assert experiment_status["verdict"] == {
        "decision": "Undecided",
        "winner": "",
        "reason": "StoppedByUser: spec.stopped is true",
        "code": "StoppedByUser",
    }
    assert cluster.serve.running("digits-r2") == 0
    assert await cluster.weights() == {1: 100}


async def test_requests_of_its_arms_outlive_the_edge_that_counted_them() -> None:
    cluster = await serving()
    await cluster.kube.apply(user_experiment())
    await cluster.go_on(5, functools.partial(counts, cluster))
    await cluster.go_on(3)
    await cluster.replace_edge("sundog-edge-0", "sundog-edge-1")
    await cluster.go_on(1)
    cluster.edges.traffic.rps[NAME] = 0
    await cluster.go_on(1.5)
    came, uid = Counter[str](), (await cluster.experiment(WIDE))["metadata"]["uid"]
    for place, requests in cluster.edges.traffic.assigned.items():
        # In epoch 0, before the arms had traffic, stable had all requests.
        came[place.arm] += requests if place.attempt == uid and place.epoch > 0 else 0
    arms = (await status(cluster))["arms"]
    assert {arm["name"]: arm["requests"] for arm in arms} == {arm["name"]: came[arm["name"]] for arm in arms}
    assert min(arm["requests"] for arm in arms) > 1000


async def test_one_that_is_made_anew_while_a_pass_goes_on_begins_at_the_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = await running()
    first, count, replaced = await cluster.experiment(WIDE), cluster.world.edges.count, []

    async def counted_meanwhile(*args: Any, **options: Any) -> Any:
        if not replaced:
            await cluster.outside(replace)
        return await count(*args, **options)

    async def replace() -> None:
        await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, WIDE))
        replaced.append(await cluster.kube.create(user_experiment(exposure="20%")))

    monkeypatch.setattr(cluster.world.edges, "count", counted_meanwhile)
    with pytest.raises(Conflict):
        await RECONCILERS["modeldeployment"](cluster.world, Key("modeldeployment", NAMESPACE, NAME))
    assert replaced
    second = await cluster.experiment(WIDE)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert "plan" not in (second.get("status") or {})
    await until_phase(cluster, "Running")
    assert weights(await status(cluster)) == {"stable": 80, "control": 10, "wide": 10}


async def test_an_event_is_reported_though_somebody_else_wrote_the_deployment_meanwhile() -> None:
    cluster = await serving()
    refused: list[str] = []

    def fault(verb: str, ref: Ref) -> Exception | None:
        """An autoscaler writes during the pass that starts the Experiment."""
        stored = cluster.kube.store.get(Ref(EXPERIMENT, NAMESPACE, WIDE)) or {}
        if ref.kind != MODEL_DEPLOYMENT or verb != "status" or refused:
            return None
        if (stored.get("status") or {}).get("phase") != "Running":
            return None
        refused.append(verb)
        return Conflict("an autoscaler was faster")

    cluster.kube.faults = fault
    await cluster.kube.apply(user_experiment())
    await until_phase(cluster, "Running")
    await cluster.settle(3)
    assert refused
    assert "ExperimentRunning" in await cluster.events()


async def test_an_arm_that_fails_more_is_dropped_and_the_others_go_on() -> None:
    arms = named_arms("good", "bad")
    cluster = await serving(rps=100)
    cluster.edges.traffic.answers["digits-r3"] = Answers(errors=0.08)
    await cluster.kube.apply(user_experiment(arms=arms, exposure="60%"))
    await until_phase(cluster, "Running")
    before = await status(cluster)

    async def dropped() -> bool:
        return any("dropped" in arm for arm in (await status(cluster))["arms"])

    assert await cluster.go_on(30, dropped)
    experiment_status = await status(cluster)
    bad = next(arm for arm in experiment_status["arms"] if arm["name"] == "bad")
    assert re.match(
        r"Harm: arm bad: errorRate: \d+ of \d+ requests of arm bad failed in its first \d+ s", bad["dropped"]
    )
    assert weights(experiment_status) == {"stable": 60, "control": 20, "good": 20, "bad": 0}
    ranges = {arm["name"]: arm["ranges"] for arm in before["arms"]}
    now = {arm["name"]: arm["ranges"] for arm in experiment_status["arms"]}
    assert now["control"] == ranges["control"]
    assert now["good"] == ranges["good"]
    await cluster.go_on(3)
    assert await phase(cluster) == "Running"
    assert [arm["name"] for arm in (await cluster.status())["arms"]] == ["good"]
    assert cluster.serve.running("digits-r3") == 0
    assert "ArmDropped" in await cluster.events()
    document = cluster.edges.in_force()[-1]["services"][0]
    assert [arm["name"] for arm in document["arms"]] == ["stable", "control", "good"]
    harm = [each for each in (await status(cluster))["metrics"] if each["arm"] == "bad"]
    assert {each["verdict"] for each in harm if each["name"] == "errorRate"} == {"Harm"}


async def test_each_arm_is_dropped_by_the_latency_that_it_is_slow_by() -> None:
    arms = named_arms("median", "slowest", "fine")
    cluster = await serving(rps=100)
    cluster.edges.traffic.answers["digits-r2"] = replace(FINE, median_ms=30, spread=0.2)
    cluster.edges.traffic.answers["digits-r3"] = replace(FINE, lingering=0.05)
    guardrails = [{"metric": "errorRate"}, {"metric": "latencyP99"}, {"metric": "latencyP50"}]
    await cluster.kube.apply(user_experiment(arms=arms, exposure="60%", metrics={"guardrails": guardrails}))

    async def both_dropped() -> bool:
        return sum("dropped" in arm for arm in (await status(cluster)).get("arms", ())) == 2

    assert await cluster.go_on(60, both_dropped), await status(cluster)
    experiment_status = await status(cluster)
    dropped = {arm["name"]: arm.get("dropped", "") for arm in experiment_status["arms"]}
    assert dropped["median"].startswith("Harm: arm median: latencyP50 (answers above ")
    assert dropped["slowest"].startswith("Harm: arm slowest: latencyP99 (answers above ")
    assert not dropped["fine"]
    harmed = {(each["arm"], each["name"]) for each in experiment_status["metrics"] if each["verdict"] == "Harm"}
    assert harmed == {("median", "latencyP50"), ("slowest", "latencyP99")}


async def test_with_no_arm_left_it_is_concluded_with_harm() -> None:
    cluster = await serving(rps=100)
    cluster.edges.traffic.answers["digits-r2"] = Answers(errors=0.9)
    await cluster.kube.apply(user_experiment())
    assert await cluster.go_on(6, functools.partial(in_phase, cluster, "Concluded"))
    await cluster.until(functools.partial(settled, cluster))
    experiment_status = await status(cluster)
    assert (experiment_status["verdict"]["decision"], experiment_status["verdict"]["winner"]) == ("Harm", "")
    assert condition(experiment_status, "Conclusive") == ("True", "Harm")
    assert condition(experiment_status, "Ready") == ("True", "Concluded")
    assert experiment_status["verdict"]["reason"].startswith(
        "Harm: all arms were dropped: arm wide: Harm: arm wide: errorRate: "
    )


async def test_an_arm_that_changes_nothing_has_a_revision_and_replicas_of_its_own() -> None:
    cluster = await running(user_experiment(arms=[{"name": "again"}, {"name": "oncemore"}], exposure="90%"), replicas=2)
    experiment_status = await status(cluster)
    assert {arm["name"]: arm["revision"] for arm in experiment_status["arms"]} == {
        "stable": 1,
        "control": 1,
        "again": 2,
        "oncemore": 3,
    }
    stored = await cluster.kube.list(CONTROLLER_REVISION, NAMESPACE)
    assert len({each["data"]["hash"] for each in stored}) == 3
    assert len({str(each["data"]["content"]) for each in stored}) == 1
    assert cluster.serve.running("digits-r2") == cluster.serve.running("digits-r3") == 2
    await cluster.settle(20)
    # The spec still stands for revision 1, although other revisions have its content.
    assert await cluster.condition("Promoted") == ("True", "Promoted")
    assert (await cluster.status())["stable"]["revision"] == 1


async def test_the_oldest_goes_first_and_the_others_wait() -> None:
    cluster = await serving()
    names = ["b-first", "a-second", "c-third"]
    for name in names:
        await cluster.kube.apply(user_experiment(name))
        cluster.clock.advance(2)
    await until_phase(cluster, "Running", "b-first")
    assert [await phase(cluster, name) for name in names] == ["Running", "Queued", "Queued"]
    experiment_status = await status(cluster, "a-second")
    assert condition(experiment_status, "Running") == ("False", "Queued")
    assert message(experiment_status, "Ready") == "waits until Experiment b-first has ended"
    await cluster.kube.apply(user_experiment("b-first", stopped=True))
    await until_phase(cluster, "Running", "a-second")
    await cluster.kube.apply(user_experiment("c-third", stopped=True))
    await until_phase(cluster, "Stopped", "c-third")
    assert [await phase(cluster, name) for name in names] == ["Stopped", "Running", "Stopped"]


async def test_a_deleted_experiment_gives_all_traffic_back() -> None:
    cluster = await running()
    await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, WIDE))
    await cluster.until(functools.partial(settled, cluster))
    assert await cluster.weights() == {1: 100}
    assert cluster.serve.running("digits-r2") == 0
    # Replicas stopped only after no edge sent them requests.
    assert await cluster.condition("TrafficSynced") == ("True", "InForce")


async def test_an_arm_that_cannot_start_fails_the_experiment_with_its_cause() -> None:
    cluster = await serving()
    cluster.serve.failures = {"file:///models/v2": ("LoadFailed", "size mismatch")}
    await cluster.kube.apply(user_experiment())
    await until_phase(cluster, "Stopped")
    experiment_status = await status(cluster)
    assert experiment_status["verdict"]["reason"] == "LoadFailed: arm wide: revision 2: size mismatch"
    assert condition(experiment_status, "Ready") == ("False", "LoadFailed")
    assert condition(experiment_status, "Stalled") == ("True", "LoadFailed")
    await cluster.until(functools.partial(settled, cluster))
    assert all(weight.get("digits-r2", 0) == 0 for weight in cluster.edges.weights_seen)


async def test_an_arm_that_may_start_later_is_tried_again_until_the_deadline() -> None:
    cluster = await serving(rollout={"progressDeadline": "1m"})
    cluster.serve.failures = {"file:///models/v2": ("ModelNotFound", "no such directory")}
    await cluster.kube.apply(user_experiment())
    await cluster.settle(20)
    experiment_status = await status(cluster)
    assert experiment_status["phase"] == "Pending"
    ready = message(experiment_status, "Ready")
    assert (ready.startswith("arm wide: 0 of 1 replicas"), ready.endswith("no such directory")) == (True, True)
    await until_phase(cluster, "Stopped")
    reason = (await status(cluster))["verdict"]["reason"]
    assert reason.startswith("ProgressDeadlineExceeded: arm wide: revision 2: not ready within 1m")
    assert reason.endswith("no such directory")


@pytest.mark.parametrize("policy", ["wait", "stop"])
async def test_a_new_revision_waits_or_ends_the_experiment(policy: str) -> None:
    rollout = {"steps": [{"weight": 25, "gate": "manual"}], "duringExperiment": policy}
    cluster = await running(rollout=rollout)
    await cluster.apply("file:///models/v9", rollout=rollout)
    await cluster.settle(10)
    if policy == "wait":
        assert await cluster.condition("Progressing") == ("False", "ExperimentRunning")
        assert (await cluster.status())["queued"] == 3
        assert await phase(cluster) == "Running"
        await cluster.kube.apply(user_experiment(stopped=True))
    await cluster.until_weight(3, 25)
    assert await phase(cluster) == "Stopped"
    if policy == "stop":
        assert (await status(cluster))["verdict"]["reason"].startswith("Superseded: revision 3 rolls out")


async def test_an_experiment_waits_for_a_rollout() -> None:
    cluster = await serving(rollout={"steps": [{"weight": 25, "gate": "manual"}]})
    await cluster.apply("file:///models/v9", rollout={"steps": [{"weight": 25, "gate": "manual"}]})
    await cluster.until_weight(2, 25)
    await cluster.kube.apply(user_experiment())
    await cluster.settle(5)
    assert await phase(cluster) == "Queued"
    await cluster.command("promote revision=2 id=a full=true")
    await until_phase(cluster, "Running")
    assert [arm["revision"] for arm in (await status(cluster))["arms"]] == [2, 2, 3]


async def test_an_edit_that_would_change_the_plan_is_refused_and_what_runs_goes_on() -> None:
    cluster = await running()
    before = (await status(cluster))["plan"]
    await cluster.kube.apply(user_experiment(exposure="80%", alpha=0.1))
    await cluster.settle(5)
    experiment_status = await status(cluster)
    assert condition(experiment_status, "SpecAccepted") == ("False", "PlanFrozen")
    assert condition(experiment_status, "Stalled") == ("True", "PlanFrozen")
    assert condition(experiment_status, "Ready") == ("True", "Running")
    frozen = "spec.exposure or spec.weights, spec.alpha: cannot be changed while it runs"
    assert message(experiment_status, "SpecAccepted").startswith(frozen)
    assert (experiment_status["plan"], weights(experiment_status)["wide"]) == (before, 20)
    await cluster.kube.apply(user_experiment())
    await cluster.settle(5)
    assert condition(await status(cluster), "SpecAccepted") == ("True", "Accepted")
    latencies = [{"metric": "latencyP50"}, {"metric": "latencyP99"}]
    await cluster.kube.apply(user_experiment(metrics={"guardrails": latencies}))
    await cluster.settle(5)
    experiment_status = await status(cluster)
    assert condition(experiment_status, "SpecAccepted") == ("False", "PlanFrozen")
    assert await phase(cluster) == "Running"


async def test_what_runs_with_a_spec_that_is_refused_since_goes_on_until_that_says_stopped() -> None:
    cluster = await running()
    await cluster.kube.apply(user_experiment(exposure="0%"))
    await cluster.go_on(3)
    experiment_status = await status(cluster)
    assert condition(experiment_status, "SpecAccepted") == ("False", "InvalidSpec")
    assert condition(experiment_status, "Ready") == ("True", "Running")
    assert weights(experiment_status) == {"stable": 60, "control": 20, "wide": 20}
    await cluster.kube.apply(user_experiment(exposure="0%", stopped=True))
    await until_phase(cluster, "Stopped")
    await cluster.until(functools.partial(settled, cluster))
    assert (await status(cluster))["verdict"]["reason"] == "StoppedByUser: spec.stopped is true"


@pytest.mark.parametrize("is_served", [True, False])
async def test_one_with_a_refused_spec_that_is_stopped_ends_before_it_begins(is_served: bool) -> None:
    """With a ModelDeployment and without one; `stopped` has precedence over what is missing or refused."""
    cluster = await serving() if is_served else Cluster()
    await cluster.kube.apply(user_experiment(exposure="0%"))
    await cluster.settle(3)
    assert condition(await status(cluster), "Stalled") == ("True", "InvalidSpec")
    await cluster.kube.apply(user_experiment(exposure="0%", stopped=True))
    await cluster.settle(20)
    experiment_status = await status(cluster)
    assert (experiment_status["phase"], experiment_status["verdict"]["code"]) == ("Stopped", "StoppedByUser")
    assert condition(experiment_status, "Stalled")[0] == "Absent"
    assert condition(experiment_status, "Ready") == ("True", "Stopped")
    assert condition(experiment_status, "SpecAccepted") == ("False", "InvalidSpec")


def configs(cluster: Cluster) -> dict[str, Json]:
    """Return the `userConfig` of each revision's replicas."""
    applications = cluster.serve.puts[-1]["applications"]
    return {app["name"]: app["deployments"][0]["user_config"]["userConfig"] for app in applications}


async def test_arms_may_differ_by_their_config_alone() -> None:
    own: list[Json] = [{"userConfig": {"threshold": 0.7}}, {"userConfig": {}}]
    arms = [{"name": f"a{number}", "runtime": runtime} for number, runtime in enumerate(own)]
    cluster = await running(
        user_experiment(arms=[*arms, {"name": "same"}], exposure="80%"), runtime={"userConfig": {"threshold": 0.5}}
    )
    with_own = {"digits-r2": {"threshold": 0.7}, "digits-r3": {}}
    before = {"threshold": 0.5}
    assert configs(cluster) == {"digits-r1": before, **with_own, "digits-r4": before}
    after = {"threshold": 0.6}
    await cluster.apply(runtime={"userConfig": after})
    await cluster.go_on(3)
    assert configs(cluster) == {"digits-r1": after, **with_own, "digits-r4": after}
    assert await phase(cluster) == "Running"
    await cluster.kube.apply(user_experiment(arms=[*arms, {"name": "same"}], exposure="80%", stopped=True))
    await cluster.until(functools.partial(settled, cluster))
    assert configs(cluster) == {"digits-r1": after}


async def test_another_config_of_an_arm_is_another_plan() -> None:
    cluster = await serving()
    arm: Json = {"name": "wide", "runtime": {"userConfig": {"threshold": 0.7}}}
    await cluster.kube.apply(user_experiment(arms=[arm]))
    await until_phase(cluster, "Running")
    await cluster.kube.apply(user_experiment(arms=[{**arm, "runtime": {"userConfig": {"threshold": 0.8}}}]))
    await cluster.go_on(2)
    experiment_status = await status(cluster)
    assert condition(experiment_status, "SpecAccepted") == ("False", "PlanFrozen")
    assert configs(cluster)["digits-r2"] == {"threshold": 0.7}


async def test_a_rollback_by_command_ends_the_experiment_first() -> None:
    rollout = {"strategy": "recreate"}
    cluster = await serving(rollout=rollout)
    await cluster.apply("file:///models/v9", rollout=rollout)
    await cluster.until_serves(2)
    await cluster.settle(20)
    await cluster.kube.apply(user_experiment())
    await until_phase(cluster, "Running")
    await cluster.command("rollback revision=1 id=back")
    await cluster.until_serves(1)
    assert await phase(cluster) == "Stopped"
    assert (await status(cluster))["verdict"]["reason"].startswith("RolledBack: rollback to revision 1 by command")
    await cluster.until(functools.partial(settled, cluster))


async def test_a_stop_command_ends_it() -> None:
    cluster = await serving()
    assert await cluster.answer("stop revision=1 id=none") == (
        "Rejected",
        "no Experiment is under way: there is nothing to stop",
    )
    await cluster.kube.apply(user_experiment())
    await until_phase(cluster, "Running")
    why = "revision 7 is not the control of Experiment wide-or-narrow; expected revision 1"
    assert await cluster.answer("stop revision=7 id=wrong") == ("Rejected", why)
    result, why = await cluster.answer("abort revision=2 id=abort")
    assert (result, "Experiment wide-or-narrow" in why) == ("Rejected", True)
    assert await phase(cluster) == "Running"
    await cluster.command("stop revision=1 id=right")
    await until_phase(cluster, "Stopped")
    assert (await status(cluster))["verdict"]["reason"] == "StopCommand: by command"


@pytest.mark.parametrize("command", ["stop revision=1 id=c", "rollback revision=1 id=c"])
async def test_a_command_that_ended_it_is_accepted_although_the_status_was_not_written(command: str) -> None:
    """The Experiment is written first. If the next write fails, nothing is under way in the next pass."""
    cluster = await serving()
    if command.startswith("stop"):
        await cluster.kube.apply(user_experiment())
        await until_phase(cluster, "Running")
    else:
        await cluster.roll_out()
    faults = [Conflict("somebody else wrote")]
    cluster.kube.faults = lambda verb, ref: (
        faults.pop() if faults and (verb, ref.kind) == ("status", MODEL_DEPLOYMENT) else None
    )
    await cluster.command(command)
    await cluster.settle(5)
    assert not faults
    assert (await cluster.status())["lastCommand"]["result"] == "Accepted"
    await cluster.until_serves(1)


@pytest.mark.parametrize(("stop", "reason"), [({"maxDuration": "6m"}, "MaxDuration"), ({"maxUnits": 5000}, "MaxUnits")])
async def test_its_limits_end_it_without_a_verdict(stop: Json, reason: str) -> None:
    cluster = await serving()
    await cluster.kube.apply(user_experiment(stop=stop))
    assert await cluster.go_on(15, functools.partial(in_phase, cluster, "Concluded"))
    experiment_status = await status(cluster)
    assert experiment_status["verdict"]["decision"] == "Undecided"
    assert experiment_status["verdict"]["reason"].startswith(f"{reason}: ")
    assert condition(experiment_status, "Conclusive") == ("False", "Undecided")


async def test_one_without_its_model_deployment_says_so_and_begins_when_there_is_one() -> None:
    cluster = Cluster()
    await cluster.kube.apply(user_experiment())
    await cluster.settle(2)
    experiment_status = await status(cluster)
    assert condition(experiment_status, "Ready") == ("False", "ModelDeploymentNotFound")
    assert (
        "spec.modelDeployment: no ModelDeployment digits in namespace vision"
        in experiment_status["conditions"][0]["message"]
    )
    await cluster.apply()
    await until_phase(cluster, "Running")
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME))
    await until_phase(cluster, "Stopped")
    assert (await status(cluster))["verdict"]["reason"].startswith("ModelDeploymentNotFound: ")


async def test_a_status_that_is_lost_is_taken_up_again() -> None:
    cluster = await running()
    await cluster.settle(3)
    seen = len(cluster.edges.weights_seen)
    await cluster.lose_status()
    await cluster.settle(10)
    assert await phase(cluster) == "Running"
    assert [arm["revision"] for arm in (await cluster.status())["arms"]] == [2]
    assert len(cluster.edges.weights_seen) == seen


async def test_a_status_that_cannot_be_recovered_for_a_while_begins_nothing_anew() -> None:
    """The spec is refused meanwhile and the edge is silent, so nothing shows how many replicas serve."""
    cluster = await running()
    await cluster.go_on(5, functools.partial(counts, cluster))
    before = await status(cluster)
    await cluster.apply(replicas=-1)
    cluster.edges.silent.add("sundog-edge-0")
    await cluster.settle(3)
    await cluster.lose_status()
    await cluster.settle(5)
    assert "arms" not in await cluster.status()
    meanwhile = await status(cluster)
    assert (meanwhile["phase"], condition(meanwhile, "Running")) == (
        "Running",
        ("False", "WaitsForModelDeployment"),
    )
    cluster.edges.silent.clear()
    await cluster.apply()
    await cluster.settle(10)
    after = await status(cluster)
    assert (after["phase"], condition(after, "Running")) == ("Running", ("True", "Running"))
    assert after["epoch"]["number"] == before["epoch"]["number"]
    assert after["evidenceEpochs"] == before["evidenceEpochs"]


async def test_an_arm_that_equals_control_is_named_after_it_is_applied() -> None:
    cluster = await running(user_experiment(arms=[{"name": "alike"}]))
    assert condition(await status(cluster), "SpecAccepted") == ("True", "ArmsEqual")


async def test_a_salt_of_another_experiment_is_reported() -> None:
    cluster = await serving()
    await cluster.kube.apply(user_experiment(unit={"header": "x-user-id", "salt": "spring"}))
    await cluster.kube.apply(user_experiment("other", unit={"header": "x-user-id", "salt": "spring"}))
    await cluster.settle(20)
    assert condition(await status(cluster, "other"), "SpecAccepted") == ("True", "SaltReused")


async def test_a_salt_of_a_rollout_and_an_experiment_is_reported_while_both_have_it() -> None:
    cluster = await serving(rollout={"unit": {"header": "x-user-id", "salt": "spring"}})
    assert await cluster.condition("SpecAccepted") == ("True", "Accepted")
    await cluster.kube.apply(user_experiment(unit={"header": "x-account", "salt": "spring"}))
    await until_phase(cluster, "Running")
    assert condition(await status(cluster), "SpecAccepted") == ("True", "SaltReused")
    assert await cluster.condition("SpecAccepted") == ("True", "SaltReused")
    assert f"Experiment {WIDE} has the same salt" in await said_of_spec(cluster, NAME)
    await cluster.apply(rollout={"unit": {"header": "x-user-id", "salt": "autumn"}})
    await cluster.settle(2)
    assert condition(await status(cluster), "SpecAccepted") == ("True", "Accepted")
    assert await cluster.condition("SpecAccepted") == ("True", "Accepted")


async def test_a_salt_of_two_rollouts_is_reported_for_both_and_goes_with_one_of_them() -> None:
    salted = {"unit": {"header": "x-user-id", "salt": "spring"}}
    cluster = Cluster()
    await cluster.apply(rollout=salted)
    await cluster.kube.apply(model_deployment(name="letters", rollout=salted))
    await cluster.until_serves(1)
    await cluster.settle(5)
    assert await cluster.condition("SpecAccepted") == await cluster.condition("SpecAccepted", "letters")
    assert "ModelDeployment letters has the same salt" in await said_of_spec(cluster, NAME)
    assert "ModelDeployment digits has the same salt" in await said_of_spec(cluster, "letters")
    assert await cluster.condition("Ready") == ("True", "Serving")
    assert await cluster.condition("Stalled") == ("Absent", "")
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, "letters"))
    await cluster.settle(2)
    assert await cluster.condition("SpecAccepted") == ("True", "Accepted")


async def said_of_spec(cluster: Cluster, name: str) -> str:
    """Return the message of a ModelDeployment with another's salt."""
    status, reason, text = await cluster.read_condition("SpecAccepted", name)
    assert (status, reason) == ("True", "SaltReused")
    return text


async def test_a_pass_without_changes_beside_a_queued_experiment_writes_nothing() -> None:
    cluster = await serving(rps=0)
    for name in ("one", "two"):
        await cluster.kube.apply(user_experiment(name))
    await until_phase(cluster, "Running", "one")
    await cluster.settle(30)
    assert await cluster.writes_during(10, changed=True) == []


BY_LOAD: Json = {"minReplicas": 1, "maxReplicas": 12}
MOSTLY_WIDE: Json = {"exposure": "100%", "weights": {"control": 10, "wide": 90}}


async def scaled(**spec: Any) -> tuple[Cluster, FakeServe]:
    """An Experiment runs while Serve needs ten replicas for all traffic."""
    cluster = Cluster(installation=parse_installation("runtimeImage: example.com/runtime:1", "test"))
    await cluster.deploy(autoscaling=BY_LOAD)
    (serve,) = cluster.serve_apis.by_dashboard.values()
    serve.load("digits-r1", 10)
    await cluster.settle(6)
    await cluster.kube.apply(user_experiment(**spec))
    await until_phase(cluster, "Running")
    return cluster, serve


async def sizes(cluster: Cluster) -> list[int]:
    """Return the wanted replicas of stable and the arms."""
    status = await cluster.status()
    return [each["replicas"] for each in (status["stable"], *status["arms"])]


async def test_autoscaled_stable_keeps_replicas_for_all_traffic_until_it_has_that() -> None:
    cluster, serve = await scaled(**MOSTLY_WIDE)
    assert await sizes(cluster) == [10, 10]
    serve.load("digits-r1", 1)
    await cluster.settle(8)
    assert await sizes(cluster) == [10, 10]
    await cluster.kube.apply(user_experiment(**MOSTLY_WIDE, stopped=True))
    ran = []
    cluster.after_step = lambda: ran.append(serve.running("digits-r1"))
    await until_phase(cluster, "Stopped")
    await cluster.round()
    assert (await cluster.status())["retiring"] != []
    # All edges now send it all traffic, and Serve counts that.
    serve.load("digits-r1", 10)
    await cluster.until(functools.partial(settled, cluster))
    await cluster.settle(5)
    assert min(ran) == 10
    serve.load("digits-r1", 3)
    await cluster.settle(5)
    assert ((await cluster.status())["stable"]["replicas"], serve.running("digits-r1")) == (3, 3)


async def test_an_autoscaled_arm_grows_with_its_load_and_stable_with_a_larger_arm() -> None:
    cluster, serve = await scaled(**MOSTLY_WIDE)
    serve.load("digits-r1", 1)
    serve.load("digits-r2", 11)
    await cluster.settle(8)
    assert (serve.running("digits-r1"), serve.running("digits-r2")) == (11, 11)
    assert await sizes(cluster) == [11, 11]
    serve.load("digits-r2", 9)
    await cluster.settle(8)
    assert await sizes(cluster) == [11, 11], "as long as the experiment runs"


async def test_a_slow_autoscaled_arm_with_a_small_share_lets_no_other_grow() -> None:
    arms = named_arms("slow", "other")
    cluster, serve = await scaled(arms=arms, exposure="30%")
    assert await sizes(cluster) == [10, 2, 2]
    serve.load("digits-r2", 12)
    await cluster.settle(8)
    assert [serve.running(f"digits-r{number}") for number in (1, 2, 3)] == [10, 12, 2]
    assert await sizes(cluster) == [10, 2, 2]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [({"minReplicas": 11, "maxReplicas": 12}, [11, 11]), ({"minReplicas": 1, "maxReplicas": 4}, [4, 4])],
    ids=["more", "fewer"],
)
async def test_an_edit_of_its_bounds_counts_for_stable_and_arms_at_once(bounds: Json, expected: list[int]) -> None:
    cluster, serve = await scaled(**MOSTLY_WIDE)
    serve.load("digits-r1", 1)
    await cluster.apply(autoscaling=bounds)
    await cluster.settle(8)
    assert await sizes(cluster) == expected
    assert [serve.running("digits-r1"), serve.running("digits-r2")] == expected


async def test_a_claim_as_unit_waits_until_the_service_verifies_tokens() -> None:
    cluster = await serving()
    await cluster.kube.apply(user_experiment(unit={"jwtClaim": "sub"}))
    await cluster.settle(5)
    experiment_status = await status(cluster)
    assert condition(experiment_status, "SpecAccepted") == ("False", "InvalidSpec")
    assert message(experiment_status, "SpecAccepted") == (
        "spec.unit.jwtClaim: sub is read from verified tokens, and ModelDeployment digits has no"
        " endpoint.auth.jwt.jwksSecretName"
    )
    await cluster.apply(endpoint={"auth": {"jwt": {"jwksSecretName": "issuer"}}})
    await until_phase(cluster, "Running")
    (document,) = cluster.edges.in_force()
    assert document["services"][0]["unit"] == {"kind": "jwtClaim", "name": "sub"}
