"""Digits are served by replicas on three nodes and edges on two. A node is killed, drained and cut off under load, also in a canary."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edge_totals import EdgeTotals
from real_kubernetes import further_nodes
from real_kubernetes.binaries import HELM
from real_kubernetes.cluster import BINARIES, Cluster
from real_kubernetes.helm import Helm
from real_kubernetes.node import Node
from real_local import is_ready
from real_serving import Json, Serving, Team, Traffic
from sundog_operator.core.analysis.counters import ArmCounts, Counters
from waiting import patience

pytestmark = pytest.mark.timeout(patience(1800))

REPLICAS = 3
CLIENTS = 8
SLOW = 4
# The step lasts longer than the tests, so any decision in it would be one on the outage. All guardrails are the default ones.
LONG = {"rollout": {"steps": [{"weight": 50, "minDuration": "2h"}]}}


@contextmanager
def only_on(cluster: Cluster, node: Node) -> Iterator[None]:
    """Pods that start while the block runs are placed on this node."""
    others = [each.name for each in cluster.nodes if each != node]
    cluster.kubectl("cordon", *others)
    try:
        yield
    finally:
        cluster.kubectl("uncordon", *others)


@contextmanager
def kept_from(cluster: Cluster, node: Node) -> Iterator[None]:
    """Pods that start while the block runs are placed on other nodes."""
    cluster.kubectl("cordon", node.name)
    try:
        yield
    finally:
        cluster.kubectl("uncordon", node.name)


def count_by_node(pods: list[Json]) -> Counter[str]:
    return Counter(pod["spec"].get("nodeName", "") for pod in pods)


def on(pods: list[Json], node: Node) -> list[Json]:
    return [pod for pod in pods if pod["spec"].get("nodeName") == node.name]


def until_replicas(team: Team, count: int) -> None:
    team.until(
        lambda: (team.status().get("stable") or {}).get("readyReplicas") == count == len(team.workers()), "replicas"
    )


@pytest.fixture(scope="module")
def spread(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Ray's head, the operator and an edge on the first node, the other edge on the second, and a replica on each."""
    BINARIES.build((HELM,))
    folder = tmp_path_factory.mktemp("serving")
    serving = Serving(cluster, Helm(cluster.kubeconfig, BINARIES.path("helm"), folder / "helm"), folder)
    first, second, third = cluster.nodes
    with only_on(cluster, first):
        serving.install()
    try:
        with serving.team("vision") as team:
            with only_on(cluster, first):
                team.apply(team.digits())
                team.until_stable(1)
            with only_on(cluster, second):
                team.kubectl("delete", "pod", team.edges()[0]["metadata"]["name"], "--wait=false")
                team.kubectl("scale", "mdep/digits", "--replicas=2")
                until_replicas(team, 2)
                team.until(lambda: count_by_node(team.edges()) == {first.name: 1, second.name: 1}, "an edge on each")
            with only_on(cluster, third):
                team.kubectl("scale", "mdep/digits", f"--replicas={REPLICAS}")
                until_replicas(team, REPLICAS)
            assert count_by_node(team.workers()) == {each.name: 1 for each in cluster.nodes}
            yield team
    finally:
        serving.uninstall()


def test_a_killed_node_loses_only_what_it_had(cluster: Cluster, spread: Team) -> None:
    """Requests that its edge or its replica had, and what clients send it until Kubernetes has seen that it is gone."""
    first, second, _ = cluster.nodes
    lost_pods = {pod["metadata"]["name"] for pod in spread.list("pods") if pod["spec"].get("nodeName") == second.name}
    with spread.traffic(clients=CLIENTS, slow=SLOW, node=first.name, may_fail=True) as traffic:
        traffic.more(200)
        traffic.lost_nothing()
        killed = time.time()
        further_nodes.kill(second)
        cluster.kubectl.wait("--for=condition=Ready=Unknown", f"node/{second.name}")
        spread.until(lambda: not any(map(is_ready, on(spread.edges(), second))), "its edge is not ready")
        seen = time.time()
        spread.until(lambda: not on(spread.workers(), second), "its replica is given up")
        until_replicas(spread, REPLICAS)
        replaced = time.time()
        further_nodes.replace(cluster.nodes, second, cluster.kubectl, BINARIES)
        spread.until(
            lambda: not lost_pods & {pod["metadata"]["name"] for pod in spread.list("pods")}, "its pods are gone"
        )
        spread.until(lambda: len(list(filter(is_ready, spread.edges()))) == 2, "two edges")
        spread.until(lambda: spread.condition_state("TrafficSynced")[0] == "True", "both edges have the split")
        traffic.more(500)
        counts = traffic.counts()
    sys.stdout.write(f"not ready after {seen - killed:.0f} s, {REPLICAS} replicas after {replaced - killed:.0f} s; ")
    sys.stdout.write(
        f"{counts['failed']} of {counts['sent']} requests lost\n{json.dumps(counts['failures'], indent=1)}\n"
    )
    failures = counts["failures"]
    assert counts["failed"] == len(failures), "each is listed"
    late = [each for each in failures if each["began"] > seen]
    # A client that lost a connection may take its port again. The first node still leads that port to the lost edge.
    assert [each for each in late if each["kept"] or not each["problem"].startswith("TimeoutError")] == []
    assert len(late) <= len(failures) - len(late) <= 2 * (CLIENTS + SLOW)
    assert {str(each["problem"])[:12] for each in failures} <= {"TimeoutError", "504 of revis"}


