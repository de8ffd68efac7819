"""The schema of model.yaml accepts what the code accepts."""

from typing import Any

import jsonschema
import pytest
import yaml

from reference import model_yaml
from sundog_runtime.errors import LoadFailed
from sundog_runtime.model_yaml import parse_description


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("{}", True),
        ("{entrypoint: 'net:Net', config: {hidden: 3}, format: torch}", True),
        ("{inputs: [{name: x, dtype: float32, shape: [-1, 4], allowNaN: true}]}", True),
        ("{compile: {enabled: true, mode: max-autotune}, channelsLast: true, batchable: false}", True),
        ("{surprise: 1}", False),
        ("{trustCode: true}", False),
        ("{format: onnx}", False),
        ("{inputs: [{name: x, dtype: float31, shape: [1]}]}", False),
        ("{inputs: [{name: x, dtype: float32}]}", False),
        ("{outputs: [{name: '', dtype: float32, shape: [1]}]}", False),
        ("{compile: {mode: fastest}}", False),
        ("{batchable: 1}", False),
    ],
)
def test_schema_and_code_agree(text: str, accepted: bool) -> None:
    document: Any = yaml.safe_load(text)
    assert jsonschema.Draft202012Validator(model_yaml.model_yaml_schema()).is_valid(document) is accepted
    if accepted:
        parse_description(text.encode())
    else:
        with pytest.raises(LoadFailed):
            parse_description(text.encode())
