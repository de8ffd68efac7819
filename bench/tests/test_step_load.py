"""What a step of the load did, from answers and samples."""

import math

import pytest

from measuring import step_load
from measuring.step_load import Answer, Sample


def answers(*seconds_by_window: float) -> list[Answer]:
    """Return answers that took so long, some in each window."""
    return [
        Answer(index * step_load.WINDOW_S + each, took)
        for index, took in enumerate(seconds_by_window)
        for each in (0.5, 1.5, 2.5)
    ]


@pytest.mark.parametrize(
    ("windows", "recovery_s"),
    [
        ((0.4, 0.4, 0.05, 0.05, 0.05), 10.0),
        ((0.05, 0.05, 0.05), 0.0),
        ((0.4, 0.05, 0.05, 0.4, 0.05), math.inf),
        ((0.4, 0.05, 0.4, 0.05, 0.05, 0.05), 15.0),
    ],
)
def test_a_p99_has_recovered_once_it_stays_low(windows: tuple[float, ...], recovery_s: float) -> None:
    found = step_load.find_recovery_s(answers(*windows), 0.06, len(windows) * step_load.WINDOW_S)
    assert found == recovery_s


def test_a_time_without_answers_is_not_a_low_p99() -> None:
    assert step_load.find_recovery_s(answers(0.4), 0.06, 30) == math.inf


def test_replicas_count_for_the_time_until_the_next_sample() -> None:
    samples = [Sample(0, {1: 0.0}), Sample(10, {1: 1.0, 2: 0.0}), Sample(15, {1: 1.5, 2: 0.1})]
    assert step_load.replica_seconds(samples, 20) == 10 + 2 * 5 + 2 * 5


def test_an_hpa_rounds_up_and_tolerates_a_tenth() -> None:
    assert [step_load.hpa_replicas(2, each, 0.8) for each in (0.04, 0.75, 0.87, 0.9, 1.7)] == [1, 2, 2, 3, 5]
