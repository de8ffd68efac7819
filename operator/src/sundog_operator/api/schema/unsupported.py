"""Fields that are accepted, and those that are not supported yet. An unsupported field that is set is refused, never ignored."""

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta
from typing import Any

from sundog_operator.api.experiment.experiment import Experiment
from sundog_operator.api.experiment.spec import ExperimentSpec
from sundog_operator.api.model_deployment.resources import SHARING_MODE_RULE, VENDOR_RULE
from sundog_operator.api.model_deployment.spec import ModelDeploymentSpec
from sundog_operator.api.quantities import format_duration
from sundog_operator.api.rollout.common import DEFAULT_MAX_DURATION, DEFAULT_MIN_DURATION
from sundog_operator.api.rollout.steps import Step
from sundog_operator.api.schema.node_tree import FieldNode, Node, build_node_tree
from sundog_operator.api.schema.rules import Rule
from sundog_operator.api.schema.validation import Violation, quote_value

NOT_YET_SUPPORTED = "NotYetSupported"
ROLLOUT_LABEL = "serving.sundog.dev/rollout"
PVC_SCHEME = "pvc://"

SUPPORTED_FIELDS = frozenset(
    {
        "spec.model.uri",
        "spec.model.digest",
        "spec.model.format",
        "spec.model.entrypoint",
        "spec.model.config",
        "spec.model.trustCode",
        "spec.runtime.maxOngoingRequests",
        "spec.runtime.batching.maxSize",
        "spec.runtime.batching.maxDelay",
        "spec.runtime.placement",
        "spec.runtime.warmup.requests",
        "spec.runtime.warmup.timeout",
        "spec.runtime.userConfig",
        "spec.resources.cpu",
        "spec.resources.memory",
        "spec.replicas",
        "spec.autoscaling.minReplicas",
        "spec.autoscaling.maxReplicas",
        "spec.autoscaling.targetOngoingRequests",
        "spec.autoscaling.upscaleDelay",
        "spec.autoscaling.downscaleDelay",
        "spec.autoscaling.scaleToZeroDelay",
        "spec.autoscaling.upscaleFactor",
        "spec.autoscaling.downscaleFactor",
        "spec.autoscaling.coldStartTimeout",
        "spec.rollout.strategy",
        "spec.rollout.paused",
        "spec.rollout.progressDeadline",
        "spec.rollout.progressDeadlineAction",
        "spec.rollout.unit.header",
        "spec.rollout.unit.cookie",
        "spec.rollout.unit.jsonPath",
        "spec.rollout.unit.jwtClaim",
        "spec.rollout.unit.request",
        "spec.rollout.unit.salt",
        "spec.rollout.steps[].weight",
        "spec.rollout.steps[].gate",
        "spec.rollout.steps[].minDuration",
        "spec.rollout.steps[].maxDuration",
        "spec.rollout.steps[].pause.duration",
        "spec.rollout.steps[].webhook.url",
        "spec.rollout.steps[].webhook.type",
        "spec.rollout.steps[].webhook.timeout",
        "spec.rollout.steps[].headers",
        "spec.rollout.steps[].scale.replicas",
        "spec.rollout.steps[].scale.percent",
        "spec.rollout.steps[].analysis.name",
        "spec.rollout.steps[].analysis.count",
        "spec.rollout.steps[].analysis.prometheus.query",
        "spec.rollout.steps[].analysis.prometheus.interval",
        "spec.rollout.steps[].analysis.prometheus.failureLimit",
        "spec.rollout.steps[].analysis.prometheus.inconclusiveLimit",
        "spec.rollout.steps[].analysis.threshold.min",
        "spec.rollout.steps[].analysis.threshold.max",
        "spec.rollout.guardrails[].name",
        "spec.rollout.guardrails[].prometheus.query",
        "spec.rollout.guardrails[].prometheus.interval",
        "spec.rollout.guardrails[].prometheus.failureLimit",
        "spec.rollout.guardrails[].prometheus.inconclusiveLimit",
        "spec.rollout.guardrails[].threshold.min",
        "spec.rollout.guardrails[].threshold.max",
        "spec.rollout.steps[].shadow.percent",
        "spec.rollout.steps[].shadow.compare.agreement.min",
        "spec.rollout.steps[].shadow.compare.agreement.by",
        "spec.rollout.steps[].shadow.compare.agreement.atol",
        "spec.rollout.steps[].shadow.compare.agreement.rtol",
        "spec.rollout.steps[].shadow.compare.agreement.path",
        "spec.rollout.steps[].shadow.compare.agreement.parts[].path",
        "spec.rollout.steps[].shadow.compare.agreement.parts[].by",
        "spec.rollout.steps[].shadow.compare.agreement.parts[].atol",
        "spec.rollout.steps[].shadow.compare.agreement.parts[].rtol",
        "spec.rollout.steps[].shadow.compare.latencyP99.margin",
        "spec.rollout.steps[].shadow.minSamples",
        "spec.rollout.steps[].shadow.maxDuration",
        "spec.rollout.guardrails[].metric",
        "spec.rollout.guardrails[].margin",
        "spec.rollout.guardrails[].feedback",
        "spec.rollout.guardrails[].type",
        "spec.rollout.guardrails[].goal",
        "spec.rollout.guardrails[].cap",
        "spec.rollout.guardrails[].enabled",
        "spec.rollout.guardrails[].floor",
        "spec.rollout.guardrails[].max",
        "spec.rollout.warmup.requests",
        "spec.rollout.warmup.duration",
        "spec.rollout.rollbackWindow.revisions",
        "spec.rollout.windows[].cron",
        "spec.rollout.windows[].duration",
        "spec.rollout.windows[].tz",
        "spec.rollout.dryRun",
        "spec.rollout.keepPrevious.revisions",
        "spec.rollout.keepPrevious.replicas",
        "spec.rollout.keepPrevious.for",
        "spec.rollout.duringExperiment",
        "spec.rollout.onHarm",
        "spec.rollout.onInconclusive",
        "spec.rollout.onNewRevision",
        "spec.rollout.onNoData",
        "spec.rollout.alpha",
        "spec.rollout.capacity",
        "spec.rollout.bake.duration",
        "spec.rollout.bake.holdback",
        "spec.rollout.notify[].webhook",
        "spec.rollout.notify[].events",
        "spec.endpoint.host",
        "spec.endpoint.requestTimeout",
        "spec.endpoint.maxRequestBytes",
        "spec.endpoint.tls.secretName",
        "spec.endpoint.auth.apiKeys.secretName",
        "spec.endpoint.auth.jwt.jwksSecretName",
        "spec.endpoint.auth.jwt.issuer",
        "spec.endpoint.auth.jwt.audience",
        "spec.endpoint.cors.allowedOrigins",
        "spec.endpoint.cors.allowedHeaders",
        "spec.endpoint.cors.exposedHeaders",
        "spec.endpoint.cors.maxAge",
        "spec.endpoint.cors.allowCredentials",
        "spec.endpoint.compression",
        "spec.endpoint.queue.maxRequests",
        "spec.endpoint.queue.timeout",
        "spec.endpoint.rateLimit.perClient",
        "spec.endpoint.rateLimit.total",
        "spec.endpoint.overrides[].header",
        "spec.endpoint.overrides[].value",
        "spec.endpoint.overrides[].arm",
        "spec.endpoint.overrides[].callers.apiKeys",
        "spec.endpoint.overrides[].callers.networks",
        "spec.endpoint.reveal",
        "spec.paused",
    }
)
"""Paths of single values, as `node_tree.leaf_paths` names them."""

