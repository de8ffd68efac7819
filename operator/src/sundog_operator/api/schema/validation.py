"""Validation of objects by the types: one sentence per violation."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sundog_operator.api.base import ApiBase
from sundog_operator.api.quantities import format_duration
from sundog_operator.api.schema.node_tree import Node, ValueBounds, build_node_tree
from sundog_operator.api.schema.rules import ListType

P = TypeVar("P", bound=ApiBase)
Location = tuple[int | str, ...]

_SHOWN_LENGTH = 80
_KIND_NAMES = {
    "object": "an object",
    "free": "an object",
    "map": "an object",
    "array": "a list",
    "string": "a string",
    "time": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
}


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """One error in an object. `path` consists of JSON names, `message` completes it."""

    path: str
    message: str
    is_unsupported: bool = False
    """Whether this version, or local mode, does not support what the author asks for."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def validate(part: type[P], obj: object) -> tuple[P | None, list[Violation]]:
    """Return the typed value, or None and the violations. Rules are checked only if all shapes are valid, as the API server does.

    An object with a uid is stored, and some rules spare it.
    """
    node = build_node_tree(part)
    if not isinstance(obj, Mapping):
        return None, [Violation("the object", f"{format_value(obj)}; expected an object")]
    written = prune(obj, node)
    try:
        value = part.from_json(written)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        return None, [_shape_violation(detail, node) for detail in details]
    is_stored = bool((obj.get("metadata") or {}).get("uid"))
    broken = list(_rule_violations(value, node, "", written, is_stored=is_stored))
    return (None, broken) if broken else (value, [])


def find_unknown_fields(part: type[ApiBase], obj: object) -> list[Violation]:
    """Return violations for unknown fields, which the API server prunes."""
    return list(_unknown(obj, build_node_tree(part), ""))


