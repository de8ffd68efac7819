"""Exposure logs of experiments are written in the background: on time, once, and without blocking a pass."""

import dataclasses
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from doubles.cluster import NAME, NAMESPACE, Cluster
from doubles.experiments import status
from sundog_operator.api.installation import Installation, parse_installation
from sundog_operator.app.background.requests import BackgroundRequests
from sundog_operator.app.controller import RECONCILERS
from sundog_operator.app.dependencies import EventDeduplicator
from sundog_operator.app.queue.keys import Key
from sundog_operator.errors import Conflict
from sundog_operator.ports import EXPERIMENT, Object, Ref

AB, HOUR_S = "ab", 3600.0
EVERY_COUNT_S = 61.0
"""Seconds after which new counts are written again."""

METRICS = {"secondary": [{"name": "conversion", "feedback": "bought"}]}
Json = dict[str, Any]


def experiment(uri: str, **spec: Any) -> Object:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": AB, "namespace": NAMESPACE},
        "spec": {
            "modelDeployment": NAME,
            "arms": [{"name": "wide", "model": {"uri": "https://models/v2"}}],
            "metrics": METRICS,
            "exposureLog": {"uri": uri},
            **spec,
        },
    }


async def in_phase(cluster: Cluster, phase: str) -> bool:
    experiment_status = await status(cluster, AB)
    return experiment_status.get("phase") == phase and (phase != "Running" or "since" in experiment_status)


async def serving(installation: Installation | None = None) -> Cluster:
    cluster = Cluster(installation=installation)
    cluster.set_traffic(1, seed=3)
    await cluster.apply("https://models/v1", rollout={"warmup": {"requests": 20, "duration": "1m"}})
    await cluster.until_serves(1)
    return cluster


async def running(uri: str = "s3://logs/a") -> Cluster:
    cluster = await serving()
    await cluster.kube.apply(experiment(uri))
    await cluster.until(functools.partial(in_phase, cluster, "Running"))
    return cluster


async def stopped(cluster: Cluster, uri: str = "s3://logs/a") -> None:
    await cluster.kube.apply(experiment(uri, stopped=True))
    await cluster.until(functools.partial(in_phase, cluster, "Stopped"))
    await final_log_due(cluster)


async def final_log_due(cluster: Cluster) -> None:
    """Wait until edges take no more outcomes, and for the final log."""
    await cluster.settle(5, seconds=5)


async def an_hour(cluster: Cluster) -> None:
    await cluster.round(HOUR_S)
    await cluster.settle(5)


async def folder(cluster: Cluster, uri: str = "s3://logs/a") -> str:
    uid = (await cluster.experiment(AB))["metadata"]["uid"]
    return f"{uri}/{NAMESPACE}/{AB}/{uid}"


async def log_condition(cluster: Cluster) -> tuple[str, str, str]:
    """Return the condition of the log."""
    found = [c for c in (await status(cluster, AB)).get("conditions", ()) if c["type"] == "LogWritten"]
    return (found[0]["status"], found[0]["reason"], found[0]["message"]) if found else ("Absent", "", "")


async def looked_at_while(cluster: Cluster, happens: Callable[[], Awaitable[None]]) -> None:
    """Pass over the ModelDeployment, with a change after its Experiments were read."""
    counts = cluster.edges.count

    async def count(*args: Any, **options: Any) -> Any:
        await happens()
        return await counts(*args, **options)

    await cluster.edges.pass_time(EVERY_COUNT_S)
    cluster.clock.advance(EVERY_COUNT_S)
    cluster.edges.count = count  # type: ignore[method-assign]
    await RECONCILERS["modeldeployment"](cluster.world, Key("modeldeployment", NAMESPACE, NAME))
    cluster.edges.count = counts  # type: ignore[method-assign]


def restart(cluster: Cluster) -> None:
    """Replace the operator: its memory is lost."""
    for task in cluster.world.exposure_log_requests.pending:
        task.cancel()
    cluster.world = dataclasses.replace(
        cluster.world, exposure_log_requests=BackgroundRequests(), recent_events=EventDeduplicator()
    )