CLUSTER_ONLY_FIELDS = frozenset(
    {
        "spec.model.credentials.secretName",
        "spec.model.credentials.serviceAccountName",
        "spec.runtime.image",
        "spec.runtime.env[].name",
        "spec.runtime.env[].value",
        "spec.runtime.env[].valueFrom.secretKeyRef.name",
        "spec.runtime.env[].valueFrom.secretKeyRef.key",
        "spec.runtime.env[].valueFrom.secretKeyRef.optional",
        "spec.runtime.env[].valueFrom.configMapKeyRef.name",
        "spec.runtime.env[].valueFrom.configMapKeyRef.key",
        "spec.runtime.env[].valueFrom.configMapKeyRef.optional",
        "spec.runtime.podLabels",
        "spec.resources.gpu.count",
        "spec.resources.gpu.vendor",
        "spec.resources.gpu.type",
        "spec.resources.gpu.memory",
        "spec.resources.gpu.sharing.mode",
        "spec.resources.gpu.sharing.profile",
        "spec.resources.gpu.sharing.fraction",
        "spec.resources.gpu.allocation",
        "spec.resources.gpu.topology.nodes",
        "spec.scheduling.queue",
        "spec.scheduling.spot",
        "spec.scheduling.priorityClassName",
        "spec.scheduling.nodeSelector",
        "spec.scheduling.tolerations[].key",
        "spec.scheduling.tolerations[].operator",
        "spec.scheduling.tolerations[].value",
        "spec.scheduling.tolerations[].effect",
        "spec.scheduling.tolerations[].tolerationSeconds",
        "spec.scheduling.runtimeClassName",
        "spec.endpoint.gateway.name",
        "spec.endpoint.gateway.namespace",
        "spec.endpoint.gateway.sectionName",
    }
)
"""Paths of single values that are supported only in a Kubernetes cluster; local mode accepts only their defaults."""

