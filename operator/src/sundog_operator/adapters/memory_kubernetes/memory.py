"""The in-memory API server as the port `ports.Kubernetes`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from sundog_operator.adapters.memory_kubernetes import validation
from sundog_operator.adapters.memory_kubernetes.admission import Admit
from sundog_operator.adapters.memory_kubernetes.history import Subscription
from sundog_operator.adapters.memory_kubernetes.journal import ObjectJournal
from sundog_operator.adapters.memory_kubernetes.object_metadata import Subresource
from sundog_operator.adapters.memory_kubernetes.schemas import Schema
from sundog_operator.adapters.memory_kubernetes.store import ObjectStore, WriteResult
from sundog_operator.errors import DependencyError, NotFound, NotServed
from sundog_operator.ports import KINDS, Clock, Kind, Object, Ref, Snapshot, WatchEvent, ref_of

FIELD_MANAGER = "sundog"

Verb = Literal["get", "list", "watch", "create", "apply", "status", "annotate", "replace", "patch", "delete"]

T = TypeVar("T")


class MemoryKubernetes:
    """A Kubernetes API server for the kinds of `ports.KINDS` in this process: the port `ports.Kubernetes`.

    Like a call over a network, every call lets other tasks run once before it acts; then it acts in one step.
    Garbage is collected in the call that creates it. `field_ownership` tracks the owners of fields.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        schemas: Mapping[str, Schema] | None = None,
        admit: Admit | None = None,
        journal: ObjectJournal | None = None,
    ) -> None:
        """Args:
        schemas: the openAPIV3Schema of each CRD, by kind.
        admit: checks an object before it is stored.
        journal: stores the objects on disk.
        """
        self.store = ObjectStore(clock, schemas=schemas or {}, admit=admit, journal=journal)
        self.corrupt_file = journal.moved_to if journal is not None else None
        """Where a corrupt file with the objects was moved when this server opened; None where none was."""

    @classmethod
    def open(
        cls,
        path: Path,
        clock: Clock,
        *,
        schemas: Mapping[str, Schema] | None = None,
        admit: Admit | None = None,
    ) -> Self:
        """Open a server whose objects are in an SQLite file; each write is on disk when its call returns.

        A corrupt file is moved aside, and a new one begins. Raises StateRefused when another process has the file open, it is no state
        file, or a newer version wrote it.
        """
        journal = ObjectJournal(path)
        try:
            return cls(clock, schemas=schemas, admit=admit, journal=journal)
        except BaseException:
            journal.close()
            raise

    def close(self) -> None:
        """End every watch and unlock the file."""
        self.store.close()

    async def get(self, ref: Ref) -> Object | None:
        """See the port."""
        await self.enter("get", ref)
        return self.store.get(ref)

    async def labels(self, ref: Ref) -> Mapping[str, str] | None:
        """See the port."""
        obj = await self.get(ref)
        return None if obj is None else obj["metadata"].get("labels") or {}

    async def view(self, ref: Ref, of: Callable[[Object], T]) -> T | None:
        """See the port."""
        obj = await self.get(ref)
        return None if obj is None else of(obj)

    async def views(
        self, kind: Kind, namespace: str | None, of: Callable[[Object], T], labels: Mapping[str, str] | None = None
    ) -> Sequence[T]:
        """See the port."""
        return [of(obj) for obj in await self.list(kind, namespace, labels)]

    def version(self, namespace: str) -> int | None:  # noqa: ARG002 - nothing is kept
        """See the port."""
        return None

    async def scan(self, kind: Kind, of: Callable[[Object], T]) -> Sequence[T]:
        """See the port."""
        return [of(obj) for obj in await self.list(kind)]

    async def create(self, obj: Object, *, manager: str | None = None, strict: bool = False) -> Object:
        """See the port. With `strict` a field that the schema lacks is invalid. Also raises Invalid."""
        return await self._write(
            "create", _ref(obj), lambda: self.store.create(obj, manager or FIELD_MANAGER, strict=strict)
        )

    async def apply(
        self,
        obj: Object,
        *,
        manager: str | None = None,
        force: bool = True,
        strict: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """See the port. A resourceVersion or uid in the metadata is a precondition (Conflict). Also raises Invalid.

        With `strict` a field that the schema lacks is invalid; else it is dropped. A `dry_run` stores nothing.
        """
        act = partial(self.store.apply, obj, manager or FIELD_MANAGER, force=force, strict=strict, dry_run=dry_run)
        if dry_run:
            await self.enter("apply", _ref(obj))
            return act().object
        return await self._write("apply", _ref(obj), act)

    async def replace(self, obj: Object) -> Object:
        """See the port. Also raises Invalid."""
        ref = _ref(obj)
        if not obj["metadata"].get("resourceVersion"):
            raise ValueError(f"{ref}: metadata.resourceVersion is missing, and a replace needs it")
        return await self._write("replace", ref, lambda: self.store.update(ref, lambda _: obj, FIELD_MANAGER))

    async def patch_status(self, ref: Ref, status: Mapping[str, Any], *, resource_version: str) -> Object:
        """See the port. Also raises Invalid."""

        def replace(obj: Object) -> Object:
            obj["metadata"]["resourceVersion"] = resource_version
            return obj | {"status": dict(status)}

        return await self._write(
            "status", ref, lambda: self.store.update(ref, replace, FIELD_MANAGER, subresource="status")
        )

    async def annotate(self, ref: Ref, annotations: Mapping[str, str | None]) -> Object:
        """See the port. Also raises NotFound, Invalid."""

        def merge(obj: Object) -> Object:
            merged = (obj["metadata"].get("annotations") or {}) | dict(annotations)
            obj["metadata"]["annotations"] = {key: value for key, value in merged.items() if value is not None}
            return obj

        return await self._write("annotate", ref, lambda: self.store.update(ref, merge, FIELD_MANAGER))

    async def update(
        self,
        ref: Ref,
        change: Callable[[Object], Object],
        *,
        manager: str | None = None,
        subresource: Subresource = "",
        strict: bool = False,
    ) -> Object:
        """Replace an object by the result of `change`. Raises NotFound, Conflict, Invalid."""
        return await self._write(
            "status" if subresource else "patch",
            ref,
            lambda: self.store.update(ref, change, manager or FIELD_MANAGER, subresource=subresource, strict=strict),
        )

    async def delete(self, ref: Ref, *, uid: str | None = None, resource_version: str | None = None) -> None:
        """See the port."""

        def act() -> WriteResult:
            try:
                return WriteResult(self.store.delete(ref, uid=uid, revision=resource_version), changed=True)
            except NotFound:
                return WriteResult({}, changed=False)

        await self._write("delete", ref, act)

    async def watch(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[WatchEvent]:
        """See the port. Raises Expired when this watcher fell too far behind."""
        await self.enter("watch", Ref(kind, namespace or "", ""))
        changes = self.subscribe()
        for obj in self.store.list(kind, namespace, {}):
            yield WatchEvent("ADDED", obj)
        yield WatchEvent("SYNCED", {})
        while True:
            for change in await changes.next():
                if change.ref.kind == kind and namespace in {None, change.ref.namespace}:
                    yield WatchEvent(change.type, change.load())
            if changes.closed:
                return

    def subscribe(self, revision: int | None = None) -> Subscription:
        """Subscribe to the changes after a resourceVersion, by default from now on."""
        return self.store.history.subscribe(self.store.revision if revision is None else revision)

    async def snapshot(
        self,
        kind: Kind,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        name: str = "",
        keep: Callable[[Kind, Object], Object | None] = lambda _, obj: obj,
    ) -> Snapshot:
        """List objects with the resourceVersion of the list, with a name if one is given, reduced by `keep`."""
        found = [each for each in await self.list(kind, namespace, labels) if name in ("", each["metadata"]["name"])]
        objects = [kept for each in found if (kept := keep(kind, each)) is not None]
        return Snapshot(objects, str(self.store.revision))

    # Last in the class, because its name hides the builtin from here on.
    async def list(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """See the port."""
        await self.enter("list", Ref(kind, namespace or "", ""))
        return self.store.list(kind, namespace, labels or {})

    async def enter(self, verb: Verb, ref: Ref) -> None:
        """Begin a call: let other tasks run, then raise DependencyError or NotServed where it cannot be answered."""
        await asyncio.sleep(0)
        if self.store.history.closed:
            raise DependencyError(f"{verb} {ref.kind.plural}: the API server is closed")
        if ref.kind not in KINDS:
            raise NotServed(f"{ref.kind.plural}: {ref.kind.api_version} is not served")

    async def _write(self, verb: Verb, ref: Ref, act: Callable[[], WriteResult]) -> Object:
        await self.enter(verb, ref)
        return act().object


def _ref(obj: Object) -> Ref:
    try:
        return ref_of(obj)
    except (KeyError, TypeError):
        kind = validation.find_kind(obj)
        if kind is None:
            raise NotFound(f"kind {obj.get('kind')!r} of {obj.get('apiVersion')!r}: not served") from None
        return Ref(kind, "", "")
