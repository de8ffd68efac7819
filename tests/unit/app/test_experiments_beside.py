"""Experiments of users together with rollouts and edits of their ModelDeployment, and after lost data."""

import itertools

import pytest

from doubles.cluster import NAME, NAMESPACE
from doubles.experiments import WIDE, in_phase, running, serving, status, until_phase, user_experiment
from doubles.traffic import Users
from sundog_operator.ports import CONFIG_MAP, CONTROLLER_REVISION, EXPERIMENT, MODEL_DEPLOYMENT, POD, Ref


async def test_one_that_waits_takes_no_units_from_the_rollout_that_it_waits_for() -> None:
    rollout = {"steps": [{"weight": 25}], "unit": {"header": "x-user-id"}}
    cluster = await running(user_experiment(unit={"header": "x-user-id"}), users=Users(300), rollout=rollout)
    await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, WIDE))
    await cluster.apply("file:///models/v9", rollout=rollout)
    await cluster.until_weight(3, 25)
    await cluster.kube.apply(user_experiment())
    await cluster.go_on(3)
    assert await in_phase(cluster, "Queued")
    experiment_status = await status(cluster, "digits-r3")
    assert experiment_status["evidenceEpochs"]
    assert [each["message"] for each in experiment_status["metrics"] if "groups" in each["message"]] == []


async def test_one_that_ran_does_not_begin_anew_with_what_was_counted_before() -> None:
    """The counters at the edges belong to this plan: another plan with the same name would count them as its own."""
    cluster = await running(rollout={"strategy": "recreate"})
    before = (await status(cluster))["plan"]
    await cluster.kube.delete(Ref(CONFIG_MAP, NAMESPACE, "sundog-edge"))
    await cluster.lose_status()
    await cluster.apply("file:///models/v9", rollout={"strategy": "recreate"})
    await cluster.until_serves(3)
    await cluster.settle(5)
    experiment_status = await status(cluster)
    assert (experiment_status["phase"], experiment_status["plan"]) == ("Stopped", before)
    assert experiment_status["verdict"]["reason"].startswith("Superseded: ")
    assert await cluster.weights() == {3: 100}


async def test_another_model_deployment_of_the_same_name_takes_none_over() -> None:
    """Its revisions begin at 1 again, and differ."""
    cluster = await running()
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME))
    for stored in await cluster.kube.list(CONTROLLER_REVISION, NAMESPACE):
        await cluster.kube.delete(Ref(CONTROLLER_REVISION, NAMESPACE, stored["metadata"]["name"]))
    await cluster.apply("file:///models/v9")
    await cluster.until_serves(1)
    await cluster.settle(5)
    experiment_status = await status(cluster)
    assert (experiment_status["phase"], experiment_status["verdict"]["reason"].partition(":")[0]) == (
        "Stopped",
        "Superseded",
    )


async def test_the_revisions_of_arms_push_none_out_of_the_history_that_has_served() -> None:
    recreate = {"rollout": {"strategy": "recreate"}}
    cluster = await serving(rps=0, **recreate)
    await cluster.apply("file:///models/v9", **recreate)
    await cluster.until_serves(2)
    for run in ("first", "second"):
        arms = [{"name": f"a{place}", "model": {"uri": f"file:///models/{run}{place}"}} for place in range(9)]
        await cluster.kube.apply(user_experiment(arms=arms, exposure="100%"))
        await until_phase(cluster, "Running")
        await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, WIDE))
        await cluster.settle(20)
    stored = {each["metadata"]["name"] for each in await cluster.kube.list(CONTROLLER_REVISION, NAMESPACE)}
    assert len(stored) == 12
    await cluster.command("rollback revision=1 id=back")
    await cluster.until_serves(1)


async def test_no_arm_gets_the_number_of_one_that_was_removed() -> None:
    """Serve and KubeRay may still have applications and pods of that name."""
    recreate = {"rollout": {"strategy": "recreate"}}
    cluster = await serving(rps=0, **recreate)
    # So many revisions served that the history has no room for others.
    for place in range(2, 13):
        await cluster.deploy(place, **recreate)
    numbers = []
    for run in ("first", "second"):
        await cluster.kube.apply(user_experiment(arms=[{"name": "a", "model": {"uri": f"file:///models/{run}"}}]))
        await until_phase(cluster, "Running")
        numbers.append((await cluster.status())["arms"][0]["revision"])
        await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, WIDE))
        await cluster.settle(20)
    assert numbers == [13, 14]


@pytest.mark.parametrize("exposure", ["33%", "100%"])
async def test_weights_in_a_status_are_numbers_of_two_places(exposure: str) -> None:
    arms = [{"name": f"a{place}", "model": {"uri": f"file:///models/a{place}"}} for place in range(6)]
    cluster = await running(user_experiment(arms=arms, exposure=exposure), rps=0)
    status = await cluster.status()
    weights = [status["stable"]["weight"], *(arm["weight"] for arm in status["arms"])]
    assert weights == [round(weight, 2) for weight in weights]


async def test_requests_count_towards_the_limit_across_edges_that_start_anew() -> None:
    cluster = await running(user_experiment(exposure="100%", stop={"maxUnits": 11_000}), rps=50)
    for _ in itertools.repeat(None, 4):
        await cluster.go_on(2)
        for pod in await cluster.kube.list(POD, NAMESPACE):
            cluster.edges.counting(pod).restart(cluster.clock.now().timestamp(), forgetting=True)
    assert await in_phase(cluster, "Concluded")
    assert (await status(cluster))["verdict"]["reason"].startswith("MaxUnits: took 11")


@pytest.mark.parametrize("phase", ["Pending", "Queued", "Running", "Stopped"])
async def test_a_pass_that_changes_nothing_writes_nothing(phase: str) -> None:
    steps = {"rollout": {"steps": [{"weight": 25, "gate": "manual"}]}}
    cluster = await serving(rps=0, **steps)
    if phase == "Queued":
        await cluster.apply("file:///models/v9", **steps)
        await cluster.until_weight(2, 25)
    if phase == "Pending":
        await cluster.apply(paused=True, **steps)
    await cluster.kube.apply(user_experiment(stopped=phase == "Stopped"))
    await until_phase(cluster, phase)
    await cluster.settle(40, seconds=20)
    assert await cluster.writes_during(20, seconds=7, changed=True) == []
