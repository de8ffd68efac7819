"""The objects of the in-memory API server and the rules of how they change. Each call is one atomic step."""

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import orjson

from sundog_operator.adapters.memory_kubernetes import field_ownership, schemas, secrets, validation
from sundog_operator.adapters.memory_kubernetes.history import History, ObjectChange
from sundog_operator.adapters.memory_kubernetes.journal import FIRST_REVISION, JournalRow, ObjectJournal
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
    SECRET,
    SERVICE,
    STATEFUL_SET,
    Clock,
    Kind,
    Object,
    Ref,
)

Admit = Callable[[Object, Object | None], Sequence[str]]
"""Judges an object about to be stored, given the stored one: one line per violation."""

Subresource = Literal["", "status"]

_COUNTED_WITH_STATUS = frozenset(
    {MODEL_DEPLOYMENT, EXPERIMENT, DEPLOYMENT, POD, RAY_CLUSTER, STATEFUL_SET, POD_DISRUPTION_BUDGET, HTTP_ROUTE}
)
KINDS_WITH_STATUS = _COUNTED_WITH_STATUS | {SERVICE, PERSISTENT_VOLUME_CLAIM, NODE, RESOURCE_QUOTA, NAMESPACE}
"""Kinds with a status subresource: only /status changes their status."""

KINDS_WITH_GENERATION = _COUNTED_WITH_STATUS | {NETWORK_POLICY}
"""Kinds whose generation counts the changes of their content."""

