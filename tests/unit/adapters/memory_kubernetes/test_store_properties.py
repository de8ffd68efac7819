"""Random operations: the rules of the server always hold."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from doubles.clock import FakeClock
from doubles.hooked_kubernetes import HookedKubernetes
from profiles import examples
from sundog_operator.adapters.memory_kubernetes.history import ObjectChange
from sundog_operator.errors import AlreadyExists, Conflict, NotFound
from sundog_operator.ports import CONFIG_MAP, KINDS, MODEL_DEPLOYMENT, POD, Object, Ref, ref_of

NAMES = st.sampled_from(["a", "b", "c"])
OWNED = (MODEL_DEPLOYMENT, CONFIG_MAP, POD)
REFS = st.builds(Ref, st.sampled_from(OWNED), st.just("vision"), NAMES)
MANAGERS = st.sampled_from(["one", "two"])
VALUES = st.recursive(
    st.integers(0, 2) | st.lists(st.integers(0, 1), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=4,
)
CONTENT = st.dictionaries(st.sampled_from(["spec", "data", "other"]), VALUES, max_size=2)
LABELS = st.dictionaries(st.sampled_from(["l", "m"]), st.sampled_from(["1", "2"]), max_size=2)


def content(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in {"metadata", "status"}}


class Histories(RuleBasedStateMachine):
    """One server and a replica that is built from its watch."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "state.db"
        self.loop = asyncio.new_event_loop()
        self.kube = self.open()
        self.changes = self.kube.subscribe()
        self.replica: dict[Ref, Object] = {}
        self.last = self.kube.store.revision

    @initialize()
    def have_an_object(self) -> None:
        self.apply(Ref(MODEL_DEPLOYMENT, "vision", "a"), "one", {"spec": {"x": 1}}, {}, [])

    @rule(ref=REFS, manager=MANAGERS, body=CONTENT, labels=LABELS, owners=st.lists(REFS, max_size=2))
    def apply(self, ref: Ref, manager: str, body: Object, labels: Any, owners: list[Ref]) -> None:
        intent = self.make(ref, body, labels, owners)
        before = self.replica.get(ref)
        after = self.run(self.kube.apply(intent, manager=manager))
        self.replay()
        again = self.run(self.kube.apply(intent, manager=manager)) if ref in self.replica else after
        assert again == after, "an apply that changes nothing wrote"
        for key, value in content(intent).items():
            assert holds(after[key], value), f"{key} is {after[key]}, applied {value}"
        self.judge(before, after)

    @rule(ref=REFS, body=CONTENT, labels=LABELS, owners=st.lists(REFS, max_size=2))
    def create(self, ref: Ref, body: Object, labels: Any, owners: list[Ref]) -> None:
        try:
            created = self.run(self.kube.create(self.make(ref, body, labels, owners)))
        except AlreadyExists:
            assert ref in self.replica
        else:
            assert ref not in self.replica
            self.judge(None, created)

    @rule(ref=REFS, status=VALUES, stale=st.booleans())
    def patch_status(self, ref: Ref, status: Any, stale: bool) -> None:
        before = self.replica.get(ref)
        version = "1" if stale or before is None else before["metadata"]["resourceVersion"]
        try:
            after = self.run(self.kube.patch_status(ref, {"value": status}, resource_version=version))
        except NotFound:
            assert before is None or ref.kind == CONFIG_MAP
        except Conflict:
            assert stale
        else:
            assert before is not None
            assert content(after) == content(before)
            assert after["status"] == {"value": status}
            self.judge(before, after)

    @rule(ref=REFS, annotations=st.dictionaries(st.sampled_from(["p", "q"]), st.sampled_from(["1", "2"]) | st.none()))
    def annotate(self, ref: Ref, annotations: Any) -> None:
        before = self.replica.get(ref)
        try:
            after = self.run(self.kube.annotate(ref, annotations))
        except NotFound:
            assert before is None
        else:
            assert before is not None
            assert content(after) == content(before)
            kept = before["metadata"].get("annotations", {}) | annotations
            assert after["metadata"].get("annotations", {}) == {k: v for k, v in kept.items() if v is not None}
            self.judge(before, after)

    @rule(ref=REFS)
    def delete(self, ref: Ref) -> None:
        self.run(self.kube.delete(ref))
        self.replay()
        assert ref not in self.replica

    @rule()
    def restart(self) -> None:
        self.replay()
        self.kube.close()
        self.kube = self.open()
        assert self.kube.store.revision == self.last, "a restart lost or made writes"
        self.changes = self.kube.subscribe()

    @rule()
    def compact(self) -> None:
        self.replay()
        self.kube.compact()

    @invariant()
    def the_watch_tells_what_a_list_shows(self) -> None:
        self.replay()
        for kind in KINDS:
            listed = self.run(self.kube.list(kind))
            assert listed == [self.replica[ref] for ref in sorted(self.replica) if ref.kind == kind]

    @invariant()
    def nothing_is_orphaned(self) -> None:
        self.replay()
        uids = {obj["metadata"]["uid"] for obj in self.replica.values()}
        for ref, obj in self.replica.items():
            owners = [reference["uid"] for reference in obj["metadata"].get("ownerReferences", [])]
            assert set(owners) <= uids, f"{ref} names an owner that is gone"

    def teardown(self) -> None:
        self.kube.close()
        self.loop.close()
        self.folder.cleanup()

    def open(self) -> HookedKubernetes:
        kube = HookedKubernetes.open(self.path, FakeClock())
        # No power failure is tested here, and syncing thousands of files takes minutes on a busy disk.
        kube.store._journal._database.execute("PRAGMA synchronous = OFF")  # type: ignore[union-attr]
        return kube

    def make(self, ref: Ref, body: Object, labels: Any, owners: list[Ref]) -> Object:
        references = {
            obj["metadata"]["uid"]: {"apiVersion": "v1", "kind": "K", "name": obj["metadata"]["name"], "uid": obj["metadata"]["uid"]}
            for obj in map(self.replica.get, owners)
            if obj is not None
        }  # fmt: skip
        metadata = {"name": ref.name, "namespace": ref.namespace, "labels": labels, "ownerReferences": list(references.values())}  # fmt: skip  # noqa: E501
        # The data of a config map must be strings, which this test does not need.
        body = {key: value for key, value in body.items() if key != "data" or ref.kind != CONFIG_MAP}
        return {"apiVersion": ref.kind.api_version, "kind": ref.kind.kind, "metadata": metadata} | body

    def judge(self, before: Object | None, after: Object) -> None:
        """Check generation and identity between two versions of one object."""
        metadata = after["metadata"]
        if ref_of(after).kind == CONFIG_MAP:
            assert "generation" not in metadata
        elif before is None:
            assert metadata["generation"] == 1
        else:
            bumped = content(after) != content(before)
            assert metadata["generation"] == before["metadata"]["generation"] + bumped
        if before is not None:
            assert metadata["uid"] == before["metadata"]["uid"]
            assert (metadata["resourceVersion"] == before["metadata"]["resourceVersion"]) == (after == before)

    def replay(self) -> None:
        for change in self.run(self.changes.next(timeout_s=0)):
            self.see(change)

    def see(self, change: ObjectChange) -> None:
        assert change.revision == self.last + 1, "a resourceVersion was left out or came twice"
        self.last = change.revision
        obj, before = change.load(), self.replica.get(change.ref)
        assert obj["metadata"]["resourceVersion"] == str(change.revision)
        assert (change.type == "ADDED") == (before is None)
        if change.type == "DELETED":
            del self.replica[change.ref]
        else:
            assert obj != before, "an event without a change"
            self.replica[change.ref] = obj

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)


def holds(found: Any, applied: Any) -> bool:
    """Return whether an applied value is stored; others may have added to its objects."""
    if isinstance(applied, dict):
        return isinstance(found, dict) and all(key in found and holds(found[key], applied[key]) for key in applied)
    return bool(found == applied)


Histories.TestCase.settings = settings(
    max_examples=examples(50), stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestHistories = Histories.TestCase
