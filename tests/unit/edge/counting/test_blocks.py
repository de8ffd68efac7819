"""Counts per block of time: the same in any order, and safe from a clock that was ahead."""

import random

from hypothesis import given
from hypothesis import strategies as st

from sundog_edge.counting.blocks import MAX_BLOCKS_AHEAD, RETAINED_BLOCKS, TimeBlockCounts

BLOCKS = st.lists(
    st.tuples(st.integers(1000, 1000 + 3 * RETAINED_BLOCKS), st.integers(0, 2), st.integers(1, 9)), max_size=60
)


def blocks_of(entries) -> TimeBlockCounts:
    made = TimeBlockCounts(3)
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
    kept = [block for block, _, _ in entries if block > max((b for b, _, _ in entries), default=0) - RETAINED_BLOCKS]
    assert sum(sum(row[1:]) for row in whole.rows()) == sum(n for b, _, n in entries if b in kept)


def test_blocks_ahead_of_the_clock_displace_no_others():
    """The clock was ahead for a moment: by a day, or by so little that the earlier blocks stay."""
    for ahead in (
        8640,
        RETAINED_BLOCKS + 1,
        RETAINED_BLOCKS,
        RETAINED_BLOCKS - 1,
        RETAINED_BLOCKS // 2,
        MAX_BLOCKS_AHEAD + 2,
    ):
        blocks = TimeBlockCounts(1)
        for block in range(1000, 1010):
            blocks.add(block, 0, 1, block)
        blocks.add(1009 + ahead, 0, 7, 1009 + ahead)
        for block in range(1010, 1010 + 2 * RETAINED_BLOCKS):
            blocks.add(block, 0, 1, block)
            kept = [row for row in blocks.rows() if row[0] >= 1010]
            assert kept == [[own, 1] for own in range(max(1010, block - RETAINED_BLOCKS + 1), block + 1)], (
                ahead,
                block,
            )
            if block == 1010:
                before = [row for row in blocks.rows() if row[0] < 1010]
                assert before == [[own, 1] for own in range(1000, 1010) if own > 1009 + ahead - RETAINED_BLOCKS]


def test_a_line_of_block_zero_is_counted():
    blocks = TimeBlockCounts(1)
    blocks.add(0, 0, 1)
    assert blocks.rows() == [[0, 1]]


def test_a_block_slightly_ahead_of_the_clock_is_accepted():
    blocks = TimeBlockCounts(1)
    blocks.add(1000 + MAX_BLOCKS_AHEAD, 0, 1, 1000)
    blocks.add(1000, 0, 1, 1000)
    assert blocks.rows() == [[1000, 1], [1000 + MAX_BLOCKS_AHEAD, 1]]
