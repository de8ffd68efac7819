"""Revisions of arms, and their buckets."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucket_ranges import is_partition
from sundog_operator.api import ExperimentSpec, ModelDeploymentSpec
from sundog_operator.api.installation import parse_installation
from sundog_operator.core import revisions
from sundog_operator.core.edge import buckets
from sundog_operator.core.kubernetes import capacity, node_fit
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial.experiment import arms
from sundog_operator.core.trial.experiment.admission import check_admission

DIGEST = "sha256:" + "a" * 64


def stable(**fields: Any) -> Revision:
    spec = {"model": {"uri": "file:///models/v1", "entrypoint": "net:Net", "digest": DIGEST}, **fields}
    content = revisions.content_of(ModelDeploymentSpec.from_json(spec))
    return Revision(7, revisions.content_hash(content), content, "runtime:1")


def experiment(*given_arms: dict[str, Any], **spec: Any) -> ExperimentSpec:
    return ExperimentSpec.from_json({"modelDeployment": "digits", "arms": list(given_arms), **spec})


def test_given_fields_replace_those_of_the_stable_revision_and_the_others_stay() -> None:
    spec = experiment(
        {"name": "wide", "model": {"uri": "file:///models/v2"}, "runtime": {"batching": {"maxSize": 8}}},
        {"name": "big", "resources": {"memory": "4Gi"}},
    )
    wide, big = arms.plan_arms(stable(), spec)
    # A digest belongs to the model that it was given for.
    assert wide.content == {
        "model": {"uri": "file:///models/v2", "entrypoint": "net:Net"},
        "runtime": {"batching": {"maxSize": 8}},
    }
    assert big.content == {**stable().content, "resources": {"memory": "4Gi"}}
    assert (wide.image, big.image) == ("runtime:1", "runtime:1")


def test_arms_of_the_same_content_have_hashes_of_their_own() -> None:
    change = {"model": {"uri": "file:///models/v2"}}
    spec = experiment({"name": "a"}, {"name": "b"}, {"name": "c", **change}, {"name": "d", **change})
    found = arms.plan_arms(stable(), spec)
    assert len({stable().hash, *(arm.hash for arm in found)}) == 5
    assert found[2].hash == revisions.content_hash(found[2].content)
    assert [arm.hash for arm in arms.plan_arms(stable(), spec)] == [arm.hash for arm in found]


V2: dict[str, Any] = {"model": {"uri": "file:///models/v2"}}


@pytest.mark.parametrize(
    ("given_arms", "equal"),
    [
        ([{"name": "a", **V2}], ""),
        ([{"name": "a"}], "a equals control"),
        (
            [{"name": "a"}, {"name": "b", "model": {"uri": "file:///models/v1"}}, {"name": "c", **V2}],
            "a, b equal control",
        ),
        ([{"name": "a", **V2}, {"name": "b", **V2}], "a and b are equal"),
        ([{"name": "a"}, {"name": "b", **V2}, {"name": "c", **V2}], "a equals control; b and c are equal"),
        # The deployment's own configuration, which is no part of its revision.
        ([{"name": "a", "runtime": {"userConfig": {"threshold": 0.5}}}], "a equals control"),
        ([{"name": "a", "runtime": {"userConfig": {"threshold": 0.7}}}], ""),
        ([{"name": "a", "runtime": {"userConfig": {}}}], ""),
        ([{"name": "a", "resources": {"memory": "4Gi"}}], ""),
    ],
)
def test_arms_without_a_difference_are_named(given_arms: list[dict[str, Any]], equal: str) -> None:
    deployment = ModelDeploymentSpec.from_json(
        {
            "model": {"uri": "file:///models/v1", "entrypoint": "net:Net", "digest": DIGEST},
            "runtime": {"userConfig": {"threshold": 0.5}},
        }
    )
    found = arms.describe_equal_arms(stable(), experiment(*given_arms), deployment)
    assert found.partition(". ")[0] == (f"spec.arms: {equal}" if equal else "")
    refused = arms.describe_equal_arms(stable(), experiment(*given_arms), None)
    assert bool(refused) == bool(equal and "runtime" not in given_arms[0])


def test_an_arms_user_config_is_part_of_its_content() -> None:
    given = [{"threshold": 0.5}, {"threshold": 0.7}, {}, {"threshold": 0.5}]
    spec = experiment(
        {"name": "none"}, *({"name": f"a{n}", "runtime": {"userConfig": own}} for n, own in enumerate(given))
    )
    none, *found = arms.plan_arms(stable(), spec)
    assert none.content == stable().content
    assert [arm.content["runtime"] for arm in found] == [{"userConfig": own} for own in given]
    assert len({stable().hash, none.hash, *(arm.hash for arm in found)}) == 6
    assert found[0].hash == revisions.content_hash(found[0].content)


def test_arms_have_the_user_config_of_the_stable_revision() -> None:
    (first,) = arms.plan_arms(stable(), experiment({"name": "a", "runtime": {"userConfig": {"threshold": 0.5}}}))
    spec = experiment({"name": "again"}, {"name": "none", "runtime": {"userConfig": {}}})
    again, none = arms.plan_arms(Revision(8, first.hash, first.content, "runtime:1"), spec)
    assert again.content == first.content
    assert again.hash == revisions.content_hash(first.content, 1)
    assert none.content["runtime"] == {"userConfig": {}}


@pytest.mark.parametrize(
    ("exposure", "weights", "wanted"),
    [
        ("20%", {}, [1000, 1000]),
        ("100%", {"control": 90, "a": 10}, [9000, 1000]),
        ("12.5%", {"control": 50, "a": 50}, [625, 625]),
        ("0.03%", {}, [2, 1]),
    ],
)
def test_exposed_buckets_are_divided_by_weights(exposure: str, weights: dict[str, int], wanted: list[int]) -> None:
    spec = experiment({"name": "a"}, exposure=exposure, weights=weights)
    assert list(arms.planned_buckets(spec).values()) == wanted


@given(st.integers(1, 9), st.integers(1, 10_000))
def test_every_exposed_bucket_is_given_once_and_no_two_equal_arms_differ_by_more_than_one(
    count: int, exposed: int
) -> None:
    spec = experiment(*({"name": f"a{n}"} for n in range(count)), exposure=f"{exposed / 100:.2f}%")
    found = list(arms.planned_buckets(spec).values())
    assert sum(found) == exposed
    assert max(found) - min(found) <= 1
    shares = [buckets.BUCKETS - exposed, *found]
    moved = buckets.reassign([[(0, buckets.BUCKETS)], *([] for _ in found)], shares)
    assert is_partition([interval for own in moved for interval in own])
    assert [sum(end - start for start, end in own) for own in moved] == shares


BY_USER = {"header": "x-user-id"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"window": "1h"}, " where each request is a unit; expected a spec.unit that comes again, such as a header"),
        ({"window": "59s", "unit": BY_USER}, "; expected 1m to 30d, and less than spec.stop.maxDuration, which is 14d"),
        ({"window": "14d", "unit": BY_USER}, "; expected 1m to 30d, and less than spec.stop.maxDuration, which is 14d"),
        (
            {"window": "31d", "unit": BY_USER, "stop": {"maxDuration": "60d"}},
            "; expected 1m to 30d, and less than spec.stop.maxDuration, which is 60d",
        ),
        ({"window": "30d", "unit": BY_USER, "stop": {"maxDuration": "31d"}}, ""),
        ({"window": "1m", "unit": BY_USER}, ""),
        ({"window": "1h", "after": "59m59s", "unit": BY_USER}, ""),
        *(
            (
                {"window": "1h", "after": own, "unit": BY_USER},
                "; expected 1m or more, and less than window, which is 1h",
            )
            for own in ("1h", "59s")
        ),
    ],
)
@pytest.mark.parametrize("role", ["success", "guardrails", "secondary"])
def test_a_window_that_no_unit_could_pass_is_refused(spec: dict[str, Any], message: str, role: str) -> None:
    fields = {name: spec[name] for name in ("window", "after") if name in spec}
    field, found_value = list(fields.items())[-1]
    metric = {"name": "conversion", "feedback": "converted", **fields}
    obj = {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "ab"},
        "spec": {
            "modelDeployment": "digits",
            "arms": [{"name": "wide"}],
            "metrics": {role: [metric]},
            **{name: value for name, value in spec.items() if name not in fields},
        },
    }
    found = check_admission(obj)
    assert found.message == (f"spec.metrics.{role}[0].{field}: {found_value}{message}" if message else "")
    assert (found.spec is None) is bool(message)


def test_an_exposure_that_leaves_an_arm_without_traffic_is_refused() -> None:
    obj = {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "ab"},
        "spec": {"modelDeployment": "digits", "arms": [{"name": "wide"}], "exposure": "0.004%"},
    }
    found = check_admission(obj)
    assert (found.spec, found.reason) == (None, "InvalidSpec")
    assert found.message == "spec.exposure: 0.004% leaves control and wide without any of the traffic"


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (
            {"runtime": {"image": "a:b"}},
            "spec.arms[0].runtime.image: needs pods, which local mode does not have; leave it out",
        ),
        ({"model": {"uri": "pvc://a/b"}}, "spec.arms[0].model.uri: pvc:// needs pods that mount the claim"),
        ({"model": {"format": "exported"}}, "spec.arms[0].model.format: "),
        (
            {"resources": {"gpu": {"count": 1, "topology": {"nodes": 2}}}},
            "spec.arms[0].model.format: auto with gpu.topology.nodes 2; expected python",
        ),
    ],
)
def test_an_invalid_arm_is_reported_by_its_field(arm: dict[str, Any], message: str) -> None:
    problems = arms.find_arm_violations(stable(), experiment({"name": "wide", **arm}), None)
    assert len(problems) == 1
    assert str(problems[0]).startswith(message)


ON_GPU = {"resources": {"gpu": {"count": 1}}}
TWO_GPUS = {"resources": {"gpu": {"count": 2}}}


@pytest.mark.parametrize(
    ("control", "given_arms", "missing", "needed"),
    [
        (ON_GPU, [V2, {}], (0, 0), "4 nvidia.com/gpu needed (4 × 1)"),
        (ON_GPU, [TWO_GPUS], (0, 0), "4 nvidia.com/gpu needed (2 × 2)"),
        (ON_GPU, [{}, {"resources": {"cpu": "2"}}], (0, 0), "4 nvidia.com/gpu needed by 2 × ("),
        (ON_GPU, [{"resources": {"cpu": "2"}}], (1, 0), None),
        (ON_GPU, [{"resources": {"cpu": "2"}}], (2, 0), "4 nvidia.com/gpu needed by 2 × ("),
        (ON_GPU, [{"resources": {"gpu": {"count": 0}}}, {}], (0, 0), None),
        # Pods that models share are those of other models too.
        ({}, [{"runtime": {"placement": "shared"}}] * 9, (0, 0), None),
        ({}, [{}] * 9, (0, 0), "18 pods needed, 8 pods left by pods of ResourceQuota team"),
    ],
)
def test_all_arms_are_checked_together_with_what_stable_lacks(
    control: dict[str, Any], given_arms: list[dict[str, Any]], missing: tuple[int, int], needed: str | None
) -> None:
    node = {
        "metadata": {"name": "a"},
        "status": {"allocatable": {"nvidia.com/gpu": "3"}, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    known, installation = capacity.make_inventory([node_fit.trim_node(node)], ()), parse_installation("", "test")
    quota = {"metadata": {"name": "team"}, "status": {"hard": {"pods": "9"}, "used": {"pods": "1"}}}
    spec = experiment(*({"name": f"arm-{number}", **each} for number, each in enumerate(given_arms)))
    revision = stable(**control)
    available = {
        name: available
        for name, each in arms.merge_arm_specs(revisions.spec_of(revision), spec).items()
        if (available := capacity.find_available_capacity(each, known, [quota], installation)) is not None
    }
    replicas = {arm.name: 2 for arm in spec.arms}
    short = arms.find_arm_shortage(revision, spec, available, replicas, installation, missing)
    assert (short and short.message[: len(needed or "")]) == needed
