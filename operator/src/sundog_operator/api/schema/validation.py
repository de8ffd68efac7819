"""What is wrong with an object, in one sentence per violation."""

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
    """One thing that the author has to edit. `path` is of JSON names, `message` completes it."""

    path: str
    message: str
    is_unsupported: bool = False
    """Whether this version, or local mode, does not support what the author asks for."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def validate(part: type[P], obj: object, path: str = "") -> tuple[P | None, list[Violation]]:
    """The typed value, or None and why. Rules are looked at once the shape is right, as the API server does."""
    node = build_node_tree(part)
    if not isinstance(obj, Mapping):
        return None, [Violation(path or "the object", f"{format_value(obj)} is {_kind_of(obj)}, not an object")]
    written = prune(obj, node)
    try:
        value = part.from_json(written)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        return None, [_shape_violation(detail, node, path) for detail in details]
    broken = list(_rule_violations(value, node, path, written))
    return (None, broken) if broken else (value, [])


def find_unknown_fields(part: type[ApiBase], obj: object, path: str = "") -> list[Violation]:
    """Fields that no type has and that the API server prunes."""
    return list(_unknown(obj, build_node_tree(part), path))


def unknown_field_message(name: str, known: Iterable[str]) -> str:
    """What is said of a field that does not exist beside those that do."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"unknown field; did you mean {by_lower[near[0]]}?" if near else "unknown field"


def find_changed_immutables(part: type[P], old: P, new: P, path: str = "") -> list[Violation]:
    """Which fields differ although they may not."""
    return list(_change_violations(old, new, build_node_tree(part), path))


def prune(obj: Any, node: Node) -> Any:
    """A copy without unknown fields and without nulls, as the API server stores it."""
    if isinstance(obj, Mapping) and node.kind == "object":
        known = ((name, node.fields[name], value) for name, value in obj.items() if name in node.fields)
        return {name: prune(value, child.node) for name, child, value in known if value is not None}
    if isinstance(obj, Mapping) and node.kind == "map" and node.items is not None:
        return {key: prune(value, node.items) for key, value in obj.items() if value is not None}
    if isinstance(obj, Sequence) and not isinstance(obj, str) and node.kind == "array" and node.items is not None:
        return [prune(item, node.items) for item in obj]
    return obj


def format_value(value: Any) -> str:
    """A found value as it reads in a message: JSON on one line, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 1] + "…"


def quote_value(value: Any) -> str:
    """A found value as `shown`, a plain word without its quotes."""
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


def _shape_violation(detail: ErrorDetails, node: Node, path: str) -> Violation:
    location = detail["loc"]
    is_key = location[-1:] == ("[key]",)
    place, target = _locate(node, location[:-2] if is_key else location, path)
    if is_key and target.key is not None:
        return Violation(place, f"key {_sentence(detail, target.key)}")
    return Violation(place, _sentence(detail, target))


def _locate(node: Node, location: Location, path: str) -> tuple[str, Node]:
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
    limits = node.limits
    if code == "missing":
        return "is required"
    if code == "literal_error":
        return f"{quote_value(value)} is not one of {', '.join(node.enum)}"
    if code in ("string_too_short", "too_short", "string_too_long", "too_long"):
        return _length_sentence(value, node)
    if code in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"{quote_value(value)} is not {_range(limits)}"
    if code == "string_pattern_mismatch":
        return f"{quote_value(value)} is not {node.noun}"
    if code == "finite_number":
        return "is not a finite number"
    what = "the value" if node.confidential else format_value(value)
    if value is None or (node.noun and (node.kind == "object" or node.text_or_integer)):
        return f"{what} is not {node.noun or _KIND_NAMES[node.kind]}"
    return f"{what} is {_kind_of(value)}, not {_KIND_NAMES[node.kind]}"


def _length_sentence(value: Any, node: Node) -> str:
    units = {"array": "items", "map": "entries", "free": "entries"}.get(node.kind, "characters")
    if not value:
        return "is empty"
    if node.limits.max_length is not None and len(value) > node.limits.max_length:
        return f"has {len(value)} {units}, more than {node.limits.max_length}"
    return f"has {len(value)} {units}, fewer than {node.limits.min_length}"


def _range(limits: ValueBounds) -> str:
    low = limits.ge if limits.ge is not None else limits.gt
    high = limits.le if limits.le is not None else limits.lt
    if low is not None and high is not None:
        excluded = [_number(limit) for limit in (limits.gt, limits.lt) if limit is not None]
        return f"between {_number(low)} and {_number(high)}" + (
            f", {' and '.join(excluded)} excluded" if excluded else ""
        )
    if low is not None:
        return f"{_number(low)} or more" if limits.ge is not None else f"more than {_number(low)}"
    return f"{_number(high)} or less" if limits.le is not None else f"less than {_number(high)}"


def _number(value: float | None) -> str:
    return str(int(value)) if value is not None and float(value).is_integer() else str(value)


def _rule_violations(value: Any, node: Node, path: str, written: Any) -> Iterator[Violation]:
    """`written` is the JSON that the value was read from; None where it is a default."""
    if value is None:
        return
    for rule in node.rules:
        if not rule.holds(value):
            place = ".".join(part for part in (path, rule.field) if part)
            yield Violation(place, rule.render(value, lambda name: _read(value, node, name, written)))
    if node.list_type is not None:
        yield from _repeated(value, node.list_type, path)
    for key, place, child, item in _children(value, node, path):
        yield from _rule_violations(item, child, place, _below(written, key))


def _repeated(items: Sequence[Any], list_type: ListType, path: str) -> Iterator[Violation]:
    seen = set()
    for index, item in enumerate(items):
        key = getattr(item, list_type.key) if list_type.key else item
        if key in seen:
            place = f"{path}[{index}].{list_type.key}" if list_type.key else f"{path}[{index}]"
            yield Violation(place, f"{quote_value(key)} is given twice")
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


def _below(written: Any, key: int | str) -> Any:
    if isinstance(written, Mapping):
        return written.get(key)
    return written[key] if isinstance(written, Sequence) and isinstance(key, int) else None


def _read(value: Any, node: Node, name: str, written: Any) -> Any:
    """A field's value as a message has it: durations as they were written, as the API server has them."""
    for part in filter(None, name.split(".")):
        child = node.fields[part]
        value, node, written = getattr(value, child.attribute), child.node, _below(written, part)
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
        # The items of a list are not told apart by their place.
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
