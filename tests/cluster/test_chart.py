"""The chart on a real cluster, by the real helm: install, upgrade, rollback, uninstall, and what each role may do."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from charting import ROOT
from real_kubernetes.binaries import HELM
from real_kubernetes.cluster import BINARIES, Cluster
from real_kubernetes.helm import CHART, Helm, checkout_values
from real_kubernetes.instance import ClusterError
from real_kubernetes.kubectl import Kubectl

NAMESPACE, TEAM, OTHER = "sundog-chart", "sundog-chart-team", "sundog-chart-other"
RELEASE = "sundog"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
DEPLOYMENT = {
    "apiVersion": "serving.sundog.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "kept", "namespace": OTHER},
    "spec": {"model": {"uri": "https://models.example.com/kept.tar.gz"}},
}


@pytest.fixture(scope="module")
def helm(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    BINARIES.build((HELM,))
    return Helm(cluster.kubeconfig, BINARIES.path("helm"), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def kubectl(cluster: Cluster) -> Iterator[Kubectl]:
    for name in (NAMESPACE, TEAM, OTHER):
        cluster.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield cluster.kubectl
    cluster.kubectl("delete", "namespace", NAMESPACE, TEAM, OTHER, "--wait=false")


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """The code under test, for two namespaces: a cluster that is somebody else's may hold ModelDeployments of theirs."""
    return {**checkout_values(), "watchNamespaces": [TEAM, OTHER], "networkPolicy": {"enabled": False}}


@pytest.fixture(scope="module")
def installed(helm: Helm, kubectl: Kubectl, values: dict[str, Any]) -> Iterator[str]:
    """The output of the installation."""
    try:
        yield helm(
            # Others may have applied the CRDs by other means.
            *("install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--wait"),
            *("--take-ownership", "--force-conflicts"),
            values=values,
        )
    except ClusterError as err:
        raise ClusterError(f"{err}\n{diagnosis(kubectl)}") from None
    finally:
        if RELEASE in helm("list", "--namespace", NAMESPACE, "--short").split():
            helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait")


def diagnosis(kubectl: Kubectl) -> str:
    pods = kubectl.run("-n", NAMESPACE, "get", "pods", "-o", "wide").stdout
    log = kubectl.run("-n", NAMESPACE, "logs", f"deployment/{RELEASE}", "--tail=20", "--all-pods")
    return f"{pods}\n{log.stdout}{log.stderr}"


def release(helm: Helm) -> tuple[int, str]:
    found = json.loads(helm("history", RELEASE, "--namespace", NAMESPACE, "--output", "json"))[-1]
    return int(found["revision"]), str(found["status"])


def workers(kubectl: Kubectl) -> int:
    """What the file says that the running pods read."""
    config = kubectl.get("-n", NAMESPACE, "configmap", RELEASE)
    return int(yaml.safe_load(config["data"]["installation.yaml"])["workers"])


def pods(kubectl: Kubectl) -> set[str]:
    found = kubectl.get("-n", NAMESPACE, "pods", "-l", "app.kubernetes.io/name=sundog-operator")
    return {pod["metadata"]["uid"] for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]}


def schemas(crd: dict[str, Any]) -> dict[str, Any]:
    """The schema of each version, by its name."""
    return {version["name"]: version["schema"]["openAPIV3Schema"] for version in crd["spec"]["versions"]}


def may(kubectl: Kubectl, verb: str, resource: str, namespace: str, user: str = ACCOUNT, *options: str) -> bool:
    return kubectl.succeeds("auth", "can-i", verb, resource, *options, "--as", user, "-n", namespace)


def test_install_waits_until_both_replicas_are_ready_and_one_leads(
    installed: str, helm: Helm, kubectl: Kubectl
) -> None:
    assert (
        f"Sundog {yaml.safe_load((CHART / 'Chart.yaml').read_text())['appVersion']} watches {OTHER}, {TEAM}."
        in installed
    )
    deployment = kubectl.get("-n", NAMESPACE, "deployment", RELEASE)
    assert deployment["status"]["readyReplicas"] == 2
    names = {pod["metadata"]["name"] for pod in kubectl.get("-n", NAMESPACE, "pods")["items"]}
    lease = kubectl.get("-n", NAMESPACE, "lease", "sundog-operator")
    assert lease["spec"]["holderIdentity"] in names
    assert release(helm) == (1, "deployed")


