"""One sentence per violation: the path, what was found, what is allowed."""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifest_tables import deployment, experiment, refused_specs
from sundog_operator.api import (
    Experiment,
    ModelDeployment,
    ModelDeploymentSpec,
    find_violations,
    parse_resource,
    unknown_fields,
)
from sundog_operator.errors import SpecError


def named(**metadata: Any) -> dict[str, Any]:
    return {**deployment({}), "metadata": metadata}


CASES: list[tuple[dict[str, Any], str]] = [
    *((deployment(spec), error) for spec, error in refused_specs("bad_shapes")),
    (deployment({"model": {"uri": "file:///" + "a" * 2041}}), "spec.model.uri: 2049 characters; expected at most 2048"),
    (
        deployment({"model": {"config": {str(n): n for n in range(257)}}}),
        "spec.model.config: 257 entries; expected at most 256",
    ),
    (
        deployment({"runtime": {"env": [{"name": f"A{n}"} for n in range(101)]}}),
        "spec.runtime.env: 101 items; expected at most 100",
    ),
    (experiment({"arms": []}), "spec.arms: empty; expected at least 1 item"),
    (
        experiment({"arms": [{"name": "wide", "model": {"uri": ""}}]}),
        "spec.arms[0].model.uri: empty; expected at least 1 character",
    ),
    (
        experiment({"allocation": {"mode": "thompson", "delta": 1}}),
        "spec.allocation.delta: 1; expected more than 0 and less than 1",
    ),
    (experiment({"weights": {"wide": 50.5, "control": 50}}), "spec.weights[wide]: 50.5; expected an integer"),
    (named(), "metadata.name: is required"),
    (named(name="a", labels={"b": 1}), "metadata.labels[b]: 1; expected a string"),
    ({**deployment({}), "apiVersion": "v1"}, "apiVersion: v1; expected one of serving.sundog.dev/v1alpha1"),
    ({**deployment({}), "kind": "Deployment"}, "kind: Deployment; expected one of ModelDeployment, Experiment"),
    ({"kind": "ModelDeployment", "metadata": {"name": "a"}}, "spec: is required"),
]


@pytest.mark.parametrize(("obj", "message"), CASES, ids=[message for _, message in CASES])
def test_each_violation_is_one_sentence(obj: dict[str, Any], message: str) -> None:
    assert [str(violation) for violation in find_violations(obj)] == [message]


def test_all_violations_are_reported_at_once() -> None:
    obj = deployment({"replicas": "3", "paused": 1, "resources": {"gpu": {"count": -1}}})
    assert [str(violation) for violation in find_violations(obj)] == [
        "spec.resources.gpu.count: -1; expected 0 to 128",
        'spec.replicas: "3"; expected an integer',
        "spec.paused: 1; expected true or false",
    ]


def test_parse_raises_what_violations_says() -> None:
    obj = deployment({"replicas": "3", "paused": 1})
    with pytest.raises(SpecError) as raised:
        ModelDeployment.parse(obj)
    assert raised.value.reason == "InvalidSpec"
    assert str(raised.value) == 'spec.replicas: "3"; expected an integer; spec.paused: 1; expected true or false'


def test_a_long_value_is_cut() -> None:
    (violation,) = find_violations(deployment({"replicas": "9" * 500}))
    assert str(violation) == f'spec.replicas: "{"9" * 78}…; expected an integer'


@pytest.mark.parametrize("obj", [None, 5, "x", [], {}, {"kind": None}, {"kind": ["ModelDeployment"]}])
def test_what_is_no_resource_at_all(obj: Any) -> None:
    assert [violation.path for violation in find_violations(obj)] == ["kind"]
    with pytest.raises(SpecError):
        parse_resource(obj)


