from pathlib import Path
from typing import Any

import pytest

from doubles.kuberay import create_with_status
from sundog_operator.adapters.local.doctor import Check
from sundog_operator.ports import NODE
from sundog_operator.shell.exit_codes import ExitCode
from sundog_operator.shell.verbs import doctor

FINE = Check("Python", "ok", "3.11.7")
ODD = Check("port 8080", "warn", "held by nginx", "the edge takes another port")
BROKEN = Check("ray", "fail", "not installed", "pip install 'sundog[local]'")
GKE_NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "gke", "labels": {"cloud.google.com/gke-nodepool": "a"}},
}
NODE_OF_CPUS = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "a"},
    "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "4"}},
}
STORAGE = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": "example.com/disks",
}
RENDERED = """
apiVersion: v1
kind: ConfigMap
metadata: {name: sundog, namespace: models-system}
data:
  installation.yaml: |
    gpu: {profiles: [eks]}
    ray: {gcsFaultTolerance: {enabled: false}}
    feedback: {store: {storage: {size: ""}}}
"""


@pytest.mark.parametrize(("checks", "code"), [([FINE, ODD], ExitCode.OK), ([FINE, BROKEN], ExitCode.REFUSED)])
def test_a_warning_is_no_error(
    sundog: Any, monkeypatch: pytest.MonkeyPatch, checks: list[Check], code: ExitCode
) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda _: checks)
    assert sundog("doctor").code == code


def test_each_check_has_a_line_and_its_remedy(sundog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda _: [FINE, BROKEN])
    assert sundog("doctor").out.splitlines() == [
        "ok    Python  3.11.7",
        "FAIL  ray     not installed",
        "              → pip install 'sundog[local]'",
    ]
    assert sundog("doctor", "-o", "json").json[1]["status"] == "fail"


def test_it_looks_at_this_machine(sundog: Any, tmp_path: Any) -> None:
    done = sundog("doctor", "--state-dir", str(tmp_path), "-o", "json")
    assert {"Python", "memory", "state directory"} <= {check["name"] for check in done.json}


def test_it_checks_the_cluster_of_the_kubeconfig(sundog: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server.do(lambda cluster: cluster.kube.create(GKE_NODE))
    lines = sundog("doctor", "--kubeconfig", str(server.kubeconfig)).out.splitlines()
    assert "ok    GPU labels         gke (guessed from the nodes)" in lines
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    assert sundog("doctor", "--cluster").out.splitlines() == lines


def test_a_variable_that_names_an_instance_does_not_turn_the_check_of_a_cluster(
    sundog: Any, server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    monkeypatch.setenv("SUNDOG_STATE_DIR", str(tmp_path / "instance"))
    assert sundog("doctor", "--cluster").out.startswith("ok    Kubernetes ")


def test_a_cluster_that_fails_a_check_is_an_error(sundog: Any, server: Any) -> None:
    ask = ("doctor", "--kubeconfig", str(server.kubeconfig))
    assert sundog(*ask).code == ExitCode.REFUSED
    server.do(lambda cluster: create_with_status(cluster.kube, NODE, NODE_OF_CPUS, NODE_OF_CPUS["status"]))
    server.do(lambda cluster: cluster.kube.create(STORAGE))
    assert sundog(*ask).code == ExitCode.OK


def test_settings_of_the_release_are_those_that_helm_would_apply(sundog: Any, server: Any, tmp_path: Path) -> None:
    manifests = tmp_path / "rendered.yaml"
    manifests.write_text(RENDERED)
    ask = ("doctor", "--kubeconfig", str(server.kubeconfig), "-f", str(manifests), "-o", "json")
    found = {each["name"]: each["found"] for each in sundog(*ask).json}
    assert found["StorageClass"] == "not needed: the stores have no claims"
    assert found["GPU labels"] == "eks (installation.gpu.profiles)"
    assert "models-system" in found["namespaces"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "expected the output of `helm template`"),
        ("just text", "expected the output of `helm template`"),
        ("", "no settings of Sundog; expected the output of `helm template`"),
        ("{kind: Service, metadata: {name: a}, apiVersion: v1}", "no settings of Sundog"),
        (b"\xff\xfe\xff", "expected the output of `helm template`"),
    ],
    ids=["no-yaml", "no-object", "empty", "another-object", "no-text"],
)
def test_a_file_that_is_no_rendered_chart_is_refused(
    sundog: Any, tmp_path: Path, text: str | bytes, message: str
) -> None:
    path = tmp_path / "rendered.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = sundog("doctor", "-f", str(path))
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert message in done.err


def test_a_cluster_and_a_local_instance_are_not_checked_together(sundog: Any) -> None:
    done = sundog("doctor", "--cluster", "--instance", "mine")
    assert (done.code, "expected neither --instance nor --state-dir" in done.err) == (ExitCode.USAGE, True)


def test_without_a_cluster_it_says_so(sundog: Any) -> None:
    done = sundog("doctor", "--cluster")
    assert (done.code, "no kubeconfig exists" in done.err) == (ExitCode.UNREACHABLE, True)


def test_a_probe_needs_to_know_the_images(sundog: Any, server: Any) -> None:
    done = sundog("doctor", "--kubeconfig", str(server.kubeconfig), "--probe")
    assert done.code == ExitCode.USAGE
    assert "--probe: expected -f with the output of `helm template`" in done.err
