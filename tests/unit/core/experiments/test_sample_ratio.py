"""Splits that are as meant, and one that is not."""

from sundog_operator.core.experiments import sample_ratio

NAMES = ("control", "wide", "deep")


def test_a_split_as_meant_is_not_mentioned() -> None:
    assert sample_ratio.find_mismatch(NAMES, [(5000, 2480, 2530), (3300, 3350, 0)], [(50, 25, 25), (1, 1, 0)]) == ""
    assert sample_ratio.find_mismatch(NAMES, [], []) == ""


def test_a_split_that_is_off_is_told_by_its_worst_arm() -> None:
    told = sample_ratio.find_mismatch(NAMES, [(5000, 2200, 2800)], [(50, 25, 25)])
    assert told == "wide got 2200 of 10000 units, expected 2500: sample-ratio mismatch"


def test_units_of_an_arm_that_is_out_are_told() -> None:
    told = sample_ratio.find_mismatch(NAMES, [(50, 50, 3)], [(1, 1, 0)])
    assert told == "deep got 3 of 103 units, expected 0: sample-ratio mismatch"
