"""What is known of the API server's objects. News may come late, twice or in any order: an older state never takes a newer one's place.

That holds because resource versions are numbers that grow over all objects, which Kubernetes promises since 1.35 and etcd always did.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import orjson

from sundog_operator.core.kubernetes import names
from sundog_operator.core.ray import groups
from sundog_operator.ports import Kind, Object, Ref, ref_of

_GONE_KEPT: Final = 20_000
_INDEXED: Final = (names.LABEL_MODEL_DEPLOYMENT, names.LABEL_NAME, groups.LABEL_CLUSTER)

ObjectKey = tuple[str, str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CachedObject:
    """One object at one version, as JSON that nobody can change."""

    uid: str
    version: int
    labels: Mapping[str, str]
    body: bytes
    made: dict[Callable[[Object], Any], Any] = field(default_factory=dict, compare=False, repr=False)
    """What was made of it, by the function."""

    def load(self) -> Object:
        """A copy, the caller's own."""
        obj: Object = orjson.loads(self.body)
        return obj

    def view(self, of: Callable[[Object], T]) -> T:
        """What a pure function makes of it, made once; nobody may change it."""
        if of not in self.made:
            self.made[of] = of(self.load())
        found: T = self.made[of]
        return found


class ObjectCache:
    """The objects of some kinds; of those that went, which they were and as of when."""

    def __init__(self) -> None:
        self._entries: dict[Kind, dict[str, dict[str, CachedObject]]] = {}
        self._labelled: dict[tuple[Kind, str, str, str], set[str]] = {}
        self._gone: OrderedDict[str, float] = OrderedDict()

    def get(self, ref: Ref) -> CachedObject | None:
        """The object, or None."""
        return self._entries.get(ref.kind, {}).get(ref.namespace, {}).get(ref.name)

    def find(self, kind: Kind, namespace: str | None, labels: Mapping[str, str]) -> list[CachedObject]:
        """The objects of a kind, by namespace (None: all) and equality of labels, ordered by namespace and name."""
        return list(self._select(kind, namespace, labels))

    def count(self, kind: Kind) -> int:
        """How many objects of a kind are known."""
        return sum(map(len, self._entries.get(kind, {}).values()))

    def put(self, obj: Object) -> bool:
        """Note a state of an object. False for one that is not news."""
        ref, meta = ref_of(obj), obj["metadata"]
        uid, version = meta["uid"], int(meta["resourceVersion"])
        known = self.get(ref)
        # What left a selection by labels is told as gone at the version at which it is outside.
        if version < self._gone.get(uid, 0) or (known is not None and version <= known.version):
            return False
        if known is not None:
            self._drop(ref, known)
        entry = CachedObject(uid, version, meta.get("labels") or {}, orjson.dumps(obj))
        self._entries.setdefault(ref.kind, {}).setdefault(ref.namespace, {})[ref.name] = entry
        for key in _INDEXED:
            if key in entry.labels:
                self._labelled.setdefault((ref.kind, ref.namespace, key, entry.labels[key]), set()).add(ref.name)
        return True

    def remove(self, ref: Ref, uid: str, version: float = math.inf) -> bool:
        """Note that an object was gone at a version, by default for good. False where that is not news.

        What is gone from a selection by labels may come back into it.
        """
        self._gone[uid] = version
        self._gone.move_to_end(uid)
        if len(self._gone) > _GONE_KEPT:
            self._gone.popitem(last=False)
        known = self.get(ref)
        if known is None or known.uid != uid or known.version > version:
            return False
        self._drop(ref, known)
        return True

    def forget(self, kind: Kind) -> list[Object]:
        """Drop all objects of a kind, which may be there all the same and come back as they were. Gives what was known."""
        places = self._places(kind, None)
        for place, entry in places:
            self._drop(Ref(kind, *place), entry)
        return [entry.load() for _, entry in places]

    def merge(self, kind: Kind, namespace: str | None, objects: Iterable[Object], version: int) -> list[Object]:
        """Note a list made at a version: every object of it, and that what it lacks is gone. Gives what was news, lost objects included."""
        listed: set[ObjectKey] = set()
        news = []
        for obj in objects:
            ref = ref_of(obj)
            listed.add((ref.namespace, ref.name))
            if self.put(obj):
                news.append(obj)
        for place, entry in self._places(kind, namespace):
            if place not in listed and self.remove(Ref(kind, *place), entry.uid, version):
                news.append(entry.load())
        return news

    def _select(self, kind: Kind, namespace: str | None, labels: Mapping[str, str]) -> Iterator[CachedObject]:
        wanted = labels.items()
        for place in sorted(self._entries.get(kind, {})) if namespace is None else (namespace,):
            entries = self._entries.get(kind, {}).get(place, {})
            for name in sorted(self._candidates(kind, place, labels, entries)):
                if wanted <= entries[name].labels.items():
                    yield entries[name]

    def _candidates(
        self, kind: Kind, namespace: str, labels: Mapping[str, str], entries: Mapping[str, CachedObject]
    ) -> Iterable[str]:
        for key in _INDEXED:
            if key in labels:
                return self._labelled.get((kind, namespace, key, labels[key]), ())
        return entries

    def _places(self, kind: Kind, namespace: str | None) -> list[tuple[ObjectKey, CachedObject]]:
        return [
            ((place, name), entry)
            for place, entries in self._entries.get(kind, {}).items()
            if namespace in {None, place}
            for name, entry in entries.items()
        ]

    def _drop(self, ref: Ref, known: CachedObject) -> None:
        del self._entries[ref.kind][ref.namespace][ref.name]
        if not self._entries[ref.kind][ref.namespace]:
            del self._entries[ref.kind][ref.namespace]
        for key in _INDEXED:
            if key in known.labels:
                index = (ref.kind, ref.namespace, key, known.labels[key])
                self._labelled[index].discard(ref.name)
                if not self._labelled[index]:
                    del self._labelled[index]
