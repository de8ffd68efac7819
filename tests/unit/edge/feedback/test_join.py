"""The join, compared with a count from scratch; and exposures of many units."""

from collections import defaultdict
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from feedback_stores import MemoryAttempt
from sundog_edge.feedback.events import OutcomeEvent
from sundog_edge.feedback.exposure import SignedExposure
from sundog_edge.feedback.join import (
    FirstExposure,
    OutcomeBatch,
    StoredState,
    join,
    matured_until,
    render_feedback_section,
)
from sundog_edge.split.feedback import MAX_OUTCOME_AGE_S

T0 = 1_769_000_000
CAP = 2
units = st.integers(0, 5)
arms = st.sampled_from(("a", "b"))
ages = (-MAX_OUTCOME_AGE_S - 1, -MAX_OUTCOME_AGE_S, -61, -60, -1, 0, 1, MAX_OUTCOME_AGE_S, MAX_OUTCOME_AGE_S + 1)
instants = st.sampled_from([T0 + age for age in ages])
firsts = st.builds(
    FirstExposure, st.integers(0, 1_999_999).map(lambda us: T0 * 1_000_000 + us), st.integers(0, 2), arms
)


@st.composite
def events(draw: st.DrawFn) -> OutcomeEvent:
    unit = draw(units)
    exposure = SignedExposure("attempt", draw(st.integers(0, 2)), draw(arms), unit, T0) if draw(st.booleans()) else None
    value = draw(st.integers(-3, 3) | st.sampled_from((10**15, -(10**15))))
    key, metric = bytes([draw(st.integers(0, 20))]), draw(st.sampled_from(("m", "n")))
    return OutcomeEvent(key, unit, exposure, metric, value, draw(instants), draw(st.booleans()))


batches = st.lists(
    st.builds(
        OutcomeBatch,
        firsts=st.dictionaries(units, firsts, max_size=3),
        events=st.lists(events(), max_size=8),
        refused=st.dictionaries(st.sampled_from(("invalid", "unknown", "future")), st.integers(1, 3), max_size=2),
        sticky=st.just(True),
        max_units=st.just(4),
        max_events=st.just(12),
        caps=st.just({"m": (CAP,)}),
        products=st.just((("m", "n"),)),
        covariates=st.just((("m", "n"), ("n", "n"))),
    ),
    max_size=8,
)


def write(own: MemoryAttempt, batch: OutcomeBatch) -> list[str]:
    change = join(batch, StoredState(own.keys, own.firsts, own.totals, own.tally))
    own.keys |= change.keys
    own.firsts |= change.firsts
    own.totals |= change.totals
    own.tally = {name: value for name, value in (own.tally | change.tally).items() if name not in change.cleared}
    return change.results


MINUTES = 3
told = st.tuples(st.integers(0, 9), st.integers(0, 400), st.integers(-2, 2), st.integers(0, 300))
"""Unit, seconds of its event after its exposure, value, seconds since the write before."""


@given(st.lists(told, max_size=25), st.sampled_from((0, 70)))
def test_sums_of_a_window_are_those_of_matured_units_alone(rows: list[tuple[int, int, int, int]], begin: int) -> None:
    """Unit n is first exposed n × 20 s after the start; every second one in arm b."""
    window, now_s, own = MINUTES * 60, T0, MemoryAttempt()
    name_of = f"m@{begin}-{window}s" if begin else f"m@{window}s"
    kept = OutcomeBatch(delayed_windows={"m": ((begin, window),)}) if begin else OutcomeBatch(windows={"m": (window,)})
    for number, (unit, after, value, passed) in enumerate(rows):
        now_s += passed
        exposed = FirstExposure((T0 + 20 * unit) * 1_000_000, 1, "ab"[unit % 2])
        happened = OutcomeEvent(bytes([number]), unit, None, "m", value, T0 + 20 * unit + after)
        batch = replace(kept, firsts={unit: exposed}, events=(happened,), now_s=now_s)
        assert write(own, batch) == ["accepted"]
    until = matured_until(now_s, window) if rows else 0
    section = render_feedback_section("a", "s", own.tally)
    assert section.get("until", []) == ([[window, until]] if rows else [])
    for place, arm in enumerate("ab"):
        matured = {unit for unit, *_ in rows if T0 + 20 * unit < until and unit % 2 == place}
        counted = [row for name, *row in section["outcomes"] if (name, row[1]) == (name_of, arm)]
        assert [row[-1] for row in section.get("matured", []) if row[2] == arm] == ([len(matured)] if matured else [])
        totals: dict[int, list[int]] = defaultdict(list)
        for unit, after, value, _ in rows:
            if unit in matured and begin <= after <= window:
                totals[unit].append(value)
        assert sum(row[4] for row in counted) == sum(map(sum, totals.values()))
        assert sum(row[5] for row in counted) == sum(sum(own) ** 2 for own in totals.values())
        assert sum(row[2] for row in counted) == len(totals)
        assert sum(row[3] for row in counted) == sum(own[0] > 0 for own in totals.values())


