"""Correct splits, and a sample-ratio mismatch."""

import pytest

from sundog_operator.core.analysis import split_mismatch
from sundog_operator.core.stats.sample_ratio import ArmSplit

NAMES = ("control", "wide", "deep")


def test_a_split_as_meant_is_not_mentioned() -> None:
    assert (
        split_mismatch.mismatch_of_exposures(NAMES, [(5000, 2480, 2530), (3300, 3350, 0)], [(50, 25, 25), (1, 1, 0)])
        == ""
    )
    assert split_mismatch.mismatch_of_exposures(NAMES, [], []) == ""


def test_a_mismatch_is_reported_by_its_worst_arm() -> None:
    message = split_mismatch.mismatch_of_exposures(NAMES, [(5000, 2200, 2800)], [(50, 25, 25)])
    assert message == "wide got 2200 of 10000 units, expected 2500: sample-ratio mismatch"


def test_units_of_a_dropped_arm_are_reported() -> None:
    message = split_mismatch.mismatch_of_exposures(NAMES, [(50, 50, 3)], [(1, 1, 0)])
    assert message == "deep got 3 of 103 units, expected 0: sample-ratio mismatch"


@pytest.mark.parametrize(
    ("splits", "named"),
    [
        # A third of the units misses an arm by chance with (2/3)^n, which is below a millionth from 35 on.
        ([(18, 16, 0)], ""),
        ([(18, 17, 0)], "deep got none of 35 units, expected 12: its share of the traffic does not reach it"),
        (
            [(0, 17, 0), (0, 18, 0)],
            "control got none of 35 units, expected 12: its share of the traffic does not reach it",
        ),
        # An arm that got units before has a share that does not match, which the other test finds.
        ([(10, 10, 1), (1000, 1000, 0)], ""),
        ([], ""),
    ],
)
def test_an_arm_without_units_is_named(splits: list[tuple[int, int, int]], named: str) -> None:
    own = [ArmSplit((1 / 3, 1 / 3, 1 / 3), units) for units in splits]
    assert split_mismatch.find_missing_arm(NAMES, NAMES, own, "units") == named


def test_an_arm_without_a_share_or_with_all_of_it_misses_nothing() -> None:
    splits = [ArmSplit((0.5, 0.5, 0.0), (500, 500, 0)), ArmSplit((1.0, 0.0, 0.0), (0, 0, 0))]
    assert split_mismatch.find_missing_arm(NAMES, NAMES, splits, "units") == ""
    unequal = [ArmSplit((0.98, 0.01, 0.01), (900, 10, 0))]
    assert split_mismatch.find_missing_arm(NAMES, NAMES, unequal, "units") == ""
