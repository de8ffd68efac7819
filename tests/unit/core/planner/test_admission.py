"""Which specs the operator accepts beyond the rules of the schema."""

from typing import Any

import pytest

from sundog_operator.core.planner.admission import MAX_CONFIG_BYTES, accept_model_deployment

LARGE = {"a": "x" * MAX_CONFIG_BYTES}


def deployment(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": "vision", "uid": "u", "generation": 2},
        "spec": {"model": {"uri": "file:///models/v1"}} | spec,
        "status": status or {},
    }


def accepted(generation: int, status: str = "True") -> dict[str, Any]:
    condition = {"type": "SpecAccepted", "status": status, "reason": "Accepted"}
    return {
        "conditions": [condition | {"lastTransitionTime": "2026-11-25T12:00:00Z", "observedGeneration": generation}]
    }


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"model": {"uri": "file:///models/v1", "config": LARGE}}, "spec.model.config"),
        ({"runtime": {"userConfig": LARGE}}, "spec.runtime.userConfig"),
    ],
)
def test_a_large_configuration_is_refused_unless_it_was_accepted_before(spec: dict[str, Any], path: str) -> None:
    new = deployment(**spec)
    for refused in (new, deployment(accepted(1), **spec), deployment(accepted(2, "False"), **spec)):
        found = accept_model_deployment(refused)
        assert found.reason == "InvalidSpec"
        assert found.message.startswith(f"{path}: 65545 bytes of JSON; expected at most 65536.")
    assert accept_model_deployment(deployment(accepted(2), **spec)).spec is not None


def test_a_configuration_of_the_limit_is_accepted() -> None:
    config = {"a": "x" * (MAX_CONFIG_BYTES - 9)}
    assert accept_model_deployment(deployment(runtime={"userConfig": config})).spec is not None
