"""Whole Experiments through the reconcilers on a fake clock: users who come back, outcomes that come late, and failures in bursts.

The edge's own code counts the requests, and joins and reports the outcomes. So the operator reads the documents of a real edge.
"""

import asyncio
import functools
import heapq
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

import edge_reference
from doubles.cluster import NAME, NAMESPACE, Cluster
from doubles.feedback import Attempt
from doubles.hooked_kubernetes import Write
from doubles.traffic import Counts, Place, Replicas, Unit
from sundog_edge.counting.blocks import BLOCK_S
from sundog_edge.feedback.events import MILLION, OutcomeEvent
from sundog_edge.feedback.exposure import SignedExposure
from sundog_edge.feedback.join import FirstExposure, OutcomeBatch, render_feedback_section
from sundog_edge.split import assignment
from sundog_operator.app.dependencies import Dependencies

Json = dict[str, Any]
Numbers = np.ndarray[Any, Any]

CONVERTED, SPENT = "converted", "spent"
NAME_OF_EXPERIMENT: Final = "ab"
HOUR_S: Final = 3600.0

_ANSWER_US: Final = 20_000
_EARLIER_S: Final = HOUR_S
"""Users also come before the experiment, and then return during it."""

_WARMUP_LOOK_S: Final = 30.0
_WARMUP: Final = {"rollout": {"warmup": {"requests": 50, "duration": "1m"}}}


@dataclass(frozen=True, slots=True)
class Users:
    """Behaviour of the users of a service.

    Attributes:
        per_hour: new users in an hour.
        returns: the index of the Pareto law by which a user's further requests are distributed; 0 for a single request each.
        gap_s: mean time between two requests of a user.
        converting: the share of users who convert.
        spending: the share of requests with an amount.
        deviation: standard deviation of an amount's logarithm; its mean is 1.
        failing: mean share of a user's requests that fail, distributed by a Beta law.
        bursts: mean number of bursts of failures in an hour, of one to five minutes, in which a fifth to nine tenths of all arms' requests
            fail.
        drift: by how much rates of users and conversions change over the day: from 1 − drift to 1 + drift.
        delay_s: mean time until an outcome is reported, exponential; with `most_delay_s` uniform until then.
        most_delay_s: the longest delay; 0 for none.
        lost: the share of users by arm whose requests reach no edge.
    """

    per_hour: float
    returns: float = 0.0
    gap_s: float = 1200.0
    converting: float = 0.2
    spending: float = 1.0
    deviation: float = 1.0
    failing: float = 0.002
    bursts: float = 0.0
    drift: float = 0.0
    delay_s: float = 60.0
    most_delay_s: float = 0.0
    lost: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Design:
    """An Experiment and its world.

    Attributes:
        users: the users.
        spec: the Experiment's spec, without its arms.
        arms: number of arms beside control.
        hours: the longest time that it runs, `stop.maxDuration`.
        look_s: seconds between two passes once there is evidence. An operator looks every five seconds.
        conversion: factor of the users who convert, by arm; 1 for the others.
        amount: factor of amounts, likewise.
    """

    users: Users
    spec: Json
    arms: int = 1
    hours: float = 4.0
    look_s: float = 300.0
    conversion: Mapping[str, float] = field(default_factory=dict)
    amount: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """End of an experiment.

    Attributes:
        decision: of its verdict.
        winner: its winning arm; empty without one.
        code: why it ended.
        better: arms that a success metric ever found better.
        harmed: arms that were dropped for harm.
        mismatched: whether a sample-ratio mismatch was ever reported.
        paused: whether it ever paused, because control failed.
        units: its units, of which the last pass knew.
        matured: those whose conversion window had passed; all units without a window.
        seconds: from the first confirmed weights to the end.
        looks: number of its passes.
    """

    decision: str
    winner: str
    code: str
    better: tuple[str, ...]
    harmed: tuple[str, ...]
    mismatched: bool
    paused: bool
    units: int
    matured: int
    seconds: float
    looks: int


