"""Fields that are not supported yet, or not in local mode. One that is set is refused, never ignored."""

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
"""Parts that are supported only in a Kubernetes cluster, and why. Local mode accepts only their defaults."""

UNSUPPORTED_FIELDS = frozenset(
    {
        "spec.resources.gpu.topology.interconnect",
        "spec.baseline",
    }
)
"""Paths of values, or of parts with everything below them. Only their defaults are accepted."""

UNSUPPORTED_EXPERIMENT_FIELDS = frozenset({"spec.arms[].resources.gpu.topology.interconnect"})
"""Paths of values of an Experiment, or of parts with everything below them. Only their defaults are accepted."""

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
