"""The port `ports.Kubernetes` with reads from memory, which watches, lists and the answers to our own writes fill."""

import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, Protocol, TypeVar

from sundog_operator.adapters.cached.objects import MAX_NAMESPACE_BYTES, CachedObject, ObjectCache
from sundog_operator.adapters.cached.projection import FIXED_NAMES, keep_whole
from sundog_operator.adapters.cached.secrets import SecretCache
from sundog_operator.core.kubernetes import names
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

SCOPES: Final[Mapping[Kind, Mapping[str, str]]] = {
    MODEL_DEPLOYMENT: {},
    EXPERIMENT: {},
    CONTROLLER_REVISION: names.PART_OF_SUNDOG,
    CONFIG_MAP: names.PART_OF_SUNDOG,
    DEPLOYMENT: names.PART_OF_SUNDOG,
    POD: names.PART_OF_SUNDOG,
    RAY_CLUSTER: names.PART_OF_SUNDOG,
    SERVICE: names.PART_OF_SUNDOG,
    SERVICE_ACCOUNT: names.PART_OF_SUNDOG,
    ROLE: names.PART_OF_SUNDOG,
    ROLE_BINDING: names.PART_OF_SUNDOG,
    POD_DISRUPTION_BUDGET: names.PART_OF_SUNDOG,
    NETWORK_POLICY: names.PART_OF_SUNDOG,
    STATEFUL_SET: names.PART_OF_SUNDOG,
    HTTP_ROUTE: names.PART_OF_SUNDOG,
}
"""The cached kinds, and the labels that select their objects in a large cluster. No Secrets: the operator may not list all of them."""

OPTIONAL: Final = frozenset({HTTP_ROUTE})
"""The kinds that a cluster may not serve."""

ABSENT_TTL_S: Final = 10.0
"""Time for which `labels` and `view` do not ask again for an object that did not exist. They only read objects of others.

`get` asks the server each time. Objects are written upon its answer, so it must show an object that another client has just created.
"""

T = TypeVar("T")


class KubernetesSource(Kubernetes, Protocol):
    """The port over a server, and lists with their resourceVersion."""

    async def snapshot(
        self,
        kind: Kind,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        name: str = "",
        keep: Callable[[Kind, Object], Object | None] = keep_whole,
    ) -> Snapshot:
        """List objects with the resourceVersion of the list, with a name if one is given, reduced by `keep`."""


