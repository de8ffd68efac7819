"""One sentence per violation: the path, what was found, what is allowed."""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sundog_operator.api import Experiment, ModelDeployment, find_violations, parse_resource, unknown_fields
from sundog_operator.errors import SpecError


def deployment(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": "vision"},
        "spec": {"model": {"uri": "file:///models/digits"}, **spec},
    }


def experiment(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "ab"},
        "spec": {"modelDeployment": "digits", "arms": [{"name": "wide"}], **spec},
    }


def gpu(**fields: Any) -> dict[str, Any]:
    return deployment(resources={"gpu": fields})


CASES: list[tuple[dict[str, Any], str]] = [
    (deployment(model={}), "spec.model.uri: is required"),
    (deployment(model=None), "spec.model: is required"),
    (deployment(model={"uri": ""}), "spec.model.uri: empty; expected at least 1 character"),
    (deployment(model="file:///a"), 'spec.model: "file:///a"; expected an object'),
    (deployment(model={"uri": "file:///" + "a" * 2041}), "spec.model.uri: 2049 characters; expected at most 2048"),
    (
        deployment(model={"uri": "file:///a\nb"}),
        'spec.model.uri: "file:///a\\nb"; expected a URI without control characters',
    ),
    (
        deployment(model={"uri": "file:///a", "format": "pickle"}),
        "spec.model.format: pickle; expected one of auto, torch, exported, torchscript, transformers, python",
    ),
    (
        deployment(model={"uri": "file:///a", "digest": "md5:1"}),
        "spec.model.digest: md5:1; expected sha256: and 64 lower-case hexadecimal digits",
    ),
    (
        deployment(model={"uri": "file:///a", "entrypoint": "net.Net"}),
        "spec.model.entrypoint: net.Net; expected module:attribute such as net:Net",
    ),
    (
        deployment(model={"uri": "file:///a", "trustCode": "yes"}),
        'spec.model.trustCode: "yes"; expected true or false',
    ),
    (deployment(model={"uri": "file:///a", "config": []}), "spec.model.config: []; expected an object"),
    (
        deployment(model={"uri": "file:///a", "config": {str(n): n for n in range(257)}}),
        "spec.model.config: 257 entries; expected at most 256",
    ),
    (deployment(replicas="3"), 'spec.replicas: "3"; expected an integer'),
    (deployment(replicas=True), "spec.replicas: true; expected an integer"),
    (deployment(replicas=1.5), "spec.replicas: 1.5; expected an integer"),
    (deployment(replicas=-1), "spec.replicas: -1; expected 0 to 1000"),
    (deployment(replicas=10**30), f"spec.replicas: {10**30}; expected 0 to 1000"),
    (deployment(paused=1), "spec.paused: 1; expected true or false"),
    (deployment(runtime={"env": {}}), "spec.runtime.env: {}; expected a list"),
    (deployment(runtime={"env": [None]}), "spec.runtime.env[0]: null; expected an object"),
    (
        deployment(runtime={"env": [{"name": "A", "value": 12345}]}),
        "spec.runtime.env[0].value: an integer; expected a string",
    ),
    (
        deployment(runtime={"env": [{"name": f"A{n}"} for n in range(101)]}),
        "spec.runtime.env: 101 items; expected at most 100",
    ),
    (
        deployment(runtime={"env": [{"name": "a-b"}]}),
        "spec.runtime.env[0].name: a-b; expected a variable name such as LOG_LEVEL",
    ),
    (
        deployment(runtime={"podLabels": {"team": "a b"}}),
        'spec.runtime.podLabels[team]: "a b"; expected a label value such as gold or v1.2',
    ),
    (deployment(runtime={"podLabels": {"team": 7}}), "spec.runtime.podLabels[team]: 7; expected a string"),
    (
        deployment(endpoint={"requestTimeout": "5 minutes"}),
        'spec.endpoint.requestTimeout: "5 minutes"; expected a duration such as 30s, 5m, 1h30m or 14d',
    ),
    (deployment(endpoint={"requestTimeout": 30}), "spec.endpoint.requestTimeout: 30; expected a string"),
    (
        deployment(endpoint={"rateLimit": {"total": "100"}}),
        "spec.endpoint.rateLimit.total: 100; expected a rate such as 100/s, 600/m or 5000/h",
    ),
    *(
        (
            deployment(endpoint={"cors": {"allowedOrigins": [origin]}}),
            f"spec.endpoint.cors.allowedOrigins[0]: {origin}; expected an origin such as https://app.example.com,"
            " in lower case and without a path, or *",
        )
        for origin in (
            "app.example.com",
            "https://app.example.com/",
            "https://App.example.com",
            "https://*.example.com",
            "null",
        )
    ),
    (
        deployment(endpoint={"cors": {"allowedHeaders": ["x-tenant"]}}),
        "spec.endpoint.cors.allowedOrigins: is required",
    ),
    (
        deployment(endpoint={"auth": {"jwt": {"jwksSecretName": "k", "issuer": "a|b"}}}),
        "spec.endpoint.auth.jwt.issuer: a|b; expected a text without |, control characters, and blanks at its ends",
    ),
    (
        deployment(rollout={"unit": {"salt": "a b"}}),
        'spec.rollout.unit.salt: "a b"; expected letters, digits, dots, dashes and underscores',
    ),
    (
        deployment(endpoint={"requestTimeout": ""}),
        'spec.endpoint.requestTimeout: ""; expected a duration such as 30s, 5m, 1h30m or 14d',
    ),
    (
        deployment(endpoint={"maxRequestBytes": "10MB"}),
        "spec.endpoint.maxRequestBytes: 10MB; expected a quantity of bytes above 0 such as 512Mi or 8Gi",
    ),
    (
        deployment(resources={"memory": "512m"}),
        "spec.resources.memory: 512m; expected a quantity of bytes above 0 such as 512Mi or 8Gi",
    ),
    (deployment(resources={"cpu": 0}), "spec.resources.cpu: 0; expected a quantity of cores above 0 such as 500m or 2"),
    (
        deployment(resources={"cpu": 0.5}),
        "spec.resources.cpu: 0.5; expected a quantity of cores above 0 such as 500m or 2",
    ),
    (
        gpu(count=1, sharing={"mode": "fraction", "fraction": "1.5"}),
        "spec.resources.gpu.sharing.fraction: 1.5 is out of range; expected at least 0.01 and less than 1",
    ),
    (
        gpu(count=1, sharing={"mode": "mig", "profile": "2.10"}),
        "spec.resources.gpu.sharing.profile: 2.10; expected a MIG profile such as 1g.10gb",
    ),
    (
        gpu(type=["H100!"]),
        "spec.resources.gpu.type[0]: H100!; expected a type such as l4, or a label value such as NVIDIA-L4",
    ),
    (deployment(rollout={"steps": [5]}), "spec.rollout.steps[0]: 5; expected a step such as {weight: 5}"),
    (deployment(rollout={"steps": [{"weight": 0}]}), "spec.rollout.steps[0].weight: 0; expected 1 to 100"),
    (
        deployment(rollout={"steps": [{"headers": {}}]}),
        "spec.rollout.steps[0].headers: empty; expected at least 1 entry",
    ),
    (deployment(rollout={"alpha": 0}), "spec.rollout.alpha: 0; expected more than 0 and at most 0.5"),
    (deployment(rollout={"alpha": float("nan")}), "spec.rollout.alpha: NaN; expected a finite number"),
    (deployment(rollout={"alpha": "5%"}), 'spec.rollout.alpha: "5%"; expected a number'),
    (
        deployment(rollout={"bake": {"holdback": "101%"}}),
        "spec.rollout.bake.holdback: 101%; expected a whole percentage from 1% to 49%",
    ),
    (
        deployment(
            rollout={"guardrails": [{"name": "a", "prometheus": {"query": "up{{job}}"}, "threshold": {"max": 0}}]}
        ),
        "spec.rollout.guardrails[0].prometheus.query: up{{job}}; expected PromQL whose double braces contain"
        " only {{namespace}}, {{service}}, {{revision}}, {{stableRevision}} or {{arm}}",
    ),
    (
        deployment(rollout={"notify": [{"webhook": "ftp://a"}]}),
        "spec.rollout.notify[0].webhook: ftp://a; expected an http:// or https:// address",
    ),
    (experiment(arms=[]), "spec.arms: empty; expected at least 1 item"),
    (
        experiment(arms=[{"name": "wide", "model": {"uri": ""}}]),
        "spec.arms[0].model.uri: empty; expected at least 1 character",
    ),
    (
        experiment(allocation={"mode": "thompson", "delta": 1}),
        "spec.allocation.delta: 1; expected more than 0 and less than 1",
    ),
    (experiment(weights={"wide": 50.5, "control": 50}), "spec.weights[wide]: 50.5; expected an integer"),
    ({**deployment(), "metadata": {}}, "metadata.name: is required"),
    (
        {**deployment(), "metadata": {"name": "a", "labels": {"b": 1}}},
        "metadata.labels[b]: 1; expected a string",
    ),
    ({**deployment(), "apiVersion": "v1"}, "apiVersion: v1; expected one of serving.sundog.dev/v1alpha1"),
    ({**deployment(), "kind": "Deployment"}, "kind: Deployment; expected one of ModelDeployment, Experiment"),
    ({"kind": "ModelDeployment", "metadata": {"name": "a"}}, "spec: is required"),
]