class _Requests:
    """All requests of all users, in the order of their times; arrays by request, and by user."""

    def __init__(self, users: Users, begin_s: float, hours: float, draw: np.random.Generator) -> None:
        phase = draw.uniform(0, 2 * np.pi)
        self._wave: Callable[[Numbers], Numbers] = lambda at: (
            1 + users.drift * np.sin(2 * np.pi * at / (24 * HOUR_S) + phase)
        )
        length_s = hours * HOUR_S + _EARLIER_S
        count = int(draw.poisson(users.per_hour * (1 + users.drift) * length_s / HOUR_S))
        came = np.sort(draw.uniform(0, length_s, count))
        came = came[draw.random(count) * (1 + users.drift) < self._wave(came)]
        count = len(came)
        further = (
            np.minimum(draw.pareto(users.returns, count).astype(int), 50) if users.returns else np.zeros(count, int)
        )
        user = np.repeat(np.arange(count), further + 1)
        gaps = draw.exponential(users.gap_s, len(user))
        starts = np.cumsum(np.concatenate([[0], further[:-1] + 1])) if count else np.zeros(0, int)
        gaps[starts] = 0
        total = np.cumsum(gaps)
        at = came[user] + total - np.repeat(total[starts], further + 1)
        order = np.argsort(at, kind="stable")
        order = order[(at[order] >= _EARLIER_S) & (at[order] < length_s)]
        self.user, self.at_s = user[order], begin_s + at[order] - _EARLIER_S
        own = draw.beta(0.2, 0.2 / users.failing - 0.2, count) if users.failing else np.zeros(count)
        self.fails = draw.random(len(order)) < np.maximum(own[self.user], self._bursts(users, begin_s, hours, draw))
        self.converts = draw.random(count) / self._wave(came)
        """Below an arm's share of converting users, the user converts."""
        self.lost = draw.random(count)
        spent = draw.lognormal(-(users.deviation**2) / 2, users.deviation, len(order))
        self.amount = np.where(draw.random(len(order)) < users.spending, spent, 0.0)
        self.delays_s = self._delays(users, draw, (2, len(order)))

    def _bursts(self, users: Users, begin_s: float, hours: float, draw: np.random.Generator) -> Numbers:
        """Return the share of requests that fails by bursts, by request."""
        found = np.zeros(len(self.at_s))
        for _ in range(int(draw.poisson(users.bursts * hours))):
            start_s = begin_s + draw.uniform(0, hours * HOUR_S)
            within = (self.at_s >= start_s) & (self.at_s < start_s + draw.uniform(60, 300))
            found[within] = draw.uniform(0.2, 0.9)
        return found

    @staticmethod
    def _delays(users: Users, draw: np.random.Generator, shape: tuple[int, int]) -> Numbers:
        if users.most_delay_s:
            return draw.uniform(0, users.most_delay_s, shape)
        return draw.exponential(users.delay_s, shape)


