from typing import Any

import pytest

from sundog_operator.adapters.memory_kubernetes.patches import (
    BadPatch,
    apply_json_patch,
    apply_merge_patch,
    is_plain_merge,
)


# The examples of RFC 7386, appendix A.
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, result: Any) -> None:
    assert apply_merge_patch(target, patch) == result


@pytest.mark.parametrize(
    ("target", "operation", "result"),
    [
        ({"a": 1}, {"op": "add", "path": "/b", "value": 2}, {"a": 1, "b": 2}),
        ({"a": 1}, {"op": "add", "path": "/a", "value": 2}, {"a": 2}),
        ({"a": [1, 3]}, {"op": "add", "path": "/a/1", "value": 2}, {"a": [1, 2, 3]}),
        ({"a": [1]}, {"op": "add", "path": "/a/-", "value": 2}, {"a": [1, 2]}),
        ({"a": {"b/c": 1, "d~e": 2}}, {"op": "remove", "path": "/a/b~1c"}, {"a": {"d~e": 2}}),
        ({"a": {"d~e": 2}}, {"op": "replace", "path": "/a/d~0e", "value": 3}, {"a": {"d~e": 3}}),
        ({"a": 1}, {"op": "test", "path": "/a", "value": 1}, {"a": 1}),
    ],
)
def test_json_patch(target: Any, operation: Any, result: Any) -> None:
    assert apply_json_patch(target, [operation]) == result


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "replace", "path": "/b", "value": 2},
        {"op": "remove", "path": "/b"},
        {"op": "add", "path": "/b/c", "value": 2},
        {"op": "add", "path": "/a/c", "value": 2},
        {"op": "add", "path": "/l/x", "value": 2},
        {"op": "remove", "path": "/l/7"},
        {"op": "add", "path": "/b"},
        {"op": "add", "path": "b", "value": 2},
        {"op": "move", "path": "/b", "from": "/a"},
        "nonsense",
    ],
)
def test_json_patch_that_does_not_fit(operation: Any) -> None:
    with pytest.raises(BadPatch):
        apply_json_patch({"a": 1, "l": []}, [operation])


def test_plain_merges() -> None:
    assert is_plain_merge({"metadata": {"annotations": {"a": "b", "c": None}}})
    assert not is_plain_merge({"spec": {"containers": [{"name": "a"}]}})
    assert not is_plain_merge({"spec": {"$retainKeys": ["a"]}})