@pytest.mark.parametrize(("obj", "message"), CASES, ids=[message for _, message in CASES])
def test_each_violation_is_one_sentence(obj: dict[str, Any], message: str) -> None:
    assert [str(violation) for violation in find_violations(obj)] == [message]


def test_all_violations_are_reported_at_once() -> None:
    obj = deployment(replicas="3", paused=1, resources={"gpu": {"count": -1}})
    assert [str(violation) for violation in find_violations(obj)] == [
        "spec.resources.gpu.count: -1; expected 0 to 128",
        'spec.replicas: "3"; expected an integer',
        "spec.paused: 1; expected true or false",
    ]


def test_parse_raises_what_violations_says() -> None:
    obj = deployment(replicas="3", paused=1)
    with pytest.raises(SpecError) as raised:
        ModelDeployment.parse(obj)
    assert raised.value.reason == "InvalidSpec"
    assert str(raised.value) == 'spec.replicas: "3"; expected an integer; spec.paused: 1; expected true or false'


def test_a_long_value_is_cut() -> None:
    (violation,) = find_violations(deployment(replicas="9" * 500))
    assert str(violation) == f'spec.replicas: "{"9" * 78}…; expected an integer'


@pytest.mark.parametrize("obj", [None, 5, "x", [], {}, {"kind": None}, {"kind": ["ModelDeployment"]}])
def test_what_is_no_resource_at_all(obj: Any) -> None:
    assert [violation.path for violation in find_violations(obj)] == ["kind"]
    with pytest.raises(SpecError):
        parse_resource(obj)


