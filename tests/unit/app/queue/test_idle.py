"""Idle keys are checked, and reconciled only after a change."""

import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from doubles.cluster import NAME, NAMESPACE, model_deployment
from doubles.watched_cluster import TICK_S, WatchedCluster, watched_cluster
from sundog_operator.adapters.cached.secrets import SECRET_TTL_S
from sundog_operator.app import reconcile_model_deployment, reconcile_ray_cluster
from sundog_operator.app.queue import idle
from sundog_operator.app.queue.idle import comparable_reports, find_idle_deployment, has_unmet_load
from sundog_operator.core.observed import ApplicationState, DeploymentState, EdgeReport, ReplicaState
from sundog_operator.core.planner.requeue import RESYNC_S
from sundog_operator.ports import SECRET, Ref


def is_ready(status: dict[str, Any]) -> bool:
    return any((each["type"], each["status"]) == ("Ready", "True") for each in status.get("conditions", ()))


async def run(cluster: WatchedCluster, seconds: float) -> None:
    for _ in range(round(seconds / TICK_S)):
        await cluster.tick()


async def until_all_rest(cluster: WatchedCluster, deployments: int) -> None:
    """Wait until the ModelDeployments, their RayCluster and their edge are idle."""
    while len(cluster.world.idle_keys.states(NAMESPACE)) < deployments + 2:
        await run(cluster, 1)
    await run(cluster, RESYNC_S + 1)
    assert len(cluster.world.idle_keys.states(NAMESPACE)) == deployments + 2


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the plans of a ModelDeployment and the passes of a RayCluster."""
    counted: Counter[str] = Counter()
    observe, ensure = reconcile_model_deployment.observe, reconcile_ray_cluster._ensure_cluster

    def observed(*args: Any) -> Any:
        counted["planned"] += 1
        return observe(*args)

    def ensured(*args: Any) -> Any:
        counted["ensured"] += 1
        return ensure(*args)

    monkeypatch.setattr(reconcile_model_deployment, "observe", observed)
    monkeypatch.setattr(reconcile_ray_cluster, "_ensure_cluster", ensured)
    return counted


@pytest.fixture
async def cluster(worked: Counter[str]) -> AsyncIterator[WatchedCluster]:
    """A cluster with one idle ModelDeployment."""
    async with watched_cluster() as cluster:
        await cluster.kube.create(model_deployment())
        await cluster.until_all(is_ready)
        await until_all_rest(cluster, 1)
        cluster.passes.counted.clear()
        worked.clear()
        yield cluster


async def test_nothing_is_planned_while_nothing_changes(cluster: WatchedCluster, worked: Counter[str]) -> None:
    await run(cluster, 4 * RESYNC_S)
    assert cluster.passes.counted["resting"] >= 4, "it is looked at"
    assert cluster.passes.counted.keys() == {"resting"}
    assert worked == {}


async def test_an_idle_key_still_has_a_pass_now_and_then(worked: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "MAX_IDLE_S", 60.0)
    async with watched_cluster() as cluster:
        await cluster.kube.create(model_deployment())
        await cluster.until_all(is_ready)
        await until_all_rest(cluster, 1)
        cluster.passes.counted.clear()
        worked.clear()
        await run(cluster, 60)
    assert worked == {"planned": 1, "ensured": 1}
    assert cluster.passes.counted["edge"] == 1


async def test_many_share_a_look(cluster: WatchedCluster) -> None:
    for index in range(5):
        await cluster.kube.create(model_deployment(name=f"beside-{index}"))
    await cluster.until_all(is_ready)
    await until_all_rest(cluster, 6)
    cluster.passes.counted.clear()
    reads = cluster.serve_apis.reads
    await run(cluster, 4 * RESYNC_S)
    assert cluster.passes.counted.keys() == {"resting"}
    assert cluster.serve_apis.reads - reads <= 5


async def test_a_replica_that_dies_is_noticed_at_the_next_look(cluster: WatchedCluster, worked: Counter[str]) -> None:
    (serve,) = cluster.serve_apis.by_dashboard.values()
    serve.start_s = 1e6
    serve.crash_replicas(f"{NAME}-r1")
    await run(cluster, RESYNC_S + 1)
    assert worked["planned"]
    assert (await cluster.status())["readyReplicas"] == 0


async def test_what_an_edge_reports_is_noticed_at_the_next_look(cluster: WatchedCluster, worked: Counter[str]) -> None:
    cluster.edges.problems = ["Secret keys has no key"]
    await run(cluster, RESYNC_S + 1)
    assert worked == {"planned": 1}


async def test_an_edit_is_planned_at_once(cluster: WatchedCluster, worked: Counter[str]) -> None:
    await cluster.apply(replicas=3)
    await run(cluster, 1)
    assert worked["planned"]
    assert (await cluster.status())["replicas"] == 3


async def test_one_with_secrets_is_idle_until_one_loses_a_key(cluster: WatchedCluster, worked: Counter[str]) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": NAMESPACE}}
    await cluster.kube.create({**secret, "data": {"alice": "c2VjcmV0"}})
    await cluster.apply(endpoint={"auth": {"apiKeys": {"secretName": "keys"}}})
    await run(cluster, 1)
    await until_all_rest(cluster, 1)
    worked.clear()
    await run(cluster, 3 * RESYNC_S)
    assert worked["planned"] == 0
    await cluster.kube.delete(Ref(SECRET, NAMESPACE, "keys"))
    await run(cluster, RESYNC_S + SECRET_TTL_S + 1)
    assert worked["planned"]
    assert (await cluster.condition("TrafficSynced"))[1] == "SecretNotFound"


RESTS: dict[str, Any] = {
    "metadata": {"name": NAME, "generation": 2},
    "spec": {"model": {"uri": "file:///models/v1"}},
    "status": {
        "observedGeneration": 2,
        "cluster": "ray",
        "stable": {"revision": 1, "uri": "file:///models/v1", "weight": 100},
        "conditions": [
            {"type": each, "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            for each in ("Ready", "SpecAccepted", "RevisionReady", "TrafficSynced", "CapacityAvailable")
        ],
    },
}


def test_one_revision_that_serves_may_rest() -> None:
    found = find_idle_deployment(RESTS)
    assert found is not None
    assert dataclasses.astuple(found) == ("ray", f"{NAME}-r1", (), 1, None, 64, 1)


@pytest.mark.parametrize(
    ("autoscaling", "requests", "expected"),
    [
        ({"maxReplicas": 8, "targetOngoingRequests": 2}, 9, True),
        # Its two replicas admit four each, which Ray Serve sees.
        ({"maxReplicas": 8, "targetOngoingRequests": 2}, 8, False),
        ({"maxReplicas": 2, "targetOngoingRequests": 2}, 900, False),
        (None, 900, False),
    ],
)
def test_requests_at_the_edges_end_idleness(autoscaling: dict[str, Any] | None, requests: int, expected: bool) -> None:
    spec = {**RESTS["spec"], "runtime": {"maxOngoingRequests": 4}}
    found = find_idle_deployment({**RESTS, "spec": spec | ({"autoscaling": autoscaling} if autoscaling else {})})
    assert found is not None
    replicas = tuple(ReplicaState(str(number), "RUNNING") for number in range(2))
    app = ApplicationState(f"{NAME}-r1", "RUNNING", "", {}, (DeploymentState("Model", "HEALTHY", "", 2, replicas),))
    # Two edges report their own requests.
    counts = [{f"{NAME}-r1": each} for each in (requests - 1, 1)]
    reports = [EdgeReport(str(count), True, False, {"services": {NAME: {"inFlight": count}}}) for count in counts]
    assert has_unmet_load(NAME, found, app, reports) is expected
    assert not has_unmet_load(NAME, found, None, reports)
    unread = EdgeReport("unread", True, False, {"services": {NAME: {}}})
    assert not has_unmet_load(NAME, found, app, [*reports, unread])


def test_an_error_of_an_edge_that_reports_no_hash_ends_its_rest() -> None:
    def seen(error: str, **entry: str) -> object:
        evidence = {"document": {"error": error}, "services": {NAME: entry}}
        return comparable_reports(NAME, [EdgeReport("edge-0", True, False, evidence)])

    assert seen("no") != seen("")
    assert seen("no", hash="a") == seen("", hash="a") != seen("", hash="b")
    assert len(repr(seen("", hash="a" * 10_000))) < 500, "the state is kept, whatever a pod reports"


def test_an_idle_key_reads_secrets_of_its_endpoint_and_none_of_its_pods() -> None:
    spec = {
        # Not a Secret, in spite of its name.
        "model": {"uri": "s3://secret/models", "credentials": {"secretName": "bucket"}},
        "endpoint": {
            "tls": {"secretName": "certificate"},
            "auth": {"jwt": {"issuer": "https://a.example.com", "audiences": ["a"], "jwksSecretName": "jwks"}},
        },
    }
    found = find_idle_deployment({**RESTS, "spec": spec})
    assert found is not None
    assert found.secrets == ("certificate", "jwks")


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"name": NAME, "generation": 3}},
        {"metadata": {"name": NAME, "generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z"}},
        {"spec": {"model": {"uri": 1}}},
        {"status": {**RESTS["status"], "stable": None}},
        {"status": {**RESTS["status"], "candidate": {"revision": 2}}},
        {"status": {**RESTS["status"], "queued": 2}},
        {"status": {**RESTS["status"], "edgeLoad": {"replicas": 2, "since": "2026-01-01T00:00:00Z"}}},
        {"status": {**RESTS["status"], "experiment": "compared"}},
        {"status": {**RESTS["status"], "kept": [{"revision": 1, "since": "2026-01-01T00:00:00Z"}]}},
        {"status": {**RESTS["status"], "conditions": RESTS["status"]["conditions"][1:]}},
        {"status": {}},
    ],
)
def test_what_has_something_under_way_or_cannot_be_read_may_not(changes: dict[str, Any]) -> None:
    assert find_idle_deployment({**RESTS, **changes}) is None
