"""The objects of the in-memory API server and the rules for their changes. Each call is atomic."""

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from sundog_operator.adapters.memory_kubernetes import field_ownership, validation
from sundog_operator.adapters.memory_kubernetes.admission import Admission, Admit
from sundog_operator.adapters.memory_kubernetes.history import History, ObjectChange
from sundog_operator.adapters.memory_kubernetes.journal import FIRST_REVISION, JournalRow, ObjectJournal
from sundog_operator.adapters.memory_kubernetes.object_metadata import (
    Subresource,
    check_preconditions,
    keep_server_fields,
    make_empty_object,
    merge_subresource,
    normalize_object,
)
from sundog_operator.adapters.memory_kubernetes.schemas import Schema
from sundog_operator.errors import AlreadyExists, Conflict, Invalid, NotFound
from sundog_operator.ports import (
    DEPLOYMENT,
    EVENT,
    EXPERIMENT,
    HTTP_ROUTE,
    KINDS,
    MODEL_DEPLOYMENT,
    NAMESPACE,
    NETWORK_POLICY,
    NODE,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    POD_DISRUPTION_BUDGET,
    RAY_CLUSTER,
    RESOURCE_QUOTA,
    SERVICE,
    STATEFUL_SET,
    Clock,
    Kind,
    Object,
    Ref,
)

_KINDS_WITH_STATUS_AND_GENERATION = frozenset(
    {MODEL_DEPLOYMENT, EXPERIMENT, DEPLOYMENT, POD, RAY_CLUSTER, STATEFUL_SET, POD_DISRUPTION_BUDGET, HTTP_ROUTE}
)
KINDS_WITH_STATUS = _KINDS_WITH_STATUS_AND_GENERATION | {
    SERVICE,
    PERSISTENT_VOLUME_CLAIM,
    NODE,
    RESOURCE_QUOTA,
    NAMESPACE,
}
"""Kinds with a status subresource: only a write to /status changes their status."""

KINDS_WITH_GENERATION = _KINDS_WITH_STATUS_AND_GENERATION | {NETWORK_POLICY}
"""Kinds whose generation counts the changes of their content."""

_EVENT_TTL = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One stored object: its immutable JSON, and the fields that are often read."""

    body: bytes
    owners: field_ownership.FieldOwners
    uid: str
    created: int
    labels: Mapping[str, str]
    owner_uids: frozenset[str]

    def load(self) -> Object:
        """Return a copy of the object, which the caller may change."""
        obj: Object = orjson.loads(self.body)
        return obj


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The object after a write, and whether the write changed it."""

    object: Object
    changed: bool