def test_unknown_fields_are_named_and_dropped() -> None:
    obj = deployment(
        replica=3,
        model={"uri": "file:///a", "trust_code": True, "config": {"anything": {"goes": 1}}},
        rollout={"steps": [{"weight": 5, "gates": "time"}]},
        runtime={"podLabels": {"any": "key"}},
    )
    assert sorted(map(str, unknown_fields(obj))) == [
        "spec.model.trust_code: unknown field; did you mean trustCode?",
        "spec.replica: unknown field; did you mean replicas?",
        "spec.rollout.steps[0].gates: unknown field; did you mean gate?",
    ]
    read = ModelDeployment.parse(obj)
    assert read.spec.model.trust_code is False
    assert "replica" not in read.to_json()["spec"]
    assert unknown_fields(deployment()) == []
    assert unknown_fields({"kind": "Pod", "spec": {"containers": []}}) == []


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "model",
        "runtime",
        "resources",
        "replicas",
        "autoscaling",
        "rollout",
        "scheduling",
        "endpoint",
        "baseline",
        "paused",
    ]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.dictionaries(FIELDS, ANYTHING, max_size=4) | ANYTHING, ANYTHING)
def test_no_input_is_too_odd_for_a_sentence(spec: Any, status: Any) -> None:
    obj = {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "a"},
        "spec": spec,
        "status": status,
    }
    for violation in find_violations(obj):
        assert violation.path.startswith("spec")
        assert re.search(r"(^|; )expected |^is required$", violation.message), violation
        assert "\n" not in str(violation)


