"""Ownership of fields between two managers."""

from typing import Any

import pytest

from sundog_operator.adapters.memory_kubernetes import field_ownership
from sundog_operator.errors import Conflict
from sundog_operator.ports import Object


def obj(spec: Any = None, **metadata: Any) -> Object:
    meta = {"name": "a", "namespace": "b"} | metadata
    return {"apiVersion": "v1", "kind": "Thing", "metadata": meta} | ({"spec": spec} if spec is not None else {})


class Applied:
    """An object and its owners, through a history of applies and updates."""

    def __init__(self) -> None:
        self.object: Object = obj()
        self.owners: field_ownership.FieldOwners = {}

    def apply(self, manager: str, intent: Object, *, force: bool = True) -> Object:
        self.object, self.owners = field_ownership.apply_fields(self.object, self.owners, intent, manager, force=force)
        return self.object

    def update(self, manager: str, after: Object) -> None:
        self.owners = field_ownership.update_owners(self.object, self.owners, after, manager)
        self.object = after


@pytest.fixture
def applied() -> Applied:
    return Applied()


def test_a_field_goes_with_its_last_owner(applied: Applied) -> None:
    applied.apply("one", obj({"x": 1}))
    applied.apply("two", obj({"x": 1, "y": 2}))
    assert applied.apply("one", obj())["spec"] == {"x": 1, "y": 2}
    assert applied.apply("two", obj({"y": 2}))["spec"] == {"y": 2}


def test_a_field_that_an_update_changed_is_the_updaters(applied: Applied) -> None:
    applied.apply("one", obj({"x": 1, "y": 1}))
    applied.update("two", obj({"x": 2, "y": 1}))
    assert applied.apply("one", obj())["spec"] == {"x": 2}


def test_a_field_that_an_update_removed_has_no_owner(applied: Applied) -> None:
    applied.apply("one", obj({"x": 1, "y": 1}))
    applied.update("two", obj({"y": 1}))
    assert applied.owners == {"one:Apply": frozenset({("spec", "y")})}


def test_force_takes_a_field_over(applied: Applied) -> None:
    applied.apply("one", obj({"x": 1}))
    assert applied.apply("two", obj({"x": 2}))["spec"] == {"x": 2}
    assert applied.owners == {"two:Apply": frozenset({("spec", "x")})}
    assert applied.apply("one", obj())["spec"] == {"x": 2}
    assert "spec" not in applied.apply("two", obj())


def test_without_force_another_value_is_a_conflict(applied: Applied) -> None:
    applied.apply("one", obj({"x": 1}))
    with pytest.raises(Conflict, match=r"spec\.x is owned by one"):
        applied.apply("two", obj({"x": 2}), force=False)
    assert applied.apply("two", obj({"x": 1}), force=False)["spec"] == {"x": 1}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"x": 1}, {"x": {"deep": {"er": 1}}}),
        ({"x": {"deep": {"er": 1}}}, {"x": 1}),
        ({"x": {"deep": 1}}, {"x": [1]}),
        ({"x": {}}, {"x": {"deep": 1}}),
        ({"x": {"deep": 1}}, {"x": {}}),
        ({"x": None}, {"x": {}}),
    ],
)
def test_a_field_may_change_its_shape(applied: Applied, before: Any, after: Any) -> None:
    applied.apply("one", obj(before))
    assert applied.apply("one", obj(after))["spec"] == after
    assert applied.apply("one", obj(after))["spec"] == after


def test_a_field_that_changes_its_shape_is_taken_from_others(applied: Applied) -> None:
    applied.apply("one", obj({"x": {"deep": 1}}))
    with pytest.raises(Conflict, match=r"spec\.x\.deep is owned by one"):
        applied.apply("two", obj({"x": 1}), force=False)
    assert applied.apply("two", obj({"x": 1}))["spec"] == {"x": 1}
    assert applied.apply("one", obj())["spec"] == {"x": 1}


def test_an_empty_object_leaves_the_fields_of_others(applied: Applied) -> None:
    applied.apply("one", obj({"x": {"deep": 1}}))
    assert applied.apply("two", obj({"x": {}}), force=False)["spec"] == {"x": {"deep": 1}}


def test_unowned_fields_are_removed_with_the_last_owner_of_their_parent(applied: Applied) -> None:
    applied.apply("one", obj({"x": {"mine": 1}, "y": 1}))
    applied.object["spec"]["x"]["default"] = 64
    assert applied.apply("one", obj({"x": {"mine": 2}, "y": 1}))["spec"] == {"x": {"mine": 2, "default": 64}, "y": 1}
    assert applied.apply("one", obj({"y": 1}))["spec"] == {"y": 1}


def test_owner_references_are_kept_by_uid(applied: Applied) -> None:
    first, second, renamed = {"uid": "1", "name": "a"}, {"uid": "2", "name": "b"}, {"uid": "1", "name": "c"}
    applied.apply("one", obj(ownerReferences=[first]))
    applied.apply("two", obj(ownerReferences=[second]))
    assert applied.object["metadata"]["ownerReferences"] == [first, second]
    applied.apply("one", obj(ownerReferences=[renamed]))
    assert applied.object["metadata"]["ownerReferences"] == [renamed, second]
    applied.apply("one", obj())
    assert applied.object["metadata"]["ownerReferences"] == [second]


def test_finalizers_are_a_set(applied: Applied) -> None:
    applied.apply("one", obj(finalizers=["a", "b"]))
    applied.apply("two", obj(finalizers=["b", "c"]))
    assert applied.apply("one", obj())["metadata"]["finalizers"] == ["b", "c"]


def test_status_and_identity_are_not_applied(applied: Applied) -> None:
    applied.object |= {"status": {"x": 1}}
    applied.apply("one", obj({"x": 1}, uid="stolen") | {"status": {"x": 2}})
    assert applied.object["status"] == {"x": 1}
    assert "uid" not in applied.object["metadata"]