_EVENT_LIFE = timedelta(hours=1)
_SERVER_FIELDS = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One stored object: its JSON, which nobody can change, and what is looked up often."""

    body: bytes
    owners: field_ownership.FieldOwners
    uid: str
    created: int
    labels: Mapping[str, str]
    owner_uids: frozenset[str]

    def load(self) -> Object:
        """A copy of the object, the caller's own."""
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
        self, clock: Clock, *, schemas: Mapping[str, schemas.Schema], admit: Admit | None, journal: ObjectJournal | None
    ) -> None:
        self._clock = clock
        self._schemas = schemas
        self._admit = admit
        self._journal = journal
        self._identity = uuid.UUID(journal.identity) if journal else uuid.NAMESPACE_OID
        self.revision = journal.revision if journal else FIRST_REVISION
        self._records: dict[Kind, dict[tuple[str, str], StoredObject]] = {kind: {} for kind in KINDS}
        self._by_uid: dict[str, Ref] = {}
        self._dependents: dict[str, set[Ref]] = {}
        self.history = History(self.revision)
        for row in journal.rows() if journal else ():
            self._place(row.ref, _record(row.body, row.owners, row.created))
        self._collect([ref for refs in list(self._dependents.values()) for ref in sorted(refs)])

    def get(self, ref: Ref) -> Object | None:
        """A copy of the object, or None."""
        record = self._find(ref)
        return record.load() if record else None

    def create(self, obj: Object, manager: str, *, strict: bool) -> WriteResult:
        """Store a new object. Raises AlreadyExists, Invalid; strict makes a field that the schema lacks invalid."""
        ref, intent = self._intent(obj, strict=strict)
        if self._find(ref) is not None:
            raise AlreadyExists(f"{ref} already exists")
        if intent["metadata"].get("resourceVersion"):
            raise Invalid(str(ref), ["metadata.resourceVersion: must not be set on create"])
        return self._write(
            ref, None, intent, lambda after: field_ownership.update_owners(_blank(ref), {}, after, manager)
        )

    def apply(self, obj: Object, manager: str, *, force: bool, strict: bool, dry_run: bool = False) -> WriteResult:
        """Server-side apply. Raises Conflict for a resourceVersion, a uid or (without force) another owner; Invalid.

        Strict makes a field that the schema lacks invalid; else it is dropped. A dry run stores nothing.
        """
        ref, intent = self._intent(obj, strict=strict)
        record = self._find(ref)
        before = record.load() if record else _blank(ref)
        _check(ref, before, uid=intent["metadata"].get("uid"), revision=intent["metadata"].get("resourceVersion"))
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
        """Replace an object by what `change` makes of it; identity and system fields stay.

        A resourceVersion or uid that `change` sets is a precondition. Raises NotFound, Conflict, Invalid.
        """
        record = self._find(ref)
        if record is None:
            raise NotFound(f"{ref} does not exist")
        if subresource and ref.kind not in KINDS_WITH_STATUS:
            raise NotFound(f"{ref} has no {subresource}")
        before = record.load()
        changed = _normal(ref, change(record.load()))
        _check(ref, before, uid=changed["metadata"].get("uid"), revision=changed["metadata"].get("resourceVersion"))
        after = _merge_parts(before, changed, subresource, with_status=ref.kind in KINDS_WITH_STATUS)
        self._prune(ref, after, strict=strict)
        if subresource == "status":
            self._judge_status(ref, after, before)
        return self._write(
            ref, record, after, lambda final: field_ownership.update_owners(before, record.owners, final, manager)
        )

    def delete(self, ref: Ref, *, uid: str | None = None, revision: str | None = None) -> Object:
        """Delete, and then collect what only this object owned. Raises NotFound, Conflict. Finalizers hold it back."""
        record = self._find(ref)
        if record is None:
            raise NotFound(f"{ref} does not exist")
        before = record.load()
        _check(ref, before, uid=uid, revision=revision)
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
            raise NotFound(f"the server serves no kind {obj.get('kind')!r} of {obj.get('apiVersion')!r}")
        metadata = obj.get("metadata") or {}
        namespace = str(metadata.get("namespace") or "") if kind.namespaced else ""
        ref = Ref(kind, namespace, str(metadata.get("name") or ""))
        intent = _normal(ref, obj)
        self._prune(ref, intent, strict=strict)
        if kind in KINDS_WITH_STATUS:
            intent.pop("status", None)
        return ref, intent

    def _prune(self, ref: Ref, obj: Object, *, strict: bool) -> None:
        schema = self._schemas.get(ref.kind.kind)
        unknown = schemas.prune(obj, schema) if schema else []
        if strict and unknown:
            raise Invalid(str(ref), unknown)

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
        if schema := self._schemas.get(ref.kind.kind):
            schemas.apply_defaults(after, schema)
        owners = owners_of(after)
        _keep_server_fields(after, before)
        if record is not None and after == before and owners == record.owners:
            return WriteResult(after, changed=False)
        self._judge(ref, after, before)
        if dry_run:
            return WriteResult(after, changed=False)
        if (
            record is not None
            and after["metadata"].get("deletionTimestamp")
            and not after["metadata"].get("finalizers")
        ):
            self._collect(self._erase(ref, record))
            return WriteResult(after, changed=True)
        self._stamp(ref, after, before)
        self._commit(ref, record, after, owners)
        self._collect([ref])
        return WriteResult(after, changed=True)

    def _judge(self, ref: Ref, after: Object, before: Object | None) -> None:
        found = validation.find_violations(after, before)
        # Like ratcheting: content that was stored once can always be stored again, with new metadata or status.
        if self._admit and (
            before is None or field_ownership.authored_content(after) != field_ownership.authored_content(before)
        ):
            found += self._admit(orjson.loads(orjson.dumps(after)), before)
        if found:
            raise Invalid(str(ref), found)

    def _judge_status(self, ref: Ref, after: Object, before: Object) -> None:
        """Refuse a status that the schema of its kind does not allow, as the API server does; one that was stored before may stay."""
        schema = self._schemas.get(ref.kind.kind, {}).get("properties", {}).get("status")
        if schema is None or "status" not in after or after["status"] == before.get("status"):
            return
        if found := list(schemas.find_violations(after["status"], schema, "status")):
            raise Invalid(str(ref), found)

    def _stamp(self, ref: Ref, after: Object, before: Object | None) -> None:
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
        fresh = _record(orjson.dumps(after), owners, record.created if record else revision)
        if self._journal:
            self._journal.put(revision, JournalRow(ref, fresh.created, fresh.body, owners))
        self.revision = revision
        if record:
            self._displace(ref, record)
        self._place(ref, fresh)
        previous = record.labels if record else None
        self.history.append(
            ObjectChange(revision, "MODIFIED" if record else "ADDED", ref, fresh.body, fresh.labels, previous)
        )

    def _remove(self, ref: Ref, record: StoredObject) -> list[Ref]:
        obj = record.load()
        metadata = obj["metadata"]
        if not metadata.get("finalizers"):
            return self._erase(ref, record)
        if not metadata.get("deletionTimestamp"):
            metadata["deletionTimestamp"] = _timestamp(self._clock.now())
            metadata["deletionGracePeriodSeconds"] = 0
            if "generation" in metadata:
                metadata["generation"] += 1
            self._commit(ref, record, obj, record.owners)
        return []

    def _erase(self, ref: Ref, record: StoredObject) -> list[Ref]:
        """Take one object away for good; the objects that named it as an owner."""
        revision = self.revision + 1
        obj = record.load()
        obj["metadata"]["resourceVersion"] = str(revision)
        if self._journal:
            self._journal.drop(revision, ref)
        self.revision = revision
        self._displace(ref, record)
        del self._records[ref.kind][ref.namespace, ref.name]
        self.history.append(ObjectChange(revision, "DELETED", ref, orjson.dumps(obj), record.labels, record.labels))
        return sorted(self._dependents.get(record.uid, ()))

    def _collect(self, suspects: Iterable[Ref]) -> None:
        """Garbage collection: delete what has lost its last owner, and owner references that point nowhere."""
        queue = deque(suspects)
        while queue:
            ref = queue.popleft()
            record = self._find(ref)
            if record is None or not record.owner_uids:
                continue
            alive = frozenset(uid for uid in record.owner_uids if self._owns(uid, ref))
            if not alive:
                queue.extend(self._remove(ref, record))
            elif alive != record.owner_uids:
                self._forget_owners(ref, record, alive)

    def _owns(self, uid: str, dependent: Ref) -> bool:
        owner = self._by_uid.get(uid)
        return owner is not None and owner.namespace in {"", dependent.namespace}

    def _forget_owners(self, ref: Ref, record: StoredObject, alive: frozenset[str]) -> None:
        obj = record.load()
        references = [item for item in obj["metadata"]["ownerReferences"] if item["uid"] in alive]
        obj["metadata"]["ownerReferences"] = references
        self._commit(
            ref, record, obj, field_ownership.update_owners(record.load(), record.owners, obj, "garbage-collector")
        )

    def _expire_events(self) -> None:
        oldest = _timestamp(self._clock.now() - _EVENT_LIFE)
        events = self._records[EVENT]
        # Events are kept in order of creation, and the timestamps sort as text.
        expired: list[tuple[Ref, StoredObject]] = []
        for (namespace, name), record in events.items():
            if record.load()["metadata"]["creationTimestamp"] >= oldest:
                break
            expired.append((Ref(EVENT, namespace, name), record))
        for ref, record in expired:
            self._erase(ref, record)

    def _find(self, ref: Ref) -> StoredObject | None:
        return self._records[ref.kind].get((ref.namespace, ref.name))

    def _place(self, ref: Ref, record: StoredObject) -> None:
        self._records[ref.kind][ref.namespace, ref.name] = record
        self._by_uid[record.uid] = ref
        for uid in record.owner_uids:
            self._dependents.setdefault(uid, set()).add(ref)

    def _displace(self, ref: Ref, record: StoredObject) -> None:
        del self._by_uid[record.uid]
        for uid in record.owner_uids:
            self._dependents[uid].discard(ref)
            if not self._dependents[uid]:
                del self._dependents[uid]

    # Last in the class, because its name hides the builtin from here on.
    def list(self, kind: Kind, namespace: str | None, labels: Mapping[str, str]) -> list[Object]:
        """Copies of the objects of a kind, in order of namespace and name."""
        wanted = labels.items()
        return [
            record.load()
            for (place, _), record in sorted(self._records[kind].items(), key=lambda item: item[0])
            if (namespace is None or place == namespace) and wanted <= record.labels.items()
        ]


