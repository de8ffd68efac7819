"""Nothing is silently ignored."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sundog_operator
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
    obj = {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits"},
        "spec": {"model": {"uri": "file:///models/digits"}, **fields},
    }
    return ModelDeployment.parse(obj).spec


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


ACCEPTED = [
    spec(),
    spec(runtime={"placement": "shared"}),
    spec(rollout={}),
    rollout(strategy="recreate"),
    rollout(strategy="recreate", progressDeadlineAction="pause", notify=[{"webhook": "https://a"}]),
    rollout(bake={"duration": "1h", "holdback": "5%"}, progressDeadlineAction="pause", capacity="surge"),
    rollout(strategy="shadow"),
    rollout(strategy="shadow", bake={"holdback": "10%"}, guardrails=[{"metric": "errorRate"}]),
    rollout(capacity="inPlace"),
    spec(replicas=0),
    spec(autoscaling={"minReplicas": 0, "scaleToZeroDelay": "1m", "coldStartTimeout": "30s"}),
    steps({"shadow": {"compare": {"latencyP99": {"margin": "25%"}}}}, {"weight": 50}),
    steps({"shadow": {"percent": 5}}, {"weight": 5}, {"shadow": {}}),
    steps(
        {"shadow": {"compare": {"agreement": {"min": 0.9, "by": "custom", "parts": [{"path": "$.a"}]}}}}, {"pause": {}}
    ),
    rollout(strategy="shadow", steps=[{"shadow": {"percent": 20}}, {"pause": {}}]),
    rollout(unit={"header": "x-user-id"}),
    rollout(unit={"request": {}}),
    rollout(unit={"cookie": "visitor", "salt": "spring"}),
    rollout(unit={"jsonPath": "$.rows[0].id"}),
    spec(rollout={"unit": {"jwtClaim": "sub"}}, endpoint={"auth": {"jwt": {"jwksSecretName": "j"}}}),
    spec(endpoint={"tls": {"secretName": "s"}, "auth": {"apiKeys": {"secretName": "k"}}}),
    spec(endpoint={"auth": {"jwt": {"jwksSecretName": "j", "issuer": "i", "audience": "a"}}}),
    spec(
        endpoint={
            "cors": {
                "allowedOrigins": ["https://a.example"],
                "allowedHeaders": ["x-a"],
                "exposedHeaders": ["x-b"],
                "maxAge": "1h",
                "allowCredentials": True,
            }
        }
    ),
    spec(endpoint={"compression": "gzip"}),
    spec(endpoint={"queue": {"maxRequests": 5, "timeout": "1s"}, "rateLimit": {"perClient": "5/s", "total": "9/m"}}),
    spec(runtime={"batching": {"maxSize": 8, "maxDelay": "5ms"}}),
    *(
        model(uri=f"{scheme}://models.example/digits", digest="sha256:" + "a" * 64)
        for scheme in ("https", "s3", "gs", "hf", "oci")
    ),
    steps({"weight": 5, "gate": "time", "minDuration": "30s"}, {"pause": {}}, {"weight": 50, "gate": "manual"}),
    steps({"pause": {"duration": "5m"}}, {"weight": 5}),
    steps({"scale": {"percent": 50}}, {"weight": 5}, {"scale": {"replicas": 2}}),
    steps({"weight": 5}, {"webhook": {"url": "https://gate.example/", "type": "confirm", "timeout": "1h"}}),
    steps(
        {"weight": 5},
        {"analysis": {"name": "smoke", "prometheus": {"query": "up"}, "threshold": {"min": 1}, "count": 5}},
    ),
    rollout(guardrails=[{"name": "oom", "prometheus": {"query": "up", "interval": "30s"}, "threshold": {"max": 0}}]),
    model(digest="sha256:" + "a" * 64, format="torch", entrypoint="net:Net", config={"width": 3}),
    model(format="python"),
    model(format="exported", trustCode=True),
    model(format="torchscript", trustCode=True),
    model(format="transformers"),
    model(trustCode=True),
    rollout(paused=True, progressDeadline="1h"),
    rollout(rollbackWindow={"revisions": 5}),
    rollout(onNewRevision="queue"),
    rollout(dryRun=True),
    rollout(keepPrevious={"revisions": 2, "replicas": 3, "for": "2h"}),
    rollout(onNewRevision="restart"),
    rollout(windows=[{"cron": "0 9 * * 1-5", "duration": "8h", "tz": "Europe/Prague"}]),
    steps({"weight": 5}, {"weight": 50, "gate": "evidence", "minDuration": "0s", "maxDuration": "1h"}),
    rollout(notify=[{"webhook": "https://hooks.example/a"}, {"webhook": "http://b", "events": ["started", "aborted"]}]),
    rollout(onNoData="pause", onInconclusive="rollback", alpha=0.1, warmup={"requests": 0, "duration": "0s"}),
    rollout(guardrails=[{"metric": "errorRate", "margin": "10%", "floor": "1%"}, {"metric": "latencyP99"}]),
    rollout(guardrails=[{"metric": "latencyP99", "floor": "0.1%", "max": "500ms"}]),
    rollout(guardrails=[{"metric": "latencyP50"}, {"metric": "latencyP95", "floor": "1%"}, {"metric": "latencyP99"}]),
    spec(replicas=3, paused=True, resources={"cpu": "500m", "memory": "1Gi"}),
    spec(runtime={"maxOngoingRequests": 8, "warmup": {"requests": 0, "timeout": "1s"}, "userConfig": {"a": 1}}),
    spec(endpoint={"host": "digits.example.com", "requestTimeout": "5s", "maxRequestBytes": "1Mi"}),
    spec(
        endpoint={
            "reveal": False,
            "overrides": [{"header": "x-pick", "value": "b", "arm": "canary", "callers": {"networks": ["10.0.0.0/8"]}}],
        }
    ),
    spec(
        endpoint={
            "auth": {"apiKeys": {"secretName": "k"}},
            "overrides": [{"header": "x-pick", "value": "b", "arm": "wide", "callers": {"apiKeys": ["ops"]}}],
        }
    ),
    steps({"headers": {"x-canary": "true", "x-team": "a b"}}, {"pause": {}}),
    steps({"shadow": {"percent": 20, "minSamples": 10, "maxDuration": "1h"}}, {"pause": {}}),
    steps(
        {"shadow": {"compare": {"agreement": {"min": 0.9, "by": "tolerance", "atol": 1, "rtol": 0.1}}}}, {"pause": {}}
    ),
    spec(
        endpoint={"queue": {"maxRequests": 100}, "auth": {"jwt": {"issuer": ""}}},
        scheduling={"spot": "never", "tolerations": []},
    ),
]


@pytest.mark.parametrize("accepted", ACCEPTED, ids=range(len(ACCEPTED)))
def test_what_is_supported(accepted: ModelDeploymentSpec) -> None:
    assert find_unsupported_fields(accepted) == []


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


ACCEPTED_IN_PODS = [
    *ACCEPTED,
    model(uri="pvc://models/digits"),
    model(credentials={"secretName": "s", "serviceAccountName": "a"}),
    spec(runtime={"image": "a:b", "podLabels": {"team": "x"}}),
    spec(runtime={"env": [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
    spec(resources={"gpu": {"count": 2, "vendor": "amd", "type": ["mi300x"], "memory": "40Gi"}}),
    spec(resources={"gpu": {"count": 1, "sharing": {"mode": "mig", "profile": "1g.10gb"}}}),
    spec(resources={"gpu": {"count": 1, "sharing": {"mode": "fraction", "fraction": "0.5"}}}),
    spec(resources={"gpu": {"count": 1, "sharing": {"mode": "timeSliced"}}}),
    spec(resources={"gpu": {"count": 2, "allocation": "dra"}}),
    spec(resources={"gpu": {"count": 2, "allocation": "devicePlugin"}}),
    spec(autoscaling={"minReplicas": 2, "maxReplicas": 8, "upscaleDelay": "1s"}),
    spec(endpoint={"gateway": {"name": "g", "namespace": "infra", "sectionName": "https"}}),
    spec(scheduling={"nodeSelector": {"a": "b"}, "priorityClassName": "p", "runtimeClassName": "kata", "tolerations": [{"key": "k"}]}),
    spec(scheduling={"queue": "team-a", "spot": "prefer"}),
    spec(scheduling={"spot": "require"}),
    spec(model={"uri": "pvc://models/d", "format": "python"}, resources={"gpu": {"count": 8, "topology": {"nodes": 2}}}),
    spec(runtime={"placement": "shared"}),
]  # fmt: skip


@pytest.mark.parametrize("accepted", ACCEPTED_IN_PODS, ids=range(len(ACCEPTED_IN_PODS)))
def test_what_is_supported_in_pods(accepted: ModelDeploymentSpec) -> None:
    assert find_unsupported_fields(accepted, in_pods=True) == []


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


@pytest.mark.parametrize("unit", [{"header": "x-user"}, {"cookie": "u"}, {"jsonPath": "$.user"}, {"request": {}}])
def test_units_of_evidence_are_supported_whether_they_stay_with_an_arm_or_not(unit: dict[str, Any]) -> None:
    for steps in ([], [{"weight": 5}], [{"weight": 5, "gate": "manual"}]):
        assert find_unsupported_fields(rollout(unit=unit, steps=steps)) == []


def experiment(metadata: dict[str, Any] | None = None, arm: dict[str, Any] | None = None, **spec: Any) -> Experiment:
    obj = {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "ab", **(metadata or {})},
        "spec": {"modelDeployment": "digits", "arms": [{"name": "wide", **(arm or {})}], **spec},
    }
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
