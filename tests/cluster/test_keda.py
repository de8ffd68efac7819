"""KEDA scales a ModelDeployment by the requests at its edges, through `/scale`: up, to zero, and back from it.

Prometheus, KEDA and Kubernetes' HPA are real ones. One ModelDeployment goes through all of it, in the order of the tests.
"""

from collections.abc import Iterator
from typing import Any

import pytest

import real_prometheus
from real_kubernetes import keda
from real_kubernetes.binaries import KEDA
from real_kubernetes.cluster import BINARIES
from real_local import is_at_zero
from real_serving import CLAIM, Json, Serving, Team, make_scale_target
from sundog_operator.core.edge.objects import AGENT_PORT
from waiting import patience

pytestmark = [
    pytest.mark.timeout(patience(1800)),
    pytest.mark.skipif(bool(real_prometheus.MISSING), reason=real_prometheus.MISSING),
]

NAME = NAMESPACE = "elastic"
PREDICTOR = """
import asyncio


class Predictor:
    def load(self, path, config):
        pass

    async def predict(self, batch):
        await asyncio.sleep(1)
        return batch
"""
CLIENTS = 6
"""With 4 requests for each replica they need two."""


def make_service(**more: Any) -> Json:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"uri": f"pvc://{CLAIM}/v1", "entrypoint": "predictor:Predictor"},
            "resources": {"cpu": "100m", "memory": "1Gi"},
            **more,
        },
    }


def make_scaled_object(prometheus: str) -> Json:
    query = f'sum(sundog_edge_in_flight{{namespace="{NAMESPACE}", service="{NAME}"}})'
    trigger = {"serverAddress": prometheus, "query": query, "threshold": "4"}
    at_once = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": NAME},
        "spec": {
            "scaleTargetRef": make_scale_target(NAME),
            "minReplicaCount": 0,
            "maxReplicaCount": 2,
            "pollingInterval": 2,
            "cooldownPeriod": 5,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": at_once}},
            "triggers": [{"type": "prometheus", "metadata": trigger}],
        },
    }


@pytest.fixture(scope="module")
def elastic(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A service that serves. Prometheus has the addresses of its edges, whose pods outlive each change of `replicas`."""
    cluster = serving.cluster
    with serving.team_with_models(NAMESPACE, {"v1/predictor.py": PREDICTOR}) as team:
        assert cluster.instance is not None
        BINARIES.build(KEDA)
        team.apply(make_service(replicas=0))
        team.until(lambda: team.status(NAME).get("stable"), f"{NAME} serves")
        edges = [f"{edge['status']['podIP']}:{AGENT_PORT}" for edge in team.edges()]
        folder = tmp_path_factory.mktemp("prometheus")
        with (
            real_prometheus.prometheus(folder, edges, namespace=NAMESPACE) as url,
            keda.running(cluster.instance, BINARIES, cluster.kubectl),
        ):
            try:
                team.apply(make_scaled_object(url))
                yield team
            finally:
                team.kubectl("delete", "mdep", NAME)
                # KEDA has to take its finalizer off.
                team.kubectl("delete", "scaledobject", NAME)


def test_more_requests_get_more_replicas_and_none_is_lost(elastic: Team) -> None:
    with elastic.asked(NAME, CLIENTS, [1]) as answers:
        elastic.until(lambda: elastic.scaled(NAME) == (2, 2), "two replicas by the number of requests")
        # Git without `replicas` keeps the number.
        elastic.apply(make_service(runtime={"userConfig": {"seen": 1}}))
        before = answers.total()
        elastic.until(lambda: answers.total() > before + 5 * CLIENTS, "more answers")
        assert elastic.scaled(NAME)[0] == 2


def test_without_requests_it_goes_to_zero(elastic: Team) -> None:
    elastic.until(lambda: elastic.scaled(NAME) == (0, 0) and is_at_zero(elastic.get(NAME)), "it is at zero, and Ready")
    elastic.until(lambda: not elastic.all_workers(NAME), "its pods are gone")


def test_requests_at_zero_are_held_and_then_have_a_replica(elastic: Team) -> None:
    with elastic.asked(NAME, 1, [1]) as answers:
        elastic.until(lambda: elastic.scaled(NAME)[0] == 1, "KEDA sees the request that waits, and sets a number")
        elastic.until(lambda: answers.total() > 5, "answers")
