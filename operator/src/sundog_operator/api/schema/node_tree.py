"""The types as a tree of JSON shapes, which CRDs, messages and checks share."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sundog_operator.api.base import ApiBase
from sundog_operator.api.quantities import format_duration
from sundog_operator.api.schema.rules import (
    Confidential,
    ExpectedNoun,
    ListType,
    PreserveUnknownFields,
    Rule,
    TextOrInteger,
    TextPattern,
    TransitionRule,
)

NodeKind = Literal["object", "map", "array", "string", "time", "integer", "number", "boolean", "free"]

_SCALARS: dict[Any, NodeKind] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    timedelta: "string",
    datetime: "time",
}


@dataclass(frozen=True, slots=True)
class ValueBounds:
    """Bounds of a value, and of its length: characters, items or entries."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class FieldNode:
    """A field of an object. `attribute` is its Python name, `initial` its default in Python, `default` that as JSON; None without one."""

    attribute: str
    node: "Node"
    required: bool
    initial: Any = None
    default: Any = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """One JSON value. `fields`, by JSON name, belong to an object, `items` to an array or a map, `key` to a map."""

    kind: NodeKind
    description: str = ""
    noun: str = ""
    limits: ValueBounds = ValueBounds()
    enum: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    transitions: tuple[TransitionRule, ...] = ()
    list_type: ListType | None = None
    text_or_integer: bool = False
    confidential: bool = False
    fields: Mapping[str, FieldNode] = field(default_factory=dict)
    items: "Node | None" = None
    key: "Node | None" = None


@cache
def build_node_tree(part: type[ApiBase]) -> Node:
    """Return the tree of a type."""
    fields = {}
    for name, info in part.model_fields.items():
        json_name = info.alias or name
        fields[json_name] = FieldNode(
            attribute=name,
            node=_node(info.annotation, tuple(info.metadata)),
            required=info.is_required(),
            initial=None if info.is_required() else info.get_default(),
            default=None if info.is_required() else _json(info.get_default()),
            description=info.description or "",
        )
    return Node("object", description=_summary(part), rules=part.rules, fields=fields)


def _node(annotation: Any, metadata: tuple[Any, ...]) -> Node:
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        return _node(inner, (*marks, *metadata))
    if get_origin(annotation) in (Union, UnionType):
        (inner,) = (item for item in get_args(annotation) if item is not NoneType)
        return _node(inner, metadata)
    if isinstance(annotation, type) and issubclass(annotation, ApiBase):
        noun = next((mark.text for mark in _flat(metadata) if isinstance(mark, ExpectedNoun)), "")
        return replace(build_node_tree(annotation), noun=noun)
    return _described(annotation, tuple(_flat(metadata)))


def _described(annotation: Any, marks: tuple[Any, ...]) -> Node:
    shape = _shape(annotation, free=any(isinstance(mark, PreserveUnknownFields) for mark in marks))
    return Node(
        **shape,
        noun=next((mark.text for mark in marks if isinstance(mark, ExpectedNoun)), ""),
        limits=_limits(marks),
        rules=tuple(mark for mark in marks if isinstance(mark, Rule)),
        transitions=tuple(mark for mark in marks if isinstance(mark, TransitionRule)),
        list_type=next((mark for mark in marks if isinstance(mark, ListType)), None),
        text_or_integer=any(isinstance(mark, TextOrInteger) for mark in marks),
        confidential=any(isinstance(mark, Confidential) for mark in marks),
    )


def _shape(annotation: Any, *, free: bool) -> dict[str, Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if free:
        return {"kind": "free"}
    if origin is Literal:
        return {"kind": "string", "enum": arguments}
    if origin is tuple:
        return {"kind": "array", "items": _node(arguments[0], ())}
    if origin is dict:
        return {"kind": "map", "key": _node(arguments[0], ()), "items": _node(arguments[1], ())}
    return {"kind": _SCALARS[annotation]}


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for mark in metadata:
        if isinstance(mark, FieldInfo):
            yield from _flat(mark.metadata)
        else:
            yield mark


def _limits(marks: tuple[Any, ...]) -> ValueBounds:
    found: dict[str, Any] = {}
    for mark in marks:
        if isinstance(mark, TextPattern):
            found |= {"pattern": mark.regex, "min_length": 1, "max_length": mark.max_length}
            continue
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern"):
            value = getattr(mark, name, None)
            if value is not None:
                found[name] = value
    return ValueBounds(**found)


def _json(value: Any) -> Any:
    if value is None or value is PydanticUndefined:
        return None
    if isinstance(value, ApiBase):
        return {}
    if isinstance(value, timedelta):
        return format_duration(value)
    return list(value) if isinstance(value, tuple) else value


def _summary(part: type[ApiBase]) -> str:
    return " ".join((part.__doc__ or "").split("\n\n")[0].split())
