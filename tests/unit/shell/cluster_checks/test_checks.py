"""Findings about clusters, by what was observed."""

from dataclasses import replace
from typing import Any

import pytest

from sundog_operator.adapters.local.doctor import Check
from sundog_operator.api.installation import Installation, parse_installation
from sundog_operator.core.kubernetes import node_fit
from sundog_operator.shell.cluster_checks.checks import check_cluster
from sundog_operator.shell.cluster_checks.observation import CRD_NAMES, ClusterObservation, Part
from sundog_operator.shell.cluster_checks.planned_release import CRDS, DEFAULT_RELEASE, POLICIES
from sundog_operator.shell.cluster_checks.probe import ProbeResult

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
SERVED = ("ray.io/v1", "gateway.networking.k8s.io/v1", "resource.k8s.io/v1", "metrics.k8s.io/v1beta1")
RAY_FIELDS: dict[str, Any] = {
    "autoscalerOptions": {"properties": {"version": {"type": "string"}}},
    "gcsFaultToleranceOptions": {"type": "object"},
    "headGroupSpec": {"properties": {"labels": {"type": "object"}}},
}
ALL_POLICIES = {"metadata": {"name": "default-deny"}, "spec": {"podSelector": {}, "policyTypes": ["Egress"]}}


def groups(*versions: str) -> Any:
    return {"groups": [{"versions": [{"groupVersion": version}]} for version in versions]}


def named(name: str, labels: Any = None, **annotations: str) -> Any:
    return {"metadata": {"name": name, "labels": labels, "annotations": annotations or None}}


def storage_class(name: str, is_default: bool = False) -> Any:
    marked = {"storageclass.kubernetes.io/is-default-class": str(is_default).lower()}
    return {"metadata": {"name": name, "annotations": marked}}


def node(name: str, *, is_ready: bool = True, devices: Any = None, labels: Any = None) -> Any:
    ready = {"type": "Ready", "status": str(is_ready)}
    status = {"conditions": [ready], "allocatable": {"cpu": "4", **(devices or {})}}
    return node_fit.trim_node({"metadata": {"name": name, "labels": labels}, "status": status})


def crd(name: str, *versions: str, namespace: str = "sundog-system") -> Any:
    helm = {"meta.helm.sh/release-namespace": namespace} if namespace else {}
    return {"metadata": {"name": name, "annotations": helm}, "status": {"storedVersions": list(versions)}}


def crds(*versions: str, namespace: str = "sundog-system") -> Any:
    return Part({name: crd(name, *versions, namespace=namespace) for name in CRD_NAMES})


def ray_schemas(fields: Any) -> Part[Any]:
    kind = {"group": "ray.io", "version": "v1", "kind": "RayCluster"}
    schema = {"x-kubernetes-group-version-kind": [kind], "properties": {"spec": {"properties": fields}}}
    return Part({"io.ray.v1.RayCluster": schema})


GPU_LABELS = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", "nvidia.com/cuda.driver-version.major": "580"}
GPU_NODE = node("gpu-1", devices={"nvidia.com/gpu": "8"}, labels=GPU_LABELS)
GOOD = ClusterObservation(
    version="v1.36.3",
    installation=Installation(),
    api_groups=Part(groups(*SERVED)),
    namespaces=Part({"sundog-system": named("sundog-system", RESTRICTED)}),
    nodes=Part([node("cpu-1"), GPU_NODE]),
    storage_classes=Part([storage_class("standard", is_default=True), storage_class("fast")]),
    crds=Part(dict.fromkeys(CRD_NAMES)),
    ray_schemas=ray_schemas(RAY_FIELDS),
    ray_operators=Part(["", "quay.io/kuberay/operator:v1.5.0"]),
    policies=Part([]),
    permissions=Part(dict.fromkeys(DEFAULT_RELEASE.find_permissions(), True)),
)


def without(*verbs: str) -> Part[Any]:
    return Part({each: each[0] not in verbs for each in DEFAULT_RELEASE.find_permissions()})


def settings(text: str) -> Installation:
    return parse_installation(text, "settings")


