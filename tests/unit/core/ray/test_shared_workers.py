"""The translation of `runtime.placement: shared`, and what replicas use of shared pods."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.api.installation import Installation, SharedWorkers
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import shared_pods
from sundog_operator.core.observed import ApplicationState, DeploymentState, ReplicaState, ServeState
from sundog_operator.core.ray import pods, serve_config, shared_workers
from sundog_operator.core.ray.groups import find_deployed_groups
from sundog_operator.core.ray.serve_config import ReplicaScale
from sundog_operator.core.revisions import Revision

GOLDEN = Path(__file__).parents[1] / "golden" / "shared-workers.json"
GIB = 2**30


def shared(cpu: str, memory: str) -> ModelDeploymentSpec:
    asked = {"model": {"uri": "file:///models/v1"}, "runtime": {"placement": "shared"}}
    return ModelDeploymentSpec.from_json({**asked, "resources": {"cpu": cpu, "memory": memory}})


def make_application(spec: ModelDeploymentSpec, name: str = "digits") -> dict[str, Any]:
    content = revisions.content_of(spec)
    revision = Revision(7, revisions.content_hash(content), content)
    return serve_config.make_application("vision", name, revision, spec, ReplicaScale(2, 2), in_pods=True)


def test_shared_placement_is_translated_as_its_golden_file_has_it() -> None:
    specs = [shared("250m", "512Mi"), shared("1500m", "1Gi")]
    group = pods.make_shared_group(specs, [2, 3], "example.com/runtime:1", Installation(), timedelta(seconds=30))
    application = make_application(specs[0])
    translated = {"workerGroup": group, "ray_actor_options": application["deployments"][0]["ray_actor_options"]}
    assert translated == json.loads(GOLDEN.read_text(encoding="utf-8"))


def state(
    name: str, config: dict[str, Any], target: int = 1, running: int = 1, status: str = "RUNNING"
) -> ApplicationState:
    replicas = tuple(ReplicaState(str(index), "RUNNING") for index in range(running))
    return ApplicationState(name, status, "", config, (DeploymentState("Model", "HEALTHY", "", target, replicas),))


def test_replicas_that_wait_use_shared_pods_too_except_those_that_are_asked_about() -> None:
    made = make_application(shared("500m", "1Gi"))
    own_pod = make_application(ModelDeploymentSpec.from_json({"model": {"uri": "file:///models/v1"}}), "large")
    serve = ServeState(
        known=True,
        applications={
            "digits-r7": state("digits-r7", made, 4, 1),
            "digits-r6": state("digits-r6", made, 1, 2),
            "large-r7": state("large-r7", own_pod, 9, 9),
            "ending-r1": state("ending-r1", {}, 0, 1),
            "failed-r7": state("failed-r7", made, 8, 0, "DEPLOY_FAILED"),
        },
    )
    assert shared_workers.sum_used(serve, ()) == {"cpu": 3000, "memory": 6 * GIB}
    assert shared_workers.sum_used(serve, {"digits-r7"}) == {"cpu": 1500, "memory": 3 * GIB}
    assert shared_workers.sum_used(serve, (), {"digits-r7"}) == {"cpu": 1000, "memory": 2 * GIB}


def test_new_pods_are_those_for_replicas_that_present_pods_do_not_hold() -> None:
    settings, size = SharedWorkers(cpu=2, memory="4Gi"), {"cpu": 500, "memory": 2 * GIB}
    full = {"cpu": 0, "memory": 0}
    assert [shared_pods.count_new_pods(count, size, full, settings) for count in (0, 1, 2, 3)] == [0, 1, 1, 2]
    # The memory is enough for one more.
    assert shared_pods.count_new_pods(3, size, {"cpu": 1900, "memory": 3 * GIB}, settings) == 1


def test_an_application_holds_the_group_that_it_selects_and_one_without_configuration_any() -> None:
    own = make_application(ModelDeploymentSpec.from_json({"model": {"uri": "file:///models/v1"}}))
    sharing = make_application(shared("500m", "1Gi"))

    def find(config: dict[str, Any]) -> frozenset[str]:
        return find_deployed_groups(ServeState(known=True, applications={"digits-r7": state("digits-r7", config)}))

    assert find(own) == {"digits-r7"}
    assert find(sharing) == {"shared"}
    assert find({}) == {"digits-r7", "shared"}
