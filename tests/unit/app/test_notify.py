"""Receivers are notified of rollouts, in memory: in order, once, and without blocking a pass."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest

from doubles.cluster import NAME, NAMESPACE, Cluster
from sundog_operator.app.background.requests import BackgroundRequests
from sundog_operator.app.dependencies import EventDeduplicator
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.reconcile_experiment import reconcile_experiment
from sundog_operator.errors import Conflict
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, Ref

HOOK, OTHER = "https://ann:secret@hooks.example/services/secret?token=secret", "http://other.ci/"
ALL = ["started", "paused", "promoted", "aborted", "rolledBack"]
STEPS: list[dict[str, Any]] = [{"weight": 25, "gate": "manual"}]
V2, V3 = "file:///models/v2", "file:///models/v3"


def rollout(*receivers: dict[str, Any], steps: list[dict[str, Any]] = STEPS) -> dict[str, Any]:
    return {"steps": steps, "notify": list(receivers) or [{"webhook": HOOK, "events": ALL}]}


async def at_step(
    cluster: Cluster, *receivers: dict[str, Any], status: int | None = 200, hangs: bool = False
) -> Cluster:
    """Revision 2 has a quarter of the traffic and waits for promote."""
    if status is not None:
        cluster.webhooks.answers[HOOK] = status
    if hangs:
        cluster.webhooks.hanging.add(HOOK)
    await cluster.deploy(rollout=rollout(*receivers))
    await cluster.settle(5)
    await cluster.roll_out(rollout=rollout(*receivers))
    await cluster.settle(8)
    return cluster


async def promoted(cluster: Cluster, revision: int = 2) -> None:
    await cluster.command(f"promote revision={revision} id=p{revision}")
    await cluster.until_serves(revision)
    await cluster.settle(8)


def posted_events(cluster: Cluster, url: str = HOOK) -> list[tuple[str, int]]:
    return [(document["event"], document["revision"]) for document in cluster.webhooks.posted(url)]


async def deliveries(cluster: Cluster, name: str = "digits-r2") -> list[dict[str, Any]]:
    """Return the document without empty fields."""
    found = (await cluster.experiment(name))["status"].get("deliveries", [])
    return [{key: value for key, value in each.items() if value or key == "receiver"} for each in found]


async def test_a_rollout_is_reported_once_from_start_to_end() -> None:
    cluster = await at_step(Cluster())
    assert posted_events(cluster) == [("started", 2), ("paused", 2)]
    await promoted(cluster)
    assert posted_events(cluster) == [("started", 2), ("paused", 2), ("promoted", 2)]
    paused = cluster.webhooks.posted(HOOK)[1]
    experiment = await cluster.experiment("digits-r2")
    assert paused == {
        "id": f"{experiment['metadata']['uid']}/2",
        "event": "paused",
        "name": NAME,
        "namespace": NAMESPACE,
        "experiment": "digits-r2",
        "revision": 2,
        "stable": 1,
        "step": 1,
        "weight": 25,
        "reason": "WaitsForPromote: step 1 waits for promote",
        "verdict": "Undecided",
        "time": paused["time"],
    }
    assert await deliveries(cluster) == [{"receiver": 0, "told": 3}]
    await cluster.settle(60, seconds=60)
    assert len(cluster.webhooks.received) == 3
    assert await cluster.notes("NotificationFailed") == []


@pytest.mark.parametrize(
    ("command", "event", "reason"),
    [
        ("abort revision=2 id=a", "aborted", "Aborted: by command"),
        ("rollback revision=1 id=a", "rolledBack", "RolledBack: rollback to revision 1 by command"),
        ("pause revision=2 id=a", "paused", "Manual: paused by command"),
    ],
)
async def test_what_commands_do_is_reported(command: str, event: str, reason: str) -> None:
    cluster = await at_step(Cluster())
    await cluster.command(command)
    await cluster.settle(10)
    last = cluster.webhooks.posted(HOOK)[-1]
    assert (last["event"], last["reason"]) == (event, reason)
    assert len(cluster.webhooks.received) == 3


async def test_receivers_hear_what_they_asked_for() -> None:
    receivers = {"webhook": HOOK}, {"webhook": OTHER, "events": ["started", "aborted"]}
    cluster = Cluster()
    cluster.webhooks.answers[OTHER] = 202
    await at_step(cluster, *receivers)
    await promoted(cluster)
    assert posted_events(cluster) == [("paused", 2), ("promoted", 2)]
    assert posted_events(cluster, OTHER) == [("started", 2)]


@pytest.mark.parametrize(
    "trouble", [{"status": None}, {"status": 500}, {"status": 302}, {"status": None, "hangs": True}]
)
async def test_a_receiver_in_trouble_delays_nothing_and_is_reported_once(trouble: dict[str, Any]) -> None:
    good, bad = await at_step(Cluster()), await at_step(Cluster(), **trouble)
    await promoted(good)
    await promoted(bad)
    finished = [(await each.status())["lastRollout"]["at"] for each in (good, bad)]
    assert finished[0] == finished[1]
    await bad.settle(40)
    (note,) = await bad.notes("NotificationFailed")
    assert note.startswith("rollout digits-r2: https://hooks.example (notify[0]) ")
    assert note.endswith("; retrying for an hour, and the rollout continues")
    assert "secret" not in note
    (delivery,) = await deliveries(bad)
    assert delivery.get("told", 0) == 0
    assert delivery["problem"] in note


async def test_a_receiver_that_hangs_holds_up_no_other() -> None:
    cluster = Cluster()
    cluster.webhooks.answers[OTHER] = 200
    await at_step(cluster, {"webhook": HOOK, "events": ALL}, {"webhook": OTHER, "events": ALL}, status=None, hangs=True)
    await promoted(cluster)
    assert posted_events(cluster, OTHER) == [("started", 2), ("paused", 2), ("promoted", 2)]
    assert {event for event, _ in posted_events(cluster)} == {"started"}


async def test_one_that_comes_back_hears_everything_in_order() -> None:
    cluster = await at_step(Cluster(), status=503)
    await promoted(cluster)
    await cluster.settle(10, seconds=60)
    failed = len(cluster.webhooks.received)
    assert {event for event, _ in posted_events(cluster)} == {"started"}
    cluster.webhooks.answers[HOOK] = 200
    await cluster.settle(30, seconds=10)
    assert posted_events(cluster)[failed:] == [("started", 2), ("paused", 2), ("promoted", 2)]
    assert await deliveries(cluster) == [{"receiver": 0, "told": 3}]
    assert len(await cluster.notes("NotificationFailed")) == 1


async def test_one_that_never_comes_back_is_given_up_after_an_hour_with_bounded_effort() -> None:
    cluster = await at_step(Cluster(), status=500)
    await promoted(cluster)
    await cluster.settle(20, seconds=60)
    writes = [write for write in cluster.kube.writes if write.changed and write.ref.kind == EXPERIMENT]
    await cluster.settle(30, seconds=60)
    assert writes == [write for write in cluster.kube.writes if write.changed and write.ref.kind == EXPERIMENT]
    await cluster.settle(20, seconds=60)
    assert await deliveries(cluster) == [{"receiver": 0, "told": 3, "lost": 3, "problem": "answered 500"}]
    assert len(cluster.webhooks.received) < 60
    assert len(await cluster.notes("NotificationFailed")) == 1
    received = len(cluster.webhooks.received)
    await cluster.settle(30, seconds=60)
    assert len(cluster.webhooks.received) == received


async def test_a_new_rollout_is_reported_after_what_is_left_of_the_one_before() -> None:
    cluster = await at_step(Cluster(), status=500)
    await cluster.roll_out(3, rollout=rollout())
    await cluster.settle(5)
    await cluster.command("abort revision=3 id=a")
    await cluster.settle(10)
    failed = len(cluster.webhooks.received)
    cluster.webhooks.answers[HOOK] = 200
    await cluster.settle(40, seconds=10)
    # Revision 2 was superseded, which is no event of its own.
    assert posted_events(cluster)[failed:] == [
        ("started", 2),
        ("paused", 2),
        ("started", 3),
        ("paused", 3),
        ("aborted", 3),
    ]


async def test_another_operator_goes_on_where_the_last_one_was() -> None:
    cluster = await at_step(Cluster())
    another(cluster)
    await cluster.settle(5)
    assert posted_events(cluster) == [("started", 2), ("paused", 2)]
    cluster.webhooks.answers.clear()
    await promoted(cluster)
    another(cluster)
    cluster.webhooks.answers[HOOK] = 200
    await cluster.settle(10)
    assert posted_events(cluster) == [("started", 2), ("paused", 2), ("promoted", 2)]


def another(cluster: Cluster) -> None:
    cluster.world = dataclasses.replace(
        cluster.world, recent_events=EventDeduplicator(), webhook_requests=BackgroundRequests()
    )


async def test_an_operator_that_dies_between_post_and_write_posts_again_with_the_same_id() -> None:
    cluster = Cluster()
    cluster.webhooks.answers[HOOK] = 200
    await at_step(cluster, {"webhook": HOOK, "events": ["promoted"]})
    await cluster.command("promote revision=2 id=p")
    while not cluster.webhooks.received:
        await cluster.round()
    another(cluster)
    await cluster.settle(10)
    first, second = cluster.webhooks.posted(HOOK)
    assert first == second


async def test_deliveries_and_the_rollout_do_not_undo_each_others_writes() -> None:
    cluster = await at_step(Cluster())
    for number, command in enumerate(("pause", "resume", "pause", "resume")):
        await cluster.command(f"{command} revision=2 id=c{number}")
        await cluster.settle(6)
    assert posted_events(cluster) == [("started", 2), ("paused", 2), ("paused", 2)]
    await promoted(cluster)
    assert await deliveries(cluster) == [{"receiver": 0, "told": 4}]
    assert len(cluster.webhooks.received) == 4


async def test_a_write_that_conflicts_posts_nothing_again() -> None:
    cluster = await at_step(Cluster())
    await cluster.command("abort revision=2 id=a")
    while len(cluster.webhooks.received) < 3:
        await cluster.round()
    refused = []

    def conflicts(verb: str, ref: Ref) -> Exception | None:
        if verb != "status" or ref.kind != EXPERIMENT or len(refused) == 5:
            return None
        refused.append(ref)
        return Conflict(f"{ref}: it moved on")

    cluster.kube.faults = conflicts
    await cluster.settle(10)
    assert len(refused) == 5
    assert (await deliveries(cluster))[0]["told"] == 3
    assert len(cluster.webhooks.received) == 3


class Died(Exception):
    """The process crashed at a write."""


async def lived(die_after: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Return the posts of a promoted and an aborted rollout, and the number of writes.

    The operator dies after the write with that number, and another one continues.
    """
    cluster, writes = Cluster(), 0

    def count(moment: str, _: object) -> None:
        nonlocal writes
        writes += moment == "after"
        if moment == "after" and writes == die_after:
            raise Died

    async def rounds(condition: Callable[[], Any], most: int = 200) -> bool:
        for _ in range(most):
            if await condition():
                return True
            try:
                await cluster.round()
            except Died:
                another(cluster)
        return False

    async def is_posted(number: int) -> bool:
        return len({document["id"] for document in cluster.webhooks.posted(HOOK)}) == number

    async def never() -> bool:
        return False

    cluster.webhooks.answers[HOOK] = 200
    await cluster.apply(rollout=rollout())
    assert await rounds(functools.partial(cluster.serves, 1))
    await cluster.apply(V2, rollout=rollout())
    cluster.kube.on_write = count
    assert await rounds(functools.partial(is_posted, 2))
    await cluster.outside(functools.partial(cluster.command, "promote revision=2 id=a"))
    assert await rounds(functools.partial(is_posted, 3))
    await cluster.outside(functools.partial(cluster.apply, V3, rollout=rollout()))
    assert await rounds(functools.partial(is_posted, 5))
    await cluster.outside(functools.partial(cluster.command, "abort revision=3 id=b"))
    assert await rounds(functools.partial(is_posted, 6))
    await rounds(never, 5)
    return cluster.webhooks.posted(HOOK), writes


