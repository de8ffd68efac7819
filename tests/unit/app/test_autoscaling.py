"""Replicas that follow the load: by Ray Serve's autoscaler, by the requests at the edges, and by `/scale`."""

from typing import Any

import pytest

from doubles.cluster import NAME, NAMESPACE, Cluster, model_deployment
from doubles.serve import FakeServe
from sundog_operator.api.installation import parse_installation
from sundog_operator.app.observe import observe
from sundog_operator.core.kubernetes import names
from sundog_operator.ports import MODEL_DEPLOYMENT, RAY_CLUSTER, Ref
from sundog_operator.shell.preview.model_deployment import preview_model_deployment

INSTALLATION = parse_installation("runtimeImage: example.com/runtime:1", "test")
RAY = names.ray_cluster(0, "example.com/runtime:1")
STABLE, CANARY = "digits-r1", "digits-r2"
V2 = "file:///models/v2"
BY_LOAD: dict[str, Any] = {"minReplicas": 1, "maxReplicas": 12, "targetOngoingRequests": 2, "upscaleDelay": "10s"}

RUNTIME: dict[str, Any] = {"maxOngoingRequests": 4}


async def serving(load: int = 0, **spec: Any) -> tuple[Cluster, FakeServe]:
    """A service with autoscaling that serves, while Ray Serve counts load for so many replicas."""
    cluster = Cluster(installation=INSTALLATION)
    await cluster.deploy(**{"autoscaling": BY_LOAD, "runtime": RUNTIME, **spec})
    (serve,) = cluster.serve_apis.by_dashboard.values()
    serve.load(STABLE, load)
    await cluster.settle(8)
    return cluster, serve


def bounds(serve: FakeServe, name: str) -> tuple[int, int]:
    """Return the bounds of an application's autoscaling in the last document."""
    (app,) = (app for app in serve.puts[-1]["applications"] if app["name"] == name)
    scaling = app["deployments"][0]["autoscaling_config"]
    return scaling["min_replicas"], scaling["max_replicas"]


async def sizes(cluster: Cluster) -> tuple[int, ...]:
    """Return the wanted replicas of stable and the candidate."""
    status = await cluster.status()
    return tuple(each["replicas"] for each in (status["stable"], status.get("candidate")) if each)


async def groups(cluster: Cluster) -> dict[str, tuple[int, int]]:
    stored = await cluster.read(Ref(RAY_CLUSTER, NAMESPACE, RAY))
    return {
        each["groupName"]: (each["minReplicas"], each["maxReplicas"]) for each in stored["spec"]["workerGroupSpecs"]
    }


async def test_requests_that_wait_at_the_edges_are_load_once_it_lasts() -> None:
    cluster, serve = await serving()
    assert bounds(serve, STABLE) == (1, 12)
    cluster.edges.in_flight = {STABLE: 11}
    await cluster.settle(5)
    assert (await cluster.status())["edgeLoad"].items() >= {"replicas": 6, "inForce": False}.items()
    assert await sizes(cluster) == (1,)
    await cluster.settle(12)
    assert (await cluster.status())["edgeLoad"]["inForce"] is True
    assert (await sizes(cluster), bounds(serve, STABLE)) == ((6,), (6, 12))
    assert await groups(cluster) == {STABLE: (6, 12)}
    serve.load(STABLE, 6)
    cluster.edges.in_flight = {STABLE: 3}
    await cluster.settle(5)
    assert "edgeLoad" not in await cluster.status()
    # Ray Serve decides alone again, and keeps its number for its own delay.
    assert (await sizes(cluster), bounds(serve, STABLE)) == ((6,), (1, 12))


async def test_a_burst_at_the_edges_changes_no_replicas() -> None:
    cluster, serve = await serving()
    puts = len(serve.puts)
    cluster.edges.in_flight = {STABLE: 500}
    await cluster.settle(5)
    cluster.edges.in_flight = {STABLE: 1}
    await cluster.settle(12)
    assert "edgeLoad" not in await cluster.status()
    assert len(serve.puts) == puts


