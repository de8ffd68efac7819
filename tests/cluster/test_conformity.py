"""kubeconform, as others run it before they apply: on what the chart renders, the CRDs, the examples, and the objects of an edge."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from charting import GOLDEN, ROOT, cases, objects, values
from real_kubernetes import gateway_api, prometheus_operator
from real_kubernetes.cluster import BINARIES
from real_kubernetes.kubeconform import KUBECONFORM, Kubeconform, prepare
from sundog_operator.api import ModelDeployment
from sundog_operator.core.edge.http_route import make_route
from sundog_operator.core.edge.split_document import make_service_entry

VERSIONS = ("1.32.0", "1.36.0")
CRDS = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
OURS = {crd["spec"]["names"]["kind"] for crd in CRDS}
EDGE = sorted((ROOT / "tests" / "unit" / "core" / "golden").glob("edge*.yaml"))


@pytest.fixture(scope="module")
def kubeconform(tmp_path_factory: pytest.TempPathFactory) -> Kubeconform:
    if reason := BINARIES.refusal((KUBECONFORM,)):
        pytest.skip(reason)
    crds = [*CRDS, *gateway_api.crds(), *prometheus_operator.crds()]
    return prepare(BINARIES, tmp_path_factory.mktemp("schemas"), VERSIONS, crds)


def documents(path: Path) -> Iterator[Any]:
    yield from (document for document in yaml.safe_load_all(path.read_text()) if isinstance(document, dict))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", cases())
def test_the_chart(kubeconform: Kubeconform, case: str, version: str) -> None:
    rendered = objects(values(case))
    assert len(rendered) > 3
    assert kubeconform.problems(version, rendered) == []


def test_the_monitors_and_alerts_are_among_what_is_checked() -> None:
    kinds = {obj["kind"] for obj in objects(values("everything"))}
    assert kinds >= {crd["spec"]["names"]["kind"] for crd in prometheus_operator.crds()}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_crds_and_the_edge(kubeconform: Kubeconform, version: str) -> None:
    assert kubeconform.problems(version, CRDS) == []
    for path in EDGE:
        assert kubeconform.problems(version, documents(path)) == []


def test_the_examples(kubeconform: Kubeconform) -> None:
    found = [
        document
        for path in sorted((ROOT / "examples").rglob("*.yaml"))
        for document in documents(path)
        if document.get("kind") in OURS and "testdata" not in path.parts
    ]
    assert len(found) > 5
    assert kubeconform.problems(VERSIONS[-1], found) == []


def test_a_route_and_the_gateway_that_is_shown_for_it(kubeconform: Kubeconform) -> None:
    (example,) = documents(ROOT / "examples" / "features" / "gateway.yaml")
    spec = ModelDeployment.parse(example).spec
    member = {**example, "metadata": {"name": "digits", "namespace": "vision", "uid": "u"}}
    page = (ROOT / "examples" / "README.md").read_text()
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    gateway = yaml.safe_load(shown)
    assert (gateway["metadata"]["name"], gateway["metadata"]["namespace"]) == ("public", "infra")
    entry = make_service_entry("vision", "digits", spec, "sundog-0", None, host=spec.endpoint.host)
    route = make_route(member, spec.endpoint, entry)
    assert kubeconform.problems(VERSIONS[-1], [route, gateway]) == []
    (parent,) = route["spec"]["parentRefs"]
    assert parent["sectionName"] in {listener["name"] for listener in gateway["spec"]["listeners"]}


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        (GOLDEN / "smallest.yaml", "Deployment"),
        (ROOT / "examples" / "digits" / "modeldeployment.yaml", "ModelDeployment"),
    ],
)
def test_a_misspelled_field_is_found(kubeconform: Kubeconform, place: Path, kind: str) -> None:
    (obj,) = [document for document in documents(place) if document["kind"] == kind]
    (problem,) = kubeconform.problems(VERSIONS[-1], [{**obj, "spec": {**obj["spec"], "replicsa": 1}}])
    assert "replicsa" in problem
