from typing import Any

import pytest

from sundog_operator.adapters.memory_kubernetes.schemas import Schema, apply_defaults, prune

FREE = {"x-kubernetes-preserve-unknown-fields": True}
INTEGER: dict[str, Any] = {"type": "integer"}


def schema(**properties: Any) -> Schema:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("found", "rule", "kept", "dropped"),
    [
        ({"a": 1, "b": 2}, schema(a=INTEGER), {"a": 1}, ["b"]),
        ({"x": {"a": 1, "b": 2}}, schema(x=schema(a=INTEGER)), {"x": {"a": 1}}, ["x.b"]),
        ({"x": [{"a": 1, "b": 2}, {"b": 3}]}, schema(x={"items": schema(a=INTEGER)}), {"x": [{"a": 1}, {}]}, ["x[0].b", "x[1].b"]),
        ({"x": {"k": {"a": 1, "b": 2}}}, schema(x={"additionalProperties": schema(a=INTEGER)}), {"x": {"k": {"a": 1}}}, ["x.k.b"]),
        ({"x": {"k": {"a": 1}}}, schema(x={"additionalProperties": True}), {"x": {"k": {"a": 1}}}, []),
        ({"x": {"b": {"c": 1}}}, schema(x=FREE), {"x": {"b": {"c": 1}}}, []),
        ({"x": {"a": {"c": 1}, "b": 1}}, schema(x=FREE | schema(a=schema())), {"x": {"a": {}, "b": 1}}, ["x.a.c"]),
        ({"kind": "K", "apiVersion": "v", "metadata": {"any": 1}}, schema(), {"kind": "K", "apiVersion": "v", "metadata": {"any": 1}}, []),
        ({"kind": "K", "metadata": {"any": 1}}, schema(metadata=schema(name={})), {"kind": "K", "metadata": {"any": 1}}, []),
    ],
)  # fmt: skip
def test_prune(found: Any, rule: Schema, kept: Any, dropped: list[str]) -> None:
    assert prune(found, rule) == [f"{place}: unknown field" for place in dropped]
    assert found == kept


@pytest.mark.parametrize(
    ("found", "rule", "filled"),
    [
        ({}, schema(a=INTEGER | {"default": 1}), {"a": 1}),
        ({"a": 0}, schema(a=INTEGER | {"default": 1}), {"a": 0}),
        ({"a": None}, schema(a=INTEGER | {"default": 1}), {"a": 1}),
        ({"a": None}, schema(a=INTEGER | {"default": 1, "nullable": True}), {"a": None}),
        ({}, schema(x=schema(a=INTEGER | {"default": 1})), {}),
        ({}, schema(x=schema(a=INTEGER | {"default": 1}) | {"default": {}}), {"x": {"a": 1}}),
        ({"x": [{}, {"a": 2}]}, schema(x={"items": schema(a=INTEGER | {"default": 1})}), {"x": [{"a": 1}, {"a": 2}]}),
        ({"x": {"k": {}}}, schema(x={"additionalProperties": schema(a={"default": 1})}), {"x": {"k": {"a": 1}}}),
    ],
)
def test_default(found: Any, rule: Schema, filled: Any) -> None:
    apply_defaults(found, rule)
    assert found == filled


def test_a_default_is_a_copy() -> None:
    rule = schema(x={"default": {"a": []}})
    first: dict[str, Any] = {}
    apply_defaults(first, rule)
    first["x"]["a"].append(1)
    second: dict[str, Any] = {}
    apply_defaults(second, rule)
    assert second == {"x": {"a": []}}
