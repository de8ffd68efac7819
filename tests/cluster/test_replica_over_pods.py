"""A replica over two pods on a node: KubeRay brings a lost pod back, and Serve the replica, while another replica answers.

Ray, its placement groups and autoscaler, KubeRay and the scheduler are real. The node advertises devices, and there are none. One
ModelDeployment goes through all of it, in the order of the tests; each begins with what it finds.
"""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping

import httpx
import psutil
import pytest

from measuring.record import Record
from real_kubernetes import node
from real_kubernetes.cluster import BINARIES
from real_serving import CLAIM, Json, Serving, Team, processes_of
from waiting import PATIENCE_S, patience

pytestmark = pytest.mark.timeout(patience(1800))

NAME = NAMESPACE = "wide"
GPU = "nvidia.com/gpu"
REPLICAS, PODS = 2, 2
CLIENTS = 4
PREDICTOR = """
import json
import socket

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


class Predictor:
    def load(self, path, config):
        @ray.remote(num_cpus=0, num_gpus=1)
        class Shard:
            def find_pod(self):
                return socket.gethostname()

        group = ray.util.get_current_placement_group()
        places = [PlacementGroupSchedulingStrategy(group, bundle) for bundle in range(group.bundle_count)]
        self.shards = [Shard.options(scheduling_strategy=place).remote() for place in places]

    def predict(self, batch):
        pods = ray.get([shard.find_pod.remote() for shard in self.shards])
        return [json.dumps([socket.gethostname(), pods])] * len(batch)
"""
MANIFEST: Json = {
    "apiVersion": "serving.sundog.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": NAME},
    "spec": {
        "model": {"uri": f"pvc://{CLAIM}/v1", "format": "python", "entrypoint": "predictor:Predictor"},
        "resources": {"cpu": "100m", "memory": "1Gi", "gpu": {"count": 1, "topology": {"nodes": PODS}}},
        "replicas": REPLICAS,
    },
}


@pytest.fixture(scope="module")
def wide(serving: Serving) -> Iterator[Team]:
    """Two replicas, each over two pods with a device."""
    with serving.team_with_models(NAMESPACE, {"v1/predictor.py": PREDICTOR}) as team:
        instance = serving.cluster.instance
        assert instance is not None
        node.advertise(instance, BINARIES, GPU, REPLICAS * PODS)
        try:
            team.apply(MANIFEST)
            until_whole(team, [])
            yield team
            team.kubectl("delete", "mdep", NAME)
        finally:
            node.advertise(instance, BINARIES, GPU, 0)


@pytest.fixture(scope="module")
def record() -> Iterator[Record]:
    columns = ("the pod", "requests", "not answered 200", "test, until both replicas answer again")
    made = Record(
        "replica_over_pods", "One of two replicas over two pods each loses a pod, on the tests' node", columns
    )
    yield made
    made.finish()


def until_whole(team: Team, without: list[str]) -> None:
    """All replicas are ready, and each pod runs; these are gone."""

    def is_whole() -> bool:
        ready = (team.status(NAME).get("stable") or {}).get("readyReplicas", 0)
        pods = [pod["metadata"]["name"] for pod in team.all_workers(NAME)]
        return ready == REPLICAS and len(pods) == REPLICAS * PODS and not set(pods) & set(without)

    team.until(is_whole, f"{REPLICAS} replicas over {PODS} pods each")
    team.until(lambda: len(find_replicas(team)) == REPLICAS, "each replica answers")


def find_replicas(team: Team) -> Mapping[str, set[str]]:
    """Return the pods of each replica, by the pod with its process. Not all replicas may be among some answers."""
    url, found = f"http://{team.get(NAME, 'service')['spec']['clusterIP']}/", {}
    for _ in range(10 * REPLICAS):
        headers = {"host": f"{NAME}.{NAMESPACE}.svc"}
        answer = httpx.post(url, json={"inputs": [0]}, headers=headers, timeout=PATIENCE_S, trust_env=False)
        if answer.status_code == 200:
            process, pods = json.loads(answer.json()["outputs"][0])
            found[process] = set(pods)
    return found


def lose(team: Team, pod: str, *, is_drained: bool) -> Counter[tuple[int, str]]:
    """Delete a pod while clients ask, or kill all that runs in it. Return the answers until all is whole again."""
    with team.asked(NAME, CLIENTS, [0], may_fail=True) as answers:
        team.until(lambda: answers.total() > 10 * CLIENTS, "answers")
        if is_drained:
            team.kubectl("delete", "pod", pod, "--wait=false")
        else:
            # KubeRay deletes the failed pod.
            for process in processes_of(team.get(pod, "pod")):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        until_whole(team, [pod])
        before, lost = answers.total(), count_lost(answers)
        team.until(lambda: answers.total() > before + 50 * CLIENTS, "answers of both replicas")
        assert count_lost(answers) == lost
    return answers


def count_lost(answers: Counter[tuple[int, str]]) -> int:
    return sum(count for (status, _), count in answers.items() if status != 200)


@pytest.mark.parametrize("has_process", [False, True], ids=["of its actors", "of its process"])
@pytest.mark.parametrize("is_drained", [True, False], ids=["drained", "killed"])
def test_a_replica_is_replaced_with_its_pod(wide: Team, record: Record, is_drained: bool, has_process: bool) -> None:
    replicas = find_replicas(wide)
    assert [len(pods) for pods in replicas.values()] == [PODS] * REPLICAS
    assert len(set.union(*replicas.values())) == REPLICAS * PODS
    process, pods = next(iter(replicas.items()))
    (other,) = pods - {process}
    began = time.monotonic()
    answers = lose(wide, process if has_process else other, is_drained=is_drained)
    whole = f"{time.monotonic() - began:.0f}s"
    how, what = "drained" if is_drained else "killed", "process" if has_process else "actors"
    record.add(f"{how}, the pod of its {what}", str(answers.total()), str(count_lost(answers)), whole)
    if is_drained:
        assert count_lost(answers) == 0
