"""A set of unit hashes."""

import random

import pytest

from sundog_operator.core.trial.experiment.hash_set import SeenUnits


@pytest.mark.parametrize("expected", [0, 5000, 10**9])
def test_it_is_a_set_of_hashes(expected: int) -> None:
    draw, seen, units = random.Random(3), set[int](), SeenUnits(expected)
    # Hashes of few bits repeat and collide; those of 64 bits are usual.
    for bits in (12, 64):
        for _ in range(20_000):
            unit = draw.getrandbits(bits)
            assert units.add(unit) == (unit not in seen)
            seen.add(unit)


@pytest.mark.parametrize("edge", [0, 1, 2**64 - 1])
def test_the_smallest_and_largest_hashes(edge: int) -> None:
    units = SeenUnits()
    assert [units.add(edge), units.add(edge)] == [True, False]


@pytest.mark.parametrize("invalid", [-1, 2**64])
def test_a_number_of_more_bits_is_refused(invalid: int) -> None:
    with pytest.raises(OverflowError):
        SeenUnits().add(invalid)
