"""Fixtures: `api_server` (a control plane, in seconds) and `cluster` (with a node, DNS and KubeRay)."""

import os
import sys
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path

import pytest

from real_kubernetes import diagnostics, kuberay, machine
from real_kubernetes.binaries import BUILD_S, ROOT
from real_kubernetes.checkout import mounted, pod_spec
from real_kubernetes.cluster import BINARIES, CLUSTER_BUILDS, CONTROL_PLANE_BUILDS, Cluster, directory_of, temporary
from real_kubernetes.images import BASE
from real_kubernetes.kubectl import Kubectl
from real_kubernetes.leftovers import nothing_left
from waiting import eventually, patience

ELSEWHERE = "SUNDOG_TEST_KUBECONFIG"
TRIAL_S = round(patience(60))


@pytest.fixture(scope="session")
def api_server() -> Iterator[Cluster]:
    """Start a control plane: everything except pods. Skips with the reason if it cannot run."""
    if other := _elsewhere():
        yield other
        return
    _skip(BINARIES.refusal(CONTROL_PLANE_BUILDS))
    with nothing_left(directory_of("api")), temporary("api", with_node=False) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def api_with_crds(api_server: Cluster) -> Cluster:
    """Install the checkout's CRDs on the same control plane."""
    api_server.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        # Established is not yet served: for a moment the answer is "storage is (re)initializing".
        eventually(
            partial(api_server.kubectl.succeeds, "get", path.stem, "--all-namespaces"), f"{path.stem} are served"
        )
    return api_server


@pytest.fixture(scope="session")
def api_for_operators(api_with_crds: Cluster) -> Cluster:
    """Install KubeRay's CRDs too: everything that an operator watches."""
    kuberay.apply_crds(api_with_crds.kubectl)
    return api_with_crds


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Start a cluster with a node for pods, and KubeRay. Skips with the reason if it cannot run."""
    if other := _elsewhere():
        _skip(_cannot_run_the_checkout(other.kubectl))
        yield other
        return
    _skip(machine.refusal() or BINARIES.refusal(CLUSTER_BUILDS))
    with nothing_left(directory_of("cluster")), temporary("cluster", with_node=True) as cluster:
        yield cluster


def _elsewhere() -> Cluster | None:
    path = os.environ.get(ELSEWHERE)
    return Cluster(Path(path), Kubectl(Path(path))) if path else None


def _cannot_run_the_checkout(kubectl: Kubectl) -> str:
    """Why the pods of these tests cannot run on somebody else's nodes; empty where one of them did."""
    name = f"sundog-trial-{os.getpid()}"
    spec = pod_spec(sys.executable, "-c", "") | {"restartPolicy": "Never"}
    kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec})
    ended = "--for=jsonpath={.status.phase}=Succeeded"
    ran = kubectl.succeeds("wait", "-n", "default", ended, f"pod/{name}", f"--timeout={TRIAL_S}s")
    kubectl("delete", "-n", "default", "pod", name, "--wait=false")
    if ran:
        return ""
    return f"its nodes need the image {BASE} and, at the same paths, {', '.join(map(str, mounted().values()))}"


def _skip(reason: str) -> None:
    if reason:
        pytest.skip(f"no Kubernetes here: {reason}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks whatever is in these folders, and what of it needs a node. The first test that needs a cluster may have to build it."""
    is_built = not BINARIES.missing(CLUSTER_BUILDS)
    for item in items:
        if any(item.path.is_relative_to(ROOT / "tests" / folder) for folder in ("cluster", "nodes")):
            item.add_marker(pytest.mark.cluster)
        if item.get_closest_marker("cluster"):
            if "cluster" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.node)
            if not is_built:
                item.add_marker(pytest.mark.timeout(BUILD_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the cluster's state to the report of a failed test."""
    report = yield
    found = getattr(item, "funcargs", {}).get("cluster") or getattr(item, "funcargs", {}).get("api_server")
    if report.failed and isinstance(found, Cluster):
        report.sections.append(("Pods and events of the cluster", diagnostics.state(found.kubectl)))
    return report
