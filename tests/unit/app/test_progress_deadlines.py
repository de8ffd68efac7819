"""A revision that is not ready in time: by default it is rolled back; with `progressDeadlineAction: pause` it waits."""

import functools
from typing import Any

import pytest

from doubles.cluster import MANUAL, Cluster
from doubles.crashes import die_at_every, live

V2 = "file:///models/v2"
PAUSE = {**MANUAL, "progressDeadline": "5m", "progressDeadlineAction": "pause"}
AWAY = ("ModelNotFound", "the store is away")


async def late(rollout: dict[str, Any] = PAUSE) -> Cluster:
    """Revision 2 was applied six minutes ago and cannot be loaded."""
    cluster = Cluster()
    await cluster.deploy(rollout=rollout)
    await cluster.settle(5)
    cluster.serve.failures[V2] = AWAY
    await cluster.apply(V2, rollout=rollout)
    await cluster.settle(36, seconds=10)
    return cluster


async def attempt(cluster: Cluster) -> dict[str, Any]:
    status: dict[str, Any] = (await cluster.experiment("digits-r2"))["status"]
    return status


async def test_a_pause_by_hand_is_reported_where_people_look_first() -> None:
    cluster = Cluster()
    await cluster.deploy(rollout=MANUAL)
    await cluster.roll_out(rollout=MANUAL)
    await cluster.command("pause revision=2 id=hold")
    await cluster.settle(3)
    assert "revision 2 is paused (Manual)" in await cluster.message("Ready")


async def test_it_is_paused_once_its_time_is_over_and_tried_on() -> None:
    cluster = await late()
    status = await attempt(cluster)
    assert (status["phase"], status["paused"]["reason"]) == ("Pending", "ProgressDeadlineExceeded")
    message = "not ready within 5m, spec.rollout.progressDeadline: revision 2: the store is away"
    assert status["paused"]["message"] == message
    assert await cluster.condition("Progressing") == ("True", "Paused")
    assert await cluster.message("Progressing") == f"revision 2, paused because it was {message}"
    assert "revision 2 is paused (ProgressDeadlineExceeded)" in await cluster.message("Ready")
    assert await cluster.condition("Stalled") == ("Absent", "")
    assert "RolloutPaused" in await cluster.events()
    cluster.serve.failures.clear()
    await cluster.settle(40, seconds=10)
    assert cluster.serve.running("digits-r2") == 1, "it was tried on"
    assert await cluster.weights() == {1: 100, 2: 0}, "and gets no traffic before somebody says so"


async def test_resume_lets_it_go_on_with_its_time_anew() -> None:
    cluster = await late()
    await cluster.command("resume revision=2 id=a")
    await cluster.settle(26, seconds=10)
    status = await attempt(cluster)
    assert "paused" not in status
    assert status["resumedAt"]
    await cluster.settle(10, seconds=10)
    assert (await attempt(cluster))["paused"]["reason"] == "ProgressDeadlineExceeded"
    cluster.serve.failures.clear()
    await cluster.settle(40, seconds=10)
    await cluster.command("resume revision=2 id=b")
    await cluster.until_weight(2, 25)


async def test_promote_of_all_steps_gives_it_its_time_anew() -> None:
    cluster = await late()
    await cluster.command("promote revision=2 id=a full=true")
    await cluster.settle(20)
    assert "paused" not in await attempt(cluster)
    cluster.serve.failures.clear()
    await cluster.command("retry revision=2 id=b")
    await cluster.until_serves(2)


@pytest.mark.parametrize("verb", ["promote", "skip"])
async def test_a_command_to_go_on_is_answered_with_the_pause(verb: str) -> None:
    cluster = await late()
    cluster.serve.failures.clear()
    await cluster.settle(40, seconds=10)
    assert cluster.serve.running("digits-r2") == 1
    message = (
        "revision 2 is paused because it was not ready within 5m, spec.rollout.progressDeadline: revision 2: the store is away."
        " Use resume: it then starts once it is ready"
    )
    assert await cluster.answer(f"{verb} revision=2 id=a") == ("Rejected", message)


