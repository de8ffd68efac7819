"""Rollouts whose canary takes its replicas from stable, in memory, with exactly as many devices as the service needs."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from doubles.attempts import has_drained
from doubles.cluster import NAME, NAMESPACE, Cluster
from doubles.crashes import Died, assert_same_end_after_any
from doubles.hooked_kubernetes import Write
from doubles.traffic import Answers
from profiles import examples
from sundog_operator.api.installation import parse_installation
from sundog_operator.ports import EXPERIMENT, Ref

V1, V2, V3 = (f"file:///models/v{number}" for number in (1, 2, 3))
HALF = {"steps": [{"weight": 50, "gate": "manual"}], "capacity": "inPlace"}


class Watch:
    """Records the replicas of both revisions after every pass of the reconciler.

    Attributes:
        needed: replicas for all of the traffic.
        least: smallest number of ready replicas of stable and of the canary beyond the need of their traffic; below 0 some are missing.
        most: largest number of replicas that both should have together.
        weights: the canary's weights with traffic, in the order in which edges applied them.
    """

    def __init__(self, cluster: Cluster, needed: int) -> None:
        self._cluster, self.needed = cluster, needed
        self.least = [float(needed), float(needed)]
        self.most = 0
        self.weights: list[int] = []
        self.empty: list[str] = []

    async def look(self) -> None:
        status = await self._cluster.status()
        shown = [each for each in (status.get("stable"), status.get("candidate")) if each]
        self.most = max(self.most, sum(each["replicas"] for each in shown))
        for document in self._cluster.edges.in_force():
            for arm in (arm for service in document["services"] for arm in service["arms"]):
                self._weigh(arm["name"] == "canary", arm["application"], arm["weight"])

    def assert_enough(self) -> None:
        """Check that neither ever lacked more than a replica, and that nothing without replicas had traffic."""
        assert min(self.least) >= -1
        assert self.empty == []

    def _weigh(self, is_candidate: bool, application: str, weight: int) -> None:
        if is_candidate and weight and self.weights[-1:] != [weight]:
            self.weights.append(weight)
        if not weight:
            return
        ready = self._cluster.serve.running(application)
        if not ready:
            self.empty.append(f"{application} has {weight} %")
        # Weights are whole percents.
        beyond = ready - self.needed * max(0, weight - 1) / 100
        self.least[is_candidate] = min(self.least[is_candidate], beyond)


async def begun(needed: int, rollout: dict[str, Any], devices: int | None = None) -> tuple[Cluster, Watch]:
    """The first revision serves, and the second is wanted."""
    cluster = Cluster()
    cluster.serve.devices = devices or needed
    await cluster.deploy(replicas=needed, rollout=rollout)
    await cluster.settle(10)
    watch = Watch(cluster, needed)
    cluster.after_step = watch.look
    await cluster.apply(V2, replicas=needed, rollout=rollout)
    return cluster, watch


async def halfway(needed: int, rollout: dict[str, Any]) -> tuple[Cluster, Watch]:
    """Both revisions have half of the traffic and of the replicas."""
    cluster, watch = await begun(needed, rollout)
    await cluster.until_weight(2, 50)
    await cluster.settle(10)
    return cluster, watch


async def until_drained(cluster: Cluster) -> None:
    """Wait until the rollout is over and has given all back."""
    await cluster.until(functools.partial(has_drained, cluster), rounds=100)
    await cluster.settle(10)


async def replicas(cluster: Cluster) -> dict[int, int]:
    status = await cluster.status()
    shown = [status.get("stable"), status.get("candidate")]
    return {each["revision"]: each["replicas"] for each in shown if each}


def all_run(cluster: Cluster, revision: int, needed: int) -> bool:
    return cluster.serve.running(f"{NAME}-r{revision}") == needed


async def test_a_canary_goes_up_replica_by_replica_within_what_there_is() -> None:
    cluster, watch = await halfway(4, HALF)
    assert await replicas(cluster) == {1: 2, 2: 2}
    assert watch.weights == [25, 50]
    assert (await cluster.status())["capacity"] == {
        "gpusRequested": 0,
        "gpusAllocated": 0,
        "mode": "inPlace",
        "neededReplicas": 4,
        "spareReplicas": 0,
    }
    await cluster.command("promote revision=2 id=a")
    await cluster.until_serves(2, rounds=100)
    await until_drained(cluster)
    assert all_run(cluster, 2, 4)
    assert await replicas(cluster) == {2: 4}
    assert "capacity" not in await cluster.status()
    assert watch.weights[:2] == [25, 50]
    watch.assert_enough()
    assert watch.most <= 5


async def test_what_surge_needs_is_not_asked_for() -> None:
    """The same devices, beside stable: no replica starts, and the deadline ends the rollout."""
    cluster, _ = await begun(4, {**HALF, "capacity": "surge", "progressDeadline": "1m"})
    await cluster.settle(90)
    assert await cluster.weights() == {1: 100}
    assert (await cluster.status())["lastRollout"]["outcome"] == "Aborted"


@pytest.mark.parametrize("needed", [2, 3, 4, 5])
async def test_an_abort_gives_back_as_stable_comes(needed: int) -> None:
    cluster, watch = await halfway(needed, HALF)
    up = len(watch.weights)
    assert (await cluster.answer("abort revision=2 id=a"))[0] == "Accepted"
    await until_drained(cluster)
    assert all_run(cluster, 1, needed)
    assert watch.weights[up:] == sorted(set(watch.weights[up:]), reverse=True)
    watch.assert_enough()
    assert await cluster.condition("Stalled") == ("True", "Aborted")
    assert (await cluster.experiment("digits-r2"))["status"]["verdict"]["reason"] == "Aborted: by command"


async def test_while_it_gives_back_that_is_reported_and_no_command_is_accepted() -> None:
    cluster, _ = await halfway(4, HALF)
    cluster.serve.later_s = 60
    await cluster.command("abort revision=2 id=a")
    await cluster.settle(10)
    assert await cluster.weights() == {1: 75, 2: 25}
    assert await cluster.condition("Progressing") == ("True", "RollingBack")
    expected_message = "revision 2, Aborted: returns traffic to stable as its replicas become available: 2 of 4"
    assert await cluster.message("Progressing") == expected_message
    for verb in ("promote", "pause", "abort"):
        expected_message = f"revision 2 already returns its traffic to stable: there is nothing to {verb}"
        assert await cluster.answer(f"{verb} revision=2 id={verb}") == ("Rejected", expected_message)


@pytest.mark.extended
async def test_what_is_applied_while_evidence_takes_a_candidate_back_has_its_own_gates() -> None:
    cluster, rollout = Cluster(), {"steps": [{"weight": 50}], "capacity": "inPlace"}
    cluster.serve.devices = 4
    fine, bad = Answers(errors=0.01), Answers(errors=0.2)
    cluster.set_traffic(100, fine, bad, fine)
    await cluster.deploy(replicas=4, rollout=rollout)
    await cluster.settle(12, seconds=10)
    await cluster.roll_out(replicas=4, rollout=rollout)
    cluster.serve.later_s = 60

    async def goes_back() -> bool:
        return await cluster.condition("Progressing") == ("True", "RollingBack")

    assert await cluster.go_on(20, goes_back)
    await cluster.roll_out(3, replicas=4, rollout=rollout)
    status = await cluster.status()
    assert (status["lastRollout"]["revision"], status["lastRollout"]["outcome"]) == (2, "RolledBack")
    assert status["experiment"] == "digits-r3"


async def test_a_dead_candidate_gives_all_back_at_once() -> None:
    cluster, watch = await halfway(4, HALF)
    cluster.serve.room = {"digits-r2": 0}
    # After its grace, in which a lost replica may start again.
    await cluster.until_weight(1, 100, rounds=200)
    await cluster.settle(3)
    assert watch.weights == [25, 50]
    cluster.serve.room = {}
    await until_drained(cluster)
    assert all_run(cluster, 1, 4)


@pytest.mark.extended
async def test_a_dead_canary_gives_all_traffic_back_at_once_and_a_harmful_one_does_not() -> None:
    rollout = {"steps": [{"weight": 50}], "capacity": "inPlace", "warmup": {"requests": 0}}
    for errors, weights in ((1.0, {1: 100}), (0.3, {1: 75, 2: 25})):
        cluster, watch = await begun(4, rollout)
        fine, bad = Answers(errors=0.001), Answers(errors=errors)
        cluster.set_traffic(20, fine, fine)
        await cluster.until_weight(2, 50)
        await cluster.settle(10)
        cluster.edges.traffic.answers = {"digits-r1": fine, "digits-r2": bad}
        cluster.serve.devices = 2  # another pod takes the freed device, so that stable does not come back
        await cluster.until_weight(2, 25, rounds=400)
        await cluster.settle(90)
        assert await cluster.weights() == weights
        cluster.serve.devices = 4
        await cluster.until_weight(1, 100, rounds=400)
        await cluster.settle(5)
        assert watch.weights == [25, 50, 25]
        assert (await cluster.status())["lastRollout"]["outcome"] == "RolledBack"


async def test_where_stable_does_not_come_back_all_traffic_goes_to_it_in_the_end() -> None:
    cluster, watch = await halfway(4, {**HALF, "progressDeadline": "2m"})
    cluster.serve.devices = 2  # another pod takes the freed device
    await cluster.command("abort revision=2 id=a")
    await cluster.settle(60)
    assert await cluster.weights() == {1: 75, 2: 25}
    await cluster.settle(90)
    assert await cluster.weights() == {1: 100}
    assert watch.weights == [25, 50, 25]


async def test_another_revision_waits_until_stable_has_its_replicas_back() -> None:
    cluster, watch = await halfway(4, HALF)
    await cluster.apply(V3, replicas=4, rollout=HALF)
    await cluster.settle(3)
    status = await cluster.status()
    assert (status["candidate"]["revision"], status["queued"]) == (2, 3)
    assert await cluster.message("Progressing") == (
        "revision 2, Superseded: returns traffic to stable as its replicas become available: 2 of 4;"
        " revision 3 waits until this rollout has ended"
    )
    await cluster.until_weight(3, 50)
    watch.assert_enough()
    assert (await cluster.experiment("digits-r2"))["status"]["verdict"]["reason"].startswith("Superseded: ")


async def test_an_edit_back_to_stable_ends_it_likewise() -> None:
    cluster, watch = await halfway(4, HALF)
    await cluster.apply(V1, replicas=4, rollout=HALF)
    await until_drained(cluster)
    assert watch.weights == [25, 50, 25]
    assert await cluster.condition("Promoted") == ("True", "Promoted")
    assert await cluster.condition("Stalled") == ("Absent", "")


async def test_a_return_within_the_window_comes_in_place_without_steps() -> None:
    rollout = {**HALF, "rollbackWindow": {}}
    cluster, watch = await halfway(3, rollout)
    await cluster.command("promote revision=2 id=a")
    await cluster.until_serves(2, rounds=100)
    await until_drained(cluster)
    watch.weights.clear()
    await cluster.apply(V1, replicas=3, rollout=rollout)
    await cluster.until_serves(1, rounds=100)
    await until_drained(cluster)
    assert all_run(cluster, 1, 3)
    assert watch.weights[:1] == [33]
    assert watch.least[0] >= -1


async def test_a_rollback_to_stable_is_an_abort_and_one_to_another_waits_for_it() -> None:
    cluster, _ = await halfway(3, HALF)
    await cluster.command("promote revision=2 id=a")
    await cluster.until_serves(2, rounds=100)
    await until_drained(cluster)
    await cluster.roll_out(3, 50, replicas=3, rollout=HALF)
    message = "revision 3 has replicas of stable. Abort it first, then roll back"
    assert await cluster.answer("rollback revision=1 id=b") == ("Rejected", message)
    await cluster.command("rollback revision=2 id=c")
    await until_drained(cluster)
    assert await cluster.weights() == {2: 100}
    assert await cluster.condition("Stalled") == ("True", "RolledBack")
    assert all_run(cluster, 2, 3)


async def test_one_replica_cannot_be_shared_and_that_is_shown() -> None:
    cluster, _ = await begun(1, HALF)
    await cluster.settle(10)
    expected_message = (
        "spec.rollout.capacity: inPlace needs at least 2 replicas, found 1: stable keeps one while the candidate's starts."
        " Raise spec.replicas, or set capacity: surge"
    )
    assert await cluster.condition("CapacityAvailable") == ("False", "InsufficientCapacity")
    assert await cluster.message("CapacityAvailable") == f"revision 2: {expected_message}"
    assert await cluster.message("Stalled") == expected_message
    assert await cluster.weights() == {1: 100}
    assert await replicas(cluster) == {1: 1}
    await cluster.apply(V2, replicas=2, rollout=HALF)
    cluster.serve.devices = 2
    await cluster.until_weight(2, 50)


async def test_stable_gives_none_away_while_it_lacks_one_of_its_own() -> None:
    cluster, _ = await begun(3, HALF)
    cluster.serve.later_s = 20
    cluster.serve.crash_some("digits-r1", 1)
    await cluster.settle(10)
    assert (await replicas(cluster))[1] == 3
    await cluster.until_weight(2, 50, rounds=300)


async def test_a_replica_of_stable_whose_place_the_candidate_has_got_holds_nothing_up() -> None:
    """The pod that waited longest need not get the first free device."""
    cluster, watch = await begun(4, HALF)
    cluster.serve.devices = 3
    cluster.serve.lose_one("digits-r1")
    await cluster.settle(5)
    assert await replicas(cluster) == {1: 4, 2: 1}
    cluster.serve.first, cluster.serve.devices = "digits-r2", 4
    await cluster.until_weight(2, 25)
    assert cluster.serve.running("digits-r1") == 3
    await cluster.until_weight(2, 50)
    assert watch.least[0] >= -1
    assert watch.most <= 5


async def test_a_pause_in_the_middle_gives_stable_back_what_is_not_used_yet() -> None:
    cluster, _ = await begun(4, {"steps": [{"weight": 75, "gate": "manual"}], "capacity": "inPlace"})
    await cluster.until_weight(2, 25)
    cluster.serve.later_s = 60
    await cluster.settle(5)
    assert await replicas(cluster) == {1: 2, 2: 2}
    await cluster.command("pause revision=2 id=p")
    await cluster.settle(5)
    assert await replicas(cluster) == {1: 3, 2: 1}
    cluster.serve.later_s = 0
    await cluster.command("resume revision=2 id=r")
    await cluster.until_weight(2, 75, rounds=300)


async def test_a_candidate_that_cannot_start_leaves_stable_whole() -> None:
    cluster, watch = await begun(2, HALF)
    cluster.serve.failures[V2] = ("ModelNotFound", "/models/v2: No such file")
    await cluster.settle(8)
    assert (await cluster.status())["candidate"]["retryAt"]
    await cluster.until(lambda: _async(all_run(cluster, 1, 2)), rounds=20)
    cluster.serve.failures.clear()
    await cluster.until_weight(2, 50, rounds=300)
    assert watch.least[0] >= -1


async def _async(value: bool) -> bool:
    return value


async def test_a_scale_in_the_middle_is_followed_by_both() -> None:
    cluster, watch = await halfway(4, HALF)
    cluster.serve.devices = 8
    await cluster.apply(V2, replicas=8, rollout=HALF)
    await cluster.settle(30)
    assert await replicas(cluster) == {1: 4, 2: 4}
    assert (await cluster.status())["capacity"]["neededReplicas"] == 8
    await cluster.apply(V2, replicas=2, rollout=HALF)
    await cluster.settle(30)
    assert await replicas(cluster) == {1: 1, 2: 1}
    assert watch.empty == []


async def test_a_spec_that_is_refused_meanwhile_changes_no_number() -> None:
    cluster, watch = await halfway(4, HALF)
    await cluster.apply(V2, replicas="four", rollout=HALF)
    await cluster.settle(20)
    assert await replicas(cluster) == {1: 2, 2: 2}
    await cluster.command("abort revision=2 id=a")
    await until_drained(cluster)
    assert all_run(cluster, 1, 4)
    assert watch.least[0] >= -1


async def test_autoscaling_that_is_set_meanwhile_waits_for_its_end() -> None:
    cluster = Cluster(installation=parse_installation("runtimeImage: example.com/runtime:1", "test"))
    await cluster.deploy(replicas=4, rollout=HALF)
    (cluster.serve,) = cluster.serve_apis.by_dashboard.values()
    await cluster.roll_out(2, 50, replicas=4, rollout=HALF)
    await cluster.settle(10)
    by_load = {"autoscaling": {"minReplicas": 1, "maxReplicas": 9}, "rollout": {**HALF, "capacity": "auto"}}
    await cluster.apply(V2, **by_load)
    cluster.serve.load(f"{NAME}-r1", 3)
    await cluster.settle(10)
    assert await replicas(cluster) == {1: 2, 2: 2}
    assert [cluster.serve.running(f"{NAME}-r{number}") for number in (1, 2)] == [2, 2]
    watch = Watch(cluster, 4)
    cluster.after_step = watch.look
    await cluster.command("promote revision=2 id=a")
    await cluster.until_serves(2, rounds=100)
    assert watch.least[1] >= 0
    cluster.serve.load(f"{NAME}-r2", 6)
    await until_drained(cluster)
    assert all_run(cluster, 2, 6)


@pytest.mark.parametrize("edit", [{}, {"replicas": "four"}], ids=["accepted", "refused"])
async def test_a_status_that_was_lost_is_taken_up_as_it_was(edit: dict[str, Any]) -> None:
    cluster, watch = await halfway(4, HALF)
    await cluster.apply(V2, **{"replicas": 4, "rollout": HALF, **edit})
    await cluster.lose_status()
    await cluster.settle(5)
    assert await replicas(cluster) == {1: 2, 2: 2}
    capacity = (await cluster.status())["capacity"]
    assert (capacity["mode"], capacity["neededReplicas"]) == ("inPlace", 4)
    assert watch.least[0] >= -1


async def test_how_it_began_is_kept_whatever_the_spec_says_since() -> None:
    cluster, _ = await halfway(4, HALF)
    await cluster.apply(V2, replicas=4, rollout={**HALF, "capacity": "surge"})
    await cluster.settle(10)
    assert await replicas(cluster) == {1: 2, 2: 2}
    assert (await cluster.status())["capacity"]["mode"] == "inPlace"


async def _way_and_back(on_write: Callable[[Any, Write], None]) -> tuple[dict[str, Any], int]:
    cluster, watch = await begun(3, HALF)
    cluster.kube.on_write = on_write

    async def until(condition: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(200):
            if await condition():
                return
            try:
                await cluster.round()
            except Died:
                cluster.clock.advance(1)
        raise AssertionError(await cluster.status())

    await until(functools.partial(cluster.at_weight, 2, 50))
    await cluster.outside(lambda: cluster.command("abort revision=2 id=a"))
    await until(functools.partial(has_drained, cluster))

    async def whole() -> bool:
        return all_run(cluster, 1, 3) and (await cluster.condition("Ready"))[0] == "True"

    await until(whole)
    cluster.kube.on_write = lambda *_: None
    await cluster.settle(10)
    watch.assert_enough()
    status = await cluster.status()
    stored_status = (await cluster.experiment("digits-r2"))["status"]
    end = {
        "replicas": await replicas(cluster),
        "weights": await cluster.weights(),
        "outcome": status["lastRollout"]["outcome"],
        "verdict": stored_status["verdict"],
        "applications": cluster.serve.puts[-1]["applications"],
    }
    return end, len(cluster.kube.writes)


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.extended), 13])
async def test_a_crash_after_any_write_changes_nothing_of_the_end(every: int) -> None:
    await assert_same_end_after_any(_way_and_back, every)


STEPS = st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True).map(sorted)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("rounds"), st.integers(1, 12)),
        st.tuples(st.just("start"), st.integers(1, 15)),
        st.tuples(st.just("promote"), st.booleans()),
        st.tuples(st.just("pause"), st.booleans()),
        st.tuples(st.just("edges"), st.integers(1, 8)),
    ),
    max_size=10,
)
SETTINGS = settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.too_slow])


async def play(cluster: Cluster, events: list[tuple[str, int]]) -> None:
    for number, (what, value) in enumerate(events):
        match what:
            case "rounds":
                await cluster.settle(value)
            case "promote":
                text = f"promote revision=2 id=e{number}" + (" full=true" if value else "")
                await cluster.command(text)
            case "pause":
                await cluster.command(f"{'pause' if value else 'resume'} revision=2 id=e{number}")
            case _:
                befall(cluster, what, value)
        await cluster.settle(1)


def befall(cluster: Cluster, what: str, value: int) -> None:
    """Let the cluster change without the operator."""
    match what:
        case "start":
            cluster.serve.later_s = value
        case "edges":
            cluster.edges.lag_s = value
        case "crash":
            revision, count = divmod(value, 3)
            name = f"{NAME}-r{revision + 1}"
            if cluster.serve.running(name):
                cluster.serve.crash_some(name, count + 1)
        case "ray":
            cluster.serve.down = bool(value)
        case _:
            cluster.edges.stale = {"sundog-edge-0"} if value else set()


async def end_on_stable(cluster: Cluster, needed: int) -> None:
    """Abort the rollout, and check that everything ends in the right state."""
    await cluster.command("abort revision=2 id=z")
    for _ in range(1200):
        stable = ((await cluster.status()).get("stable") or {}).get("revision")
        if await has_drained(cluster) and all_run(cluster, stable, needed):
            break
        await cluster.round()
    else:
        raise AssertionError(await cluster.status())
    outcome = ((await cluster.status()).get("lastRollout") or {}).get("outcome")
    assert stable == (2 if outcome == "Promoted" else 1)
    assert await cluster.weights() == {stable: 100}
    assert await replicas(cluster) == {stable: needed}


@pytest.mark.extended
@SETTINGS
@given(st.integers(2, 7), STEPS, EVENTS)
@example(2, [50], [("rounds", 12)])
@example(5, [30, 95], [("start", 9), ("rounds", 12), ("edges", 8), ("promote", 1), ("rounds", 12)])
def test_neither_lacks_more_than_a_replica_at_a_pass(
    needed: int, weights: list[int], events: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        steps = [{"weight": weight, "gate": "manual"} for weight in weights]
        cluster, watch = await begun(needed, {"steps": steps, "capacity": "inPlace"})
        await play(cluster, events)
        await end_on_stable(cluster, needed)
        watch.assert_enough()
        assert watch.most <= needed + 1

    asyncio.run(run())


FAULTS = st.lists(
    st.one_of(
        st.tuples(st.just("rounds"), st.integers(1, 12)),
        st.tuples(st.just("start"), st.integers(1, 15)),
        st.tuples(st.just("promote"), st.booleans()),
        st.tuples(st.just("crash"), st.integers(0, 5)),
        st.tuples(st.just("ray"), st.booleans()),
        st.tuples(st.just("stale"), st.booleans()),
    ),
    max_size=12,
)


@pytest.mark.extended
@SETTINGS
@given(st.integers(2, 6), STEPS, FAULTS)
def test_whatever_fails_no_more_is_asked_for_than_there_is_and_it_ends_on_stable(
    needed: int, weights: list[int], events: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        steps = [{"weight": weight, "gate": "manual"} for weight in weights]
        rollout = {"steps": steps, "capacity": "inPlace", "progressDeadline": "5m"}
        cluster, watch = await begun(needed, rollout)
        await play(cluster, events)
        cluster.serve.down, cluster.edges.stale = False, set()
        await cluster.settle(5)
        await end_on_stable(cluster, needed)
        assert watch.most <= needed + 1

    asyncio.run(run())


async def test_a_damaged_experiment_is_begun_anew_in_place() -> None:
    cluster, watch = await halfway(4, HALF)
    await cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, "digits-r2"))
    await cluster.settle(40)
    await cluster.until_weight(2, 50, rounds=200)
    assert await replicas(cluster) == {1: 2, 2: 2}
    assert watch.empty == []
