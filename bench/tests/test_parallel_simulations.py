"""Simulations side by side: in order, told as they end, and ended by the first that fails."""

import math
from functools import partial

import pytest

from measuring.parallel_simulations import in_processes


def test_results_come_in_the_order_of_calls_and_each_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_processes("roots", [partial(math.sqrt, each) for each in (9.0, 4.0, 1.0)], 2) == [3.0, 2.0, 1.0]
    assert [line.partition(" after")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"roots: {count} of 3" for count in (1, 2, 3)
    ]
    assert in_processes("none", list[partial[float]]()) == []


def test_that_one_raises_is_raised() -> None:
    with pytest.raises(RuntimeError, match="roots: a simulation ended with code 1"):
        in_processes("roots", [partial(math.sqrt, each) for each in (-1.0, 1.0)], 1)
