"""The manifests of the demo and of the example, as `sundog local up` reads them."""

from pathlib import Path

import pytest

from sundog_operator.api import ModelDeployment, find_unsupported_fields
from sundog_operator.ports import Object
from sundog_operator.shell import manifests
from sundog_operator.shell.demo import manifest
from sundog_operator.shell.demo.dataset import BROKEN_MODEL, GOOD_MODEL, WEAK_MODEL

EXAMPLE = Path(__file__).parents[4] / "examples" / "digits" / "local" / "modeldeployment.yaml"


def read(path: Path) -> Object:
    documents, problems = manifests.read_manifest_file(path, "default")
    assert not problems
    [document] = documents
    return document.object


@pytest.mark.parametrize("model", [WEAK_MODEL, GOOD_MODEL, BROKEN_MODEL])
def test_the_manifest_is_valid_and_acted_on_in_full(tmp_path: Path, model: str) -> None:
    path = tmp_path / "digits.yaml"
    manifest.write_manifest(path, model)
    spec = ModelDeployment.parse(read(path)).spec
    assert find_unsupported_fields(spec) == []
    assert spec.model.uri == f"file://{tmp_path}/models/{model}"
    assert [(step.weight, step.gate) for step in spec.rollout.steps] == [(25, "time"), (50, "manual")]


def test_an_edit_changes_the_model_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "digits.yaml"
    manifest.write_manifest(path, WEAK_MODEL)
    before = path.read_text().splitlines()
    manifest.write_manifest(path, GOOD_MODEL)
    after = path.read_text().splitlines()
    changed = [(old.strip(), new.strip()) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [("uri: file://${MANIFEST_DIR}/models/v1", "uri: file://${MANIFEST_DIR}/models/v2")]
    assert [entry.name for entry in tmp_path.iterdir()] == ["digits.yaml"]


def test_the_example_is_valid_and_acted_on_in_full() -> None:
    spec = ModelDeployment.parse(read(EXAMPLE)).spec
    assert find_unsupported_fields(spec) == []
    assert spec.model.uri == f"file://{EXAMPLE.parents[1]}/models/v1"
