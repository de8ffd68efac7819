"""What one line counts: in its row's blocks and groups, and in the sample of units."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_log_lines import end_line
from sundog_edge.counting.blocks import RETAINED_BLOCKS
from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.log_lines import ENDS, ROW_COLUMNS
from sundog_edge.counting.rows import FIRST_ATTEMPT_FAILED, SLOW_PLACES, RowCounters


def test_a_line_ahead_of_the_clock_counts_for_the_present_block():
    ledger = Ledger()
    now = 10_000_000.0
    stamped = int(now) // 10 + 8640
    ledger.consume([line(1, 1, 500, "stable", 1, stamped)], now)
    for second in range(0, 1200, 2):
        ledger.consume([line(1, second, 200, "stable", 1, int(now + second) // 10)], now + second)
    (row,) = ledger.boots["a-1"].rows.values()
    assert [block for block, *_ in row.blocks.rows()] == [*range(1_000_000, 1_000_120)]
    assert sum(sum(counts[1 : 1 + len(ENDS)]) for counts in row.blocks.rows()) == 601


ROW = "digits/att/0/stable/assigned/sticky"
NOW = 14_005.0
"""Check the counts after the last line."""


def line(worker: int, number: int, status: int, arm: str, user: int, block: int) -> bytes:
    return end_line(
        f"digits/att/0/{arm}/assigned/sticky",
        number,
        boot=f"a-{worker}",
        status=status,
        retries=number % 2,
        server=f"s{number % 3}",
        slow="3000,9000",
        block=block,
        total_us=total_us(number, user),
        unit=user * 7919 << 40,
        group=user % 100,
        received=block * 10_000_000 + number,
    )


def total_us(number: int, user: int) -> int:
    return 1000 + 37 * user + 11 * number


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
    merged = RowCounters()
    for boot in ledger.boots.values():
        if (key := f"digits/att/0/{arm}/assigned/sticky") in boot.rows:
            merged.merge(boot.rows[key])
            merged.add_details(boot.rows[key].details_as_json())
    # HAProxy's own counts are not in lines.
    return {**merged.as_json(), **merged.details_as_json(), "highest": 0}


@settings(deadline=None)
@given(LINES, st.randoms())
def test_two_merged_edges_equal_one_in_any_order(entries, order: random.Random):
    lines = [line(1, number, *entry) for number, entry in enumerate(entries, start=1)]
    one = Ledger()
    one.consume(lines, NOW)
    split = [(order.randrange(2), text) for text in lines]
    order.shuffle(split)
    two = Ledger()
    for worker, text in split:
        two.consume([text.replace(b"a-1 ", b"a-%d " % (worker + 1), 1)], NOW)
    for arm in ("stable", "canary"):
        assert row_of(two, arm) == row_of(one, arm)
    assert {name: own.as_json() for name, own in two.samples.items()} == {
        name: own.as_json() for name, own in one.samples.items()
    }


@given(LINES)
def test_blocks_and_groups_have_every_end_and_survive_a_snapshot(entries):
    ledger = Ledger()
    numbered = list(enumerate(entries, start=1))
    ledger.consume([line(1, number, *entry) for number, entry in numbered], NOW)
    for boot in ledger.boots.values():
        for key, row in boot.rows.items():
            newest = row.blocks.newest
            kept = [
                number
                for number, (_, arm, _, block) in enumerate(entries, start=1)
                if f"/{arm}/" in key and block > newest - RETAINED_BLOCKS
            ]
            columns = dict(zip(ROW_COLUMNS, map(sum, list(zip(*row.blocks.rows(), strict=True))[1:]), strict=True))
            assert sum(columns[end] for end in ENDS) == len(kept)
            assert columns["firstAttemptFailed"] == sum(number % 2 for number in kept)
            sums = [sum(column) for column in zip(*row.groups.values(), strict=True)]
            assert dict(zip(ROW_COLUMNS, sums, strict=True)) | row.ends == dict(zip(ROW_COLUMNS, sums, strict=True))
            assert [sums[place] for place in SLOW_PLACES] == [row.slow, row.slow2, row.slow3]
            totals = [
                total_us(number, user)
                for number, (status, arm, user, _) in numbered
                if status != 500 and f"/{arm}/" in key
            ]
            assert [row.slow, row.slow2] == [sum(total > limit for total in totals) for limit in (3000, 9000)]
            assert sums[FIRST_ATTEMPT_FAILED] == row.first_attempt_failed
    again = Ledger.from_json(ledger.as_json(), ledger.details_as_json())
    assert again.details_as_json() == ledger.details_as_json()
    assert again.as_json() == ledger.as_json()


def test_groups_of_a_snapshot_with_other_columns_are_skipped():
    ledger = Ledger()
    ledger.consume([line(1, 0, 200, "canary", 5, 1000), line(1, 1, 500, "canary", 5, 1000)], NOW)
    details = ledger.details_as_json()
    for _, _, own in details["rows"]:
        own["groups"] = [[*counts, 1, 2, 3, 4, 5, 6] for counts in own["groups"]]
        own["replicas"] = {"10.0.0.1:8000": [[1000, 1, 0, 0]]}
    (row,) = Ledger.from_json(ledger.as_json(), details).boots["a-1"].rows.values()
    assert (row.ended, row.groups, len(row.blocks.rows())) == (2, {}, 1)


def test_lines_with_one_head_count_the_same_in_one_read_and_in_several():
    lines = [end_line(ROW, n, slow="500,1000", total_us=total) for n, total in enumerate((400, 500, 1000, 1500))]
    one, several = Ledger(), Ledger()
    one.consume(lines, NOW)
    for each in lines:
        several.consume([each], NOW)
    (row,) = one.boots["a-1"].rows.values()
    assert (row.ended, row.slow, row.slow2, row.duration_us) == (4, 2, 1, 3400)
    assert several.as_json() == one.as_json()
    assert several.details_as_json() == one.details_as_json()


def test_only_units_below_the_threshold_of_a_sample_count_in_it():
    ledger = Ledger()
    ledger.consume([end_line(ROW, 1, unit=1)], NOW)
    sample = ledger.samples["digits/att"]
    sample.tau = sample.counts.tau = 5
    ledger.consume([end_line(ROW, number, unit=number) for number in (4, 5)], NOW)
    assert {*sample.units} == {*sample.counts.rows[0, "stable"]} == {1, 4}


@pytest.mark.parametrize("own", [b"x 1 2 3 4 5 6", b"1 x 2 3 4 5 6", b"1 2 3 4 5 100 6", b"1 2 3 4 5 -1 6"])
def test_a_line_with_a_damaged_tail_counts_only_as_unparsable(own):
    ledger = Ledger()
    head = line(1, 1, 200, "stable", 1, 1000).rsplit(b" ", 7)[0]
    ledger.consume([head + b" " + own], NOW)
    boot = ledger.boots["a-1"]
    assert (boot.unparsable, boot.lines) == (1, 0)
    (row,) = boot.rows.values()
    assert row.ended == 0
    assert row.groups == {}
    assert row.total == RowCounters().total
