"""Counters from edges: nothing counts twice, nothing is lost, and invalid rows are skipped."""

import base64
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_counts import ATTEMPT, BEFORE_SEVERAL_LATENCIES, COLUMNS, ENDS, block, evenly, report, row, rows_in, silent
from sundog_operator.core.analysis import counters, dispersion_sums, edge_reports, unit_groups
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.counters import Counters, CountScope
from sundog_operator.core.edge.reported_counts import EVENTS
from sundog_operator.core.observed import EdgeReport

T0 = 1_764_034_200
"""A full minute."""

BEGIN = block(T0 - 10)
"""The block in which an epoch begins: only an unknown part belongs to the epoch."""


def take(before: Counters, *reports: EdgeReport, now: float = T0 + 600, epochs: Sequence[int] = (2,)) -> Counters:
    return update(before, reports, CountScope(epochs, in_force=2, now_s=now, timeout_s=30))


def update(before: Counters, reports: Sequence[EdgeReport], scope: CountScope) -> Counters:
    return counters.update_counters(before, reports, counters.collect_blocks(ATTEMPT, reports), scope)


NOTHING = Counters(ATTEMPT)

few = st.dictionaries(st.sampled_from((*ENDS, "slow", "slow2", "slow3")), st.integers(1, 50), max_size=2)
rows = st.builds(
    lambda place, result, lost, at: row(
        *place, **result, lost=lost, inFlight=at % 3, blocks=[block(T0 + 10 * at, **result)]
    ),
    st.sampled_from([("stable", 1, "b1"), ("stable", 2, "b1"), ("canary", 2, "b1"), ("canary", 2, "b2")]),
    few,
    st.integers(0, 2),
    st.integers(0, 20),
)
reports = st.lists(st.lists(rows, max_size=3), max_size=3).map(
    lambda edges: [report(*own, pod=f"edge-{number}") for number, own in enumerate(edges)]
)


@given(reports)
def test_every_request_is_counted_once_however_often_and_in_which_order_edges_are_read(
    result: list[EdgeReport],
) -> None:
    once = take(NOTHING, *result, epochs=(1, 2))
    for again in (take(once, *result, epochs=(1, 2)), take(NOTHING, *reversed(result), epochs=(1, 2))):
        assert again == once
    assigned = sum(each["assigned"] for each in rows_in(result))
    assert sum(once.of(epoch, arm).assigned for epoch in (1, 2) for arm in ("stable", "canary")) == assigned
    assert Counters.from_json(json.loads(json.dumps(once.as_json())), ATTEMPT) == once
    assert Counters.unpack(once.pack(), ATTEMPT) == once


@given(reports)
def test_several_edges_count_as_one_would(result: list[EdgeReport]) -> None:
    apart = take(NOTHING, *result, epochs=(1, 2))
    alone = take(NOTHING, report(*rows_in(result)), epochs=(1, 2))
    assert apart.folded == alone.folded
    for epoch in (1, 2):
        for arm in ("stable", "canary"):
            assert apart.of(epoch, arm, apart.sources) == alone.of(epoch, arm, alone.sources)


def test_kinds_of_events_are_counted_apart() -> None:
    result = row(
        ok=90, client4xx=1, throttled=2, abortBefore=3, abortDuring=4, server5xx=5, edge5xx=6, timeout=7, slow=8
    )
    counted = take(
        NOTHING,
        report(
            {**result, "ends": {**result["ends"], "truncated": 9, "invalid": 10}, "retries": {"firstAttemptFailed": 11}}
        ),
    )
    assert counted.of(2, "canary") == ArmCounts(assigned=118, errors=37, slow=8, rejections=10, retried=11)


def test_only_requests_that_were_assigned_count() -> None:
    origins = [{**row(ok=5), "origin": origin} for origin in ("override", "probe")]
    foreign = [{**row(ok=5), "attempt": "another"}, *origins]
    counted = take(NOTHING, report(*foreign))
    assert replace(counted, forced={}) == NOTHING
    assert counted.over_epochs("canary", forced=True).assigned == 5


