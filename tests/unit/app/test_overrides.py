"""Callers who choose their arm, in memory: from a ready canary until every edge has removed it."""

import functools
import logging
from typing import Any

import pytest

from doubles.attempts import has_drained
from doubles.cluster import MANUAL, NAME, Cluster, model_deployment

V2 = "file:///models/v2"
WAITING = {"steps": [{"pause": {}}, *MANUAL["steps"]]}
OVERRIDE = {"header": "x-pick", "value": "new", "arm": "canary", "callers": {"networks": ["10.0.0.0/8"]}}
ENDPOINT = {"overrides": [OVERRIDE]}


async def waiting_before_its_first_weight() -> Cluster:
    cluster = Cluster()
    await cluster.deploy(rollout=WAITING, endpoint=ENDPOINT)
    assert chosen(cluster) == []
    await cluster.apply(V2, rollout=WAITING, endpoint=ENDPOINT)
    await cluster.until(functools.partial(may_be_chosen, cluster))
    return cluster


def service(cluster: Cluster, name: str = NAME) -> dict[str, Any]:
    (document,) = cluster.edges.in_force()
    return next(each for each in document["services"] if each["name"] == name)


def chosen(cluster: Cluster) -> list[str]:
    """Return the arms that edges let callers choose."""
    return [each["arm"] for each in service(cluster).get("overrides", ())]


async def may_be_chosen(cluster: Cluster) -> bool:
    return chosen(cluster) == ["canary"]


async def test_a_candidate_without_weight_is_chosen_once_it_is_ready_and_at_every_weight() -> None:
    cluster = await waiting_before_its_first_weight()
    assert await cluster.weights() == {1: 100, 2: 0}
    assert cluster.serve.running("digits-r2") == 1
    await cluster.command("promote revision=2 id=a")
    await cluster.until_weight(2, 25)
    await cluster.settle(5)
    assert chosen(cluster) == ["canary"]
    await cluster.command("promote revision=2 id=b full=true")
    await cluster.until_serves(2, rounds=100)
    await cluster.until(functools.partial(has_drained, cluster), rounds=60)


async def test_a_candidate_that_fails_without_weight_is_left_to_start_anew() -> None:
    """Serve restarts a failed application only after it has left the document."""
    cluster = await waiting_before_its_first_weight()
    cluster.serve.failures[V2] = ("SourceUnavailable", "connection refused")
    await cluster.settle(10)
    assert chosen(cluster) == []
    cluster.serve.failures.clear()
    await cluster.until(functools.partial(may_be_chosen, cluster), rounds=300)
    assert cluster.serve.running("digits-r2") == 1


async def test_a_candidate_stays_deployed_while_an_edge_still_lets_callers_choose_it() -> None:
    cluster = await waiting_before_its_first_weight()
    cluster.edges.stale.add("sundog-edge-0")
    await cluster.command("abort revision=2 id=a")
    await cluster.settle(45)
    assert cluster.serve.running("digits-r2") == 1
    assert await cluster.condition("TrafficSynced") == ("False", "EdgeNotConfirmed")
    cluster.edges.stale.clear()
    await cluster.until(functools.partial(has_drained, cluster), rounds=60)
    assert chosen(cluster) == []


async def test_callers_of_an_endpoint_make_no_revision_and_hold_under_a_refused_spec() -> None:
    cluster = await waiting_before_its_first_weight()
    await cluster.apply(V2, rollout=WAITING, endpoint={**ENDPOINT, "reveal": False})
    await cluster.settle(5)
    assert service(cluster)["reveal"] is False
    assert await cluster.weights() == {1: 100, 2: 0}
    await cluster.apply(V2, rollout=WAITING, endpoint={}, replicas="three")
    await cluster.settle(5)
    assert (service(cluster)["reveal"], chosen(cluster)) == (False, ["canary"])
    await cluster.command("abort revision=2 id=a")
    await cluster.until(functools.partial(has_drained, cluster), rounds=60)
    assert (service(cluster)["reveal"], chosen(cluster)) == (False, [])


async def test_whose_overrides_name_too_many_networks_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    def many(first: int) -> dict[str, Any]:
        networks = [[f"10.{first}.{32 * part + n}.0/24" for n in range(32)] for part in range(8)]
        overrides = [
            {"header": "x-pick", "value": f"v{part}", "arm": "stable", "callers": {"networks": own}}
            for part, own in enumerate(networks)
        ]
        return {"overrides": overrides}

    cluster = Cluster()
    await cluster.deploy(endpoint=many(1))
    with caplog.at_level(logging.WARNING, "sundog.operator"):
        await cluster.kube.apply(model_deployment(name="young", endpoint=many(2)))
        await cluster.settle(30)
    assert len(service(cluster)["overrides"]) == 8
    assert "overrides" not in service(cluster, "young")
    messages = [record.getMessage() for record in caplog.records if "networks" in record.getMessage()]
    assert (
        messages[-1]
        == "namespace vision: overrides name more than 256 networks, so some of young are ignored; name fewer networks"
    )
    caplog.clear()
    await cluster.settle(30)
    assert not [record for record in caplog.records if "networks" in record.getMessage()]
