"""Join outcomes with the first exposures of their units, and compute the sums. Pure: every store asks it what to write.

A unit's outcomes count for the epoch and arm of its first exposure. If each request of a service is a unit, they count for those of the
request. Sums are in millionths, sums of squares in square millionths. They are exact and may exceed 64 bits.

A metric with caps has further sums for each cap, under the name `metric@cap`. In these a unit's total above the cap counts as the cap. The
total itself is kept whole, because later values may be negative.

A ratio of two metrics also needs the sum of the product of each unit's two totals, under the name `numerator*denominator`.

A covariate is the unit's total of a metric from before its first exposure, under the name `metric<`: events of that time that name the
unit, not an exposure. It has sums of its own, and a product with the metric that it adjusts.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sundog_edge.feedback.events import MILLION, OutcomeEvent

WINDOW_S = 30 * 24 * 3600
"""An outcome counts until this long after its exposure."""

ACCEPTED = "accepted"
REJECTED_RESULTS = ("late", "duplicate", "unknown", "future", "invalid", "overflow")
"""Results of items that are counted but are in no sum, in the order of the evidence."""

HISTORY_GAP_S = 60
"""An event counts for the time before the exposure if it is older by so much. A clock that is a little behind changes no covariate."""

EARLY = "early"
"""Counts those late items that are timed before the signed exposure that they name: one of the two clocks is wrong."""

MAX_EVENTS = 4_000_000
"""Largest number of events of one attempt. Each is remembered, so that none counts twice. Further events are overflow."""

STREAM_EVENTS = 1_000_000
"""Newest events of one attempt that are stored one by one. No sum depends on them."""

SEQUENCE = "sequence"
UNITS = "units"
EVENTS = "events"
_OUTCOME = ("units", "positive", "sum", "squares")


class FirstExposure(NamedTuple):
    """A first exposure: arrival in Unix microseconds, epoch and arm."""

    us: int
    epoch: int
    arm: str


@dataclass(frozen=True, slots=True)
class OutcomeBatch:
    """A batch for one write: first exposures by unit, reported events, and the number of refused items by result.

    `sticky`: units come again, so their exposures are stored. `dropped`: exposures that were dropped before the write.
    `caps`: caps of units' totals by metric, in millionths. `products`: pairs of metrics whose totals are multiplied. `covariates`: pairs
    of a metric and the covariate that adjusts it. All three are the same in all batches of an attempt.
    """

    firsts: Mapping[int, FirstExposure] = field(default_factory=dict)
    events: Sequence[OutcomeEvent] = ()
    refused: Mapping[str, int] = field(default_factory=dict)
    dropped: int = 0
    sticky: bool = True
    max_units: int = 2_000_000
    max_events: int = MAX_EVENTS
    caps: Mapping[str, Sequence[int]] = field(default_factory=dict)
    products: Sequence[tuple[str, str]] = ()
    covariates: Sequence[tuple[str, str]] = ()

    @property
    def pairs(self) -> Sequence[tuple[str, str]]:
        """Names of totals that are multiplied."""
        return (*self.products, *((metric, before_exposure(covariate)) for metric, covariate in self.covariates))

    @property
    def units(self) -> frozenset[int]:
        """Units whose first exposures the join needs."""
        return frozenset((*self.firsts, *(event.unit for event in self.events))) if self.sticky else frozenset()

    @property
    def totals(self) -> frozenset[tuple[int, str]]:
        """(unit, metric) of the sums that the join needs."""
        pairs = self.pairs
        return frozenset(
            (event.unit, name)
            for event in self.events
            for total in (event.metric, before_exposure(event.metric))
            for name in (total, *(each for pair in pairs if total in pair for each in pair))
            if total == event.metric or self.is_covariate(event.metric)
        )

    def is_covariate(self, metric: str) -> bool:
        """Whether the metric is a covariate of another one, or of itself."""
        return any(metric == covariate for _, covariate in self.covariates)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.firsts or self.events or self.refused or self.dropped)


@dataclass(frozen=True, slots=True)
class StoredState:
    """The stored state for a batch: known event keys, first exposures, sums by (unit, metric), and the whole tally."""

    keys: Collection[bytes]
    firsts: Mapping[int, FirstExposure]
    totals: Mapping[tuple[int, str], int]
    tally: Mapping[str, int]


@dataclass(slots=True)
class StoreChange:
    """The change that a store has to write. `tally` and `totals` are new values; `results` has one result for each event of the batch."""

    results: list[str] = field(default_factory=list)
    firsts: dict[int, FirstExposure] = field(default_factory=dict)
    events: list[tuple[OutcomeEvent, FirstExposure]] = field(default_factory=list)
    keys: set[bytes] = field(default_factory=set)
    totals: dict[tuple[int, str], int] = field(default_factory=dict)
    tally: dict[str, int] = field(default_factory=dict)


def before_exposure(metric: str) -> str:
    """Return the name of the totals of a metric from before the units' first exposures."""
    return f"{metric}<"


def join(batch: OutcomeBatch, known: StoredState) -> StoreChange:
    """Return the change for a batch. The order of events matters: the first of two equal events is accepted."""
    joining = _Joining(batch, known)
    joining.count("overflow", batch.dropped)
    for unit, first in batch.firsts.items():
        joining.expose(unit, first)
    for event in batch.events:
        joining.change.results.append(joining.take(event))
    for result, count in (Counter(joining.change.results) + Counter(batch.refused)).items():
        if result != ACCEPTED:
            joining.count(result, count)
    if joining.change.tally:
        joining.count(SEQUENCE, 1)
    return joining.change


