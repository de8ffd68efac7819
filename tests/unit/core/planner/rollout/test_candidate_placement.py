"""Room that a candidate, or the arms of an Experiment, must leave for stable."""

from dataclasses import replace
from typing import Any

import pytest

from sundog_operator.api import (
    ExperimentSpec,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    RevisionStatus,
    parse_timestamp,
)
from sundog_operator.api.installation import parse_installation
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.capacity import AvailableCapacity, NodeCapacity
from sundog_operator.core.planner import context as plan_context
from sundog_operator.core.planner.admission import ModelDeploymentAcceptance
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.facts import ObservedState
from sundog_operator.core.planner.rollout import candidate_placement
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial.experiment import arms

GPU = "nvidia.com/gpu"
NOW = parse_timestamp("2026-11-30T00:00:00Z")
SPEC: dict[str, Any] = {
    "model": {"uri": "file:///models/v1", "entrypoint": "net:Net"},
    "resources": {"gpu": {"count": 1}},
    "autoscaling": {"minReplicas": 0, "maxReplicas": 3},
    "rollout": {"capacity": "surge"},
}


def stable() -> Revision:
    content = revisions.content_of(ModelDeploymentSpec.from_json(SPEC))
    return Revision(1, revisions.content_hash(content), content)


def available(free: int) -> AvailableCapacity:
    return AvailableCapacity(GPU, NodeCapacity(nodes=1, total=2, free=free, pods=free, device_pods=free), None)


def pod(**metadata: Any) -> dict[str, Any]:
    labels = {names.LABEL_MODEL_DEPLOYMENT: "digits", names.LABEL_REVISION: "1"}
    return {"metadata": {"name": "pod", "labels": labels, **metadata}, "spec": {"nodeName": "a"}, "status": {}}


def make_context(replicas: int, free: int, *pods: dict[str, Any]) -> PlanContext:
    spec = ModelDeploymentSpec.from_json(SPEC)
    serving = RevisionStatus(
        revision=1, weight=100, uri="file:///models/v1", replicas=replicas, ready_replicas=replicas
    )
    status = ModelDeploymentStatus(stable=serving)
    observed = ObservedState(
        deployment={"metadata": {"name": "digits", "namespace": "ns", "uid": "u"}, "spec": SPEC},
        status=status,
        acceptance=ModelDeploymentAcceptance(spec),
        revisions=(stable(),),
        taken=(1,),
        rollouts=(),
        experiment_names=frozenset(),
        clusters={},
        serves={},
        clusters_of_others=(),
        edges=(),
        installation=parse_installation("runtimeImage: example.com/runtime:1", "test"),
        pods=pods,
        available=available(free),
    )
    return plan_context.make_context(observed, NOW)


def find_placement(context: PlanContext) -> candidate_placement.CandidatePlacement:
    return candidate_placement.find_placement(context, ModelDeploymentSpec.from_json(SPEC))


@pytest.mark.parametrize(("free", "spare"), [(1, 0), (2, 1)])
def test_a_spare_replica_in_place_needs_room_for_all_of_its_pods(free: int, spare: int) -> None:
    wanted = {**SPEC, "rollout": {"capacity": "inPlace"}, "replicas": 2}
    wanted["resources"] = {"gpu": {"count": 1, "topology": {"nodes": 2}}}
    del wanted["autoscaling"]
    spec = ModelDeploymentSpec.from_json(wanted)
    content = revisions.content_of(spec)
    observed = replace(
        make_context(2, free).observed, revisions=(Revision(1, revisions.content_hash(content), content),)
    )
    context = plan_context.make_context(observed, NOW)
    placement = candidate_placement.find_placement(context, spec)
    assert placement.fits
    assert placement.shared is not None
    assert placement.shared.spare == spare


def test_at_zero_a_candidate_leaves_a_device_for_stable() -> None:
    placement = find_placement(make_context(0, 1))
    assert not placement.fits
    assert placement.short is not None
    assert "1 of them for stable" in placement.short.message
    assert find_placement(make_context(0, 2)).fits
    assert find_placement(make_context(0, 1, pod())).fits


@pytest.mark.parametrize("leaving", ["deletionTimestamp", "DisruptionTarget"])
def test_a_candidate_leaves_a_device_for_the_successor_of_a_pod_that_leaves(leaving: str) -> None:
    ends = pod(deletionTimestamp="now") if leaving == "deletionTimestamp" else pod()
    if leaving == "DisruptionTarget":
        ends["status"] = {"conditions": [{"type": leaving, "status": "True"}]}
    assert find_placement(make_context(1, 1, pod())).fits
    assert not find_placement(make_context(1, 1, ends)).fits
    assert find_placement(make_context(1, 2, ends)).fits


def test_arms_leave_a_device_for_the_pod_that_stable_lacks() -> None:
    spec = ExperimentSpec.from_json({"modelDeployment": "digits", "arms": [{"name": "wide"}]})
    context = make_context(0, 1)
    assert context.status.stable is not None
    missing = candidate_placement.count_missing_pods(context, context.status.stable)
    assert missing == (1, 0)
    capacities = {free: {"control": available(free), "wide": available(free)} for free in (1, 2)}
    short = arms.find_arm_shortage(stable(), spec, capacities[1], {"wide": 1}, None, missing)
    assert short is not None
    assert "2 nvidia.com/gpu needed (2 × 1), 1 of 2 free on 1 node, 1 of them for stable" in short.message
    assert arms.find_arm_shortage(stable(), spec, capacities[2], {"wide": 1}, None, missing) is None
    assert arms.find_arm_shortage(stable(), spec, capacities[1], {"wide": 1}, None) is None