NO_CLAIMS = "{ray: {gcsFaultTolerance: {enabled: false}}, feedback: {store: {storage: {size: ''}}}}"
EXTERNAL = "{ray: {gcsFaultTolerance: {external: {address: 'a:1'}}}, feedback: {store: {external: {address: 'a:1'}}}}"
FAST = "{ray: {gcsFaultTolerance: {storage: {className: fast}}}, feedback: {store: {storage: {className: fast}}}}"
HOST_PATH = settings("{ray: {cache: {hostPath: /var/lib/sundog}}}")
NO_CRDS = replace(DEFAULT_RELEASE, resources=frozenset(e for e in DEFAULT_RELEASE.resources if e[0] != CRDS))
NO_POLICIES = replace(DEFAULT_RELEASE, resources=frozenset(e for e in DEFAULT_RELEASE.resources if e[0] != POLICIES))
OPEN = {"metadata": {"name": "web"}, "spec": {"podSelector": {"matchLabels": {"app": "web"}}}}
OLD_RAY = {name: field for name, field in RAY_FIELDS.items() if name != "headGroupSpec"}


def probed(is_isolated: bool | None, reason: str = "", **images: str) -> Part[ProbeResult]:
    return Part(ProbeResult(images, is_isolated, reason))


def find(name: str, release: Any = DEFAULT_RELEASE, **changes: Any) -> Check:
    (found,) = [each for each in check_cluster(replace(GOOD, **changes), release) if each.name == name]
    return found


def test_a_good_cluster_warns_only_about_what_the_api_does_not_show() -> None:
    assert {each.name for each in check_cluster(GOOD, DEFAULT_RELEASE) if each.status != "ok"} == {
        "network policies",
        "registry",
    }


def test_each_problem_comes_with_what_to_do_and_nothing_else_does() -> None:
    bare = replace(GOOD, version="v1.20.1", nodes=Part([]), storage_classes=Part([]), ray_operators=Part([]))
    failed = replace(GOOD, probe=probed(False, a="no login"))
    for each in [finding for seen in (GOOD, bare, failed) for finding in check_cluster(seen, DEFAULT_RELEASE)]:
        assert bool(each.fix) == (each.status != "ok"), each
        assert "\n" not in each.found + each.fix