@pytest.mark.extended
async def test_an_operator_that_dies_at_any_write_reports_all_in_order() -> None:
    posts, writes = await lived()
    events = [(document["event"], document["revision"]) for document in posts]
    assert events == [("started", 2), ("paused", 2), ("promoted", 2), ("started", 3), ("paused", 3), ("aborted", 3)]
    assert writes > 40
    for number in range(1, writes + 1, 3):
        again, _ = await lived(number)
        once = [document for at, document in enumerate(again) if document not in again[:at]]
        assert [(document["event"], document["revision"]) for document in once] == events, number
        assert len(again) - len(once) <= 1, number


async def test_an_edit_of_the_spec_changes_no_receiver_of_a_rollout_under_way() -> None:
    cluster = await at_step(Cluster())
    await cluster.apply(V2, rollout=rollout({"webhook": OTHER, "events": ALL}))
    await promoted(cluster)
    assert posted_events(cluster)[-1] == ("promoted", 2)
    assert posted_events(cluster, OTHER) == []


async def test_what_is_deleted_is_not_reported_any_more() -> None:
    cluster = await at_step(Cluster(), status=None, hangs=True)
    assert len(cluster.world.webhook_requests.pending) == 1
    await cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME))
    await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, "digits-r2"))
    assert await reconcile_experiment(cluster.world, Key("experiment", NAMESPACE, "digits-r2")) is None
    await cluster.webhooks.turn()
    assert cluster.world.webhook_requests.pending == []