async def test_requests_that_replicas_admit_write_nothing_because_ray_serve_sees_them() -> None:
    cluster, _ = await serving(load=3)
    cluster.edges.in_flight = {STABLE: 12}
    await cluster.settle(2)
    assert await cluster.writes_during(20, changed=True) == []


@pytest.mark.parametrize("away", ["edges", "HAProxy", "Serve", "spec"])
async def test_what_is_unknown_changes_no_replicas(away: str) -> None:
    cluster, serve = await serving()
    cluster.edges.in_flight = {STABLE: 11}
    await cluster.settle(16)
    assert await sizes(cluster) == (6,)
    cluster.edges.in_flight = {}
    match away:
        case "edges":
            cluster.edges.silent = {"sundog-edge-0"}
        case "HAProxy":
            cluster.edges.in_flight = None
        case "Serve":
            serve.down = True
        case _:
            await cluster.apply(autoscaling=BY_LOAD, runtime=RUNTIME, replicas="three")
    await cluster.settle(15)
    assert (await cluster.status())["edgeLoad"]["inForce"] is True
    assert (await sizes(cluster), bounds(serve, STABLE)) == ((6,), (6, 12))


async def test_the_load_at_the_edges_is_no_more_than_the_bounds_and_goes_with_autoscaling() -> None:
    cluster, serve = await serving()
    cluster.edges.in_flight = {STABLE: 500}
    await cluster.settle(16)
    assert (await sizes(cluster), bounds(serve, STABLE)) == ((12,), (12, 12))
    await cluster.apply(replicas=2, runtime=RUNTIME)
    await cluster.settle(8)
    assert "edgeLoad" not in await cluster.status()
    assert await sizes(cluster) == (2,)


async def test_bounds_that_are_lowered_below_the_load_end_it() -> None:
    cluster, serve = await serving()
    cluster.edges.in_flight = {STABLE: 11}
    await cluster.settle(16)
    assert await sizes(cluster) == (6,)
    await cluster.apply(autoscaling={**BY_LOAD, "maxReplicas": 3}, runtime=RUNTIME)
    await cluster.settle(8)
    cluster.edges.in_flight = {}
    await cluster.settle(8)
    assert "edgeLoad" not in await cluster.status()
    assert bounds(serve, STABLE) == (1, 3)


async def test_before_a_step_both_revisions_have_the_replicas_that_the_load_of_both_needs() -> None:
    """Load doubles while the canary has half of the traffic: neither revision shows it to Ray Serve."""
    cluster, serve = await serving(load=4)
    await cluster.roll_out(autoscaling=BY_LOAD, runtime=RUNTIME)
    assert await sizes(cluster) == (4, 1)
    cluster.edges.in_flight = {STABLE: 12, CANARY: 4}
    await cluster.settle(16)
    assert await sizes(cluster) == (8, 2)
    serve.room[CANARY] = 2
    await cluster.command("promote revision=2 id=a")
    await cluster.settle(5)
    assert (await cluster.weights(), await sizes(cluster)) == ({1: 75, 2: 25}, (8, 4))
    experiment = await cluster.experiment((await cluster.status())["experiment"])
    assert experiment["status"]["step"]["reason"] == "waits for replicas: 2 of 4 are available"
    del serve.room[CANARY]
    await cluster.until_weight(2, 50)
    ran: list[int] = []
    cluster.after_step = lambda: ran.append(serve.running(STABLE))
    cluster.edges.in_flight = {}
    await cluster.command("abort revision=2 id=b")
    await cluster.until_weight(1, 100)
    assert min(ran) == 8, "stable has all its replicas before all traffic comes back"


