"""Applies a structural schema to writes, as the API server does: drop unknown fields, fill in defaults, check values."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from sundog_operator.api.schema.validation import unknown_field_message

Schema = dict[str, Any]

_IMPLICIT = frozenset({"apiVersion", "kind", "metadata"})
_ANYTHING: dict[str, Any] = {"x-kubernetes-preserve-unknown-fields": True}


def prune(obj: dict[str, Any], schema: Schema) -> list[str]:
    """Remove, in place, every field that the schema does not name. Return one line for each."""
    properties = schema.get("properties", {})
    return list(_prune_object(obj, schema | {"properties": properties | dict.fromkeys(_IMPLICIT, _ANYTHING)}, ""))


def apply_defaults(obj: dict[str, Any], schema: Schema) -> None:
    """Fill in, in place, the defaults of absent fields, also inside of defaults."""
    for key, child in schema.get("properties", {}).items():
        if key not in _IMPLICIT:
            _default_property(obj, key, child)


def find_violations(value: Any, schema: Schema, path: str) -> Iterator[str]:
    """Yield one line per violation of a schema: types, enumerations, patterns, bounds of numbers and sizes. CEL rules are skipped."""
    if value is None and schema.get("nullable"):
        return
    if not _has_type(value, schema):
        yield f"{path}: {_quote(value)}; expected type {schema.get('type', 'integer or string')}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {_quote(value)}; expected one of {', '.join(map(str, schema['enum']))}"
    yield from _bound_violations(value, schema, path)
    if isinstance(value, dict):
        yield from _property_violations(value, schema, path)
    elif isinstance(value, list):
        yield from _duplicates(value, schema, path)
        for position, item in enumerate(value):
            yield from find_violations(item, schema.get("items", {}), f"{path}[{position}]")


_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def _has_type(value: Any, schema: Schema) -> bool:
    if schema.get("x-kubernetes-int-or-string"):
        return isinstance(value, int | str) and not isinstance(value, bool)
    expected = schema.get("type")
    if expected is None:
        return True
    return isinstance(value, _JSON_TYPES[expected]) and (expected == "boolean" or not isinstance(value, bool))


def _size(value: Any) -> int | float | None:
    """Return the number that `minimum` and `maximum` limit; None for a value that is not a number."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, str | list | dict) else None


_BOUNDS: Mapping[str, tuple[Callable[[Any], float | None], Callable[[float, float], bool], str]] = {
    "minimum": (_size, lambda size, bound: size >= bound, "is less than"),
    "maximum": (_size, lambda size, bound: size <= bound, "is more than"),
    **{
        name: (_length, lambda size, bound: size >= bound, "is shorter than")
        for name in ("minLength", "minItems", "minProperties")
    },
    **{
        name: (_length, lambda size, bound: size <= bound, "is longer than")
        for name in ("maxLength", "maxItems", "maxProperties")
    },
}


def _bound_violations(value: Any, schema: Schema, path: str) -> Iterator[str]:
    for name, (measure, is_within, text) in _BOUNDS.items():
        size = measure(value) if name in schema else None
        if size is not None and not is_within(size, schema[name]):
            yield f"{path}: {_quote(value)} {text} {schema[name]}"
    for name, bound, side in (("minimum", "exclusiveMinimum", "above"), ("maximum", "exclusiveMaximum", "below")):
        if schema.get(bound) is True and _size(value) == schema.get(name):
            yield f"{path}: {_quote(value)} is not {side} {schema[name]}"
    if isinstance(value, str) and "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield f"{path}: {_quote(value)} does not match {schema['pattern']}"


@functools.cache
def _pattern(text: str) -> re.Pattern[str]:
    # In the API server a dollar matches only the very end of the text.
    return re.compile(f"{text[:-1]}\\Z" if text.endswith("$") else text)


def _property_violations(value: dict[str, Any], schema: Schema, path: str) -> Iterator[str]:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}.{name}: is required"
    for key, item in value.items():
        child = properties.get(key, others if isinstance(others, dict) else {})
        yield from find_violations(item, child, f"{path}.{key}")


def _duplicates(value: list[Any], schema: Schema, path: str) -> Iterator[str]:
    """Yield one line per duplicate in a list that is a set or a map."""
    keys = schema.get("x-kubernetes-list-map-keys", ())
    kind, known = schema.get("x-kubernetes-list-type"), set()
    for item in value if kind in ("set", "map") else ():
        found = orjson.dumps([item.get(key) for key in keys] if kind == "map" else item, option=orjson.OPT_SORT_KEYS)
        if found in known:
            yield f"{path}: {_quote(item)} is a duplicate"
        known.add(found)


def _quote(value: Any) -> str:
    text = orjson.dumps(value, default=str).decode()
    return text if len(text) <= 60 else f"{text[:59]}…"


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
        elif not others and not _preserves_unknown(schema):
            del value[key]
            yield f"{prefix}{key}: {unknown_field_message(key, properties)}"


def _preserves_unknown(schema: Schema) -> bool:
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
    # Null counts as absent where the schema does not allow it.
    if key in value and value[key] is None and schema.get("type") and not schema.get("nullable"):
        del value[key]
    if key not in value and "default" in schema:
        value[key] = orjson.loads(orjson.dumps(schema["default"]))
    if key in value:
        _default(value[key], schema)