class World:
    """Requests and outcomes of a service: the traffic and the outcomes of `FakeEdges`."""

    timeout_s = 30.0

    def __init__(self, design: Design, begin_s: float, seed: int) -> None:
        self.assigned: Counter[Place] = Counter()
        self.store = Attempt()
        self._design = design
        self._requests = _Requests(design.users, begin_s, design.hours + 0.5, np.random.default_rng(seed))
        self._next, self._told = 0, 0
        self._units: dict[int, Unit] = {}
        self._buckets: dict[int, int] = {}
        self._firsts: dict[int, FirstExposure] = {}
        self._new: dict[int, FirstExposure] = {}
        self._due: list[tuple[float, int, OutcomeEvent]] = []

    def flow(self, begin_s: float, seconds: float, edges: Sequence[tuple[Counts, Json]], _replicas: Replicas) -> None:
        """Send the requests of this time to the edge, by the document in force."""
        first, self._next = self._next, int(np.searchsorted(self._requests.at_s, begin_s + seconds))
        for edge, document in edges:
            for service in document["services"]:
                if service["attempt"] and service["unit"]["kind"] != "request":
                    self._send(edge, service, range(first, self._next))

    def _send(self, edge: Counts, service: Json, numbers: range) -> None:
        requests, groups = self._requests, dict[tuple[int, int, bool], list[int]]()
        table = assignment.build_segments([arm["ranges"] for arm in service["arms"]])
        lost = [self._design.users.lost.get(arm["name"], 0.0) for arm in service["arms"]]
        arms = {}
        for number in numbers:
            user = int(requests.user[number])
            arm = assignment.arm_of_bucket(table, self._bucket(service["salt"], user))
            assert arm is not None
            if requests.lost[user] >= lost[arm]:
                arms[number] = arm
                block = int(requests.at_s[number]) // BLOCK_S
                groups.setdefault((block, arm, bool(requests.fails[number])), []).append(user)
        places = [Place(NAME, service["attempt"], service["epoch"], arm["name"]) for arm in service["arms"]]
        for (block, arm, failed), users in groups.items():
            units = [self._units[user] for user in users]
            end = "server5xx" if failed else "ok"
            edge.answered(block * BLOCK_S, places[arm], end, [_ANSWER_US] * len(users), units=units)
        if "feedback" in service:
            for number, arm in arms.items():
                self._act(number, places[arm])

    def _bucket(self, salt: str, user: int) -> int:
        """Return the user's bucket. A service has one salt during an experiment."""
        if user not in self._buckets:
            name = f"user-{user}".encode()
            hash_ = int.from_bytes(assignment.unit_hash(name).to_bytes(8), signed=True)
            self._units[user] = Unit(hash_, edge_reference.group_of_unit(salt, name))
            self._buckets[user] = assignment.unit_bucket(salt, name)
        return self._buckets[user]

    def _act(self, number: int, place: Place) -> None:
        """Note a user's first exposure, and what the user reports later because of a request."""
        requests, user, at_s = self._requests, int(self._requests.user[number]), float(self._requests.at_s[number])
        if user not in self._firsts:
            self._firsts[user] = self._new[user] = FirstExposure(int(at_s * MILLION), place.epoch, place.arm)
            share = self._design.users.converting * self._design.conversion.get(place.arm, 1.0)
            if requests.converts[user] < share:
                self._report(user, CONVERTED, 1.0, at_s + requests.delays_s[0, number])
        if amount := float(requests.amount[number]):
            # A user has the arm of the first exposure.
            amount *= self._design.amount.get(self._firsts[user].arm, 1.0)
            self._report(user, SPENT, amount, at_s + requests.delays_s[1, number])

    def _report(self, user: int, metric: str, value: float, at_s: float) -> None:
        first, self._told = self._firsts[user], self._told + 1
        # The attempt is the store's only one.
        exposure = SignedExposure("", first.epoch, first.arm, user, first.us // MILLION)
        event = OutcomeEvent(self._told.to_bytes(8), user, exposure, metric, round(value * MILLION), int(at_s))
        heapq.heappush(self._due, (at_s, self._told, event))

    def read_outcomes(self, now_s: float, documents: Iterable[Json]) -> None:
        """Join the new exposures and the outcomes that are due, as an edge does."""
        taken = next((each["feedback"] for own in documents for each in own["services"] if "feedback" in each), None)
        events = []
        while self._due and self._due[0][0] <= now_s:
            events.append(heapq.heappop(self._due)[2])
        if taken is not None:
            events = [each for each in events if each.metric in taken["metrics"]]
            windows = taken.get("windows", {})
            self.store.write(OutcomeBatch(firsts=self._new, events=events, windows=windows, now_s=int(now_s)))
            self._new = {}


class _Outcomes:
    """The outcomes of `FakeEdges`, from a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def flow(self, now_s: float, documents: Iterable[Json], _assigned: Counter[Place]) -> None:
        self._world.read_outcomes(now_s, documents)

    def sections(self, document: Json) -> dict[str, Json]:
        return {
            each["name"]: render_feedback_section(each["attempt"], "store-1", self._world.store.tally)
            for each in document.get("services", ())
            if "feedback" in each
        }


class Died(Exception):
    """The operator was killed."""


class Run:
    """One experiment.

    Attributes:
        looks: the status after each pass: phase, verdict, metrics, arms and pause.
        deaths: number of passes in which the operator was killed.
    """

    def __init__(self, design: Design, seed: int, killed: float = 0.0) -> None:
        """`killed` is the chance of death before and after each write; then each pass has a new process.

        Statuses are not validated, to save a tenth of the time.
        """
        self.cluster, self._design, self._seed = Cluster(schemas={}), design, seed
        self._killed, self._draw, self.deaths = killed, np.random.default_rng(seed), 0
        self.world: World | None = None
        self.looks: list[Json] = []

    async def play(self) -> Ended:
        """Run it until it is over."""
        cluster, design = self.cluster, self._design
        await cluster.apply(**_WARMUP)
        await cluster.until(functools.partial(cluster.serves, 1))
        arms = [{"name": f"arm-{n}", "model": {"uri": f"file:///models/arm-{n}"}} for n in range(1, design.arms + 1)]
        spec = {
            "modelDeployment": NAME,
            "arms": arms,
            "unit": {"header": "x-user-id"},
            "exposure": "100%",
            "stop": {"maxDuration": f"{round(60 * design.hours)}m"},
            **design.spec,
        }
        meta = {"name": NAME_OF_EXPERIMENT, "namespace": NAMESPACE}
        await cluster.kube.apply(
            {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "Experiment", "metadata": meta, "spec": spec}
        )
        await cluster.until(functools.partial(self._is_in, "Running"))
        self.world = World(design, cluster.clock.now().timestamp(), self._seed)
        cluster.edges.traffic = self.world  # type: ignore[assignment]
        cluster.edges.outcomes = _Outcomes(self.world)  # type: ignore[assignment]
        if self._killed:
            cluster.kube.on_write = self._die
        began, alarmed, paused = cluster.clock.now(), False, False
        while True:
            # Time flows after a pass.
            known = dict(self.world.store.tally)
            await self._look()
            status = await self.status()
            conditions = {each["type"]: each["reason"] for each in status["conditions"]}
            alarmed |= conditions.get("DataQuality") == "SampleRatioMismatch"
            paused |= "paused" in status
            self.looks.append({name: status.get(name) for name in ("phase", "verdict", "metrics", "arms", "paused")})
            if status["phase"] in ("Concluded", "Stopped"):
                break
        return self._end(status, known, (cluster.clock.now() - began).total_seconds(), alarmed, paused)

    async def status(self) -> Json:
        return (await self.cluster.experiment(NAME_OF_EXPERIMENT)).get("status") or {}

    async def _is_in(self, phase: str) -> bool:
        return (await self.status()).get("phase") == phase

    async def _look(self) -> None:
        """Reconcile once, and let time pass: a second until weights are in force, half a minute in the warm-up."""
        status = await self.status()
        is_evidence = bool(status.get("evidenceEpochs"))
        await self._round(
            1.0 if not status["epoch"]["confirmed"] else self._design.look_s if is_evidence else _WARMUP_LOOK_S
        )

    async def _round(self, seconds: float) -> None:
        while True:
            try:
                await self.cluster.round(seconds)
            except Died:
                self.deaths += 1
                self._start_process()
            else:
                break
        if self._killed:
            self._start_process()

    def _die(self, _moment: Literal["before", "after"], _write: Write) -> None:
        if self._draw.random() < self._killed:
            raise Died

    def _start_process(self) -> None:
        """Start a new process of the operator: it knows only what is stored."""
        old = self.cluster.world
        self.cluster.world = Dependencies(
            old.kube,
            old.serve,
            old.edges,
            old.webhooks,
            old.clock,
            old.settings,
            prometheus=old.prometheus,
            exposure_logs=old.exposure_logs,
        )
        for name, module in list(sys.modules.items()):
            if name.startswith("sundog_operator."):
                for known in list(vars(module).values()):
                    if callable(clear := getattr(known, "cache_clear", None)):
                        clear()

    def _end(self, status: Json, known: Mapping[str, int], seconds: float, alarmed: bool, paused: bool) -> Ended:
        epochs = {each["number"] for each in status["evidenceEpochs"]}
        units, matured = 0, Counter[str]()
        for name, count in known.items():
            kind, *parts = name.split("/")
            if kind == "exposed" and int(parts[0]) in epochs and parts[1] != "stable":
                units += count
            elif kind == "matured" and int(parts[1]) in epochs and parts[2] != "stable":
                matured[parts[0]] += count
        verdict = status["verdict"]
        return Ended(
            decision=verdict["decision"],
            winner=verdict["winner"],
            code=verdict.get("code", ""),
            better=tuple(sorted({each["arm"] for look in self.looks for each in _better(look)})),
            harmed=tuple(arm["name"] for arm in status["arms"] if arm.get("dropped", "").startswith("Harm")),
            mismatched=alarmed,
            paused=paused,
            units=units,
            matured=min(matured.values(), default=units),
            seconds=seconds,
            looks=len(self.looks),
        )


def _better(look: Json) -> Iterable[Json]:
    return (each for each in look["metrics"] or () if each["verdict"] == "Better")


def play(design: Design, seed: int, killed: float = 0.0) -> Ended:
    """Return the end of one experiment. Equal arguments give equal ends."""
    return asyncio.run(Run(design, seed, killed).play())
