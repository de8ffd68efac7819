"""Track the owners of fields, for server-side apply on plain JSON.

Fields are leaves: scalars, lists (atomic) and empty objects. In the metadata only labels, annotations, finalizers and
owner references have owners; owner references are a map by uid. No one applies a status, so its fields have no owners here.
The real API server merges some lists by key, such as the containers of a pod. Here they are atomic: the last apply wins.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sundog_operator.errors import Conflict
from sundog_operator.ports import Object

FieldPath = tuple[str, ...]
FieldOwners = Mapping[str, frozenset[FieldPath]]
Leaves = dict[FieldPath, Any]

_NOT_CONTENT = frozenset({"apiVersion", "kind", "metadata", "status"})
_REFERENCES = ("metadata", "ownerReferences")
_FINALIZERS = ("metadata", "finalizers")


def authored_content(obj: Object) -> Object:
    """Return the content of an object without type, metadata and status."""
    return {key: value for key, value in obj.items() if key not in _NOT_CONTENT}


def apply_fields(
    before: Object, owners: FieldOwners, intent: Object, manager: str, *, force: bool
) -> tuple[Object, FieldOwners]:
    """Return the object and the owners of its fields after `manager` applied `intent`.

    Fields that the manager applied before and omits now are removed, unless another manager owns them too. An object that is
    left without owned fields is removed as a whole, including its defaults. Raises Conflict when another manager owns a field
    with a different value and `force` is off.
    """
    key = f"{manager}:Apply"
    found, wanted = _leaves(before), _leaves(intent)
    others = {name: paths for name, paths in owners.items() if name != key}
    changed = {path for path, value in wanted.items() if path not in found or found[path] != value}
    replaced = _overlaps(changed, wanted, found)
    if not force:
        _raise_conflicts(others, changed & found.keys() | replaced)
    dropped = owners.get(key, frozenset()) - wanted.keys()
    unowned = _prefixes(dropped) - _prefixes(wanted) - _prefixes(_union(others.values()))
    kept = {path: value for path, value in found.items() if path not in replaced and not _is_below(path, unowned)}
    others = {name: paths - changed - replaced for name, paths in others.items()}
    return _assemble(before, kept | wanted), _without_empty({**others, key: frozenset(wanted)})


def update_owners(before: Object, owners: FieldOwners, after: Object, manager: str) -> FieldOwners:
    """Return the owners after `manager` updated an object. It owns the fields that it changed; removed fields have no owner."""
    key = f"{manager}:Update"
    found, left = _leaves(before), _leaves(after)
    changed = frozenset(path for path, value in left.items() if path not in found or found[path] != value)
    lost = changed | (found.keys() - left.keys())
    result = {name: paths - lost for name, paths in owners.items()}
    return _without_empty({**result, key: result.get(key, frozenset()) | changed})


def _leaves(obj: Object) -> Leaves:
    leaves: Leaves = {}
    metadata = obj.get("metadata", {})
    for name in ("labels", "annotations"):
        for key, value in (metadata.get(name) or {}).items():
            leaves["metadata", name, key] = value
    for name in metadata.get("finalizers") or ():
        leaves[*_FINALIZERS, name] = name
    for reference in metadata.get("ownerReferences") or ():
        leaves[*_REFERENCES, reference["uid"]] = reference
    for key, value in authored_content(obj).items():
        _flatten((key,), value, leaves)
    return leaves


def _flatten(path: FieldPath, value: Any, leaves: Leaves) -> None:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            _flatten((*path, key), child, leaves)
    else:
        leaves[path] = value


def _assemble(before: Object, leaves: Leaves) -> Object:
    metadata = {
        key: value
        for key, value in before["metadata"].items()
        if key not in {"labels", "annotations", "finalizers", "ownerReferences"}
    }
    after: Object = {"apiVersion": before["apiVersion"], "kind": before["kind"], "metadata": metadata}
    for path, value in leaves.items():
        if path[:2] in {_REFERENCES, _FINALIZERS}:
            metadata.setdefault(path[1], []).append(value)
        else:
            _set_leaf(after, path, value)
    if "status" in before:
        after["status"] = before["status"]
    return after


def _set_leaf(tree: dict[str, Any], path: FieldPath, value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    if value == {}:
        tree.setdefault(path[-1], {})
    else:
        tree[path[-1]] = value


def _overlaps(changed: set[FieldPath], wanted: Leaves, found: Leaves) -> set[FieldPath]:
    """Return the existing leaves that a new leaf displaces, because a value takes the place of an object, or the reverse."""
    fresh = {path for path in changed if path not in found}
    if not fresh:
        return set()
    objects = _prefixes(fresh) - fresh
    values = {path for path in fresh if wanted[path] != {}}
    return {path for path, value in found.items() if (path in objects and value != {}) or _is_below(path, values)}


def _raise_conflicts(others: FieldOwners, contested: set[FieldPath]) -> None:
    lines = sorted(
        f"{'.'.join(path)} is owned by {name.partition(':')[0]}"
        for name, paths in others.items()
        for path in paths & contested
    )
    if lines:
        raise Conflict("; ".join(lines))


def _is_below(path: FieldPath, parents: set[FieldPath]) -> bool:
    return bool(parents) and any(path[:length] in parents for length in range(1, len(path) + 1))


def _prefixes(paths: Iterable[FieldPath]) -> set[FieldPath]:
    return {path[:length] for path in paths for length in range(1, len(path) + 1)}


def _union(sets: Iterable[frozenset[FieldPath]]) -> frozenset[FieldPath]:
    return frozenset[FieldPath]().union(*sets)


def _without_empty(owners: FieldOwners) -> FieldOwners:
    return {name: paths for name, paths in owners.items() if paths}