def test_an_arm_that_answers_sooner_is_not_ahead() -> None:
    """Half of the units of each arm have an outcome: at once in a, after 50 minutes in b."""
    own, window = MemoryAttempt(), 3600
    for minute in range(120):
        now_s = T0 + 60 * minute
        exposed = {10 * minute + place: FirstExposure(now_s * 1_000_000, 1, "ab"[place % 2]) for place in range(8)}
        due = [
            OutcomeEvent(f"{arm}{unit}".encode(), unit, None, "m", 1, now_s)
            for arm, late in (("a", 0), ("b", 50))
            for unit in range(10 * (minute - late), 10 * (minute - late) + 8)
            if unit >= 0 and "ab"[unit % 2] == arm and unit % 4 < 2
        ]
        write(own, OutcomeBatch(exposed, due, windows={"m": (window,)}, now_s=now_s))
        section = render_feedback_section("a", "s", own.tally)
        matured = {arm: units for _, _, arm, units in section["matured"]}
        found = {row[2]: row[3] for row in section["outcomes"] if row[0] == f"m@{window}s"}
        assert found.get("a") == found.get("b")
        assert matured.get("a") == matured.get("b")
    assert matured["a"] > 200
    assert found["a"] == matured["a"] // 2


def test_windows_and_covariates_of_one_metric_do_not_mix() -> None:
    """One outcome may have a window and another one a covariate: history is in no window, and products have whole totals."""
    own, day = MemoryAttempt(), 86_400
    exposed = {1: FirstExposure(T0 * 1_000_000, 1, "a")}
    rows = ((3, T0 - day), (5, T0 + 60), (7, T0 + 7200))
    reported = [OutcomeEvent(bytes([value]), 1, None, "m", value, at) for value, at in rows]
    batch = OutcomeBatch(
        exposed,
        reported,
        caps={"m": (4,)},
        windows={"m": (3600,)},
        covariates=(("m", "m"),),
        now_s=T0 + 2 * day,
    )
    assert write(own, batch) == ["accepted"] * 3
    section = render_feedback_section("a", "s", own.tally)
    assert {name: total for name, _, _, _, _, total, _ in section["outcomes"]} == {
        "m<": 3,
        "m": 12,
        "m@4": 4,
        "m@3600s": 5,
        "m@4@3600s": 4,
    }
    assert section["products"] == [["m*m<", 1, "a", 36]]


def test_a_signed_report_of_a_unit_beyond_the_limit_is_overflow_alone() -> None:
    """By the unit alone an edge does not know whether another one exposed it just now."""
    own = MemoryAttempt()
    signed = OutcomeEvent(b"1", 1, SignedExposure("attempt", 1, "a", 1, T0), "m", 1, T0)
    results = write(own, OutcomeBatch(events=(signed, signed._replace(key=b"2", exposure=None)), max_units=0))
    assert results == ["overflow", "unknown"]
    assert (own.tally["overflow"], own.tally["unknown"]) == (1, 1)


def test_exposures_and_outcomes_that_an_earlier_edge_joins_are_told_apart() -> None:
    own, later = MemoryAttempt(), OutcomeBatch(delayed_windows={"m": ((60, 240),)}, now_s=T0)
    first, event = FirstExposure(T0 * 1_000_000, 1, "a"), OutcomeEvent(b"1", 1, None, "m", 1, T0 + 70)
    assert render_feedback_section("a", "s", own.tally, has_delayed=True)["undelayed"] == 0
    write(own, OutcomeBatch({1: first}, (event, event, event._replace(key=b"2"))))
    assert render_feedback_section("a", "s", own.tally, has_delayed=True)["undelayed"] == 3
    again = event._replace(key=b"3", metric="other"), event._replace(key=b"4", unit=9)
    write(own, replace(later, firsts={1: first, 2: first}, events=again, refused={"invalid": 5}))
    assert render_feedback_section("a", "s", own.tally, has_delayed=True)["undelayed"] == 3
    assert "undelayed" not in render_feedback_section("a", "s", own.tally)


def test_all_totals_that_a_join_changes_were_asked_for() -> None:
    event = OutcomeEvent(b"1", 1, None, "m", 1, T0)
    windows = {"windows": {"m": (60,)}, "delayed_windows": {"m": ((60, 90),)}}
    batch = OutcomeBatch(events=(event,), **windows, products=(("m", "n"),), covariates=(("n", "m"),))
    assert batch.totals == {(1, name) for name in ("m", "m@60s", "m@60-90s", "m<", "n")}