class ObjectStore:
    """All objects, in memory and, with a journal, on disk."""

    def __init__(
        self, clock: Clock, *, schemas: Mapping[str, Schema], admit: Admit | None, journal: ObjectJournal | None
    ) -> None:
        self._clock = clock
        self._admission = Admission(schemas, admit)
        self._journal = journal
        self._identity = uuid.UUID(journal.identity) if journal else uuid.NAMESPACE_OID
        self.revision = journal.revision if journal else FIRST_REVISION
        self._records: dict[Kind, dict[tuple[str, str], StoredObject]] = {kind: {} for kind in KINDS}
        self._by_uid: dict[str, Ref] = {}
        self._dependents: dict[str, set[Ref]] = {}
        self.history = History(self.revision)
        for row in journal.rows() if journal else ():
            self._index(row.ref, _make_record(row.body, row.owners, row.created))
        self._collect([ref for refs in list(self._dependents.values()) for ref in sorted(refs)])

    def get(self, ref: Ref) -> Object | None:
        """Return a copy of the object, or None."""
        record = self._find(ref)
        return record.load() if record else None

    def create(self, obj: Object, manager: str, *, strict: bool) -> WriteResult:
        """Store a new object. With `strict` a field that the schema lacks is invalid. Raises AlreadyExists, Invalid."""
        ref, intent = self._intent(obj, strict=strict)
        if self._find(ref) is not None:
            raise AlreadyExists(f"{ref} already exists")
        if intent["metadata"].get("resourceVersion"):
            raise Invalid(str(ref), ["metadata.resourceVersion: set; expected none for a new object"])
        return self._write(
            ref, None, intent, lambda after: field_ownership.update_owners(make_empty_object(ref), {}, after, manager)
        )

    def apply(self, obj: Object, manager: str, *, force: bool, strict: bool, dry_run: bool = False) -> WriteResult:
        """Apply an object (server-side apply).

        With `strict` a field that the schema lacks is invalid; else it is dropped. A dry run stores nothing.
        Raises Invalid, and Conflict for another resourceVersion, another uid or, without `force`, another owner.
        """
        ref, intent = self._intent(obj, strict=strict)
        record = self._find(ref)
        before = record.load() if record else make_empty_object(ref)
        check_preconditions(
            ref, before, uid=intent["metadata"].get("uid"), revision=intent["metadata"].get("resourceVersion")
        )
        try:
            after, owners = field_ownership.apply_fields(
                before, record.owners if record else {}, intent, manager, force=force
            )
        except Conflict as error:
            raise Conflict(f"{ref}: {error}") from None
        return self._write(ref, record, after, lambda _: owners, dry_run=dry_run)

    def update(
        self,
        ref: Ref,
        change: Callable[[Object], Object],
        manager: str,
        *,
        subresource: Subresource = "",
        strict: bool = False,
    ) -> WriteResult:
        """Replace an object by the result of `change`; identity and system fields stay.

        A resourceVersion or uid that `change` sets is a precondition. Raises NotFound, Conflict, Invalid.
        """
        record = self._find(ref)
        if record is None:
            raise NotFound(f"{ref} does not exist")
        if subresource and ref.kind not in KINDS_WITH_STATUS:
            raise NotFound(f"{ref} has no {subresource}")
        before = record.load()
        changed = normalize_object(ref, change(record.load()))
        check_preconditions(
            ref, before, uid=changed["metadata"].get("uid"), revision=changed["metadata"].get("resourceVersion")
        )
        after = merge_subresource(before, changed, subresource, with_status=ref.kind in KINDS_WITH_STATUS)
        self._admission.prune(ref, after, strict=strict)
        if subresource == "status":
            self._admission.check_status(ref, after, before)
        return self._write(
            ref, record, after, lambda final: field_ownership.update_owners(before, record.owners, final, manager)
        )

    def delete(self, ref: Ref, *, uid: str | None = None, revision: str | None = None) -> Object:
        """Delete an object, and the objects that only it owned. Finalizers delay that. Raises NotFound, Conflict."""
        record = self._find(ref)
        if record is None:
            raise NotFound(f"{ref} does not exist")
        before = record.load()
        check_preconditions(ref, before, uid=uid, revision=revision)
        self._collect(self._remove(ref, record))
        return before

    def close(self) -> None:
        """End every watch and close the journal."""
        self.history.close()
        if self._journal:
            self._journal.close()

    def _intent(self, obj: Object, *, strict: bool) -> tuple[Ref, Object]:
        kind = validation.find_kind(obj)
        if kind is None:
            raise NotFound(f"kind {obj.get('kind')!r} of {obj.get('apiVersion')!r}: not served")
        metadata = obj.get("metadata") or {}
        namespace = str(metadata.get("namespace") or "") if kind.namespaced else ""
        ref = Ref(kind, namespace, str(metadata.get("name") or ""))
        intent = normalize_object(ref, obj)
        self._admission.prune(ref, intent, strict=strict)
        if kind in KINDS_WITH_STATUS:
            intent.pop("status", None)
        return ref, intent

    def _write(
        self,
        ref: Ref,
        record: StoredObject | None,
        after: Object,
        owners_of: Callable[[Object], field_ownership.FieldOwners],
        *,
        dry_run: bool = False,
    ) -> WriteResult:
        before = record.load() if record else None
        self._admission.apply_defaults(ref, after)
        owners = owners_of(after)
        keep_server_fields(after, before)
        if record is not None and after == before and owners == record.owners:
            return WriteResult(after, changed=False)
        self._admission.check(ref, after, before)
        if dry_run:
            return WriteResult(after, changed=False)
        if (
            record is not None
            and after["metadata"].get("deletionTimestamp")
            and not after["metadata"].get("finalizers")
        ):
            self._collect(self._delete_make_record(ref, record))
            return WriteResult(after, changed=True)
        self._set_server_fields(ref, after, before)
        self._commit(ref, record, after, owners)
        self._collect([ref])
        return WriteResult(after, changed=True)

    def _set_server_fields(self, ref: Ref, after: Object, before: Object | None) -> None:
        metadata = after["metadata"]
        if before is None:
            if ref.kind == EVENT:
                self._expire_events()
            metadata["uid"] = str(uuid.uuid5(self._identity, str(self.revision + 1)))
            metadata["creationTimestamp"] = _timestamp(self._clock.now())
            if ref.kind in KINDS_WITH_GENERATION:
                metadata["generation"] = 1
        elif ref.kind in KINDS_WITH_GENERATION and field_ownership.authored_content(
            after
        ) != field_ownership.authored_content(before):
            metadata["generation"] += 1

    def _commit(
        self, ref: Ref, record: StoredObject | None, after: Object, owners: field_ownership.FieldOwners
    ) -> None:
        revision = self.revision + 1
        after["metadata"]["resourceVersion"] = str(revision)
        fresh = _make_record(orjson.dumps(after), owners, record.created if record else revision)
        if self._journal:
            self._journal.put(revision, JournalRow(ref, fresh.created, fresh.body, owners))
        self.revision = revision
        if record:
            self._unindex(ref, record)
        self._index(ref, fresh)
        previous = record.labels if record else None
        self.history.append(
            ObjectChange(revision, "MODIFIED" if record else "ADDED", ref, fresh.body, fresh.labels, previous)
        )

    def _remove(self, ref: Ref, record: StoredObject) -> list[Ref]:
        obj = record.load()
        metadata = obj["metadata"]
        if not metadata.get("finalizers"):
            return self._delete_make_record(ref, record)
        if not metadata.get("deletionTimestamp"):
            metadata["deletionTimestamp"] = _timestamp(self._clock.now())
            metadata["deletionGracePeriodSeconds"] = 0
            if "generation" in metadata:
                metadata["generation"] += 1
            self._commit(ref, record, obj, record.owners)
        return []

    def _delete_make_record(self, ref: Ref, record: StoredObject) -> list[Ref]:
        """Remove one object. Return the objects that have it as an owner."""
        revision = self.revision + 1
        obj = record.load()
        obj["metadata"]["resourceVersion"] = str(revision)
        if self._journal:
            self._journal.drop(revision, ref)
        self.revision = revision
        self._unindex(ref, record)
        del self._records[ref.kind][ref.namespace, ref.name]
        self.history.append(ObjectChange(revision, "DELETED", ref, orjson.dumps(obj), record.labels, record.labels))
        return sorted(self._dependents.get(record.uid, ()))

    def _collect(self, candidates: Iterable[Ref]) -> None:
        """Collect garbage: delete objects without a remaining owner, and owner references to missing owners."""
        queue = deque(candidates)
        while queue:
            ref = queue.popleft()
            record = self._find(ref)
            if record is None or not record.owner_uids:
                continue
            existing = frozenset(uid for uid in record.owner_uids if self._is_owner(uid, ref))
            if not existing:
                queue.extend(self._remove(ref, record))
            elif existing != record.owner_uids:
                self._remove_owners(ref, record, existing)

    def _is_owner(self, uid: str, dependent: Ref) -> bool:
        owner = self._by_uid.get(uid)
        return owner is not None and owner.namespace in {"", dependent.namespace}

    def _remove_owners(self, ref: Ref, record: StoredObject, remaining: frozenset[str]) -> None:
        obj = record.load()
        references = [item for item in obj["metadata"]["ownerReferences"] if item["uid"] in remaining]
        obj["metadata"]["ownerReferences"] = references
        self._commit(
            ref, record, obj, field_ownership.update_owners(record.load(), record.owners, obj, "garbage-collector")
        )

    def _expire_events(self) -> None:
        oldest = _timestamp(self._clock.now() - _EVENT_TTL)
        events = self._records[EVENT]
        # Events are in order of creation, and timestamps sort as text.
        expired: list[tuple[Ref, StoredObject]] = []
        for (namespace, name), record in events.items():
            if record.load()["metadata"]["creationTimestamp"] >= oldest:
                break
            expired.append((Ref(EVENT, namespace, name), record))
        for ref, record in expired:
            self._delete_make_record(ref, record)

    def _find(self, ref: Ref) -> StoredObject | None:
        return self._records[ref.kind].get((ref.namespace, ref.name))

    def _index(self, ref: Ref, record: StoredObject) -> None:
        self._records[ref.kind][ref.namespace, ref.name] = record
        self._by_uid[record.uid] = ref
        for uid in record.owner_uids:
            self._dependents.setdefault(uid, set()).add(ref)

    def _unindex(self, ref: Ref, record: StoredObject) -> None:
        del self._by_uid[record.uid]
        for uid in record.owner_uids:
            self._dependents[uid].discard(ref)
            if not self._dependents[uid]:
                del self._dependents[uid]

    # Last in the class, because its name hides the builtin from here on.
    def list(self, kind: Kind, namespace: str | None, labels: Mapping[str, str]) -> list[Object]:
        """Return copies of the objects of a kind, in order of namespace and name."""
        wanted = labels.items()
        return [
            record.load()
            for (each, _), record in sorted(self._records[kind].items(), key=lambda item: item[0])
            if namespace in {None, each} and wanted <= record.labels.items()
        ]


def _make_record(body: bytes, owners: field_ownership.FieldOwners, created: int) -> StoredObject:
    metadata = orjson.loads(body)["metadata"]
    uids = frozenset(reference["uid"] for reference in metadata.get("ownerReferences") or ())
    return StoredObject(body, owners, metadata["uid"], created, metadata.get("labels") or {}, uids)


def _timestamp(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")
