"""Devices of pods, and memory that no node could be found by."""

import pytest

from sundog_operator.api import Gpu, ModelDeploymentSpec
from sundog_operator.api.installation import parse_installation
from sundog_operator.core.kubernetes import accelerators
from sundog_operator.core.planner.admission import accept_model_deployment

GAUDIS = "gaudi (32Gi), gaudi2 (96Gi), gaudi3 (128Gi)"


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        (
            {"vendor": "gaudi", "type": ["gaudi2", "mine"], "memory": "40Gi"},
            f"40Gi with type mine; expected none, or types of known memory: {GAUDIS}",
        ),
        (
            {"vendor": "gaudi", "memory": "200Gi"},
            f"200Gi is more than such devices have; expected at most that of {GAUDIS}",
        ),
        (
            {"vendor": "intel", "type": ["flex-170"], "memory": "20Gi"},
            "20Gi is more than such devices have; expected at most that of max-1550 (128Gi), flex-170 (16Gi)",
        ),
        ({"vendor": "gaudi", "type": ["gaudi2"], "memory": "40Gi"}, ""),
        ({"vendor": "gaudi", "memory": "40Gi"}, ""),
        ({"vendor": "gaudi", "type": ["mine"]}, ""),
        ({"vendor": "amd", "type": ["mine"], "memory": "40Gi"}, ""),
        ({"type": ["mine"], "memory": "40Gi"}, ""),
    ],
)
def test_memory_that_no_label_and_no_type_shows_is_refused(gpu: dict[str, object], message: str) -> None:
    found = accelerators.find_unknown_memory(Gpu.from_json({"count": 1, **gpu}))
    assert [str(each) for each in found] == ([f"spec.resources.gpu.memory: {message}"] if message else [])
    spec = {"model": {"uri": "file:///m"}, "resources": {"gpu": {"count": 1, **gpu}}}
    deployment = {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": "vision"},
        "spec": ModelDeploymentSpec.from_json(spec).to_json(),
    }
    accepted = accept_model_deployment(deployment, parse_installation("", "test"))
    assert (accepted.reason, accepted.spec is None) == (("InvalidSpec", True) if message else ("", False))
