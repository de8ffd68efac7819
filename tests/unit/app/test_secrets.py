"""Secrets of an endpoint: missing, incomplete, created, deleted. They never affect serving revisions."""

import asyncio
import json
from typing import Any

import pytest

from background import in_background
from doubles.cluster import NAME, NAMESPACE, Cluster, model_deployment
from sundog_operator.app.controller import Controller
from sundog_operator.app.queue.keys import Key
from sundog_operator.ports import CONFIG_MAP, KINDS, SECRET, Ref
from waiting import PATIENCE_S

KEYS = Ref(SECRET, NAMESPACE, "keys")
ENDPOINT = {"auth": {"apiKeys": {"secretName": "keys"}}}
MISSING = ("False", "SecretNotFound")


@pytest.fixture
async def cluster() -> Cluster:
    cluster = Cluster()
    await cluster.apply(endpoint=ENDPOINT)
    return cluster


async def put(cluster: Cluster, **keys: str) -> None:
    meta = {"name": "keys", "namespace": NAMESPACE}
    await cluster.kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": keys})


async def service(cluster: Cluster) -> dict[str, Any]:
    config_map = await cluster.read(Ref(CONFIG_MAP, NAMESPACE, "sundog-edge"))
    (found,) = json.loads(config_map["data"]["split.json"])["services"]
    return dict(found)


async def test_a_missing_secret_is_reported_and_the_edge_is_asked_to_refuse(cluster: Cluster) -> None:
    await cluster.settle(20)
    assert await cluster.condition("TrafficSynced") == MISSING
    assert await cluster.condition("Ready") == MISSING
    assert await cluster.condition("SpecAccepted") == ("True", "Accepted")
    assert await cluster.condition("Promoted") == ("True", "Promoted"), "it deploys all the same"
    assert (await service(cluster))["auth"] == {"apiKeys": "keys"}, "an edge without the key must not serve openly"
    message = await cluster.message("TrafficSynced")
    assert f"Secret {NAMESPACE}/keys does not exist" in message

    await put(cluster)
    await cluster.settle(2)
    assert await cluster.condition("TrafficSynced") == ("False", "SecretIncomplete")
    await put(cluster, ann="one")
    await cluster.until_serves(1, rounds=3)
    assert await cluster.condition("TrafficSynced") == ("True", "InForce")


async def test_a_secret_that_is_taken_away_changes_nothing_that_runs(cluster: Cluster) -> None:
    await put(cluster, ann="one")
    await cluster.until_serves(1)
    await cluster.settle(10)
    deployed, split = len(cluster.serve.puts), await service(cluster)
    await cluster.kube.delete(KEYS)
    await cluster.settle(3)
    assert await cluster.condition("Ready") == MISSING
    assert await cluster.condition("Stalled") == ("Absent", "")
    assert await service(cluster) == split
    assert len(cluster.serve.puts) == deployed
    assert await cluster.writes_during(5, changed=True) == [], "said once"


async def test_no_value_of_a_secret_reaches_another_object(cluster: Cluster) -> None:
    await put(cluster, ann="hunter2")
    await cluster.settle(20)
    text = json.dumps([await cluster.kube.list(kind, NAMESPACE) for kind in KINDS if kind != SECRET])
    assert "hunter2" not in text
    assert "aHVudGVyMg==" not in text


async def test_a_change_of_a_secret_wakes_those_that_name_it(cluster: Cluster) -> None:
    await cluster.kube.apply(model_deployment(name="words"))
    operator = Controller(cluster.world)
    async with in_background(operator._watch(SECRET)):
        await put(cluster, ann="one")
        async with asyncio.timeout(PATIENCE_S):
            assert await operator.queue.take() == Key("modeldeployment", NAMESPACE, NAME)
        assert operator.queue.depth == 0


async def test_what_an_edge_cannot_use_is_reported_while_it_serves(cluster: Cluster) -> None:
    await put(cluster, ann="one")
    cluster.edges.problems = ["Secret keys ann is no API key"]
    await cluster.settle(20)
    assert await cluster.condition("TrafficSynced") == ("False", "SecretInvalid")
    assert await cluster.condition("Ready") == ("True", "Serving"), "others may have a good key"
    cluster.edges.problems = []
    await cluster.settle(2)
    assert await cluster.condition("TrafficSynced") == ("True", "InForce")


async def test_an_edge_that_lets_no_caller_in_is_not_ready(cluster: Cluster) -> None:
    await put(cluster, ann="short")
    await cluster.settle(3)
    await cluster.add_edge("sundog-edge-1")
    cluster.edges.problems, cluster.edges.admitting = (
        ["Secret keys file ann is not an API key"],
        {"sundog-edge-0": False},
    )
    await cluster.settle(20)
    assert await cluster.condition("Ready") == ("True", "Serving"), "the other edge lets callers in"
    cluster.edges.admitting = {"sundog-edge-0": False, "sundog-edge-1": False}
    await cluster.settle(2)
    assert await cluster.condition("Ready") == ("False", "SecretInvalid")
    assert await cluster.condition("TrafficSynced") == ("False", "SecretInvalid")
    cluster.edges.problems, cluster.edges.admitting = [], {}
    await cluster.settle(2)
    assert await cluster.condition("Ready") == ("True", "Serving")


async def test_the_url_says_how_to_come(cluster: Cluster) -> None:
    await cluster.settle(10)
    assert (await cluster.status())["url"] == f"http://{NAME}.{NAMESPACE}.svc"
    await cluster.apply(endpoint={**ENDPOINT, "tls": {"secretName": "cert"}})
    await cluster.settle(2)
    assert (await cluster.status())["url"] == f"https://{NAME}.{NAMESPACE}.svc"
    await cluster.apply(endpoint={"tls": {"secretName": "cert"}}, baseline={"uri": "file:///x"})
    await cluster.settle(2)
    assert await cluster.condition("SpecAccepted") == ("False", "NotYetSupported")
    assert (await cluster.status())["url"] == f"https://{NAME}.{NAMESPACE}.svc", (
        "a spec that is refused changes nothing"
    )
