"""Missing objects that a revision's pods need, named with their field."""

from typing import Any

import pytest

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.core.kubernetes import references
from sundog_operator.core.kubernetes.references import ObjectReference


def spec(uri: str = "file:///models/v1", **more: Any) -> ModelDeploymentSpec:
    model = {"uri": uri, **more.pop("model", {})}
    return ModelDeploymentSpec.from_json({"model": model, **more})


ENV = [
    {"name": "A", "value": "plain"},
    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "b"}}},
    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "c"}}},
    {"name": "D", "valueFrom": {"secretKeyRef": {"name": "maybe", "key": "d", "optional": True}}},
]
NEEDED = (
    ObjectReference("spec.model.credentials.secretName", "Secret", "read"),
    ObjectReference("spec.model.credentials.serviceAccountName", "ServiceAccount", "reader"),
    ObjectReference("spec.model.uri", "PersistentVolumeClaim", "models"),
    ObjectReference("spec.runtime.env[1].valueFrom.secretKeyRef", "Secret", "keys", "b"),
    ObjectReference("spec.runtime.env[2].valueFrom.configMapKeyRef", "ConfigMap", "settings", "c"),
)


def test_everything_that_is_named_is_needed_but_what_is_optional() -> None:
    credentials = {"secretName": "read", "serviceAccountName": "reader"}
    asked = spec("pvc://models/v1", model={"credentials": credentials}, runtime={"env": ENV})
    assert references.find_references(asked) == NEEDED
    assert references.find_references(spec()) == ()


@pytest.mark.parametrize(
    ("need", "keys", "reason", "message"),
    [
        (NEEDED[0], None, "SecretNotFound", "spec.model.credentials.secretName: Secret ns/read does not exist"),
        (
            NEEDED[1],
            None,
            "ServiceAccountNotFound",
            "spec.model.credentials.serviceAccountName: ServiceAccount ns/reader does not exist",
        ),
        (NEEDED[2], None, "ClaimNotFound", "spec.model.uri: PersistentVolumeClaim ns/models does not exist"),
        (
            NEEDED[3],
            frozenset({"a"}),
            "SecretIncomplete",
            "spec.runtime.env[1].valueFrom.secretKeyRef: Secret ns/keys has no key b",
        ),
        (
            NEEDED[4],
            frozenset({"a"}),
            "ConfigMapIncomplete",
            "spec.runtime.env[2].valueFrom.configMapKeyRef: ConfigMap ns/settings has no key c",
        ),
    ],
)
def test_what_is_missing_is_reported_with_its_field(
    need: ObjectReference, keys: Any, reason: str, message: str
) -> None:
    assert references.find_missing_references([need], {(need.kind, need.name): keys}, "ns") == (reason, message)


def test_what_is_there_or_was_not_looked_for_is_no_problem() -> None:
    assert references.find_missing_references(NEEDED, {}, "ns") is None
    assert references.find_missing_references([NEEDED[3]], {("Secret", "keys"): frozenset({"b"})}, "ns") is None
    assert references.find_missing_references([NEEDED[0]], {("Secret", "read"): frozenset()}, "ns") is None


@pytest.mark.parametrize(
    ("uri", "claim"),
    [
        ("pvc://models/digits/v1", "models"),
        ("pvc://models", "models"),
        ("pvc://Models/v1", ""),
        ("pvc://../v1", ""),
        ("file:///pvc://models", ""),
    ],
)
def test_only_a_claim_s_name_is_mounted(uri: str, claim: str) -> None:
    assert references.parse_claim(uri) == claim


def test_a_registry_s_credentials_are_the_file_that_its_client_reads() -> None:
    mounted = references.make_mounts(
        spec("oci://registry.example.com/m@sha256:" + "0" * 64, model={"credentials": {"secretName": "registry"}})
    )
    (volume,) = mounted.volumes
    assert volume["secret"]["secretName"] == "registry"
    assert mounted.env == ({"name": "DOCKER_CONFIG", "value": mounted.mounts[0]["mountPath"]},)
    assert references.make_mounts(spec()) == references.PodMounts()