async def test_at_rest_nothing_is_asked_for() -> None:
    cluster = await at_step(Cluster())
    await promoted(cluster)
    key = Key("experiment", NAMESPACE, "digits-r2")
    assert await reconcile_experiment(cluster.world, key) is None
    assert await cluster.writes_during(10, seconds=30, changed=True) == []


RECREATE = {"strategy": "recreate", "notify": [{"webhook": HOOK, "events": ALL}], "progressDeadline": "5m"}


async def replaced(rollout: dict[str, Any] = RECREATE, **spec: Any) -> Cluster:
    """Revision 2 was applied and should replace revision 1."""
    cluster = Cluster()
    cluster.webhooks.answers[HOOK] = 200
    await cluster.deploy(rollout=rollout)
    await cluster.settle(5)
    await cluster.apply(V2, rollout=rollout, **spec)
    return cluster


async def test_a_replacement_without_steps_is_reported_too() -> None:
    cluster = await replaced()
    await cluster.until_serves(2)
    await cluster.settle(8)
    assert posted_events(cluster) == [("started", 2), ("promoted", 2)]
    last = cluster.webhooks.posted(HOOK)[-1]
    assert last["reason"] == "Promoted: strategy recreate replaces revision 1 at once"
    seen = [weights.get("digits-r2", 0) for weights in cluster.edges.weights_seen]
    assert set(seen) == {0, 100}
    await cluster.settle(20)
    assert len(cluster.webhooks.received) == 2


