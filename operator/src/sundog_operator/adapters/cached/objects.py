"""Caches objects of the API server. Changes may arrive late, twice or in any order; an older state never replaces a newer one.

This needs resource versions that grow over all objects. Kubernetes guarantees it since 1.35, and etcd always did it.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import orjson

from sundog_operator.core.kubernetes import names
from sundog_operator.core.ray import groups
from sundog_operator.ports import Kind, Object, Ref, ref_of

MAX_NAMESPACE_BYTES: Final = 32 * 2**20
_MAX_DELETED: Final = 20_000
_MAX_LABEL_CHARS: Final = 4096
_INDEXED: Final = (names.LABEL_MODEL_DEPLOYMENT, names.LABEL_NAME, groups.LABEL_CLUSTER)

ObjectKey = tuple[str, str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CachedObject:
    """One object at one version, as immutable JSON. `made` holds the results of `view`, by function.

    One that is left out has little more than its name, because its namespace is too large.
    """

    uid: str
    version: int
    labels: Mapping[str, str]
    body: bytes
    left_out: bool = False
    made: dict[Callable[[Object], Any], Any] = field(default_factory=dict, compare=False, repr=False)

    def load(self) -> Object:
        """Return a copy, which the caller may change."""
        obj: Object = orjson.loads(self.body)
        return obj

    def view(self, of: Callable[[Object], T]) -> T:
        """Return the result of a pure function, which is computed once. Callers must not change it."""
        if of not in self.made:
            self.made[of] = of(self.load())
        found: T = self.made[of]
        return found


class ObjectCache:
    """The objects of some kinds, and the uids of deleted objects with the version of the deletion."""

    def __init__(self, namespace_bytes: int = MAX_NAMESPACE_BYTES) -> None:
        """`namespace_bytes` is how much JSON of one namespace is kept."""
        self._namespace_bytes = namespace_bytes
        self._sizes: Counter[str] = Counter()
        self._left_out: dict[str, set[Ref]] = {}
        self._entries: dict[Kind, dict[str, dict[str, CachedObject]]] = {}
        self._labelled: dict[tuple[Kind, str, str, str], set[str]] = {}
        self._deleted: OrderedDict[str, float] = OrderedDict()

    def get(self, ref: Ref) -> CachedObject | None:
        """Return the object, or None."""
        return self._entries.get(ref.kind, {}).get(ref.namespace, {}).get(ref.name)

    def find(self, kind: Kind, namespace: str | None, labels: Mapping[str, str]) -> list[CachedObject]:
        """Return the objects of a kind with these labels, in one namespace or all (None), in order of namespace and name."""
        return list(self._select(kind, namespace, labels))

    def count(self, kind: Kind) -> int:
        """Count the objects of a kind."""
        return sum(map(len, self._entries.get(kind, {}).values()))

    def put(self, obj: Object) -> bool:
        """Store a state of an object. Return whether it is new."""
        ref, meta = ref_of(obj), obj["metadata"]
        uid, version = meta["uid"], int(meta["resourceVersion"])
        known = self.get(ref)
        # An object that leaves a label selection is reported as deleted, at the version that no longer matches.
        if version < self._deleted.get(uid, 0) or (
            known is not None and (version < known.version or (version == known.version and not known.left_out))
        ):
            return False
        if known is not None:
            self._drop(ref, known)
        # A copy: the result of orjson is a buffer that is often half as large again as its content.
        entry = CachedObject(uid, version, meta.get("labels") or {}, bytes(memoryview(orjson.dumps(obj))))
        if len(entry.body) > self._namespace_bytes - self._sizes[ref.namespace]:
            entry = _leave_out(obj, entry)
            self._left_out.setdefault(ref.namespace, set()).add(ref)
        self._sizes[ref.namespace] += len(entry.body)
        self._entries.setdefault(ref.kind, {}).setdefault(ref.namespace, {})[ref.name] = entry
        for key in _INDEXED:
            if key in entry.labels:
                self._labelled.setdefault((ref.kind, ref.namespace, key, entry.labels[key]), set()).add(ref.name)
        # An object that is left out at the version that is known is listed again and again.
        return known is None or not (entry.left_out and known.left_out and known.version == version)

    def find_excess(self, namespace: str) -> str:
        """Return why not all objects of a namespace are kept, as one line; empty where they are."""
        if namespace not in self._left_out:
            return ""
        return (
            f"namespace {namespace}: Sundog's objects take more than {self._namespace_bytes / 2**20:g} MiB of the operator's"
            " memory, so nothing of the namespace changes; expected less. Delete some of them, or raise"
            " installation.maxNamespaceMemory"
        )

    def remove(self, ref: Ref, uid: str, version: float = math.inf) -> bool:
        """Note that an object was deleted at a version, by default forever. Return whether that is new.

        An object that left a label selection may return to it later.
        """
        self._deleted[uid] = version
        self._deleted.move_to_end(uid)
        if len(self._deleted) > _MAX_DELETED:
            self._deleted.popitem(last=False)
        known = self.get(ref)
        if known is None or known.uid != uid or known.version > version:
            return False
        self._drop(ref, known)
        return True

    def forget(self, kind: Kind) -> list[Object]:
        """Drop all objects of a kind and return them. They may still exist and be stored again unchanged."""
        items = self._items(kind, None)
        for key, entry in items:
            self._drop(Ref(kind, *key), entry)
        return [entry.load() for _, entry in items]

    def merge(self, kind: Kind, namespace: str | None, objects: Iterable[Object], version: int) -> list[Object]:
        """Store a list of a kind at a version, and drop the objects that it lacks. Return new states and dropped objects."""
        listed: set[ObjectKey] = set()
        changed = []
        for obj in objects:
            ref = ref_of(obj)
            listed.add((ref.namespace, ref.name))
            if self.put(obj):
                changed.append(obj)
        for key, entry in self._items(kind, namespace):
            if key not in listed and self.remove(Ref(kind, *key), entry.uid, version):
                changed.append(entry.load())
        return changed

    def _select(self, kind: Kind, namespace: str | None, labels: Mapping[str, str]) -> Iterator[CachedObject]:
        wanted = labels.items()
        for each in sorted(self._entries.get(kind, {})) if namespace is None else (namespace,):
            entries = self._entries.get(kind, {}).get(each, {})
            for name in sorted(self._candidates(kind, each, labels, entries)):
                if wanted <= entries[name].labels.items():
                    yield entries[name]

    def _candidates(
        self, kind: Kind, namespace: str, labels: Mapping[str, str], entries: Mapping[str, CachedObject]
    ) -> Iterable[str]:
        for key in _INDEXED:
            if key in labels:
                return self._labelled.get((kind, namespace, key, labels[key]), ())
        return entries

    def _items(self, kind: Kind, namespace: str | None) -> list[tuple[ObjectKey, CachedObject]]:
        return [
            ((each, name), entry)
            for each, entries in self._entries.get(kind, {}).items()
            if namespace in {None, each}
            for name, entry in entries.items()
        ]

    def _drop(self, ref: Ref, known: CachedObject) -> None:
        self._sizes[ref.namespace] -= len(known.body)
        if known.left_out:
            self._left_out[ref.namespace].discard(ref)
            if not self._left_out[ref.namespace]:
                del self._left_out[ref.namespace]
        del self._entries[ref.kind][ref.namespace][ref.name]
        if not self._entries[ref.kind][ref.namespace]:
            del self._entries[ref.kind][ref.namespace]
        for key in _INDEXED:
            if key in known.labels:
                index = (ref.kind, ref.namespace, key, known.labels[key])
                self._labelled[index].discard(ref.name)
                if not self._labelled[index]:
                    del self._labelled[index]


def _leave_out(obj: Object, entry: CachedObject) -> CachedObject:
    kept = {
        key: obj["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion") if key in obj["metadata"]
    }
    labels = entry.labels if sum(map(len, (*entry.labels, *entry.labels.values()))) <= _MAX_LABEL_CHARS else {}
    stub = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": {**kept, "labels": labels}}
    return CachedObject(entry.uid, entry.version, labels, orjson.dumps(stub), left_out=True)
