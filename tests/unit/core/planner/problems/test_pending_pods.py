"""What a revision waits for, and what it does not."""

from datetime import UTC, datetime
from typing import Any

import pytest

from sundog_operator.api import ModelDeploymentSpec, ModelDeploymentStatus, RevisionStatus
from sundog_operator.core import revisions
from sundog_operator.core.observed import ApplicationState, DeploymentState, ReplicaState, ServeState
from sundog_operator.core.planner.admission import ModelDeploymentAcceptance
from sundog_operator.core.planner.context import make_context
from sundog_operator.core.planner.facts import ObservedState
from sundog_operator.core.planner.problems.pending_pods import find_pending_reason
from sundog_operator.core.ray import groups, serve_config
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.revisions import Revision

NOW = datetime(2026, 11, 30, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "model": {"uri": "file:///models/v1", "entrypoint": "net:Net"},
    "runtime": {"placement": "shared"},
    "resources": {"cpu": "500m", "memory": "1Gi"},
}


def pod(node: str = "", **status: Any) -> dict[str, Any]:
    container = {"name": "ray-worker", "resources": {"requests": {"cpu": "2", "memory": "4608Mi"}}}
    return {
        "metadata": {"name": f"shared-{node}", "labels": groups.shared_pod_labels("ray")},
        "spec": {"containers": [container], **({"nodeName": node} if node else {})},
        "status": status,
    }


UNPLACED = pod(
    conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}]
)
CRASHING = pod("b", containerStatuses=[{"name": "ray-worker", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}])


def find(
    *pods: dict[str, Any], neighbours: int = 0, placement: str = "shared", cluster: ClusterView | None = None
) -> str:
    """Return why the replica of a model does not run, beside so many replicas of another that run, and one that does not."""
    spec = ModelDeploymentSpec.from_json({**SPEC, "runtime": {"placement": placement}})
    content = revisions.content_of(spec)
    revision = Revision(1, revisions.content_hash(content), content)
    scale = serve_config.ReplicaScale(1, 1)

    def state(service: str, running: int, target: int) -> ApplicationState:
        config = serve_config.make_application("ns", service, revision, spec, scale, in_pods=True)
        replicas = tuple(ReplicaState(str(index), "RUNNING") for index in range(running))
        deployment = DeploymentState("Model", "UPDATING", "", target, replicas)
        return ApplicationState(config["name"], "DEPLOYING", "", config, (deployment,))

    apps = (state("digits", 0, 1), state("letters", neighbours, neighbours + 1))
    stable = RevisionStatus(revision=1, weight=100, uri="file:///m", replicas=1, ready_replicas=0, since=NOW)
    status = ModelDeploymentStatus(cluster="ray", stable=stable)
    observed = ObservedState(
        deployment={"metadata": {"name": "digits", "namespace": "ns", "uid": "u"}, "spec": SPEC},
        status=status,
        acceptance=ModelDeploymentAcceptance(spec),
        revisions=(revision,),
        taken=(),
        rollouts=(),
        experiment_names=frozenset(),
        clusters={"ray": cluster} if cluster is not None else {},
        serves={"ray": ServeState(known=True, applications={app.name: app for app in apps})},
        clusters_of_others=(),
        edges=(),
        pods=pods,
    )
    context = make_context(observed, NOW)
    cause = find_pending_reason(context, 1)
    return cause.reason if cause is not None else ""


@pytest.mark.parametrize(
    ("pods", "neighbours", "reason"),
    [
        ([UNPLACED], 0, "Unschedulable"),
        ([pod("a"), UNPLACED], 4, "Unschedulable"),
        ([pod("a"), UNPLACED], 3, ""),
        ([CRASHING, UNPLACED], 0, "Unschedulable"),
        ([CRASHING], 4, ""),
    ],
    ids=["no pod", "full pod", "room", "a neighbour crashes the only pod", "no room beside a crash"],
)
def test_the_problem_of_a_shared_pod_is_that_of_a_model_only_if_it_needs_the_pod(
    pods: list[dict[str, Any]], neighbours: int, reason: str
) -> None:
    assert find(*pods, neighbours=neighbours) == reason


@pytest.mark.parametrize(
    ("placement", "ungrown", "refusal", "reason"),
    [
        ("dedicated", "digits-r1", "", "PodRefused"),
        ("shared", "shared", "", "PodRefused"),
        ("dedicated", "digits-r2", "", ""),
        ("shared", "digits-r1", "", ""),
        ("dedicated", "digits-r2", "exceeded quota", "PodRefused"),
    ],
    ids=["new", "new shared", "lost its node", "shared, lost its node", "KubeRay is refused its pod too"],
)
def test_a_rejected_raycluster_is_a_reason_only_where_it_would_have_given_pods(
    placement: str, ungrown: str, refusal: str, reason: str
) -> None:
    view = ClusterView("ray", refusal=refusal, rejection="too large", ungrown_groups=frozenset({ungrown}))
    assert find(placement=placement, cluster=view) == reason