def test_a_departed_edge_keeps_its_counts_and_its_running_requests_are_lost() -> None:
    counted = take(NOTHING, report(row(ok=8, server5xx=1, inFlight=3)))
    assert counted.of(2, "canary", present=["edge-0/b1"]) == ArmCounts(12, errors=1, running=3)
    gone = take(counted, report(row(ok=2), pod="edge-1"))
    assert gone.of(2, "canary", present=["edge-1/b1"]) == ArmCounts(14, errors=1, lost=3)


def test_a_restarted_agent_with_lower_counts_takes_nothing_back() -> None:
    counted = take(NOTHING, report(row(ok=80, server5xx=10, slow=5, lost=2)))
    less = take(counted, report(row(ok=8, server5xx=1)))
    assert less == counted
    more = take(less, report(row(ok=90, server5xx=11, slow=5, lost=4)))
    assert more.of(2, "canary") == ArmCounts(105, errors=11, slow=5, lost=4)


def test_a_lost_request_that_ends_after_all_is_no_longer_lost() -> None:
    counted = take(NOTHING, report(row(ok=8, lost=2)))
    back = take(counted, report(row(ok=9, inFlight=1)))
    assert back.of(2, "canary", back.sources) == ArmCounts(10, running=1)


def test_an_ended_request_no_longer_runs() -> None:
    counted = take(take(NOTHING, report(row(ok=8, inFlight=3))), report(row(ok=11)))
    assert counted.of(2, "canary", counted.sources) == ArmCounts(11)


def test_processes_of_one_edge_add_up() -> None:
    counted = take(NOTHING, report(row(boot="b1", ok=3), row(boot="b2", ok=4), {**row(ok=5), "unit": "sticky"}))
    assert counted.of(2, "canary").assigned == 12
    assert {*counted.sources} == {"edge-0/b1", "edge-0/b2"}


def test_many_departed_processes_are_merged_without_loss() -> None:
    counted = NOTHING
    for boot in range(300):
        counted = take(counted, report(row(boot=f"b{boot}", ok=1, inFlight=1)))
    assert len(counted.sources) <= 65
    assert counted.of(2, "canary", present=["edge-0/b299"]) == ArmCounts(600, lost=299, running=1)


def test_an_edge_that_does_not_report_for_a_while_does_not_count_twice() -> None:
    counted = take(NOTHING, report(row(ok=100), pod="edge-9"))
    for boot in range(100):
        counted = take(counted, report(row(boot=f"b{boot}", ok=1)), silent("edge-9"))
    counted = take(counted, report(row(ok=100), pod="edge-9"))
    assert counted.of(2, "canary").assigned == 200


def closed(counted: Counters, epoch: int = 2) -> list[int]:
    return [each.closed for each in counted.folded[epoch].lengths]


def two_minutes(**counts: int) -> Any:
    return evenly("canary", 2, T0, 12, **counts)


def test_blocks_are_added_over_edges_before_they_are_squared() -> None:
    canary = [{**row("canary"), "blocks": [BEGIN, block(T0, server5xx=count)]} for count in (2, 3)]
    stable = {**row("stable"), "blocks": [BEGIN, block(T0, timeout=1, slow=6, throttled=7, slow3=8)]}
    result = take(NOTHING, report(canary[0], stable), report(canary[1], pod="edge-1"), now=T0 + 15)
    shortest, *longer = result.folded[2].lengths
    # x = 5 and s = 6 errors; only stable has slow answers and rejections.
    assert shortest.sums == (
        (5, 6, 25, 30, 36),
        (0, 6, 0, 0, 36),
        (0, 7, 0, 0, 49),
        dispersion_sums.ZERO_SUMS,
        dispersion_sums.ZERO_SUMS,
        (0, 8, 0, 0, 64),
    )
    assert [each.open for each in longer] == [((5, 6), (0, 6), (0, 7), (0, 0), (0, 0), (0, 8))] * 2
    assert closed(result) == [1, 0, 0]


