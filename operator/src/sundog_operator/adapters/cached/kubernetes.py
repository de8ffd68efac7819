"""The port `ports.Kubernetes` with reads from memory. Watches and lists fill the memory; so does every answer to a write of our own."""

import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, Protocol, TypeVar

import orjson

from sundog_operator.adapters.cached.objects import CachedObject, ObjectCache
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

SUNDOG_LABELS: Final[Mapping[str, str]] = names.PART_OF_SUNDOG
"""The label of all that Sundog makes, by which it is told apart from the rest of a large cluster."""

SCOPES: Final[Mapping[Kind, Mapping[str, str]]] = {
    MODEL_DEPLOYMENT: {},
    EXPERIMENT: {},
    CONTROLLER_REVISION: SUNDOG_LABELS,
    CONFIG_MAP: SUNDOG_LABELS,
    DEPLOYMENT: SUNDOG_LABELS,
    POD: SUNDOG_LABELS,
    RAY_CLUSTER: SUNDOG_LABELS,
    SERVICE: SUNDOG_LABELS,
    SERVICE_ACCOUNT: SUNDOG_LABELS,
    ROLE: SUNDOG_LABELS,
    ROLE_BINDING: SUNDOG_LABELS,
    POD_DISRUPTION_BUDGET: SUNDOG_LABELS,
    NETWORK_POLICY: SUNDOG_LABELS,
    STATEFUL_SET: SUNDOG_LABELS,
    HTTP_ROUTE: SUNDOG_LABELS,
}
"""The kinds that are kept, and the labels that an object must have. Secrets are not: nobody may list them all."""

OPTIONAL: Final = frozenset({HTTP_ROUTE})
"""The kinds that a cluster may lack."""

ABSENT_TTL_S: Final = 10.0
"""For how long an object that nobody had is not asked for again by `labels` and `view`, by which is only looked at what others made.

`get` asks each time: upon its answer objects are written, and what somebody else has just made must not be taken for ours.
"""

SECRET_TTL_S: Final = 10.0
"""For how long a Secret that was asked for by name is not asked for again."""

T = TypeVar("T")


