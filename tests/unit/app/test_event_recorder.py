"""Events are written once, fit the API server's limits, and block nothing."""

import dataclasses
import functools
import logging

import pytest

from doubles.cluster import NAME, NAMESPACE, Cluster
from sundog_operator.app.dependencies import EventDeduplicator
from sundog_operator.app.event_recorder import record_events
from sundog_operator.core import events
from sundog_operator.errors import DependencyError, Invalid
from sundog_operator.ports import EVENT, EXPERIMENT, Object, Ref

PROMOTED = events.revision_promoted(2, 1, "digits-r2")
AB: Object = {
    "apiVersion": "serving.sundog.dev/v1alpha1",
    "kind": "Experiment",
    "metadata": {"name": "ab", "namespace": NAMESPACE},
    "spec": {"modelDeployment": NAME, "arms": [{"name": "same"}], "exposure": "40%"},
}


@pytest.fixture
async def cluster() -> Cluster:
    cluster = Cluster()
    await cluster.apply()
    return cluster


async def list_events(cluster: Cluster) -> list[Object]:
    return await cluster.kube.list(EVENT, NAMESPACE)


async def test_an_event_is_written_once_and_asked_for_once(cluster: Cluster) -> None:
    deployment = await cluster.get()
    for _ in range(3):
        await record_events(cluster.world, deployment, [PROMOTED])
    asked = len(cluster.kube.writes)
    assert [event["reason"] for event in await list_events(cluster)] == ["Promoted"]
    await record_events(cluster.world, deployment, [PROMOTED, events.revision_promoted(3, 2, "digits-r3")])
    assert len(cluster.kube.writes) == asked + 1
    # Another process, or this one much later: the event's name shows that it was written.
    world = dataclasses.replace(cluster.world, recent_events=EventDeduplicator())
    await record_events(world, deployment, [PROMOTED])
    assert len(await list_events(cluster)) == 2


@pytest.mark.parametrize("refusal", [DependencyError("quota of events"), Invalid("Event", ["quota of events"])])
async def test_what_cannot_be_written_is_lost_and_the_next_is_reported(
    cluster: Cluster, refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    deployment, refusals = await cluster.get(), [refusal]
    cluster.kube.faults = lambda verb, ref: refusals.pop() if ref.kind == EVENT and refusals else None
    with caplog.at_level(logging.WARNING):
        await record_events(cluster.world, deployment, [PROMOTED, events.revision_promoted(3, 2, "digits-r3")])
    assert [event["note"] for event in await list_events(cluster)] == ["revision 3 is stable; it replaces revision 2"]
    assert [line for line in caplog.messages if "event Promoted" in line and "quota of events" in line]
    await record_events(cluster.world, deployment, [PROMOTED])
    assert len(await list_events(cluster)) == 2, "it was not noted as written"


@pytest.mark.parametrize("letter", ["x", "é", "模"])
def test_a_note_is_cut_by_bytes_and_never_within_a_letter(letter: str) -> None:
    failed = events.revision_failed(1, "LoadFailed", letter * 2000, 1)
    deployment = {"apiVersion": "v", "kind": "K", "metadata": {"name": "n", "namespace": "vision", "uid": "u"}}
    note = events.make_event_object(failed, deployment, "me", "now")["note"]
    assert events.NOTE_LIMIT - 3 < len(note.encode()) <= events.NOTE_LIMIT
    assert set(note.removeprefix("revision 1: ")) == {letter}


async def notes(cluster: Cluster, reason: str) -> list[str]:
    return [event["note"] for event in await list_events(cluster) if event["reason"] == reason]


async def test_who_becomes_stable_again_is_reported_again() -> None:
    cluster, rollout = Cluster(), {"strategy": "recreate"}
    await cluster.deploy(rollout=rollout)
    await cluster.deploy(2, rollout=rollout)
    await cluster.command("rollback revision=1 id=a")
    await cluster.until_serves(1)
    await cluster.command("retry revision=2 id=b")
    await cluster.until_serves(2)
    assert sorted(await notes(cluster, "Promoted")) == [
        "revision 1 is stable",
        "revision 1 is stable; it replaces revision 2",
        *["revision 2 is stable; it replaces revision 1"] * 2,
    ]


async def test_an_experiment_that_is_made_again_under_its_name_is_reported_again() -> None:
    cluster = Cluster()
    await cluster.deploy()

    async def is_in(phase: str) -> bool:
        return bool(((await cluster.experiment("ab")).get("status") or {}).get("phase") == phase)

    for _ in range(2):
        await cluster.kube.apply(AB)
        await cluster.until(functools.partial(is_in, "Running"))
        await cluster.kube.apply({**AB, "spec": {**AB["spec"], "stopped": True}})
        await cluster.until(functools.partial(is_in, "Stopped"))
        await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, "ab"))
    for reason in ("ExperimentStarted", "ExperimentRunning", "ExperimentStopped"):
        assert len(await notes(cluster, reason)) == 2
