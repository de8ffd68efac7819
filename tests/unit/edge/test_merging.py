"""Blocks, groups, samples of units: what two edges have counted is what one would have, in any order."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sundog_edge import groups as grouping
from sundog_edge.blocks import KEPT, Blocks
from sundog_edge.counters import ROW_COLUMNS, Ledger, Row
from sundog_edge.loglines import ENDS
from sundog_edge.units import LIMIT, MIN_LIMIT, WHOLE, Sample, limit_for

BLOCKS = st.lists(st.tuples(st.integers(1000, 1000 + 3 * KEPT), st.integers(0, 2), st.integers(1, 9)), max_size=60)


def blocks_of(entries) -> Blocks:
    made = Blocks(3)
    for block, column, count in entries:
        made.add(block, column, count)
    return made


@given(BLOCKS, st.randoms())
def test_blocks_are_the_same_in_any_order_and_merged(entries, order: random.Random):
    whole = blocks_of(entries)
    shuffled = [*entries]
    order.shuffle(shuffled)
    assert blocks_of(shuffled).rows() == whole.rows()
    cut = len(entries) // 3
    merged = blocks_of(shuffled[:cut])
    merged.merge(blocks_of(shuffled[cut:]).rows())
    assert merged.rows() == whole.rows()
    kept = [block for block, _, _ in entries if block > max((b for b, _, _ in entries), default=0) - KEPT]
    assert sum(sum(row[1:]) for row in whole.rows()) == sum(n for b, _, n in entries if b in kept)


SEEN = st.lists(
    st.tuples(
        st.integers(0, WHOLE - 1) | st.integers(0, 40).map(lambda n: n << 57),
        st.tuples(st.integers(0, 50), st.integers(0, 3), st.sampled_from(["canary", "stable"])),
        st.lists(st.sampled_from(["error", "slow", "abort"]), unique=True, max_size=2).map(tuple),
    ),
    max_size=60,
)


def sample_of(entries, limit=8) -> Sample:
    made = Sample(limit=limit)
    for number, moment, events in entries:
        if number < made.tau:
            made.see(number, moment, events)
    return made


@given(SEEN, st.randoms())
def test_a_sample_is_the_same_in_any_order_and_merged(entries, order: random.Random):
    whole = sample_of(entries)
    assert len(whole.units) <= 8
    shuffled = [*entries]
    order.shuffle(shuffled)
    assert sample_of(shuffled).as_json() == whole.as_json()
    cut = len(entries) // 3
    parts = [sample_of(shuffled[:cut]), sample_of(shuffled[cut : 2 * cut]), sample_of(shuffled[2 * cut :])]
    order.shuffle(parts)
    merged = parts[0]
    merged.merge(parts[1])
    merged.merge(parts[2])
    assert merged.as_json() == whole.as_json()
    assert Sample.from_json(whole.as_json()).as_json() == whole.as_json()
    # Nobody below the threshold is missing, and each has the earliest of all it did.
    by_unit: dict[int, list] = {}
    for number, moment, events in entries:
        by_unit.setdefault(number, []).append((moment, events))
    assert {*whole.units} == {number for number in by_unit if number < whole.tau}
    for number, unit in whole.units.items():
        assert unit.n == len(by_unit[number])
        assert unit.first == min(moment for moment, _ in by_unit[number])
        assert unit.events == {
            kind: min(moment for moment, events in by_unit[number] if kind in events)
            for kind in {kind for _, events in by_unit[number] for kind in events}
        }


def test_many_samples_share_one_budget():
    assert limit_for(1) == LIMIT
    assert limit_for(500) == 100
    assert limit_for(10**6) == MIN_LIMIT


def line(worker: int, number: int, status: int, arm: str, user: int, block: int) -> bytes:
    head = (
        f"a-{worker} digits/att/0/{arm}/assigned/sticky digits - {status} -- {number % 2} s{number % 3} ok 3000 {block}"
    )
    total = 1000 + 37 * user + 11 * number
    return f"{head} {number} {total // 2} {total} {user} {user * 7919 << 40} {user % 100} {block * 10_000_000 + number}".encode()


LINES = st.lists(
    st.tuples(
        st.sampled_from([200, 404, 429, 500]),
        st.sampled_from(["stable", "canary"]),
        st.integers(0, 300),
        st.integers(1000, 1400),
    ),
    max_size=60,
)


def row_of(ledger: Ledger, arm: str) -> dict:
    merged = Row()
    for boot in ledger.boots.values():
        if (key := f"digits/att/0/{arm}/assigned/sticky") in boot.rows:
            merged.merge(boot.rows[key])
    # What HAProxy has counted is not in lines.
    return {**merged.as_json(), **merged.details_as_json(), "highest": 0}


@settings(deadline=None)
@given(LINES, st.randoms())
def test_two_edges_merged_are_one_in_any_order(entries, order: random.Random):
    lines = [line(1, number, *entry) for number, entry in enumerate(entries, start=1)]
    one = Ledger()
    one.consume(lines, 5.0)
    split = [(order.randrange(2), text) for text in lines]
    order.shuffle(split)
    two = Ledger()
    for worker, text in split:
        two.consume([text.replace(b"a-1 ", b"a-%d " % (worker + 1), 1)], 5.0)
    for arm in ("stable", "canary"):
        assert row_of(two, arm) == row_of(one, arm)
    assert {name: own.as_json() for name, own in two.samples.items()} == {
        name: own.as_json() for name, own in one.samples.items()
    }


@given(LINES)
def test_blocks_and_groups_have_every_end_and_survive_a_snapshot(entries):
    ledger = Ledger()
    ledger.consume([line(1, number, *entry) for number, entry in enumerate(entries, start=1)], 0)
    for boot in ledger.boots.values():
        for key, row in boot.rows.items():
            newest = row.blocks.newest
            kept = [
                number
                for number, (_, arm, _, block) in enumerate(entries, start=1)
                if f"/{arm}/" in key and block > newest - KEPT
            ]
            columns = dict(zip(ROW_COLUMNS, map(sum, list(zip(*row.blocks.rows(), strict=True))[1:]), strict=True))
            assert sum(columns[end] for end in ENDS) == len(kept)
            assert columns["firstAttemptFailed"] == sum(number % 2 for number in kept)
            sums = [sum(column) for column in zip(*row.groups.values(), strict=True)]
            assert dict(zip(grouping.COLUMNS, sums, strict=True)) | row.ends == dict(
                zip(grouping.COLUMNS, sums, strict=True)
            )
            assert sums[grouping.SLOW] == row.slow
            assert sums[grouping.TIMED + 1] == row.duration_us
            assert bool(row.replicas) == ("/stable/" in key)
    again = Ledger.from_json(ledger.as_json(), ledger.details_as_json())
    assert again.details_as_json() == ledger.details_as_json()
    assert again.as_json() == ledger.as_json()


def test_sums_in_a_group_are_of_y_and_x():
    ledger = Ledger()
    ledger.consume([line(1, 0, 200, "canary", 5, 1000), line(1, 1, 500, "canary", 5, 1000)], 0)
    (counts,) = ledger.boots["a-1"].rows["digits/att/0/canary/assigned/sticky"].groups.values()
    y = (1185, 1196)
    assert counts[grouping.TIMED :] == [2, sum(y), sum(v * v for v in y), 10, 50, sum(5 * v for v in y)]


@pytest.mark.parametrize("own", [b"x 1 2 3 4 5 6", b"1 x 2 3 4 5 6", b"1 2 3 4 5 100 6", b"1 2 3 4 5 -1 6"])
def test_a_line_with_a_damaged_tail_counts_nothing_but_itself(own):
    ledger = Ledger()
    head = line(1, 1, 200, "stable", 1, 1000).rsplit(b" ", 7)[0]
    ledger.consume([head + b" " + own], 0)
    boot = ledger.boots["a-1"]
    assert (boot.unparsable, boot.lines) == (1, 0)
    (row,) = boot.rows.values()
    assert row.ended == 0
    assert row.groups == {}
    assert row.total == Row().total


def test_replicas_beyond_the_limit_share_one_entry():
    row = Row()
    for number in range(100):
        row.replica(f"s{number}").add(1000, 0, 1)
    assert len(row.replicas) == 65
    assert row.replicas["others"].rows() == [[1000, 36, 0, 0]]
