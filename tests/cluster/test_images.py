"""The image of operator and edge, built from this checkout and pulled by its digest, runs by the chart's defaults in `restricted` pods."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from real_kubernetes import cloud_network, registry
from real_kubernetes.binaries import HELM, ROOT
from real_kubernetes.cluster import BINARIES, Cluster
from real_kubernetes.helm import CHART, Helm
from real_kubernetes.kubectl import WAIT_S, Object
from real_kubernetes.registry import Registry
from sundog_operator.shell.exit_codes import ExitCode
from waiting import PATIENCE_S, eventually, patience

pytestmark = pytest.mark.timeout(patience(1800))

NAMESPACE = "sundog-image"
REGISTRY = "localhost/sundog"
TAG = "test"
RUNTIME = "registry.example.com/sundog/runtime:none"
BUILD_S = patience(1500)
REPOSITORY = "sundog/operator-edge"
NEEDED = ("buildah", "debootstrap", registry.PROGRAM)


def buildah(*arguments: str) -> str:
    command = ("buildah", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout


def built() -> set[str]:
    """The id of the image of these tests, if there is one."""
    return set(buildah("images", "--quiet", "--filter", f"reference={REGISTRY}/operator-edge:{TAG}").split())


@dataclass(frozen=True)
class Pushed:
    """The image in a registry that the node reaches."""

    registry: Registry
    digest: str

    @property
    def values(self) -> Object:
        return {"repository": f"{registry.ADDRESS}/{REPOSITORY}", "digest": self.digest}

    @property
    def name(self) -> str:
        return f"{registry.ADDRESS}/{REPOSITORY}@{self.digest}"


@pytest.fixture(scope="module")
def image(cluster: Cluster) -> Iterator[Pushed]:
    """The image, which only the registry has."""
    if cluster.instance is None:
        pytest.skip("an image gets into the tests' own cluster only")
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.skip(f"no image can be built: {', '.join(missing)} not found (apt-get install {' '.join(NEEDED)})")
    wanted = {"BASE": "debootstrap", "REGISTRY": REGISTRY, "TAG": TAG, "ENGINE": "buildah"}
    command, before = (str(ROOT / "images" / "build"), "operator-edge"), built()
    done = subprocess.run(command, env={**os.environ, **wanted}, capture_output=True, text=True, timeout=BUILD_S)
    assert done.returncode == 0, done.stderr[-2000:]
    for old in before - built():
        # Its name went to the new one: nobody else would remove it.
        buildah("rmi", old)
    with registry.running(cluster.instance) as running:
        yield Pushed(running, running.push(done.stdout.strip(), REPOSITORY))


@pytest.fixture(scope="module")
def installed(image: Pushed, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    """The chart with that image, in a namespace that lets in `restricted` pods alone."""
    kubectl = cluster.kubectl
    BINARIES.build((HELM,))
    helm = Helm(cluster.kubeconfig, BINARIES.path("helm"), tmp_path_factory.mktemp("helm"))
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    values = {
        "image": image.values,
        "watchNamespaces": [NAMESPACE],
        # Little enough for a node with two cores.
        "installation": {"runtimeImage": RUNTIME, "edge": {"resources": {"requests": {"cpu": "10m"}}}},
    }
    try:
        # Others may have applied the CRDs by other means.
        adopt = ("--take-ownership", "--force-conflicts")
        helm("install", "sundog", str(CHART), "--namespace", NAMESPACE, "--wait", *adopt, values=values)
        yield helm
    finally:
        if "sundog" in helm("list", "--namespace", NAMESPACE, "--short").split():
            helm("uninstall", "sundog", "--namespace", NAMESPACE, "--wait")
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_it_runs_as_the_chart_installs_it(installed: Helm, cluster: Cluster) -> None:
    kubectl = cluster.kubectl
    assert "Succeeded" in installed("test", "sundog", "--namespace", NAMESPACE)
    operator = ("-n", NAMESPACE, "exec", "deployment/sundog", "--")
    assert "Read-only file system" in kubectl.run(*operator, "touch", "/opt/new").stderr


def test_it_runs_as_an_edge_and_rays_pods_are_let_in(installed: Helm, cluster: Cluster) -> None:
    """No model serves here, for the runtime's image is nowhere: its head waits for it, and the edge for a model."""
    kubectl = cluster.kubectl
    model = {"uri": "https://models.example.com/digits/v1.tar.gz", "entrypoint": "net:Net"}
    spec = {"model": model, "resources": {"cpu": "250m"}}
    head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment"}
    kubectl.apply({**head, "metadata": {"name": "digits", "namespace": NAMESPACE}, "spec": spec})

    def pods(name: str) -> list[Object]:
        found: list[Object] = kubectl.get("-n", NAMESPACE, "pods", "-l", f"app.kubernetes.io/name={name}")["items"]
        return found

    try:
        eventually(lambda: any(answers_as_an_edge(pod) for pod in pods("sundog-edge")), "an edge that answers")
        eventually(lambda: any(waits_for_image(pod) for pod in pods("sundog-ray")), "a head that waits for its image")
        said = kubectl.get("-n", NAMESPACE, "events")["items"]
        assert [event["message"] for event in said if "violates PodSecurity" in event["message"]] == []
    finally:
        gone = ("delete", "modeldeployments.serving.sundog.dev", "digits", f"--timeout={WAIT_S}s")
        kubectl("-n", NAMESPACE, *gone, timeout=WAIT_S + 10)


