"""Deadlines and failures of a candidate whose pods wait for nodes."""

from datetime import timedelta
from typing import Any

import pytest

from sundog_operator.api import (
    LastRollout,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    RevisionStatus,
    parse_timestamp,
)
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import deadline
from sundog_operator.core.planner.admission import ModelDeploymentAcceptance
from sundog_operator.core.planner.context import ObservedState, PlanContext

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


def has_exceeded_deadline(code: str, *pods: dict[str, Any], revision: int = 2) -> bool:
    """Whether revision 2 is late after an hour, after a rollout of `revision` ended with `code`."""
    observed = ObservedState(
        deployment={"metadata": {"name": "digits", "namespace": "ns", "uid": "u"}, "spec": SPEC},
        revisions=(),
        taken=(),
        rollouts=(),
        experiment_names=frozenset(),
        clusters={},
        serves={},
        clusters_of_others=(),
        edges=(),
        pods=pods,
    )
    stable, candidate = (
        RevisionStatus(revision=number, weight=0, uri="file:///m", replicas=1, ready_replicas=0, since=SINCE)
        for number in (1, 2)
    )
    last = LastRollout(experiment="", revision=revision, outcome="Aborted", code=code, reason="", at=SINCE)
    status = ModelDeploymentStatus(stable=stable, candidate=candidate, last_rollout=last)
    spec = ModelDeploymentSpec.from_json(SPEC)
    now = SINCE + timedelta(hours=1)
    context = PlanContext(observed, now, "digits", status, status, ModelDeploymentAcceptance(spec), spec)
    return deadline.has_exceeded_deadline(context, candidate)


@pytest.mark.parametrize("code", ["CapacityLost", "SpotReclaimed"])
def test_after_the_loss_of_its_nodes_a_candidate_waits_for_others_without_a_deadline(code: str) -> None:
    assert not has_exceeded_deadline(code)
    assert not has_exceeded_deadline(code, pod())
    assert not has_exceeded_deadline(code, pod("2026-11-30T00:30:00Z", deletionTimestamp="now"))


def test_the_deadline_begins_once_a_pod_has_a_node() -> None:
    assert not has_exceeded_deadline("CapacityLost", pod("2026-11-30T00:50:00Z"), pod())
    assert has_exceeded_deadline("CapacityLost", pod("2026-11-30T00:40:00Z"), pod("2026-11-30T00:50:00Z"))


def test_waiting_for_a_node_counts_after_any_other_end() -> None:
    assert has_exceeded_deadline("StopCommand", pod())
    assert has_exceeded_deadline("CapacityLost", pod(), revision=1)