def test_unknown_fields_are_named_and_dropped() -> None:
    obj = deployment(
        {
            "replica": 3,
            "model": {"uri": "file:///a", "trust_code": True, "config": {"anything": {"goes": 1}}},
            "rollout": {"steps": [{"weight": 5, "gates": "time"}]},
            "runtime": {"podLabels": {"any": "key"}},
        }
    )
    assert sorted(map(str, unknown_fields(obj))) == [
        "spec.model.trust_code: unknown field; did you mean trustCode?",
        "spec.replica: unknown field; did you mean replicas?",
        "spec.rollout.steps[0].gates: unknown field; did you mean gate?",
    ]
    read = ModelDeployment.parse(obj)
    assert read.spec.model.trust_code is False
    assert "replica" not in read.to_json()["spec"]
    assert unknown_fields(deployment({})) == []
    assert unknown_fields({"kind": "Pod", "spec": {"containers": []}}) == []


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(sorted(ModelDeploymentSpec.model_fields))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.dictionaries(FIELDS, ANYTHING, max_size=4) | ANYTHING, ANYTHING)
def test_no_input_is_too_odd_for_a_sentence(spec: Any, status: Any) -> None:
    obj = {**deployment({}), "spec": spec, "status": status}
    for violation in find_violations(obj):
        assert violation.path.startswith("spec")
        assert re.search(r"(^|; )expected |^is required$", violation.message), violation
        assert "\n" not in str(violation)


def test_messages_hold_no_value_of_a_variable() -> None:
    for value in ("s3cret" * 6000, 53125, ["s3cret"]):
        obj = deployment({"runtime": {"env": [{"name": "TOKEN", "value": value}]}})
        text = " ".join(str(violation) for violation in find_violations(obj))
        assert text
        assert "s3cret" not in text
        assert "53125" not in text


@pytest.mark.parametrize(
    ("kind", "obj"),
    [
        (
            ModelDeployment,
            deployment({"rollout": {"steps": [{"weight": 5}, {"pause": {"duration": "90s"}}], "keepPrevious": {}}}),
        ),
        (
            ModelDeployment,
            deployment(
                {"model": {"uri": "file:///a", "config": {"a": None, "b": [None, {"c": 1.5}]}}, "resources": {"cpu": 2}}
            ),
        ),
        (
            Experiment,
            experiment({"weights": {"wide": 50, "control": 50}, "alpha": 0.1, "stop": {"maxDuration": "48h"}}),
        ),
    ],
)
def test_what_is_read_is_written_and_read_the_same(kind: Any, obj: dict[str, Any]) -> None:
    read = kind.parse(obj)
    written = read.to_json()
    assert kind.parse(written) == read
    assert json.dumps(kind.parse(written).to_json()) == json.dumps(written)


def test_free_form_values_keep_their_nulls() -> None:
    obj = deployment({"model": {"uri": "file:///a", "config": {"a": None, "b": [None]}}})
    assert ModelDeployment.parse(obj).to_json()["spec"]["model"]["config"] == {"a": None, "b": [None]}


def test_reading_leaves_the_object_alone() -> None:
    obj = deployment({"rollout": {"steps": [{"weight": 5}]}, "unheardOf": None})
    before = json.dumps(obj)
    ModelDeployment.parse(obj)
    assert json.dumps(obj) == before


def test_an_omitted_rollout_is_an_empty_one() -> None:
    assert ModelDeployment.parse(deployment({})) == ModelDeployment.parse(deployment({"rollout": {}}))


def test_a_weight_step_has_its_defaults_once_read() -> None:
    (step, pause) = ModelDeployment.parse(
        deployment({"rollout": {"steps": [{"weight": 5}, {"pause": {}}]}})
    ).spec.rollout.steps
    assert step.to_json() == {"weight": 5, "gate": "evidence", "minDuration": "5m", "maxDuration": "1d"}
    assert pause.to_json() == {"pause": {}}


def test_the_kind_of_unit() -> None:
    def kind(**unit: Any) -> str:
        endpoint = {"auth": {"jwt": {"jwksSecretName": "issuer"}}}
        return ModelDeployment.parse(
            deployment({"rollout": {"unit": unit}, "endpoint": endpoint})
        ).spec.rollout.unit.kind

    assert kind() == kind(request={}) == "request"
    assert kind(header="x-user") == "header"
    assert kind(cookie="user") == "cookie"
    assert kind(jsonPath="$.user") == "jsonPath"
    assert kind(jwtClaim="sub") == "jwtClaim"
