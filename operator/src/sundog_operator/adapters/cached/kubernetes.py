"""The port `ports.Kubernetes` with reads from memory. Watches and lists fill the memory; so does every answer to a write of our own."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import orjson

from sundog_operator.adapters.cached.objects import Entry, Objects
from sundog_operator.core import names
from sundog_operator.errors import Forbidden, NotServed
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    EXPERIMENT,
    HTTP_ROUTE,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    RAY_CLUSTER,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    STATEFUL_SET,
    Clock,
    Kind,
    Kubernetes,
    Object,
    Ref,
    Snapshot,
    WatchEvent,
    ref_of,
)

OURS: Final[Mapping[str, str]] = {names.LABEL_PART_OF: "sundog"}
"""The label of all that Sundog makes, by which it is told apart from the rest of a large cluster."""

SCOPES: Final[Mapping[Kind, Mapping[str, str]]] = {
    MODEL_DEPLOYMENT: {},
    EXPERIMENT: {},
    CONTROLLER_REVISION: OURS,
    CONFIG_MAP: OURS,
    DEPLOYMENT: OURS,
    POD: OURS,
    RAY_CLUSTER: OURS,
    SERVICE: OURS,
    SERVICE_ACCOUNT: OURS,
    ROLE: OURS,
    ROLE_BINDING: OURS,
    POD_DISRUPTION_BUDGET: OURS,
    NETWORK_POLICY: OURS,
    STATEFUL_SET: OURS,
    HTTP_ROUTE: OURS,
}
"""The kinds that are kept, and the labels that an object must have. Secrets are not: nobody may list them all."""

OPTIONAL: Final = frozenset({HTTP_ROUTE})
"""The kinds that a cluster may lack."""

ABSENT_S: Final = 1.0
"""For how long an object of a name of ours that nobody had is not asked for again by `get`, upon which objects are written."""

ABSENT_TO_LOOKERS_S: Final = 10.0
"""Likewise by `labels` and `view`, by which is only looked at what others made."""

SECRET_S: Final = 10.0
"""For how long a Secret that was asked for by name is not asked for again."""
_LAST: Final = 2**63 - 1
"""After every resourceVersion."""

T = TypeVar("T")


class Source(Kubernetes, Protocol):
    """The port over a server, and lists that say as of when they are."""

    async def snapshot(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Snapshot:
        """As `list`, with the resourceVersion of the list."""


class CachedKubernetes:
    """The port over another one.

    A kind is read from memory once `resync` has listed it; before that, and for every other kind, reads go to the server. What a write
    of this process changed is read back by the next read, whatever the watch has told so far: the answer to a write is kept, and after a
    write that failed, or a deletion, the object is asked for again. An object that misses the labels of its kind is in no list, but `get`
    finds it, and once found it is listed until the next `resync`.

    A Secret that exists is asked for by name, at most once in `SECRET_S`. An optional kind that the server does not serve, or may not be
    listed, is not asked for until a `resync` finds it: reads of it raise NotServed.

    `on_change` is called with every object that is news, also with the last state of one that is gone.
    """

    def __init__(
        self,
        source: Source,
        on_change: Callable[[Object], None],
        clock: Clock,
        namespaces: Sequence[str] = (),
        scopes: Mapping[Kind, Mapping[str, str]] = SCOPES,
    ) -> None:
        """`namespaces` are those that are looked at, none for all."""
        self._source = source
        self._on_change = on_change
        self._namespaces: Sequence[str | None] = tuple(namespaces) or (None,)
        self._scopes = scopes
        self._clock = clock
        self._secrets: dict[Ref, tuple[float, bytes]] = {}
        self._absent: dict[Ref, float] = {}
        self._synced: set[Kind] = set()
        self._lacking: set[Kind] = set()
        self._doubtful: dict[Kind, set[Ref]] = {kind: set() for kind in self._scopes}
        self.objects = Objects()

    def synced(self, kind: Kind) -> bool:
        """Whether a kind is read from memory."""
        return kind in self._synced

    @property
    def ready(self) -> bool:
        """Whether every kind is, that the server serves."""
        return self._synced | self._lacking == self._scopes.keys()

    def lacks(self, kind: Kind) -> bool:
        """Whether the server was found not to serve an optional kind, to us at least."""
        return kind in self._lacking

    def feed(self, change: str | None, obj: Object) -> None:
        """Take in what a watch told: DELETED, or any other word for a state."""
        if change != "DELETED":
            self._learn(obj)
        elif self.objects.remove(ref_of(obj), obj["metadata"]["uid"], int(obj["metadata"]["resourceVersion"])):
            self._on_change(obj)

    async def resync(self, kind: Kind) -> int:
        """List a kind and take in what the watch missed, deletions first of all; how many objects that was. Raises DependencyError."""
        missed = 0
        for namespace in self._namespaces:
            try:
                snapshot = await self._source.snapshot(kind, namespace, self._scopes[kind])
            except NotServed:
                self._lack(kind)
                raise
            except Forbidden as err:
                if kind not in OPTIONAL:
                    raise
                # Roles that an administrator wrote may be older than the kind.
                self._lack(kind)
                raise NotServed(str(err)) from err
            missed += self._merge(kind, namespace, snapshot)
        self._synced.add(kind)
        self._lacking.discard(kind)
        return missed

    def _merge(self, kind: Kind, namespace: str | None, snapshot: Snapshot) -> int:
        news = self.objects.merge(kind, namespace, snapshot.objects, int(snapshot.version))
        for obj in news:
            self._on_change(obj)
        return len(news)

    def _lack(self, kind: Kind) -> None:
        """With a kind all objects of it went."""
        if kind in OPTIONAL:
            self._synced.discard(kind)
            self._lacking.add(kind)
            self._merge(kind, None, Snapshot([], str(_LAST)))

    def _expect(self, kind: Kind) -> None:
        if kind in self._lacking:
            raise NotServed(f"{kind.plural}: the API server does not serve {kind.api_version}")

    async def get(self, ref: Ref) -> Object | None:
        """See the port."""
        return await self._get(ref, ABSENT_S)

    async def _get(self, ref: Ref, absent_s: float) -> Object | None:
        self._expect(ref.kind)
        if ref.kind == SECRET:
            return await self._secret(ref)
        if ref.kind not in self._synced or ref in self._doubtful[ref.kind]:
            return await self._ask(ref)
        entry = self.objects.get(ref)
        if entry is None and self._scopes[ref.kind]:
            # It may be there without our labels.
            return await self._look(ref, absent_s)
        return entry.load() if entry else None

    async def labels(self, ref: Ref) -> Mapping[str, str] | None:
        """See the port."""
        if ref.kind in self._synced and ref not in self._doubtful[ref.kind]:
            entry = self.objects.get(ref)
            if entry is not None:
                return entry.labels
        obj = await self._get(ref, ABSENT_TO_LOOKERS_S)
        return None if obj is None else obj["metadata"].get("labels") or {}

    async def view(self, ref: Ref, of: Callable[[Object], T]) -> T | None:
        """See the port."""
        if ref.kind in self._synced and ref not in self._doubtful[ref.kind]:
            entry = self.objects.get(ref)
            if entry is not None:
                return entry.view(of)
        obj = await self._get(ref, ABSENT_TO_LOOKERS_S)
        return None if obj is None else of(obj)

    async def views(
        self, kind: Kind, namespace: str, of: Callable[[Object], T], labels: Mapping[str, str] | None = None
    ) -> Sequence[T]:
        """See the port."""
        if not self._keeps(kind, namespace):
            return [of(obj) for obj in await self.list(kind, namespace, labels)]
        return [entry.view(of) for entry in await self._known(kind, namespace, labels)]

    async def create(self, obj: Object) -> Object:
        """See the port."""
        return await self._write(ref_of(obj), self._source.create(obj))

    async def apply(self, obj: Object) -> Object:
        """See the port."""
        return await self._write(ref_of(obj), self._source.apply(obj))

    async def replace(self, obj: Object) -> Object:
        """See the port."""
        return await self._write(ref_of(obj), self._source.replace(obj))

    async def patch_status(self, ref: Ref, status: Mapping[str, Any], *, resource_version: str) -> Object:
        """See the port."""
        return await self._write(ref, self._source.patch_status(ref, status, resource_version=resource_version))

    async def annotate(self, ref: Ref, annotations: Mapping[str, str | None]) -> Object:
        """See the port."""
        return await self._write(ref, self._source.annotate(ref, annotations))

    async def delete(self, ref: Ref, *, uid: str | None = None) -> None:
        """See the port."""
        try:
            await self._source.delete(ref, uid=uid)
        finally:
            # Gone, or about to go once its finalizers or its time of grace are over.
            self._doubt(ref)

    def watch(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[WatchEvent]:
        """See the port."""
        return self._source.watch(kind, namespace)

    def _keeps(self, kind: Kind, namespace: str | None) -> bool:
        return kind in self._synced and (namespace in self._namespaces or self._namespaces == (None,))

    async def _known(self, kind: Kind, namespace: str | None, labels: Mapping[str, str] | None) -> Sequence[Entry]:
        for ref in [ref for ref in self._doubtful[kind] if namespace in {None, ref.namespace}]:
            await self._ask(ref)
        return self.objects.find(kind, namespace, labels or {})

    async def _look(self, ref: Ref, absent_s: float) -> Object | None:
        now = self._clock.monotonic()
        if now - self._absent.get(ref, -math.inf) < absent_s:
            return None
        obj = await self._ask(ref)
        if obj is None:
            self._absent.pop(ref, None)
            self._absent[ref] = now
            while now - next(iter(self._absent.values())) >= ABSENT_TO_LOOKERS_S:
                del self._absent[next(iter(self._absent))]
        return obj

    def forget_secret(self, ref: Ref) -> None:
        """A Secret changed: ask for it next time."""
        self._secrets.pop(ref, None)

    async def _secret(self, ref: Ref) -> Object | None:
        now = self._clock.monotonic()
        at, body = self._secrets.get(ref, (now - SECRET_S, b""))
        if now - at < SECRET_S:
            known: Object = orjson.loads(body)
            return known
        obj = await self._source.get(ref)
        self._secrets = {kept: told for kept, told in self._secrets.items() if now - told[0] < SECRET_S}
        if obj is not None:
            self._secrets[ref] = (now, orjson.dumps(obj))
        return obj

    async def _ask(self, ref: Ref) -> Object | None:
        try:
            obj = await self._source.get(ref)
        except NotServed:
            self._lack(ref.kind)
            raise
        if ref.kind not in self._scopes:
            return obj
        self._doubtful[ref.kind].discard(ref)
        known = self.objects.get(ref)
        if obj is not None:
            self._learn(obj)
        elif known is not None and self.objects.remove(ref, known.uid):
            self._on_change(known.load())
        return obj

    async def _write(self, ref: Ref, write: Awaitable[Object]) -> Object:
        try:
            obj = await write
        except BaseException:
            # It may have been done all the same, or what was known was wrong.
            self._doubt(ref)
            raise
        self._secrets.pop(ref, None)
        self._absent.pop(ref, None)
        if ref.kind in self._scopes:
            self._doubtful[ref.kind].discard(ref)
            self._learn(obj)
        return obj

    def _doubt(self, ref: Ref) -> None:
        self._secrets.pop(ref, None)
        self._absent.pop(ref, None)
        if ref.kind in self._scopes:
            self._doubtful[ref.kind].add(ref)

    def _learn(self, obj: Object) -> None:
        if self.objects.put(obj):
            self._on_change(obj)

    # Last in the class, because its name hides the builtin from here on.
    async def list(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """See the port."""
        self._expect(kind)
        if not self._keeps(kind, namespace):
            return await self._source.list(kind, namespace, labels)
        return [entry.load() for entry in await self._known(kind, namespace, labels)]