@pytest.mark.parametrize("way", ["abort", "edit"])
async def test_it_ends_as_any_other(way: str) -> None:
    cluster = await late()
    if way == "abort":
        await cluster.command("abort revision=2 id=a")
    else:
        await cluster.apply(rollout=PAUSE)
    await cluster.settle(20)
    assert await cluster.weights() == {1: 100}
    assert (await attempt(cluster))["phase"] == "Stopped"


async def test_what_no_patience_mends_ends_it() -> None:
    cluster = await late()
    cluster.serve.failures[V2] = ("LoadFailed", "size mismatch")
    await cluster.settle(40, seconds=10)
    assert (await attempt(cluster))["phase"] == "Stopped"
    assert "LoadFailed" in (await cluster.status())["lastRollout"]["reason"]


async def test_time_that_is_held_or_outside_of_windows_is_none_of_it() -> None:
    cluster = await late({**PAUSE, "windows": [{"cron": "0 3 * * *", "duration": "1m"}]})
    assert "paused" not in await attempt(cluster)
    await cluster.apply(V2, rollout=PAUSE, paused=True)
    await cluster.settle(20, seconds=30)
    assert "paused" not in await attempt(cluster)
    await cluster.apply(V2, rollout=PAUSE)
    await cluster.settle(26, seconds=10)
    assert "paused" not in await attempt(cluster)
    await cluster.settle(10, seconds=10)
    assert (await attempt(cluster))["paused"]["reason"] == "ProgressDeadlineExceeded"


BRIEF = {"progressDeadline": "5m"}


async def starting(rollout: dict[str, Any]) -> Cluster:
    """Revision 2 was applied a minute ago and starts very slowly."""
    cluster = Cluster()
    await cluster.deploy(rollout=rollout)
    await cluster.settle(5)
    cluster.serve.start_s = 10_000
    await cluster.apply(V2, rollout=rollout)
    await cluster.settle(6, seconds=10)
    return cluster


async def ends_in_five_minutes(cluster: Cluster) -> None:
    await cluster.settle(26, seconds=10)
    assert await cluster.condition("Stalled") == ("Absent", "")
    await cluster.settle(10, seconds=10)
    assert await cluster.condition("Stalled") == ("True", "Aborted")
    assert "ProgressDeadlineExceeded" in (await cluster.status())["lastRollout"]["reason"]


@pytest.mark.parametrize("command", ["resume revision=2 id=b", "promote revision=2 id=b full=true"])
async def test_a_pause_by_hand_before_it_began_is_none_of_its_time(command: str) -> None:
    cluster = await starting({**MANUAL, **BRIEF})
    await cluster.command("pause revision=2 id=a")
    await cluster.settle(60, seconds=10)
    assert (await attempt(cluster))["paused"]["reason"] == "Manual"
    await cluster.command(command)
    await ends_in_five_minutes(cluster)


@pytest.mark.parametrize("rollout", [MANUAL, {"strategy": "recreate"}], ids=["steps", "recreate"])
async def test_a_hold_by_the_spec_is_none_of_its_time(rollout: dict[str, Any]) -> None:
    cluster = await starting({**rollout, **BRIEF})
    await cluster.apply(V2, rollout={**rollout, **BRIEF}, paused=True)
    await cluster.settle(3)
    assert await cluster.writes_during(60, seconds=10) == []
    await cluster.apply(V2, rollout={**rollout, **BRIEF})
    await ends_in_five_minutes(cluster)


async def test_without_steps_it_is_retried_and_reported() -> None:
    cluster = await late({"strategy": "recreate", "progressDeadline": "5m", "progressDeadlineAction": "pause"})
    assert await cluster.condition("Stalled") == ("True", "ProgressDeadlineExceeded")
    assert (await cluster.message("Stalled")).endswith("the store is away; still retrying")
    cluster.serve.failures.clear()
    await cluster.settle(40, seconds=10)
    assert await cluster.serves(2)
    assert await cluster.condition("Stalled") == ("Absent", "")


STEPS = {"steps": [{"weight": 25, "gate": "time", "minDuration": "10s"}, {"weight": 50, "gate": "manual"}]}
SHORT = "not ready within 5m, spec.rollout.progressDeadline: 1 of 2 replicas are available for step 2 of 3"


