"""Deadlines and failures of a candidate whose pods wait for nodes."""

from datetime import timedelta
from typing import Any

import pytest

from sundog_operator.api import (
    Condition,
    LastRollout,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    RevisionStatus,
    parse_timestamp,
)
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import ApplicationState, DeploymentState, ReplicaState, ServeState
from sundog_operator.core.planner import context as plan_context
from sundog_operator.core.planner.admission import ModelDeploymentAcceptance
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.facts import ObservedState
from sundog_operator.core.planner.rollout import deadline
from sundog_operator.core.ray import groups
from sundog_operator.core.revisions import Revision

SINCE = parse_timestamp("2026-11-30T00:00:00Z")
SPEC: dict[str, Any] = {
    "model": {"uri": "file:///models/v2", "entrypoint": "net:Net"},
    "rollout": {"progressDeadline": "15m"},
}


def pod(scheduled_at: str = "", **metadata: Any) -> dict[str, Any]:
    labels = {names.LABEL_MODEL_DEPLOYMENT: "digits", names.LABEL_REVISION: "2"}
    condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": scheduled_at}
    return {
        "metadata": {"name": "pod", "labels": labels, **metadata},
        "spec": {"nodeName": "a"} if scheduled_at else {},
        "status": {"conditions": [condition]} if scheduled_at else {},
    }


def shared_pod(scheduled_at: str = "") -> dict[str, Any]:
    made = pod(scheduled_at)
    return {**made, "metadata": {"name": "shared", "labels": groups.shared_pod_labels("ray")}}


def serve_with_shared(application: str, replicas: int) -> ServeState:
    """Return a Serve with running replicas of 1 CPU and 1 MiB of an application in shared pods."""
    selected = {names.RAY_LABEL_APPLICATION: names.SHARED_WORKERS}
    options = {"num_cpus": 1, "memory": 2**20, "label_selector": selected}
    running = tuple(ReplicaState(f"{application}-{number}", "RUNNING") for number in range(replicas))
    model = DeploymentState("model", "HEALTHY", "", replicas, running)
    config = {"deployments": [{"ray_actor_options": options}]}
    return ServeState(
        known=True, applications={application: ApplicationState(application, "RUNNING", "", config, (model,))}
    )


def make_context(
    code: str,
    pods: tuple[dict[str, Any], ...],
    revision: int = 2,
    placement: str = "",
    serve: ServeState | None = None,
    nodes: int = 1,
) -> PlanContext:
    """Return the state an hour after revision 2 began, after a rollout of `revision` ended with `code`."""
    wanted = {**SPEC, **({"runtime": {"placement": placement}} if placement else {})}
    if nodes > 1:
        wanted["resources"] = {"gpu": {"count": 1, "topology": {"nodes": nodes}}}
    spec = ModelDeploymentSpec.from_json(wanted)
    content = revisions.content_of(spec)
    stable, candidate = (
        RevisionStatus(revision=number, weight=0, uri="file:///m", replicas=1, ready_replicas=0, since=SINCE)
        for number in (1, 2)
    )
    last = LastRollout(experiment="", revision=revision, outcome="Aborted", code=code, reason="", at=SINCE)
    waiting = Condition(
        type="RevisionReady", status="False", reason="Unschedulable", message="", last_transition_time=SINCE
    )
    status = ModelDeploymentStatus(
        cluster="ray", stable=stable, candidate=candidate, last_rollout=last, conditions=(waiting,)
    )
    observed = ObservedState(
        deployment={"metadata": {"name": "digits", "namespace": "ns", "uid": "u"}, "spec": wanted},
        status=status,
        acceptance=ModelDeploymentAcceptance(spec),
        revisions=(Revision(2, revisions.content_hash(content), content),),
        taken=(),
        rollouts=(),
        experiment_names=frozenset(),
        clusters={},
        serves={"ray": serve} if serve is not None else {},
        clusters_of_others=(),
        edges=(),
        pods=pods,
    )
    now = SINCE + timedelta(hours=1)
    return plan_context.make_context(observed, now)


def has_exceeded_deadline(
    code: str, *pods: dict[str, Any], revision: int = 2, placement: str = "", nodes: int = 1
) -> bool:
    context = make_context(code, pods, revision, placement, nodes=nodes)
    assert context.status.candidate is not None
    return deadline.has_exceeded_deadline(context, context.status.candidate)


