"""Requests that reach edges as the fake clock moves, and the answers of applications.

Each becomes a line as HAProxy writes it, and the edge's own ledger counts it. So the reports cannot differ from the agent's.
"""

import functools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
import orjson

import edge_reference
from sundog_edge.counting import blocks, evidence
from sundog_edge.counting.evidence import AgentState, AppliedDocument, EvidenceQuery
from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.rows import TableEntry
from sundog_edge.split import assignment

_ENDINGS: Final = {
    "ok": "200 -- 0 r1 ok",
    "client4xx": "422 -- 0 r1 ok",
    "server5xx": "500 -- 0 r1 ok",
    "timeout": "504 sH 0 r1 -",
    "truncated": "200 SD 0 r1 ok",
    "invalid": "200 -- 0 r1 invalid",
}
"""Status, termination, retries, server and outcome in a line, by how the request ended."""

THRESHOLDS: Final = ("slowMicroseconds", "slowMicroseconds2", "slowMicroseconds3")
"""Fields of an arm's latency thresholds in a split document."""

Json = dict[str, Any]


class Place(NamedTuple):
    """The row in which a request is counted."""

    service: str
    attempt: str
    epoch: int
    arm: str
    origin: str = "assigned"


class Replicas(Protocol):
    """A source for the number of replicas that answer."""

    def running(self, name: str) -> int: ...


class Unit(NamedTuple):
    """Sampling hash and group of a request, as HAProxy writes them."""

    hash: int
    group: int


NOBODY: Final = Unit(0, 0)


class Counts(Protocol):
    """A counter of requests."""

    def answered(
        self,
        now_s: float,
        place: Place,
        end: str,
        times_us: Sequence[int],
        slow_us: Sequence[int] = (),
        units: Sequence[Unit] = (),
    ) -> None: ...

    def hangs(self, now_s: float, place: Place, count: int, timeout_s: float, units: Sequence[Unit] = ()) -> None: ...


@dataclass(frozen=True, slots=True)
class Stalls:
    """Stalls of replicas: for so long a replica fails a share of its requests."""

    seconds: float
    failing: float
    per_hour: float = 6.0


@dataclass(frozen=True, slots=True)
class Answers:
    """How an application answers.

    Attributes:
        errors: the share that fails.
        failing: how it fails, as edges call it: answered 500, cut off after status 200, or an answer that is none of the model's.
        rejections: the share that is answered 422.
        hanging: the share that is not answered before its timeout.
        median_ms: of the times that answers take, which are lognormal.
        spread: of their logarithms.
        lingering: the share that takes ten times as long.
    """

    errors: float = 0.0
    failing: Literal["server5xx", "truncated", "invalid"] = "server5xx"
    rejections: float = 0.0
    hanging: float = 0.0
    median_ms: float = 20.0
    spread: float = 0.5
    lingering: float = 0.0
    stalls: Stalls | None = None


@dataclass(frozen=True, eq=False)
class Users:
    """Users who send requests to a service repeatedly.

    Attributes:
        count: how many there are.
        zipf: how unevenly they ask: the n-th of them n**-zipf times as often as the first.
        failing: the share of a user's requests that fails whoever answers, by his number.
        anonymous: the share of requests that names no user.
    """

    count: int
    zipf: float = 0.0
    failing: Mapping[int, float] = field(default_factory=dict)
    anonymous: float = 0.0

    def name(self, number: int) -> bytes:
        """Return the unit of a user's request."""
        return f"user-{number}".encode()

    @property
    def shares(self) -> np.ndarray[Any, Any]:
        """Return each user's share of the requests."""
        often = np.arange(1, self.count + 1) ** -self.zipf
        return np.asarray(often / often.sum())

    @property
    def rates(self) -> np.ndarray[Any, Any]:
        """Return each user's failure rate."""
        return np.array([self.failing.get(number, 0.0) for number in range(self.count)])


class _Hanging(NamedTuple):
    until_s: float
    row: str
    block: int
    units: Sequence[Unit]


@dataclass(slots=True)
class _Worker:
    """A HAProxy process: requests assigned by row, and requests that still run."""

    boot: str
    assigned: Counter[str] = field(default_factory=Counter)
    hanging: list[_Hanging] = field(default_factory=list)