def _record(body: bytes, owners: field_ownership.FieldOwners, created: int) -> StoredObject:
    metadata = orjson.loads(body)["metadata"]
    uids = frozenset(reference["uid"] for reference in metadata.get("ownerReferences") or ())
    return StoredObject(body, owners, metadata["uid"], created, metadata.get("labels") or {}, uids)


def _normal(ref: Ref, obj: Object) -> Object:
    """A copy of an object as plain JSON, with its type and name where the API server wants them."""
    try:
        copy: Object = orjson.loads(orjson.dumps(obj))
    except TypeError as error:
        raise Invalid(str(ref), [str(error)]) from None
    metadata: dict[str, Any] = copy.get("metadata") or {}
    metadata.pop("managedFields", None)
    metadata |= _named(ref)
    if ref.kind == SECRET:
        secrets.fold_string_data(copy)
    return copy | {"apiVersion": ref.kind.api_version, "kind": ref.kind.kind, "metadata": metadata}


def _blank(ref: Ref) -> Object:
    return {
        "apiVersion": ref.kind.api_version,
        "kind": ref.kind.kind,
        "metadata": _named(ref),
    }


def _named(ref: Ref) -> dict[str, Any]:
    return {"name": ref.name, "namespace": ref.namespace} if ref.kind.namespaced else {"name": ref.name}


def _merge_parts(before: Object, changed: Object, subresource: Subresource, *, with_status: bool) -> Object:
    if not with_status:
        return changed
    base, status = (before, changed) if subresource == "status" else (changed, before)
    after = {key: value for key, value in base.items() if key != "status"}
    return after | ({"status": status["status"]} if "status" in status else {})


def _keep_server_fields(after: Object, before: Object | None) -> None:
    metadata = after["metadata"]
    stored = before["metadata"] if before else {}
    for field in _SERVER_FIELDS:
        metadata.pop(field, None)
        if field in stored:
            metadata[field] = stored[field]
    for field in ("labels", "annotations", "finalizers", "ownerReferences"):
        if not metadata.get(field, True):
            del metadata[field]


def _check(ref: Ref, before: Object, *, uid: str | None, revision: str | None) -> None:
    metadata = before["metadata"]
    if uid and uid != metadata.get("uid"):
        raise Conflict(f"{ref}: uid is {metadata.get('uid', 'absent')}, expected {uid}")
    if revision and revision != metadata.get("resourceVersion"):
        raise Conflict(f"{ref}: resourceVersion is {metadata.get('resourceVersion', 'absent')}, expected {revision}")


def _timestamp(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")