def test_a_drained_node_loses_nothing(cluster: Cluster, spread: Team) -> None:
    first, *others = cluster.nodes
    edges, workers = count_by_node(spread.edges()), count_by_node(spread.workers())
    full = [node for node in others if edges[node.name] and workers[node.name]]
    assert full, f"no node has an edge and a replica: {edges}, {workers}"
    emptied = full[0]
    with spread.traffic(clients=CLIENTS, slow=SLOW, node=first.name) as traffic:
        traffic.more(200)
        with further_nodes.drained(cluster.kubectl, emptied):
            assert on(spread.list("pods"), emptied) == []
            until_replicas(spread, REPLICAS)
            spread.until(lambda: len(list(filter(is_ready, spread.edges()))) == 2, "two edges")
            traffic.more(500)


@pytest.fixture(scope="module")
def canary(cluster: Cluster, spread: Team) -> Iterator[tuple[Traffic, Node]]:
    """Clients of a canary at 50 %, and a node with an edge and replicas of both revisions; the first node has them too."""
    first = cluster.nodes[0]
    (node,) = [each for each in cluster.nodes[1:] if on(spread.edges(), each)]
    (other,) = [each for each in cluster.nodes[1:] if each != node]
    with spread.traffic(clients=CLIENTS, slow=SLOW, node=first.name, may_fail=True) as traffic:
        with kept_from(cluster, other):
            spread.apply(spread.digits("v2", **LONG))
            spread.until_canary(50)
        assert on(spread.workers(1), node)
        assert on(spread.workers(2), node)
        assert on(spread.workers(2), first)
        spread.until(lambda: status(spread)["step"].get("warm"), "the candidate is warm")
        traffic.more(500)
        traffic.lost_nothing()
        yield traffic, node


def status(team: Team) -> Json:
    """The status of the rollout's Experiment."""
    found: Json = team.get("digits-r2", "mexp")["status"]
    return found


def stored(team: Team) -> ArmCounts:
    """What the status has of the candidate."""
    found = team.get("digits-r2", "mexp")
    return Counters.unpack(found["status"]["tallies"], found["metadata"]["uid"]).over_epochs("canary")


def assert_undecided(team: Team) -> None:
    found = status(team)
    assert (found["phase"], found["verdict"]["decision"]) == ("Running", "Undecided"), found["verdict"]
    assert {each["name"] for each in found["metrics"] if each["verdict"] == "Harm"} == set()
    assert team.status()["candidate"]["weight"] == 50


def test_a_canary_whose_node_is_cut_off_and_returns_is_not_decided_and_counts_each_request_once(
    cluster: Cluster, spread: Team, canary: tuple[Traffic, Node]
) -> None:
    traffic, node = canary
    with further_nodes.cut_off(node):
        cluster.kubectl.wait("--for=condition=Ready=Unknown", f"node/{node.name}")
        traffic.more(500)
        assert_undecided(spread)
    cluster.kubectl.wait("--for=condition=Ready", f"node/{node.name}")
    spread.until(lambda: len(list(filter(is_ready, spread.edges()))) == 2, "two edges")
    spread.until(lambda: spread.condition_state("TrafficSynced")[0] == "True", "both edges have the split")
    before = stored(spread).assigned
    traffic.more(500)
    spread.until(lambda: stored(spread).assigned > before, "counts after the outage")
    assert_undecided(spread)

    attempt, edges = spread.get("digits-r2", "mexp")["metadata"]["uid"], EdgeTotals()
    known, counts = stored(spread), traffic.counts()
    assert all(edges.read(pod) for pod in spread.edges())
    sums = edges.sums(attempt, "canary")
    sys.stdout.write(
        f"{counts['failed']} of {counts['sent']} requests lost; edges {dict(sums)}; stored {known.assigned}, {known.errors}\n"
    )
    assert known.assigned <= sums["assigned"]
    assert known.errors <= sums["errors"]
    # Edges count what they have answered or given up, clients what they got: answers that were lost on the way are in one of them alone.
    assert abs(sums["assigned"] - sums["errors"] - counts["answered"]["2"]) <= counts["failed"] + CLIENTS + SLOW


def test_a_canary_whose_node_is_killed_is_not_decided(
    cluster: Cluster, spread: Team, canary: tuple[Traffic, Node]
) -> None:
    traffic, node = canary
    before = stored(spread).assigned
    further_nodes.kill(node)
    cluster.kubectl.wait("--for=condition=Ready=Unknown", f"node/{node.name}")
    spread.until(lambda: not on(spread.workers(2), node), "its replicas are given up")
    assert_undecided(spread)
    further_nodes.replace(cluster.nodes, node, cluster.kubectl, BINARIES)
    spread.until(lambda: len(list(filter(is_ready, spread.edges()))) == 2, "two edges")
    spread.until(lambda: spread.condition_state("TrafficSynced")[0] == "True", "both edges have the split")
    spread.until(lambda: spread.condition_state("RevisionReady")[0] == "True", "the candidate is whole")
    traffic.more(500)
    assert_undecided(spread)
    assert stored(spread).assigned > before
    spread.sundog("promote", "digits")
    spread.until_stable(2)