@pytest.mark.parametrize("late", range(0, 60, 10))
def test_blocks_close_on_full_half_minutes_and_minutes_and_the_first_is_whole(late: int) -> None:
    first = {**row(), "blocks": [block(T0 - 10 + late, ok=1)]}
    counted = take(NOTHING, report(first), now=T0 + 125)
    assert closed(counted) == [12 - late // 10, 4 - (late + 20) // 30, 2 - (late + 50) // 60]


def test_partial_blocks_at_the_ends_of_an_epoch_add_no_dispersion() -> None:
    began, ended = block(T0 + 40, ok=40, server5xx=20), block(T0 + 280, ok=20, server5xx=10)
    between = [block(T0 + 10 * number, ok=100, server5xx=50) for number in range(5, 28)]
    result = report({**row(epoch=1), "blocks": [began, *between, ended]})
    for scope in (CountScope((1,), in_force=1, now_s=T0 + 285, timeout_s=30), CountScope((1,), 2, T0 + 900, 30)):
        for length in update(NOTHING, [result], scope).folded[1].lengths:
            x, _, square, _, _ = length.sums[0]
            assert length.closed >= 3
            assert x * x == length.closed * square


@given(st.lists(st.integers(1, 70), min_size=1, max_size=6))
def test_the_time_of_evaluations_does_not_change_the_sums(waits: list[int]) -> None:
    result, counted, now = report(two_minutes(ok=1, server5xx=2)), NOTHING, T0
    for wait in waits:
        now += wait
        counted = take(counted, result, now=now)
    assert take(counted, result, now=T0 + 600).folded == take(NOTHING, result, now=T0 + 600).folded


def test_a_block_is_folded_five_seconds_after_its_end() -> None:
    result = report(two_minutes(ok=1))
    assert closed(take(NOTHING, result, now=T0 + 14.9)) == [0, 0, 0]
    assert closed(take(NOTHING, result, now=T0 + 15)) == [1, 0, 0]


def test_a_block_with_running_requests_waits_until_their_timeout() -> None:
    running = {**row(), "blocks": [BEGIN, block(T0, ok=1), block(T0 + 10, inFlight=1), block(T0 + 20, ok=1)]}
    assert closed(take(NOTHING, report(running), now=T0 + 54.9))[0] == 1
    assert closed(take(NOTHING, report(running), now=T0 + 55))[0] == 5


def test_no_block_is_folded_while_a_ready_edge_does_not_report() -> None:
    result = report(two_minutes(ok=1))
    assert take(NOTHING, result, silent("edge-1")).folded == {}
    assert take(NOTHING, result, report(pod="edge-1", columns=())).folded == {}
    assert closed(take(NOTHING, result, silent("edge-1", ready=False)))[0] == 59
    assert closed(take(NOTHING, result, silent("edge-1", terminating=True)))[0] == 59


def test_minutes_without_requests_are_blocks_too_while_an_epoch_is_in_force() -> None:
    assert closed(take(NOTHING, report(two_minutes(ok=1)), now=T0 + 605)) == [60, 20, 10]


def test_an_ended_epoch_excludes_its_last_block() -> None:
    over = {**two_minutes(ok=1), "epoch": 1}
    counted = take(NOTHING, report(over), epochs=(1, 2))
    assert closed(counted, 1) == [11, 3, 1]
    assert take(counted, report(over), now=T0 + 3000, epochs=(1, 2)).folded == counted.folded
    assert take(counted, report(), now=T0 + 9000, epochs=(1, 2)).folded == counted.folded
    newest_is_over = update(NOTHING, [report(over)], CountScope((1,), in_force=2, now_s=T0 + 3000, timeout_s=30))
    assert closed(newest_is_over, 1) == [11, 3, 1]


def test_blocks_of_an_hour_without_evaluation_are_skipped() -> None:
    before = take(NOTHING, report({**row(), "blocks": [BEGIN, block(T0, server5xx=7)]}), now=T0 + 15)
    late = take(before, report(), now=T0 + 36_000)
    assert [each.open for each in before.folded[2].lengths][2] != ((0, 0),) * 6
    assert [each.sums[0][0] for each in late.folded[2].lengths] == [7, 0, 0]
    assert closed(late)[0] < 360


def test_requests_and_events_of_whole_blocks_are_counted_by_arm() -> None:
    stable = {**row("stable"), "blocks": [block(T0 - 10, ok=99, timeout=9), block(T0, ok=5, timeout=1, inFlight=1)]}
    canary = {**row(), "blocks": [BEGIN, block(T0, ok=2, slow=1, throttled=1), block(T0 + 10, ok=70)]}
    result = [report(stable), report(canary, pod="edge-1")]
    assert take(NOTHING, *result, now=T0 + 20).folded[2].counts() == (ArmCounts(), ArmCounts())
    counted = take(NOTHING, *result, now=T0 + 45).folded[2]
    assert counted.counts() == (ArmCounts(7, errors=1), ArmCounts(73, slow=1, rejections=1))
    assert take(NOTHING, *result, now=T0 + 20).ended_blocks[2].counts() == (
        ArmCounts(7, errors=1),
        ArmCounts(3, slow=1, rejections=1),
    )


def test_an_older_status_without_requests_by_block_is_folded_again() -> None:
    result = report(two_minutes(ok=1, server5xx=2))
    counted = take(NOTHING, result)
    stored = json.loads(json.dumps(counted.as_json()))
    for epoch in stored["epochs"].values():
        del epoch["requests"]
    before = Counters.from_json(stored, ATTEMPT)
    assert (before.sources, before.folded) == (counted.sources, {})
    assert take(before, result).folded == counted.folded


def test_columns_are_found_by_their_names() -> None:
    turned = tuple(reversed(COLUMNS))
    blocks = [BEGIN, block(T0, ok=1, server5xx=2, slow=3, firstAttemptFailed=9, slow2=8, slow3=7)]
    own = {**row(), "blocks": [list(reversed(each)) for each in blocks]}
    counted = take(NOTHING, report(own, columns=turned), now=T0 + 15)
    assert [sums[0] for sums in counted.folded[2].lengths[0].sums] == [2, 3, 0, 9, 8, 7]


def test_requests_are_overdue_when_the_last_of_their_block_is() -> None:
    own = {**row(), "inFlightSince": [[T0, 2], [T0 + 10, 1]]}
    result = [report(own), report({**own, "arm": "stable"}, pod="edge-1")]
    assert counters.count_overdue_requests(ATTEMPT, result, T0 + 45, 30) == {}
    assert counters.count_overdue_requests(ATTEMPT, result, T0 + 46, 30) == {(2, "canary"): 2, (2, "stable"): 2}
    assert counters.count_overdue_requests(ATTEMPT, result, T0 + 56, 30) == {(2, "canary"): 3, (2, "stable"): 3}


STRANGE: tuple[Any, ...] = (None, True, -1, 1.5, math.inf, math.nan, 10**400, "", "1", [], [[]], {}, {"a": 1})
anything = st.recursive(
    st.sampled_from(STRANGE),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "1/b"]), inner, max_size=2),
    max_leaves=5,
)


