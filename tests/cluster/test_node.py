"""The node: pods that run this checkout, services, names, logs, and devices that only the scheduler believes in."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from real_kubernetes import cloud_network, machine, node
from real_kubernetes.checkout import pod_spec
from real_kubernetes.cluster import BINARIES, Cluster
from real_kubernetes.images import write_base_image
from real_kubernetes.kubectl import WAIT_S, Object
from waiting import PATIENCE_S, eventually

SERVER = "import http.server; http.server.HTTPServer(('', 8080), http.server.SimpleHTTPRequestHandler).serve_forever()"
CLIENT = f"""
import ssl, urllib.request, sundog_operator
print(sundog_operator.__path__[0])
print(urllib.request.urlopen("http://web.node-test.svc", timeout={PATIENCE_S}).status)
context = ssl.create_default_context(cafile="/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
print(urllib.request.urlopen("https://kubernetes.default/version", context=context, timeout={PATIENCE_S}).status)
"""


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    cluster.kubectl("create", "namespace", "node-test")
    yield "node-test"
    cluster.kubectl("delete", "namespace", "node-test", f"--timeout={WAIT_S}s", timeout=WAIT_S + 10)


def pod(name: str, spec: Object, **labels: str) -> Object:
    metadata = {"name": name, "namespace": "node-test", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_pods_run_the_checkout_and_reach_services_by_name(cluster: Cluster, namespace: str) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    cluster.kubectl.apply(service, pod("web", pod_spec(sys.executable, "-c", SERVER), app="web"))
    cluster.kubectl.wait("-n", namespace, "--for=condition=Ready", "pod/web")
    client = pod_spec(sys.executable, "-c", CLIENT) | {"restartPolicy": "Never"}
    cluster.kubectl.apply(pod("client", client))
    done = "--for=jsonpath={.status.phase}=Succeeded"
    cluster.kubectl.wait("-n", namespace, done, "pod/client")
    path, *statuses = cluster.kubectl("logs", "-n", namespace, "client").split()
    assert path.endswith("operator/src/sundog_operator")
    assert statuses == ["200", "200"]
    # What a pod reads is what lies here, and it cannot write to it.
    write = cluster.kubectl.run("exec", "-n", namespace, "web", "--", "touch", f"{path}/written")
    assert "Read-only file system" in write.stderr


def test_an_image_is_loaded_without_a_registry(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    if cluster.instance is None:
        pytest.skip("the cluster is somebody else's")
    name = "docker.io/local/own:1"
    node.import_image(cluster.instance, write_base_image(tmp_path, name, {"made-here": b"by us"}))
    spec = pod_spec("cat", "/made-here") | {"restartPolicy": "Never"}
    spec["containers"][0]["image"] = name
    cluster.kubectl.apply(pod("own", spec))
    done = "--for=jsonpath={.status.phase}=Succeeded"
    cluster.kubectl.wait("-n", namespace, done, "pod/own")
    assert cluster.kubectl("logs", "-n", namespace, "own") == "by us"


def test_devices_are_placed_by_the_real_scheduler(cluster: Cluster, namespace: str) -> None:
    resource = "nvidia.com/gpu"
    if cluster.instance is None:
        pytest.skip("the cluster is somebody else's")
    node.advertise(cluster.instance, BINARIES, resource, 4)
    for name in ("first", "second"):
        spec = pod_spec("sleep", "600")
        spec["containers"][0]["resources"] = {"limits": {resource: "3"}}
        cluster.kubectl.apply(pod(name, spec))
        if name == "first":
            cluster.kubectl.wait("-n", namespace, "--for=condition=Ready", "pod/first")
    unplaced = "--for=condition=PodScheduled=false"
    cluster.kubectl.wait("-n", namespace, unplaced, "pod/second")
    [condition] = cluster.kubectl.get("-n", namespace, "pod/second")["status"]["conditions"]
    assert f"Insufficient {resource}" in condition["message"]


def test_a_metadata_service_has_its_own_network_however_slowly_it_starts(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start is seen while it is still outside of the node; the second follows at once."""
    instance = cluster.instance
    if instance is None:
        pytest.skip("the cluster is somebody else's")
    slow = tmp_path / "nsenter"
    slow.write_text(f'#!/bin/sh\nsleep 0.5\nexec {shutil.which("nsenter")} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script = f"import urllib.request; print(urllib.request.urlopen('http://{cloud_network.METADATA}').status)"
    ask = machine.entered(instance, (sys.executable, "-c", script))
    for _ in range(2):
        with cloud_network.metadata_service(instance):
            assert eventually(lambda: machine.run(*ask, check=False), "an answer") == "200\n"


def test_kuberay_makes_the_head_of_a_cluster(cluster: Cluster, namespace: str) -> None:
    """No Ray starts here; that the operator works shows in what it makes."""
    head = {"rayStartParams": {}, "template": {"spec": pod_spec("sleep", "600")}}
    metadata = {"name": "tiny", "namespace": namespace}
    cluster.kubectl.apply(
        {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": {"headGroupSpec": head}}
    )
    cluster.kubectl.wait("-n", namespace, "--for=create", "service/tiny-head-svc")
    cluster.kubectl("delete", "-n", namespace, "raycluster", "tiny", f"--timeout={WAIT_S}s", timeout=WAIT_S + 10)
