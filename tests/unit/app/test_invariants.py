"""Invariants over random histories: edits, commands, faults and crashes, each checked after every pass of the reconciler."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bucket_ranges import is_partition
from doubles.cluster import MANUAL, NAME, NAMESPACE, TIMED, Cluster
from doubles.crashes import Died, assert_same_end_after_any
from doubles.hooked_kubernetes import Write
from profiles import examples
from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.core.kubernetes.names import application
from sundog_operator.core.planner.desired_state import live_revisions
from sundog_operator.ports import CONFIG_MAP, CONTROLLER_REVISION, EXPERIMENT, MODEL_DEPLOYMENT, Ref

MODELS = ("file:///models/v1", "file:///models/v2", "file:///models/bad", "file:///models/missing")
QUEUING = {**MANUAL, "onNewRevision": "queue", "rollbackWindow": {"revisions": 1}, "keepPrevious": {"for": "1m"}}
RESTARTING = {**TIMED, "onNewRevision": "restart", "windows": [{"cron": "*/2 * * * *", "duration": "1m"}]}
BY_HEADER = {"steps": [{"headers": {"x-canary": "1"}}, {"pause": {}}, {"weight": 25, "gate": "manual"}]}
BY_CALLERS = {
    "overrides": [
        {"header": "x-pick", "value": arm, "arm": arm, "callers": {"networks": ["10.0.0.0/8"]}}
        for arm in ("stable", "canary", "control", "arm0", "arm1")
    ]
}
BAKING = {**TIMED, "bake": {"duration": "20s", "holdback": "2%"}, "onNoData": "promote", "warmup": {"requests": 0}}
SHADOWING = {
    "strategy": "shadow",
    "steps": [{"shadow": {"maxDuration": "10s"}}],
    "bake": {"duration": "20s", "holdback": "2%"},
    "onInconclusive": "promote",
    "onNoData": "promote",
}
BAKING_BY_HAND = {**BAKING, "steps": MANUAL["steps"]}
VERBS = ("promote", "skip", "pause", "resume", "abort", "retry", "rollback", "stop")


@dataclass
class Watcher:
    """Reads the state after every pass, and remembers what must not be undone."""

    cluster: Cluster
    ever_ready: set[str] = field(default_factory=set)
    transitions: dict[str, str] = field(default_factory=dict)

    def note_running(self) -> None:
        for name in (application(NAME, number) for number in range(1, 12)):
            if self.cluster.serve.running(name):
                self.ever_ready.add(name)

    async def check(self) -> None:
        self.note_running()
        await self._split()
        await self._statuses()
        self._deployed_covers_traffic()

    async def _split(self) -> None:
        stored = await self.cluster.kube.get(Ref(CONFIG_MAP, NAMESPACE, "sundog-edge"))
        for service in json.loads(stored["data"]["split.json"])["services"] if stored else ():
            if not service["arms"]:
                continue
            assert round(sum(arm["weight"] for arm in service["arms"]), 6) == 100  # I1
            assert all(0 <= arm["weight"] <= 100 for arm in service["arms"])
            ours = {"stable", "canary"} >= {arm["name"] for arm in service["arms"]}
            assert all(isinstance(arm["weight"], int) for arm in service["arms"] if ours)
            ranges = [tuple(interval) for arm in service["arms"] for interval in arm["ranges"]]
            assert is_partition(ranges)
            for arm in service["arms"]:
                assert sum(end - start for start, end in arm["ranges"]) == round(arm["weight"] * 100)
                forced = arm["name"] in chosen(service)
                assert not (arm["weight"] or forced) or arm["application"] in self.ever_ready  # I2

    async def _statuses(self) -> None:
        for stored in await self.cluster.kube.list(MODEL_DEPLOYMENT, NAMESPACE):
            status = stored.get("status") or {}
            ModelDeploymentStatus.from_json(status)
            assert status.get("observedGeneration", -1) <= stored["metadata"]["generation"]  # I9
            # A condition that was absent in between, or a lost status, has nothing to compare with.
            since = {condition["type"]: condition["lastTransitionTime"] for condition in status.get("conditions", ())}
            assert all(at >= self.transitions.get(type_, "") for type_, at in since.items())
            self.transitions = since

        running = []
        for stored in await self.cluster.kube.list(EXPERIMENT, NAMESPACE):
            experiment_status = ExperimentStatus.from_json(stored.get("status") or {})
            own = experiment_status.plan.comparison is not None
            assert not own or is_partition([interval for arm in experiment_status.arms for interval in arm.ranges])
            running += [stored["metadata"]["name"]] if own and experiment_status.phase == "Running" else []
        # A revision that was released in a lost status is reported at the next pass.
        assert len(running) <= 1

    def _deployed_covers_traffic(self) -> None:
        if not self.cluster.serve.puts:
            return
        deployed = {app["name"] for app in self.cluster.serve.puts[-1]["applications"]}
        for document in self.cluster.edges.in_force():
            for service in document["services"]:
                forced = chosen(service)
                carrying = {arm["application"] for arm in service["arms"] if arm["weight"] or arm["name"] in forced}
                assert carrying <= deployed  # I3, I4, I11


def chosen(service: dict[str, Any]) -> set[str | None]:
    """Return the arms that headers and overrides choose."""
    return {service.get("match", {}).get("arm"), *(each["arm"] for each in service.get("overrides", ()))}


Action = tuple[Any, ...]

actions = st.one_of(
    st.tuples(
        st.just("apply"),
        st.sampled_from(MODELS),
        st.sampled_from(
            (MANUAL, TIMED, {"strategy": "recreate"}, {}, QUEUING, RESTARTING, BY_HEADER, BAKING, SHADOWING)
        ),
        st.integers(1, 3),
    ),
    st.tuples(
        st.just("break"),
        st.sampled_from(({"replicas": "three"}, {"baseline": {"uri": "file:///models/v1"}}, {"paused": True})),
    ),
    st.tuples(
        st.just("experiment"),
        st.sampled_from(("a", "b")),
        st.lists(st.sampled_from(MODELS), min_size=1, max_size=9),
        st.sampled_from(
            ({}, {"stopped": True}, {"exposure": "33%"}, {"exposure": "100%"}, {"stop": {"maxDuration": "1m"}})
        ),
    ),
    st.tuples(st.just("delete_experiment"), st.sampled_from(("a", "b"))),
    st.tuples(st.just("command"), st.sampled_from(VERBS), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("rounds"), st.integers(1, 40)),
    st.tuples(st.just("ray"), st.sampled_from(("down", "up", "forgotten"))),
    st.tuples(st.just("edge"), st.sampled_from(("stale", "silent", "well"))),
    st.tuples(st.just("damage"), st.sampled_from(("revision", "experiment", "status", "split")), st.integers(1, 3)),
    st.tuples(st.just("clock"), st.integers(1, 60)),
    st.tuples(st.just("crash"), st.integers(1, 6), st.sampled_from(("before", "after"))),
)


class History:
    """Applies actions to a cluster."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.cluster.serve.failures = {
            "file:///models/bad": ("LoadFailed", "size mismatch"),
            "file:///models/missing": ("ModelNotFound", "no such directory"),
        }
        self.watcher = Watcher(self.cluster)
        self.cluster.after_step = self.watcher.check
        self.commands = 0
        self._countdown: tuple[int, str] | None = None
        self.cluster.kube.on_write = self._on_write

    def _on_write(self, moment: Literal["before", "after"], _: Write) -> None:
        if self._countdown is None or moment != self._countdown[1]:
            return
        left = self._countdown[0] - 1
        self._countdown = (left, moment) if left else None
        if not left:
            raise Died

    async def play(self, history: list[Action]) -> None:
        await self.cluster.apply(MODELS[0])
        for action in history:
            await getattr(self, f"_{action[0]}")(*action[1:])
            await self._rounds(2)

    async def _apply(self, uri: str, rollout: dict[str, Any], replicas: int) -> None:
        await self.cluster.outside(
            lambda: self.cluster.apply(uri, rollout=rollout, replicas=replicas, endpoint=BY_CALLERS)
        )

    async def _break(self, spec: dict[str, Any]) -> None:
        await self.cluster.outside(lambda: self.cluster.apply(MODELS[1], **spec))

    async def _command(self, verb: str, revision: int, full: bool) -> None:
        self.commands += 1
        text = f"{verb} revision={revision} id=c{self.commands}" + (" full=true" if full else "")
        await self.cluster.outside(lambda: self.cluster.command(text))

    async def _experiment(self, name: str, uris: list[str], spec: dict[str, Any]) -> None:
        manifest = {
            "apiVersion": "serving.sundog.dev/v1alpha1",
            "kind": "Experiment",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "modelDeployment": NAME,
                "arms": [{"name": f"arm{place}", "model": {"uri": uri}} for place, uri in enumerate(uris)],
                **spec,
            },
        }
        await self.cluster.outside(lambda: self.cluster.kube.apply(manifest))

    async def _delete_experiment(self, name: str) -> None:
        await self.cluster.outside(lambda: self.cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, name)))

    async def _rounds(self, number: int, seconds: float = 1) -> None:
        for _ in range(number):
            try:
                await self.cluster.round(seconds)
            except Died:
                # After the pass has died, the clock may undo its effect on the stand-in for Serve.
                self.watcher.note_running()
                self.cluster.clock.advance(seconds)

    async def _ray(self, state: str) -> None:
        self.cluster.serve.down = state == "down"
        self.cluster.serve.forgotten = state == "forgotten" or self.cluster.serve.forgotten

    async def _edge(self, state: str) -> None:
        self.cluster.edges.stale = {"sundog-edge-0"} if state == "stale" else set()
        self.cluster.edges.silent = {"sundog-edge-0"} if state == "silent" else set()

    async def _damage(self, what: str, number: int) -> None:
        self.watcher.transitions.clear()
        await self.cluster.outside(lambda: self._damaged(what, number))

    async def _damaged(self, what: str, number: int) -> None:
        name = application(NAME, number)
        match what:
            case "revision":
                await self.cluster.kube.delete(Ref(CONTROLLER_REVISION, NAMESPACE, name))
            case "experiment":
                await self.cluster.kube.delete(Ref(EXPERIMENT, NAMESPACE, name))
            case "split":
                await self.cluster.kube.delete(Ref(CONFIG_MAP, NAMESPACE, "sundog-edge"))
            case _:
                version = (await self.cluster.get())["metadata"]["resourceVersion"]
                await self.cluster.kube.patch_status(
                    Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME), {}, resource_version=version
                )

    async def _clock(self, seconds: int) -> None:
        self.cluster.clock.set_back(seconds)
        self.watcher.transitions.clear()

    async def _crash(self, writes: int, moment: str) -> None:
        self._countdown = (writes, moment)

    async def heal(self) -> None:
        """Stop all faults and give the operator time, including the progress deadline."""
        self._countdown = None
        await self._ray("up")
        await self._edge("well")
        await self._rounds(30)
        await self._rounds(120, seconds=10)

    async def pass_retry(self) -> None:
        """Let the next retry pass: a revision that may recover is retried forever."""
        while (retry_at := await self._retry_at()) and retry_at - self.cluster.clock.now() < timedelta(seconds=10):
            # The retry takes some rounds to fail again.
            await self._rounds(5)

    async def _retry_at(self) -> datetime | None:
        candidate = (await self.cluster.status()).get("candidate") or {}
        return datetime.fromisoformat(candidate["retryAt"]) if "retryAt" in candidate else None


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(actions, max_size=12))
# A user deleted a revision while edges may still send it requests.
@example(
    [
        ("rounds", 4),
        ("break", {"replicas": "three"}),
        ("break", {"replicas": "three"}),
        ("break", {"replicas": "three"}),
        ("apply", MODELS[0], MANUAL, 2),
        ("break", {"replicas": "three"}),
        ("break", {"replicas": "three"}),
        ("apply", MODELS[1], {"strategy": "recreate"}, 3),
        ("ray", "up"),
        ("damage", "revision", 1),
        ("ray", "up"),
    ]
)
@example([("break", {"paused": True}), ("break", {"replicas": "three"}), ("crash", 1, "after"), ("clock", 2)])
def test_random_histories_keep_the_invariants_and_converge(history: list[Action]) -> None:
    async def run() -> None:
        world = History()
        await world.play(history)
        await world.heal()
        stored = await world.cluster.get()
        conditions = {c["type"]: c["status"] for c in stored["status"]["conditions"]}
        waits = stored["status"].get("experiment")  # a gate that waits for a person is no failure to converge
        assert conditions["Ready"] == "True" or conditions.get("Stalled") == "True" or waits  # I13
        assert conditions["TrafficSynced"] == "True" or conditions["Ready"] != "True"
        live = live_revisions(ModelDeploymentStatus.parse(stored["status"]))
        deployed = {app["name"] for put in world.cluster.serve.puts[-1:] for app in put["applications"]}
        wanted = {application(NAME, number) for number in live}
        assert deployed >= wanted  # I11
        # A status lost before anything served, with an invalid spec, has no cluster whose document could shrink.
        assert deployed == wanted or not stored["status"].get("cluster")
        await world.pass_retry()
        writes, puts = len(world.cluster.kube.writes), len(world.cluster.serve.puts)
        await world.cluster.settle(5)
        assert (len(world.cluster.kube.writes), len(world.cluster.serve.puts)) == (writes, puts)  # I7

    asyncio.run(run())


