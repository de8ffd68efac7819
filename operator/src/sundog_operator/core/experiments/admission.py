"""Admission of a user's Experiment, as far as its own fields decide."""

from dataclasses import dataclass, replace
from typing import Any, Final

from sundog_operator.api import (
    Experiment,
    ExperimentSpec,
    find_unsupported_experiment_fields,
    is_rollout_experiment,
)
from sundog_operator.api.memo import Memoized
from sundog_operator.api.reasons import ExperimentReason
from sundog_operator.core.experiments.arms import planned_buckets
from sundog_operator.errors import SpecError


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
    return ExperimentAcceptance(experiment.spec)


_ACCEPTED: Final = Memoized(_accept)