class CountingEdge:
    """The agent of one edge pod: its ledger, and the worker whose requests it counts."""

    def __init__(self, uid: str) -> None:
        self.ledger = Ledger()
        self.drops = 0.0
        """The share of lines that is lost."""
        self._uid, self._workers = uid, 1
        self._worker = _Worker(f"{uid}-1")

    def restart(self, now_s: float, *, forgetting: bool = False) -> None:
        """Another worker takes over, and what ran is lost; with `forgetting` the agent has lost its ledger as well."""
        if forgetting:
            self.ledger = Ledger()
        else:
            self.ledger.boot(self._worker.boot, now_s).finish(now_s)
        self._workers += 1
        self._worker = _Worker(f"{self._uid}-{self._workers}")

    def answered(
        self,
        now_s: float,
        place: Place,
        end: str,
        times_us: Sequence[int],
        slow_us: Sequence[int] = (),
        units: Sequence[Unit] = (),
    ) -> None:
        """Requests that arrive now and end at once, after so long; anonymous ones, or of these units."""
        row = _row(place, sticky=bool(units))
        self._worker.assigned[row] += len(times_us)
        self._write(now_s, row, int(now_s) // blocks.BLOCK_S, end, times_us, slow_us, units)

    def hangs(self, now_s: float, place: Place, count: int, timeout_s: float, units: Sequence[Unit] = ()) -> None:
        """Requests that arrive now and are not answered."""
        if count:
            row = _row(place, sticky=bool(units))
            self._worker.assigned[row] += count
            block = int(now_s) // blocks.BLOCK_S
            self._worker.hanging.append(_Hanging(now_s + timeout_s, row, block, units or [NOBODY] * count))

    def _write(
        self,
        now_s: float,
        row: str,
        block: int,
        end: str,
        times_us: Sequence[int],
        slow_us: Sequence[int] = (),
        units: Sequence[Unit] = (),
    ) -> None:
        head = f"{self._worker.boot} {row} - - {_ENDINGS[end]} {','.join(map(str, slow_us)) or '-'} {block} {self._worker.assigned[row]}"
        tails = [
            f"0 {hash_} {group} {block * blocks.BLOCK_S * 10**6}" for hash_, group in units or [NOBODY] * len(times_us)
        ]
        lines = [f"{head} {time} {time} {tail}".encode() for time, tail in zip(times_us, tails, strict=True)]
        self.ledger.consume(lines[round(self.drops * len(lines)) :], now_s)

    def settle(self, now_s: float, timeout_s: float) -> None:
        """End what has hung for long enough, and take over the worker's own counts."""
        worker = self._worker
        due = [each for each in worker.hanging if each.until_s <= now_s]
        worker.hanging = [each for each in worker.hanging if each.until_s > now_s]
        for each in due:
            self._write(
                now_s, each.row, each.block, "timeout", [round(timeout_s * 1e6)] * len(each.units), units=each.units
            )
        running: dict[str, dict[int, int]] = {}
        for each in worker.hanging:
            own = running.setdefault(each.row, {})
            own[each.block] = own.get(each.block, 0) + len(each.units)
        boot = self.ledger.boot(worker.boot, now_s)
        table = {row: TableEntry(count, sum(running.get(row, {}).values())) for row, count in worker.assigned.items()}
        boot.settle(table, "", now_s)
        boot.running = running

    def report(
        self, now_s: float, around: AgentState, in_force: AppliedDocument | None, question: EvidenceQuery
    ) -> Json:
        """Return the agent's report."""
        found: Json = orjson.loads(
            orjson.dumps(evidence.build_evidence(around, in_force, self.ledger, now_s, question))
        )
        return found


def _row(place: Place, *, sticky: bool) -> str:
    return "/".join((*map(str, place), "sticky" if sticky else "anonymous"))


class Traffic:
    """Requests by Poisson's law, to the edges alike, by the weights in force at each. The same for the same seed.

    Attributes:
        rps: requests a second, by service.
        answers: how applications answer, by name; the others without failure.
        users: who asks, by service; where nobody is told all requests are anonymous.
        assigned: how many requests there were.
        failed: how many of them failed, or hang.
    """

    def __init__(self, seed: int = 0, timeout_s: float = 30.0) -> None:
        self.rps: dict[str, float] = {}
        self.answers: dict[str, Answers] = {}
        self.users: dict[str, Users] = {}
        self.assigned: Counter[Place] = Counter()
        self.failed: Counter[Place] = Counter()
        self.timeout_s = timeout_s
        self._draw = np.random.default_rng(seed)
        self._stalled_s: dict[tuple[str, int], float] = {}

    def flow(self, begin_s: float, seconds: float, edges: Sequence[tuple[Counts, Json]], replicas: Replicas) -> None:
        """Simulate requests for so much time, by the documents in force."""
        for at_s, length in _within_blocks(begin_s, seconds):
            applications = {
                arm["application"] for _, told in edges for each in told["services"] for arm in each["arms"]
            }
            stalled = {name: self._stalled(name, length, replicas) for name in sorted(applications)}
            for edge, document in edges:
                for service in document["services"]:
                    self._ask(at_s, length / len(edges), edge, service, stalled)

    def _stalled(self, application: str, seconds: float, replicas: Replicas) -> float:
        """The share of the time and of an application's replicas that is stalled."""
        stalls, count = self.answers.get(application, Answers()).stalls, replicas.running(application)
        if stalls is None or not count:
            return 0.0
        lost = 0.0
        for key in ((application, number) for number in range(count)):
            left = self._stalled_s.get(key, 0.0)
            if not left and self._draw.random() < stalls.per_hour * seconds / 3600:
                left = stalls.seconds
            lost += min(left, seconds)
            self._stalled_s[key] = max(0.0, left - seconds)
        return lost / (count * seconds)

    def _ask(self, at_s: float, seconds: float, edge: Counts, service: Json, stalled: dict[str, float]) -> None:
        """Simulate one edge's requests to a service."""
        total = int(self._draw.poisson(self.rps.get(service["name"], 0.0) * seconds))
        if not total or not service["arms"]:
            return
        users = self.users.get(service["name"])
        if users is not None and service["unit"]["kind"] != "request":
            named = int(self._draw.binomial(total, 1 - users.anonymous))
            self._ask_as(users, named, at_s, edge, service, stalled)
            total -= named
        counts = self._draw.multinomial(total, [arm["weight"] / 100 for arm in service["arms"]])
        for arm, count in zip(service["arms"], counts.tolist(), strict=True):
            place = _place(service, arm)
            self.assigned[place] += count
            self._answer(at_s, edge, place, arm, count, stalled[arm["application"]])

    def _ask_as(
        self, users: Users, total: int, at_s: float, edge: Counts, service: Json, stalled: dict[str, float]
    ) -> None:
        """Simulate requests of users. Each goes to the arm of the user's bucket."""
        placed = _placed(users, service["salt"], json.dumps([arm["ranges"] for arm in service["arms"]]))
        asking = self._draw.choice(users.count, total, p=users.shares)
        failing = self._draw.random(total) < users.rates[asking]
        for index, arm in enumerate(service["arms"]):
            place, own = _place(service, arm), placed.arms[asking] == index
            self.assigned[place] += int(own.sum())
            fails, others = ([placed.units[number] for number in asking[own & part]] for part in (failing, ~failing))
            if fails:
                self.failed[place] += len(fails)
                edge.answered(at_s, place, "server5xx", [1000] * len(fails), units=fails)
            if others:
                self._answer(at_s, edge, place, arm, len(others), stalled[arm["application"]], others)

    def _answer(
        self,
        at_s: float,
        edge: Counts,
        place: Place,
        arm: Json,
        count: int,
        stalled: float,
        units: Sequence[Unit] = (),
    ) -> None:
        """Answer requests, which are in no order."""
        answers = self.answers.get(arm["application"], Answers())
        failing = answers.errors + stalled * (answers.stalls.failing if answers.stalls else 0.0)
        shares = [answers.hanging, min(failing, 1 - answers.hanging), answers.rejections]
        hanging, failed, rejected, fine = self._draw.multinomial(count, [*shares, max(0.0, 1 - sum(shares))]).tolist()
        self.failed[place] += hanging + failed
        edge.hangs(at_s, place, hanging, self.timeout_s, units[:hanging])
        units = units[hanging:]
        for end, number in ((answers.failing, failed), ("client4xx", rejected), ("ok", fine)):
            if number:
                times = self._draw.lognormal(math.log(1000 * answers.median_ms), answers.spread, number)
                if answers.lingering:
                    times[: self._draw.binomial(number, answers.lingering)] *= 10
                slow_us = [arm[name] for name in THRESHOLDS if name in arm]
                edge.answered(at_s, place, end, times.astype(int).tolist(), slow_us, units[:number])
                units = units[number:]


class _Placed(NamedTuple):
    """Users by number: their units, and the number of the arm that has each."""

    units: Sequence[Unit]
    arms: np.ndarray[Any, Any]


@functools.cache
def _placed(users: Users, salt: str, ranges: str) -> _Placed:
    table = assignment.build_segments(json.loads(ranges))
    named = [users.name(number) for number in range(users.count)]
    units = [
        Unit(
            int.from_bytes(assignment.unit_hash(each).to_bytes(8), signed=True),
            edge_reference.group_of_unit(salt, each),
        )
        for each in named
    ]
    return _Placed(
        units, np.array([assignment.arm_of_bucket(table, assignment.unit_bucket(salt, each)) for each in named])
    )


def _place(service: Json, arm: Json) -> Place:
    return Place(service["name"], service["attempt"], service["epoch"], arm["name"])


def _within_blocks(begin_s: float, seconds: float) -> Iterator[tuple[float, float]]:
    """Parts of a while that each lie in one block: (begin, seconds)."""
    end_s = begin_s + seconds
    while begin_s < end_s:
        following = min(end_s, (begin_s // blocks.BLOCK_S + 1) * blocks.BLOCK_S)
        yield begin_s, following - begin_s
        begin_s = following
