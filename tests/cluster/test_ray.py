"""RayClusters on a real node: devices that are placed and refused, pods as a spec asks for them, pods by load, a Redis of somebody else.

KubeRay, Ray, its autoscaler and the scheduler are real. Devices are advertised by the node, and there are none.
"""

import contextlib
import json
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch

from gpu_rows import IMAGE, ROWS, make_claim_template, make_row
from real_kubernetes import node
from real_kubernetes.checkout import pod_spec, pod_template
from real_kubernetes.cluster import BINARIES, Cluster
from real_kubernetes.images import BASE
from real_kubernetes.kubectl import WAIT_S
from real_local import NET
from real_serving import USER, Json, Serving, Team, has_store
from sundog_operator.api.installation import parse_installation
from sundog_operator.api.quantities import parse_quantity
from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.subset import contains
from sundog_operator.core.ray import groups, pods, token
from waiting import PATIENCE_S

GPU = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"
CLAIM = "models"
PRIORITY = "sundog-test"

PREDICTOR = """
import os
import time


class Predictor:
    def load(self, path, config):
        self.seconds = config.get("seconds", 0)

    def predict(self, batch):
        time.sleep(self.seconds)
        return {name: os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "KEY", "LEVEL", "READ_KEY")}
"""


@pytest.fixture(scope="module")
def team(serving: Serving) -> Iterator[Team]:
    """A namespace with a predictor and a network in a claim."""
    instance = serving.cluster.instance
    if instance is None:
        pytest.skip("the cluster is somebody else's")
    made = Team(serving, "rays")
    folder = instance.folder("volumes/rays")
    for name, code in (("predictor", PREDICTOR), ("net", NET)):
        (folder / name).mkdir()
        (folder / name / f"{name}.py").write_text(code)
    layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    weights = {f"layers.{name}": value for name, value in layers.state_dict().items()}
    (folder / "net" / "weights.safetensors").write_bytes(safetensors.torch.save(weights))
    serving.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "rays"}})
    try:
        made.claim(CLAIM)
        yield made
    finally:
        serving.kubectl("delete", "namespace", "rays", "--wait=false")


@pytest.fixture(scope="module")
def offer(team: Team) -> Iterator[Callable[[int], None]]:
    """Has the node offer so many L4."""
    cluster = team.serving.cluster
    assert cluster.instance is not None
    instance = cluster.instance
    cluster.kubectl("label", "node", node.NAME, f"{PRODUCT}=NVIDIA-L4", "--overwrite")
    yield lambda count: node.advertise(instance, BINARIES, GPU, count)
    node.advertise(instance, BINARIES, GPU, 0)
    cluster.kubectl("label", "node", node.NAME, f"{PRODUCT}-")


def manifest(name: str, folder: str = "predictor", entrypoint: str = "predictor:Predictor", **spec: Any) -> Json:
    resources = {"cpu": "100m", "memory": "1Gi", **spec.pop("resources", {})}
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": f"pvc://{CLAIM}/{folder}", "entrypoint": entrypoint, **spec.pop("model", {})},
            "resources": resources,
            "rollout": {"steps": [{"weight": 50, "gate": "manual"}]},
            **spec,
        },
    }


def post(url: str) -> httpx.Response:
    return httpx.post(url, json={"inputs": [[1.0]]}, timeout=PATIENCE_S, trust_env=False)


def answer(team: Team, name: str) -> Json:
    """What a model says, by way of an edge."""
    response = post(f"http://{team.edges()[0]['status']['podIP']}:8080/{name}/")
    assert response.status_code == 200, response.text
    found: Json = response.json()["outputs"]
    return found


def condition(team: Team, type_: str, name: str) -> tuple[str, str, str]:
    found = {each["type"]: each for each in team.status(name).get("conditions", ())}.get(type_, {})
    return found.get("status", ""), found.get("reason", ""), found.get("message", "")


def is_placed(pod: Json) -> bool:
    return "nodeName" in pod["spec"]