class Replay:
    """The results of all events, joined one by one and summed at the end."""

    def __init__(self) -> None:
        self.first: dict[int, FirstExposure] = {}
        self.counted: list[tuple[OutcomeEvent, FirstExposure]] = []
        self.counts: dict[str, int] = defaultdict(int)

    def expose(self, unit: int, first: FirstExposure) -> None:
        if len(self.first) < 4:
            self.first.setdefault(unit, first)

    def write(self, batch: OutcomeBatch) -> None:
        for unit, first in batch.firsts.items():
            self.expose(unit, first)
            self.counts["overflow"] += unit not in self.first
        for event in batch.events:
            if event.exposure is not None:
                self.expose(event.unit, FirstExposure(T0 * 1_000_000, event.exposure.epoch, event.exposure.arm))
            first = self.first.get(event.unit)
            exposed_at = first.us // 10**6 if first is not None else 0
            if first is None:
                self.counts["unknown" if event.exposure is None else "overflow"] += 1
            elif any(event.key == other.key for other, _ in self.counted):
                self.counts["duplicate"] += 1
            elif event.metric == "n" and event.exposure is None and self._is_history(event, first):
                self._accept(event._replace(metric="n<"), first)
            elif (event.seconds < exposed_at and event.timed) or event.seconds > exposed_at + MAX_OUTCOME_AGE_S:
                self.counts["late"] += 1
                self.counts["early"] += event.exposure is not None and event.seconds < exposed_at
            else:
                self._accept(event, first)
        for result, count in batch.refused.items():
            self.counts[result] += count

    def _is_history(self, event: OutcomeEvent, first: FirstExposure) -> bool:
        at = event.seconds - first.us // 10**6
        return event.timed and -MAX_OUTCOME_AGE_S <= at < -60

    def _accept(self, event: OutcomeEvent, first: FirstExposure) -> None:
        if len(self.counted) == 12:
            self.counts["overflow"] += 1
        else:
            self.counted.append((event, first))

    def outcomes(self) -> list[list[object]]:
        rows = []
        for place in {(event.metric, first.epoch, first.arm) for event, first in self.counted}:
            own = [event for event, first in self.counted if (event.metric, first.epoch, first.arm) == place]
            by_unit: dict[int, list[int]] = defaultdict(list)
            for event in own:
                by_unit[event.unit].append(event.value)
            totals = [sum(values) for values in by_unit.values()]
            positive = sum(values[0] > 0 for values in by_unit.values())
            metric, *rest = place
            for name, own_totals in (
                (metric, totals),
                *([(f"m@{CAP}", [min(total, CAP) for total in totals])] if metric == "m" else []),
            ):
                squares = sum(total**2 for total in own_totals)
                rows.append([name, *rest, len(totals), positive, sum(own_totals), squares])
        return sorted(rows)

    def products(self) -> list[list[object]]:
        """Return the sums of products of units' two totals that are not 0; a sum that was not 0 before is kept as 0."""
        totals: dict[tuple[str, int], int] = defaultdict(int)
        places: dict[int, FirstExposure] = {}
        for event, first in self.counted:
            totals[event.metric, event.unit] += event.value
            places[event.unit] = first
        found: dict[tuple[str, int, str], int] = defaultdict(int)
        for unit, first in places.items():
            for own, other in (("m", "n"), ("m", "n<"), ("n", "n<")):
                found[f"{own}*{other}", first.epoch, first.arm] += totals[own, unit] * totals[other, unit]
        return sorted([*place, total] for place, total in found.items() if total)


@given(batches)
def test_sums_equal_a_count_from_scratch(batches: list[OutcomeBatch]) -> None:
    own, replay = MemoryAttempt(), Replay()
    for batch in batches:
        before = own.tally.get("sequence", 0), dict(own.tally)
        write(own, batch)
        replay.write(batch)
        assert (own.tally.get("sequence", 0) > before[0]) == (own.tally != before[1])
    found = render_feedback_section("attempt", "store", own.tally)
    exposed: dict[tuple[int, str], int] = defaultdict(int)
    for first in replay.first.values():
        exposed[first.epoch, first.arm] += 1
    assert found["exposed"] == sorted([*place, count] for place, count in exposed.items())
    assert found["outcomes"] == replay.outcomes()
    assert [row for row in found.get("products", []) if row[-1]] == replay.products()
    assert found["accepted"] == len(replay.counted)
    for name in ("late", "duplicate", "unknown", "future", "invalid", "overflow", "early"):
        assert found[name] == replay.counts[name], name
    assert own.firsts == replay.first


def test_a_section_of_nothing_is_all_zero() -> None:
    assert render_feedback_section("a-1", "id", {}) == {
        "attempt": "a-1",
        "store": "id",
        "sequence": 0,
        "exposed": [],
        "outcomes": [],
        **dict.fromkeys(("accepted", "late", "duplicate", "unknown", "future", "invalid", "overflow", "early"), 0),
    }


def test_an_outcome_before_the_exposure_that_it_names_is_counted_apart() -> None:
    """A caller may report older events of a unit, but knows an exposure only after it."""
    own, named = MemoryAttempt(), SignedExposure("attempt", 0, "a", 1, T0)
    before, after = T0 - 7200, T0 + MAX_OUTCOME_AGE_S + 1
    outcomes = [
        OutcomeEvent(b"1", 1, named, "m", 1, before),
        OutcomeEvent(b"2", 1, None, "m", 1, before),
        OutcomeEvent(b"3", 1, named, "m", 1, after),
    ]
    assert write(own, OutcomeBatch(events=outcomes)) == ["late", "late", "late"]
    section = render_feedback_section("attempt", "store", own.tally)
    assert (section["late"], section["early"], section["accepted"]) == (3, 1, 0)
