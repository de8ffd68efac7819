"""The reference of model.yaml is what the code says, and its schema accepts what the code accepts."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sundog_runtime import reference
from sundog_runtime.errors import LoadFailed
from sundog_runtime.model_yaml import parse_description

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("path", sorted(reference.render_files(ROOT)), ids=lambda path: path.name)
def test_the_reference_is_up_to_date(path: Path) -> None:
    assert path.read_text() == reference.render_files(ROOT)[path], "run python -m sundog_runtime.reference"


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
    assert jsonschema.Draft202012Validator(reference.model_yaml_schema()).is_valid(document) is accepted
    if accepted:
        parse_description(text.encode())
    else:
        with pytest.raises(LoadFailed):
            parse_description(text.encode())
