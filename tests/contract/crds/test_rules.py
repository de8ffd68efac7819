"""What bad input is told: one object per violation, by the operator and by the API server alike."""

import copy
from typing import Any, get_args, get_type_hints

import pytest

from sundog_operator.api import RESOURCE_TYPES, PlanGuardrail, find_immutable_changes, find_violations

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


EDGE = {"goal": "decrease"}
NAME_OF_FEEDBACK = "name without feedback, or feedback without name; expected both or none, because a metric of the edge has its own name"
BY_USER = {"unit": {"header": "x-user-id"}}


def experiment(spec: dict[str, Any], name: str = "wide-or-narrow") -> dict[str, Any]:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": name, "namespace": "vision"},
        "spec": merged({"modelDeployment": "digits", "arms": [{"name": "wide"}]}, spec),
    }


def step(**fields: Any) -> dict[str, Any]:
    after = [] if "weight" in fields else [{"weight": 50}]
    return deployment({"rollout": {"steps": [fields, *after]}})


def steps(*given: dict[str, Any]) -> dict[str, Any]:
    return deployment({"rollout": {"steps": list(given)}})


def shadowing(**fields: Any) -> dict[str, Any]:
    return deployment({"rollout": {"strategy": "shadow", **fields}})


def agreement(**fields: Any) -> dict[str, Any]:
    return step(shadow={"compare": {"agreement": {"min": 0.9, **fields}}})


AGREEMENT = "spec.rollout.steps[0].shadow.compare.agreement"


OVERRIDE = {"header": "x-pick", "value": "canary", "arm": "canary", "callers": {"networks": ["10.0.0.0/8"]}}


def overriding(**fields: Any) -> dict[str, Any]:
    return deployment({"endpoint": {"overrides": [OVERRIDE | fields]}})


def cors(*origins: str, **fields: Any) -> dict[str, Any]:
    return deployment({"endpoint": {"cors": {"allowedOrigins": list(origins), **fields}}})


def guardrail(**fields: Any) -> dict[str, Any]:
    return deployment({"rollout": {"guardrails": [fields]}})


_POD = "expected none, because pods with several models have only the administrator's."
_OTHERS = "expected none, because the other models of the pod"
_OWN = "Otherwise use runtime.placement: dedicated"
SHARED: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "resources.gpu.count",
        {"resources": {"gpu": {"count": 1}}},
        "1",
        f"expected 0, because shared pods have no devices. {_OWN}",
    ),
    (
        "model.uri",
        {"model": {"uri": "pvc://models/digits"}},
        "pvc://",
        f"expected another scheme, because shared pods mount no claim. {_OWN}",
    ),
    (
        "model.credentials.secretName",
        {"model": {"uri": "s3://models/d", "credentials": {"secretName": "s"}}},
        "set",
        f"{_OTHERS} could read the Secret. {_OWN}",
    ),
    (
        "model.credentials.serviceAccountName",
        {"model": {"uri": "s3://models/d", "credentials": {"serviceAccountName": "s"}}},
        "set",
        f"{_OTHERS} could act as the ServiceAccount. {_OWN}",
    ),
    (
        "runtime.env",
        {"runtime": {"placement": "shared", "env": [{"name": "A", "value": "b"}]}},
        "set",
        f"{_OTHERS} would have the variables too. {_OWN}",
    ),
    ("runtime.podLabels", {"runtime": {"placement": "shared", "podLabels": {"a": "b"}}}, "set", f"{_POD} {_OWN}"),
    ("scheduling.queue", {"scheduling": {"queue": "team-a"}}, "set", f"{_POD} {_OWN}"),
    (
        "scheduling.spot",
        {"scheduling": {"spot": "prefer"}},
        "prefer",
        f"expected never, because pods with several models have only the administrator's tolerations. {_OWN}",
    ),
    ("scheduling.priorityClassName", {"scheduling": {"priorityClassName": "high"}}, "set", f"{_POD} {_OWN}"),
    ("scheduling.runtimeClassName", {"scheduling": {"runtimeClassName": "gvisor"}}, "set", f"{_POD} {_OWN}"),
    ("scheduling.nodeSelector", {"scheduling": {"nodeSelector": {"a": "b"}}}, "set", f"{_POD} {_OWN}"),
    ("scheduling.tolerations", {"scheduling": {"tolerations": [{"key": "a"}]}}, "set", f"{_POD} {_OWN}"),
]
"""Fields that need pods of a revision's own, with a spec that has one, what is found and what is expected."""


def sharing(*, count: int = 1, **fields: Any) -> dict[str, Any]:
    return deployment({"resources": {"gpu": {"count": count, "sharing": fields}}})


def over_pods(format_: str = "python", *, count: int = 1, **spec: Any) -> dict[str, Any]:
    gpu = {"count": count, "topology": {"nodes": 2}, **spec.pop("gpu", {})}
    return deployment({"model": {"uri": "file:///m", "format": format_}, "resources": {"gpu": gpu}, **spec})


def arm(**fields: Any) -> dict[str, Any]:
    return experiment({"arms": [{"name": "wide", **fields}]})


def thompson(floor: str, *arms: str) -> dict[str, Any]:
    success = [{"name": "conversion", "feedback": "converted"}]
    allocation = {"mode": "thompson", "floor": floor}
    named = [{"name": name} for name in arms or ("wide",)]
    return experiment({"allocation": allocation, "metrics": {"success": success}, "arms": named})


def arm_sharing(*, count: int = 1, **fields: Any) -> dict[str, Any]:
    return arm(resources={"gpu": {"count": count, "sharing": fields}})


PLACEHOLDER = (
    "contains a $, which nothing replaces here; expected none. The sundog command replaces MANIFEST_DIR in files"
)
ESCAPES = "contains %, ?, # or a backslash; expected a URI without escapes, query or fragment"
WEB_FORM = "; expected the form https://host/path/file, of letters, digits and . _ ~ + = , : @ - /"
CAN_CHANGE = "can change; expected"
COMMIT = "@ and a commit of 40 hex digits, or model.digest"
PINNED = "@sha256: and 64 hex digits, or model.digest"
OTHER = "sha256:" + "b" * 64
SCHEMES = "; expected a URI that starts with one of file://, pvc://, s3://, gs://, https://, hf://, oci://"
ONE_STEP = "expected exactly one of weight, pause, headers, scale, analysis, webhook and shadow"
VERIFIED = {"auth": {"jwt": {"jwksSecretName": "issuer"}}}
ONE_UNIT = "expected at most one of header, cookie, jsonPath, jwtClaim and request"
DEVICES = (
    "NVIDIA_VISIBLE_DEVICES, NVIDIA_IMEX_CHANNELS, AMD_VISIBLE_DEVICES, HABANA_VISIBLE_DEVICES may give a container all devices of its"
    " node; expected value void or none for these, and devices in resources.gpu"
)
OURS = "is reserved for the operator; expected no name that begins with RAY_, SUNDOG_, KUBERAY_"
RESERVED = "reserved key; expected none that begins with serving.sundog.dev/, app.kubernetes.io/, ray.io/"
TRUST = "archives can run code when they are loaded; expected trustCode: true to accept that"
NO_EXPOSURE = "0% leaves every arm without units; expected more. Set stopped: true to end an experiment"
NO_PRODUCT_IN_WINDOW = (
    "window beside denominator or covariate; expected it without these, because edges keep no products of totals within a"
    " window"
)
NO_PRODUCT_AFTER = (
    "after beside denominator or covariate; expected it with type: rate, or a mean without covariate, because edges keep no"
    " products of totals of a part of the time"
)
AFTER_ALONE = (
    "after without window; expected window too, such as 7d, because a unit counts once its time to come back has passed"
)
NO_EFFECT = (
    "0% cannot be distinguished from no effect; expected a larger effect. Remove the field for the default of about 5 %"
)
OF_A_ROLLOUT = "canary is the name of a rollout's own arm; expected another name"
MORE_THAN_ALL = "for each arm, including control, is more than 100% together; expected less"
LONG_KEY = "k" * 318
TOO_LONG = "key too long; expected at most 317 characters"
NOT_A_LABEL = "invalid key; expected a label key such as example.com/team"
AT_ONCE = (
    "all traffic would follow at once, because {}; expected a step with a weight below 100, or one that"
    " waits for promote: gate: manual or a pause without duration"
)
AFTER_COPIES = (
    "all traffic would follow the copies at once; expected a later step with a weight below 100 or a"
    " pause without duration. Or use strategy: shadow, which waits for promote"
)
KEPT = {"name": "kept", "feedback": "accepted"}
PROMETHEUS = {"name": "oom", "prometheus": {"query": "up"}, "threshold": {"max": 0}}


def at_every_uri(uri: str, message: str, digest: str = "") -> list[tuple[dict[str, Any], str]]:
    """The same mistake wherever a model's URI is written; a digest keeps the rule about pins out of it."""
    return [
        (deployment({"model": {"uri": uri, "digest": digest}}), f"spec.model.uri: {message}"),
        (deployment({"baseline": {"uri": uri}}), f"spec.baseline.uri: {message}"),
        (arm(model={"uri": uri}), f"spec.arms[0].model.uri: {message}"),
    ]


