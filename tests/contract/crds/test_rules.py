"""What bad input is told: one object per violation, by the operator and by the API server alike."""

import copy
from typing import Any

import pytest

from sundog_operator.api import RESOURCES, refused_changes, violations

DIGEST = "sha256:" + "0" * 64


def merged(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(base)
    for key, value in patch.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if nested else value
    return result


def deployment(spec: dict[str, Any], name: str = "digits") -> dict[str, Any]:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": "vision"},
        "spec": merged({"model": {"uri": "file:///models/digits"}}, spec),
    }


def experiment(spec: dict[str, Any], name: str = "wide-or-narrow") -> dict[str, Any]:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": name, "namespace": "vision"},
        "spec": merged({"modelDeployment": "digits", "arms": [{"name": "wide"}]}, spec),
    }


def step(**fields: Any) -> dict[str, Any]:
    return deployment({"rollout": {"steps": [fields]}})


def guardrail(**fields: Any) -> dict[str, Any]:
    return deployment({"rollout": {"guardrails": [fields]}})


def sharing(*, count: int = 1, **fields: Any) -> dict[str, Any]:
    return deployment({"resources": {"gpu": {"count": count, "sharing": fields}}})


def arm(**fields: Any) -> dict[str, Any]:
    return experiment({"arms": [{"name": "wide", **fields}]})


def arm_sharing(*, count: int = 1, **fields: Any) -> dict[str, Any]:
    return arm(resources={"gpu": {"count": count, "sharing": fields}})


PLACEHOLDER = "holds a $, which nobody replaces here; sundog replaces MANIFEST_DIR in files"
ESCAPES = "holds a %, ?, # or backslash; a model's URI has no escapes, query or fragment"
WEB_FORM = "is not of the form https://host/path/file, of letters, digits and . _ ~ + = , : @ - /"
TOMORROW = "may name something else tomorrow; name"
COMMIT = "@ and 40 hex digits, or give model.digest"
PINNED = "@sha256: and 64 hex digits, or give model.digest"
OTHER = "sha256:" + "b" * 64
SCHEMES = "does not start with one of file://, pvc://, s3://, gs://, https://, hf://, oci://"
ONE_STEP = "exactly one of weight, pause, headers, scale, analysis, webhook and shadow has to be given"
ONE_UNIT = "at most one of header, cookie, jsonPath, jwtClaim and request can be given"
OURS = "begins as those that are set by the operator: RAY_, SUNDOG_, KUBERAY_"
RESERVED = "keys below serving.sundog.dev/, app.kubernetes.io/, ray.io/ are set by the operator"
TRUST = "archives can run code when they are loaded; set trustCode: true to accept that"
LONG_KEY = "k" * 318
TOO_LONG = "a key has more than 317 characters"
NOT_A_LABEL = "a key is not a label key such as example.com/team"
PROMETHEUS = {"name": "oom", "prometheus": {"query": "up"}, "threshold": {"max": 0}}


def at_every_uri(uri: str, message: str, digest: str = "") -> list[tuple[dict[str, Any], str]]:
    """The same mistake wherever a model's URI is written; a digest keeps the rule about pins out of it."""
    return [
        (deployment({"model": {"uri": uri, "digest": digest}}), f"spec.model.uri: {message}"),
        (deployment({"baseline": {"uri": uri}}), f"spec.baseline.uri: {message}"),
        (arm(model={"uri": uri}), f"spec.arms[0].model.uri: {message}"),
    ]