@pytest.mark.parametrize(
    ("name", "changes", "status", "found"),
    [
        pytest.param("Kubernetes", {"version": "v1.32.0-eks-1"}, "ok", "v1.32.0-eks-1", id="oldest-version"),
        pytest.param("Kubernetes", {"version": "v1.31.9"}, "fail", "v1.31.9", id="too-old-version"),
        pytest.param("Kubernetes", {"version": ""}, "fail", "", id="no-version"),
        pytest.param(
            "permissions", {"permissions": without("patch")}, "fail", "patch configmaps, patch custom", id="no-patch"
        ),
        pytest.param("permissions", {"permissions": without("bind")}, "warn", "only what you hold", id="no-bind"),
        pytest.param(
            "permissions", {"permissions": without("create", "escalate")}, "fail", "and 7 more", id="many-denied"
        ),
        pytest.param("namespaces", {}, "ok", "sundog-system (restricted)", id="restricted-namespace"),
        pytest.param(
            "namespaces", {"namespaces": Part({"sundog-system": None})}, "ok", "--create-namespace", id="no-namespace"
        ),
        pytest.param(
            "namespaces",
            {"namespaces": Part({"sundog-system": None}), "permissions": without("create")},
            "fail",
            "you may not create it",
            id="no-namespace-and-no-permission",
        ),
        pytest.param(
            "namespaces",
            {"namespaces": Part({"sundog-system": None, "vision": None})},
            "fail",
            "not found: vision",
            id="no-watched-namespace",
        ),
        pytest.param(
            "namespaces", {"installation": HOST_PATH}, "warn", "hostPath in sundog-system", id="host-path-refused"
        ),
        pytest.param(
            "namespaces",
            {"installation": HOST_PATH, "namespaces": Part({"sundog-system": named("sundog-system")})},
            "ok",
            "sundog-system (privileged)",
            id="host-path-allowed",
        ),
        pytest.param("Sundog's CRDs", {}, "ok", "0 of 2 exist", id="no-crds"),
        pytest.param("Sundog's CRDs", {"crds": crds("v1alpha1")}, "ok", "2 of 2 exist", id="crds-of-this-release"),
        pytest.param(
            "Sundog's CRDs", {"crds": crds("v1alpha1", "v1")}, "fail", "stored as v1;", id="unknown-stored-version"
        ),
        pytest.param(
            "Sundog's CRDs",
            {"crds": crds("v1alpha1", namespace="")},
            "warn",
            "not of a Helm release in sundog-system: modeldep",
            id="crds-of-kubectl",
        ),
        pytest.param(
            "Sundog's CRDs", {"crds": crds("v1alpha1", namespace="b")}, "warn", "experiments", id="crds-of-another"
        ),
        pytest.param("Sundog's CRDs", {"release": NO_CRDS}, "fail", "missing", id="crds-not-installed-by-chart"),
        pytest.param(
            "Sundog's CRDs",
            {"release": NO_CRDS, "crds": crds("v1alpha1", namespace="")},
            "ok",
            "2 of 2 exist",
            id="crds-applied-before",
        ),
        pytest.param("KubeRay", {}, "ok", "quay.io/kuberay/operator:v1.5.0", id="kuberay"),
        pytest.param("KubeRay", {"api_groups": Part(groups())}, "fail", "ray.io/v1 is not served", id="no-kuberay"),
        pytest.param(
            "KubeRay", {"ray_schemas": ray_schemas(OLD_RAY)}, "fail", "no spec.headGroupSpec.labels", id="old-ray-crds"
        ),
        pytest.param("KubeRay", {"ray_schemas": Part({})}, "ok", "v1.5.0", id="no-published-ray-schema"),
        pytest.param("KubeRay", {"ray_operators": Part([""])}, "warn", "no Deployment", id="no-ray-operator"),
        pytest.param(
            "KubeRay", {"ray_operators": Part(["r:5000/kuberay:v1.4.2"])}, "fail", "v1.4.2", id="old-ray-operator"
        ),
        pytest.param(
            "KubeRay", {"ray_operators": Part(["kuberay@sha256:1"])}, "ok", "sha256:1", id="ray-operator-by-digest"
        ),
        pytest.param(
            "KubeRay", {"ray_operators": Part(["kuberay:v1.4.0@sha256:1"])}, "fail", "v1.4.0", id="old-tag-with-digest"
        ),
        pytest.param(
            "KubeRay",
            {"ray_operators": Part(["1.2.3.4:5000/kuberay:v1.5.0"])},
            "ok",
            "v1.5.0",
            id="registry-by-address",
        ),
        pytest.param("StorageClass", {}, "ok", "standard, fast; default: standard", id="default-class"),
        pytest.param(
            "StorageClass",
            {"storage_classes": Part([storage_class("fast")])},
            "fail",
            "fast; default: none",
            id="no-default-class",
        ),
        pytest.param("StorageClass", {"storage_classes": Part([])}, "fail", "none; default", id="no-class"),
        pytest.param(
            "StorageClass",
            {"storage_classes": Part([]), "installation": settings(NO_CLAIMS)},
            "ok",
            "not needed",
            id="stores-without-claims",
        ),
        pytest.param(
            "StorageClass",
            {"storage_classes": Part([]), "installation": settings(EXTERNAL)},
            "ok",
            "not needed",
            id="external-stores",
        ),
        pytest.param(
            "StorageClass",
            {"storage_classes": Part([storage_class("fast")]), "installation": settings(FAST)},
            "ok",
            "fast",
            id="named-class",
        ),
        pytest.param(
            "StorageClass",
            {"storage_classes": Part([storage_class("slow", is_default=True)]), "installation": settings(FAST)},
            "fail",
            "slow",
            id="no-such-class",
        ),
        pytest.param("nodes", {}, "ok", "2 of 2 take pods, 8 nvidia.com/gpu", id="nodes"),
        pytest.param(
            "nodes", {"nodes": Part([node("a", is_ready=False), node("b")])}, "ok", "1 of 2", id="a-node-not-ready"
        ),
        pytest.param(
            "nodes", {"nodes": Part([node("a", is_ready=False)])}, "fail", "none of 1", id="no-node-that-is-ready"
        ),
        pytest.param(
            "nodes",
            {"nodes": Part([node("a", devices={"amd.com/gpu": "2"}), node("b", devices={"nvidia.com/gpu": "0"})])},
            "warn",
            "2 of 2 take pods, 2 amd.com/gpu; no label names the type of the devices of a",
            id="devices-without-type",
        ),
        pytest.param("GPU labels", {}, "ok", "gpu-operator (guessed from the nodes)", id="guessed-labels"),
        pytest.param(
            "GPU labels",
            {"installation": settings("{gpu: {profiles: [eks]}}"), "nodes": Part([node("a")])},
            "ok",
            "eks (installation.gpu.profiles)",
            id="given-labels",
        ),
        pytest.param("GPU labels", {"nodes": Part([node("a")])}, "warn", "unknown", id="no-labels"),
        pytest.param("NVIDIA driver", {}, "ok", "branch 580", id="driver"),
        pytest.param(
            "NVIDIA driver",
            {"nodes": Part([GPU_NODE, node("a", labels={"nvidia.com/cuda.driver.major": "535"})])},
            "warn",
            "branch 535",
            id="old-driver-by-an-old-label",
        ),
        pytest.param("NVIDIA driver", {"nodes": Part([node("a")])}, "ok", "no node shows one", id="no-driver"),
        pytest.param(
            "network policies",
            {"policies": Part([OPEN])},
            "warn",
            "none for all pods of sundog-system; enforcement is not",
            id="policy-of-some-pods",
        ),
        pytest.param(
            "network policies",
            {"policies": Part([OPEN, ALL_POLICIES])},
            "warn",
            "default-deny for all pods",
            id="default-deny",
        ),
        pytest.param(
            "network policies",
            {"probe": probed(True)},
            "ok",
            "none for all pods of sundog-system; enforced",
            id="enforced",
        ),
        pytest.param(
            "network policies", {"probe": probed(False)}, "warn", "; not enforced", id="policies-without-effect"
        ),
        pytest.param(
            "network policies",
            {"probe": probed(None, reason="a cannot be pulled")},
            "warn",
            "; enforcement is not known: a cannot be pulled",
            id="enforcement-unknown",
        ),
        pytest.param(
            "network policies",
            {"probe": Part(None, "pods are forbidden")},
            "warn",
            "; enforcement is not known: pods are forbidden",
            id="no-probe",
        ),
        pytest.param("registry", {}, "warn", "not checked", id="registry"),
        pytest.param("registry", {"probe": probed(True, a="", b="")}, "ok", "a node pulled a, b", id="images-pulled"),
        pytest.param(
            "registry", {"probe": probed(True, a="", b="401")}, "fail", "not pulled: b (401)", id="image-not-pulled"
        ),
        pytest.param(
            "registry",
            {"probe": Part(None, "pods are forbidden")},
            "warn",
            "not checked: pods are forbidden",
            id="registry-not-probed",
        ),
        pytest.param(
            "optional programs",
            {"api_groups": Part(groups("kueue.x-k8s.io/v1beta1", "keda.sh/v1alpha1"))},
            "ok",
            "Kueue (scheduling.queue), KEDA; not installed: Gateway API",
            id="optional-programs",
        ),
        pytest.param("optional programs", {"api_groups": Part(groups())}, "ok", "none; not installed", id="none"),
    ],
)
def test_finding(name: str, changes: dict[str, Any], status: str, found: str) -> None:
    check = find(name, **changes)
    assert check.status == status, check
    assert found in check.found