@pytest.mark.parametrize("code", ["CapacityLost", "SpotReclaimed"])
def test_after_the_loss_of_its_nodes_a_candidate_waits_for_others_without_a_deadline(code: str) -> None:
    assert not has_exceeded_deadline(code)
    assert not has_exceeded_deadline(code, pod())
    assert not has_exceeded_deadline(code, pod("2026-11-30T00:30:00Z", deletionTimestamp="now"))


def test_the_deadline_begins_once_a_pod_has_a_node() -> None:
    assert not has_exceeded_deadline("CapacityLost", pod("2026-11-30T00:50:00Z"), pod())
    assert has_exceeded_deadline("CapacityLost", pod("2026-11-30T00:40:00Z"), pod("2026-11-30T00:50:00Z"))


def test_the_deadline_of_a_replica_over_two_pods_begins_once_both_have_nodes() -> None:
    early, late = pod("2026-11-30T00:30:00Z"), pod("2026-11-30T00:50:00Z")
    assert has_exceeded_deadline("CapacityLost", early, pod("2026-11-30T00:31:00Z"), nodes=2)
    assert not has_exceeded_deadline("CapacityLost", early, late, nodes=2)
    assert not has_exceeded_deadline("CapacityLost", early, pod(), nodes=2)


@pytest.mark.parametrize(("nodes", "reason"), [(1, "CandidateUnavailable"), (2, "CapacityLost")])
def test_a_replica_over_two_pods_fails_on_its_own_only_while_both_have_nodes(nodes: int, reason: str) -> None:
    context = make_context("StopCommand", (pod("2026-11-30T00:00:00Z"), pod()), nodes=nodes)
    assert context.status.candidate is not None
    cause = deadline.find_failure(context, context.status.candidate.model_copy(update={"lost_since": SINCE}))
    assert cause is not None
    assert cause.reason == reason


def test_waiting_for_a_node_counts_after_any_other_end() -> None:
    assert has_exceeded_deadline("StopCommand", pod())
    assert has_exceeded_deadline("CapacityLost", pod(), revision=1)


def test_the_deadline_of_a_candidate_in_shared_pods_begins_once_one_has_a_node() -> None:
    old = shared_pod("2026-11-29T00:00:00Z")
    assert has_exceeded_deadline("CapacityLost", old, placement="shared")
    assert not has_exceeded_deadline("CapacityLost", shared_pod(), placement="shared")


def test_a_candidate_fails_on_its_own_while_a_shared_pod_has_a_node() -> None:
    def find(*pods: dict[str, Any]) -> str:
        context = make_context("StopCommand", pods, placement="shared")
        assert context.status.candidate is not None
        cause = deadline.find_failure(context, context.status.candidate.model_copy(update={"lost_since": SINCE}))
        assert cause is not None
        return cause.reason

    assert find(shared_pod("2026-11-30T00:00:00Z")) == "CandidateUnavailable"
    assert find(shared_pod()) == "CapacityLost"


@pytest.mark.parametrize(
    ("application", "replicas", "is_full"),
    [("letters-r1", 3, False), ("letters-r1", 4, True), pytest.param("digits-r2", 4, False, id="its-own")],
)
def test_a_shared_pod_that_other_models_fill_is_no_place_of_a_candidate_whose_own_is_gone(
    application: str, replicas: int, is_full: bool
) -> None:
    left = shared_pod("2026-11-29T00:00:00Z")
    requests = {"cpu": "4", "memory": "9Gi"}
    left["spec"]["containers"] = [{"name": "ray-worker", "resources": {"requests": requests}}]
    context = make_context("CapacityLost", (left,), placement="shared", serve=serve_with_shared(application, replicas))
    candidate = context.status.candidate
    assert candidate is not None
    cause = deadline.find_failure(context, candidate.model_copy(update={"lost_since": SINCE}))
    assert cause is not None
    assert cause.reason == ("CapacityLost" if is_full else "CandidateUnavailable")
    # It has its whole time once it gets a place.
    assert deadline.has_exceeded_deadline(context, candidate) is not is_full