async def test_a_replacement_that_fails_or_is_aborted_is_reported_as_such() -> None:
    cluster = await replaced()
    await cluster.settle(2)
    await cluster.command("abort revision=2 id=a")
    await cluster.settle(10)
    assert posted_events(cluster) == [("started", 2), ("aborted", 2)]
    cluster.serve.failures[V3] = ("LoadFailed", "size mismatch")
    await cluster.apply(V3, rollout=RECREATE)
    await cluster.settle(20)
    assert posted_events(cluster)[2:] == [("started", 3), ("aborted", 3)]
    assert cluster.webhooks.posted(HOOK)[-1]["reason"].startswith("LoadFailed: ")


async def test_a_replacement_that_is_not_ready_in_time_is_reported_as_paused() -> None:
    cluster = await replaced({**RECREATE, "progressDeadlineAction": "pause"})
    cluster.serve.failures[V2] = ("ModelNotFound", "the store is away")
    await cluster.settle(40, seconds=10)
    assert posted_events(cluster) == [("started", 2), ("paused", 2)]
    cluster.serve.failures.clear()
    await cluster.command("resume revision=2 id=a")
    await cluster.settle(2)
    await cluster.command("retry revision=2 id=b")
    await cluster.settle(40, seconds=10)
    assert await cluster.serves(2)


async def test_a_replacement_that_is_reported_waits_for_its_window_as_any_other() -> None:
    windowed = {**RECREATE, "windows": [{"cron": "0 13 * * *", "duration": "1h"}]}
    cluster = await replaced(windowed)
    await cluster.settle(30)
    assert await cluster.weights() == {1: 100, 2: 0}
    await cluster.settle(70, seconds=60)
    assert await cluster.serves(2)


@pytest.mark.parametrize("receivers", [True, False], ids=["receivers", "no receivers"])
async def test_a_replacement_is_replaced_under_queue_with_and_without_receivers(receivers: bool) -> None:
    rollout = {**RECREATE, "onNewRevision": "queue"}
    if not receivers:
        del rollout["notify"]
    cluster = await replaced(rollout)
    await cluster.settle(2)
    await cluster.apply(V3, rollout=rollout)
    await cluster.settle(2)
    assert (await cluster.status())["candidate"]["revision"] == 3
    await cluster.until_serves(3)


async def test_without_receivers_a_replacement_has_no_experiment() -> None:
    cluster = await replaced({"strategy": "recreate"})
    await cluster.until_serves(2)
    assert await cluster.kube.list(EXPERIMENT, NAMESPACE) == []