def test_devices_are_placed_by_the_scheduler_and_refused_with_numbers(team: Team, offer: Callable[[int], None]) -> None:
    offer(2)
    team.apply(manifest("seer", resources={"gpu": {"count": 1, "type": ["h100", "l4"]}}))
    team.until_stable(1, "seer")
    (pod,) = team.workers(1, "seer")
    assert pod["spec"]["containers"][0]["resources"]["limits"][GPU] == "1"
    assert {"key": GPU, "operator": "Exists"} in pod["spec"]["tolerations"]
    (cluster,) = team.list("rayclusters")
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert (group["groupName"], group["resources"]["GPU"]) == ("seer-r1", "1")
    # What Ray shows a replica that has `num_gpus: 1`.
    assert answer(team, "seer")["CUDA_VISIBLE_DEVICES"] == "0"
    assert condition(team, "CapacityAvailable", "seer") == ("True", "Fits", f"1 {GPU} for each replica")
    assert team.status("seer")["capacity"] == {"gpusRequested": 1, "gpusAllocated": 1, "mode": "surge"}

    two = manifest("seer", "net", "net:Net", resources={"gpu": {"count": 2, "type": ["l4"]}})
    team.apply(two)
    message = f"2 {GPU} of type l4 needed (1 × 2), 1 of 2 free on 1 node"
    team.until_told("True", "InsufficientCapacity", message, name="seer")
    team.apply(manifest("seer", resources={"gpu": {"count": 1, "type": ["h100"]}}))
    team.until_told("True", f"1 {GPU} of type h100 needed (1 × 1), 0 of 0 free on 0 nodes", name="seer")
    assert [each["metadata"]["name"] for each in team.workers(name="seer")] == [pod["metadata"]["name"]]

    team.apply(two)
    offer(3)
    # Its pod gets them; the network then looks for them, and nothing is lost by what it finds.
    team.until(lambda: [each for each in team.workers(2, "seer") if is_placed(each)], "a pod with two devices")
    team.until_told("True", "LoadFailed", "resources.gpu.count is 2 (nvidia)", "sees no device", name="seer")
    team.until(lambda: not team.workers(2, "seer"), "the pod of the failed revision is gone")
    assert answer(team, "seer")["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize("row", ROWS)
def test_the_api_server_keeps_each_row_of_accelerators_as_it_was_made(team: Team, row: str) -> None:
    group, _ = make_row(row)
    wanted = pods.make_ray_cluster(team.namespace, row, [], IMAGE, parse_installation("", "test"))
    wanted["spec"]["workerGroupSpecs"] = [group]
    (stored,) = dry_run(team, wanted)["spec"]["workerGroupSpecs"]
    assert contains(stored, group)
    asked = group["template"]["spec"]
    # Only the check of a pod knows the operators of an affinity.
    placed = dry_run(team, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": row}, "spec": asked})["spec"]
    assert placed.get("affinity") == asked.get("affinity")
    assert amounts(placed["containers"][0]["resources"]) == amounts(asked["containers"][0]["resources"])
    assert placed.get("resourceClaims") == asked.get("resourceClaims")
    assert contains(placed.get("schedulingGates", []), asked.get("schedulingGates", []))
    template = make_claim_template(row)
    if template is not None:
        metadata = {**template["metadata"], "namespace": team.namespace, "ownerReferences": []}
        # The API server checks the types of the CEL.
        assert contains(dry_run(team, {**template, "metadata": metadata})["spec"], template["spec"])


def amounts(resources: Json) -> dict[str, dict[str, Decimal]]:
    """Return the requests and limits. A pod's quantities are stored in another form, such as 3 for 3000m."""
    return {
        part: {name: parse_quantity(str(amount)) for name, amount in resources.get(part, {}).items()}
        for part in ("requests", "limits")
    }


def dry_run(team: Team, obj: Json) -> Json:
    """Return the object as the API server would store it."""
    answer: Json = json.loads(
        team.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(obj))
    )
    return answer


def test_a_first_revision_waits_for_devices_and_its_pod_goes_with_it(team: Team, offer: Callable[[int], None]) -> None:
    offer(3)
    team.apply(manifest("big", resources={"gpu": {"count": 8}}))
    team.until_told("False", "Unschedulable", f"1 without enough free {GPU}", name="big")
    said = condition(team, "CapacityAvailable", "big")
    assert said[:2] == ("False", "InsufficientCapacity")
    assert f"8 {GPU} needed (1 × 8)" in said[2]
    team.kubectl("delete", "mdep", "big", "--wait=false")
    # It was never idle, for it never ran.
    team.until(lambda: not team.workers(name="big"), "the pod without a node is gone")


@pytest.fixture(scope="module")
def slow(team: Team) -> Iterator[Json]:
    """A model of half a second with everything that a spec may ask of a pod, and one to three replicas by load."""
    run = team.serving.kubectl
    run.apply(
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": PRIORITY}, "value": 7}
    )
    for name, data in (("keys", {"k": "of-the-secret"}), ("read", {"READ_KEY": "of-the-source"})):
        team.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
    team.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"level": "of-the-map"}}
    )
    env = [
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}},
        {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}},
    ]
    toleration = {"key": "spot", "operator": "Exists", "effect": "NoSchedule"}
    scaling = {"minReplicas": 1, "maxReplicas": 2, "targetOngoingRequests": 1}
    made = manifest(
        "slow",
        model={"config": {"seconds": 0.5}, "credentials": {"secretName": "read"}},
        runtime={"env": env, "podLabels": {"team": "vision"}},
        scheduling={
            "priorityClassName": PRIORITY,
            "nodeSelector": {"kubernetes.io/hostname": node.NAME},
            "tolerations": [toleration],
        },
        autoscaling={**scaling, "upscaleDelay": "1s", "downscaleDelay": "1s"},
    )
    team.apply(made)
    team.until_stable(1, "slow")
    yield made
    run("delete", "priorityclass", PRIORITY)


