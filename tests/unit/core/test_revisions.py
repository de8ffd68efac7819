import copy
import json
from pathlib import Path
from typing import Any

import pytest

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.core import revisions
from sundog_operator.core.ray import serve_config
from sundog_operator.core.ray.serve_config import ReplicaScale
from sundog_operator.core.revisions import Revision

GOLDEN = Path(__file__).parent / "golden"
SMALLEST = {"model": {"uri": "file:///models/digits/v1"}}
FULL = {
    "model": {
        "uri": "file:///models/digits/v2",
        "digest": "sha256:" + "a" * 64,
        "format": "torch",
        "entrypoint": "net:Net",
        "config": {"width": 32},
    },
    "runtime": {"maxOngoingRequests": 16, "warmup": {"requests": 8, "timeout": "90s"}},
    "resources": {"cpu": "2", "memory": "4Gi"},
    "replicas": 3,
}


def digest(spec: dict[str, Any]) -> str:
    return revisions.content_hash(revisions.content_of(ModelDeploymentSpec.from_json(spec)))


PODS = {
    "model": {"uri": "pvc://models/digits", "credentials": {"secretName": "s", "serviceAccountName": "a"}},
    "runtime": {
        "image": "example.com/runtime:1",
        "env": [{"name": "A", "value": "b"}, {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "podLabels": {"team": "vision"},
    },
    "resources": {"gpu": {"count": 2, "type": ["h100", "a100-80gb"]}},
    "scheduling": {"nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]},
    "autoscaling": {"maxReplicas": 9},
}


@pytest.mark.parametrize(
    ("spec", "golden"), [(SMALLEST, "15c02243c967278e"), (FULL, "e8f3e32baebb96de"), (PODS, "4df5500bacbf8a9d")]
)
def test_hashes_are_those_of_earlier_releases(spec: dict[str, Any], golden: str) -> None:
    """A failure means that an upgrade would create a new revision of every ModelDeployment. Fix the code, not the hash."""
    assert digest(spec) == golden


def application(spec: dict[str, Any], scale: ReplicaScale, *, in_pods: bool) -> str:
    """Return the Serve application of revision 7 of `vision/digits` as JSON. For Serve, 1 and 1.0 are different values."""
    current = ModelDeploymentSpec.from_json(spec)
    content = revisions.content_of(current)
    revision = Revision(7, revisions.content_hash(content), content, "example.com/runtime:1")
    built = serve_config.make_application("vision", "digits", revision, current, scale, in_pods=in_pods)
    return json.dumps(built, indent=1, sort_keys=True) + "\n"


@pytest.mark.parametrize(
    ("name", "spec", "scale", "in_pods"),
    [
        ("smallest", SMALLEST, ReplicaScale(1, 1), False),
        ("full", FULL, ReplicaScale(3, 3), False),
        ("pods", PODS, ReplicaScale(1, 9, ModelDeploymentSpec.from_json(PODS).autoscaling), True),
    ],
)
def test_the_serve_application_is_that_of_earlier_releases(
    name: str, spec: dict[str, Any], scale: ReplicaScale, in_pods: bool
) -> None:
    """A failure means that an upgrade of the operator would restart every replica. Fix the code, not the golden file.

    A new key in `args` is enough for a restart, even an empty one: leave it out unless the revision needs it. Only the values that
    Serve applies in place may change: replicas, their scaling, the time to stop one, and `user_config`.
    """
    golden = GOLDEN / f"serve-application-{name}.json"
    assert application(spec, scale, in_pods=in_pods) == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 5},
        {"paused": True},
        {"rollout": {"strategy": "recreate"}},
        {"endpoint": {"requestTimeout": "10s"}},
        {"runtime": {"userConfig": {"temperature": 2}}},
        {"runtime": {"maxOngoingRequests": 64, "warmup": {}}},
        {"resources": {"cpu": "1", "gpu": {"count": 0}}},
        {"resources": {"gpu": {"memory": "", "sharing": {"mode": "exclusive", "profile": "", "fraction": ""}}}},
        {"scheduling": {}},
        {"baseline": {"uri": "file:///models/digits/v0"}},
    ],
)
def test_in_place_fields_and_defaults_make_no_new_revision(change: dict[str, Any]) -> None:
    assert digest({**SMALLEST, **change}) == digest(SMALLEST)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"uri": "file:///models/digits/v2"}},
        {"model": {**SMALLEST["model"], "config": {"width": 1}}},
        {"runtime": {"maxOngoingRequests": 63}},
        {"runtime": {"warmup": {"requests": 5}}},
        {"resources": {"memory": "3Gi"}},
        {"scheduling": {"nodeSelector": {"disk": "fast"}}},
    ],
)
def test_fields_that_restart_replicas_make_a_new_revision(change: dict[str, Any]) -> None:
    assert digest({**SMALLEST, **change}) != digest(SMALLEST)


def test_the_order_of_keys_does_not_matter() -> None:
    turned = {key: FULL[key] for key in reversed(list(FULL))}
    turned["model"] = {key: FULL["model"][key] for key in reversed(list(FULL["model"]))}  # type: ignore[index]
    assert digest(turned) == digest(FULL)


def test_a_stored_revision_reads_back_and_means_the_same_spec() -> None:
    spec = ModelDeploymentSpec.from_json(FULL)
    content = revisions.content_of(spec)
    owner = {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": "vision", "uid": "u"},
    }
    revision = Revision(3, revisions.content_hash(content), content, revisions.image_of(content, "sundog/runtime:1"))
    stored = revisions.make_controller_revision(owner, revision)
    assert stored["metadata"]["name"] == "digits-r3"
    assert stored["data"]["image"] == "sundog/runtime:1"
    read = revisions.parse_controller_revision(copy.deepcopy(stored))
    assert read == revision
    again = revisions.spec_of(read)
    assert (again.model, again.runtime, again.resources, again.scheduling) == (
        spec.model,
        spec.runtime,
        spec.resources,
        spec.scheduling,
    )
    assert again.replicas == 1


def test_a_stored_revision_with_a_variable_that_is_refused_by_now_is_read() -> None:
    content = {"model": {"uri": "file:///m"}, "runtime": {"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}}
    revision = Revision(1, revisions.content_hash(content), content, "sundog/runtime:1")
    assert [each.name for each in revisions.spec_of(revision).runtime.env] == ["NVIDIA_VISIBLE_DEVICES"]


def test_a_revision_of_another_format_is_not_read() -> None:
    assert revisions.parse_controller_revision({"revision": 1, "data": {"format": "v9", "content": {}}}) is None
    assert revisions.parse_controller_revision({"revision": 1}) is None


def test_surplus_keeps_the_newest_idle_ones_and_all_live_ones() -> None:
    stored = [Revision(number, str(number), {}) for number in range(1, 16)]
    surplus = revisions.find_surplus(stored, live={1, 15})
    assert [revision.number for revision in surplus] == [2, 3, 4]


def test_numbers_go_on_from_the_highest_taken() -> None:
    assert revisions.next_number([]) == 1
    assert revisions.next_number([3, 7, 5]) == 8
