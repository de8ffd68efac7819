"""Whether an Experiment of a user's own can be acted on, as far as it says itself."""

from dataclasses import dataclass, replace
from typing import Any, Final

from sundog_operator.api import (
    NOT_YET_SUPPORTED,
    Experiment,
    ExperimentSpec,
    experiment_not_yet_supported,
    is_of_rollout,
)
from sundog_operator.api.memo import Remembered
from sundog_operator.core.experiments.arms import buckets_of
from sundog_operator.errors import SpecError

INVALID: Final = "InvalidSpec"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A spec, or why it is refused.

    Attributes:
        of_rollout: a ModelDeployment made it, and there is nothing to accept.
        stopped: its user wants it to end, whatever else the spec says.
    """

    spec: ExperimentSpec | None = None
    reason: str = ""
    message: str = ""
    of_rollout: bool = False
    stopped: bool = False


def accept(obj: dict[str, Any]) -> Acceptance:
    """Check the rules of admission again, then for what this release does not act on yet. Equal objects are judged once."""
    meta = obj.get("metadata") or {}
    kept = {name: meta[name] for name in ("name", "namespace", "labels", "ownerReferences") if name in meta}
    return _ACCEPTED({**{key: value for key, value in obj.items() if key != "status"}, "metadata": kept})


def _accept(obj: dict[str, Any]) -> Acceptance:
    spec = obj.get("spec")
    return replace(_judged(obj), stopped=isinstance(spec, dict) and spec.get("stopped") is True)


def _judged(obj: dict[str, Any]) -> Acceptance:
    try:
        experiment = Experiment.parse(obj)
    except SpecError as err:
        return Acceptance(reason=err.reason, message=str(err))
    if is_of_rollout(experiment):
        return Acceptance(of_rollout=True)
    if missing := experiment_not_yet_supported(experiment):
        return Acceptance(reason=NOT_YET_SUPPORTED, message="; ".join(map(str, missing)))
    empty = [name for name, buckets in buckets_of(experiment.spec).items() if not buckets]
    if empty:
        told = f"{experiment.spec.exposure} leaves {' and '.join(empty)} without any of the traffic"
        return Acceptance(reason=INVALID, message=f"spec.exposure: {told}")
    return Acceptance(experiment.spec)


_ACCEPTED: Final = Remembered(_accept)