def test_messages_hold_no_value_of_a_variable() -> None:
    for value in ("s3cret" * 6000, 53125, ["s3cret"]):
        obj = deployment(runtime={"env": [{"name": "TOKEN", "value": value}]})
        text = " ".join(str(violation) for violation in find_violations(obj))
        assert text
        assert "s3cret" not in text
        assert "53125" not in text


@pytest.mark.parametrize(
    ("kind", "obj"),
    [
        (
            ModelDeployment,
            deployment(rollout={"steps": [{"weight": 5}, {"pause": {"duration": "90s"}}], "keepPrevious": {}}),
        ),
        (
            ModelDeployment,
            deployment(
                model={"uri": "file:///a", "config": {"a": None, "b": [None, {"c": 1.5}]}}, resources={"cpu": 2}
            ),
        ),
        (Experiment, experiment(weights={"wide": 50, "control": 50}, alpha=0.1, stop={"maxDuration": "48h"})),
    ],
)
def test_what_is_read_is_written_and_read_the_same(kind: Any, obj: dict[str, Any]) -> None:
    read = kind.parse(obj)
    written = read.to_json()
    assert kind.parse(written) == read
    assert json.dumps(kind.parse(written).to_json()) == json.dumps(written)


def test_free_form_values_keep_their_nulls() -> None:
    obj = deployment(model={"uri": "file:///a", "config": {"a": None, "b": [None]}})
    assert ModelDeployment.parse(obj).to_json()["spec"]["model"]["config"] == {"a": None, "b": [None]}


def test_reading_leaves_the_object_alone() -> None:
    obj = deployment(rollout={"steps": [{"weight": 5}]}, unheardOf=None)
    before = json.dumps(obj)
    ModelDeployment.parse(obj)
    assert json.dumps(obj) == before


def test_an_omitted_rollout_is_an_empty_one() -> None:
    assert ModelDeployment.parse(deployment()) == ModelDeployment.parse(deployment(rollout={}))


def test_a_weight_step_has_its_defaults_once_read() -> None:
    (step, pause) = ModelDeployment.parse(
        deployment(rollout={"steps": [{"weight": 5}, {"pause": {}}]})
    ).spec.rollout.steps
    assert step.to_json() == {"weight": 5, "gate": "evidence", "minDuration": "5m", "maxDuration": "1d"}
    assert pause.to_json() == {"pause": {}}


def test_the_kind_of_unit() -> None:
    def kind(**unit: Any) -> str:
        endpoint = {"auth": {"jwt": {"jwksSecretName": "issuer"}}}
        return ModelDeployment.parse(deployment(rollout={"unit": unit}, endpoint=endpoint)).spec.rollout.unit.kind

    assert kind() == kind(request={}) == "request"
    assert kind(header="x-user") == "header"
    assert kind(cookie="user") == "cookie"
    assert kind(jsonPath="$.user") == "jsonPath"
    assert kind(jwtClaim="sub") == "jwtClaim"
