"""Admission of a user's Experiment, as far as its own fields decide."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from sundog_operator.api import (
    MAX_LATENCY_GUARDRAILS,
    Experiment,
    ExperimentGuardrail,
    ExperimentSpec,
    FeedbackMetric,
    find_unsupported_experiment_fields,
    format_duration,
    is_rollout_experiment,
)
from sundog_operator.api.memo import Memoized
from sundog_operator.api.reasons import ExperimentReason
from sundog_operator.core.edge import units
from sundog_operator.core.trial.experiment import freeze
from sundog_operator.core.trial.experiment.arms import planned_buckets
from sundog_operator.errors import SpecError

SHORTEST_WINDOW: Final = timedelta(minutes=1)
LONGEST_WINDOW: Final = timedelta(days=30)
"""Edges accept outcomes until this long after an exposure: `sundog_edge.split.feedback.MAX_OUTCOME_AGE_S`."""


@dataclass(frozen=True, slots=True)
class ExperimentAcceptance:
    """Accepted spec, or the reason why it is refused.

    Attributes:
        spec: the accepted spec; None where it is refused.
        reason: the reason of a refusal.
        message: the message of a refusal.
        of_rollout: whether a ModelDeployment created it, so that there is nothing to accept.
        stopped: whether its user wants it to end, even if the spec is refused.
    """

    spec: ExperimentSpec | None = None
    reason: str = ""
    message: str = ""
    of_rollout: bool = False
    stopped: bool = False


def check_admission(obj: dict[str, Any]) -> ExperimentAcceptance:
    """Check the admission rules again, and then fields that this release does not support. Results are cached by object."""
    meta = obj.get("metadata") or {}
    kept = {name: meta[name] for name in ("name", "namespace", "labels", "ownerReferences") if name in meta}
    return _ACCEPTED({**{key: value for key, value in obj.items() if key != "status"}, "metadata": kept})


def _accept(obj: dict[str, Any]) -> ExperimentAcceptance:
    spec = obj.get("spec")
    return replace(_check(obj), stopped=isinstance(spec, dict) and spec.get("stopped") is True)


def _check(obj: dict[str, Any]) -> ExperimentAcceptance:
    try:
        experiment = Experiment.parse(obj)
    except SpecError as err:
        return ExperimentAcceptance(reason=err.reason, message=str(err))
    if is_rollout_experiment(experiment):
        return ExperimentAcceptance(of_rollout=True)
    if missing := find_unsupported_experiment_fields(experiment):
        return ExperimentAcceptance(reason=ExperimentReason.NOT_YET_SUPPORTED, message="; ".join(map(str, missing)))
    empty = [name for name, buckets in planned_buckets(experiment.spec).items() if not buckets]
    if empty:
        message = f"spec.exposure: {experiment.spec.exposure} leaves {' and '.join(empty)} without any of the traffic"
        return ExperimentAcceptance(reason=ExperimentReason.INVALID_SPEC, message=message)
    if problem := _find_window_problem(experiment.spec) or _find_latency_problem(experiment.spec):
        return ExperimentAcceptance(reason=ExperimentReason.INVALID_SPEC, message=problem)
    return ExperimentAcceptance(experiment.spec)


def _find_window_problem(spec: ExperimentSpec) -> str:
    """Return a sentence about a conversion window that no unit could pass; empty for none."""
    longest = min(LONGEST_WINDOW, spec.stop.max_duration)
    metrics: dict[str, Sequence[FeedbackMetric | ExperimentGuardrail]] = {
        "success": spec.metrics.success,
        "guardrails": spec.metrics.guardrails,
        "secondary": spec.metrics.secondary,
    }
    for role, own in metrics.items():
        for place, metric in enumerate(own):
            if metric.window is None:
                continue
            found = f"spec.metrics.{role}[{place}].window: {format_duration(metric.window)}"
            if units.resolve_unit(spec.unit) == units.PER_REQUEST:
                return f"{found} where each request is a unit; expected a spec.unit that comes again, such as a header"
            if not SHORTEST_WINDOW <= metric.window <= longest or metric.window == spec.stop.max_duration:
                return (
                    f"{found}; expected {format_duration(SHORTEST_WINDOW)} to {format_duration(LONGEST_WINDOW)}, and less"
                    f" than spec.stop.maxDuration, which is {format_duration(spec.stop.max_duration)}"
                )
            if metric.after is not None and not SHORTEST_WINDOW <= metric.after < metric.window:
                return (
                    f"spec.metrics.{role}[{place}].after: {format_duration(metric.after)}; expected"
                    f" {format_duration(SHORTEST_WINDOW)} or more, and less than window, which is"
                    f" {format_duration(metric.window)}"
                )
    return ""


def _find_latency_problem(spec: ExperimentSpec) -> str:
    """Return a sentence about more latencies than edges count, with the guardrails that noHarm adds; empty for none."""
    latencies = len(freeze.measured_latencies(spec)) + freeze.count_latencies(freeze.list_edge_guardrails(spec))
    if latencies <= MAX_LATENCY_GUARDRAILS:
        return ""
    return (
        f"spec.metrics: {latencies} latencies, with a guardrail for each success metric by winBy noHarm; expected at most"
        f" {MAX_LATENCY_GUARDRAILS}, because edges count slow answers for no more"
    )


_ACCEPTED: Final = Memoized(_accept)
