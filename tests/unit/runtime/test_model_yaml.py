"""A model's description of itself."""

import pytest

from sundog_runtime.errors import (
    LoadFailed,
)
from sundog_runtime.model_yaml import parse_description


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inputs: [", "is not YAML"),
        ("inputs: &a []\noutputs: *a", "found a YAML alias"),
        (
            "format: torch\nentrypoint: a:b\nformat: auto",
            "model.yaml: line 3: duplicate key 'format', first in line 1",
        ),
        ("config: {depth: 1, depth: 2}", "model.yaml: line 1: duplicate key 'depth', first in line 1"),
        ("inputs: [{name: x, dtype: float31, shape: [1]}]", "inputs.0.dtype"),
        ("inputs: [{name: x, dtype: float32, shape: 4}]", "inputs.0.shape"),
        ("inputs: [{name: x, dtype: float32, shape: [-2]}]", "inputs.0.shape.0"),
        ("surprise: 1", "surprise: unknown field; known are format, entrypoint, config"),
        ("entrypont: net:Net", "model.yaml: entrypont: unknown field; did you mean entrypoint?"),
        ("channels_last: true", "model.yaml: channels_last: unknown field; did you mean channelsLast?"),
        ("compile: {enable: true}", "model.yaml: compile.enable: unknown field; did you mean enabled?"),
        ("inputs: [{name: x, type: bool, shape: [1]}]", "inputs.0.type: unknown field; did you mean dtype?"),
        ("dependencies: [scikit-learn]", "model.yaml: dependencies: unknown field; install packages in the image of"),
        ("[1]", "valid dictionary"),
        (
            "inputs: [{name: x, dtype: bool, shape: [1]}, {name: x, dtype: bool, shape: [1]}]",
            "two tensors with the same name",
        ),
        ("x: " + "y" * 70_000, "expected at most 65536"),
    ],
)
def test_a_wrong_description_is_refused_with_its_field(text: str, message: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        parse_description(text.encode())
    assert message in caught.value.message
    assert "model.yaml" in caught.value.message
