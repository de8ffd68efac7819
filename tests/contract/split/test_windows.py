"""The operator admits exactly the windows of outcomes that an edge takes. The two programs share no code."""

from datetime import timedelta

import pytest
from pydantic import TypeAdapter, ValidationError

from sundog_edge.split.feedback import MAX_OUTCOME_AGE_S, MIN_WINDOW_S, WindowSeconds
from sundog_operator.core.trial.experiment import admission

EDGE = TypeAdapter(WindowSeconds)
SECOND = timedelta(seconds=1)


def test_operator_and_edge_have_the_same_bounds_of_windows() -> None:
    bounds = timedelta(seconds=MIN_WINDOW_S), timedelta(seconds=MAX_OUTCOME_AGE_S)
    assert bounds == (admission.SHORTEST_WINDOW, admission.LONGEST_WINDOW)


@pytest.mark.parametrize("window", [admission.SHORTEST_WINDOW, admission.LONGEST_WINDOW])
def test_an_edge_takes_the_windows_that_the_operator_admits_at_its_bounds(window: timedelta) -> None:
    assert EDGE.validate_python(window // SECOND) == window // SECOND


@pytest.mark.parametrize("window", [admission.SHORTEST_WINDOW - SECOND, admission.LONGEST_WINDOW + SECOND])
def test_an_edge_refuses_windows_beyond_the_bounds_of_the_operator(window: timedelta) -> None:
    with pytest.raises(ValidationError):
        EDGE.validate_python(window // SECOND)
