"""What people see of our resources through kubectl, on a real API server."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from real_kubernetes.api import Api
from real_kubernetes.binaries import ROOT
from real_kubernetes.cluster import Cluster
from real_kubernetes.kubectl import Kubectl, Object
from sundog_operator.api import format_micro_time
from sundog_operator.core import events
from waiting import eventually

NAMESPACE = "crds-test"
KINDS = {"ModelDeployment": "modeldeployments", "Experiment": "experiments"}
CRDS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))}
DIGITS = ROOT / "examples" / "digits"
MANIFESTS = [
    (path, document)
    for path in sorted((ROOT / "examples").rglob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if isinstance(document, dict) and document.get("kind") in KINDS
]


@pytest.fixture(scope="module")
def kubectl(api_with_crds: Cluster) -> Iterator[Kubectl]:
    api_with_crds.kubectl("create", "namespace", NAMESPACE)
    yield api_with_crds.kubectl
    for plural in KINDS.values():
        api_with_crds.kubectl("delete", plural, "--all", "-n", NAMESPACE)
    api_with_crds.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def api(api_with_crds: Cluster) -> Iterator[Api]:
    connected = Api.connect(api_with_crds.kubeconfig)
    yield connected
    connected.close()


def digits(**spec: Any) -> Object:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": NAMESPACE},
        "spec": {"model": {"uri": "s3://models/digits/v1"}, **spec},
    }


def path_of(document: Object, name: str = "") -> str:
    plural = KINDS[document["kind"]]
    return f"/apis/serving.sundog.dev/v1alpha1/namespaces/{NAMESPACE}/{plural}{name and '/' + name}"


@pytest.mark.parametrize(
    ("path", "document"), MANIFESTS, ids=[f"{path.parent.name}-{path.name}" for path, _ in MANIFESTS]
)
def test_each_example_is_taken_strictly(kubectl: Kubectl, path: Path, document: Object) -> None:
    """`${MANIFEST_DIR}` is local mode's: a cluster refuses it, and the rest of the manifest is good."""
    placed = document | {"metadata": document["metadata"] | {"namespace": NAMESPACE}}
    placed = json.loads(re.sub(r"file://\$\{MANIFEST_DIR\}(/\.\.)*", "file:///models", json.dumps(placed)))
    kubectl("apply", "--validate=strict", "--dry-run=server", "-f", "-", stdin=json.dumps(placed))


def test_the_first_example_can_be_applied_as_a_folder(kubectl: Kubectl) -> None:
    kubectl.wait("-n", NAMESPACE, "--for=create", "serviceaccount/default")
    made = kubectl("-n", NAMESPACE, "apply", "--validate=strict", "--dry-run=server", "-f", str(DIGITS))
    assert sorted(line.partition(" ")[0] for line in made.splitlines()) == [
        "modeldeployment.serving.sundog.dev/digits",
        "persistentvolumeclaim/digits-models",
        "pod/digits-loader",
    ]


def test_an_unknown_field_is_refused_by_name(kubectl: Kubectl) -> None:
    wrong = digits(replica=2)
    refused = kubectl.run("apply", "--validate=strict", "--dry-run=server", "-f", "-", stdin=json.dumps(wrong))
    assert 'unknown field "spec.replica"' in refused.stderr


def test_a_broken_rule_is_one_line(kubectl: Kubectl) -> None:
    wrong = digits(autoscaling={"minReplicas": 5})
    refused = kubectl.run("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(wrong))
    assert refused.stderr.strip().endswith(
        "spec.autoscaling.minReplicas: Invalid value: 5 is greater than maxReplicas; expected at most 4"
    )


def test_columns_show_the_status(kubectl: Kubectl, api: Api) -> None:
    kubectl.apply(digits(replicas=2))
    status = {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "LoadFailed",
                "message": "",
                "lastTransitionTime": "2026-03-01T12:00:00Z",
            }
        ],
        "stable": {"revision": 7},
        "candidate": {"revision": 8, "weight": 5},
        "replicas": 2,
        "url": "http://digits.crds-test.svc",
    }
    patched = api.send(
        "PUT", path_of(digits(), "digits/status"), kubectl.get("mdep", "digits", "-n", NAMESPACE) | {"status": status}
    )
    assert patched["kind"] == "ModelDeployment", patched
    head, row = kubectl("get", "mdep", "-n", NAMESPACE).splitlines()
    assert head.split() == ["NAME", "READY", "REASON", "STABLE", "CANDIDATE", "WEIGHT", "REPLICAS", "AGE", "MESSAGE"]
    assert row.split()[:7] == ["digits", "False", "LoadFailed", "7", "8", "5", "2"]
    assert "http://digits.crds-test.svc" in kubectl("get", "mdep", "-n", NAMESPACE, "-o", "wide")
    assert "digits" in kubectl("get", "sundog", "-n", NAMESPACE)


def test_scale_reads_and_writes_replicas(kubectl: Kubectl) -> None:
    kubectl.apply(digits(replicas=2))
    kubectl("scale", "mdep/digits", "-n", NAMESPACE, "--replicas=3", "--current-replicas=2")
    assert kubectl.get("mdep", "digits", "-n", NAMESPACE)["spec"]["replicas"] == 3
    refused = kubectl.run("scale", "mdep/digits", "-n", NAMESPACE, "--replicas=100001")
    assert "spec.replicas" in refused.stderr