def damaged(whole: Any) -> Iterator[Any]:
    """Yield copies in which one part, at any depth, is replaced by an invalid value, or removed."""
    yield from STRANGE
    items = whole.items() if isinstance(whole, dict) else enumerate(whole) if isinstance(whole, list) else ()
    for key, value in items:
        for other in damaged(value):
            copied = whole.copy()
            copied[key] = other
            yield copied
        copied = whole.copy()
        del copied[key]
        yield copied


STORED = json.loads(json.dumps(take(NOTHING, report(two_minutes(ok=1, server5xx=2), row("stable", ok=3))).as_json()))


def check_use(found: Counters) -> None:
    after = take(found, report(two_minutes(ok=1)), now=T0 + 90)
    assert after.attempt == ATTEMPT
    assert Counters.from_json(after.as_json(), ATTEMPT) == after


@given(anything)
def test_any_stored_counters_can_be_read(stored: Any) -> None:
    check_use(Counters.from_json(stored, ATTEMPT))


def test_damaged_counters_can_be_read() -> None:
    for stored in damaged(STORED):
        check_use(Counters.from_json(stored, ATTEMPT))


@pytest.mark.parametrize(
    "stored",
    [
        None,
        {},
        {**STORED, "version": 2},
        {**STORED, "attempt": "another"},
        {**STORED, "sources": {"edge-0/b1": {"2/canary": [1, 2]}}},
        {**STORED, "sources": {"edge-0/b1": {"2/canary": [-1, 0, 0, 0, 0, 0]}}},
        {**STORED, "sources": {"edge-0/b1": {"2/canary": [1.5, 0, 0, 0, 0, 0]}}},
        {**STORED, "columns": ["assigned"]},
        {**STORED, "epochs": {"2": {"following": 1, "lengths": [], "requests": [0, 0]}}},
        {
            **STORED,
            "epochs": {"2": {"following": 1, "lengths": [[0, [["a"] * 5] * 3, [[0, 0]] * 3]] * 3, "requests": [0, 0]}},
        },
        {
            **STORED,
            "epochs": {"2": {"following": 1, "lengths": [[0, [[0] * 5] * 3, [[0, 0]]]] * 3, "requests": [0, 0]}},
        },
    ],
)
def test_damaged_counters_or_those_of_another_attempt_are_empty(stored: Any) -> None:
    assert Counters.from_json(stored, ATTEMPT) == NOTHING