async def test_one_is_written_each_hour_and_the_last_at_the_end() -> None:
    cluster = await running()
    own = await folder(cluster)
    await cluster.settle(5, seconds=60)
    assert (cluster.logs.tried, await log_condition(cluster)) == ([], ("Absent", "", ""))
    await an_hour(cluster)
    assert cluster.logs.written == {f"{own}/000001": "Running"}
    log_status = (await status(cluster, AB))["exposureLog"]
    assert (log_status["uri"], log_status["sequence"], log_status["final"]) == (f"{own}/000001", 1, False)
    assert await log_condition(cluster) == ("True", "Written", f"3 exposures and 2 outcomes in {own}/000001")
    await an_hour(cluster)
    assert [*cluster.logs.written] == [f"{own}/000001", f"{own}/000002"]
    await stopped(cluster)
    assert cluster.logs.written[f"{own}/000003"] == "Stopped"
    assert (await status(cluster, AB))["exposureLog"]["final"] is True
    for _ in range(3):
        await an_hour(cluster)
    assert len(cluster.logs.tried) == 3
    assert {*cluster.logs.forms} == {"parquet"}


async def test_lines_are_written_compressed() -> None:
    cluster = await running()
    await cluster.kube.apply(experiment("", exposureLog={"uri": "s3://logs/a", "format": "jsonl"}, stopped=True))
    await cluster.until(functools.partial(in_phase, cluster, "Stopped"))
    await final_log_due(cluster)
    assert cluster.logs.forms == ["jsonl.gz"]


@pytest.mark.extended
async def test_what_cannot_be_written_is_reported_once_tried_ever_later_and_heals() -> None:
    cluster = await running()
    own = await folder(cluster)
    cluster.logs.problem = "s3://logs/a: cannot be written (NotFoundError)"
    await cluster.round(HOUR_S)
    await cluster.settle(90, seconds=10)
    assert {*cluster.logs.tried} == {f"{own}/000001"}
    assert 4 <= len(cluster.logs.tried) <= 8
    assert await log_condition(cluster) == ("False", "NotWritten", cluster.logs.problem)
    assert "exposureLog" not in await status(cluster, AB)
    (note,) = await cluster.notes("LogNotWritten")
    assert note.startswith(f"Experiment {AB}: exposure log 1: {cluster.logs.problem}")
    assert await in_phase(cluster, "Running")
    cluster.logs.problem = ""
    await cluster.settle(65, seconds=10)
    assert [*cluster.logs.written] == [f"{own}/000001"]
    assert (await log_condition(cluster))[:2] == ("True", "Written")


async def test_a_place_that_hangs_holds_up_neither_the_end_nor_another_operator() -> None:
    cluster = await running()
    own = await folder(cluster)
    cluster.logs.hangs = True
    await an_hour(cluster)
    assert cluster.logs.tried == [f"{own}/000001"]
    await stopped(cluster)
    assert (await status(cluster, AB))["verdict"]["reason"].startswith("StoppedByUser")
    assert (cluster.logs.written, len(cluster.world.exposure_log_requests.pending)) == ({}, 1)
    cluster.logs.hangs = False
    restart(cluster)
    await final_log_due(cluster)
    assert cluster.logs.written == {f"{own}/000001": "Stopped"}
    assert (await status(cluster, AB))["exposureLog"]["final"] is True


async def test_one_that_was_begun_before_the_end_is_not_the_last() -> None:
    cluster = await running()
    own = await folder(cluster)
    cluster.logs.hangs = True
    await an_hour(cluster)
    await stopped(cluster)
    assert cluster.logs.written == {}
    cluster.logs.hangs = False
    cluster.logs.released.set()
    await final_log_due(cluster)
    assert cluster.logs.written == {f"{own}/000001": "Running", f"{own}/000002": "Stopped"}
    assert (await status(cluster, AB))["exposureLog"]["final"] is True


async def test_another_operator_goes_on_where_the_first_one_was() -> None:
    cluster = await running()
    own = await folder(cluster)
    await an_hour(cluster)
    restart(cluster)
    await cluster.settle(30, seconds=10)
    assert cluster.logs.tried == [f"{own}/000001"]
    await an_hour(cluster)
    assert cluster.logs.tried == [f"{own}/000001", f"{own}/000002"]


