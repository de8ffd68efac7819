"""Specs that break a rule, and the message of each, from the command line and from the API server."""

from typing import Any

MODEL = {"uri": "file:///models/x", "entrypoint": "net:Net"}
MANUAL = {"gate": "manual"}
NO_METRIC = "cpuUsage; expected one of errorRate, latencyP50, latencyP90, latencyP95, latencyP99"
NO_MARGIN = "0% lets no canary pass that equals stable; expected more than 0%"

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "wrong-type": ({"model": MODEL, "replicas": "two"}, 'spec.replicas: "two"; expected an integer'),
    "out-of-range": ({"model": MODEL, "replicas": 1001}, "spec.replicas: 1001; expected 0 to 1000"),
    "minimum-above-maximum": (
        {"model": MODEL, "autoscaling": {"minReplicas": 5, "maxReplicas": 2}},
        "spec.autoscaling.minReplicas: 5 is greater than maxReplicas; expected at most 2",
    ),
    "two-of-a-union": (
        {"model": MODEL, "rollout": {"unit": {"header": "x-user", "cookie": "user"}}},
        "spec.rollout.unit: expected at most one of header, cookie, jsonPath, jwtClaim and request",
    ),
    "mig-with-two": (
        {"model": MODEL, "resources": {"gpu": {"count": 2, "sharing": {"mode": "mig", "profile": "1g.10gb"}}}},
        "spec.resources.gpu.count: 2 with sharing mode mig; expected 1",
    ),
    "fraction-above-one": (
        {"model": MODEL, "resources": {"gpu": {"count": 1, "sharing": {"mode": "fraction", "fraction": "1.5"}}}},
        "spec.resources.gpu.sharing.fraction: 1.5 is out of range; expected at least 0.01 and less than 1",
    ),
    "unknown-scheme": (
        {"model": {"uri": "ftp://models/x"}},
        "spec.model.uri: ftp://models/x; expected a URI that starts with one of file://, pvc://, s3://,"
        " gs://, https://, hf://, oci://",
    ),
    "no-model": ({"replicas": 1}, "spec.model: is required"),
    "weights-that-fall": (
        {"model": MODEL, "rollout": {"steps": [{"weight": 50, **MANUAL}, {"weight": 25, **MANUAL}]}},
        "spec.rollout.steps: weights do not rise: step 2 has 25, but step 1 has 50; expected each weight"
        " above those before it",
    ),
    "unknown-field": ({"model": MODEL, "replica": 3}, "spec.replica: unknown field; did you mean replicas?"),
    "unknown-metric": (
        {"model": MODEL, "rollout": {"guardrails": [{"metric": "cpuUsage"}]}},
        f"spec.rollout.guardrails[0].metric: {NO_METRIC}",
    ),
    "margin-of-zero": (
        {"model": MODEL, "rollout": {"guardrails": [{"metric": "errorRate", "margin": "0%"}]}},
        f"spec.rollout.guardrails[0].margin: {NO_MARGIN}",
    ),
}
"""By name: the spec of a ModelDeployment, and the end of its error line."""

REFUSED_EXPERIMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no-exposure": (
        {"exposure": "0%"},
        "spec.exposure: 0% leaves every arm without units; expected more. Set stopped: true to end an experiment",
    ),
    "no-effect": (
        {"metrics": {"success": [{"name": "bought", "feedback": "bought", "minimumEffect": "0%"}]}},
        "spec.metrics.success[0].minimumEffect: 0% cannot be distinguished from no effect; expected a larger effect."
        " Remove the field for the default of about 5 %",
    ),
    "no-time": ({"stop": {"maxDuration": "0s"}}, "spec.stop.maxDuration: 0s; expected more than 0s"),
    "a-rollouts-name": (
        {"arms": [{"name": "canary"}]},
        "spec.arms: canary is the name of a rollout's own arm; expected another name",
    ),
    "controls-name": (
        {"arms": [{"name": "control"}]},
        "spec.arms[0].name: control and stable are reserved for the stable revision; expected another name",
    ),
    "unknown-metric": (
        {"metrics": {"guardrails": [{"metric": "cpuUsage"}]}},
        f"spec.metrics.guardrails[0].metric: {NO_METRIC}",
    ),
    "margin-of-zero": (
        {"metrics": {"guardrails": [{"metric": "latencyP99", "margin": "0%"}]}},
        f"spec.metrics.guardrails[0].margin: {NO_MARGIN}",
    ),
    "weights-that-do-not-sum": (
        {"weights": {"control": 50, "wide": 40}},
        "spec.weights: wrong sum; expected weights that sum to 100",
    ),
}
"""By name: fields to add to a ModelDeployment and one arm `wide`, and the end of the error line."""
