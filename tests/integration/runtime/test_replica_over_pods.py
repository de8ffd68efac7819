"""One replica over several pods: real Ray nodes with devices that Ray only counts, as the operator declares and requests them."""

import json
import subprocess
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from real_ray import RayServe, end_node, running_ray
from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.api.installation import parse_installation
from sundog_operator.core import revisions
from sundog_operator.core.ray import pods, serve_config
from sundog_operator.core.ray.serve_config import ReplicaScale
from sundog_operator.core.revisions import Revision
from waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.ray]

NAME = "digits-r7"
POD = "sundog.test/pod"
PREDICTOR = """
import json
from pathlib import Path

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


class Predictor:
    def load(self, path, config):
        # Other processes cannot import the model's modules. Ray sends a class of a function by its code.
        @ray.remote(num_cpus=0, num_gpus=1)
        class Shard:
            def find_place(self):
                context = ray.get_runtime_context()
                return context.get_node_id(), context.get_accelerator_ids()["GPU"]

        group = ray.util.get_current_placement_group()
        strategies = [
            PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
            for index in range(group.bundle_count)
        ]
        self.shards = [Shard.options(scheduling_strategy=each).remote() for each in strategies]
        start = {"node": ray.get_runtime_context().get_node_id(), "shards": self.find_places()}
        with Path(config["starts"]).open("a") as starts:
            starts.write(json.dumps(start) + "\\n")

    def find_places(self):
        return ray.get([each.find_place.remote() for each in self.shards])

    def predict(self, x):
        return x * len(self.find_places())
"""


def make_spec(model: Path) -> ModelDeploymentSpec:
    """Return a spec of a replica with two devices in each of two pods."""
    model.mkdir()
    (model / "sharded.py").write_text(PREDICTOR)
    (model / "model.yaml").write_text("inputs:\n- {name: x, dtype: float32, shape: [-1, 2]}\n")
    source = {"uri": f"file://{model}", "format": "python", "entrypoint": "sharded:Predictor"}
    gpu = {"count": 2, "topology": {"nodes": 2}}
    return ModelDeploymentSpec.from_json(
        {
            "model": {**source, "config": {"starts": str(model.parent / "starts")}},
            "resources": {"cpu": "600m", "memory": "64Mi", "gpu": gpu},
        }
    )


class Nodes:
    """The nodes of a revision's worker group, by the name of their pod."""

    def __init__(self, ray: RayServe, group: dict[str, Any]) -> None:
        self._ray, self._group = ray, group
        self.processes: dict[str, psutil.Process] = {}

    def add(self, pod: str) -> None:
        labels = {**self._group["labels"], POD: pod}
        self.processes[pod] = self._ray.add_node(labels, self._group["resources"])

    def ids(self) -> dict[str, str]:
        """Return the name of the pod by the id of its node."""
        found = self._ray.request("GET", f"{self._ray.dashboard}/api/v0/nodes?detail=1")["data"]["result"]["result"]
        return {each["node_id"]: each["labels"][POD] for each in found if POD in (each["labels"] or {})}

    def drain(self, pod: str) -> None:
        """Announce that a node ends, as Ray does in a pod that Kubernetes ends."""
        (node,) = [node for node, name in self.ids().items() if name == pod]
        options = {
            "address": self._ray.address,
            "node-id": node,
            "reason": "DRAIN_NODE_REASON_PREEMPTION",
            "reason-message": "a test",
            "deadline-remaining-seconds": 3600,
        }
        command = ["ray", "drain-node", *(f"--{name}={value}" for name, value in options.items())]
        done = subprocess.run(
            command, env=self._ray.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_replica_uses_the_devices_of_its_pods_and_is_replaced_with_them(tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "model")
    content = revisions.content_of(spec)
    revision = Revision(7, revisions.content_hash(content), content)
    installation = parse_installation("runtimeImage: example.com/runtime:1", "test")
    group = pods.make_worker_group("digits", revision, (2, 2), "", installation, timedelta(seconds=30))
    application = serve_config.make_application("vision", "digits", revision, spec, ReplicaScale(1, 1), in_pods=True)
    application["deployments"][0]["health_check_period_s"] = 1

    def read_starts() -> list[dict[str, Any]]:
        record = tmp_path / "starts"
        return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []

    with running_ray() as ray:
        nodes = Nodes(ray, group)

        def check(number: int, *wanted: str) -> str:
            """Wait for a start of the replica in these pods. Return the pod without its process."""
            start = eventually(lambda: read_starts()[number:], f"start {number}")[0]
            ray.wait_running(NAME)
            named = nodes.ids()
            used = Counter((named[node], device) for node, devices in start["shards"] for device in devices)
            assert used == {(pod, device): 1 for pod in wanted for device in ("0", "1")}
            (address,) = eventually(lambda: ray.replicas(NAME), "an address of the replica")
            answer = httpx.post(f"http://{address}/{NAME}.app", json={"inputs": [[1.0, 2.0]]}, timeout=PATIENCE_S)
            assert answer.json()["outputs"] == [[4.0, 8.0]], answer.text
            (other,) = set(wanted) - {named[start["node"]]}
            return other

        # Other pods have devices too, and are no place for this revision.
        ray.add_node({"sundog.dev/application": "letters-r1"}, group["resources"])
        nodes.add("a")
        nodes.add("b")
        ray.put({"applications": [application]})
        lost = check(0, "a", "b")

        end_node(nodes.processes.pop(lost))
        eventually(lambda: not ray.replicas(NAME), "the replica is given up")
        nodes.add("c")
        draining = check(1, *nodes.processes)

        nodes.add("d")
        nodes.drain(draining)
        check(2, *(nodes.processes.keys() - {draining}))
        assert len(read_starts()) == 3
