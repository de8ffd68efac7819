"""Correct splits, and a sample-ratio mismatch."""

from sundog_operator.core.experiments import sample_ratio

NAMES = ("control", "wide", "deep")


def test_a_split_as_meant_is_not_mentioned() -> None:
    assert sample_ratio.find_mismatch(NAMES, [(5000, 2480, 2530), (3300, 3350, 0)], [(50, 25, 25), (1, 1, 0)]) == ""
    assert sample_ratio.find_mismatch(NAMES, [], []) == ""


def test_a_mismatch_is_reported_by_its_worst_arm() -> None:
    message = sample_ratio.find_mismatch(NAMES, [(5000, 2200, 2800)], [(50, 25, 25)])
    assert message == "wide got 2200 of 10000 units, expected 2500: sample-ratio mismatch"


def test_units_of_a_dropped_arm_are_reported() -> None:
    message = sample_ratio.find_mismatch(NAMES, [(50, 50, 3)], [(1, 1, 0)])
    assert message == "deep got 3 of 103 units, expected 0: sample-ratio mismatch"