def test_the_number_of_an_hpa_outlives_an_edit_of_another_field(kubectl: Kubectl) -> None:
    """Below its minimum an HPA scales without metrics, by the controller manager's own client of `/scale`."""
    named = digits() | {"metadata": {"name": "scaled", "namespace": NAMESPACE}}
    kubectl.apply(named)
    target = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment", "name": "scaled"}
    kubectl.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "scaled", "namespace": NAMESPACE},
            "spec": {"scaleTargetRef": target, "minReplicas": 4, "maxReplicas": 6},
        }
    )

    def replicas() -> int:
        return int(kubectl.get("mdep", "scaled", "-n", NAMESPACE)["spec"]["replicas"])

    eventually(lambda: replicas() == 4, "the number of the HPA")
    kubectl.apply(named | {"spec": {**named["spec"], "runtime": {"userConfig": {"threshold": 1}}}})
    assert replicas() == 4


def test_scale_shows_status_and_selector(kubectl: Kubectl, api: Api) -> None:
    kubectl.apply(digits(replicas=2))
    stored = kubectl.get("mdep", "digits", "-n", NAMESPACE)
    selector = "serving.sundog.dev/model-deployment=digits"
    api.send(
        "PUT",
        path_of(stored, "digits/status"),
        stored | {"status": {"observedGeneration": 1, "replicas": 2, "selector": selector}},
    )
    scale = api.send("GET", path_of(stored, "digits/scale"))
    assert (scale["spec"]["replicas"], scale["status"]) == (2, {"replicas": 2, "selector": selector})


@pytest.mark.parametrize("plural", sorted(CRDS))
def test_fields_are_explained(kubectl: Kubectl, plural: str) -> None:
    described = CRDS[plural]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    explained = kubectl("explain", f"{plural}.spec")
    text = " ".join(explained.split())
    for name, field in described.items():
        assert name in explained
        assert " ".join(field["description"].split()) in text, name


def test_a_selector_finds_by_field(kubectl: Kubectl) -> None:
    kubectl.apply(digits())
    found = kubectl(
        "get", "mdep", "-n", NAMESPACE, "--field-selector=spec.model.uri=s3://models/digits/v1", "-o", "name"
    )
    assert "modeldeployment.serving.sundog.dev/digits" in found.split()
    assert kubectl("get", "mdep", "-n", NAMESPACE, "--field-selector=spec.model.uri=s3://other", "-o", "name") == ""


@pytest.mark.parametrize("plural", sorted(CRDS))
def test_an_applied_crd_is_stored_as_the_file_has_it(kubectl: Kubectl, plural: str) -> None:
    """No part of a schema is dropped or changed by the server."""
    stored = kubectl.get("crd", f"{plural}.serving.sundog.dev")["spec"]["versions"][0]
    ours = CRDS[plural]["spec"]["versions"][0]
    assert stored["schema"] == ours["schema"]
    assert stored["subresources"] == ours["subresources"]


def test_an_experiment_that_breaks_a_rule_that_is_new_goes_on(kubectl: Kubectl, api: Api) -> None:
    """Who was stored before the rule is told of at each write, of a status too: nothing of it may be refused but what is new."""
    metrics = {"success": [{"name": "retries", "feedback": "bought", "minimumEffect": "0%"}]}
    spec = {"modelDeployment": "digits", "arms": [{"name": "canary"}], "exposure": "0%", "metrics": metrics}
    old = {**digits(), "kind": "Experiment", "metadata": {"name": "old", "namespace": NAMESPACE}, "spec": spec}
    path = path_of(old, "old")

    def is_taken(name: str) -> bool:
        named = old | {"metadata": old["metadata"] | {"name": name}}
        return bool(api.send("POST", path_of(old), named, dryRun="All")["kind"] == "Experiment")

    def written(below: str, **changes: Any) -> Object:
        return api.send("PUT", f"{path}{below}", api.send("GET", path) | changes)

    try:
        kubectl("replace", "-f", "-", stdin=json.dumps(_without_rules(kubectl)))
        eventually(partial(is_taken, "old"), "the rules are gone")
        assert api.send("POST", path_of(old), old)["kind"] == "Experiment"
    finally:
        kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds" / "experiments.yaml"))
    eventually(lambda: not is_taken("new"), "the rules hold")
    assert written("/status", status={"observedGeneration": 1, "phase": "Running"})["status"]["phase"] == "Running"
    stored = api.send("GET", path)
    assert written("", spec=stored["spec"] | {"stopped": True})["spec"]["stopped"] is True
    other = written("", spec=stored["spec"] | {"exposure": "0.0%"})
    assert (other["kind"], other["reason"]) == ("Status", "Invalid")
    assert "0% leaves every arm without units" in other["message"]


def _without_rules(kubectl: Kubectl) -> Object:
    """The stored CRD of Experiments as it was before any rule."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(item) for key, item in value.items() if key != "x-kubernetes-validations"}
        return [bare(item) for item in value] if isinstance(value, list) else value

    found: Object = bare(kubectl.get("crd", "experiments.serving.sundog.dev"))
    return found


def test_the_longest_note_of_an_event_is_taken(kubectl: Kubectl) -> None:
    regarding = {**digits(), "metadata": {**digits()["metadata"], "uid": "u"}}
    at = format_micro_time(datetime.now(UTC))
    told = [events.revision_failed(number, "LoadFailed", letter * 2000, 1) for number, letter in enumerate("xé模")]
    for event in told:
        kubectl("create", "-f", "-", stdin=json.dumps(events.make_event_object(event, regarding, "test", at)))
    found = kubectl.get("-n", NAMESPACE, "events.events.k8s.io")["items"]
    assert len([event for event in found if event["reason"] == "LoadFailed"]) == len(told)
