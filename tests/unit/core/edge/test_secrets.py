"""The Secrets that an endpoint needs, and the messages about missing ones."""

from typing import Any

import pytest

from sundog_operator.api import Endpoint, ModelDeploymentSpec
from sundog_operator.core.edge import secrets, split_document

WHOLE = {
    "tls": {"secretName": "cert"},
    "auth": {"apiKeys": {"secretName": "keys"}, "jwt": {"jwksSecretName": "jwks"}},
}
THERE = {
    "cert": frozenset({"tls.crt", "tls.key"}),
    "keys": frozenset({"ann"}),
    "jwks": frozenset({"jwks.json"}),
}


def problem(endpoint: dict[str, Any], found: secrets.KeysBySecret) -> tuple[str, str] | None:
    return secrets.find_missing_secrets(secrets.secret_references(Endpoint.from_json(endpoint)), found, "vision")


def test_what_is_all_there_is_no_problem() -> None:
    assert problem({}, {}) is None
    assert problem(WHOLE, THERE) is None


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        (
            {"keys": None},
            "SecretNotFound",
            "spec.endpoint.auth.apiKeys.secretName: Secret vision/keys does not exist; until then the edge rejects every request",
        ),
        (
            {"keys": frozenset()},
            "SecretIncomplete",
            "spec.endpoint.auth.apiKeys.secretName: Secret vision/keys has no keys; until then the edge rejects every request",
        ),
        (
            {"jwks": frozenset({"keys.json"})},
            "SecretIncomplete",
            "spec.endpoint.auth.jwt.jwksSecretName: Secret vision/jwks has no jwks.json; until then the edge rejects every request",
        ),
    ],
)
def test_what_is_missing_is_named(change: secrets.KeysBySecret, reason: str, message: str) -> None:
    assert problem(WHOLE, {**THERE, **change}) == (reason, message)


def test_several_are_reported_together_and_a_missing_one_names_the_reason() -> None:
    found = problem(WHOLE, {**THERE, "jwks": None, "cert": frozenset()})
    assert found is not None
    assert found[0] == "SecretNotFound"
    assert "Secret vision/cert has no tls.crt and no tls.key" in found[1]
    assert "Secret vision/jwks does not exist" in found[1]


def test_the_split_document_names_the_same_secrets() -> None:
    spec = ModelDeploymentSpec.from_json({"model": {"uri": "file:///m"}, "endpoint": WHOLE})
    plain = ModelDeploymentSpec.from_json({"model": {"uri": "file:///m"}})
    services = [
        split_document.make_service_entry("vision", "digits", spec, "sundog-0", None),
        split_document.make_service_entry("vision", "words", plain, "sundog-0", None),
    ]
    assert secrets.secret_names_in_document({"services": services}) == {
        use.secret for use in secrets.secret_references(spec.endpoint)
    }
    assert secrets.secret_names_in_document(None) == frozenset()
