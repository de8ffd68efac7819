"""Sets and checks the parts of an object that belong to the API server: type, name and system metadata."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import orjson

from sundog_operator.adapters.memory_kubernetes import secrets
from sundog_operator.errors import Conflict, Invalid
from sundog_operator.ports import CONFIG_MAP, SECRET, Kind, Object, Ref

Subresource = Literal["", "status"]

_SERVER_FIELDS = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)

_MAPS: Final[Mapping[Kind, tuple[str, ...]]] = {CONFIG_MAP: ("data", "binaryData"), SECRET: ("data", "stringData")}
"""Fields that code after the type check reads as maps."""


def normalize_object(ref: Ref, obj: Object) -> Object:
    """Return a copy of an object as plain JSON, with its type and name. Raises Invalid."""
    try:
        copy: Object = orjson.loads(orjson.dumps(obj))
    except TypeError as error:
        raise Invalid(str(ref), [str(error)]) from None
    metadata: dict[str, Any] = copy.get("metadata") or {}
    if found := [*_type_violations(metadata), *_map_violations(copy, _MAPS.get(ref.kind, ()))]:
        raise Invalid(str(ref), found)
    metadata.pop("managedFields", None)
    metadata |= _identity(ref)
    if ref.kind == SECRET:
        secrets.fold_string_data(copy)
    return copy | {"apiVersion": ref.kind.api_version, "kind": ref.kind.kind, "metadata": metadata}


def _type_violations(metadata: Any) -> Iterator[str]:
    """Yield one line per field of the metadata whose type no code after this can read."""
    if not isinstance(metadata, dict):
        yield f"metadata: {type(metadata).__name__}; expected an object"
        return
    yield from _map_violations(metadata, ("labels", "annotations"), "metadata.")
    for field, type_, expected in (("finalizers", str, "strings"), ("ownerReferences", dict, "objects")):
        items = metadata.get(field) or []
        if not isinstance(items, list) or not all(isinstance(item, type_) for item in items):
            yield f"metadata.{field}: {_describe_type(items)}; expected a list of {expected}"
        elif field == "ownerReferences":
            for position, item in enumerate(items):
                if not isinstance(item.get("uid"), str):
                    yield f"metadata.ownerReferences[{position}].uid: {_describe_type(item.get('uid'))}; expected a string"


def _map_violations(obj: Object, fields: Iterable[str], prefix: str = "") -> Iterator[str]:
    for field in fields:
        if not isinstance(obj.get(field) or {}, dict):
            yield f"{prefix}{field}: {type(obj[field]).__name__}; expected an object, such as {{key: value}}"


def _describe_type(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {', '.join(sorted({type(item).__name__ for item in value}))}"
    return "missing" if value is None else type(value).__name__


def make_empty_object(ref: Ref) -> Object:
    """Return an object with type and name only."""
    return {
        "apiVersion": ref.kind.api_version,
        "kind": ref.kind.kind,
        "metadata": _identity(ref),
    }


def _identity(ref: Ref) -> dict[str, Any]:
    return {"name": ref.name, "namespace": ref.namespace} if ref.kind.namespaced else {"name": ref.name}


def merge_subresource(before: Object, changed: Object, subresource: Subresource, *, with_status: bool) -> Object:
    """Return the changed object, of which a write to /status changes only the status, and any other write all but it."""
    if not with_status:
        return changed
    base, status = (before, changed) if subresource == "status" else (changed, before)
    after = {key: value for key, value in base.items() if key != "status"}
    return after | ({"status": status["status"]} if "status" in status else {})


def keep_server_fields(after: Object, before: Object | None) -> None:
    """Restore, in place, the metadata that only the server sets, and drop empty maps and lists."""
    metadata = after["metadata"]
    stored = before["metadata"] if before else {}
    for field in _SERVER_FIELDS:
        metadata.pop(field, None)
        if field in stored:
            metadata[field] = stored[field]
    for field in ("labels", "annotations", "finalizers", "ownerReferences"):
        if not metadata.get(field, True):
            del metadata[field]


def check_preconditions(ref: Ref, before: Object, *, uid: str | None, revision: str | None) -> None:
    """Raise Conflict where the stored object has another uid or resourceVersion."""
    metadata = before["metadata"]
    if uid and uid != metadata.get("uid"):
        raise Conflict(f"{ref}: uid is {metadata.get('uid', 'absent')}, expected {uid}")
    if revision and revision != metadata.get("resourceVersion"):
        raise Conflict(f"{ref}: resourceVersion is {metadata.get('resourceVersion', 'absent')}, expected {revision}")