class _Joining:
    def __init__(self, batch: OutcomeBatch, known: StoredState) -> None:
        self.change = StoreChange()
        self._batch = batch
        self._known = known

    def count(self, name: str, more: int) -> None:
        if more:
            self.change.tally[name] = self._tally(name) + more

    def expose(self, unit: int, first: FirstExposure) -> FirstExposure | None:
        """Return the first recorded exposure of the unit; None if the limit of units is reached."""
        stored = self._known.firsts.get(unit) or self.change.firsts.get(unit)
        if stored is not None:
            return stored
        if self._tally(UNITS) >= self._batch.max_units:
            self.count("overflow", 1)
            return None
        self.change.firsts[unit] = first
        self.count(UNITS, 1)
        self.count(f"exposed/{first.epoch}/{first.arm}", 1)
        return first

    def take(self, event: OutcomeEvent) -> str:
        first = self._first(event)
        if first is None:
            return "unknown"
        if event.key in self._known.keys or event.key in self.change.keys:
            return "duplicate"
        exposed_at = first.us // MILLION
        if not event.timed:
            # Its arrival is after the exposure, whatever the clock of the edge of that exposure.
            event = event._replace(seconds=max(event.seconds, exposed_at))
        if self._is_history(event, exposed_at):
            event = event._replace(metric=before_exposure(event.metric))
        elif not exposed_at <= event.seconds <= exposed_at + WINDOW_S:
            # A caller knows a signed exposure only after it. By the unit itself a caller may report older events too.
            self.count(EARLY, event.exposure is not None and event.seconds < exposed_at)
            return "late"
        if self._tally(EVENTS) >= self._batch.max_events:
            return "overflow"
        self._add(event, first)
        return ACCEPTED

    def _is_history(self, event: OutcomeEvent, exposed_at: int) -> bool:
        """Return whether the event counts for a covariate. One that names an exposure is later than that, whatever its time."""
        return (
            event.exposure is None
            and exposed_at - WINDOW_S <= event.seconds < exposed_at - HISTORY_GAP_S
            and self._batch.is_covariate(event.metric)
        )

    def _first(self, event: OutcomeEvent) -> FirstExposure | None:
        signed = event.exposure
        reported = None if signed is None else FirstExposure(signed.seconds * MILLION, signed.epoch, signed.arm)
        if reported is None or not self._batch.sticky:
            return reported or self._known.firsts.get(event.unit) or self.change.firsts.get(event.unit)
        # The signature proves the exposure, even before the line of its request is counted.
        return self.expose(event.unit, reported)

    def _add(self, event: OutcomeEvent, first: FirstExposure) -> None:
        change = self.change
        place = (event.unit, event.metric)
        before = self._total(*place)
        after = (before or 0) + event.value
        first_value = event.value if before is None else None
        change.keys.add(event.key)
        change.events.append((event, first))
        change.totals[place] = after
        self.count(EVENTS, 1)
        self._sum(event.metric, first, first_value, before or 0, after)
        for cap in self._batch.caps.get(event.metric, ()):
            self._sum(f"{event.metric}@{cap}", first, first_value, min(before or 0, cap), min(after, cap))
        for pair in self._batch.pairs:
            if event.metric in pair:
                other = pair[1] if event.metric == pair[0] else pair[0]
                more = event.value * (self._total(event.unit, other) or 0)
                self.count(f"product/{'*'.join(pair)}/{first.epoch}/{first.arm}", more)

    def _total(self, unit: int, metric: str) -> int | None:
        return self.change.totals.get((unit, metric), self._known.totals.get((unit, metric)))

    def _sum(self, name: str, first: FirstExposure, first_value: int | None, before: int, after: int) -> None:
        """Add the change of a unit's total to the sums of that name; `first_value` is None unless it is the unit's first."""
        new = first_value is not None
        more = new, new and (first_value or 0) > 0, after - before, after * after - before * before
        for column, change in zip(_OUTCOME, more, strict=True):
            self.count(f"outcome/{name}/{first.epoch}/{first.arm}/{column}", int(change))

    def _tally(self, name: str) -> int:
        return self.change.tally.get(name, self._known.tally.get(name, 0))


def render_feedback_section(attempt: str, store: str, tally: Mapping[str, int]) -> dict[str, Any]:
    """Return the feedback section of one attempt in the evidence."""
    exposed: list[list[Any]] = []
    products: list[list[Any]] = []
    outcomes: dict[tuple[str, int, str], dict[str, int]] = {}
    for name, value in tally.items():
        kind, *parts = name.split("/")
        if kind == "exposed":
            exposed.append([int(parts[0]), parts[1], value])
        elif kind == "product":
            products.append([parts[0], int(parts[1]), parts[2], value])
        elif kind == "outcome":
            metric, epoch, arm, column = parts
            outcomes.setdefault((metric, int(epoch), arm), dict.fromkeys(_OUTCOME, 0))[column] = value
    return {
        "attempt": attempt,
        "store": store,
        SEQUENCE: tally.get(SEQUENCE, 0),
        "exposed": sorted(exposed),
        "outcomes": [[*place, *outcomes[place].values()] for place in sorted(outcomes)],
        **({"products": sorted(products)} if products else {}),
        ACCEPTED: tally.get(EVENTS, 0),
        **{name: tally.get(name, 0) for name in (*REJECTED_RESULTS, EARLY)},
    }