class KubernetesSource(Kubernetes, Protocol):
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

    Where several namespaces are looked at, one that may not be listed, as one that went with the roles in it, keeps nobody from the others:
    of what is in it the server is asked.

    `on_change` is called with every object that is news, also with the last state of one that is gone; for what a write of this process
    answered it is `on_write`, where there is one.
    """

    def __init__(
        self,
        source: KubernetesSource,
        on_change: Callable[[Object], None],
        clock: Clock,
        namespaces: Sequence[str] = (),
        scopes: Mapping[Kind, Mapping[str, str]] = SCOPES,
        on_write: Callable[[Object], None] | None = None,
    ) -> None:
        """`namespaces` are those that are looked at, none for all."""
        self._source = source
        self._hear_change = on_change
        self._hear_write = on_write or on_change
        self._versions: Counter[str] = Counter()
        self._kinds_version = 0
        """Of which kinds the server serves, which bears on all namespaces."""
        self._namespaces: Sequence[str | None] = tuple(namespaces) or (None,)
        self._scopes = scopes
        self._clock = clock
        self._secrets: dict[Ref, tuple[float, bytes]] = {}
        self._asked: dict[Ref, object] = {}
        self._absent: dict[Ref, float] = {}
        self._synced: set[Kind] = set()
        self._lacking: set[Kind] = set()
        self._closed: dict[Kind, frozenset[str | None]] = {}
        self._doubtful: dict[Kind, dict[Ref, object]] = {kind: {} for kind in self._scopes}
        self.objects = ObjectCache()

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

    @property
    def closed(self) -> frozenset[str]:
        """The namespaces of which some kind could not be listed for want of a right."""
        return frozenset(name for closed in tuple(self._closed.values()) for name in closed if name)

    def feed(self, change: str | None, obj: Object) -> None:
        """Take in what a watch told: DELETED, or any other word for a state."""
        if change != "DELETED":
            self._learn(obj)
        elif self.objects.remove(ref_of(obj), obj["metadata"]["uid"], int(obj["metadata"]["resourceVersion"])):
            self._on_change(obj)

    async def resync(self, kind: Kind) -> int:
        """List a kind and take in what the watch missed, deletions first of all; how many objects that was. Raises DependencyError."""
        missed = 0
        refusals: dict[str | None, Forbidden] = {}
        for namespace in self._namespaces:
            try:
                snapshot = await self._source.snapshot(kind, namespace, self._scopes[kind])
            except NotServed:
                self._lack(kind)
                raise
            except Forbidden as err:
                refusals[namespace] = err
            else:
                missed += self._merge(kind, namespace, snapshot)
        if len(refusals) == len(self._namespaces):
            self._refused(kind, next(iter(refusals.values())))
        self._closed[kind] = frozenset(refusals)
        self._synced.add(kind)
        if kind in self._lacking:
            self._lacking.remove(kind)
            self._kinds_version += 1
        return missed

    def _refused(self, kind: Kind, refusal: Forbidden) -> NoReturn:
        if kind not in OPTIONAL:
            raise refusal
        # Roles that an administrator wrote may be older than the kind.
        self._lack(kind)
        raise NotServed(str(refusal)) from refusal

    def _merge(self, kind: Kind, namespace: str | None, snapshot: Snapshot) -> int:
        """How much of what a watch tells it had missed; of an object without our labels, which `get` found, none tells."""
        news = self.objects.merge(kind, namespace, snapshot.objects, int(snapshot.version))
        for obj in news:
            self._on_change(obj)
        labels = self._scopes[kind].items()
        return sum(labels <= (obj["metadata"].get("labels") or {}).items() for obj in news)

    def _lack(self, kind: Kind) -> None:
        """Of a kind that is not served, or not to us, nothing is known; its objects may be there."""
        if kind in OPTIONAL:
            self._kinds_version += kind not in self._lacking
            self._synced.discard(kind)
            self._lacking.add(kind)
            for obj in self.objects.forget(kind):
                self._on_change(obj)

    def _expect(self, kind: Kind, namespace: str | None) -> None:
        if kind in self._lacking or (kind in OPTIONAL and self._is_closed(kind, namespace)):
            raise NotServed(f"{kind.plural}: the API server does not serve {kind.api_version}")

    def _is_closed(self, kind: Kind, namespace: str | None) -> bool:
        return namespace in self._closed.get(kind, ())

    def _is_known(self, ref: Ref) -> bool:
        """Whether what is in memory tells of an object, or that there is none."""
        is_kept = ref.kind in self._synced and not self._is_closed(ref.kind, ref.namespace)
        return is_kept and ref not in self._doubtful[ref.kind]

    async def get(self, ref: Ref) -> Object | None:
        """See the port."""
        return await self._get(ref, self._ask)

    async def _get(self, ref: Ref, look: Callable[[Ref], Awaitable[Object | None]]) -> Object | None:
        self._expect(ref.kind, ref.namespace)
        if ref.kind == SECRET:
            return await self._secret(ref)
        if not self._is_known(ref):
            return await self._ask(ref)
        entry = self.objects.get(ref)
        if entry is None and self._scopes[ref.kind]:
            # It may be there without our labels.
            return await look(ref)
        return entry.load() if entry else None

    async def labels(self, ref: Ref) -> Mapping[str, str] | None:
        """See the port."""
        if self._is_known(ref):
            entry = self.objects.get(ref)
            if entry is not None:
                return entry.labels
        obj = await self._get(ref, self._look)
        return None if obj is None else obj["metadata"].get("labels") or {}

    async def view(self, ref: Ref, of: Callable[[Object], T]) -> T | None:
        """See the port."""
        if self._is_known(ref):
            entry = self.objects.get(ref)
            if entry is not None:
                return entry.view(of)
        obj = await self._get(ref, self._look)
        return None if obj is None else of(obj)

    async def views(
        self, kind: Kind, namespace: str | None, of: Callable[[Object], T], labels: Mapping[str, str] | None = None
    ) -> Sequence[T]:
        """See the port."""
        if not self._keeps(kind, namespace):
            return [of(obj) for obj in await self.list(kind, namespace, labels)]
        return [entry.view(of) for entry in await self._known(kind, namespace, labels)]

    def version(self, namespace: str) -> int | None:
        """See the port."""
        is_looked_at = namespace in self._namespaces or self._namespaces == (None,)
        if not self.ready or not is_looked_at or namespace in self.closed:
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
            # Gone, or about to go once its finalizers or its time of grace are over.
            self._doubt(ref)

    def watch(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[WatchEvent]:
        """See the port."""
        return self._source.watch(kind, namespace)

    def _keeps(self, kind: Kind, namespace: str | None) -> bool:
        is_looked_at = namespace in self._namespaces or self._namespaces == (None,)
        return kind in self._synced and is_looked_at and not self._is_closed(kind, namespace)

    async def _known(
        self, kind: Kind, namespace: str | None, labels: Mapping[str, str] | None
    ) -> Sequence[CachedObject]:
        for ref in [ref for ref in self._doubtful[kind] if namespace in {None, ref.namespace}]:
            await self._ask(ref)
        return self.objects.find(kind, namespace, labels or {})

    async def _look(self, ref: Ref) -> Object | None:
        now = self._clock.monotonic()
        if now - self._absent.get(ref, -math.inf) < ABSENT_TTL_S:
            return None
        obj = await self._ask(ref)
        if obj is None:
            self._absent.pop(ref, None)
            self._absent[ref] = now
            while now - next(iter(self._absent.values())) >= ABSENT_TTL_S:
                del self._absent[next(iter(self._absent))]
        return obj

    def forget_secret(self, ref: Ref) -> None:
        """A Secret changed: ask for it next time, whatever an answer says that is on its way."""
        self._secrets.pop(ref, None)
        self._asked.pop(ref, None)

    async def _secret(self, ref: Ref) -> Object | None:
        now = self._clock.monotonic()
        at, body = self._secrets.get(ref, (now - SECRET_TTL_S, b""))
        if now - at < SECRET_TTL_S:
            known: Object = orjson.loads(body)
            return known
        question = self._asked[ref] = object()
        obj = await self._source.get(ref)
        self._secrets = {kept: told for kept, told in self._secrets.items() if now - told[0] < SECRET_TTL_S}
        if self._asked.get(ref) is question:
            del self._asked[ref]
            if obj is not None:
                self._secrets[ref] = (now, orjson.dumps(obj))
        return obj

    async def _ask(self, ref: Ref) -> Object | None:
        # The answer is as of some moment after this one: what is written or doubted meanwhile it says nothing of.
        known, doubt = self.objects.get(ref), self._doubtful.get(ref.kind, {}).get(ref)
        try:
            obj = await self._source.get(ref)
        except NotServed:
            self._lack(ref.kind)
            raise
        if ref.kind not in self._scopes:
            return obj
        if self._doubtful[ref.kind].get(ref) is doubt:
            self._doubtful[ref.kind].pop(ref, None)
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
        self.forget_secret(ref)
        self._absent.pop(ref, None)
        if ref.kind in self._scopes:
            self._doubtful[ref.kind].pop(ref, None)
            if self.objects.put(obj):
                self._on_write(obj)
        return obj

    def _on_change(self, obj: Object) -> None:
        self._versions[obj["metadata"].get("namespace", "")] += 1
        self._hear_change(obj)

    def _on_write(self, obj: Object) -> None:
        self._versions[obj["metadata"].get("namespace", "")] += 1
        self._hear_write(obj)

    def _doubt(self, ref: Ref) -> None:
        self._versions[ref.namespace] += 1
        self.forget_secret(ref)
        self._absent.pop(ref, None)
        if ref.kind in self._scopes:
            self._doubtful[ref.kind][ref] = object()

    def _learn(self, obj: Object) -> None:
        if self.objects.put(obj):
            self._on_change(obj)

    # Last in the class, because its name hides the builtin from here on.
    async def list(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """See the port."""
        self._expect(kind, namespace)
        if not self._keeps(kind, namespace):
            return await self._source.list(kind, namespace, labels)
        return [entry.load() for entry in await self._known(kind, namespace, labels)]
