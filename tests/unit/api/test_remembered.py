"""Results that are kept by the text of what they are of."""

from typing import Any

from sundog_operator.api.remembered import Remembered


class Counting:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, value: Any, *others: object) -> tuple[Any, ...]:
        self.calls.append(value)
        return (value, *others)


def test_equal_values_are_computed_once() -> None:
    compute = Counting()
    remembered = Remembered(compute)
    assert remembered({"a": [1]}) is remembered({"a": [1]})
    assert remembered({"a": [2]}) == ({"a": [2]},)
    assert compute.calls == [{"a": [1]}, {"a": [2]}]


def test_other_arguments_are_told_apart_by_identity() -> None:
    compute = Counting()
    remembered = Remembered(compute)
    first, second = [1], [1]
    assert remembered("a", first)[1] is first
    assert remembered("a", second)[1] is second
    assert remembered("a", first)[1] is first
    assert len(compute.calls) == 2


def test_what_was_not_asked_for_lately_goes_first() -> None:
    compute = Counting()
    remembered = Remembered(compute, kept=2)
    for value in ("a", "b", "a", "c", "a", "b"):
        remembered(value)
    assert compute.calls == ["a", "b", "c", "b"]


def test_what_is_no_json_is_computed_each_time() -> None:
    compute = Counting()
    remembered = Remembered(compute)
    for _ in range(2):
        assert remembered({"a": {1, 2}}) == ({"a": {1, 2}},)
    assert len(compute.calls) == 2


def test_large_ones_are_kept_as_far_as_all_together_are_not_too_large() -> None:
    compute = Counting()
    remembered = Remembered(compute, kept_bytes=250)
    first, second, third, huge = "a" * 98, "b" * 98, "c" * 98, "d" * 300
    for value in (first, second, first, third, first):
        remembered(value)
    assert compute.calls == [first, second, third]
    assert [remembered(huge), remembered(huge)] == [(huge,), (huge,)]
    remembered(first)
    assert compute.calls == [first, second, third, huge, huge, first]
