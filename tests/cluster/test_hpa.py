"""Kubernetes' HPA scales a ModelDeployment by the CPU of its pods, through `/scale`: up under load, and down after it.

The metrics server is a real one, and measures the tests' own node. One ModelDeployment goes through all of it, in the order of the tests.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from real_kubernetes import metrics_server
from real_kubernetes.binaries import METRICS_SERVER
from real_kubernetes.cluster import BINARIES
from real_serving import CLAIM, MDEP, Json, Serving, Team, make_scale_target
from waiting import patience

pytestmark = pytest.mark.timeout(patience(1800))

NAME = NAMESPACE = "laborious"
TARGET_PERCENT = 40
CPU = "500m"
"""Enough that Ray's own processes stay below half of the target, and little enough for two pods on the tests' node."""
LOAD_S = round(patience(60))
"""Longer than a model takes to load."""
PREDICTOR = """
import time


class Predictor:
    def load(self, path, config):
        pass

    def predict(self, batch):
        if "busy" in batch:
            end = time.thread_time() + 0.1
            while time.thread_time() < end:
                pass
        else:
            time.sleep(0.2)
        return batch
"""


def make_service(**more: Any) -> Json:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"uri": f"pvc://{CLAIM}/v1", "entrypoint": "predictor:Predictor"},
            "resources": {"cpu": CPU, "memory": "1Gi"},
            **more,
        },
    }


def make_autoscaler() -> Json:
    target = {"type": "Utilization", "averageUtilization": TARGET_PERCENT}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": NAME},
        "spec": {
            "scaleTargetRef": make_scale_target(NAME),
            "minReplicas": 1,
            "maxReplicas": 2,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            "behavior": {
                "scaleUp": {"stabilizationWindowSeconds": LOAD_S},
                "scaleDown": {"stabilizationWindowSeconds": 0},
            },
        },
    }


def utilization(team: Team) -> int | None:
    """Return the CPU of the pods as the HPA sees it, in percent of what they request; None while it knows none."""
    for metric in team.get(NAME, "hpa").get("status", {}).get("currentMetrics") or ():
        found: int | None = metric.get("resource", {}).get("current", {}).get("averageUtilization")
        return found
    return None


def apply_by_client(team: Team, manifest: Json) -> None:
    """Apply as `kubectl` does by itself: it deletes the fields that the manifest had the last time, and has no more."""
    team.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))


@pytest.fixture(scope="module")
def laborious(serving: Serving) -> Iterator[Team]:
    """A service that starts, and its HPA."""
    cluster = serving.cluster
    with serving.team_with_models(NAMESPACE, {"v1/predictor.py": PREDICTOR}) as team:
        assert cluster.instance is not None
        BINARIES.build((METRICS_SERVER,))
        with metrics_server.running(cluster.instance, BINARIES, cluster.kubectl):
            team.apply(make_autoscaler())
            apply_by_client(team, make_service(replicas=1))
            yield team
            team.kubectl("delete", f"hpa/{NAME}", f"mdep/{NAME}")


def test_the_cpu_of_a_model_that_loads_adds_no_replica(laborious: Team) -> None:
    def is_idle() -> bool:
        assert laborious.scaled(NAME)[0] == 1
        return laborious.scaled(NAME)[1] == 1 and (utilization(laborious) or TARGET_PERCENT) < TARGET_PERCENT

    # Its pod counts as ready meanwhile, so the HPA sees what it uses.
    laborious.until(is_idle, f"{NAME} serves, and the HPA sees an idle pod")


def test_scale_selects_the_workers_alone(laborious: Team) -> None:
    scale = json.loads(laborious.kubectl("get", MDEP, NAME, "--subresource=scale", "-o", "json"))
    selected = {pod["metadata"]["name"] for pod in laborious.pods(scale["status"]["selector"])}
    assert selected == {pod["metadata"]["name"] for pod in laborious.workers(name=NAME)}
    assert len(selected) == scale["status"]["replicas"] == 1


def test_busy_pods_get_another_one_idle_pods_lose_it_and_no_request_is_lost(laborious: Team) -> None:
    with laborious.asked(NAME, 1, ["calm"]) as answers:
        with laborious.asked(NAME, 4, ["busy"]):
            laborious.until(lambda: laborious.scaled(NAME) == (2, 2), "two replicas by the CPU of one")
            # The number is left out as the guide says, and stays out.
            laborious.apply(make_service())
            assert laborious.scaled(NAME)[0] == 2
            apply_by_client(laborious, make_service(runtime={"userConfig": {"seen": 1}}))
            assert laborious.scaled(NAME)[0] == 2
        laborious.until(lambda: laborious.scaled(NAME) == (1, 1), "one replica by the CPU of two")
        laborious.until(lambda: len(laborious.all_workers(NAME)) == 1, "the other pod is gone")
        before = answers.total()
        laborious.until(lambda: answers.total() > before + 20, "more answers")