def test_a_default_deny_policy_without_the_charts_own_asks_for_it() -> None:
    denied = {"policies": Part([ALL_POLICIES])}
    assert "networkPolicy.enabled" in find("network policies", NO_POLICIES, **denied).fix
    assert "networkPolicy.enabled" in find("network policies", NO_POLICIES, **denied, probe=probed(True)).fix
    assert "networkPolicy.enabled" not in find("network policies", **denied).fix


def test_the_classes_that_lack_are_named_by_their_setting() -> None:
    classes = Part([storage_class("slow", is_default=True)])
    fix = find(
        "StorageClass", storage_classes=classes, installation=settings("{feedback: {store: {storage: {className: x}}}}")
    ).fix
    assert fix.endswith("name one in installation.feedback.store.storage.className")


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("api_groups", {"KubeRay", "optional programs"}),
        ("namespaces", {"namespaces"}),
        ("nodes", {"nodes", "GPU labels", "NVIDIA driver"}),
        ("storage_classes", {"StorageClass"}),
        ("crds", {"Sundog's CRDs"}),
        ("ray_schemas", {"KubeRay"}),
        ("ray_operators", {"KubeRay"}),
        ("policies", {"network policies"}),
        ("permissions", {"permissions"}),
    ],
)
def test_what_cannot_be_read_is_not_checked_and_no_failure(part: str, names: set[str]) -> None:
    unreadable = replace(GOOD, **{part: Part(None, f"{part} is forbidden")})
    found = {each.name: each for each in check_cluster(unreadable, DEFAULT_RELEASE)}
    assert {name for name, each in found.items() if each.found == f"not checked: {part} is forbidden"} == names
    assert {found[name].status for name in names} == {"warn"}
