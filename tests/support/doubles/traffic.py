"""Requests that reach edges as the fake clock moves, and how applications answer them.

Each becomes a line as HAProxy writes it, and the edge's own ledger counts it: what is reported cannot drift from what the agent reports.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import orjson

from sundog_edge import blocks, evidence
from sundog_edge.counters import Ledger, Seen
from sundog_edge.evidence import InForce, Question, Surroundings

_ENDINGS: Final = {
    "ok": "200 -- 0 r1 ok",
    "client4xx": "422 -- 0 r1 ok",
    "server5xx": "500 -- 0 r1 ok",
    "timeout": "504 sH 0 r1 -",
}
"""Status, termination, retries, server and outcome in a line, by how the request ended."""

Json = dict[str, Any]


class Place(NamedTuple):
    """Where a request is counted."""

    service: str
    attempt: str
    epoch: int
    arm: str


class Replicas(Protocol):
    """Who knows how many replicas of an application answer."""

    def running(self, name: str) -> int: ...


class Counts(Protocol):
    """Who counts requests."""

    def answered(self, now_s: float, place: Place, end: str, times_us: Sequence[int], slow_us: int = 0) -> None: ...

    def hangs(self, now_s: float, place: Place, count: int, timeout_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Stalls:
    """What befalls each replica now and then: for so long it fails a share of what it gets."""

    seconds: float
    failing: float
    per_hour: float = 6.0


@dataclass(frozen=True, slots=True)
class Answers:
    """How an application answers.

    Attributes:
        errors: the share that is answered 500.
        rejections: the share that is answered 422.
        hanging: the share that is not answered before its timeout.
        median_ms: of the times that answers take, which are lognormal.
        spread: of their logarithms.
    """

    errors: float = 0.0
    rejections: float = 0.0
    hanging: float = 0.0
    median_ms: float = 20.0
    spread: float = 0.5
    stalls: Stalls | None = None


class _Hanging(NamedTuple):
    until_s: float
    row: str
    block: int
    count: int


@dataclass(slots=True)
class _Worker:
    """A HAProxy process: what it has assigned by row, and what has not ended."""

    boot: str
    assigned: Counter[str] = field(default_factory=Counter)
    hanging: list[_Hanging] = field(default_factory=list)


class CountingEdge:
    """The agent of one edge pod: its ledger, and the worker whose requests it counts."""

    def __init__(self, uid: str) -> None:
        self.ledger = Ledger()
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

    def answered(self, now_s: float, place: Place, end: str, times_us: Sequence[int], slow_us: int = 0) -> None:
        """Requests that arrive now and end at once, after so long."""
        row = _row(place)
        self._worker.assigned[row] += len(times_us)
        self._write(now_s, row, int(now_s) // blocks.SECONDS, end, times_us, slow_us)

    def hangs(self, now_s: float, place: Place, count: int, timeout_s: float) -> None:
        """Requests that arrive now and are not answered."""
        if count:
            row = _row(place)
            self._worker.assigned[row] += count
            self._worker.hanging.append(_Hanging(now_s + timeout_s, row, int(now_s) // blocks.SECONDS, count))

    def _write(self, now_s: float, row: str, block: int, end: str, times_us: Sequence[int], slow_us: int = 0) -> None:
        head = f"{self._worker.boot} {row} - - {_ENDINGS[end]} {slow_us or '-'} {block} {self._worker.assigned[row]}"
        self.ledger.consume([f"{head} {time} {time} 0 0 0 0".encode() for time in times_us], now_s)

    def settle(self, now_s: float, timeout_s: float) -> None:
        """End what has hung for long enough, and take over the worker's own counts."""
        worker = self._worker
        due = [each for each in worker.hanging if each.until_s <= now_s]
        worker.hanging = [each for each in worker.hanging if each.until_s > now_s]
        for each in due:
            self._write(now_s, each.row, each.block, "timeout", [round(timeout_s * 1e6)] * each.count)
        running: dict[str, dict[int, int]] = {}
        for each in worker.hanging:
            own = running.setdefault(each.row, {})
            own[each.block] = own.get(each.block, 0) + each.count
        boot = self.ledger.boot(worker.boot, now_s)
        table = {row: Seen(count, sum(running.get(row, {}).values())) for row, count in worker.assigned.items()}
        boot.settle(table, "", now_s)
        boot.running = running

    def told(self, now_s: float, around: Surroundings, in_force: InForce | None, service: str = "") -> Json:
        """What the agent reports; of one service, with its blocks."""
        question = Question(frozenset({service}), details=frozenset({"blocks"})) if service else evidence.EVERYTHING
        found: Json = orjson.loads(orjson.dumps(evidence.build(around, in_force, self.ledger, now_s, question)))
        return found


def _row(place: Place) -> str:
    return "/".join((*map(str, place), "assigned", "anonymous"))


class Traffic:
    """Requests by Poisson's law, to the edges alike, by the weights in force at each. The same for the same seed.

    Attributes:
        rps: requests a second, by service.
        answers: how applications answer, by name; the others without failure.
        assigned: how many requests there were.
        failed: how many of them failed, or hang.
    """

    def __init__(self, seed: int = 0, timeout_s: float = 30.0) -> None:
        self.rps: dict[str, float] = {}
        self.answers: dict[str, Answers] = {}
        self.assigned: Counter[Place] = Counter()
        self.failed: Counter[Place] = Counter()
        self.timeout_s = timeout_s
        self._draw = np.random.default_rng(seed)
        self._stalled_s: dict[tuple[str, int], float] = {}

    def flow(self, begin_s: float, seconds: float, edges: Sequence[tuple[Counts, Json]], replicas: Replicas) -> None:
        """Let so much time pass, for edges and the documents that they have in force."""
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
        """One edge's requests of a service in a while."""
        total = int(self._draw.poisson(self.rps.get(service["name"], 0.0) * seconds))
        if not total or not service["arms"]:
            return
        counts = self._draw.multinomial(total, [arm["weight"] / 100 for arm in service["arms"]])
        for arm, count in zip(service["arms"], counts.tolist(), strict=True):
            place = Place(service["name"], service["attempt"], service["epoch"], arm["name"])
            self.assigned[place] += count
            self._answer(at_s, edge, place, arm, count, stalled[arm["application"]])

    def _answer(self, at_s: float, edge: Counts, place: Place, arm: Json, count: int, stalled: float) -> None:
        answers = self.answers.get(arm["application"], Answers())
        failing = answers.errors + stalled * (answers.stalls.failing if answers.stalls else 0.0)
        shares = [answers.hanging, min(failing, 1 - answers.hanging), answers.rejections]
        hanging, failed, rejected, fine = self._draw.multinomial(count, [*shares, max(0.0, 1 - sum(shares))]).tolist()
        self.failed[place] += hanging + failed
        edge.hangs(at_s, place, hanging, self.timeout_s)
        for end, number in (("server5xx", failed), ("client4xx", rejected), ("ok", fine)):
            if number:
                times = self._draw.lognormal(math.log(1000 * answers.median_ms), answers.spread, number)
                edge.answered(at_s, place, end, times.astype(int).tolist(), arm.get("slowMicroseconds", 0))


def _within_blocks(begin_s: float, seconds: float) -> Iterator[tuple[float, float]]:
    """Parts of a while that each lie in one block: (begin, seconds)."""
    end_s = begin_s + seconds
    while begin_s < end_s:
        following = min(end_s, (begin_s // blocks.SECONDS + 1) * blocks.SECONDS)
        yield begin_s, following - begin_s
        begin_s = following