async def short(weights: tuple[int, int] = (2, 25), **rollout: Any) -> Cluster:
    """Revision 2 has the replicas of its first step, and finds no nodes for more."""
    cluster = Cluster()
    spec = {**STEPS, "progressDeadline": "5m", **rollout}
    await cluster.deploy(rollout=spec, replicas=4)
    cluster.serve.room["digits-r2"] = 1
    await cluster.apply(V2, rollout=spec, replicas=4)
    await cluster.until(functools.partial(cluster.at_weight, *weights))
    await cluster.settle(20)
    return cluster


async def test_missing_replicas_of_a_later_step_end_the_rollout() -> None:
    cluster = await short()
    assert (await attempt(cluster))["step"]["reason"] == "waits for replicas: 1 of 2 are available"
    await cluster.settle(27, seconds=10)
    assert await cluster.weights() == {1: 75, 2: 25}, "it has its time"
    await cluster.settle(10, seconds=10)
    assert await cluster.weights() == {1: 100}
    assert await cluster.condition("Stalled") == ("True", "Aborted")
    assert (await cluster.status())["lastRollout"]["reason"] == f"ProgressDeadlineExceeded: {SHORT}"
    assert "RolloutAborted" in await cluster.events()


async def test_a_canary_that_waits_for_replicas_has_the_same_time_without_any() -> None:
    cluster = await short()
    await cluster.settle(40)
    assert (await cluster.condition("RevisionReady"))[0] == "False", "for longer than the grace, by what it waits for"
    cluster.serve.crash_replicas("digits-r2")
    await cluster.settle(2)
    assert "lostSince" in (await cluster.status())["candidate"]
    await cluster.settle(5)
    assert "lostSince" not in (await cluster.status())["candidate"], "it came back"
    for _ in range(69):
        cluster.serve.crash_replicas("digits-r2")
        await cluster.settle(2)
        assert await cluster.weights() == {1: 75, 2: 25}
    cluster.serve.crash_replicas("digits-r2")
    await cluster.settle(8)
    assert await cluster.weights() == {1: 100}
    assert "CandidateUnavailable: no healthy replica for 140 s" in (await cluster.status())["lastRollout"]["reason"]


async def test_a_clock_that_is_set_back_gives_an_unavailable_canary_no_more_time() -> None:
    cluster = await short()
    await cluster.settle(60)
    cluster.serve.crash_replicas("digits-r2")
    await cluster.settle(2)
    assert "lostSince" in (await cluster.status())["candidate"]
    cluster.clock.set_back(60)
    for _ in range(72):
        cluster.serve.crash_replicas("digits-r2")
        await cluster.settle(2)
    assert await cluster.weights() == {1: 100}


async def test_missing_replicas_of_a_later_step_pause_it_by_policy() -> None:
    cluster = await short(progressDeadlineAction="pause")
    await cluster.settle(40, seconds=10)
    paused = (await attempt(cluster))["paused"]
    assert (paused["reason"], paused["message"]) == ("ProgressDeadlineExceeded", SHORT)
    assert await cluster.weights() == {1: 75, 2: 25}
    assert "RolloutPaused" in await cluster.events()
    assert "revision 2 is paused (ProgressDeadlineExceeded)" in await cluster.message("Ready")
    await cluster.command("resume revision=2 id=a")
    await cluster.settle(26, seconds=10)
    assert "paused" not in await attempt(cluster), "it has its time anew"
    cluster.serve.room.clear()
    await cluster.until_weight(2, 50)
    await cluster.settle(3)
    assert "shortSince" not in (await attempt(cluster))["step"]


@pytest.mark.parametrize(
    ("steps", "weight"),
    [
        ([{"weight": 25, "gate": "time", "minDuration": "10s"}, {"scale": {"percent": 50}}], 25),
        ([{"pause": {"duration": "10s"}}, {"weight": 50, "gate": "manual"}], 0),
        ([{"weight": 25, "gate": "time", "minDuration": "10s"}], 25),
    ],
    ids=["scale", "before any traffic", "all traffic"],
)
async def test_whatever_asks_for_them_replicas_have_their_time(steps: list[Any], weight: int) -> None:
    cluster = await short((2, weight), steps=steps)
    await cluster.settle(40, seconds=10)
    assert await cluster.weights() == {1: 100}
    assert "ProgressDeadlineExceeded" in (await cluster.status())["lastRollout"]["reason"]