_NEEDS_PODS = "needs pods, which local mode does not have"
UNSUPPORTED_IN_LOCAL_MODE: Mapping[str, str] = {
    "spec.model.credentials": _NEEDS_PODS,
    "spec.runtime.image": _NEEDS_PODS,
    "spec.runtime.env": _NEEDS_PODS,
    "spec.runtime.podLabels": _NEEDS_PODS,
    "spec.resources.gpu": _NEEDS_PODS,
    "spec.scheduling": _NEEDS_PODS,
    "spec.endpoint.gateway": "needs a Gateway, which local mode does not have",
}
"""Parts that consist only of CLUSTER_ONLY_FIELDS and UNSUPPORTED_FIELDS, and why local mode does not support them."""

UNSUPPORTED_FIELDS = frozenset(
    {
        "spec.resources.gpu.topology.interconnect",
        "spec.baseline",
    }
)
"""Paths of values, or of parts with everything below them. Only their defaults are accepted."""

SUPPORTED_EXPERIMENT_FIELDS = frozenset(
    {
        "spec.modelDeployment",
        "spec.arms[].name",
        "spec.arms[].model.uri",
        "spec.arms[].model.digest",
        "spec.arms[].model.format",
        "spec.arms[].model.entrypoint",
        "spec.arms[].model.config",
        "spec.arms[].model.trustCode",
        "spec.arms[].model.credentials.secretName",
        "spec.arms[].model.credentials.serviceAccountName",
        "spec.arms[].runtime.image",
        "spec.arms[].runtime.env[].name",
        "spec.arms[].runtime.env[].value",
        "spec.arms[].runtime.env[].valueFrom.secretKeyRef.name",
        "spec.arms[].runtime.env[].valueFrom.secretKeyRef.key",
        "spec.arms[].runtime.env[].valueFrom.secretKeyRef.optional",
        "spec.arms[].runtime.env[].valueFrom.configMapKeyRef.name",
        "spec.arms[].runtime.env[].valueFrom.configMapKeyRef.key",
        "spec.arms[].runtime.env[].valueFrom.configMapKeyRef.optional",
        "spec.arms[].runtime.maxOngoingRequests",
        "spec.arms[].runtime.batching.maxSize",
        "spec.arms[].runtime.batching.maxDelay",
        "spec.arms[].runtime.placement",
        "spec.arms[].runtime.podLabels",
        "spec.arms[].runtime.userConfig",
        "spec.arms[].runtime.warmup.requests",
        "spec.arms[].runtime.warmup.timeout",
        "spec.arms[].resources.cpu",
        "spec.arms[].resources.memory",
        "spec.arms[].resources.gpu.count",
        "spec.arms[].resources.gpu.vendor",
        "spec.arms[].resources.gpu.type",
        "spec.arms[].resources.gpu.memory",
        "spec.arms[].resources.gpu.sharing.mode",
        "spec.arms[].resources.gpu.sharing.profile",
        "spec.arms[].resources.gpu.sharing.fraction",
        "spec.arms[].resources.gpu.allocation",
        "spec.arms[].resources.gpu.topology.nodes",
        "spec.weights",
        "spec.exposure",
        "spec.unit.header",
        "spec.unit.cookie",
        "spec.unit.jsonPath",
        "spec.unit.jwtClaim",
        "spec.unit.request",
        "spec.unit.salt",
        "spec.metrics.success[].name",
        "spec.metrics.success[].feedback",
        "spec.metrics.success[].metric",
        "spec.metrics.success[].goal",
        "spec.metrics.success[].type",
        "spec.metrics.success[].denominator",
        "spec.metrics.success[].covariate",
        "spec.metrics.success[].cap",
        "spec.metrics.success[].window",
        "spec.metrics.success[].after",
        "spec.metrics.success[].minimumEffect",
        "spec.metrics.success[].expected.rate",
        "spec.metrics.success[].expected.mean",
        "spec.metrics.success[].expected.deviation",
        "spec.metrics.guardrails[].metric",
        "spec.metrics.guardrails[].name",
        "spec.metrics.guardrails[].feedback",
        "spec.metrics.guardrails[].type",
        "spec.metrics.guardrails[].denominator",
        "spec.metrics.guardrails[].covariate",
        "spec.metrics.guardrails[].cap",
        "spec.metrics.guardrails[].window",
        "spec.metrics.guardrails[].after",
        "spec.metrics.guardrails[].goal",
        "spec.metrics.guardrails[].margin",
        "spec.metrics.guardrails[].floor",
        "spec.metrics.guardrails[].max",
        "spec.metrics.secondary[].name",
        "spec.metrics.secondary[].feedback",
        "spec.metrics.secondary[].metric",
        "spec.metrics.secondary[].goal",
        "spec.metrics.secondary[].type",
        "spec.metrics.secondary[].denominator",
        "spec.metrics.secondary[].covariate",
        "spec.metrics.secondary[].cap",
        "spec.metrics.secondary[].window",
        "spec.metrics.secondary[].after",
        "spec.metrics.secondary[].minimumEffect",
        "spec.allocation.mode",
        "spec.allocation.floor",
        "spec.allocation.delta",
        "spec.stop.maxDuration",
        "spec.stop.maxUnits",
        "spec.stopped",
        "spec.exposureLog.uri",
        "spec.exposureLog.format",
        "spec.alpha",
        "spec.preset",
        "spec.winBy",
        "spec.onWin",
    }
)
"""Paths of single values of an Experiment. An arm may have only what its ModelDeployment supports."""