def packed(plain: bytes) -> str:
    return base64.b64encode(zlib.compress(plain)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no base64!",
        base64.b64encode(b"not compressed").decode(),
        packed(b"{"),
        packed(b"[1]"),
        packed(b"[" * 100_000),
        packed(orjson.dumps({**STORED, "filling": " " * (5 << 20)})),
    ],
    ids=["empty", "text", "plain", "cut", "list", "deep", "large"],
)
def test_a_foreign_text_gives_empty_counters(text: str) -> None:
    assert Counters.unpack(text, ATTEMPT) == NOTHING


def test_the_text_is_small_and_empty_while_nothing_is_counted() -> None:
    assert NOTHING.pack() == ""
    known = take(NOTHING, *(report(two_minutes(ok=7), pod=f"sundog-edge-5c9f-{number}") for number in range(40)))
    assert len(known.pack()) < len(json.dumps(known.as_json())) / 4


@pytest.mark.extended
def test_counters_with_very_many_groups_can_be_read_again() -> None:
    own = ((10_000,) * (unit_groups.GROUPS + 1), *unit_groups.ZERO_GROUPS[1:])
    places = [(epoch, f"arm-{number}") for epoch in range(40) for number in range(10)]
    counted = {"edge-0/b1": {places[0]: ArmCounts(assigned=7)}}
    groups = {f"edge-{number}/b1": dict.fromkeys(places, own) for number in range(unit_groups.MAX_SOURCES)}
    known = Counters.unpack(Counters(ATTEMPT, counted, groups=groups).pack(), ATTEMPT)
    assert known.sources == counted
    epochs = {epoch for rows in known.groups.values() for epoch, _ in rows}
    assert 20 < len(epochs) < 40
    assert epochs == {*range(40 - len(epochs), 40)}


def test_an_older_status_without_retries_is_read() -> None:
    counted = take(NOTHING, report(two_minutes(ok=7, server5xx=1)), now=T0 + 135)
    stored = json.loads(json.dumps(counted.as_json()))
    place = stored["columns"].index("retried")
    for rows in (stored["columns"], *(own for source in stored["sources"].values() for own in source.values())):
        del rows[place]
    for epoch in stored["epochs"].values():
        epoch["lengths"] = [[closed, sums[:3], open_[:3]] for closed, sums, open_ in epoch["lengths"]]
    del stored["events"]
    assert Counters.from_json(stored, ATTEMPT) == counted


BEFORE_SEVERAL = ["assigned", "errors", "slow", "rejections", "retried", "lost", "running"]
"""Columns that operators with one latency read."""


def test_counts_of_one_latency_are_stored_in_the_older_format() -> None:
    counted = take(NOTHING, report(two_minutes(ok=7, slow=2)), now=T0 + 135)
    stored = json.loads(json.dumps(counted.as_json()))
    assert (stored["columns"], stored["events"]) == (BEFORE_SEVERAL, 4)
    assert {len(own) for source in stored["sources"].values() for own in source.values()} == {7}
    assert {len(sums) for epoch in stored["epochs"].values() for _, sums, _ in epoch["lengths"]} == {4}
    assert Counters.from_json(stored, ATTEMPT) == counted


