"""Results that are kept by the text of what they are of."""

import tracemalloc
from typing import Any

import orjson

from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.api.memo import MAX_KEY_BYTES, Memoized


class Counting:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, value: Any, *others: object) -> tuple[Any, ...]:
        self.calls.append(value)
        return (value, *others)


def test_equal_values_are_computed_once() -> None:
    compute = Counting()
    remembered = Memoized(compute)
    assert remembered({"a": [1]}) is remembered({"a": [1]})
    assert remembered({"a": [2]}) == ({"a": [2]},)
    assert compute.calls == [{"a": [1]}, {"a": [2]}]


def test_other_arguments_are_distinguished_by_identity() -> None:
    compute = Counting()
    remembered = Memoized(compute)
    first, second = [1], [1]
    assert remembered("a", first)[1] is first
    assert remembered("a", second)[1] is second
    assert remembered("a", first)[1] is first
    assert len(compute.calls) == 2


def test_what_was_not_asked_for_lately_goes_first() -> None:
    compute = Counting()
    remembered = Memoized(compute, max_entries=2)
    for value in ("a", "b", "a", "c", "a", "b"):
        remembered(value)
    assert compute.calls == ["a", "b", "c", "b"]


def test_what_is_no_json_is_computed_each_time() -> None:
    compute = Counting()
    remembered = Memoized(compute)
    for _ in range(2):
        assert remembered({"a": {1, 2}}) == ({"a": {1, 2}},)
    assert len(compute.calls) == 2


def test_large_ones_are_kept_as_far_as_all_together_are_not_too_large() -> None:
    compute = Counting()
    remembered = Memoized(compute, max_bytes=250)
    first, second, third, huge = "a" * 98, "b" * 98, "c" * 98, "d" * 300
    for value in (first, second, first, third, first):
        remembered(value)
    assert compute.calls == [first, second, third]
    assert [remembered(huge), remembered(huge)] == [(huge,), (huge,)]
    remembered(first)
    assert compute.calls == [first, second, third, huge, huge, first]


def test_the_statuses_that_are_kept_take_less_than_64_mebibytes() -> None:
    at = "2026-11-25T12:00:00Z"
    types = (
        "Ready",
        "Reconciling",
        "SpecAccepted",
        "CapacityAvailable",
        "RevisionReady",
        "TrafficSynced",
        "Progressing",
    )
    condition = {"status": "False", "reason": "Deploying", "message": "1 of 2 running", "lastTransitionTime": at}
    revision = {"revision": 1, "weight": 100.0, "uri": "s3://models/digits", "digest": "", "replicas": 1, "since": at}

    def parsed(number: int) -> tuple[ModelDeploymentStatus, int]:
        status = {"url": f"http://{number}.vision.svc", "stable": revision | {"readyReplicas": 1, "failures": 0}}
        text = orjson.dumps({**status, "conditions": [{"type": each, **condition} for each in types]})
        return ModelDeploymentStatus.parse(orjson.loads(text)), len(text)

    parsed(-1)
    tracemalloc.start()
    try:
        kept = [parsed(number) for number in range(100)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / sum(length for _, length in kept) * MAX_KEY_BYTES < 64 * 2**20