UNSUPPORTED_EXPERIMENT_FIELDS = frozenset({"spec.arms[].resources.gpu.topology.interconnect"})
"""Paths of values of an Experiment, or of parts with everything below them. Only their defaults are accepted."""

_STEP = "spec.rollout.steps[]"
_SUPPORTED_STRATEGIES = ("canary", "shadow", "recreate")


def find_unsupported_fields(spec: ModelDeploymentSpec, *, in_pods: bool = False) -> list[Violation]:
    """Return violations for fields that are set but not supported yet.

    `in_pods`: whether replicas run in pods of a Kubernetes cluster, which local mode does not have.
    """
    finder = _UnsupportedFinder(
        UNSUPPORTED_FIELDS,
        _REFUSED_VALUES if in_pods else _LOCALLY_REFUSED_VALUES,
        {} if in_pods else UNSUPPORTED_IN_LOCAL_MODE,
    )
    return list(finder.below(spec, build_node_tree(ModelDeploymentSpec), "spec", "spec"))


def is_rollout_experiment(experiment: Experiment) -> bool:
    """Whether a ModelDeployment created it for one of its rollouts."""
    owned = any(owner.kind == "ModelDeployment" for owner in experiment.metadata.owner_references)
    return owned and experiment.metadata.labels.get(ROLLOUT_LABEL) == "true"


def find_unsupported_experiment_fields(experiment: Experiment) -> list[Violation]:
    """Return violations for fields of a user's Experiment that are set but not supported yet."""
    if is_rollout_experiment(experiment):
        return []
    finder = _UnsupportedFinder(UNSUPPORTED_EXPERIMENT_FIELDS, {}, {})
    return list(finder.below(experiment.spec, build_node_tree(ExperimentSpec), "spec", "spec"))


