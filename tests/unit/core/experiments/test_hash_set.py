"""Units are seen once."""

import random

import pytest

from sundog_operator.core.experiments.hash_set import SeenUnits


@pytest.mark.parametrize("expected", [0, 5000, 10**9])
def test_it_is_a_set_of_hashes(expected: int) -> None:
    draw, seen, units = random.Random(3), set[int](), SeenUnits(expected)
    # Few bits, so that they come again and lie close together; many, as hashes have.
    for bits in (12, 64):
        for _ in range(20_000):
            unit = draw.getrandbits(bits)
            assert units.add(unit) == (unit not in seen)
            seen.add(unit)


@pytest.mark.parametrize("edge", [0, 1, 2**64 - 1])
def test_the_first_and_the_last_are_units_as_well(edge: int) -> None:
    units = SeenUnits()
    assert [units.add(edge), units.add(edge)] == [True, False]


@pytest.mark.parametrize("none", [-1, 2**64])
def test_what_has_more_bits_is_none(none: int) -> None:
    with pytest.raises(OverflowError):
        SeenUnits().add(none)
