"""Join outcomes with the first exposures of their units, and compute the sums. Pure: every store asks it what to write.

A unit's outcomes count for the epoch and arm of its first exposure. If each request of a service is a unit, they count for those of the
request. Sums are in millionths, sums of squares in square millionths. They are exact and may exceed 64 bits.

A metric with caps has further sums for each cap, under the name `metric@cap`. In these a unit's total above the cap counts as the cap. The
total itself is kept whole, because later values may be negative.

A metric with conversion windows has further sums for each window, under the name `metric@3600s`, with a cap `metric@cap@3600s`. They have
only events until the window after the unit's first exposure, and only units whose window has passed. So arms are compared by units that all
had the same time, however fast each arm answers. Until then the numbers of a unit wait under the time of its first exposure.

A window that begins only some time after the exposure shows whether the unit came back. Its sums are named `metric@86400-604800s`. Edges of
an earlier release ignore such windows. What they join is in the store but not in these sums, so the others count what they joined
themselves: the rest is `undelayed`.

A ratio of two metrics also needs the sum of the product of each unit's two totals, under the name `numerator*denominator`.

A covariate is the unit's total of a metric from before its first exposure, under the name `metric<`: events of that time that name the
unit, not an exposure. It has sums of its own, and a product with the metric that it adjusts.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sundog_edge.feedback.events import MILLION, OutcomeEvent
from sundog_edge.split.feedback import MAX_OUTCOME_AGE_S

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

MAX_PROPERTY_BYTES = 64 * 2**20
"""Bytes of one attempt's properties that are stored. Further events are stored without, so that an attempt's never fill the store."""

COHORTS = 24
"""Units wait for the end of a window in cohorts of about this share of it, by the time of their first exposure."""

SEQUENCE = "sequence"
DELAYED = "delayed"
UNDELAYED = "undelayed"
MATURED = "matured"
UNTIL = "until"
UNITS = "units"
EVENTS = "events"
PROPERTY_BYTES = "propertyBytes"
PROPERTIES_DROPPED = "propertiesDropped"
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
    `caps`: caps of units' totals by metric, in millionths. `windows`: conversion windows by metric, in seconds. `delayed_windows`: those
    that begin some time after the exposure, by metric, as (begin, end) in seconds after it. `products`: pairs of metrics whose totals are
    multiplied. `covariates`: pairs of a metric and the covariate that adjusts it. All five are the same in all batches of an attempt.
    `now_s`: present Unix time in seconds; needed with windows only.
    """

    firsts: Mapping[int, FirstExposure] = field(default_factory=dict)
    events: Sequence[OutcomeEvent] = ()
    refused: Mapping[str, int] = field(default_factory=dict)
    dropped: int = 0
    sticky: bool = True
    max_units: int = 2_000_000
    max_events: int = MAX_EVENTS
    max_property_bytes: int = MAX_PROPERTY_BYTES
    caps: Mapping[str, Sequence[int]] = field(default_factory=dict)
    windows: Mapping[str, Sequence[int]] = field(default_factory=dict)
    now_s: int = 0
    products: Sequence[tuple[str, str]] = ()
    covariates: Sequence[tuple[str, str]] = ()
    delayed_windows: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)

    def windows_of(self, metric: str) -> Iterator[tuple[int, int]]:
        """Yield the windows of a metric: the seconds after the first exposure at which each begins and ends."""
        yield from ((0, window) for window in self.windows.get(metric, ()))
        yield from self.delayed_windows.get(metric, ())

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
        return frozenset((event.unit, name) for event in self.events for name in self._totals_for(event.metric))

    def _totals_for(self, metric: str) -> Iterator[str]:
        """Yield the names of the totals that an event of the metric changes, or is multiplied with."""
        yield from (metric + _window_suffix(*window) for window in self.windows_of(metric))
        for total in (metric, before_exposure(metric)) if self.is_covariate(metric) else (metric,):
            yield total
            yield from (each for pair in self.pairs if total in pair for each in pair)

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
    """The change that a store has to write.

    `tally` and `totals` are new values; `cleared` are names of the tally to remove; `results` has one result for each event of the batch.
    """

    results: list[str] = field(default_factory=list)
    firsts: dict[int, FirstExposure] = field(default_factory=dict)
    events: list[tuple[OutcomeEvent, FirstExposure]] = field(default_factory=list)
    keys: set[bytes] = field(default_factory=set)
    totals: dict[tuple[int, str], int] = field(default_factory=dict)
    tally: dict[str, int] = field(default_factory=dict)
    cleared: set[str] = field(default_factory=set)