def test_pods_are_as_the_spec_asks_and_secrets_reach_the_model(team: Team, slow: Json) -> None:
    (pod,) = team.workers(1, "slow")
    spec, asked = pod["spec"], slow["spec"]["scheduling"]
    assert (spec["priorityClassName"], spec["priority"]) == (PRIORITY, 7)
    assert spec["nodeSelector"] == asked["nodeSelector"]
    assert asked["tolerations"][0] in spec["tolerations"]
    assert pod["metadata"]["labels"]["team"] == "vision"
    assert pod["metadata"]["labels"]["ray.io/group"] == "slow-r1"
    assert spec["automountServiceAccountToken"] is False
    found = answer(team, "slow")
    assert (found["KEY"], found["LEVEL"], found["READ_KEY"]) == ("of-the-secret", "of-the-map", "of-the-source")
    # A pod that asked for no device sees none.
    assert found["CUDA_VISIBLE_DEVICES"] == ""
    assert team.kubectl("get", "pods", "-l", team.status("slow")["selector"], "-o", "name").split() == [
        f"pod/{pod['metadata']['name']}"
    ]


@contextlib.contextmanager
def load(team: Team, name: str, clients: int) -> Iterator[Counter[str]]:
    """Clients that ask one after the other as long as the block runs; the answers by status, or by error."""
    answers: Counter[str] = Counter()
    stop = threading.Event()
    url = f"http://{team.edges()[0]['status']['podIP']}:8080/{name}/"

    def ask_on() -> None:
        while not stop.is_set():
            try:
                answers[str(post(url).status_code)] += 1
            except httpx.HTTPError as error:
                answers[f"{type(error).__name__}: {error}"] += 1

    threads = [threading.Thread(target=ask_on) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_load_adds_a_pod_and_its_end_takes_it_away(team: Team, slow: Json) -> None:
    before = team.workers(1, "slow")
    with load(team, "slow", clients=4) as answers:
        team.until(lambda: len(team.workers(1, "slow")) == 2, "a second pod")
        team.until(lambda: team.status("slow")["readyReplicas"] == 2, "a second replica answers")
    team.until(lambda: len(team.workers(1, "slow")) == 1, "one pod again")
    team.until(lambda: team.status("slow")["replicas"] == team.status("slow")["readyReplicas"] == 1, "one replica")
    assert answers.keys() == {"200"}
    assert len(before) == 1
    (revision,) = {pod["metadata"]["labels"][names.LABEL_REVISION] for pod in team.workers(name="slow")}
    assert revision == "1"


def delete(team: Team, head: str) -> None:
    team.kubectl("delete", "pod", head, "--force", "--grace-period=0")


def end_autoscaler(team: Team, head: str) -> None:
    """As it ends by itself where there is no worker group at its start. Neither the kubelet nor KubeRay does anything about it."""
    team.kubectl("exec", head, "-c", "autoscaler", "--", "bash", "-c", "kill -INT 1")


@pytest.mark.skipif(not has_store(), reason="neither valkey-server nor redis-server is installed")
@pytest.mark.parametrize(
    ("lose", "replicas"),
    [
        pytest.param(delete, 2, id="deleted"),
        pytest.param(end_autoscaler, 1, id="autoscaler ended", marks=pytest.mark.campaign),
    ],
)
def test_a_head_that_is_lost_comes_back_from_its_store_while_replicas_answer(
    team: Team, slow: Json, lose: Callable[[Team, str], None], replicas: int
) -> None:
    (head,), workers = team.heads(), {pod["metadata"]["uid"] for pod in team.workers(name="slow")}

    def is_replaced() -> bool:
        found = [pod for pod in team.heads() if pod["metadata"]["uid"] != head["metadata"]["uid"]]
        conditions = [each for pod in found for each in pod["status"].get("conditions", ())]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    with load(team, "slow", clients=1) as answers:
        lose(team, head["metadata"]["name"])
        team.until(is_replaced, "another head")
        # Its control plane goes on where the other one was: it takes a setting, and nothing is loaded anew for it.
        bounds = {"minReplicas": replicas, "maxReplicas": replicas}
        team.apply({**slow, "spec": {**slow["spec"], "autoscaling": bounds}})
        team.until(
            lambda: team.status("slow")["replicas"] == team.status("slow")["readyReplicas"] == replicas,
            f"{replicas} replicas",
        )
    assert answers.keys() == {"200"}
    left = {pod["metadata"]["uid"] for pod in team.workers(name="slow")}
    assert workers <= left or left <= workers, "nothing was loaded anew"


REDIS = ("redis-server", "--requirepass", "its-password", "--save", "", "--appendonly", "no")


@pytest.fixture
def redis(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """(namespace, address) of a Redis that somebody runs."""
    if not has_store():
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    namespace = f"redis-{secrets.token_hex(3)}"
    run = cluster.kubectl
    run("create", "namespace", namespace)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "redis", "namespace": namespace}}
    run.apply({**pod, "spec": pod_spec(*REDIS, "--dir", "/tmp", "--bind", "0.0.0.0")})
    run.wait("-n", namespace, "--for=condition=Ready", "pod/redis")
    yield namespace, f"{run.get('-n', namespace, 'pod', 'redis')['status']['podIP']}:6379"
    run("delete", "namespace", namespace, "--wait=false")