async def test_a_step_whose_replicas_do_not_come_says_so_and_ends_after_the_deadline() -> None:
    rollout = {"steps": [{"weight": 25, "gate": "manual"}, {"weight": 50, "gate": "manual"}], "progressDeadline": "60s"}
    cluster, serve = await serving(load=8, rollout=rollout)
    await cluster.roll_out(autoscaling=BY_LOAD, runtime=RUNTIME, rollout=rollout)
    serve.room[CANARY] = 2
    await cluster.command("promote revision=2 id=a")
    await cluster.settle(30)
    assert await cluster.weights() == {1: 75, 2: 25}
    await cluster.settle(45)
    status = await cluster.status()
    assert await cluster.weights() == {1: 100}
    last = status["lastRollout"]
    assert (last["outcome"], last["code"]) == ("Aborted", "ProgressDeadlineExceeded")
    assert "2 of 4 replicas are available for step 2 of 3" in last["reason"]
    assert serve.running(STABLE) == 8


async def test_a_slow_canary_with_a_small_share_is_no_load_for_stable() -> None:
    cluster, _ = await serving(load=4)
    await cluster.roll_out(autoscaling=BY_LOAD, runtime=RUNTIME)
    cluster.edges.in_flight = {STABLE: 6, CANARY: 40}
    await cluster.settle(16)
    assert (await sizes(cluster))[0] == 4


async def test_a_canary_s_bounds_are_in_proportion_to_its_share_until_it_has_all_traffic() -> None:
    cluster, serve = await serving(load=4)
    await cluster.roll_out(autoscaling=BY_LOAD, runtime=RUNTIME)
    assert (bounds(serve, STABLE), bounds(serve, CANARY)) == ((4, 12), (1, 3))
    assert (await groups(cluster))[CANARY] == (1, 3)
    await cluster.command("promote revision=2 id=a")
    await cluster.until_weight(2, 50)
    assert (bounds(serve, STABLE), bounds(serve, CANARY)) == ((4, 12), (2, 6))
    await cluster.command("promote revision=2 id=b")
    await cluster.until_serves(2)
    assert bounds(serve, CANARY) == (4, 12), "as long as the former stable revision drains"
    await cluster.settle(20)
    assert bounds(serve, CANARY) == (1, 12)


async def scale(cluster: Cluster, replicas: int) -> None:
    """Set `spec.replicas` as an HPA does through `/scale`."""
    ref = Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME)
    await cluster.kube.update(ref, lambda obj: {**obj, "spec": {**obj["spec"], "replicas": replicas}}, manager="hpa")


async def test_an_edit_keeps_the_number_that_an_hpa_chose_and_a_rollout_follows_it() -> None:
    cluster = Cluster(installation=INSTALLATION)
    await cluster.deploy()
    await scale(cluster, 4)
    await cluster.settle(8)
    status = await cluster.status()
    assert (status["replicas"], status["readyReplicas"]) == (4, 4)
    # In place: no replica starts or ends.
    await cluster.apply(runtime={"userConfig": {"threshold": 1}})
    await cluster.settle(8)
    assert (await cluster.get())["spec"]["replicas"] == 4
    assert await sizes(cluster) == (4,)
    await cluster.roll_out()
    assert await sizes(cluster) == (4, 1)
    await scale(cluster, 8)
    await cluster.settle(8)
    assert await sizes(cluster) == (8, 2)


async def preview(cluster: Cluster, uri: str = "file:///models/v1", **spec: Any) -> tuple[str, ...]:
    """Return what `sundog plan` prints for a manifest."""
    stored = await cluster.get()
    observed = await observe(cluster.world, stored)
    return preview_model_deployment(model_deployment(uri, **spec), stored, observed, cluster.clock.now()).lines


async def test_plan_shows_replicas_of_each_step_by_load_and_what_an_edit_loses() -> None:
    cluster, _ = await serving(load=6)
    lines = await preview(cluster, V2, autoscaling=BY_LOAD, runtime=RUNTIME)
    assert lines[2] == (
        "replicas: revision 1 keeps 6; revision 2 has 2 at 25 %, 3 at 50 %, 6 at 100 %. Each step waits for them, for 15m at most"
    )
    lines = await preview(cluster, runtime=RUNTIME)
    assert lines[1] == ("without autoscaling spec.replicas counts: 6 → 1. Set it to 6 to keep what the load needs now")
    assert not any("spec.replicas counts" in line for line in await preview(cluster, replicas=6, runtime=RUNTIME))