def window_ends(
    windows: Mapping[str, Sequence[int]], delayed_windows: Mapping[str, Sequence[tuple[int, int]]]
) -> list[int]:
    """Return the ends of all windows in seconds after the exposure, ascending."""
    delayed = {end for own in delayed_windows.values() for _, end in own}
    return sorted(delayed.union(*windows.values()))


def _window_suffix(begin: int, end: int) -> str:
    return f"@{begin}-{end}s" if begin else f"@{end}s"


def matured_until(now_s: int, window: int) -> int:
    """Return the Unix time in seconds before which units were first exposed whose window has passed; the start of a cohort."""
    return _cohort(max(now_s - window, 0), window)


def _cohort(seconds: int, window: int) -> int:
    """Return the start of a cohort, in Unix seconds."""
    width = max(window // COHORTS, 1)
    return seconds // width * width


def before_exposure(metric: str) -> str:
    """Return the name of the totals of a metric from before the units' first exposures."""
    return f"{metric}<"


def join(batch: OutcomeBatch, known: StoredState) -> StoreChange:
    """Return the change for a batch. The order of events matters: the first of two equal events is accepted."""
    joining = _Joining(batch, known)
    joining.mature()
    joining.count("overflow", batch.dropped)
    for unit, first in batch.firsts.items():
        joining.count("overflow", joining.expose(unit, first) is None)
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
        self._windows = window_ends(batch.windows, batch.delayed_windows)

    def mature(self) -> None:
        """Add the numbers of units whose window has passed."""
        for window in self._windows:
            until = matured_until(self._batch.now_s, window)
            if until <= self._until(window):
                continue
            self.change.tally[f"{UNTIL}/{window}"] = until
            waiting = f"waiting/{window}/"
            for name, number in self._known.tally.items():
                if name.startswith(waiting):
                    cohort, _, target = name.removeprefix(waiting).partition("/")
                    if int(cohort) < until:
                        self.change.cleared.add(name)
                        self.count(target, number)

    def _until(self, window: int) -> int:
        return self._tally(f"{UNTIL}/{window}")

    def _count_matured(self, window: int, first: FirstExposure, name: str, more: int) -> None:
        """Count now, or once the unit's window has passed; without a window now."""
        exposed_at = first.us // MILLION
        if window and exposed_at >= self._until(window):
            name = f"waiting/{window}/{_cohort(exposed_at, window)}/{name}"
        self.count(name, more)

    def count(self, name: str, more: int) -> None:
        if more:
            self.change.tally[name] = self._tally(name) + more

    def expose(self, unit: int, first: FirstExposure) -> FirstExposure | None:
        """Return the first recorded exposure of the unit; None if the limit of units is reached."""
        stored = self._known.firsts.get(unit) or self.change.firsts.get(unit)
        if stored is not None:
            return stored
        if self._tally(UNITS) >= self._batch.max_units:
            return None
        self.change.firsts[unit] = first
        self.count(UNITS, 1)
        self.count(DELAYED, bool(self._batch.delayed_windows))
        self.count(f"exposed/{first.epoch}/{first.arm}", 1)
        for window in self._windows:
            self._count_matured(window, first, f"{MATURED}/{window}/{first.epoch}/{first.arm}", 1)
        return first

    def take(self, event: OutcomeEvent) -> str:
        first = self._first(event)
        if first is None:
            # A signed exposure is of this attempt. Another report of it finds no space either.
            return "overflow" if event.exposure is not None else "unknown"
        if event.key in self._known.keys or event.key in self.change.keys:
            return "duplicate"
        exposed_at = first.us // MILLION
        if not event.timed:
            # Its arrival is after the exposure, whatever the clock of the edge of that exposure.
            event = event._replace(seconds=max(event.seconds, exposed_at))
        if self._is_history(event, exposed_at):
            event = event._replace(metric=before_exposure(event.metric))
        elif not exposed_at <= event.seconds <= exposed_at + MAX_OUTCOME_AGE_S:
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
            and exposed_at - MAX_OUTCOME_AGE_S <= event.seconds < exposed_at - HISTORY_GAP_S
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
        self.change.keys.add(event.key)
        self.change.events.append((self._limit_properties(event), first))
        self.count(EVENTS, 1)
        self.count(DELAYED, bool(self._batch.delayed_windows))
        self._add_total(event, first)
        self._add_products(event, first)
        after = event.seconds - first.us // MILLION
        for begin, end in self._batch.windows_of(event.metric) if self._batch.sticky else ():
            if begin <= after <= end:
                self._add_total(event, first, begin, end)

    def _limit_properties(self, event: OutcomeEvent) -> OutcomeEvent:
        """Return the event, without its properties if the attempt has no space for them."""
        size = len(event.properties.encode())
        if self._tally(PROPERTY_BYTES) + size > self._batch.max_property_bytes:
            self.count(PROPERTIES_DROPPED, bool(size))
            return event._replace(properties="")
        self.count(PROPERTY_BYTES, size)
        return event

    def _add_products(self, event: OutcomeEvent, first: FirstExposure) -> None:
        """Add the change of the products of its unit's totals."""
        for pair in self._batch.pairs:
            if event.metric in pair:
                other = pair[1] if event.metric == pair[0] else pair[0]
                more = event.value * (self._total(event.unit, other) or 0)
                self.count(f"product/{'*'.join(pair)}/{first.epoch}/{first.arm}", more)

    def _add_total(self, event: OutcomeEvent, first: FirstExposure, begin: int = 0, window: int = 0) -> None:
        """Add an event to its unit's total, and the change of that to the sums: those of a window, or without one those of all events."""
        suffix = _window_suffix(begin, window) if window else ""
        place = (event.unit, event.metric + suffix)
        before = self._total(*place)
        after = (before or 0) + event.value
        first_value = event.value if before is None else None
        self.change.totals[place] = after
        self._sum(event.metric + suffix, first, first_value, before or 0, after, window)
        for cap in self._batch.caps.get(event.metric, ()):
            name = f"{event.metric}@{cap}{suffix}"
            self._sum(name, first, first_value, min(before or 0, cap), min(after, cap), window)

    def _total(self, unit: int, name: str) -> int | None:
        return self.change.totals.get((unit, name), self._known.totals.get((unit, name)))

    def _sum(
        self, name: str, first: FirstExposure, first_value: int | None, before: int, after: int, window: int
    ) -> None:
        """Add the change of a unit's total to the sums of that name; `first_value` is None unless it is the unit's first."""
        new = first_value is not None
        more = new, new and (first_value or 0) > 0, after - before, after * after - before * before
        for column, change in zip(_OUTCOME, more, strict=True):
            self._count_matured(window, first, f"outcome/{name}/{first.epoch}/{first.arm}/{column}", int(change))

    def _tally(self, name: str) -> int:
        return self.change.tally.get(name, self._known.tally.get(name, 0))


def render_feedback_section(
    attempt: str, store: str, tally: Mapping[str, int], *, has_delayed: bool = False
) -> dict[str, Any]:
    """Return the feedback section of one attempt in the evidence; `has_delayed`: whether it has delayed windows."""
    exposed: list[list[Any]] = []
    matured: list[list[Any]] = []
    until: list[list[int]] = []
    products: list[list[Any]] = []
    outcomes: dict[tuple[str, int, str], dict[str, int]] = {}
    for name, value in tally.items():
        kind, *parts = name.split("/")
        if kind == "exposed":
            exposed.append([int(parts[0]), parts[1], value])
        elif kind == MATURED:
            matured.append([int(parts[0]), int(parts[1]), parts[2], value])
        elif kind == UNTIL:
            until.append([int(parts[0]), value])
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
        **({MATURED: sorted(matured), UNTIL: sorted(until)} if until else {}),
        **({"products": sorted(products)} if products else {}),
        **({UNDELAYED: tally.get(UNITS, 0) + tally.get(EVENTS, 0) - tally.get(DELAYED, 0)} if has_delayed else {}),
        **({PROPERTIES_DROPPED: tally[PROPERTIES_DROPPED]} if PROPERTIES_DROPPED in tally else {}),
        ACCEPTED: tally.get(EVENTS, 0),
        **{name: tally.get(name, 0) for name in (*REJECTED_RESULTS, EARLY)},
    }
