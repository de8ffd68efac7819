"""Three nodes in three zones are one network. One of them is cut off and returns, is drained, and is killed."""

import sys
from collections.abc import Iterator

import pytest

from real_kubernetes import further_nodes
from real_kubernetes.checkout import pod_spec
from real_kubernetes.cluster import BINARIES, Cluster
from real_kubernetes.kubectl import WAIT_S, Object
from real_kubernetes.node import ZONE, Node
from waiting import eventually, patience

NAMESPACE = "three-nodes"
SERVER = """
import http.server, os
class Name(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["NODE"].encode())
http.server.HTTPServer(("", 8080), Name).serve_forever()
"""
CLIENT = f"""
import urllib.request
names = set()
while len(names) < 3:
    names.add(urllib.request.urlopen("http://web.{NAMESPACE}.svc", timeout=10).read().decode())
print(*sorted(names))
"""
"""Asks the Service until the pods of all three nodes have answered."""

pytestmark = pytest.mark.timeout(patience(1800))


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    cluster.kubectl("create", "namespace", NAMESPACE)
    yield NAMESPACE
    cluster.kubectl("delete", "namespace", NAMESPACE, f"--timeout={WAIT_S}s", timeout=WAIT_S + 10)


def deployment(name: str, replicas: int, spec: Object) -> Object:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": spec}
    made = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": made}


def spread_server(replicas: int) -> Object:
    """A Deployment whose pods answer with the name of their node, each on another one."""
    spec = pod_spec(sys.executable, "-c", SERVER)
    name = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    container = spec["containers"][0]
    container["env"] = [*container["env"], name]
    container["readinessProbe"] = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    labels = {"matchLabels": {"app": "web"}}
    apart = {"topologyKey": ZONE, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": labels}
    return deployment("web", replicas, {**spec, "topologySpreadConstraints": [apart]})


def movable(name: str, node: Node, *tolerations: Object) -> Object:
    """A Deployment of one pod that prefers a node."""
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}
    preferred = [{"weight": 100, "preference": {"matchExpressions": [on_node]}}]
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    return deployment(name, 1, pod_spec("sleep", "3600") | {"affinity": affinity, "tolerations": [*tolerations]})


def service() -> Object:
    ports = [{"port": 80, "targetPort": 8080}]
    metadata = {"name": "web", "namespace": NAMESPACE}
    spec = {"selector": {"app": "web"}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def client(node: str) -> Object:
    spec = pod_spec(sys.executable, "-c", CLIENT) | {"restartPolicy": "Never", "nodeName": node}
    metadata = {"name": f"client-{node}", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_pods_on_all_nodes_reach_each_other_through_a_service(cluster: Cluster, namespace: str) -> None:
    names = [node.name for node in cluster.nodes]
    cluster.kubectl.wait("--for=condition=Ready", *(f"node/{name}" for name in names))
    zones = {node["metadata"]["labels"][ZONE] for node in cluster.kubectl.get("nodes")["items"]}
    assert zones == set(further_nodes.ZONES)
    cluster.kubectl.apply(service(), spread_server(3))
    cluster.kubectl("-n", namespace, "rollout", "status", "deployment/web", f"--timeout={WAIT_S}s", timeout=WAIT_S + 10)
    cluster.kubectl.apply(*map(client, names))
    done = "--for=jsonpath={.status.phase}=Succeeded"
    cluster.kubectl.wait("-n", namespace, done, *(f"pod/client-{name}" for name in names))
    answered = {cluster.kubectl("logs", "-n", namespace, f"client-{name}").strip() for name in names}
    assert answered == {" ".join(sorted(names))}


def running(cluster: Cluster, name: str) -> tuple[str, str]:
    """The node and the UID of the one pod of a Deployment that is Ready and does not end; empty where there is none."""
    for pod in cluster.kubectl.get("-n", NAMESPACE, "pods", "-l", f"app={name}")["items"]:
        conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
        if conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]:
            return pod["spec"]["nodeName"], pod["metadata"]["uid"]
    return "", ""


def start_on(cluster: Cluster, name: str, node: Node, *tolerations: Object) -> str:
    """Start a Deployment on a node, and return its pod's UID."""
    cluster.kubectl.apply(movable(name, node, *tolerations))
    cluster.kubectl.wait("-n", NAMESPACE, "--for=condition=Available", f"deployment/{name}")
    where, uid = running(cluster, name)
    assert where == node.name
    return uid


def until_elsewhere(cluster: Cluster, name: str, node: Node) -> None:
    eventually(
        lambda: running(cluster, name)[0] not in ("", node.name), f"{name} runs on another node than {node.name}"
    )


def until_state(cluster: Cluster, node: Node, ready: str) -> None:
    """Wait for a node's condition Ready to be `True`, or `Unknown` after its kubelet has been silent for too long."""
    cluster.kubectl.wait(f"--for=condition=Ready={ready}", f"node/{node.name}")


def test_a_node_cut_off_is_not_ready_and_returns_with_its_pods(cluster: Cluster, namespace: str) -> None:
    node = cluster.nodes[1]
    uid = start_on(cluster, "cut", node)
    with further_nodes.cut_off(node):
        until_state(cluster, node, "Unknown")
    until_state(cluster, node, "True")
    eventually(lambda: running(cluster, "cut") == (node.name, uid), "the same pod is Ready again")


def test_a_drained_node_gives_its_pods_to_others(cluster: Cluster, namespace: str) -> None:
    node = cluster.nodes[1]
    start_on(cluster, "drained", node)
    with further_nodes.drained(cluster.kubectl, node):
        until_elsewhere(cluster, "drained", node)
        assert cluster.kubectl.get("node", node.name)["spec"]["unschedulable"]


def tolerated_for_seconds(state: str) -> Object:
    """Make pods leave a node in this state sooner than the five minutes that Kubernetes gives it."""
    return {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}


def test_a_killed_node_is_not_ready_and_its_pod_runs_elsewhere(cluster: Cluster, namespace: str) -> None:
    node = cluster.nodes[2]
    start_on(cluster, "killed", node, *map(tolerated_for_seconds, ("not-ready", "unreachable")))
    further_nodes.kill(node)
    until_state(cluster, node, "Unknown")
    until_elsewhere(cluster, "killed", node)
    further_nodes.replace(cluster.nodes, node, cluster.kubectl, BINARIES)
    assert len({each.zone for each in cluster.nodes}) == 3
