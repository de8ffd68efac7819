"""The image of operator and edge, built from this checkout without a registry, runs by the chart's defaults where pods are `restricted`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from real_kubernetes import node
from real_kubernetes.binaries import HELM, ROOT
from real_kubernetes.cluster import BINARIES, Cluster
from real_kubernetes.helm import CHART, Helm

pytestmark = pytest.mark.timeout(1800)

NAMESPACE = "sundog-image"
REGISTRY = "localhost/sundog"
TAG = "test"
BUILD_S = 1500
NEEDED = ("buildah", "debootstrap")
# Becomes the program that the edge would run.
HAPROXY = "import os; from sundog_edge.binary import find; program = find(); os.execv(program, [program, '-vv'])"


@pytest.fixture(scope="module")
def image(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the image, which the node has."""
    if cluster.instance is None:
        pytest.skip("an image gets into the tests' own cluster only")
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.skip(f"no image can be built: {', '.join(missing)} not found (apt-get install {' '.join(NEEDED)})")
    folder = tmp_path_factory.mktemp("images")
    wanted = {"BASE": "debootstrap", "REGISTRY": REGISTRY, "TAG": TAG, "ARCHIVES": str(folder), "ENGINE": "buildah"}
    command = (str(ROOT / "images" / "build"), "operator-edge")
    done = subprocess.run(command, env={**os.environ, **wanted}, capture_output=True, text=True, timeout=BUILD_S)
    assert done.returncode == 0, done.stderr[-2000:]
    archive = folder / "operator-edge.tar"
    node.import_image(cluster.instance, archive)
    archive.unlink()
    return done.stdout.strip()


def test_it_runs_as_the_chart_installs_it(image: str, cluster: Cluster, tmp_path: Path) -> None:
    assert image == f"{REGISTRY}/operator-edge:{TAG}"
    kubectl = cluster.kubectl
    BINARIES.build((HELM,))
    helm = Helm(cluster.kubeconfig, BINARIES.path("helm"), tmp_path)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    kubectl.apply(namespace)
    values = {
        "image": {"repository": f"{REGISTRY}/operator-edge", "tag": TAG, "pullPolicy": "Never"},
        "watchNamespaces": [NAMESPACE],
        "installation": {"runtimeImage": "registry.example.com/sundog/runtime:none"},
    }
    try:
        # Others may have applied the CRDs by other means.
        adopt = ("--take-ownership", "--force-conflicts")
        helm("install", "sundog", str(CHART), "--namespace", NAMESPACE, "--wait", *adopt, values=values)
        assert "Succeeded" in helm("test", "sundog", "--namespace", NAMESPACE)
        edge = ("-n", NAMESPACE, "exec", "deployment/sundog", "--")
        assert kubectl(*edge, "python3", "-c", HAPROXY).startswith("HAProxy version")
        assert "Read-only file system" in kubectl.run(*edge, "touch", "/opt/new").stderr
    finally:
        if "sundog" in helm("list", "--namespace", NAMESPACE, "--short").split():
            helm("uninstall", "sundog", "--namespace", NAMESPACE, "--wait")
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")
