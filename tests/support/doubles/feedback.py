"""Outcomes that are reported some time after their requests and joined by the edge's own code, in one store per namespace."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from doubles.traffic import Place
from sundog_edge.feedback.events import MILLION, OutcomeEvent
from sundog_edge.feedback.exposure import SignedExposure
from sundog_edge.feedback.join import (
    MAX_EVENTS,
    FirstExposure,
    OutcomeBatch,
    StoredState,
    join,
    render_feedback_section,
)

Json = dict[str, Any]


class _Due(NamedTuple):
    at_s: float
    service: str
    sticky: bool
    event: OutcomeEvent


@dataclass
class Attempt:
    """The stored data of one attempt."""

    keys: set[bytes] = field(default_factory=set)
    firsts: dict[int, FirstExposure] = field(default_factory=dict)
    totals: dict[tuple[int, str], int] = field(default_factory=dict)
    tally: dict[str, int] = field(default_factory=dict)

    def write(self, batch: OutcomeBatch) -> None:
        change = join(batch, StoredState(self.keys, self.firsts, self.totals, self.tally))
        self.keys |= change.keys
        self.firsts |= change.firsts
        self.totals |= change.totals
        self.tally = {name: value for name, value in (self.tally | change.tally).items() if name not in change.cleared}


class Outcomes:
    """Feedback of services. Each request is a unit; where units keep their arm, a header names it.

    Attributes:
        store: its id. `lose` makes it another one, which knows nothing.
        chance: of an application's requests, by metric the share that has an outcome.
        delay_s: until an outcome is told.
        error: what edges say while the store does not answer.
        most_events: of an attempt that the store has room for.
        behind_s: how far the clock that times outcomes is behind the edges'.
        older: whether edges are of an earlier release, which ignores windows that begin after the exposure.
    """

    def __init__(self, seed: int = 0) -> None:
        self.store = "store-1"
        self.chance: dict[str, Mapping[str, float]] = {}
        self.delay_s = 60.0
        self.error = ""
        self.most_events = MAX_EVENTS
        self.behind_s = 0.0
        self.older = False
        self._attempts: dict[str, Attempt] = {}
        self._seen: Counter[Place] = Counter()
        self._due: deque[_Due] = deque()
        self._units = 0
        self._draw = np.random.default_rng(seed)

    def lose(self) -> None:
        self.store, self._attempts = f"{self.store}-again", {}

    def flow(self, now_s: float, documents: Iterable[Json], assigned: Counter[Place]) -> None:
        """Take in the requests that came since, and what is due by now."""
        services = {service["name"]: service for document in documents for service in document["services"]}
        for service in services.values():
            for arm in service["arms"] if "feedback" in service else ():
                place = Place(service["name"], service["attempt"], service["epoch"], arm["name"])
                self._expose(now_s, service, arm, place, assigned[place] - self._seen[place])
        self._seen = Counter(assigned)
        while self._due and self._due[0].at_s <= now_s:
            due = self._due.popleft()
            if taken := services.get(due.service, {}).get("feedback"):
                self._of(due.event.exposure.attempt if due.event.exposure else "").write(
                    OutcomeBatch(
                        events=(due.event,),
                        sticky=due.sticky,
                        max_events=self.most_events,
                        caps=taken.get("caps", {}),
                        **self._windows(taken),
                        now_s=int(now_s),
                        covariates=[(metric, covariate) for metric, covariate in taken.get("covariates", ())],
                        products=[(numerator, denominator) for numerator, denominator in taken.get("products", ())],
                    )
                )
        for service in services.values():
            if windows := self._windows(service.get("feedback", {})):
                self._of(service["attempt"]).write(OutcomeBatch(**windows, now_s=int(now_s)))

    def _expose(self, now_s: float, service: Json, arm: Json, place: Place, count: int) -> None:
        sticky, first = service["unit"]["kind"] != "request", self._units
        units = range(first, first + count)
        self._units += count
        if sticky:
            seen = FirstExposure(int(now_s * MILLION), place.epoch, place.arm)
            firsts = dict.fromkeys(units, seen)
            windows = self._windows(service["feedback"])
            self._of(place.attempt).write(OutcomeBatch(firsts=firsts, **windows, now_s=int(now_s)))
        for metric in service["feedback"]["metrics"]:
            chance = self.chance.get(arm["application"], {}).get(metric, 0.0)
            for unit in np.flatnonzero(self._draw.random(count) < chance) + first:
                exposure = SignedExposure(place.attempt, place.epoch, place.arm, int(unit), int(now_s))
                key = f"{metric}/{unit}".encode()
                event = OutcomeEvent(key, int(unit), exposure, metric, MILLION, int(now_s - self.behind_s))
                self._due.append(_Due(now_s + self.delay_s, place.service, sticky, event))

    def _of(self, attempt: str) -> Attempt:
        return self._attempts.setdefault(attempt, Attempt())

    def sections(self, document: Json) -> dict[str, Json]:
        """Return the report of an edge with this document in force."""
        return {
            service["name"]: self._section(
                service["attempt"], has_delayed="delayed_windows" in self._windows(service["feedback"])
            )
            for service in document.get("services", ())
            if "feedback" in service
        }

    def _section(self, attempt: str, *, has_delayed: bool) -> Json:
        if self.error:
            return {"attempt": attempt, "error": self.error}
        return render_feedback_section(attempt, self.store, self._of(attempt).tally, has_delayed=has_delayed)

    def _windows(self, feedback: Json) -> Json:
        names = {"windows": "windows"} if self.older else {"windows": "windows", "delayedWindows": "delayed_windows"}
        return {argument: feedback[field] for field, argument in names.items() if field in feedback}
