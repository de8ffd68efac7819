"""`sundog doctor --cluster` on a real API server, as an administrator and as accounts with fewer permissions."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from charting import NAMESPACE, service_account
from real_kubernetes.cluster import Cluster
from sundog_operator.shell.cluster_checks.planned_release import DEFAULT_RELEASE, GRANT_VERBS
from sundog_operator.shell.exit_codes import ExitCode
from waiting import PATIENCE_S

ACCOUNT = "doctor-installer"
RBAC = "rbac.authorization.k8s.io"
STORAGE: dict[str, Any] = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {
        "name": "doctor-disks",
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    },
    "provisioner": "example.com/disks",
}
KUBERAY: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "kuberay-operator", "namespace": NAMESPACE},
    "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"app": "kuberay"}},
        "template": {
            "metadata": {"labels": {"app": "kuberay"}},
            "spec": {"containers": [{"name": "operator", "image": "quay.io/kuberay/operator:v1.5.0"}]},
        },
    },
}
DENY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "doctor-deny", "namespace": NAMESPACE},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}


def binding(role: str, **cluster: str) -> dict[str, Any]:
    """Bind a ClusterRole to the account in its namespace, or with `cluster` in the whole cluster."""
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": cluster.get("kind", "RoleBinding"),
        "metadata": {"name": ACCOUNT} if cluster else {"name": ACCOUNT, "namespace": NAMESPACE},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    }


def chart_role() -> dict[str, Any]:
    """Return a role with what Helm does, but without the permission to grant more than the account holds."""
    rules = [
        {"apiGroups": [group], "resources": [plural], "verbs": [verb]}
        for verb, resource, _ in DEFAULT_RELEASE.find_permissions()
        for plural, _, group in [resource.partition(".")]
        if verb not in GRANT_VERBS
    ]
    return {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": ACCOUNT}, "rules": rules}


@pytest.fixture(scope="module")
def prepared(api_for_operators: Cluster) -> Iterator[Cluster]:
    """A cluster with KubeRay's and Sundog's CRDs, a default StorageClass, and an account with the role `admin` of one namespace."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": NAMESPACE}}
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    kubectl = api_for_operators.kubectl
    kubectl.apply(namespace)
    kubectl.apply(account, STORAGE, KUBERAY, DENY, binding("admin"))
    yield api_for_operators
    kubectl(
        "-n", NAMESPACE, "delete", f"serviceaccount/{ACCOUNT}", f"rolebinding/{ACCOUNT}", "networkpolicy/doctor-deny"
    )
    kubectl("-n", NAMESPACE, "delete", "deployment/kuberay-operator")
    kubectl("delete", "storageclass/doctor-disks")
    kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce-")


def sundog(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command, whatever its exit code."""
    program = str(Path(sys.executable).parent / "sundog")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=PATIENCE_S)


def examine(kubeconfig: Path) -> tuple[int, dict[str, Any]]:
    """Return the exit code of the command and its findings by name."""
    done = sundog("doctor", "--cluster", "--kubeconfig", str(kubeconfig), "-o", "json")
    assert not done.stderr
    return done.returncode, {each["name"]: each for each in json.loads(done.stdout)}


@pytest.fixture
def as_account(prepared: Cluster, tmp_path: Path) -> Callable[[], tuple[int, dict[str, Any]]]:
    """Run the command as the account."""
    kubeconfig = service_account.kubeconfig(prepared.kubectl, tmp_path / "kubeconfig", ACCOUNT)
    return lambda: examine(kubeconfig)


def test_an_administrator_sees_every_part(prepared: Cluster) -> None:
    _, found = examine(prepared.kubeconfig)
    assert not [each for each in found.values() if each["found"].startswith("not checked:")]
    assert {name for name, each in found.items() if each["status"] == "ok"} >= {
        "Kubernetes",
        "permissions",
        "namespaces",
        "StorageClass",
        "optional programs",
    }
    # The fields that CRDs of KubeRay 1.5 have are in the schema that the API server publishes.
    assert (found["KubeRay"]["status"], found["KubeRay"]["found"]) == ("ok", "quay.io/kuberay/operator:v1.5.0")
    assert found["namespaces"]["found"] == f"{NAMESPACE} (restricted)"
    assert "default: doctor-disks" in found["StorageClass"]["found"]
    assert "doctor-deny" in found["network policies"]["found"]
    assert "DRA (resources.gpu.allocation)" in found["optional programs"]["found"].partition(";")[0]
    # The tests apply them by kubectl.
    assert found["Sundog's CRDs"]["status"] == "warn"
    assert "not of a Helm release" in found["Sundog's CRDs"]["found"]


def test_a_cluster_without_nodes_fails(prepared: Cluster) -> None:
    if prepared.instance is None:
        pytest.skip("the cluster given has nodes")
    code, found = examine(prepared.kubeconfig)
    assert (code, found["nodes"]["status"]) == (ExitCode.REFUSED, "fail")


def test_a_missing_permission_fails_and_what_cannot_be_read_is_named(
    as_account: Callable[[], tuple[int, dict[str, Any]]],
) -> None:
    code, found = as_account()
    assert (code, found["permissions"]["status"]) == (ExitCode.REFUSED, "fail")
    assert f"create clusterroles.{RBAC}" in found["permissions"]["found"]
    assert "deployments.apps" not in found["permissions"]["found"]
    for name in ("nodes", "StorageClass", "Sundog's CRDs", "KubeRay"):
        assert found[name]["status"] == "warn"
        assert found[name]["found"].startswith("not checked:")
    assert "doctor-deny" in found["network policies"]["found"]


def test_roles_without_the_permission_to_grant_are_a_warning(
    prepared: Cluster, as_account: Callable[[], tuple[int, dict[str, Any]]]
) -> None:
    prepared.kubectl.apply(chart_role(), binding(ACCOUNT, kind="ClusterRoleBinding"))
    try:
        _, found = as_account()
    finally:
        prepared.kubectl("delete", f"clusterrole/{ACCOUNT}", f"clusterrolebinding/{ACCOUNT}")
    assert (found["permissions"]["status"], found["permissions"]["found"]) == (
        "warn",
        "in roles you may grant only what you hold yourself",
    )
