"""How the rows of several requests are joined, and their outputs split."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sundog_runtime.scheduling.batch_assembly import batch_key, join_batches, split_output

arrays = st.lists(st.integers(1, 4), min_size=1, max_size=6)


@settings(deadline=None)
@given(arrays, st.booleans())
def test_each_request_gets_its_own_rows(rows: list[int], named: bool) -> None:
    numbers = iter(range(100))
    parts = [np.array([[float(next(numbers))] * 3 for _ in range(count)], dtype="float32") for count in rows]
    batches: list[Any] = [{"x": part, "y": part.astype("int64") + 1} for part in parts] if named else parts
    assert len({batch_key(batch)[0] for batch in batches}) == 1
    assert [batch_key(batch)[1] for batch in batches] == rows
    whole = join_batches(batches)
    found = split_output(whole, rows)
    assert found is not None
    for mine, part in zip(batches, found, strict=True):
        assert repr(mine) == repr(part)


@pytest.mark.parametrize(
    ("batch", "same"),
    [
        (np.zeros((1, 4), "float32"), True),
        (np.zeros((7, 4), "float32"), True),
        (np.zeros((1, 4), "float64"), False),
        (np.zeros((1, 5), "float32"), False),
        (np.zeros((1, 4, 1), "float32"), False),
        ({"x": np.zeros((1, 4), "float32")}, False),
    ],
)
def test_keys_of_batches_that_can_be_joined(batch: Any, same: bool) -> None:
    assert (batch_key(batch)[0] == batch_key(np.ones((2, 4), "float32"))[0]) is same


@pytest.mark.parametrize(
    "batch",
    [
        np.float32(3),
        np.zeros((), "float32"),
        np.zeros((0, 4), "float32"),
        np.array([["a"]], dtype=object),
        [[1.0]],
        "text",
        {},
        {"x": np.zeros((1, 4)), "y": np.zeros((2, 4))},
        {"x": np.zeros((1, 4)), "y": [1]},
    ],
)
def test_batches_that_cannot_be_joined(batch: Any) -> None:
    assert batch_key(batch)[0] is None


@pytest.mark.parametrize(
    "output",
    [
        np.zeros((4, 2)),
        np.float64(1.0),
        [1, 2, 3, 4],
        "abc",
        None,
        7,
        {},
        {"scores": np.zeros((3, 2)), "model": "x"},
        {"scores": {"deep": np.zeros((3, 2))}},
        [np.zeros((3, 2)), np.zeros((3, 5)), np.zeros(3)],
        {"layers": [[np.zeros(3), np.zeros(3)]] * 3},
    ],
)
def test_outputs_that_are_not_rows(output: Any) -> None:
    assert split_output(output, [1, 2]) is None


def test_lists_are_split_too() -> None:
    assert split_output({"names": ["a", "b", "c"]}, [1, 2]) == [{"names": ["a"]}, {"names": ["b", "c"]}]
