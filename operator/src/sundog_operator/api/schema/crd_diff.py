"""Differences between the CRD of a cluster and this release: fields that one of them lacks."""

from collections.abc import Iterator, Mapping
from typing import Any

from sundog_operator.api.schema.node_tree import Node

Schema = Mapping[str, Any]


def find_served_schema(schemas: Mapping[str, Schema], group: str, kind: str) -> Schema | None:
    """Return a kind's schema from those that an API server publishes (OpenAPI v3, `components.schemas`); None if it has none."""
    for schema in schemas.values():
        named = schema.get("x-kubernetes-group-version-kind") or ()
        if any((each.get("group"), each.get("kind")) == (group, kind) for each in named):
            return schema
    return None


def find_missing_fields(schema: Schema, node: Node, path: str) -> Iterator[str]:
    """Yield paths of this release's fields that the schema lacks, without the fields below them."""
    properties = _properties(schema)
    for name, child in node.fields.items():
        if name not in properties:
            yield f"{path}.{name}"
        else:
            yield from find_missing_fields(properties[name], child.node, f"{path}.{name}")
    if node.items is not None:
        yield from find_missing_fields(_items(schema), node.items, f"{path}[]")


def find_extra_fields(schema: Schema, node: Node, path: str) -> Iterator[str]:
    """Yield paths of the schema's fields that this release lacks, likewise."""
    for name, child in _properties(schema).items():
        if name in node.fields:
            yield from find_extra_fields(child, node.fields[name].node, f"{path}.{name}")
        elif node.kind == "object":
            yield f"{path}.{name}"
    if node.items is not None:
        yield from find_extra_fields(_items(schema), node.items, f"{path}[]")


def _properties(schema: Schema) -> Mapping[str, Schema]:
    found: Mapping[str, Schema] = schema.get("properties") or {}
    return found


def _items(schema: Schema) -> Schema:
    found: Schema = schema.get("items") or schema.get("additionalProperties") or {}
    return found