def test_a_redis_of_somebody_else_keeps_what_a_head_needs_and_is_left_clean(
    cluster: Cluster, redis: tuple[str, str]
) -> None:
    namespace, address = redis
    little = {"requests": {"cpu": "50m", "memory": "256Mi"}}
    written = {
        "runtimeImage": BASE,
        "ray": {
            "pods": {**pod_template(), "securityContext": USER},
            "head": {"resources": little},
            "autoscaler": {"resources": little},
            "gcsFaultTolerance": {"external": {"address": address, "passwordSecretName": "redis"}},
        },
    }
    installation = parse_installation(json.dumps(written), "test")
    made = pods.make_ray_cluster(namespace, "own-redis", [], BASE, installation)
    # Ray's autoscaler ends where there is no group at all.
    group = groups.make_group("none-r1", (0, 1), {"CPU": "1"}, {"metadata": {}, "spec": pod_spec("true")})
    made["spec"]["workerGroupSpecs"] = [{**group, "replicas": 0}]
    run = cluster.kubectl
    password = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis", "namespace": namespace}}
    run.apply(
        token.make_secret(namespace, [], secrets.token_hex(16)),
        {**password, "stringData": {"password": "its-password"}},
        made,
    )
    run.wait("-n", namespace, "raycluster/own-redis", "--for=condition=HeadPodReady")
    assert keys(cluster, namespace) > 0
    run("-n", namespace, "delete", "raycluster", "own-redis", f"--timeout={WAIT_S}s", timeout=WAIT_S + 10)
    assert keys(cluster, namespace) == 0


def keys(cluster: Cluster, namespace: str) -> int:
    """How many there are in the Redis."""
    told = cluster.kubectl(
        *("-n", namespace, "exec", "redis", "--", "env", "REDISCLI_AUTH=its-password", "redis-cli", "dbsize")
    )
    return int(told.strip())
