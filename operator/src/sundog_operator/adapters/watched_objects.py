"""Tracks the objects that a watch has delivered, to find changes between two lists."""

from collections.abc import Iterator

import orjson

from sundog_operator.adapters.kubernetes_errors import make_error
from sundog_operator.ports import Kind, Object, Snapshot, WatchEvent

ObjectKey = tuple[str, str]


class WatchedObjects:
    """The type and metadata of the objects of one kind, as the watch delivered them last."""

    def __init__(self) -> None:
        self._objects: dict[ObjectKey, Object] = {}

    def note(self, event: WatchEvent) -> None:
        """Take in an event of the watch."""
        if event.type == "DELETED":
            self._objects.pop(object_key(event.object), None)
        else:
            self._objects[object_key(event.object)] = _identity(event.object)

    def replace(self, snapshot: Snapshot) -> Iterator[WatchEvent]:
        """Yield the changes from the known objects to a snapshot, deletions first. A new uid is another object."""
        present = {object_key(obj): obj for obj in snapshot.objects}
        for key, old in list(self._objects.items()):
            if key not in present or present[key]["metadata"]["uid"] != old["metadata"]["uid"]:
                del self._objects[key]
                yield WatchEvent("DELETED", old)
        for key, obj in present.items():
            before = self._objects.get(key)
            self._objects[key] = _identity(obj)
            if before is None:
                yield WatchEvent("ADDED", obj)
            elif before["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
                yield WatchEvent("MODIFIED", obj)


def parse_event(kind: Kind, line: bytes) -> tuple[WatchEvent | None, str]:
    """Return the event of a line of a watch, None for a bookmark, and its resourceVersion. Raises the error of an ERROR line."""
    document = orjson.loads(line)
    obj: Object = document["object"]
    if document["type"] == "ERROR":
        raise make_error(f"watch of {kind.plural}", int(obj.get("code") or 0), obj)
    version: str = obj["metadata"]["resourceVersion"]
    if document["type"] == "BOOKMARK":
        return None, version
    return WatchEvent(document["type"], add_type(kind, obj)), version


def add_type(kind: Kind, obj: Object) -> Object:
    """Return an object with its type and without managedFields."""
    # Items in a list of a built-in kind have no type. Sundog does not read managedFields, which are large.
    obj["metadata"].pop("managedFields", None)
    return {"apiVersion": kind.api_version, "kind": kind.kind} | obj


def object_key(obj: Object) -> ObjectKey:
    """Return namespace and name."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _identity(obj: Object) -> Object:
    """Return the type and metadata of an object."""
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": obj["metadata"]}
