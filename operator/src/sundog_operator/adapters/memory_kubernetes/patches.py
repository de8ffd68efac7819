"""The patch dialects of the API server that are not server-side apply."""

from collections.abc import Mapping, Sequence
from typing import Any

from sundog_operator.ports import Object

_OPERATIONS = frozenset({"add", "replace", "remove", "test"})


class BadPatch(ValueError):
    """The patch is malformed, or does not fit the object."""


def apply_merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, everything else replaces."""
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
    """Whether a strategic merge patch means the same as a merge patch: no list to merge by key, no directive."""
    if isinstance(patch, Mapping):
        return all(not key.startswith("$") and is_plain_merge(value) for key, value in patch.items())
    return not isinstance(patch, list)


def apply_json_patch(target: Object, operations: Sequence[Any]) -> Object:
    """RFC 6902 with the operations add, replace, remove and test. Changes and returns the target. Raises BadPatch."""
    for operation in operations:
        if not isinstance(operation, Mapping) or operation.get("op") not in _OPERATIONS:
            raise BadPatch(f"not a patch operation of {sorted(_OPERATIONS)}: {operation!r}")
        _step(target, operation)
    return target


def _step(target: Object, operation: Mapping[str, Any]) -> None:
    op, pointer = operation["op"], str(operation.get("path"))
    *parents, last = _keys(pointer)
    try:
        place: Any = target
        for key in parents:
            place = place[_index(place, key)]
        key = _index(place, last)
        if op == "add":
            _add(place, key, operation["value"])
        elif op == "remove":
            del place[key]
        elif op == "replace":
            _require(place, key)
            place[key] = operation["value"]
        elif _require(place, key) != operation["value"]:
            raise BadPatch(f"test of {pointer} failed")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise error if isinstance(error, BadPatch) else BadPatch(f"{op} of {pointer}: no such place") from None


def _require(place: Any, key: Any) -> Any:
    return place[key]


def _add(place: Any, key: Any, value: Any) -> None:
    if isinstance(place, list):
        place.insert(key, value)
    else:
        place[key] = value


def _index(place: Any, key: str) -> Any:
    if not isinstance(place, list):
        return key
    return len(place) if key == "-" else int(key)


def _keys(pointer: str) -> list[str]:
    if not pointer.startswith("/"):
        raise BadPatch(f"not a JSON pointer to a part of the object: {pointer!r}")
    return [key.replace("~1", "/").replace("~0", "~") for key in pointer[1:].split("/")]
