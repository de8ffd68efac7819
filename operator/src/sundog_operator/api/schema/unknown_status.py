"""Unknown fields of a stored status, which a newer release wrote. They are kept for its return after a rollback."""

from collections.abc import Iterator, Mapping
from typing import Any

from sundog_operator.api.schema.node_tree import Node

Json = dict[str, Any]


def keep_unknown_fields(stored: Any, written: Any, node: Node) -> Any:
    """Return the status to write, with the unknown fields of the stored one.

    An object keeps its unknown fields. A list item keeps them if its known fields do not change. A removed part is removed completely.
    """
    if node.kind == "object" and isinstance(stored, Mapping) and isinstance(written, Mapping):
        kept = {name: value for name, value in stored.items() if name not in node.fields}
        known = {name: field.node for name, field in node.fields.items() if name in written}
        return (
            kept
            | dict(written)
            | {name: keep_unknown_fields(stored.get(name), written[name], each) for name, each in known.items()}
        )
    if node.items is None or node.items.kind != "object":
        return written
    if node.kind == "map" and isinstance(stored, Mapping) and isinstance(written, Mapping):
        return {key: keep_unknown_fields(stored.get(key), value, node.items) for key, value in written.items()}
    if node.kind == "array" and isinstance(stored, list) and isinstance(written, list):
        return list(_items(stored, written, node.items))
    return written


def _items(stored: list[Any], written: list[Any], node: Node) -> Iterator[Any]:
    known = [_known(item, node) for item in stored]
    for item in written:
        yield stored[known.index(item)] if item in known else item


def _known(value: Any, node: Node) -> Any:
    if node.kind == "object" and isinstance(value, Mapping):
        return {name: _known(item, node.fields[name].node) for name, item in value.items() if name in node.fields}
    if node.items is None:
        return value
    if node.kind == "map" and isinstance(value, Mapping):
        return {key: _known(item, node.items) for key, item in value.items()}
    return [_known(item, node.items) for item in value] if isinstance(value, list) else value