def _refuse_pvc(uri: str) -> str:
    needs = f"{PVC_SCHEME} needs pods that mount the claim, which local mode does not have"
    return needs if uri.startswith(PVC_SCHEME) else ""


def _refuse_by(rule: Rule) -> Callable[[Any], str]:
    return lambda value: "" if rule.holds(value) else rule.message


def _refuse_strategy(strategy: str) -> str:
    expected = f"{', '.join(_SUPPORTED_STRATEGIES[:-1])} or {_SUPPORTED_STRATEGIES[-1]}"
    return "" if strategy in _SUPPORTED_STRATEGIES else f"{strategy} is not supported yet; expected {expected}"


_REFUSED_VALUES: Mapping[str, Callable[[Any], str]] = {
    "spec.resources.gpu.vendor": _refuse_by(VENDOR_RULE),
    "spec.resources.gpu.sharing.mode": _refuse_by(SHARING_MODE_RULE),
    "spec.rollout.strategy": _refuse_strategy,
}
"""By path of a field that is supported except for some values: a function that returns the message for such a value, or empty."""

_LOCALLY_REFUSED_VALUES: Mapping[str, Callable[[Any], str]] = {**_REFUSED_VALUES, "spec.model.uri": _refuse_pvc}


class _UnsupportedFinder:
    """Finds unsupported fields of a spec. `path` names a field in the tables, `place` in this object."""

    def __init__(
        self, unsupported: Collection[str], refused_values: Mapping[str, Callable[[Any], str]], local: Mapping[str, str]
    ) -> None:
        self._unsupported, self._refused_values, self._local = unsupported, refused_values, local

    def below(self, value: Any, node: Node, path: str, place: str) -> Iterator[Violation]:
        if isinstance(value, Step):
            yield from _find_ignored_times(value, place)
        for name, child in node.fields.items():
            yield from self._field(getattr(value, child.attribute), child, f"{path}.{name}", f"{place}.{name}")

    def _field(self, inner: Any, child: FieldNode, path: str, at: str) -> Iterator[Violation]:
        if path in self._unsupported:
            yield from _find_changed_defaults(inner, child, at, "is not supported yet")
        elif path in self._local:
            yield from _find_changed_defaults(inner, child, at, self._local[path])
        elif path in self._refused_values and (message := self._refused_values[path](inner)):
            yield Violation(at, message, is_unsupported=True)
        elif child.node.kind == "object" and inner is not None:
            yield from self.below(inner, child.node, path, at)
        elif child.node.kind == "array" and child.node.items is not None:
            for index, item in enumerate(inner or ()):
                yield from self.below(item, child.node.items, f"{path}[]", f"{at}[{index}]")


def _find_ignored_times(step: Step, place: str) -> Iterator[Violation]:
    if step.gate not in (None, "evidence") and step.max_duration != DEFAULT_MAX_DURATION:
        message = f"is not supported yet with gate: {step.gate}; leave it out"
        yield Violation(f"{place}.maxDuration", message, is_unsupported=True)
    if step.gate == "manual" and step.min_duration != DEFAULT_MIN_DURATION:
        message = "is not supported yet with gate: manual; leave it out"
        yield Violation(f"{place}.minDuration", message, is_unsupported=True)


def _find_changed_defaults(value: Any, child: FieldNode, place: str, why: str) -> Iterator[Violation]:
    if value == child.initial:
        return
    if child.node.kind == "object" and child.initial is not None:
        for name, inner in child.node.fields.items():
            yield from _find_changed_defaults(getattr(value, inner.attribute), inner, f"{place}.{name}", why)
    elif child.node.kind in ("string", "integer", "number", "boolean") and child.initial not in (None, ""):
        message = f"{quote_value(_text(value))} {why}; expected {quote_value(_text(child.initial))}"
        yield Violation(place, message, is_unsupported=True)
    else:
        yield Violation(place, f"{why}; leave it out", is_unsupported=True)


def _text(value: Any) -> Any:
    return format_duration(value) if isinstance(value, timedelta) else value