def test_helm_test_passes(installed: str, helm: Helm) -> None:
    assert "Succeeded" in helm("test", RELEASE, "--namespace", NAMESPACE, "--timeout", "2m")


@pytest.mark.parametrize("name", ["modeldeployments", "experiments"])
def test_the_crds_are_those_of_the_repository(installed: str, kubectl: Kubectl, name: str) -> None:
    crd = kubectl.get("crd", f"{name}.serving.sundog.dev")
    wanted = yaml.safe_load((ROOT / "crds" / f"{name}.yaml").read_text())
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    # Schemas come back as they were applied, so nothing is evened out: what the API server fills in lies beside them, and within them it
    # drops `null` alone, of which there is none.
    assert schemas(crd) == schemas(wanted)


def test_the_operator_may_act_in_its_namespaces_and_nowhere_else(installed: str, kubectl: Kubectl) -> None:
    for namespace, allowed in ((TEAM, True), (OTHER, True), ("default", False), (NAMESPACE, False)):
        assert may(kubectl, "create", "rayclusters.ray.io", namespace) is allowed, namespace
        assert may(kubectl, "list", "modeldeployments.serving.sundog.dev", namespace) is allowed, namespace
    for verb, resource in (("list", "secrets"), ("patch", "modeldeployments.serving.sundog.dev"), ("create", "pods")):
        assert not may(kubectl, verb, resource, TEAM), (verb, resource)
    for verb in ("escalate", "bind"):
        assert not may(kubectl, verb, "roles.rbac.authorization.k8s.io", TEAM)


def test_people_get_the_kinds_with_the_well_known_roles(installed: str, kubectl: Kubectl) -> None:
    for role in ("view", "edit"):
        kubectl("-n", TEAM, "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}er")
    mdep = "modeldeployments.serving.sundog.dev"
    assert may(kubectl, "get", mdep, TEAM, "viewer")
    assert not may(kubectl, "create", mdep, TEAM, "viewer")
    for verb in ("create", "update", "patch", "delete"):
        assert may(kubectl, verb, mdep, TEAM, "editer")
    assert not may(kubectl, "patch", mdep, TEAM, "editer", "--subresource=status")
    assert may(kubectl, "patch", mdep, TEAM, "editer", "--subresource=scale")


def test_upgrade_and_rollback_wait_and_roll_the_pods(
    installed: str, helm: Helm, kubectl: Kubectl, values: dict[str, Any]
) -> None:
    before = pods(kubectl)
    changed = {**values, "installation": {**values["installation"], "workers": 9}}
    helm("upgrade", RELEASE, str(CHART), "--namespace", NAMESPACE, "--wait", values=changed)
    assert release(helm)[1] == "deployed"
    assert workers(kubectl) == 9
    rolled = pods(kubectl)
    assert len(rolled) == 2
    assert not rolled & before

    helm("rollback", RELEASE, "1", "--namespace", NAMESPACE, "--wait")
    assert release(helm)[1] == "deployed"
    assert workers(kubectl) == 4
    assert len(pods(kubectl)) == 2


def test_an_upgrade_that_cannot_start_is_reported_and_the_old_replicas_go_on(
    installed: str, helm: Helm, kubectl: Kubectl, values: dict[str, Any]
) -> None:
    before = pods(kubectl)
    broken = {**values, "extraArgs": ["--no-such-option"]}
    with pytest.raises(ClusterError):
        helm("upgrade", RELEASE, str(CHART), "-n", NAMESPACE, "--wait", "--timeout", "15s", values=broken)
    assert before <= pods(kubectl)
    assert kubectl.get("-n", NAMESPACE, "deployment", RELEASE)["status"]["readyReplicas"] == 2
    helm("rollback", RELEASE, "--namespace", NAMESPACE, "--wait")


def test_uninstall_keeps_the_crds_and_every_model_deployment(installed: str, helm: Helm, kubectl: Kubectl) -> None:
    kubectl.apply(DEPLOYMENT)
    helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait")
    assert kubectl.get("-n", OTHER, "modeldeployment", "kept")["metadata"]["name"] == "kept"
    kinds = "deployment,service,configmap,role,rolebinding,poddisruptionbudget,serviceaccount"
    left = kubectl.get("-A", kinds, "-l", f"app.kubernetes.io/instance={RELEASE}")["items"]
    assert [obj["metadata"]["name"] for obj in left] == []
    kubectl("-n", OTHER, "delete", "modeldeployment", "kept")