def test_counts_of_further_latencies_are_not_misread_by_an_older_operator() -> None:
    counted = take(NOTHING, report(two_minutes(ok=7, slow=2, slow2=1)), now=T0 + 135)
    stored = json.loads(json.dumps(counted.as_json()))
    assert (stored["columns"], stored["events"]) == ([*BEFORE_SEVERAL, "slow2"], 5)
    assert Counters.from_json(stored, ATTEMPT) == counted
    assert counted.of(2, "canary").slow2 > 0
    # An operator with four kinds of events rejects five, and begins again with the edges' reports.
    assert Counters.from_json({**stored, "events": len(EVENTS) + 1}, ATTEMPT) == NOTHING


def test_an_edge_that_counts_one_latency_is_named_if_several_are_compared() -> None:
    own = row(ok=7)
    before = {name: result for name, result in own.items() if name not in ("slow2", "slow3")}
    result = [report(own), report(before, pod="edge-1")]
    assert [edge_reports.find_edges_without_latencies(ATTEMPT, result, count) for count in (0, 1, 2, 3)] == [
        [],
        [],
        ["edge-1"],
        ["edge-1"],
    ]
    happened = {"start": T0, "ok": 1, "server5xx": 2, "slow": 3, "firstAttemptFailed": 9}
    blocks = [BEGIN, [happened.get(name, 0) for name in BEFORE_SEVERAL_LATENCIES]]
    counted = take(NOTHING, report({**before, "blocks": blocks}, columns=BEFORE_SEVERAL_LATENCIES), now=T0 + 15)
    assert [sums[0] for sums in counted.folded[2].lengths[0].sums] == [2, 3, 0, 9, 0, 0]


def test_stored_columns_are_found_by_their_names() -> None:
    columns = ["new", *reversed(ArmCounts._fields)]
    stored = {**STORED, "columns": columns, "sources": {"edge-0/b1": {"2/canary": [99, 9, 8, 7, 6, 5, 4, 3, 2, 1]}}}
    assert Counters.from_json(stored, ATTEMPT).sources["edge-0/b1"] == {
        (2, "canary"): ArmCounts(1, 2, 3, 4, 5, 6, 7, 8, 9)
    }


REPORTED = {**row(ok=1, blocks=[block(T0, ok=1), block(T0 + 10, ok=1)]), "inFlightSince": [[T0, 2]]}


def test_an_invalid_row_is_skipped_and_the_others_count() -> None:
    other = report(row("stable", ok=5, blocks=[BEGIN, block(T0 + 20, timeout=1)]), pod="edge-1")
    for own in damaged(REPORTED):
        counted = take(NOTHING, report(own), other, now=T0 + 90)
        assert counted.of(2, "stable").assigned >= 5
        assert counted.folded[2].lengths[0].sums[0][1] >= 1
        assert orjson.dumps(counted.as_json())
        assert counters.count_overdue_requests(ATTEMPT, [report(own)], T0 + 600, 30).get((2, "canary"), 0) >= 0


@pytest.mark.parametrize("columns", [*STRANGE, COLUMNS[1:], COLUMNS[:5], ["end", *COLUMNS[1:]]])
def test_blocks_without_columns_are_skipped(columns: Any) -> None:
    result = report(REPORTED, columns=columns)
    assert counters.collect_blocks(ATTEMPT, [result]) == {}
    assert take(NOTHING, result).of(2, "canary").assigned == 1


@given(anything)
def test_an_invalid_document_counts_nothing(result: Any) -> None:
    strange = report(evidence=result if isinstance(result, dict) else {"counters": result, "blocks": result})
    assert take(NOTHING, strange).sources == {}


@pytest.mark.parametrize(
    ("clocks", "until"),
    [([], T0), ([T0 - 3.5, T0 + 9], T0 - 3.5), ([T0 - 61.0, T0 - 2], T0 - 2), ([None, "late", math.nan], T0)],
)
def test_counters_cover_the_time_of_the_clock_that_is_behind(clocks: list[Any], until: float) -> None:
    result = [EdgeReport("edge-0", True, False, {"clock": clock}) for clock in clocks]
    assert counters.counted_until_s([*result, silent()], T0) == until
