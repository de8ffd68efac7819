"""What a real API server says of the edge's objects: pods of the `restricted` standard, and answers that hold all that was asked for."""

import json
import secrets
from typing import Any

import pytest
import yaml

from real_kubernetes.cluster import Cluster
from sundog_operator.api.installation import parse_installation
from sundog_operator.app.edge_resources import make_shared_objects
from sundog_operator.core.edge import deployment
from sundog_operator.core.edge import objects as edge_objects
from sundog_operator.core.kubernetes.subset import contains

pytestmark = pytest.mark.cluster

STRICT = "networkPolicies: {enabled: true, operatorNamespace: sundog-system, metricsFrom: [{namespaceSelector: {}}]}"
ODD = """
edge:
  resources: {requests: {cpu: "0.5", memory: 1024Mi}, limits: {cpu: "1.50", memory: "2000000000"}}
  pods:
    tolerations: [{key: edges, operator: Exists}]
    nodeSelector: {pool: edges}
    env: [{name: TZ, value: UTC}]
    volumes: [{name: extra, emptyDir: {}}]
    volumeMounts: [{name: extra, mountPath: /extra}]
"""


@pytest.fixture
def namespace(api_server: Cluster) -> Any:
    name = f"edge-{secrets.token_hex(3)}"
    api_server.kubectl("create", "namespace", name)
    api_server.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    api_server.kubectl("delete", "namespace", name, "--wait=false")


def objects(namespace: str, text: str) -> list[dict[str, Any]]:
    installation = parse_installation(text, "test")
    meta = {"name": "digits", "namespace": namespace, "uid": "5a7cbb0e-0000-0000-0000-000000000000"}
    member = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment", "metadata": meta}
    return [
        edge_objects.make_secret(namespace, [member], {"keys": "e30="}),
        edge_objects.make_config_map(namespace, [member], {"version": 1}),
        *make_shared_objects(namespace, [member], installation),
        deployment.make_deployment(namespace, [member], installation),
        edge_objects.make_service(member, tls=True),
    ]


@pytest.mark.parametrize("text", ["", STRICT, ODD], ids=["defaults", "strict", "odd"])
def test_the_answer_to_an_apply_needs_no_other_apply(api_server: Cluster, namespace: str, text: str) -> None:
    for wanted in objects(namespace, text):
        # A dry run: with owners that do not exist the real ones would be collected at once.
        arguments = ("apply", "--server-side", "--dry-run=server", "-o", "json", "-f", "-")
        stored = json.loads(api_server.kubectl(*arguments, stdin=json.dumps(wanted)))
        assert contains(stored, wanted), yaml.safe_dump_all([wanted, stored])


def test_an_edge_that_is_not_ready_may_be_evicted_and_one_that_is_ready_waits_for_its_budget(
    api_server: Cluster, namespace: str
) -> None:
    """Nothing counts pods for the budget here, so it allows nobody to be without a pod."""
    kubectl = api_server.kubectl
    kubectl.apply(edge_objects.make_disruption_budget(namespace, []))
    for name, ready in (("starting", "False"), ("serving", "True")):
        kubectl.apply(edge_pod(namespace, name))
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}
        patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
        kubectl("-n", namespace, "patch", "pod", name, *patch)
    assert "Success" in evicted(api_server, namespace, "starting")
    assert "disruption budget" in evicted(api_server, namespace, "serving")


def edge_pod(namespace: str, name: str, text: str = "") -> dict[str, Any]:
    """A pod of the edges, of an account that is there."""
    template = deployment.make_deployment(namespace, [], parse_installation(text, "test"))["spec"]["template"]
    meta = {"name": name, "namespace": namespace, "labels": template["metadata"]["labels"]}
    spec = template["spec"] | {"serviceAccountName": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def evicted(api_server: Cluster, namespace: str, name: str) -> str:
    """What the API server says of an eviction, as a drain asks for it."""
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
    meta = {"name": name, "namespace": namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
    done = api_server.kubectl.run("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    return done.stdout + done.stderr


def test_pods_of_the_edge_are_admitted_where_only_restricted_ones_are(api_server: Cluster, namespace: str) -> None:
    def admitted(text: str) -> str:
        pod = edge_pod(namespace, "edge", text)
        done = api_server.kubectl.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
        return done.stdout + done.stderr

    assert "created (server dry run)" in admitted("")
    refused = admitted("edge: {pods: {containerSecurityContext: {privileged: true}}}")
    assert "violates PodSecurity" in refused