def test_a_new_version_with_the_same_packages_is_small(image: Pushed) -> None:
    *_, packages, sundog = image.registry.layers(REPOSITORY, image.digest)
    assert sundog["size"] < 20_000_000 < packages["size"]


def test_doctor_sees_which_images_are_there_and_whether_policies_count(
    image: Pushed, installed: Helm, cluster: Cluster, tmp_path: Path
) -> None:
    """The operator's image is in the registry, and those of Ray and the store are nowhere."""
    assert cluster.instance is not None
    manifests = tmp_path / "release.yaml"
    values = {"image": image.values, "installation": {"runtimeImage": RUNTIME}}
    manifests.write_text(installed("template", "sundog", str(CHART), "--namespace", NAMESPACE, values=values))
    before = doctor(cluster, manifests)
    assert before["registry"]["status"] == "fail"
    assert RUNTIME in before["registry"]["found"]
    assert image.name not in before["registry"]["found"]
    assert before["network policies"]["found"].endswith("; not enforced")
    with cloud_network.enforced(cluster.instance, BINARIES):
        behind = doctor(cluster, manifests)
    assert behind["network policies"]["found"].endswith("; enforced")
    left = cluster.kubectl("-n", NAMESPACE, "get", "pods,networkpolicies", "--output=name")
    assert "sundog-probe" not in left


def doctor(cluster: Cluster, manifests: Path) -> dict[str, Object]:
    """The findings of a probe, by name."""
    program = str(Path(sys.executable).parent / "sundog")
    command = (
        program,
        "doctor",
        "--probe",
        "--kubeconfig",
        str(cluster.kubeconfig),
        "-f",
        str(manifests),
        "-o",
        "json",
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == ExitCode.REFUSED, done.stderr
    return {each["name"]: each for each in json.loads(done.stdout)}


def answers_as_an_edge(pod: Object) -> bool:
    """HAProxy and agent run out of the image, and have read what the operator wrote: that the model is not there yet."""
    states = {each["name"]: each.get("started") for each in pod["status"].get("containerStatuses", ())}
    if states != {"haproxy": True, "agent": True}:
        return False
    answer = httpx.post(f"http://{pod['status']['podIP']}:8080/digits/", json={"inputs": [[1.0]]}, timeout=PATIENCE_S)
    return answer.status_code == 503 and answer.json()["code"] == "NotReady"


def waits_for_image(pod: Object) -> bool:
    reasons = {
        (each["state"].get("waiting") or {}).get("reason") for each in pod["status"].get("containerStatuses", ())
    }
    return bool(reasons & {"ErrImagePull", "ImagePullBackOff"})
