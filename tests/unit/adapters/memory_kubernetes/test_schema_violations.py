"""Violations of a structural schema by a status, as in a real API server."""

from typing import Any

import pytest

from doubles.clock import FakeClock
from doubles.cluster import STATUS_SCHEMAS
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes, schemas
from sundog_operator.errors import Invalid
from sundog_operator.ports import EXPERIMENT, Ref

TEXT = {"type": "string", "maxLength": 3, "minLength": 1, "pattern": "^[a-z]+$"}
MAP = {
    "type": "array",
    "maxItems": 2,
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
    "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
}


@pytest.mark.parametrize(
    ("value", "schema", "messages"),
    [
        ("abc", TEXT, []),
        ("abcd", TEXT, ['s: "abcd" is longer than 3']),
        ("", TEXT, ['s: "" is shorter than 1', 's: "" does not match ^[a-z]+$']),
        ("a\n", TEXT, ['s: "a\\n" does not match ^[a-z]+$']),
        (5, TEXT, ["s: 5; expected type string"]),
        (True, {"type": "integer"}, ["s: true; expected type integer"]),
        (1.5, {"type": "integer"}, ["s: 1.5; expected type integer"]),
        (1, {"type": "number"}, []),
        (None, {"type": "number", "nullable": True}, []),
        (None, {"type": "number"}, ["s: null; expected type number"]),
        (-1, {"type": "integer", "minimum": 0}, ["s: -1 is less than 0"]),
        (11, {"type": "integer", "maximum": 10}, ["s: 11 is more than 10"]),
        (0, {"type": "number", "minimum": 0, "exclusiveMinimum": True}, ["s: 0 is not above 0"]),
        ("c", {"type": "string", "enum": ["a", "b"]}, ['s: "c"; expected one of a, b']),
        ("25%", {"x-kubernetes-int-or-string": True}, []),
        ([], {"x-kubernetes-int-or-string": True}, ["s: []; expected type integer or string"]),
        ([{"name": "a"}, {"name": "b"}], MAP, []),
        ([{"name": "a"}, {"name": "a"}], MAP, ['s: {"name":"a"} is a duplicate']),
        (["a", "b", "a"], {"type": "array", "x-kubernetes-list-type": "set"}, ['s: "a" is a duplicate']),
        ([{}], MAP, ["s[0].name: is required"]),
        ([{"name": str(number)} for number in range(3)], MAP, ['s: [{"name":"0"},{"name":"1"},{"name":"2"}] is longer than 2']),
        ({"a": 1}, {"type": "object", "additionalProperties": {"type": "string"}}, ["s.a: 1; expected type string"]),
        ({"a": {"b": 1}}, {"x-kubernetes-preserve-unknown-fields": True}, []),
    ],
)  # fmt: skip
def test_violations(value: Any, schema: dict[str, Any], messages: list[str]) -> None:
    assert list(schemas.find_violations(value, schema, "s")) == messages


async def test_a_status_that_a_real_server_refuses_is_refused_unless_it_was_stored() -> None:
    kube = MemoryKubernetes(FakeClock(), schemas=STATUS_SCHEMAS)
    experiment = {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "digits-r2", "namespace": "vision"},
        "spec": {"modelDeployment": "digits"},
    }
    stored = await kube.create(experiment)
    ref = Ref(EXPERIMENT, "vision", "digits-r2")
    revision = stored["metadata"]["resourceVersion"]
    arms = [{"name": f"a{number}", "weight": 1} for number in range(12)]
    for status in ({"arms": arms}, {"phase": "Dreaming"}, {"lastCommand": "x" * 65}, {"epoch": {"number": -1}}):
        with pytest.raises(Invalid, match="status"):
            await kube.patch_status(ref, status, resource_version=revision)
    after = await kube.patch_status(ref, {"arms": arms[:11], "phase": "Running"}, resource_version=revision)
    assert after["status"]["phase"] == "Running"