class CachedKubernetes:
    """The port over another one.

    A kind is read from memory once `resync` has listed it. Before that, and for every other kind, reads go to the server.

    A read after a write of this process returns what the write changed, before the watch delivers it: the answer to a write
    is cached. After a failed write, or a deletion, the next read asks the server. An object without the labels of its kind is in
    no list. `get` finds it, and then it is listed until the next `resync`.

    A Secret that exists is read by name, at most once in `SECRET_TTL_S`. Reads of an optional kind raise NotServed, without a
    request, while the server does not serve it or does not permit listing it. The next `resync` that finds it ends that.

    A namespace may forbid lists, such as one that was deleted with the roles in it. Reads in it go to the server, and reads in
    other namespaces still come from memory.

    `on_change` is called with every new state of an object, and with the last state of a deleted one. `on_write` replaces it
    for the answers to writes of this process.
    """

    def __init__(
        self,
        source: KubernetesSource,
        on_change: Callable[[Object], None],
        clock: Clock,
        namespaces: Sequence[str] = (),
        scopes: Mapping[Kind, Mapping[str, str]] = SCOPES,
        on_write: Callable[[Object], None] | None = None,
        keep: Callable[[Kind, Object], Object | None] = keep_whole,
        namespace_bytes: int = MAX_NAMESPACE_BYTES,
    ) -> None:
        """Args:
        source: the port of the server.
        on_change: see the class.
        clock: the clock.
        namespaces: the watched ones; empty for all.
        scopes: the cached kinds and their labels.
        on_write: see the class.
        keep: returns the parts of an object to keep; None for one that is not kept (`projection`).
        namespace_bytes: how much JSON of one namespace is kept.
        """
        self._keep = keep
        self._source = source
        self._report_change = on_change
        self._report_write = on_write or on_change
        self._versions: Counter[str] = Counter()
        self._kinds_version = 0
        """Counts changes of the served kinds, which concern all namespaces."""
        self._namespaces: Sequence[str | None] = tuple(namespaces) or (None,)
        self._scopes = scopes
        self._clock = clock
        self._secrets = SecretCache(clock)
        self._absent: dict[Ref, float] = {}
        self._synced: set[Kind] = set()
        self._not_served: set[Kind] = set()
        self._forbidden: dict[Kind, frozenset[str | None]] = {}
        self._stale: dict[Kind, dict[Ref, object]] = {kind: {} for kind in self._scopes}
        self.objects = ObjectCache(namespace_bytes)

    def synced(self, kind: Kind) -> bool:
        """Return whether reads of a kind come from memory."""
        return kind in self._synced

    @property
    def ready(self) -> bool:
        """Whether reads of every served kind come from memory."""
        return self._synced | self._not_served == self._scopes.keys()

    def lacks(self, kind: Kind) -> bool:
        """Return whether the server does not serve an optional kind, or does not permit listing it."""
        return kind in self._not_served

    @property
    def forbidden_namespaces(self) -> frozenset[str]:
        """The namespaces in which the permission to list some kind is missing."""
        return frozenset(name for forbidden in tuple(self._forbidden.values()) for name in forbidden if name)

    def feed(self, change: str | None, obj: Object) -> None:
        """Take in an event of a watch: DELETED, or any other type for a new state."""
        if change != "DELETED":
            self._store(obj)
        elif self.objects.remove(ref_of(obj), obj["metadata"]["uid"], int(obj["metadata"]["resourceVersion"])):
            self._on_change(obj)

    async def resync(self, kind: Kind) -> int:
        """List a kind and take in what the watch missed, deletions included. Return the number of those objects. Raises DependencyError."""
        missed = 0
        refusals: dict[str | None, Forbidden] = {}
        for namespace in self._namespaces:
            try:
                name = FIXED_NAMES.get(kind, "") if self._scopes[kind] else ""
                snapshot = await self._source.snapshot(kind, namespace, self._scopes[kind], name, self._keep)
            except NotServed:
                self._mark_not_served(kind)
                raise
            except Forbidden as err:
                refusals[namespace] = err
            else:
                missed += self._merge(kind, namespace, snapshot)
        if len(refusals) == len(self._namespaces):
            self._raise_forbidden(kind, next(iter(refusals.values())))
        self._forbidden[kind] = frozenset(refusals)
        self._synced.add(kind)
        if kind in self._not_served:
            self._not_served.remove(kind)
            self._kinds_version += 1
        return missed

    def _raise_forbidden(self, kind: Kind, refusal: Forbidden) -> NoReturn:
        if kind not in OPTIONAL:
            raise refusal
        # An administrator's roles may be older than the kind.
        self._mark_not_served(kind)
        raise NotServed(str(refusal)) from refusal

    def _merge(self, kind: Kind, namespace: str | None, snapshot: Snapshot) -> int:
        """Take in a list. Return how many objects the watch had missed; it never delivers those without our labels."""
        changed = self.objects.merge(kind, namespace, snapshot.objects, int(snapshot.version))
        for obj in changed:
            self._on_change(obj)
        labels = self._scopes[kind].items()
        return sum(labels <= (obj["metadata"].get("labels") or {}).items() for obj in changed)

    def _mark_not_served(self, kind: Kind) -> None:
        """Note that an optional kind is not served, and drop its objects, which may still exist."""
        if kind in OPTIONAL:
            self._kinds_version += kind not in self._not_served
            self._synced.discard(kind)
            self._not_served.add(kind)
            for obj in self.objects.forget(kind):
                self._on_change(obj)

    def _require_served(self, kind: Kind, namespace: str | None) -> None:
        if kind in self._not_served or (kind in OPTIONAL and self._is_forbidden(kind, namespace)):
            raise NotServed(f"{kind.plural}: the API server does not serve {kind.api_version}")

    def _is_watched(self, namespace: str | None) -> bool:
        return namespace in self._namespaces or self._namespaces == (None,)

    def _is_forbidden(self, kind: Kind, namespace: str | None) -> bool:
        return namespace in self._forbidden.get(kind, ())

    def _is_known(self, ref: Ref) -> bool:
        """Return whether the memory shows if an object exists."""
        is_cached = ref.kind in self._synced and not self._is_forbidden(ref.kind, ref.namespace)
        entry = self.objects.get(ref) if is_cached else None
        return is_cached and ref not in self._stale[ref.kind] and not (entry is not None and entry.left_out)

    def find_excess(self, namespace: str) -> str:
        """Return why not all objects of a namespace are kept; empty where they are. Decisions then lack some of them."""
        return self.objects.find_excess(namespace)

    async def get(self, ref: Ref) -> Object | None:
        """See the port."""
        return await self._get(ref, self._read)

    async def _get(self, ref: Ref, read: Callable[[Ref], Awaitable[Object | None]]) -> Object | None:
        self._require_served(ref.kind, ref.namespace)
        if ref.kind == SECRET:
            return await self._secrets.get(ref, self._source.get)
        if not self._is_known(ref):
            return await self._read(ref)
        entry = self.objects.get(ref)
        if entry is None and self._scopes[ref.kind]:
            # It may exist without our labels.
            return await read(ref)
        return entry.load() if entry else None

    async def labels(self, ref: Ref) -> Mapping[str, str] | None:
        """See the port."""
        if self._is_known(ref):
            entry = self.objects.get(ref)
            if entry is not None:
                return entry.labels
        obj = await self._get(ref, self._read_unless_absent)
        return None if obj is None else obj["metadata"].get("labels") or {}

    async def view(self, ref: Ref, of: Callable[[Object], T]) -> T | None:
        """See the port."""
        if self._is_known(ref):
            entry = self.objects.get(ref)
            if entry is not None:
                return entry.view(of)
        obj = await self._get(ref, self._read_unless_absent)
        return None if obj is None else of(obj)

    async def views(
        self, kind: Kind, namespace: str | None, of: Callable[[Object], T], labels: Mapping[str, str] | None = None
    ) -> Sequence[T]:
        """See the port."""
        if not self._is_cached(kind, namespace):
            return [of(obj) for obj in await self.list(kind, namespace, labels)]
        return [entry.view(of) for entry in await self._find(kind, namespace, labels)]

    def version(self, namespace: str) -> int | None:
        """See the port."""
        if not self.ready or not self._is_watched(namespace) or namespace in self.forbidden_namespaces:
            return None
        return self._versions[namespace] + self._kinds_version

    async def scan(self, kind: Kind, of: Callable[[Object], T]) -> Sequence[T]:
        """See the port."""
        return await self._source.scan(kind, of)

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
            # It is deleted now, or after its finalizers or its grace period.
            self._mark_stale(ref)

    def watch(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[WatchEvent]:
        """See the port."""
        return self._source.watch(kind, namespace)

    def _is_cached(self, kind: Kind, namespace: str | None) -> bool:
        return kind in self._synced and self._is_watched(namespace) and not self._is_forbidden(kind, namespace)

    async def _find(
        self, kind: Kind, namespace: str | None, labels: Mapping[str, str] | None
    ) -> Sequence[CachedObject]:
        for ref in [ref for ref in self._stale[kind] if namespace in {None, ref.namespace}]:
            await self._read(ref)
        return self.objects.find(kind, namespace, labels or {})

    async def _read_unless_absent(self, ref: Ref) -> Object | None:
        now = self._clock.monotonic()
        if now - self._absent.get(ref, -math.inf) < ABSENT_TTL_S:
            return None
        obj = await self._read(ref)
        if obj is None:
            self._absent.pop(ref, None)
            self._absent[ref] = now
            while now - next(iter(self._absent.values())) >= ABSENT_TTL_S:
                del self._absent[next(iter(self._absent))]
        return obj

    def forget_secret(self, ref: Ref) -> None:
        """Read a Secret again next time, because it changed."""
        self._secrets.forget(ref)

    async def _read(self, ref: Ref) -> Object | None:
        # Writes during the read may be missing in its answer, so only the mark and state from before it are resolved.
        known, mark = self.objects.get(ref), self._stale.get(ref.kind, {}).get(ref)
        try:
            obj = await self._source.get(ref)
        except NotServed:
            self._mark_not_served(ref.kind)
            raise
        if ref.kind not in self._scopes:
            return obj
        if self._stale[ref.kind].get(ref) is mark:
            self._stale[ref.kind].pop(ref, None)
        if obj is not None:
            if (kept := self._keep(ref.kind, obj)) is not None:
                self._store(kept)
        elif known is not None and self.objects.remove(ref, known.uid):
            self._on_change(known.load())
        return obj

    async def _write(self, ref: Ref, write: Awaitable[Object]) -> Object:
        try:
            obj = await write
        except BaseException:
            # The server may have done it all the same, or the cached state was wrong.
            self._mark_stale(ref)
            raise
        self.forget_secret(ref)
        self._absent.pop(ref, None)
        if ref.kind in self._scopes:
            self._stale[ref.kind].pop(ref, None)
            kept = self._keep(ref.kind, obj)
            if kept is not None and self.objects.put(kept):
                self._on_write(obj)
        return obj

    def _on_change(self, obj: Object) -> None:
        self._versions[obj["metadata"].get("namespace", "")] += 1
        self._report_change(obj)

    def _on_write(self, obj: Object) -> None:
        self._versions[obj["metadata"].get("namespace", "")] += 1
        self._report_write(obj)

    def _mark_stale(self, ref: Ref) -> None:
        self._versions[ref.namespace] += 1
        self.forget_secret(ref)
        self._absent.pop(ref, None)
        if ref.kind in self._scopes:
            self._stale[ref.kind][ref] = object()

    def _store(self, obj: Object) -> None:
        if self.objects.put(obj):
            self._on_change(obj)

    # Last in the class, because its name hides the builtin from here on.
    async def list(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """See the port."""
        self._require_served(kind, namespace)
        if not self._is_cached(kind, namespace):
            return await self._source.list(kind, namespace, labels)
        return [entry.load() for entry in await self._find(kind, namespace, labels)]