async def test_one_that_was_written_and_not_committed_is_written_again_under_its_number() -> None:
    cluster = await running()
    own = await folder(cluster)

    def fault(verb: str, ref: Ref) -> Exception | None:
        return Conflict("somebody was faster") if ref.kind == EXPERIMENT and verb == "status" else None

    await cluster.round(HOUR_S)
    while not cluster.logs.written:
        await cluster.round()
    cluster.kube.faults = fault
    await cluster.settle(3)
    assert "exposureLog" not in await status(cluster, AB)
    restart(cluster)
    cluster.kube.faults = lambda *_: None
    await cluster.settle(5)
    assert cluster.logs.tried == [f"{own}/000001"] * 2
    assert (await status(cluster, AB))["exposureLog"]["sequence"] == 1


async def test_one_that_is_written_while_its_experiment_is_looked_at_stays_told() -> None:
    cluster = await running()
    own, counted = await folder(cluster), (await status(cluster, AB))["countedAt"]
    await cluster.round(HOUR_S)

    async def written() -> None:
        for _ in range(3):
            await RECONCILERS["experiment"](cluster.world, Key("experiment", NAMESPACE, AB))

    await looked_at_while(cluster, written)
    experiment_status = await status(cluster, AB)
    assert experiment_status["countedAt"] != counted, "what was seen at that look is written"
    assert (experiment_status["exposureLog"]["uri"], *(await log_condition(cluster))[:2]) == (
        f"{own}/000001",
        "True",
        "Written",
    )
    await cluster.settle(5)
    assert cluster.logs.tried == [f"{own}/000001"]


async def test_a_log_that_is_removed_during_a_pass_is_written_no_more() -> None:
    cluster = await running()
    await an_hour(cluster)

    async def unasked() -> None:
        await cluster.kube.apply(experiment(""))
        await RECONCILERS["experiment"](cluster.world, Key("experiment", NAMESPACE, AB))

    await looked_at_while(cluster, unasked)
    assert await log_condition(cluster) == ("Absent", "", "")


async def test_a_deleted_one_gives_up_what_is_under_way() -> None:
    cluster = await running()
    cluster.logs.hangs = True
    await an_hour(cluster)
    assert cluster.world.exposure_log_requests.pending

    await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, AB))

    await RECONCILERS["experiment"](cluster.world, Key("experiment", NAMESPACE, AB))
    assert cluster.world.exposure_log_requests.pending == []


async def test_another_place_is_written_to_at_once_and_none_is_no_more() -> None:
    cluster = await running()
    await an_hour(cluster)
    await cluster.kube.apply(experiment("s3://logs/b/"))
    await cluster.settle(5)
    assert cluster.logs.tried[1:] == [f"{await folder(cluster, 's3://logs/b')}/000002"]
    accepted = next(each for each in (await status(cluster, AB))["conditions"] if each["type"] == "SpecAccepted")
    assert (accepted["status"], accepted["reason"]) == ("True", "Accepted")
    await cluster.kube.apply(experiment(""))
    await cluster.settle(5)
    assert await log_condition(cluster) == ("Absent", "", "")
    await an_hour(cluster)
    assert len(cluster.logs.tried) == 2


async def test_in_a_cluster_nothing_is_written_where_no_administrator_allows_it() -> None:
    cluster = await serving(parse_installation("exposureLogs: {places: [s3://logs/a]}", "test"))
    for uri, reason in (("s3://logs/b", "not below a place"), ("file:///logs", "needs local mode")):
        await cluster.kube.apply(experiment(uri))
        await cluster.settle(5)
        truth, why, message = await log_condition(cluster)
        assert (truth, why) == ("False", "PlaceNotAllowed")
        assert reason in message
    await cluster.until(functools.partial(in_phase, cluster, "Running"))
    await an_hour(cluster)
    assert cluster.logs.tried == []
    await cluster.kube.apply(experiment("s3://logs/a/team"))
    await cluster.settle(5)
    assert cluster.logs.tried == [f"{await folder(cluster, 's3://logs/a/team')}/000001"]
    assert (await log_condition(cluster))[:2] == ("True", "Written")
