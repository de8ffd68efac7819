"""What an API server does with a structural schema on write: drop fields it does not name, fill in defaults."""

from collections.abc import Iterator
from typing import Any

import orjson

from sundog_operator.api.validation import unknown_message

Schema = dict[str, Any]

_IMPLICIT = frozenset({"apiVersion", "kind", "metadata"})
_ANYTHING: dict[str, Any] = {"x-kubernetes-preserve-unknown-fields": True}


def prune(obj: dict[str, Any], schema: Schema) -> list[str]:
    """Remove, in place, every field of an object that the schema does not name; one line for each."""
    properties = schema.get("properties", {})
    return list(_prune_object(obj, schema | {"properties": properties | dict.fromkeys(_IMPLICIT, _ANYTHING)}, ""))


def default(obj: dict[str, Any], schema: Schema) -> None:
    """Fill in, in place, the defaults of fields that are absent. A default is itself defaulted."""
    for key, child in schema.get("properties", {}).items():
        if key not in _IMPLICIT:
            _default_property(obj, key, child)


def _prune(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for position, item in enumerate(value):
            yield from _prune(item, schema.get("items", {}), f"{path}[{position}]")
    elif isinstance(value, dict):
        yield from _prune_object(value, schema, f"{path}.")


def _prune_object(value: dict[str, Any], schema: Schema, prefix: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    for key in list(value):
        if key in properties:
            yield from _prune(value[key], properties[key], f"{prefix}{key}")
        elif isinstance(others, dict):
            yield from _prune(value[key], others, f"{prefix}{key}")
        elif not others and not _keeps_unknown(schema):
            del value[key]
            yield f"{prefix}{key}: {unknown_message(key, properties)}"


def _keeps_unknown(schema: Schema) -> bool:
    return bool(schema.get("x-kubernetes-preserve-unknown-fields"))


def _default(value: Any, schema: Schema) -> None:
    if isinstance(value, list):
        for item in value:
            _default(item, schema.get("items", {}))
    elif isinstance(value, dict):
        properties = schema.get("properties", {})
        for key, child in properties.items():
            _default_property(value, key, child)
        others = schema.get("additionalProperties")
        if isinstance(others, dict):
            for key in value.keys() - properties.keys():
                _default_property(value, key, others)


def _default_property(value: dict[str, Any], key: str, schema: Schema) -> None:
    # A null where null is not allowed counts as absent.
    if key in value and value[key] is None and schema.get("type") and not schema.get("nullable"):
        del value[key]
    if key not in value and "default" in schema:
        value[key] = orjson.loads(orjson.dumps(schema["default"]))
    if key in value:
        _default(value[key], schema)