RULES: list[tuple[dict[str, Any], str]] = [
    (deployment({}, name="a" * 41), f"metadata.name: {'a' * 41} is longer than 40 characters"),
    (
        deployment({}, name="8b-llama"),
        "metadata.name: 8b-llama is not a DNS label that starts with a letter, as a Service needs",
    ),
    (deployment({}, name="a.b"), "metadata.name: a.b is not a DNS label that starts with a letter, as a Service needs"),
    *at_every_uri("file:///${MANIFEST_DIR}/v1", PLACEHOLDER),
    *at_every_uri("s3://key:hidden@bucket/v1", "holds user information before @; credentials do not belong into a URI"),
    *at_every_uri("file:///v%31", ESCAPES),
    *at_every_uri("file:///models/../v1", "has an empty, . or .. segment in its path"),
    *at_every_uri("file://host/v1", "file://host/v1 is not of the form file:///path"),
    *at_every_uri("pvc://Claim/v1", "pvc://Claim/v1 is not of the form pvc://claim/path"),
    *at_every_uri("https://example.com/v1/", f"https://example.com/v1/ {WEB_FORM}"),
    *at_every_uri("s3://b/v1", "s3://b/v1 is not of the form s3://bucket/key"),
    *at_every_uri("gs://bucket", "gs://bucket is not of the form gs://bucket/key"),
    *at_every_uri("hf://a/b/c", "hf://a/b/c is not of the form hf://owner/name@commit/path", DIGEST),
    *at_every_uri("oci://r/A", "oci://r/A is not of the form oci://registry/repository@sha256:<64 hex digits>", DIGEST),
    (deployment({"model": {"uri": "hf://a/b@main"}}), f"spec.model.uri: hf://a/b@main {TOMORROW} a commit, {COMMIT}"),
    (deployment({"model": {"uri": "oci://r/a:v1"}}), f"spec.model.uri: oci://r/a:v1 {TOMORROW} a digest, {PINNED}"),
    (
        deployment({"model": {"uri": f"oci://r/a@{OTHER}", "digest": DIGEST}}),
        f"spec.model.uri: oci://r/a@{OTHER} pins another digest than {DIGEST}",
    ),
    (deployment({"model": {"uri": "ftp://models/v1"}}), f"spec.model.uri: ftp://models/v1 {SCHEMES}"),
    (deployment({"model": {"uri": "s3://"}}), f"spec.model.uri: s3:// {SCHEMES}"),
    (deployment({"model": {"uri": "/models/v1"}}), f"spec.model.uri: /models/v1 {SCHEMES}"),
    (deployment({"model": {"format": "torchscript"}}), f"spec.model.format: torchscript {TRUST}"),
    (deployment({"model": {"format": "exported"}}), f"spec.model.format: exported {TRUST}"),
    (
        deployment(
            {"runtime": {"env": [{"name": "A", "value": "", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}}
        ),
        "spec.runtime.env[0]: at most one of value and valueFrom can be given",
    ),
    (
        deployment({"runtime": {"env": [{"name": "A", "valueFrom": {}}]}}),
        "spec.runtime.env[0].valueFrom: exactly one of secretKeyRef and configMapKeyRef has to be given",
    ),
    (deployment({"runtime": {"env": [{"name": "RAY_ADDRESS"}]}}), f"spec.runtime.env[0].name: RAY_ADDRESS {OURS}"),
    (deployment({"runtime": {"env": [{"name": "SUNDOG_X"}]}}), f"spec.runtime.env[0].name: SUNDOG_X {OURS}"),
    (deployment({"runtime": {"podLabels": {"ray.io/cluster": "x"}}}), f"spec.runtime.podLabels: {RESERVED}"),
    (deployment({"runtime": {"warmup": {"timeout": "0s"}}}), "spec.runtime.warmup.timeout: 0s is not more than 0s"),
    (sharing(mode="mig"), "spec.resources.gpu.sharing.profile: mode mig needs a profile such as 1g.10gb"),
    (
        sharing(profile="1g.10gb"),
        "spec.resources.gpu.sharing.profile: 1g.10gb goes with mode mig only, not with exclusive",
    ),
    (sharing(mode="fraction"), "spec.resources.gpu.sharing.fraction: mode fraction needs a fraction such as '0.5'"),
    (
        sharing(mode="mps", fraction="0.5"),
        "spec.resources.gpu.sharing.fraction: 0.5 goes with mode fraction only, not with mps",
    ),
    (sharing(mode="fraction", fraction="1.5"), "spec.resources.gpu.sharing.fraction: 1.5 is not between 0 and 1"),
    (sharing(mode="fraction", fraction="1"), "spec.resources.gpu.sharing.fraction: 1 is not between 0 and 1"),
    (sharing(mode="fraction", fraction="0.0"), "spec.resources.gpu.sharing.fraction: 0.0 is not between 0 and 1"),
    (
        sharing(mode="mig", profile="1g.10gb", count=2),
        "spec.resources.gpu.count: 2 is not 1, which sharing mode mig requires",
    ),
    (
        sharing(mode="timeSliced", count=0),
        "spec.resources.gpu.count: 0 is not 1, which sharing mode timeSliced requires",
    ),
    (deployment({"autoscaling": {"minReplicas": 5}}), "spec.autoscaling.minReplicas: 5 is greater than maxReplicas, 4"),
    (
        deployment({"autoscaling": {"targetOngoingRequests": 33}}),
        "spec.autoscaling.targetOngoingRequests: 33 is more than half of runtime.maxOngoingRequests, 64",
    ),
    (
        deployment({"autoscaling": {}, "runtime": {"maxOngoingRequests": 3}}),
        "spec.autoscaling.targetOngoingRequests: 2 is more than half of runtime.maxOngoingRequests, 3",
    ),
    (
        deployment({"autoscaling": {"coldStartTimeout": "0m"}}),
        "spec.autoscaling.coldStartTimeout: 0s is not more than 0s",
    ),
    (deployment({"rollout": {"unit": {"header": "x-user", "request": {}}}}), f"spec.rollout.unit: {ONE_UNIT}"),
    (deployment({"rollout": {"unit": {"cookie": "a", "jwtClaim": "sub"}}}), f"spec.rollout.unit: {ONE_UNIT}"),
    (deployment({"rollout": {"progressDeadline": "0s"}}), "spec.rollout.progressDeadline: 0s is not more than 0s"),
    (
        deployment({"rollout": {"windows": [{"cron": "0 9 * * 1-5", "duration": "0h"}]}}),
        "spec.rollout.windows[0].duration: 0s is not more than 0s",
    ),
    (
        deployment({"rollout": {"steps": [{"weight": 20}, {"weight": 10}]}}),
        "spec.rollout.steps: the weights do not rise from step to step",
    ),
    (
        deployment({"rollout": {"steps": [{"weight": 20}, {"pause": {}}, {"weight": 20}]}}),
        "spec.rollout.steps: the weights do not rise from step to step",
    ),
    (step(), f"spec.rollout.steps[0]: {ONE_STEP}"),
    (step(weight=5, pause={}), f"spec.rollout.steps[0]: {ONE_STEP}"),
    (step(scale={"replicas": 2}, shadow={}), f"spec.rollout.steps[0]: {ONE_STEP}"),
    (step(pause={}, gate="time"), "spec.rollout.steps[0]: gate, minDuration and maxDuration go with weight only"),
    (step(pause={}, minDuration="5m"), "spec.rollout.steps[0]: gate, minDuration and maxDuration go with weight only"),
    (step(pause={}, maxDuration="5m"), "spec.rollout.steps[0]: gate, minDuration and maxDuration go with weight only"),
    (step(weight=5, maxDuration="0s"), "spec.rollout.steps[0].maxDuration: 0s is not more than 0s"),
    (
        step(analysis={"template": "a", "interval": "0s"}),
        "spec.rollout.steps[0].analysis.interval: 0s is not more than 0s",
    ),
    (
        step(webhook={"url": "https://a", "timeout": "0s"}),
        "spec.rollout.steps[0].webhook.timeout: 0s is not more than 0s",
    ),
    (
        step(webhook={"url": "https://a", "timeout": "1h0m1s"}),
        "spec.rollout.steps[0].webhook.timeout: must be at most an hour",
    ),
    (
        step(webhook={"url": "https://a", "timeout": "1d"}),
        "spec.rollout.steps[0].webhook.timeout: must be at most an hour",
    ),
    (guardrail(), "spec.rollout.guardrails[0]: exactly one of metric and prometheus has to be given"),
    (
        guardrail(metric="errorRate", **PROMETHEUS),
        "spec.rollout.guardrails[0]: exactly one of metric and prometheus has to be given",
    ),
    (
        guardrail(prometheus={"query": "up"}, name="oom"),
        "spec.rollout.guardrails[0]: prometheus needs a name and a threshold",
    ),
    (
        guardrail(metric="errorRate", name="oom"),
        "spec.rollout.guardrails[0]: name and threshold go with prometheus only",
    ),
    (guardrail(margin="5%", **PROMETHEUS), "spec.rollout.guardrails[0]: margin, floor and max go with metric only"),
    (
        guardrail(metric="errorRate", max="500ms"),
        "spec.rollout.guardrails[0].max: errorRate has a percentage for max, a latency has a duration",
    ),
    (
        guardrail(metric="latencyP99", max="2%"),
        "spec.rollout.guardrails[0].max: errorRate has a percentage for max, a latency has a duration",
    ),
    (
        guardrail(metric="errorRate", margin="0%"),
        "spec.rollout.guardrails[0].margin: 0% would let no candidate pass that is just as good as stable",
    ),
    (guardrail(metric="errorRate", max="0.00%"), "spec.rollout.guardrails[0].max: 0 would let no candidate pass"),
    (guardrail(**PROMETHEUS | {"threshold": {}}), "spec.rollout.guardrails[0].threshold: min or max has to be given"),
    (
        guardrail(**PROMETHEUS | {"threshold": {"min": 2, "max": 1.5}}),
        "spec.rollout.guardrails[0].threshold: min is greater than max",
    ),
    (
        deployment({"rollout": {"guardrails": [{"metric": "errorRate"}, {"metric": "errorRate", "margin": "5%"}]}}),
        "spec.rollout.guardrails: a metric has more than one guardrail",
    ),
    (
        deployment({"scheduling": {"tolerations": [{"key": "gpu", "operator": "Exists", "value": "x"}]}}),
        "spec.scheduling.tolerations[0].value: x goes with operator Equal only",
    ),
    (
        deployment({"scheduling": {"tolerations": [{"key": "gpu", "tolerationSeconds": 5}]}}),
        "spec.scheduling.tolerations[0].tolerationSeconds: goes with effect NoExecute only",
    ),
    (
        deployment({"endpoint": {"gateway": {"namespace": "infra"}}}),
        "spec.endpoint.gateway.namespace: infra is given without the name of a Gateway",
    ),
    (
        deployment({"endpoint": {"gateway": {"sectionName": "https"}}}),
        "spec.endpoint.gateway.sectionName: https is given without the name of a Gateway",
    ),
    (
        deployment({"endpoint": {"auth": {"jwt": {"issuer": "https://id"}}}}),
        "spec.endpoint.auth.jwt.jwksSecretName: issuer and audience need the Secret with the keys",
    ),
    (deployment({"endpoint": {"requestTimeout": "24h"}}), "spec.endpoint.requestTimeout: must be less than a day"),
    (deployment({"endpoint": {"requestTimeout": "0ms"}}), "spec.endpoint.requestTimeout: 0s is not more than 0s"),
    (deployment({"endpoint": {"queue": {"timeout": "1d"}}}), "spec.endpoint.queue.timeout: must be less than a day"),
    (deployment({"baseline": {"uri": "file:///$X/v7"}}), f"spec.baseline.uri: {PLACEHOLDER}"),
    (arm(model={"uri": "file:///$X/v9"}), f"spec.arms[0].model.uri: {PLACEHOLDER}"),
    (deployment({"baseline": {"uri": "v7"}}), f"spec.baseline.uri: v7 {SCHEMES}"),
    (deployment({"baseline": {"digest": DIGEST}}), "spec.baseline.uri: a digest is given without a uri"),
    (experiment({}, name="a" * 64), f"metadata.name: {'a' * 64} is longer than 63 characters"),
    (experiment({}, name="a.b"), "metadata.name: a.b is not a DNS label"),
    (arm(model={"uri": "v9"}), f"spec.arms[0].model.uri: v9 {SCHEMES}"),
    (arm(model={"format": "exported"}), f"spec.arms[0].model.format: exported {TRUST}"),
    (arm(model={"format": "exported", "trustCode": False}), f"spec.arms[0].model.format: exported {TRUST}"),
    (
        arm(
            runtime={"env": [{"name": "A", "value": "x", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}}]}
        ),
        "spec.arms[0].runtime.env[0]: at most one of value and valueFrom can be given",
    ),
    (
        arm(runtime={"env": [{"name": "A", "valueFrom": {}}]}),
        "spec.arms[0].runtime.env[0].valueFrom: exactly one of secretKeyRef and configMapKeyRef has to be given",
    ),
    (arm(runtime={"env": [{"name": "KUBERAY_A"}]}), f"spec.arms[0].runtime.env[0].name: KUBERAY_A {OURS}"),
    (arm(runtime={"podLabels": {"serving.sundog.dev/revision": "1"}}), f"spec.arms[0].runtime.podLabels: {RESERVED}"),
    (arm(runtime={"warmup": {"timeout": "0s"}}), "spec.arms[0].runtime.warmup.timeout: 0s is not more than 0s"),
    (arm_sharing(mode="mig"), "spec.arms[0].resources.gpu.sharing.profile: mode mig needs a profile such as 1g.10gb"),
    (
        arm_sharing(profile="1g.10gb"),
        "spec.arms[0].resources.gpu.sharing.profile: 1g.10gb goes with mode mig only, not with exclusive",
    ),
    (
        arm_sharing(mode="fraction"),
        "spec.arms[0].resources.gpu.sharing.fraction: mode fraction needs a fraction such as '0.5'",
    ),
    (
        arm_sharing(mode="mps", fraction=".5"),
        "spec.arms[0].resources.gpu.sharing.fraction: .5 goes with mode fraction only, not with mps",
    ),
    (
        arm_sharing(mode="fraction", fraction="7"),
        "spec.arms[0].resources.gpu.sharing.fraction: 7 is not between 0 and 1",
    ),
    (arm_sharing(mode="mps", count=3), "spec.arms[0].resources.gpu.count: 3 is not 1, which sharing mode mps requires"),
    (arm(name="control"), "spec.arms[0].name: control is the stable revision's own name"),
    (
        experiment({"weights": {"control": 50, "narrow": 50}}),
        "spec.weights: the weights have to name control and every arm, and nothing else",
    ),
    (
        experiment({"weights": {"wide": 100}}),
        "spec.weights: the weights have to name control and every arm, and nothing else",
    ),
    (experiment({"weights": {"control": 50, "wide": 40}}), "spec.weights: the weights do not sum to 100"),
    (experiment({"unit": {"header": "a", "cookie": "b"}}), f"spec.unit: {ONE_UNIT}"),
    (
        experiment({"metrics": {"guardrails": [{"metric": "latencyP95", "max": "1%"}]}}),
        "spec.metrics.guardrails[0].max: errorRate has a percentage for max, a latency has a duration",
    ),
    (
        experiment({"metrics": {"guardrails": [{"metric": "latencyP95", "max": "0ms"}]}}),
        "spec.metrics.guardrails[0].max: 0 would let no candidate pass",
    ),
    (
        experiment({"metrics": {"guardrails": [{"metric": "latencyP95", "margin": "0.0%"}]}}),
        "spec.metrics.guardrails[0].margin: 0% would let no candidate pass that is just as good as stable",
    ),
    (
        experiment({"metrics": {"guardrails": [{"metric": "errorRate"}, {"metric": "errorRate"}]}}),
        "spec.metrics.guardrails: a metric has more than one guardrail",
    ),
    (experiment({"allocation": {"floor": "5%"}}), "spec.allocation: floor and delta go with mode thompson only"),
    (experiment({"allocation": {"delta": 0.2}}), "spec.allocation: floor and delta go with mode thompson only"),
    (experiment({"stop": {"maxDuration": "0d"}}), "spec.stop.maxDuration: 0s is not more than 0s"),
    (
        experiment({"exposureLog": {"uri": "https://a"}}),
        "spec.exposureLog.uri: https://a does not start with one of file://, pvc://, s3://, gs://",
    ),
]

KEYS: list[tuple[dict[str, Any], str, str]] = [
    (
        deployment({"runtime": {"podLabels": {"a b": "x"}}}),
        'spec.runtime.podLabels: key "a b" is not a label key such as example.com/team',
        NOT_A_LABEL,
    ),
    (
        deployment({"runtime": {"podLabels": {LONG_KEY: "x"}}}),
        "spec.runtime.podLabels: key has 318 characters, more than 317",
        TOO_LONG,
    ),
    (
        deployment({"scheduling": {"nodeSelector": {"-": "x"}}}),
        "spec.scheduling.nodeSelector: key - is not a label key such as example.com/team",
        NOT_A_LABEL,
    ),
    (
        deployment({"scheduling": {"nodeSelector": {LONG_KEY: "x"}}}),
        "spec.scheduling.nodeSelector: key has 318 characters, more than 317",
        TOO_LONG,
    ),
    (
        step(headers={"x y": "true"}),
        'spec.rollout.steps[0].headers: key "x y" is not a header name',
        "a key is not a header name",
    ),
    (
        step(headers={"h" * 129: "true"}),
        "spec.rollout.steps[0].headers: key has 129 characters, more than 128",
        "a key has more than 128 characters",
    ),
    (arm(runtime={"podLabels": {"": "x"}}), "spec.arms[0].runtime.podLabels: key is empty", NOT_A_LABEL),
    (
        arm(runtime={"podLabels": {LONG_KEY: "x"}}),
        "spec.arms[0].runtime.podLabels: key has 318 characters, more than 317",
        TOO_LONG,
    ),
]
"""A schema cannot bound keys, so these are rules there, and shape in the types."""

REPEATED: list[tuple[dict[str, Any], str]] = [
    (
        deployment({"runtime": {"env": [{"name": "A"}, {"name": "B"}, {"name": "A"}]}}),
        "spec.runtime.env[2].name: A is given twice",
    ),
    (
        deployment({"rollout": {"notify": [{"webhook": "https://a", "events": ["paused", "paused"]}]}}),
        "spec.rollout.notify[0].events[1]: paused is given twice",
    ),
    (experiment({"arms": [{"name": "wide"}, {"name": "wide"}]}), "spec.arms[1].name: wide is given twice"),
    (
        experiment({"metrics": {"success": [{"name": "a", "feedback": "b"}, {"name": "a", "feedback": "c"}]}}),
        "spec.metrics.success[1].name: a is given twice",
    ),
]


def ids(cases: list[Any]) -> list[str]:
    return [case[1] for case in cases]


@pytest.mark.parametrize(("obj", "message"), RULES + REPEATED, ids=ids(RULES + REPEATED))
def test_a_broken_rule_is_told_alike_by_both(admissions: Any, obj: dict[str, Any], message: str) -> None:
    assert [str(violation) for violation in violations(obj)] == [message]
    (denial,) = admissions[obj["kind"]].denials(obj)
    assert message in (f"{denial.path}: {denial.message}", denial.message)


@pytest.mark.parametrize(("obj", "message", "told"), KEYS, ids=ids(KEYS))
def test_a_bad_key_is_found_by_both(admissions: Any, obj: dict[str, Any], message: str, told: str) -> None:
    assert message in [str(violation) for violation in violations(obj)]
    assert told in [denial.message for denial in admissions[obj["kind"]].denials(obj)]


def test_an_experiment_cannot_move_to_another_deployment(admissions: Any) -> None:
    old, new = experiment({}), experiment({"modelDeployment": "letters"})
    message = "cannot be changed; create another Experiment"
    kind = RESOURCES["Experiment"]
    assert [str(found) for found in refused_changes(kind.parse(old), kind.parse(new))] == [
        f"spec.modelDeployment: {message}"
    ]
    assert [(found.path, found.message) for found in admissions["Experiment"].denials(new, old)] == [
        ("spec.modelDeployment", message)
    ]
    assert admissions["Experiment"].denials(old, old) == []
    assert admissions["Experiment"].denials(new) == []
    assert refused_changes(kind.parse(old), kind.parse(old)) == []


def test_every_rule_has_an_object_that_trips_only_it(documented: Any) -> None:
    tripped: set[tuple[str, tuple[str, str]]] = set()
    for obj, *_ in [*RULES, *KEYS]:
        denials = documented[obj["kind"]].denials(obj)
        if len(denials) == 1:
            tripped.add((obj["kind"], denials[0].rule))
    transition = ("Experiment", ("spec.modelDeployment", "self == oldSelf"))
    wanted = {(kind, rule) for kind, admission in documented.items() for rule in admission.rules()}
    assert wanted - tripped == {transition}
    assert len(wanted) > 50


GOOD: list[dict[str, Any]] = [
    deployment({}),
    deployment({}, name="a" * 40),
    deployment(
        {"model": {"uri": "oci://registry/models:v1", "digest": DIGEST, "format": "torchscript", "trustCode": True}}
    ),
    deployment(
        {
            "resources": {
                "cpu": 2,
                "memory": 1073741824,
                "gpu": {"count": 8, "memory": "40Gi", "type": ["h100", "a100-80gb"]},
            }
        }
    ),
    sharing(mode="mig", profile="1g.10gb"),
    sharing(mode="mig", profile="1g.10gb.me"),
    sharing(mode="fraction", fraction="0.5"),
    sharing(mode="timeSliced"),
    deployment({"autoscaling": {"minReplicas": 0, "maxReplicas": 1000, "targetOngoingRequests": 32}}),
    deployment(
        {
            "rollout": {
                "steps": [
                    {"weight": 1},
                    {"pause": {"duration": "0s"}},
                    {"weight": 2, "gate": "manual"},
                    {"weight": 100},
                ]
            }
        }
    ),
    deployment(
        {
            "rollout": {
                "steps": [
                    {"headers": {"x-canary": "true"}},
                    {"scale": {"replicas": 2}},
                    {"shadow": {"percent": 20}},
                    {"webhook": {"url": "http://a", "timeout": "1h"}},
                ]
            }
        }
    ),
    deployment({"rollout": {"unit": {"header": "x-user-id", "salt": "again"}, "strategy": "recreate"}}),
    guardrail(metric="errorRate", margin="250%", floor="0.5%", max="2%"),
    guardrail(metric="latencyP99", max="500ms"),
    guardrail(**PROMETHEUS),
    deployment(
        {
            "rollout": {
                "bake": {},
                "keepPrevious": {"for": "1h30m"},
                "rollbackWindow": {},
                "notify": [{"webhook": "http://a/b"}],
            }
        }
    ),
    deployment(
        {
            "runtime": {
                "podLabels": {"team": "vision", "example.com/tier": ""},
                "userConfig": {"a": None, "b": [1, {"c": 2}]},
            }
        }
    ),
    deployment(
        {
            "scheduling": {
                "tolerations": [
                    {"key": "nvidia.com/gpu", "operator": "Exists"},
                    {"key": "a", "effect": "NoExecute", "tolerationSeconds": 0},
                ]
            }
        }
    ),
    deployment(
        {
            "endpoint": {
                "host": "digits.example.com",
                "rateLimit": {"total": "100/s"},
                "gateway": {"name": "g", "namespace": "infra", "sectionName": "https"},
            }
        }
    ),
    deployment({"baseline": {"uri": "s3://models/v7", "digest": DIGEST}}),
    deployment({"paused": None, "model": {"digest": None}, "unheardOf": {"a": 1}}),
    experiment({}),
    experiment({"weights": {"control": 60, "wide": 40}, "exposure": "100%", "alpha": 0.5, "stopped": True}),
    experiment({"allocation": {"mode": "thompson", "floor": "5%", "delta": 0.2}, "stop": {"maxDuration": "14d"}}),
    arm(
        model={"uri": "hf://org/model", "format": "torchscript", "trustCode": True},
        runtime={},
        resources={"cpu": "500m"},
    ),
    experiment(
        {
            "metrics": {
                "success": [{"name": "conversion", "feedback": "converted", "minimumEffect": "2%"}],
                "guardrails": [{"metric": "errorRate", "floor": "0.5%"}],
            }
        }
    ),
]


@pytest.mark.parametrize("obj", GOOD, ids=range(len(GOOD)))
def test_good_objects_pass_both(admissions: Any, obj: dict[str, Any]) -> None:
    assert violations(obj) == []
    assert admissions[obj["kind"]].denials(obj) == []


@pytest.mark.parametrize("obj", GOOD, ids=range(len(GOOD)))
def test_the_operator_and_the_api_server_fill_in_the_same_defaults(admissions: Any, obj: dict[str, Any]) -> None:
    kind = RESOURCES[obj["kind"]]
    stored = admissions[obj["kind"]].stored(obj)
    assert kind.parse(stored).to_json()["spec"] == kind.parse(obj).to_json()["spec"]
    assert stored["status"] == {"observedGeneration": -1}
