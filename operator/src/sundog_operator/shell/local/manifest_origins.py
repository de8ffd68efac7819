"""The manifest file of each applied object, stored on disk: removing a file deletes exactly its objects."""

from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from sundog_operator.adapters.local.state_directory import read_json, write_atomically
from sundog_operator.ports import KINDS, Ref


@dataclass(frozen=True, slots=True)
class ManifestOrigin:
    """The file that an object was applied from. The uid distinguishes it from a later object of the same name."""

    path: str
    uid: str


class OriginStore:
    """All origins of one instance. Each method that changes them returns after the change is on disk."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = _load(file)

    def all(self) -> dict[Ref, ManifestOrigin]:
        """Return every object that came from a file."""
        return dict(self._known)

    def remember(self, ref: Ref, origin: ManifestOrigin) -> None:
        """Store that an object was applied from a file."""
        if self._known.get(ref) != origin:
            self._known[ref] = origin
            self._save()

    def forget(self, ref: Ref) -> None:
        """Remove the origin of an object."""
        if self._known.pop(ref, None) is not None:
            self._save()

    def _save(self) -> None:
        entries = [
            {"kind": ref.kind.kind, "namespace": ref.namespace, "name": ref.name, **asdict(origin)}
            for ref, origin in sorted(self._known.items())
        ]
        write_atomically(self._file, orjson.dumps({"version": 1, "objects": entries}))


def _load(file: Path) -> dict[Ref, ManifestOrigin]:
    entries = (read_json(file) or {}).get("objects")
    kinds = {kind.kind: kind for kind in KINDS}
    known = {}
    for entry in entries if isinstance(entries, list) else ():
        kind = kinds.get(str(entry.get("kind")))
        if kind is not None:
            ref = Ref(kind, str(entry["namespace"]), str(entry["name"]))
            known[ref] = ManifestOrigin(str(entry["path"]), str(entry["uid"]))
    return known