def unknown_field_message(name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown field, with the most similar known one."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"unknown field; did you mean {by_lower[near[0]]}?" if near else "unknown field"


def find_changed_immutables(part: type[P], old: P, new: P) -> list[Violation]:
    """Return violations for immutable fields that differ."""
    return list(_change_violations(old, new, build_node_tree(part), ""))


def prune(obj: Any, node: Node) -> Any:
    """Return a copy without unknown fields and nulls, as the API server stores it."""
    if isinstance(obj, Mapping) and node.kind == "object":
        known = ((name, node.fields[name], value) for name, value in obj.items() if name in node.fields)
        return {name: prune(value, child.node) for name, child, value in known if value is not None}
    if isinstance(obj, Mapping) and node.kind == "map" and node.items is not None:
        return {key: prune(value, node.items) for key, value in obj.items() if value is not None}
    if isinstance(obj, Sequence) and not isinstance(obj, str) and node.kind == "array" and node.items is not None:
        return [prune(item, node.items) for item in obj]
    return obj


def format_value(value: Any) -> str:
    """Format a value for a message: JSON on one line, truncated if long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 1] + "…"


def quote_value(value: Any) -> str:
    """Format a value as `format_value` does, a plain word without quotes."""
    text = format_value(value)
    plain = isinstance(value, str) and value and not any(character.isspace() or character == '"' for character in value)
    return text.strip('"') if plain else text


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names: dict[type, str] = {str: "a string", int: "an integer", float: "a number", dict: "an object", list: "a list"}
    return next((name for type_, name in names.items() if isinstance(value, type_)), f"a {type(value).__name__}")


def _shape_violation(detail: ErrorDetails, node: Node) -> Violation:
    location = detail["loc"]
    is_key = location[-1:] == ("[key]",)
    place, target = _locate(node, location[:-2] if is_key else location)
    if is_key and target.key is not None:
        prefix = "key of" if detail["type"] == "string_too_long" else "key"
        return Violation(place, f"{prefix} {_sentence(detail, target.key)}")
    return Violation(place, _sentence(detail, target))


def _locate(node: Node, location: Location) -> tuple[str, Node]:
    path = ""
    for step in location:
        if node.kind == "object":
            path = f"{path}.{step}" if path else str(step)
            node = node.fields[str(step)].node
        elif node.items is not None:
            path = f"{path}[{step}]"
            node = node.items
    return path, node


def _sentence(detail: ErrorDetails, node: Node) -> str:
    code, value = detail["type"], detail["input"]
    if code == "missing":
        return "is required"
    if code in ("string_too_short", "too_short", "string_too_long", "too_long"):
        return _length_sentence(value, node)
    expected, found = _KIND_NAMES[node.kind], format_value(value)
    if code == "literal_error":
        expected, found = f"one of {', '.join(node.enum)}", quote_value(value)
    elif code in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        expected, found = _range(node.limits), quote_value(value)
    elif code == "string_pattern_mismatch":
        expected, found = node.noun, quote_value(value)
    elif code == "finite_number":
        expected = "a finite number"
    elif node.noun and (value is None or node.kind == "object" or node.text_or_integer):
        expected = node.noun
    return f"{_kind_of(value) if node.confidential else found}; expected {expected}"


def _length_sentence(value: Any, node: Node) -> str:
    unit = {"array": "item", "map": "entry", "free": "entry"}.get(node.kind, "character")
    most = node.limits.max_length
    found = _count(len(value), unit) if value else "empty"
    if most is not None and len(value) > most:
        return f"{found}; expected at most {most}"
    return f"{found}; expected at least {_count(node.limits.min_length or 0, unit)}"


def _count(number: int, unit: str) -> str:
    plural = "entries" if unit == "entry" else f"{unit}s"
    return f"{number} {unit if number == 1 else plural}"


def _range(limits: ValueBounds) -> str:
    if limits.ge is not None and limits.le is not None:
        return f"{_number(limits.ge)} to {_number(limits.le)}"
    bounds = (
        ("at least", limits.ge),
        ("more than", limits.gt),
        ("at most", limits.le),
        ("less than", limits.lt),
    )
    return " and ".join(f"{name} {_number(limit)}" for name, limit in bounds if limit is not None)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _rule_violations(value: Any, node: Node, path: str, written: Any, *, is_stored: bool) -> Iterator[Violation]:
    """Yield violations of rules. `written` is the JSON of the value; None for a default."""
    if value is None:
        return
    for rule in node.rules:
        if not rule.holds(value) and not (is_stored and rule.spares_stored):
            place = ".".join(part for part in (path, rule.field) if part)
            message = rule.render(value, lambda name: _read(value, node, name, written))
            yield Violation(place, message, rule.is_unsupported)
    if node.list_type is not None:
        yield from _repeated(value, node.list_type, path)
    for key, place, child, item in _children(value, node, path):
        yield from _rule_violations(item, child, place, _child_json(written, key), is_stored=is_stored)


def _repeated(items: Sequence[Any], list_type: ListType, path: str) -> Iterator[Violation]:
    seen = set()
    for index, item in enumerate(items):
        key = getattr(item, list_type.key) if list_type.key else item
        if key in seen:
            place = f"{path}[{index}].{list_type.key}" if list_type.key else f"{path}[{index}]"
            yield Violation(place, f"{quote_value(key)} appears twice; expected it once")
        seen.add(key)


def _children(value: Any, node: Node, path: str) -> Iterator[tuple[int | str, str, Node, Any]]:
    if node.kind == "object":
        for name, child in node.fields.items():
            yield name, f"{path}.{name}" if path else name, child.node, getattr(value, child.attribute)
    elif node.kind == "array" and node.items is not None:
        for index, item in enumerate(value):
            yield index, f"{path}[{index}]", node.items, item
    elif node.kind == "map" and node.items is not None:
        for key, item in value.items():
            yield key, f"{path}[{key}]", node.items, item


def _child_json(written: Any, key: int | str) -> Any:
    if isinstance(written, Mapping):
        return written.get(key)
    return written[key] if isinstance(written, Sequence) and isinstance(key, int) else None


def _read(value: Any, node: Node, name: str, written: Any) -> Any:
    """Return a field's value for a message. Durations appear as written, as in the API server's messages."""
    for part in filter(None, name.split(".")):
        child = node.fields[part]
        value, node, written = getattr(value, child.attribute), child.node, _child_json(written, part)
    if isinstance(value, timedelta):
        return written if isinstance(written, str) else format_duration(value)
    return value


def _change_violations(old: Any, new: Any, node: Node, path: str) -> Iterator[Violation]:
    if old is None or new is None:
        return
    for transition in node.transitions:
        if not transition.holds(old, new):
            yield Violation(path, transition.message)
    if node.kind != "object":
        # An index does not identify an item of a list.
        return
    before = {place: item for _, place, _, item in _children(old, node, path)}
    for _, place, child, item in _children(new, node, path):
        yield from _change_violations(before[place], item, child, place)


def _unknown(obj: Any, node: Node, path: str) -> Iterator[Violation]:
    if isinstance(obj, Mapping) and node.kind == "object":
        for name, value in obj.items():
            place = f"{path}.{name}" if path else str(name)
            if name in node.fields:
                yield from _unknown(value, node.fields[name].node, place)
            else:
                yield Violation(place, unknown_field_message(str(name), node.fields))
    elif isinstance(obj, Mapping) and node.kind == "map" and node.items is not None:
        for key, value in obj.items():
            yield from _unknown(value, node.items, f"{path}[{key}]")
    elif isinstance(obj, list) and node.kind == "array" and node.items is not None:
        for index, item in enumerate(obj):
            yield from _unknown(item, node.items, f"{path}[{index}]")