RULES: list[tuple[dict[str, Any], str]] = [
    (deployment({}, name="a" * 41), f"metadata.name: {'a' * 41} is too long; expected at most 40 characters"),
    (
        deployment({}, name="8b-llama"),
        "metadata.name: 8b-llama is no name of a Service; expected a DNS label that starts with a letter",
    ),
    (
        deployment({}, name="a.b"),
        "metadata.name: a.b is no name of a Service; expected a DNS label that starts with a letter",
    ),
    *at_every_uri("file:///${MANIFEST_DIR}/v1", PLACEHOLDER),
    *at_every_uri(
        "s3://key:hidden@bucket/v1", "contains user information before @; expected a URI without credentials"
    ),
    *at_every_uri("file:///v%31", ESCAPES),
    *at_every_uri("file:///models/../v1", "has an empty, . or .. segment in its path; expected only names"),
    *at_every_uri("file://host/v1", "file://host/v1; expected the form file:///path"),
    *at_every_uri("pvc://Claim/v1", "pvc://Claim/v1; expected the form pvc://claim/path"),
    *at_every_uri("https://example.com/v1/", f"https://example.com/v1/{WEB_FORM}"),
    *at_every_uri("s3://b/v1", "s3://b/v1; expected the form s3://bucket/key"),
    *at_every_uri("gs://bucket", "gs://bucket; expected the form gs://bucket/key"),
    *at_every_uri("hf://a/b/c", "hf://a/b/c; expected the form hf://owner/name@commit/path", DIGEST),
    *at_every_uri("oci://r/A", "oci://r/A; expected the form oci://registry/repository@sha256:<64 hex digits>", DIGEST),
    (deployment({"model": {"uri": "hf://a/b@main"}}), f"spec.model.uri: hf://a/b@main {CAN_CHANGE} {COMMIT}"),
    (deployment({"model": {"uri": "oci://r/a:v1"}}), f"spec.model.uri: oci://r/a:v1 {CAN_CHANGE} {PINNED}"),
    (
        deployment({"model": {"uri": f"oci://r/a@{OTHER}", "digest": DIGEST}}),
        f"spec.model.uri: oci://r/a@{OTHER} has another digest than {DIGEST}; expected the same",
    ),
    (deployment({"model": {"uri": "ftp://models/v1"}}), f"spec.model.uri: ftp://models/v1{SCHEMES}"),
    (deployment({"model": {"uri": "s3://"}}), f"spec.model.uri: s3://{SCHEMES}"),
    (deployment({"model": {"uri": "/models/v1"}}), f"spec.model.uri: /models/v1{SCHEMES}"),
    (deployment({"model": {"format": "torchscript"}}), f"spec.model.format: torchscript {TRUST}"),
    (deployment({"model": {"format": "exported"}}), f"spec.model.format: exported {TRUST}"),
    (
        deployment(
            {"runtime": {"env": [{"name": "A", "value": "", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}}
        ),
        "spec.runtime.env[0]: expected at most one of value and valueFrom",
    ),
    (
        deployment({"runtime": {"env": [{"name": "A", "valueFrom": {}}]}}),
        "spec.runtime.env[0].valueFrom: expected exactly one of secretKeyRef and configMapKeyRef",
    ),
    (deployment({"runtime": {"env": [{"name": "RAY_ADDRESS"}]}}), f"spec.runtime.env[0].name: RAY_ADDRESS {OURS}"),
    (deployment({"runtime": {"env": [{"name": "SUNDOG_X"}]}}), f"spec.runtime.env[0].name: SUNDOG_X {OURS}"),
    (
        deployment({"runtime": {"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}}),
        f"spec.runtime.env[0]: {DEVICES}",
    ),
    (
        deployment({"resources": {"gpu": {"count": 1, "vendor": "amd", "allocation": "dra"}}}),
        "spec.resources.gpu.allocation: dra with vendor amd; expected devicePlugin, because only claims to devices of nvidia"
        " are known",
    ),
    (
        deployment({"resources": {"gpu": {"count": 1, "allocation": "dra", "sharing": {"mode": "timeSliced"}}}}),
        "spec.resources.gpu.allocation: dra with sharing mode timeSliced; expected devicePlugin, because no claim shares a"
        " device in time",
    ),
    (deployment({"runtime": {"podLabels": {"ray.io/cluster": "x"}}}), f"spec.runtime.podLabels: {RESERVED}"),
    *(
        (
            deployment({"runtime": {"podLabels": {label: "team-a"}}}),
            "spec.runtime.podLabels: queue of KAI or Volcano, which place pods by a scheduler of their own; expected"
            " scheduling.queue, a LocalQueue of Kueue",
        )
        for label in ("kai.scheduler/queue", "volcano.sh/queue-name")
    ),
    (deployment({"runtime": {"warmup": {"timeout": "0s"}}}), "spec.runtime.warmup.timeout: 0s; expected more than 0s"),
    (sharing(mode="mig"), "spec.resources.gpu.sharing.profile: none with mode mig; expected a profile such as 1g.10gb"),
    (
        sharing(profile="1g.10gb"),
        "spec.resources.gpu.sharing.profile: 1g.10gb with mode exclusive; expected a profile only with mode mig",
    ),
    (
        sharing(mode="fraction"),
        "spec.resources.gpu.sharing.fraction: none with mode fraction; expected a fraction such as '0.5'",
    ),
    (
        sharing(mode="timeSliced", fraction="0.5"),
        "spec.resources.gpu.sharing.fraction: 0.5 with mode timeSliced; expected a fraction only with mode fraction",
    ),
    (
        sharing(mode="mps"),
        "spec.resources.gpu.sharing.mode: mps is not supported, because one client's fault ends all clients of its device;"
        " expected exclusive, mig, fraction or timeSliced",
    ),
    (
        deployment({"resources": {"gpu": {"count": 1, "vendor": "tpu"}}}),
        "spec.resources.gpu.vendor: tpu is not supported yet; expected nvidia, amd, intel, gaudi or neuron",
    ),
    (
        deployment({"resources": {"gpu": {"count": 1, "topology": {"interconnect": "nvlink"}}}}),
        "spec.resources.gpu.topology.interconnect: nvlink is not supported yet; expected any",
    ),
    (
        deployment({"resources": {"gpu": {"count": 1, "vendor": "neuron", "memory": "16Gi"}}}),
        "spec.resources.gpu.memory: set with vendor neuron; expected none, because a device is a NeuronCore, a part of a chip."
        " Name the chip in type",
    ),
    (
        deployment(
            {
                "resources": {"gpu": {"count": 1, "allocation": "dra", "type": ["h100", "l4"]}},
                "scheduling": {"queue": "team-a"},
            }
        ),
        "spec.resources.gpu.type: several with allocation dra and scheduling.queue team-a; expected one, because Kueue admits"
        " no claim with alternatives (firstAvailable). Otherwise leave out the queue, or use allocation: devicePlugin",
    ),
    (
        sharing(mode="fraction", fraction="1.5"),
        "spec.resources.gpu.sharing.fraction: 1.5 is out of range; expected at least 0.01 and less than 1",
    ),
    (
        sharing(mode="fraction", fraction="1"),
        "spec.resources.gpu.sharing.fraction: 1 is out of range; expected at least 0.01 and less than 1",
    ),
    (
        sharing(mode="fraction", fraction="0.0"),
        "spec.resources.gpu.sharing.fraction: 0.0 is out of range; expected at least 0.01 and less than 1",
    ),
    (
        sharing(mode="mig", profile="1g.10gb", count=2),
        "spec.resources.gpu.count: 2 with sharing mode mig; expected 1",
    ),
    (
        sharing(mode="fraction", fraction="0.009"),
        "spec.resources.gpu.sharing.fraction: 0.009 is out of range; expected at least 0.01 and less than 1",
    ),
    (
        deployment(
            {
                "resources": {"gpu": {"count": 1, "sharing": {"mode": "fraction", "fraction": "0.5"}}},
                "rollout": {"capacity": "inPlace"},
            }
        ),
        "spec.rollout.capacity: inPlace with gpu.sharing.mode fraction; expected auto or surge, because a GPU is free only"
        " once all replicas on it are gone",
    ),
    (
        over_pods(count=0),
        "spec.resources.gpu.topology.nodes: 2 with count 0; expected 1, or a count of 1 or more",
    ),
    (
        over_pods(gpu={"sharing": {"mode": "fraction", "fraction": "0.5"}}),
        "spec.resources.gpu.topology.nodes: 2 with sharing mode fraction; expected 1, or mode exclusive",
    ),
    *(
        (
            over_pods(format_),
            f"spec.model.format: {format_} with gpu.topology.nodes 2; expected python, because only a predictor class can use"
            " the devices of several pods",
        )
        for format_ in ("auto", "torch")
    ),
    (
        over_pods(scheduling={"queue": "team-a"}),
        "spec.scheduling.queue: team-a with gpu.topology.nodes 2; expected none, because Kueue admits each pod alone, and a"
        " part of a replica would hold quota",
    ),
    *(
        (
            deployment({"runtime": {"placement": "shared"}, **spec}),
            f"spec.{field}: {found} with runtime.placement: shared; {wanted}",
        )
        for field, spec, found, wanted in SHARED
    ),
    (
        deployment({"resources": {"gpu": {"memory": "40Gi"}}}),
        "spec.resources.gpu.memory: set with count 0; expected none, or a count of 1 or more",
    ),
    (
        deployment({"resources": {"gpu": {"memory": 42949672960}}}),
        "spec.resources.gpu.memory: set with count 0; expected none, or a count of 1 or more",
    ),
    (
        deployment(
            {"resources": {"gpu": {"count": 1, "memory": "9Gi", "sharing": {"mode": "mig", "profile": "1g.10gb"}}}}
        ),
        "spec.resources.gpu.memory: set with sharing mode mig; expected none, because the profile names the memory",
    ),
    (
        deployment({"resources": {"gpu": {"count": 1, "vendor": "amd", "sharing": {"mode": "timeSliced"}}}}),
        "spec.resources.gpu.vendor: amd with sharing mode timeSliced; expected nvidia, or mode exclusive",
    ),
    (
        sharing(mode="timeSliced", count=0),
        "spec.resources.gpu.count: 0 with sharing mode timeSliced; expected 1",
    ),
    (
        deployment({"autoscaling": {"minReplicas": 5}}),
        "spec.autoscaling.minReplicas: 5 is greater than maxReplicas; expected at most 4",
    ),
    (
        deployment({"autoscaling": {"targetOngoingRequests": 33}}),
        "spec.autoscaling.targetOngoingRequests: 33 is more than half of runtime.maxOngoingRequests; expected"
        " at most half of 64",
    ),
    (
        deployment({"autoscaling": {}, "runtime": {"maxOngoingRequests": 1}}),
        "spec.autoscaling.targetOngoingRequests: 1 is more than half of runtime.maxOngoingRequests; expected"
        " at most half of 1",
    ),
    (
        deployment({"autoscaling": {}, "runtime": {"maxOngoingRequests": 3, "batching": {"maxSize": 2}}}),
        "spec.autoscaling.targetOngoingRequests: 2 is more than half of runtime.maxOngoingRequests; expected"
        " at most half of 3",
    ),
    (
        deployment({"autoscaling": {"downscaleFactor": "0%"}}),
        "spec.autoscaling.downscaleFactor: 0% never changes the replicas; expected more than 0%",
    ),
    (
        deployment({"autoscaling": {"upscaleFactor": "0.0%"}}),
        "spec.autoscaling.upscaleFactor: 0.0% never changes the replicas; expected more than 0%",
    ),
    (
        deployment({"autoscaling": {"coldStartTimeout": "0m"}}),
        "spec.autoscaling.coldStartTimeout: 0s; expected more than 0s",
    ),
    (
        deployment({"autoscaling": {"coldStartTimeout": "24h"}}),
        "spec.autoscaling.coldStartTimeout: too long; expected less than a day",
    ),
    (deployment({"rollout": {"unit": {"header": "x-user", "request": {}}}}), f"spec.rollout.unit: {ONE_UNIT}"),
    (
        deployment({"rollout": {"unit": {"cookie": "a", "jwtClaim": "sub"}}, "endpoint": VERIFIED}),
        f"spec.rollout.unit: {ONE_UNIT}",
    ),
    (
        deployment({"rollout": {"unit": {"jwtClaim": "sub"}}}),
        "spec.rollout.unit.jwtClaim: sub without endpoint.auth.jwt.jwksSecretName; expected that Secret,"
        " because the claim is read from verified tokens",
    ),
    (deployment({"rollout": {"progressDeadline": "0s"}}), "spec.rollout.progressDeadline: 0s; expected more than 0s"),
    (
        deployment({"rollout": {"progressDeadline": "8d"}}),
        "spec.rollout.progressDeadline: 8d; expected at most 7d",
    ),
    (
        deployment({"rollout": {"progressDeadline": "168h1us"}}),
        "spec.rollout.progressDeadline: 168h1us; expected at most 7d",
    ),
    *(
        (
            deployment({"rollout": {"windows": [{"cron": f"{minutes} 9 * * *", "duration": "1m"}]}}),
            f"spec.rollout.windows[0].cron: {minutes} 9 * * * may open more than four times an hour; expected at most four"
            " minutes in the first field, such as 0 or 0,30 or */15, and a longer duration",
        )
        for minutes in ("*", "*/2", "*/14", "0-30", "5/10", "0,1,2,3,4", "0,30-40")
    ),
    (
        deployment({"rollout": {"windows": [{"cron": "0 9 * * 1-5", "duration": "0h"}]}}),
        "spec.rollout.windows[0].duration: 0s; expected more than 0s",
    ),
    (
        deployment({"rollout": {"bake": {"duration": "0s"}}}),
        "spec.rollout.bake.duration: 0s; expected more than 0s",
    ),
    (
        deployment({"rollout": {"bake": {"holdback": "5%"}, "steps": [{"weight": 25}, {"pause": {}}, {"weight": 95}]}}),
        "spec.rollout.steps: weight leaves stable no more than bake.holdback; expected less. Remove that"
        " step, because the bake follows the last one",
    ),
    (
        deployment({"rollout": {"capacity": "inPlace"}, "autoscaling": {}}),
        "spec.rollout.capacity: inPlace with autoscaling; expected a fixed number of replicas. Otherwise use capacity: auto",
    ),
    (
        deployment({"rollout": {"capacity": "inPlace", "strategy": "recreate"}}),
        "spec.rollout.capacity: inPlace moves traffic in parts; expected strategy: canary. Otherwise use capacity: auto",
    ),
    (
        deployment({"rollout": {"capacity": "inPlace", "steps": [{"scale": {"replicas": 2}}, {"weight": 50}]}}),
        "spec.rollout.steps: scale or shadow step with capacity: inPlace; expected none, because replicas"
        " follow the weights",
    ),
    (
        deployment({"rollout": {"capacity": "inPlace", "steps": [{"shadow": {}}, {"weight": 50}]}}),
        "spec.rollout.steps: scale or shadow step with capacity: inPlace; expected none, because replicas"
        " follow the weights",
    ),
    (
        deployment({"rollout": {"capacity": "inPlace", "bake": {}}}),
        "spec.rollout.bake: bake with capacity: inPlace; expected none, because one replica of stable is too"
        " few for a rollback. Remove it",
    ),
    (
        deployment({"rollout": {"capacity": "inPlace", "keepPrevious": {}}}),
        "spec.rollout.keepPrevious: keepPrevious with capacity: inPlace; expected none, because the new"
        " revision needs those accelerators. Remove it",
    ),
    (
        deployment({"rollout": {"capacity": "inPlace", "windows": [{"cron": "0 9 * * 1-5", "duration": "8h"}]}}),
        "spec.rollout.windows: windows with capacity: inPlace; expected none, because stable would lack a"
        " replica until a window opens. Remove them",
    ),
    (
        deployment({"rollout": {"steps": [{"weight": 20}, {"weight": 10}]}}),
        "spec.rollout.steps: weights do not rise: step 2 has 10, but step 1 has 20; expected each weight"
        " above those before it",
    ),
    (
        deployment({"rollout": {"steps": [{"weight": 20}, {"pause": {}}, {"weight": 20}]}}),
        "spec.rollout.steps: weights do not rise: step 3 has 20, but step 1 has 20; expected each weight"
        " above those before it",
    ),
    (
        steps({"weight": 10}, {"weight": 30}, {"scale": {"replicas": 2}}, {"weight": 20}, {"weight": 5}),
        "spec.rollout.steps: weights do not rise: step 4 has 20, but step 2 has 30; expected each weight"
        " above those before it",
    ),
    (step(), f"spec.rollout.steps[0]: {ONE_STEP}"),
    (step(weight=5, pause={}), f"spec.rollout.steps[0]: {ONE_STEP}"),
    (step(scale={"replicas": 2}, shadow={}), f"spec.rollout.steps[0]: {ONE_STEP}"),
    (step(scale={}), "spec.rollout.steps[0].scale: expected exactly one of replicas and percent"),
    (
        step(pause={}, gate="time"),
        "spec.rollout.steps[0]: gate, minDuration or maxDuration without weight; expected them only with weight",
    ),
    (
        step(pause={}, minDuration="5m"),
        "spec.rollout.steps[0]: gate, minDuration or maxDuration without weight; expected them only with weight",
    ),
    (
        step(pause={}, maxDuration="5m"),
        "spec.rollout.steps[0]: gate, minDuration or maxDuration without weight; expected them only with weight",
    ),
    (step(shadow={"maxDuration": "0s"}), "spec.rollout.steps[0].shadow.maxDuration: 0s; expected more than 0s"),
    (
        step(shadow={"compare": {"agreement": {"min": 0.9, "by": "argmax", "rtol": 0.1}}}),
        "spec.rollout.steps[0].shadow.compare.agreement: atol or rtol without by: tolerance; expected them"
        " only with it",
    ),
    (
        step(shadow={"compare": {"latencyP99": {"margin": "0%"}}}),
        "spec.rollout.steps[0].shadow.compare.latencyP99.margin: 0% lets no canary pass that equals stable;"
        " expected more than 0%",
    ),
    (agreement(by="custom"), f"{AGREEMENT}: expected parts with by: custom, and only with it"),
    (agreement(parts=[{"path": "$.a"}]), f"{AGREEMENT}: expected parts with by: custom, and only with it"),
    (
        agreement(by="custom", path="$.a", parts=[{"path": "$.a"}]),
        f"{AGREEMENT}: path with by: custom; expected none, because each of parts has its own path",
    ),
    (
        agreement(by="custom", parts=[{"path": "$.a", "by": "argmax", "rtol": 0.1}]),
        f"{AGREEMENT}.parts[0]: atol or rtol without by: tolerance; expected them only with it",
    ),
    (
        shadowing(steps=[{"shadow": {}}, {"weight": 25}]),
        "spec.rollout.steps: step with weight or headers; expected none with strategy: shadow, because the"
        " new revision gets no traffic",
    ),
    (
        shadowing(steps=[{"pause": {}}]),
        "spec.rollout.steps: no shadow step; expected one with strategy: shadow. Without steps every request is copied",
    ),
    *(
        (steps(*given), f"spec.rollout.steps: {AT_ONCE.format(found)}")
        for given, found in (
            ([{"headers": {"x-canary": "true"}}], "no step has a weight"),
            ([{"scale": {"replicas": 2}}], "no step has a weight"),
            ([{"pause": {"duration": "1h"}}, {"webhook": {"url": "https://a"}}], "no step has a weight"),
            ([{"weight": 100}], "step 1 has weight 100"),
            ([{"scale": {"replicas": 2}}, {"weight": 100, "gate": "time"}], "step 2 has weight 100"),
        )
    ),
    (steps({"shadow": {}}), f"spec.rollout.steps: {AFTER_COPIES}"),
    (steps({"shadow": {}}, {"scale": {"percent": 100}}, {"weight": 100}), f"spec.rollout.steps: {AFTER_COPIES}"),
    (
        shadowing(guardrails=[{"metric": "errorRate"}]),
        "spec.rollout.guardrails: guardrails with strategy: shadow and no bake; expected none, because the"
        " new revision has no traffic. Use compare of the shadow step",
    ),
    (
        deployment({"rollout": {"strategy": "recreate", "bake": {}}}),
        "spec.rollout.bake: bake with strategy: recreate; expected none, because all traffic moves at once"
        " and stable keeps no share. Remove it, or use strategy: canary",
    ),
    *(
        (step(weight=5, **given), f"spec.rollout.steps[0].minDuration: {told}")
        for given, told in (
            ({"minDuration": "2h", "maxDuration": "119m"}, "2h is greater than maxDuration; expected at most 119m"),
            ({"minDuration": "1d", "maxDuration": "86399s"}, "1d is greater than maxDuration; expected at most 86399s"),
            (
                {"minDuration": "3d", "maxDuration": "2d", "gate": "evidence"},
                "3d is greater than maxDuration; expected at most 2d",
            ),
            ({"maxDuration": "90s"}, "5m is greater than maxDuration; expected at most 90s"),
            ({"minDuration": "25h"}, "25h is greater than maxDuration; expected at most 1d"),
        )
    ),
    (step(weight=5, maxDuration="0s"), "spec.rollout.steps[0].maxDuration: 0s; expected more than 0s"),
    (
        step(analysis={**PROMETHEUS, "prometheus": {"query": "up", "interval": "9s"}}),
        "spec.rollout.steps[0].analysis.prometheus.interval: not in range; expected 10s to 1h",
    ),
    (
        step(analysis={**PROMETHEUS, "prometheus": {"query": "up", "interval": "1d"}}),
        "spec.rollout.steps[0].analysis.prometheus.interval: not in range; expected 10s to 1h",
    ),
    (
        guardrail(**{**PROMETHEUS, "prometheus": {"query": "up", "interval": "61m"}}),
        "spec.rollout.guardrails[0].prometheus.interval: not in range; expected 10s to 1h",
    ),
    (
        step(analysis={**PROMETHEUS, "threshold": {}}),
        "spec.rollout.steps[0].analysis.threshold: expected min, max or both",
    ),
    (
        step(analysis={**PROMETHEUS, "threshold": {"min": 2, "max": 1}}),
        "spec.rollout.steps[0].analysis.threshold: min is greater than max; expected min to be at most max",
    ),
    (
        deployment({"rollout": {"guardrails": [PROMETHEUS, PROMETHEUS]}}),
        "spec.rollout.guardrails: two guardrails with the same name; expected unique names",
    ),
    (
        step(webhook={"url": "https://a", "timeout": "0s"}),
        "spec.rollout.steps[0].webhook.timeout: 0s; expected more than 0s",
    ),
    (
        step(webhook={"url": "https://a", "timeout": "1h0m1s"}),
        "spec.rollout.steps[0].webhook.timeout: too long; expected at most 1h",
    ),
    (
        step(webhook={"url": "https://a", "timeout": "1d"}),
        "spec.rollout.steps[0].webhook.timeout: too long; expected at most 1h",
    ),
    (guardrail(), "spec.rollout.guardrails[0]: expected exactly one of metric, feedback and prometheus"),
    (
        guardrail(metric="errorRate", **PROMETHEUS),
        "spec.rollout.guardrails[0]: expected exactly one of metric, feedback and prometheus",
    ),
    (
        guardrail(prometheus={"query": "up"}, name="oom"),
        "spec.rollout.guardrails[0]: prometheus without name or threshold; expected both",
    ),
    (
        guardrail(metric="errorRate", name="oom"),
        "spec.rollout.guardrails[0]: name without feedback or prometheus; expected it only with one of them",
    ),
    (
        guardrail(metric="errorRate", enabled=False),
        "spec.rollout.guardrails[0]: enabled: false on another guardrail; expected only on a latency without"
        " margin, floor and max",
    ),
    (
        guardrail(metric="latencyP99", margin="5%", enabled=False),
        "spec.rollout.guardrails[0]: enabled: false on another guardrail; expected only on a latency without"
        " margin, floor and max",
    ),
    (
        guardrail(margin="5%", **PROMETHEUS),
        "spec.rollout.guardrails[0]: margin with prometheus; expected it only with metric or feedback, because"
        " threshold is absolute",
    ),
    (
        guardrail(metric="errorRate", max="500ms"),
        "spec.rollout.guardrails[0].max: unit does not fit the metric; expected a percentage for errorRate, a"
        " duration for a latency",
    ),
    (
        guardrail(metric="latencyP99", max="2%"),
        "spec.rollout.guardrails[0].max: unit does not fit the metric; expected a percentage for errorRate, a"
        " duration for a latency",
    ),
    (
        guardrail(metric="errorRate", margin="0%"),
        "spec.rollout.guardrails[0].margin: 0% lets no canary pass that equals stable; expected more than 0%",
    ),
    (
        guardrail(metric="errorRate", max="0.00%"),
        "spec.rollout.guardrails[0].max: 0 lets no canary pass; expected more than 0",
    ),
    *[
        (guardrail(**fields), f"spec.rollout.guardrails[0]{said}")
        for fields, said in (
            ({"metric": "errorRate", **KEPT}, ": expected exactly one of metric, feedback and prometheus"),
            ({**PROMETHEUS, **KEPT}, ": expected exactly one of metric, feedback and prometheus"),
            ({"feedback": "accepted"}, ": feedback without name; expected both"),
            (
                {"metric": "errorRate", "threshold": {"max": 1}},
                ": threshold without prometheus; expected it only with prometheus",
            ),
            (
                {"metric": "errorRate", "goal": "decrease"},
                ": type or goal without feedback; expected them only with feedback",
            ),
            ({**KEPT, "floor": "1%"}, ": floor or max without metric; expected them only with metric"),
            (
                {**KEPT, "margin": "100%"},
                ".margin: 100% or more below the baseline excludes nothing; expected less than 100%",
            ),
            ({**KEPT, "cap": 5}, ".cap: cap without a mean; expected it only with type: mean"),
            (
                {**KEPT, "name": "retries"},
                ".name: retries is the name of an edge metric; expected another name, because reports show both",
            ),
            (
                {**KEPT, "enabled": False},
                ": enabled: false on another guardrail; expected only on a latency without margin, floor and max",
            ),
        )
    ],
    *[
        (
            deployment({"rollout": {"guardrails": [KEPT], **rollout}}),
            "spec.rollout.guardrails: feedback without a step that waits for it; expected strategy: canary with a weight"
            " below 100 and gate: evidence, which is the default",
        )
        for rollout in (
            {"strategy": "recreate"},
            {"strategy": "shadow", "bake": {}},
            {"steps": [{"weight": 50, "gate": "manual"}]},
            {"steps": [{"weight": 50, "gate": "time"}], "bake": {}},
        )
    ],
    (
        deployment({"rollout": {"guardrails": [KEPT, {**PROMETHEUS, "name": "kept"}]}}),
        "spec.rollout.guardrails: two guardrails with the same name; expected unique names",
    ),
    (guardrail(**PROMETHEUS | {"threshold": {}}), "spec.rollout.guardrails[0].threshold: expected min, max or both"),
    (
        guardrail(**PROMETHEUS | {"threshold": {"min": 2, "max": 1.5}}),
        "spec.rollout.guardrails[0].threshold: min is greater than max; expected min to be at most max",
    ),
    (
        deployment({"rollout": {"guardrails": [{"metric": "errorRate"}, {"metric": "errorRate", "margin": "5%"}]}}),
        "spec.rollout.guardrails: two guardrails with the same metric; expected one per metric",
    ),
    (
        deployment({"rollout": {"guardrails": [{"metric": f"latencyP{each}"} for each in (50, 90, 95, 99)]}}),
        "spec.rollout.guardrails: more than 3 latencies; expected at most 3, because edges count slow answers"
        " for no more",
    ),
    (
        deployment({"scheduling": {"tolerations": [{"key": "gpu", "operator": "Exists", "value": "x"}]}}),
        "spec.scheduling.tolerations[0].value: x with operator Exists; expected a value only with operator Equal",
    ),
    (
        deployment({"scheduling": {"tolerations": [{"key": "gpu", "tolerationSeconds": 5}]}}),
        "spec.scheduling.tolerations[0].tolerationSeconds: set without effect NoExecute; expected it only"
        " with that effect",
    ),
    (
        deployment({"endpoint": {"gateway": {"namespace": "infra"}}}),
        "spec.endpoint.gateway.namespace: infra without the name of a Gateway; expected a name",
    ),
    (
        deployment({"endpoint": {"gateway": {"sectionName": "https"}}}),
        "spec.endpoint.gateway.sectionName: https without the name of a Gateway; expected a name",
    ),
    (
        deployment({"endpoint": {"auth": {"jwt": {"issuer": "https://id"}}}}),
        "spec.endpoint.auth.jwt.jwksSecretName: issuer or audience without a Secret; expected the Secret with"
        " the public keys",
    ),
    (
        cors("*", "https://app.example.com"),
        "spec.endpoint.cors.allowedOrigins: * together with other origins; expected * alone. Leave out the others",
    ),
    (
        cors("*", allowCredentials=True),
        "spec.endpoint.cors.allowCredentials: true with allowedOrigins *; expected origins by name",
    ),
    *(
        (
            cors("https://app.example.com", origin),
            f"spec.endpoint.cors.allowedOrigins[1]: {origin} contains a default port; expected an origin without"
            " it, as browsers send it",
        )
        for origin in ("https://app.example.com:443", "http://localhost:80")
    ),
    (cors("https://a.example", maxAge="1d"), "spec.endpoint.cors.maxAge: too long; expected less than a day"),
    (
        deployment({"endpoint": {"requestTimeout": "24h"}}),
        "spec.endpoint.requestTimeout: too long; expected less than a day",
    ),
    (deployment({"endpoint": {"requestTimeout": "0ms"}}), "spec.endpoint.requestTimeout: 0s; expected more than 0s"),
    (
        deployment({"endpoint": {"queue": {"timeout": "1d"}}}),
        "spec.endpoint.queue.timeout: too long; expected less than a day",
    ),
    (
        overriding(callers={}),
        "spec.endpoint.overrides[0].callers: expected apiKeys, networks or both",
    ),
    *(
        (
            overriding(callers={"networks": ["10.0.0.0/8", network]}),
            f"spec.endpoint.overrides[0].callers.networks[1]: {network} has bits set beyond its prefix; expected"
            " zeros there",
        )
        for network in ("10.1.2.3/8", "10.1.2.3/31", "255.255.255.255/0")
    ),
    (
        overriding(callers={"apiKeys": ["ops"]}),
        "spec.endpoint.overrides: an override names API keys, but auth.apiKeys.secretName is empty; expected"
        " the Secret with these keys",
    ),
    (
        deployment({"endpoint": {"overrides": [OVERRIDE, {**OVERRIDE, "arm": "stable"}]}}),
        "spec.endpoint.overrides: two overrides with the same header and value; expected different ones",
    ),
    (deployment({"baseline": {"uri": "file:///$X/v7"}}), f"spec.baseline.uri: {PLACEHOLDER}"),
    (arm(model={"uri": "file:///$X/v9"}), f"spec.arms[0].model.uri: {PLACEHOLDER}"),
    (deployment({"baseline": {"uri": "v7"}}), f"spec.baseline.uri: v7{SCHEMES}"),
    (deployment({"baseline": {"digest": DIGEST}}), "spec.baseline.uri: digest without uri; expected both"),
    (experiment({}, name="a" * 64), f"metadata.name: {'a' * 64} is too long; expected at most 63 characters"),
    (experiment({}, name="a.b"), "metadata.name: a.b is not a DNS label; expected a name without dots"),
    (arm(model={"uri": "v9"}), f"spec.arms[0].model.uri: v9{SCHEMES}"),
    (arm(model={"format": "exported"}), f"spec.arms[0].model.format: exported {TRUST}"),
    (arm(model={"format": "exported", "trustCode": False}), f"spec.arms[0].model.format: exported {TRUST}"),
    (
        arm(
            runtime={"env": [{"name": "A", "value": "x", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}}]}
        ),
        "spec.arms[0].runtime.env[0]: expected at most one of value and valueFrom",
    ),
    (
        arm(runtime={"env": [{"name": "A", "valueFrom": {}}]}),
        "spec.arms[0].runtime.env[0].valueFrom: expected exactly one of secretKeyRef and configMapKeyRef",
    ),
    (arm(runtime={"env": [{"name": "KUBERAY_A"}]}), f"spec.arms[0].runtime.env[0].name: KUBERAY_A {OURS}"),
    (
        arm(runtime={"env": [{"name": "AMD_VISIBLE_DEVICES"}]}),
        f"spec.arms[0].runtime.env[0]: {DEVICES}",
    ),
    (arm(runtime={"podLabels": {"serving.sundog.dev/revision": "1"}}), f"spec.arms[0].runtime.podLabels: {RESERVED}"),
    (
        arm(runtime={"podLabels": {"kai.scheduler/queue": "team-a"}}),
        "spec.arms[0].runtime.podLabels: queue of KAI or Volcano, which place pods by a scheduler of their own; expected"
        " scheduling.queue, a LocalQueue of Kueue",
    ),
    (
        arm(resources={"gpu": {"count": 1, "vendor": "amd", "allocation": "dra"}}),
        "spec.arms[0].resources.gpu.allocation: dra with vendor amd; expected devicePlugin, because only claims to devices of"
        " nvidia are known",
    ),
    (
        arm(resources={"gpu": {"count": 1, "allocation": "dra", "sharing": {"mode": "timeSliced"}}}),
        "spec.arms[0].resources.gpu.allocation: dra with sharing mode timeSliced; expected devicePlugin, because no claim"
        " shares a device in time",
    ),
    (
        arm(resources={"gpu": {"topology": {"nodes": 2}}}),
        "spec.arms[0].resources.gpu.topology.nodes: 2 with count 0; expected 1, or a count of 1 or more",
    ),
    (
        arm(
            resources={"gpu": {"count": 1, "topology": {"nodes": 2}, "sharing": {"mode": "mig", "profile": "1g.10gb"}}}
        ),
        "spec.arms[0].resources.gpu.topology.nodes: 2 with sharing mode mig; expected 1, or mode exclusive",
    ),
    (arm(runtime={"warmup": {"timeout": "0s"}}), "spec.arms[0].runtime.warmup.timeout: 0s; expected more than 0s"),
    (
        arm_sharing(mode="mig"),
        "spec.arms[0].resources.gpu.sharing.profile: none with mode mig; expected a profile such as 1g.10gb",
    ),
    (
        arm_sharing(profile="1g.10gb"),
        "spec.arms[0].resources.gpu.sharing.profile: 1g.10gb with mode exclusive; expected a profile only"
        " with mode mig",
    ),
    (
        arm_sharing(mode="fraction"),
        "spec.arms[0].resources.gpu.sharing.fraction: none with mode fraction; expected a fraction such as '0.5'",
    ),
    (
        arm_sharing(mode="timeSliced", fraction=".5"),
        "spec.arms[0].resources.gpu.sharing.fraction: .5 with mode timeSliced; expected a fraction only with mode fraction",
    ),
    (
        arm_sharing(mode="mps"),
        "spec.arms[0].resources.gpu.sharing.mode: mps is not supported, because one client's fault ends all clients of its"
        " device; expected exclusive, mig, fraction or timeSliced",
    ),
    (
        arm(resources={"gpu": {"count": 1, "vendor": "tpu"}}),
        "spec.arms[0].resources.gpu.vendor: tpu is not supported yet; expected nvidia, amd, intel, gaudi or neuron",
    ),
    (
        arm(resources={"gpu": {"count": 1, "topology": {"interconnect": "nvlink"}}}),
        "spec.arms[0].resources.gpu.topology.interconnect: nvlink is not supported yet; expected any",
    ),
    (
        arm(resources={"gpu": {"count": 1, "vendor": "neuron", "memory": "16Gi"}}),
        "spec.arms[0].resources.gpu.memory: set with vendor neuron; expected none, because a device is a NeuronCore, a part of"
        " a chip. Name the chip in type",
    ),
    (
        arm_sharing(mode="fraction", fraction="7"),
        "spec.arms[0].resources.gpu.sharing.fraction: 7 is out of range; expected at least 0.01 and less than 1",
    ),
    (
        arm(resources={"gpu": {"memory": "40Gi"}}),
        "spec.arms[0].resources.gpu.memory: set with count 0; expected none, or a count of 1 or more",
    ),
    (
        arm(resources={"gpu": {"count": 1, "memory": "9Gi", "sharing": {"mode": "mig", "profile": "1g.10gb"}}}),
        "spec.arms[0].resources.gpu.memory: set with sharing mode mig; expected none, because the profile names the memory",
    ),
    (
        arm(resources={"gpu": {"count": 1, "vendor": "amd", "sharing": {"mode": "timeSliced"}}}),
        "spec.arms[0].resources.gpu.vendor: amd with sharing mode timeSliced; expected nvidia, or mode exclusive",
    ),
    (
        arm_sharing(mode="timeSliced", count=3),
        "spec.arms[0].resources.gpu.count: 3 with sharing mode timeSliced; expected 1",
    ),
    (
        arm(name="control"),
        "spec.arms[0].name: control and stable are reserved for the stable revision; expected another name",
    ),
    (
        arm(name="stable"),
        "spec.arms[0].name: control and stable are reserved for the stable revision; expected another name",
    ),
    (
        experiment({"weights": {"control": 50, "narrow": 50}}),
        "spec.weights: wrong names; expected control and every arm, and nothing else",
    ),
    (
        experiment({"weights": {"wide": 100}}),
        "spec.weights: wrong names; expected control and every arm, and nothing else",
    ),
    (experiment({"weights": {"control": 50, "wide": 40}}), "spec.weights: wrong sum; expected weights that sum to 100"),
    (experiment({"unit": {"header": "a", "cookie": "b"}}), f"spec.unit: {ONE_UNIT}"),
    (
        experiment({"metrics": {"guardrails": [{"metric": "latencyP95", "max": "1%"}]}}),
        "spec.metrics.guardrails[0].max: unit does not fit the metric; expected a percentage for errorRate, a"
        " duration for a latency",
    ),
    (
        experiment({"metrics": {"guardrails": [{"metric": "latencyP95", "max": "0ms"}]}}),
        "spec.metrics.guardrails[0].max: 0 lets no canary pass; expected more than 0",
    ),
    (
        experiment({"metrics": {"guardrails": [{"metric": "latencyP95", "margin": "0.0%"}]}}),
        "spec.metrics.guardrails[0].margin: 0% lets no canary pass that equals stable; expected more than 0%",
    ),
    *[
        (experiment({"metrics": {role: [fields]}}), f"spec.metrics.{role}[0]{said}")
        for role in ("success", "secondary")
        for fields, said in (
            (
                {"metric": "errorRate", **EDGE, "feedback": "paid", "name": "paid"},
                ": expected exactly one of metric and feedback",
            ),
            ({"metric": "errorRate", **EDGE, "name": "errors"}, f".name: {NAME_OF_FEEDBACK}"),
            ({"feedback": "paid"}, f".name: {NAME_OF_FEEDBACK}"),
            (
                {"metric": "latencyP95"},
                ".goal: increase, which is the default, of a metric of the edge; expected decrease, because it counts errors,"
                " rejections or slow answers",
            ),
            (
                {"metric": "errorRate", **EDGE, "type": "mean", "cap": 5},
                ": type, denominator, covariate, cap, window or after beside metric; expected them only with feedback, because the edge"
                " counts requests",
            ),
        )
    ],
    (
        experiment({"metrics": {"success": [{"metric": "errorRate", **EDGE, "expected": {"rate": "1%"}}]}}),
        "spec.metrics.success[0].expected: expected beside metric; expected it only with feedback, because the"
        " forecast before the start does not cover it",
    ),
    (
        experiment({"allocation": {"mode": "thompson"}, "metrics": {"success": [{"metric": "errorRate", **EDGE}]}}),
        "spec.metrics.success: a metric of the edge is first with mode thompson; expected one with feedback first, because"
        " weights follow units, and the edge counts requests",
    ),
    *[
        (
            experiment({"metrics": {role: [{"name": "a", "feedback": "b"}, {"name": "a", "feedback": "c"}]}}),
            f"spec.metrics.{role}: two entries with the same name; expected unique names",
        )
        for role in ("success", "secondary")
    ],
    *[
        (
            experiment({"metrics": {role: [{"metric": "errorRate", **EDGE}] * 2}}),
            f"spec.metrics.{role}: two entries of the same metric; expected one per metric",
        )
        for role in ("success", "secondary")
    ],
    (
        experiment(
            {
                "metrics": {
                    "success": [{"metric": f"latencyP{share}", **EDGE} for share in (50, 90, 99)],
                    "guardrails": [{"metric": "latencyP95"}],
                }
            }
        ),
        "spec.metrics: more than 3 latencies in success, guardrails and secondary; expected at most 3, because edges count"
        " slow answers for no more",
    ),
    (
        experiment({"metrics": {"guardrails": [{"metric": "errorRate"}, {"metric": "errorRate"}]}}),
        "spec.metrics.guardrails: two guardrails with the same metric; expected one per metric",
    ),
    *[
        (experiment({**BY_USER, "metrics": {"guardrails": [fields]}}), f"spec.metrics.guardrails[0]{said}")
        for fields, said in (
            ({"margin": "5%"}, ": expected exactly one of metric and feedback"),
            (
                {"metric": "errorRate", "feedback": "paid", "name": "revenue"},
                ": expected exactly one of metric and feedback",
            ),
            ({"feedback": "paid"}, ": feedback without name; expected both"),
            (
                {"metric": "errorRate", "type": "mean"},
                ": name, type or goal without feedback; expected them only with feedback",
            ),
            (
                {"feedback": "paid", "name": "revenue", "floor": "1%"},
                ": floor or max without metric; expected them only with metric",
            ),
            (
                {"feedback": "paid", "name": "revenue", "margin": "100%"},
                ".margin: 100% or more below the baseline excludes nothing; expected less than 100%",
            ),
            (
                {"metric": "errorRate", "window": "1d"},
                ".window: window without feedback; expected it only with feedback",
            ),
            (
                {"feedback": "paid", "name": "revenue", "cap": 5},
                ".cap: cap without a mean; expected it only with type: mean",
            ),
            (
                {"feedback": "paid", "name": "spent", "covariate": "paid"},
                ".covariate: covariate without a mean; expected it only with type: mean",
            ),
            (
                {"feedback": "paid", "name": "spent", "type": "mean", "covariate": "paid", "cap": 5},
                ".covariate: covariate beside cap; expected one of the two, because edges keep no products of capped totals",
            ),
            *(
                ({"feedback": "paid", "name": "spent", **own, **base}, f".{field}: {message}")
                for base in ({"type": "ratio", "denominator": "c"}, {"type": "mean", "covariate": "c"})
                for own, field, message in (
                    ({"window": "1h"}, "window", NO_PRODUCT_IN_WINDOW),
                    ({"after": "1h"}, "after", NO_PRODUCT_AFTER),
                )
            ),
            ({"feedback": "back", "name": "back", "after": "1h"}, f".after: {AFTER_ALONE}"),
            ({"metric": "errorRate", "after": "1h"}, f".after: {AFTER_ALONE}"),
            (
                {"feedback": "paid", "name": "aov", "type": "ratio"},
                ": type: ratio without denominator; expected the feedback whose sum the ratio is divided by",
            ),
            (
                {"feedback": "paid", "name": "aov", "denominator": "orders"},
                ".denominator: denominator without a ratio; expected it only with type: ratio",
            ),
            (
                {"feedback": "paid", "name": "aov", "type": "ratio", "denominator": "paid"},
                ".denominator: same as feedback; expected another one, because this ratio is always 1",
            ),
            (
                {"feedback": "paid", "name": "retries"},
                ".name: retries is the name of an edge metric; expected another name, because reports show both",
            ),
        )
    ],
    *[
        (
            experiment(
                {"metrics": {role: [{"name": "a", "feedback": "b", "type": "mean", "covariate": "b"}]}, "unit": unit}
            ),
            "spec.metrics: covariate while each request is a unit; expected a unit such as header, because a request has no history",
        )
        for role in ("success", "guardrails", "secondary")
        for unit in ({}, {"request": {}})
    ],
    *[
        (
            experiment({"metrics": {role: [{"name": "a", "feedback": "b", "cap": 5}]}}),
            f"spec.metrics.{role}[0].cap: cap without a mean; expected it only with type: mean",
        )
        for role in ("success", "secondary")
    ],
    *[
        (
            experiment({"metrics": {"success": [{"name": "a", "feedback": "b", **given}]}}),
            "spec.metrics.success[0].expected: fields of another type; expected rate with type: rate, mean and"
            " deviation with type: mean, and none of a ratio",
        )
        for given in (
            {"expected": {}},
            {"expected": {"mean": 2}},
            {"expected": {"rate": "4%", "deviation": 2}},
            {"type": "mean", "expected": {"rate": "4%"}},
            {"type": "mean", "expected": {"mean": 2}},
            {"type": "ratio", "denominator": "c", "expected": {"mean": 2, "deviation": 3}},
        )
    ],
    (
        experiment({"metrics": {"success": [{"name": "a", "feedback": "b", "expected": {"rate": "0%"}}]}}),
        "spec.metrics.success[0].expected.rate: 0% gives no number of units; expected more. Remove the field if the rate is"
        " unknown",
    ),
    *[
        (
            experiment({"metrics": {role: [{"name": "a", "feedback": "b", "window": "1h", field: "0s"}]}}),
            f"spec.metrics.{role}[0].{field}: 0s; expected more than 0s",
        )
        for role in ("success", "guardrails", "secondary")
        for field in ("window", "after")
    ],
    *[
        (
            experiment(given),
            "spec.metrics.success: preset or winBy without a success metric; expected one, because an arm wins by these",
        )
        for given in ({"preset": "doNoHarm"}, {"winBy": "anyMetric"})
    ],
    *[
        (
            experiment({**BY_USER, "metrics": {role: [{"name": "a", "feedback": "b", **fields}]}}),
            f"spec.metrics.{role}[0]{problem}",
        )
        for role in ("success", "secondary")
        for fields, problem in (
            (
                {"type": "rate", "covariate": "c"},
                ".covariate: covariate without a mean; expected it only with type: mean",
            ),
            (
                {"type": "mean", "covariate": "c", "cap": 5},
                ".covariate: covariate beside cap; expected one of the two, because edges keep no products of capped totals",
            ),
            (
                {"type": "ratio"},
                ": type: ratio without denominator; expected the feedback whose sum the ratio is divided by",
            ),
            (
                {"type": "mean", "denominator": "c"},
                ".denominator: denominator without a ratio; expected it only with type: ratio",
            ),
            (
                {"type": "ratio", "denominator": "b"},
                ".denominator: same as feedback; expected another one, because this ratio is always 1",
            ),
            (
                {"type": "ratio", "denominator": "c", "cap": 5},
                ".cap: cap without a mean; expected it only with type: mean",
            ),
            *(
                ({**own, **base}, f".{field}: {message}")
                for base in ({"type": "ratio", "denominator": "c"}, {"type": "mean", "covariate": "c"})
                for own, field, message in (
                    ({"window": "1h"}, "window", NO_PRODUCT_IN_WINDOW),
                    ({"after": "1h"}, "after", NO_PRODUCT_AFTER),
                )
            ),
            ({"after": "1h"}, f".after: {AFTER_ALONE}"),
        )
    ],
    (
        experiment({"metrics": {"guardrails": [{"feedback": each, "name": "revenue"} for each in ("a", "b")]}}),
        "spec.metrics.guardrails: two guardrails with the same name; expected unique names",
    ),
    *[
        (
            experiment(
                {
                    "metrics": {
                        role: [{"name": "revenue", "feedback": "paid"}],
                        "guardrails": [{"feedback": "paid", "name": "revenue"}],
                    }
                }
            ),
            "spec.metrics.guardrails: name of another metric; expected another one, because status could not"
            " distinguish them",
        )
        for role in ("success", "secondary")
    ],
    (
        experiment({"metrics": {"guardrails": [{"metric": f"latencyP{each}"} for each in (50, 90, 95, 99)]}}),
        "spec.metrics.guardrails: more than 3 latencies; expected at most 3, because edges count slow answers"
        " for no more",
    ),
    (
        experiment({"allocation": {"floor": "5%"}}),
        "spec.allocation: floor or delta with mode fixed; expected them only with mode thompson",
    ),
    (
        experiment({"allocation": {"delta": 0.2}}),
        "spec.allocation: floor or delta with mode fixed; expected them only with mode thompson",
    ),
    (
        experiment({"allocation": {"mode": "thompson"}}),
        "spec.allocation.mode: no success metric with mode thompson; expected one, because weights follow the"
        " first of metrics.success",
    ),
    (
        experiment(
            {
                "metrics": {
                    "success": [{"name": "a", "feedback": "b"}],
                    "secondary": [{"name": "c", "feedback": "b"}, {"name": "a", "feedback": "d", "type": "mean"}],
                }
            }
        ),
        "spec.metrics.secondary: name of a success metric; expected another one, because status could not"
        " distinguish them",
    ),
    *[
        (
            experiment({"metrics": {role: [{"name": name, "feedback": "b"}]}}),
            f"spec.metrics.{role}[0].name: {name} is the name of an edge metric; expected another name, because"
            " reports show both",
        )
        for role in ("success", "secondary")
        for name in ("rejections", "retries")
    ],
    (thompson("60%"), f"spec.allocation.floor: 60% {MORE_THAN_ALL}"),
    (thompson("33.34%", "wide", "deep"), f"spec.allocation.floor: 33.34% {MORE_THAN_ALL}"),
    (experiment({"stop": {"maxDuration": "0d"}}), "spec.stop.maxDuration: 0s; expected more than 0s"),
    *[(experiment({"exposure": none}), f"spec.exposure: {NO_EXPOSURE}") for none in ("0%", "0.000%", "00%")],
    *[
        (
            experiment({"metrics": {role: [{"name": "a", "feedback": "b", "minimumEffect": "0.0%"}]}}),
            f"spec.metrics.{role}[0].minimumEffect: {NO_EFFECT}",
        )
        for role in ("success", "secondary")
    ],
    (arm(name="canary"), f"spec.arms: {OF_A_ROLLOUT}"),
    (experiment({"arms": [{"name": "wide"}, {"name": "canary"}]}, name="letters-r8"), f"spec.arms: {OF_A_ROLLOUT}"),
    (experiment({"arms": [{"name": "canary"}]}, name="digits-red"), f"spec.arms: {OF_A_ROLLOUT}"),
    (
        experiment({"exposureLog": {"uri": "s3://logs/a"}}),
        "spec.exposureLog.uri: nothing to write; expected an outcome in metrics, because exposures are kept only"
        " for these",
    ),
    *[
        (
            experiment({"exposureLog": {"uri": uri}, "metrics": {"secondary": [{"name": "a", "feedback": "b"}]}}),
            "spec.exposureLog.uri: unknown form; expected s3://bucket/prefix, gs://bucket/prefix,"
            " pvc://claim/directory or file:///directory",
        )
        for uri in (
            "s3://key:secret@logs/a",
            "s3://logs//a",
            "s3://logs/a?b",
            "gs://logs/../others",
            "gs://UP",
            "pvc:///a",
            "pvc://Claim/a",
            "pvc://claim/..",
            "pvc://claim//a",
            "pvc://claim/a b",
            "file://host/a",
            "file:///",
            "file:///a/..",
            "file:///${MANIFEST_DIR}/a",
        )
    ],
    (
        experiment({"exposureLog": {"uri": "https://a"}, "metrics": {"secondary": [{"name": "a", "feedback": "b"}]}}),
        "spec.exposureLog.uri: https://a; expected a URI that starts with one of file://, pvc://, s3://, gs://",
    ),
]

KEYS: list[tuple[dict[str, Any], str, str]] = [
    (
        deployment({"runtime": {"podLabels": {"a b": "x"}}}),
        'spec.runtime.podLabels: key "a b"; expected a label key such as example.com/team',
        NOT_A_LABEL,
    ),
    (
        deployment({"runtime": {"podLabels": {LONG_KEY: "x"}}}),
        "spec.runtime.podLabels: key of 318 characters; expected at most 317",
        TOO_LONG,
    ),
    (
        deployment({"scheduling": {"nodeSelector": {"-": "x"}}}),
        "spec.scheduling.nodeSelector: key -; expected a label key such as example.com/team",
        NOT_A_LABEL,
    ),
    (
        deployment({"scheduling": {"nodeSelector": {LONG_KEY: "x"}}}),
        "spec.scheduling.nodeSelector: key of 318 characters; expected at most 317",
        TOO_LONG,
    ),
    (
        step(headers={"x y": "true"}),
        'spec.rollout.steps[0].headers: key "x y"; expected a header name in lower case such as x-canary',
        "invalid key; expected a header name in lower case such as x-canary",
    ),
    (
        step(headers={"h" * 64: "true"}),
        "spec.rollout.steps[0].headers: key of 64 characters; expected at most 63",
        "key too long; expected at most 63 characters",
    ),
    (
        step(headers={"X-Canary": "true"}),
        "spec.rollout.steps[0].headers: key X-Canary; expected a header name in lower case such as x-canary",
        "invalid key; expected a header name in lower case such as x-canary",
    ),
    (
        arm(runtime={"podLabels": {"": "x"}}),
        "spec.arms[0].runtime.podLabels: key empty; expected at least 1 character",
        NOT_A_LABEL,
    ),
    (
        arm(runtime={"podLabels": {LONG_KEY: "x"}}),
        "spec.arms[0].runtime.podLabels: key of 318 characters; expected at most 317",
        TOO_LONG,
    ),
]
"""A schema cannot bound keys, so these are rules there, and shape in the types."""

REPEATED: list[tuple[dict[str, Any], str]] = [
    (
        deployment({"runtime": {"env": [{"name": "A"}, {"name": "B"}, {"name": "A"}]}}),
        "spec.runtime.env[2].name: A appears twice; expected it once",
    ),
    (
        overriding(callers={"networks": ["10.0.0.0/8", "10.0.0.0/8"]}),
        "spec.endpoint.overrides[0].callers.networks[1]: 10.0.0.0/8 appears twice; expected it once",
    ),
    (
        cors("https://a.example", "https://a.example"),
        "spec.endpoint.cors.allowedOrigins[1]: https://a.example appears twice; expected it once",
    ),
    (
        deployment(
            {
                "endpoint": {
                    "overrides": [{**OVERRIDE, "callers": {"apiKeys": ["ops", "ops"]}}],
                    "auth": {"apiKeys": {"secretName": "keys"}},
                }
            }
        ),
        "spec.endpoint.overrides[0].callers.apiKeys[1]: ops appears twice; expected it once",
    ),
    (
        deployment({"rollout": {"notify": [{"webhook": "https://a", "events": ["paused", "paused"]}]}}),
        "spec.rollout.notify[0].events[1]: paused appears twice; expected it once",
    ),
    (
        experiment({"arms": [{"name": "wide"}, {"name": "wide"}]}),
        "spec.arms[1].name: wide appears twice; expected it once",
    ),
    (
        experiment({"metrics": {"success": [{"name": "a", "feedback": "b"}, {"name": "a", "feedback": "c"}]}}),
        "spec.metrics.success: two entries with the same name; expected unique names",
    ),
]


def ids(cases: list[Any]) -> list[str]:
    return [case[1] for case in cases]


@pytest.mark.parametrize(("obj", "message"), RULES + REPEATED, ids=ids(RULES + REPEATED))
def test_both_report_a_broken_rule_alike(admissions: Any, obj: dict[str, Any], message: str) -> None:
    assert [str(violation) for violation in find_violations(obj)] == [message]
    (denial,) = admissions[obj["kind"]].denials(obj)
    assert message in (f"{denial.path}: {denial.message}", denial.message)


@pytest.mark.parametrize(("obj", "message", "expected_message"), KEYS, ids=ids(KEYS))
def test_a_bad_key_is_found_by_both(admissions: Any, obj: dict[str, Any], message: str, expected_message: str) -> None:
    assert message in [str(violation) for violation in find_violations(obj)]
    assert expected_message in [denial.message for denial in admissions[obj["kind"]].denials(obj)]


def test_an_experiment_cannot_move_to_another_deployment(admissions: Any) -> None:
    old, new = experiment({}), experiment({"modelDeployment": "letters"})
    message = "cannot be changed; create another Experiment"
    kind = RESOURCE_TYPES["Experiment"]
    assert [str(found) for found in find_immutable_changes(kind.parse(old), kind.parse(new))] == [
        f"spec.modelDeployment: {message}"
    ]
    assert [(found.path, found.message) for found in admissions["Experiment"].denials(new, old)] == [
        ("spec.modelDeployment", message)
    ]
    assert admissions["Experiment"].denials(old, old) == []
    assert admissions["Experiment"].denials(new) == []
    assert find_immutable_changes(kind.parse(old), kind.parse(old)) == []


def test_an_arm_that_was_stored_as_canary_may_stay(documented: Any) -> None:
    old = arm(name="canary")
    status = {**old, "status": {"phase": "Running"}}
    stopped = experiment({"arms": [{"name": "canary"}], "stopped": True})
    assert [documented["Experiment"].denials(new, old) for new in (status, stopped)] == [[], []]
    (denial,) = documented["Experiment"].denials(stopped)
    assert denial.message == OF_A_ROLLOUT


def test_the_operator_accepts_stored_windows_and_deadlines_of_an_earlier_release() -> None:
    rollout = {"windows": [{"cron": "* * * * *", "duration": "1m"}], "progressDeadline": "30d"}
    new = deployment({"rollout": rollout})
    assert len(find_violations(new)) == 2
    stored = merged(new, {"metadata": {"uid": "7f0c"}})
    assert RESOURCE_TYPES["ModelDeployment"].parse(stored).to_json()["spec"]["rollout"]["progressDeadline"] == "30d"


def test_a_floor_that_was_stored_as_more_than_all_may_be_ended(documented: Any) -> None:
    old = thompson("60%")
    stopped = merged(old, {"spec": {"stopped": True}})
    assert [documented["Experiment"].denials(new, old) for new in (old, stopped)] == [[], []]
    (denial,) = documented["Experiment"].denials(stopped)
    assert denial.message == f"60% {MORE_THAN_ALL}"


def test_no_outcome_has_the_name_of_what_is_judged_of_an_arm_anyway() -> None:
    judged = {*get_args(get_type_hints(PlanGuardrail)["metric"])}
    assert {"errorRate", "rejections", "retries"} < judged
    for name in judged:
        assert find_violations(experiment({"metrics": {"success": [{"name": name, "feedback": "b"}]}})), name


def test_entries_that_name_nothing_do_not_share_a_name(documented: Any) -> None:
    nameless = experiment({"metrics": {"success": [{}], "secondary": [{}]}})
    said = {f"spec.metrics.{role}[0]: expected exactly one of metric and feedback" for role in ("success", "secondary")}
    assert {str(each) for each in find_violations(nameless)} == said
    assert {f"{each.path}: {each.message}" for each in documented["Experiment"].denials(nameless)} == said


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
    deployment({"runtime": {"placement": "shared", "image": "example.com/runtime:2"}}),
    deployment({"runtime": {"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]}}),
    *[
        experiment({"preset": preset, "metrics": {"success": [{"name": "a", "feedback": "b", **metric}]}})
        for preset, metric in (
            ("clearSignal", {"expected": {"rate": "0.5%"}}),
            ("doNoHarm", {"type": "mean", "expected": {"mean": 0.5, "deviation": 2}}),
        )
    ],
    *[
        experiment({"exposureLog": {"uri": uri}, "metrics": {"secondary": [{"name": "a", "feedback": "b"}]}})
        for uri in (
            "",
            "s3://logs",
            "s3://logs/",
            "gs://logs/a/b.c/",
            "file:///home/ada/logs",
            "pvc://claim",
            "pvc://a.b/c/d_e/",
        )
    ],
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
    deployment({"rollout": {"unit": {"jwtClaim": "cognito:username"}}, "endpoint": VERIFIED}),
    deployment(
        {
            "rollout": {
                "steps": [
                    {"headers": {"x-canary": "true"}},
                    {"scale": {"replicas": 2}},
                    {"shadow": {"percent": 20}},
                    {"shadow": {"compare": {"agreement": {"min": 0.9, "by": "tolerance", "atol": 1, "rtol": 0.5}}}},
                    {"shadow": {"compare": {"agreement": {"min": 0.9, "path": "$.a[0]"}}, "maxDuration": "1h"}},
                    {"webhook": {"url": "http://a", "timeout": "1h"}},
                    {"weight": 50},
                ]
            }
        }
    ),
    deployment({"rollout": {"unit": {"header": "x-user-id", "salt": "again"}, "strategy": "recreate"}}),
    shadowing(),
    agreement(by="custom", parts=[{"path": "$.a", "by": "tolerance", "atol": 1}, {"path": "$.b[0]"}]),
    shadowing(steps=[{"scale": {"replicas": 2}}, {"shadow": {"percent": 5}}, {"pause": {}}]),
    shadowing(bake={"holdback": "49%"}, guardrails=[{"metric": "errorRate"}, PROMETHEUS]),
    deployment({"rollout": {"guardrails": [KEPT, {"metric": "errorRate"}, PROMETHEUS]}}),
    deployment({"rollout": {"steps": [{"weight": 5, "gate": "manual"}, {"weight": 50}], "guardrails": [KEPT]}}),
    guardrail(**KEPT, type="mean", goal="decrease", margin="150%", cap=2.5),
    deployment(
        {
            "rollout": {
                "capacity": "inPlace",
                "steps": [{"headers": {"x-canary": "1"}}, {"pause": {}}, {"weight": 50}],
                "rollbackWindow": {},
            },
            "replicas": 4,
        }
    ),
    guardrail(metric="errorRate", margin="250%", floor="0.5%", max="2%"),
    guardrail(metric="latencyP99", max="500ms"),
    guardrail(**PROMETHEUS),
    deployment(
        {
            "rollout": {
                "bake": {},
                "steps": [{"weight": 98}],
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
    cors("*"),
    cors(
        *(
            "https://app.example.com",
            "http://localhost:3000",
            "http://[::1]:5173",
            "capacitor://localhost",
            "https://a.example:8443",
        ),
        *("http://a.example:443", "https://a.example:80"),
        allowedHeaders=["x-tenant"],
        exposedHeaders=["x-model"],
        maxAge="0s",
        allowCredentials=True,
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
    deployment(
        {
            "endpoint": {
                "auth": {"apiKeys": {"secretName": "keys"}},
                "reveal": False,
                "overrides": [
                    OVERRIDE,
                    {**OVERRIDE, "value": "wide", "arm": "wide", "callers": {"apiKeys": ["ops", "a.b_C-1"]}},
                    {
                        **OVERRIDE,
                        "header": "x_pick",
                        "callers": {"networks": ["0.0.0.0/0", "10.1.2.3/32", "10.1.2.2/31"]},
                    },
                ],
            }
        }
    ),
    *(
        step(weight=5, **given)
        for given in (
            {"minDuration": "1h", "maxDuration": "60m"},
            {"minDuration": "24h"},
            {"minDuration": "14d", "gate": "time"},
            {"minDuration": "47h", "maxDuration": "2d"},
            {"maxDuration": "5m"},
        )
    ),
    *(
        deployment(
            {"rollout": {"progressDeadline": "7d", "windows": [{"cron": f"{minutes} * * * *", "duration": "1m"}]}}
        )
        for minutes in ("0", "0,15,30,45", "*/15", "7/20", "0-45/15")
    ),
    steps({"headers": {"x-canary": "true"}}, {"pause": {}}),
    steps({"shadow": {}}, {"pause": {}}),
    steps({"weight": 100, "gate": "manual"}),
    deployment({"rollout": {"strategy": "recreate", "steps": [{"weight": 100}]}}),
    deployment({"baseline": {"uri": "s3://models/v7", "digest": DIGEST}}),
    deployment({"paused": None, "model": {"digest": None}, "unheardOf": {"a": 1}}),
    experiment({}),
    experiment({"arms": [{"name": "canary"}]}, name="digits-r8"),
    experiment({"arms": [{"name": "canary"}]}, name="digits-r8-a12"),
    experiment({"weights": {"control": 60, "wide": 40}, "exposure": "100%", "alpha": 0.5, "stopped": True}),
    thompson("50%"),
    thompson("33.3333%", "wide", "deep"),
    thompson("10%", *(f"a{number}" for number in range(9))),
    experiment(
        {
            "allocation": {"mode": "thompson", "floor": "5%", "delta": 0.2},
            "metrics": {"success": [{"name": "conversion", "feedback": "converted"}]},
            "stop": {"maxDuration": "14d"},
        }
    ),
    arm(
        model={"uri": "hf://org/model", "format": "torchscript", "trustCode": True},
        runtime={},
        resources={"cpu": "500m"},
    ),
    experiment(
        {
            "metrics": {
                "success": [{"name": "conversion", "feedback": "converted", "minimumEffect": "2%"}],
                "secondary": [{"name": "converted", "feedback": "converted"}],
                "guardrails": [{"metric": "errorRate", "floor": "0.5%"}],
            }
        }
    ),
]


@pytest.mark.parametrize("obj", GOOD, ids=range(len(GOOD)))
def test_good_objects_pass_both(admissions: Any, obj: dict[str, Any]) -> None:
    assert find_violations(obj) == []
    assert admissions[obj["kind"]].denials(obj) == []


@pytest.mark.parametrize("obj", GOOD, ids=range(len(GOOD)))
def test_the_operator_and_the_api_server_fill_in_the_same_defaults(admissions: Any, obj: dict[str, Any]) -> None:
    kind = RESOURCE_TYPES[obj["kind"]]
    stored = admissions[obj["kind"]].stored(obj)
    assert kind.parse(stored).to_json()["spec"] == kind.parse(obj).to_json()["spec"]
    assert stored["status"] == {"observedGeneration": -1}
