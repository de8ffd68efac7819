"""What is read of an API server, and that the rest is read where a part cannot be."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.api.installation import Installation, parse_installation
from sundog_operator.errors import DependencyError, Forbidden
from sundog_operator.ports import CUSTOM_RESOURCE_DEFINITION, NODE
from sundog_operator.shell.cluster_checks.observation import CRD_NAMES, ClusterObservation, observe_cluster
from sundog_operator.shell.cluster_checks.planned_release import DEFAULT_RELEASE, PlannedRelease
from sundog_operator.shell.server_connection import ServerConnection

Observe = Callable[..., ClusterObservation]
POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny", "namespace": "sundog-system"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
}
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": CRD_NAMES[0]},
    "spec": {},
}


def deployment(name: str, image: str) -> Any:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{"name": "a", "image": image}]}}},
    }


def config_map(profiles: str) -> Any:
    labels = {"app.kubernetes.io/name": "sundog-operator", "app.kubernetes.io/component": "operator"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "sundog", "namespace": "sundog-system", "labels": labels},
        "data": {"installation.yaml": f"gpu: {{profiles: [{profiles}]}}"},
    }


@pytest.fixture
def observe(server: Any) -> Observe:
    """Observe the cluster as the command does."""

    async def read(release: PlannedRelease) -> ClusterObservation:
        kube = await KubernetesClient.connect(server.kubeconfig)
        try:
            return await observe_cluster(ServerConnection(kube, "vision"), release)
        finally:
            await kube.close()

    return lambda release=DEFAULT_RELEASE: asyncio.run(read(release))


def create(server: Any, *objects: Any) -> None:
    for obj in objects:
        server.do(lambda cluster, obj=obj: cluster.kube.create(obj))


def test_parts_are_those_of_the_release(server: Any, observe: Observe) -> None:
    operators = [deployment("kuberay-operator", "mirror/ray:1"), deployment("ray", "quay.io/kuberay/operator:v1.5.0")]
    create(server, POLICY, CRD, *operators, deployment("web", "nginx"))
    seen = observe()
    assert seen.version == "v1.36.0+sundog"
    assert {version["groupVersion"] for group in seen.api_groups.read()["groups"] for version in group["versions"]} >= {
        "ray.io/v1"
    }
    assert sorted(seen.ray_operators.read()) == ["", "mirror/ray:1", "quay.io/kuberay/operator:v1.5.0"]
    assert [each["metadata"]["name"] for each in seen.policies.read()] == ["deny"]
    assert {name: crd is not None for name, crd in seen.crds.read().items()} == {
        CRD_NAMES[0]: True,
        CRD_NAMES[1]: False,
    }
    assert set(seen.namespaces.read()) == {"sundog-system"}


def test_settings_are_of_the_release_else_of_an_installed_one_else_defaults(server: Any, observe: Observe) -> None:
    assert observe().installation == Installation()
    create(server, config_map("gke"))
    assert list(observe().installation.gpu.profiles) == ["gke"]
    planned = PlannedRelease("a", frozenset(), parse_installation("gpu: {profiles: [eks]}", ""))
    assert list(observe(planned).installation.gpu.profiles) == ["eks"]


def test_a_forbidden_part_leaves_the_others_readable(server: Any, observe: Observe) -> None:
    denied = (NODE, CUSTOM_RESOURCE_DEFINITION)
    server.cluster.kube.faults = lambda _, ref: Forbidden("no") if ref.kind in denied else None
    seen = observe()
    assert seen.nodes.content is None
    assert "nodes: no" in seen.nodes.reason
    assert seen.crds.content is None
    assert seen.policies.read() == []


def test_what_the_server_does_not_serve_is_unreadable(observe: Observe) -> None:
    # Local mode has no reviews of permissions.
    assert "selfsubjectaccessreviews" not in observe().permissions.reason
    assert "answered 404" in observe().permissions.reason


def test_a_server_that_does_not_answer_is_an_error(server: Any, observe: Observe) -> None:
    server.cluster.kube.faults = lambda _, ref: DependencyError("etcd is away") if ref.kind == NODE else None
    with pytest.raises(DependencyError, match="etcd is away"):
        observe()
