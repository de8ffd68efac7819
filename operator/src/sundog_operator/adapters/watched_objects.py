"""Track the objects that a watch has delivered, to find what has changed when they are listed again."""

from collections.abc import Iterator

import orjson

from sundog_operator.adapters.kubernetes_errors import make_error
from sundog_operator.ports import Kind, Object, Snapshot, WatchEvent

ObjectKey = tuple[str, str]


class WatchedObjects:
    """The type and metadata of each object of one kind, as last delivered by the watch."""

    def __init__(self) -> None:
        self._objects: dict[ObjectKey, Object] = {}

    def note(self, event: WatchEvent) -> None:
        """Record an event of the watch."""
        if event.type == "DELETED":
            self._objects.pop(object_key(event.object), None)
        else:
            self._objects[object_key(event.object)] = _type_and_metadata(event.object)

    def replace(self, snapshot: Snapshot) -> Iterator[WatchEvent]:
        """Replace the known objects by a snapshot, and yield the changes, deletions first.

        An object whose uid differs is another object: the old one was deleted.
        """
        present = {object_key(obj): obj for obj in snapshot.objects}
        for key, old in list(self._objects.items()):
            if key not in present or present[key]["metadata"]["uid"] != old["metadata"]["uid"]:
                del self._objects[key]
                yield WatchEvent("DELETED", old)
        for key, obj in present.items():
            before = self._objects.get(key)
            self._objects[key] = _type_and_metadata(obj)
            if before is None:
                yield WatchEvent("ADDED", obj)
            elif before["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
                yield WatchEvent("MODIFIED", obj)


def parse_event(kind: Kind, line: bytes) -> tuple[WatchEvent | None, str]:
    """Return the event in a line of a watch (None for a bookmark), and the resourceVersion.

    Raises the error that an ERROR line reports.
    """
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
    # List items of a built-in kind have no apiVersion and kind. Sundog does not read managedFields, which are large.
    obj["metadata"].pop("managedFields", None)
    return {"apiVersion": kind.api_version, "kind": kind.kind} | obj


def object_key(obj: Object) -> ObjectKey:
    """Return namespace and name."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _type_and_metadata(obj: Object) -> Object:
    """Return the type and metadata of an object."""
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": obj["metadata"]}
