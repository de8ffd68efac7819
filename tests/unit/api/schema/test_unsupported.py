"""Nothing is silently ignored."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import manifest_tables
import sundog_operator
from manifest_tables import accepted_specs, deployment
from sundog_operator.api import (
    Experiment,
    ExperimentSpec,
    ModelDeployment,
    ModelDeploymentSpec,
    find_unsupported_experiment_fields,
    find_unsupported_fields,
    is_rollout_experiment,
)
from sundog_operator.api.base import ApiBase
from sundog_operator.api.schema.node_tree import Node, build_node_tree
from sundog_operator.api.schema.unsupported import (
    UNSUPPORTED_EXPERIMENT_FIELDS,
    UNSUPPORTED_FIELDS,
    UNSUPPORTED_IN_LOCAL_MODE,
)
from sundog_operator.errors import SpecError


def spec(**fields: Any) -> ModelDeploymentSpec:
    return ModelDeployment.parse(deployment(fields)).spec


def model(**fields: Any) -> ModelDeploymentSpec:
    return spec(model={"uri": "file:///models/digits", **fields})


def rollout(**fields: Any) -> ModelDeploymentSpec:
    return spec(rollout=fields)


def steps(*steps: dict[str, Any]) -> ModelDeploymentSpec:
    return rollout(steps=list(steps))


def below(path: str, prefixes: frozenset[str]) -> bool:
    return any(path == prefix or path.startswith((f"{prefix}.", f"{prefix}[")) for prefix in prefixes)


READ_IN_API = {
    "spec.rollout.onHarm": "one value",
    "spec.rollout.bake.holdback": "Bake.weight",
    "spec.scheduling.tolerations[].tolerationSeconds": "written whole into pods",
}
"""Fields whose names only `api` reads, and where."""


@pytest.fixture(scope="module")
def names_that_decisions_read() -> set[str]:
    root = Path(sundog_operator.__file__).parent
    files = [path for path in root.rglob("*.py") if not path.is_relative_to(root / "api")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def fields_below(node: Node, path: str) -> Iterator[tuple[str, str]]:
    """Yield path and Python name of each field below a part; list items are `[]`."""
    for name, child in node.fields.items():
        place = f"{path}.{name}"
        yield place, child.attribute
        items = child.node.items if child.node.kind == "array" else None
        yield from fields_below(items, f"{place}[]") if items is not None else fields_below(child.node, place)


@pytest.mark.parametrize(
    ("spec_type", "refused"),
    [(ModelDeploymentSpec, UNSUPPORTED_FIELDS), (ExperimentSpec, UNSUPPORTED_EXPERIMENT_FIELDS)],
)
def test_every_field_is_either_read_or_refused(
    spec_type: type[ApiBase], refused: frozenset[str], names_that_decisions_read: set[str]
) -> None:
    names = dict(fields_below(build_node_tree(spec_type), "spec"))
    unread = {path for path, name in names.items() if name not in names_that_decisions_read}
    assert {path for path in unread if not below(path, refused)} - READ_IN_API.keys() == set()


def test_every_refused_part_is_a_field() -> None:
    paths = {path for path, _ in fields_below(build_node_tree(ModelDeploymentSpec), "spec")}
    assert paths >= UNSUPPORTED_FIELDS | UNSUPPORTED_IN_LOCAL_MODE.keys()
    assert {path for path, _ in fields_below(build_node_tree(ExperimentSpec), "spec")} >= UNSUPPORTED_EXPERIMENT_FIELDS


REFUSED = [
    (model(uri="pvc://models/digits"), "spec.model.uri: pvc:// needs pods that mount the claim, which local mode does not have"),
    (model(credentials={"secretName": "s"}), "spec.model.credentials.secretName: needs pods, which local mode does not have; leave it out"),
    (spec(runtime={"image": "a:b"}), "spec.runtime.image: needs pods, which local mode does not have; leave it out"),
    (spec(runtime={"env": [{"name": "A"}]}), "spec.runtime.env: needs pods, which local mode does not have; leave it out"),
    (spec(runtime={"podLabels": {"a": "b"}}), "spec.runtime.podLabels: needs pods, which local mode does not have; leave it out"),
    (spec(resources={"gpu": {"count": 1}}), "spec.resources.gpu.count: 1 needs pods, which local mode does not have; expected 0"),
    (spec(resources={"gpu": {"type": ["h100"]}}), "spec.resources.gpu.type: needs pods, which local mode does not have; leave it out"),
    (rollout(strategy="blueGreen"), "spec.rollout.strategy: blueGreen is not supported yet; expected canary, shadow or recreate"),
    (
        steps({"weight": 5, "gate": "time", "maxDuration": "1h"}),
        "spec.rollout.steps[0].maxDuration: is not supported yet with gate: time; leave it out",
    ),
    (
        steps({"weight": 5, "gate": "manual", "minDuration": "1h"}),
        "spec.rollout.steps[0].minDuration: is not supported yet with gate: manual; leave it out",
    ),
    (spec(scheduling={"spot": "prefer"}), "spec.scheduling.spot: prefer needs pods, which local mode does not have; expected never"),
    (spec(scheduling={"queue": "q"}), "spec.scheduling.queue: needs pods, which local mode does not have; leave it out"),
    (
        spec(scheduling={"nodeSelector": {"a": "b"}}),
        "spec.scheduling.nodeSelector: needs pods, which local mode does not have; leave it out",
    ),
    (
        spec(endpoint={"gateway": {"name": "g"}}),
        "spec.endpoint.gateway.name: needs a Gateway, which local mode does not have; leave it out",
    ),
    (spec(baseline={"uri": "file:///a"}), "spec.baseline.uri: is not supported yet; leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(("refused", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_is_refused(refused: ModelDeploymentSpec, message: str) -> None:
    assert [str(violation) for violation in find_unsupported_fields(refused)] == [message]


ACCEPTED = [(False, spec) for spec in accepted_specs("everywhere")]
ACCEPTED += [(True, spec) for spec in accepted_specs("everywhere", "inPods")]


@pytest.mark.parametrize(("in_pods", "accepted"), ACCEPTED, ids=range(len(ACCEPTED)))
def test_what_is_accepted_is_acted_on(in_pods: bool, accepted: dict[str, Any]) -> None:
    assert find_unsupported_fields(spec(**accepted), in_pods=in_pods) == []


REFUSED_AT_ADMISSION = [
    ({"vendor": "tpu"}, "spec.resources.gpu.vendor: tpu is not supported yet; expected nvidia, amd, intel, gaudi or neuron"),
    (
        {"sharing": {"mode": "mps"}},
        "spec.resources.gpu.sharing.mode: mps is not supported, because one client's fault ends all clients of its device;"
        " expected exclusive, mig, fraction or timeSliced",
    ),
    (
        {"topology": {"interconnect": "nvlink"}},
        "spec.resources.gpu.topology.interconnect: nvlink is not supported yet; expected any",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("gpu", "message"), REFUSED_AT_ADMISSION, ids=[message for _, message in REFUSED_AT_ADMISSION])
def test_what_a_rule_refuses_has_the_reason_that_it_is_not_supported(gpu: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)) as refused:
        spec(resources={"gpu": {"count": 1, **gpu}})
    assert refused.value.reason == "NotYetSupported"
    arm = {"resources": {"gpu": {"count": 1, **gpu}}}
    with pytest.raises(SpecError, match=re.escape(message.replace("spec.", "spec.arms[0].", 1))) as refused:
        experiment(arm=arm)
    assert refused.value.reason == "NotYetSupported"
    with pytest.raises(SpecError) as refused:
        spec(resources={"gpu": {"count": 3, "sharing": {"mode": "mps"}}})
    assert refused.value.reason == "InvalidSpec"
    typed = ModelDeploymentSpec.from_json({"model": {"uri": "file:///m"}, "resources": {"gpu": {"count": 1, **gpu}}})
    assert [str(violation) for violation in find_unsupported_fields(typed, in_pods=True)] == [message]


def experiment(metadata: dict[str, Any] | None = None, arm: dict[str, Any] | None = None, **spec: Any) -> Experiment:
    obj = manifest_tables.experiment({"arms": [{"name": "wide", **(arm or {})}], **spec}, name="ab")
    obj["metadata"] |= metadata or {}
    return Experiment.parse(obj)


OUTCOMES = {"secondary": [{"name": "conversion", "feedback": "bought"}]}


def test_experiments_of_users_and_of_rollouts_are_accepted() -> None:
    label = {"serving.sundog.dev/rollout": "true"}
    owner = [{"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment", "name": "digits", "uid": "u"}]
    of_rollout = experiment({"labels": label, "ownerReferences": owner})
    assert is_rollout_experiment(of_rollout)
    assert find_unsupported_experiment_fields(of_rollout) == []
    logged = experiment(exposureLog={"uri": "s3://logs/a"}, metrics=OUTCOMES)
    for own in (experiment(), experiment({"labels": label}), experiment({"ownerReferences": owner}), logged):
        assert not is_rollout_experiment(own)
        assert find_unsupported_experiment_fields(own) == []
