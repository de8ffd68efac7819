"""Applies JSON patches and merge patches. Server-side apply is in `field_ownership`."""

from collections.abc import Mapping, Sequence
from typing import Any

from sundog_operator.ports import Object

_OPERATIONS = frozenset({"add", "replace", "remove", "test"})


class BadPatch(ValueError):
    """The patch is malformed, or does not match the object."""


def apply_merge_patch(target: Any, patch: Any) -> Any:
    """Return the target after a merge patch (RFC 7386): null removes, objects merge, everything else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = apply_merge_patch(merged.get(key), value)
    return merged


def is_plain_merge(patch: Any) -> bool:
    """Return whether a strategic merge patch equals a merge patch, because it has no lists and no directives."""
    if isinstance(patch, Mapping):
        return all(not key.startswith("$") and is_plain_merge(value) for key, value in patch.items())
    return not isinstance(patch, list)


def apply_json_patch(target: Object, operations: Sequence[Any]) -> Object:
    """Apply a JSON patch (RFC 6902) of operations add, replace, remove and test to the target, and return it. Raises BadPatch."""
    for operation in operations:
        if not isinstance(operation, Mapping) or operation.get("op") not in _OPERATIONS:
            raise BadPatch(f"patch: operation {operation!r}; expected an op of {', '.join(sorted(_OPERATIONS))}")
        _apply_operation(target, operation)
    return target


def _apply_operation(target: Object, operation: Mapping[str, Any]) -> None:
    op, pointer = operation["op"], str(operation.get("path"))
    *parents, last = _keys(pointer)
    try:
        parent: Any = target
        for key in parents:
            parent = parent[_index(parent, key)]
        key = _index(parent, last)
        if op == "add":
            _add(parent, key, operation["value"])
        elif op == "remove":
            del parent[key]
        elif op == "replace":
            _require(parent, key)
            parent[key] = operation["value"]
        elif _require(parent, key) != operation["value"]:
            raise BadPatch(f"patch: test of {pointer} failed")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise (
            error if isinstance(error, BadPatch) else BadPatch(f"patch: {op} of {pointer}; the object has no such path")
        ) from None


def _require(parent: Any, key: Any) -> Any:
    return parent[key]


def _add(parent: Any, key: Any, value: Any) -> None:
    if isinstance(parent, list):
        parent.insert(key, value)
    else:
        parent[key] = value


def _index(parent: Any, key: str) -> Any:
    if not isinstance(parent, list):
        return key
    return len(parent) if key == "-" else int(key)


def _keys(pointer: str) -> list[str]:
    if not pointer.startswith("/"):
        raise BadPatch(f"patch: path {pointer!r}; expected a JSON pointer that begins with /")
    return [key.replace("~1", "/").replace("~0", "~") for key in pointer[1:].split("/")]