@pytest.mark.parametrize("held", [{"paused": True}, {"windows": [{"cron": "0 3 1 1 *", "duration": "1m"}]}], ids=str)
async def test_time_that_is_held_or_outside_of_windows_is_none_of_a_later_steps(held: dict[str, Any]) -> None:
    cluster = await short(steps=[{"weight": 25, "gate": "manual"}, *STEPS["steps"][1:]])
    await cluster.command("promote revision=2 id=a")
    await cluster.settle(3)
    spec = {**STEPS, "progressDeadline": "5m"}
    await cluster.apply(V2, rollout={**spec, **held}, replicas=4)
    await cluster.settle(60, seconds=10)
    assert await cluster.weights() == {1: 75, 2: 25}


async def test_replicas_that_came_while_nobody_looked_were_in_time() -> None:
    cluster = await short()
    cluster.clock.advance(3600)
    cluster.serve.room.clear()
    await cluster.until_weight(2, 50)


async def test_an_operator_that_dies_at_every_other_write_pauses_and_resumes_alike() -> None:
    cluster = Cluster()
    await cluster.deploy(rollout=PAUSE)
    cluster.serve.failures[V2] = AWAY
    await cluster.apply(V2, rollout=PAUSE)
    die_at_every(2, cluster)
    await live(cluster, 60, 10)
    assert (await attempt(cluster))["paused"]["reason"] == "ProgressDeadlineExceeded"
    cluster.serve.failures.clear()
    await live(cluster, 60, 10)
    await cluster.outside(lambda: cluster.command("resume revision=2 id=a"))
    await live(cluster, 20, 10)
    assert await cluster.weights() == {1: 75, 2: 25}
    assert (await cluster.status())["lastCommand"]["result"] == "Accepted"


async def test_a_pass_that_changes_nothing_writes_nothing() -> None:
    cluster = await late()
    cluster.serve.failures.clear()
    await cluster.settle(40, seconds=10)
    assert await cluster.writes_during(10, seconds=10) == []


def asked(cluster: Cluster, since: int) -> list[set[str]]:
    """Return the applications of each document that Serve got since then."""
    return [{app["name"] for app in put["applications"]} for put in cluster.serve.puts[since:]]


async def test_a_retry_of_one_that_hangs_takes_it_out_and_puts_it_in_again() -> None:
    cluster = Cluster()
    await cluster.deploy(rollout=PAUSE)
    cluster.serve.start_s = 10**6
    await cluster.apply(V2, rollout=PAUSE)
    await cluster.settle(40, seconds=10)
    assert (await attempt(cluster))["paused"]["reason"] == "ProgressDeadlineExceeded"
    assert await cluster.condition("RevisionReady") == ("False", "Deploying")
    puts = len(cluster.serve.puts)
    await cluster.command("retry revision=2 id=a")
    await cluster.settle(10)
    assert (await cluster.status())["lastCommand"]["result"] == "Accepted"
    assert asked(cluster, puts) == [{"digits-r1"}, {"digits-r1", "digits-r2"}]
    assert "retryAt" not in (await cluster.status())["candidate"]


async def test_a_retry_waits_until_serve_reports_that_it_is_gone() -> None:
    """Serve does not answer, so the change that it did not get is not forgotten."""
    cluster = await starting(PAUSE)
    await cluster.settle(40, seconds=10)
    puts = len(cluster.serve.puts)
    cluster.serve.down = True
    await cluster.command("retry revision=2 id=a")
    await cluster.settle(20)
    assert "retryAt" in (await cluster.status())["candidate"]
    cluster.serve.down = False
    await cluster.settle(10)
    assert asked(cluster, puts) == [{"digits-r1"}, {"digits-r1", "digits-r2"}]
    assert "retryAt" not in (await cluster.status())["candidate"]