async def _promotion(on_write: Callable[[Literal["before", "after"], Write], None]) -> tuple[dict[str, Any], int]:
    """Run a manual rollout that bakes to its end, then an aborted one. Return the end state and the number of writes.

    The end state omits times, ids and events: an event that follows a write may be lost with the process.
    """
    world = History()
    cluster = world.cluster
    cluster.kube.on_write = on_write

    async def until(condition: Callable[[], Any]) -> None:
        for _ in range(200):
            if await condition():
                return
            await world._rounds(1)
        raise AssertionError(await cluster.status())

    await cluster.outside(lambda: cluster.apply("file:///models/v1"))
    await until(lambda: cluster.serves(1))
    await cluster.outside(lambda: cluster.apply("file:///models/v2", rollout=BAKING_BY_HAND))
    await until(lambda: cluster.at_weight(2, 25))
    await cluster.outside(lambda: cluster.command("promote revision=2 id=a"))
    await until(lambda: cluster.at_weight(2, 50))
    await cluster.outside(lambda: cluster.command("promote revision=2 id=b"))
    await until(lambda: cluster.at_weight(2, 98))
    await until(lambda: cluster.serves(2))
    await cluster.outside(lambda: cluster.apply("file:///models/v3"))
    await until(lambda: cluster.at_weight(3, 25))
    await cluster.outside(lambda: cluster.command("abort revision=3 id=c"))
    await world._rounds(40)
    return await _end_state(cluster), len(cluster.kube.writes)


async def _end_state(cluster: Cluster) -> dict[str, Any]:
    status = await cluster.status()
    conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    experiments = {
        name: {key: (await cluster.experiment(name))["status"][key] for key in ("phase", "verdict")}
        for name in ("digits-r2", "digits-r3")
    }
    stored = await cluster.read(Ref(CONFIG_MAP, NAMESPACE, "sundog-edge"))
    arms = json.loads(stored["data"]["split.json"])["services"][0]["arms"]
    return {
        "conditions": conditions,
        "weights": await cluster.weights(),
        "last": (status["lastRollout"]["outcome"], status["lastCommand"]["id"], status["lastCommand"]["result"]),
        "experiments": experiments,
        "arms": arms,
        "applications": cluster.serve.puts[-1]["applications"],
    }


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.extended), 41])
async def test_a_crash_after_any_write_changes_nothing_of_the_end_state(every: int) -> None:
    await assert_same_end_after_any(_promotion, every)
