"""Whether a stored ModelDeployment can be acted on."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sundog_operator.api import NOT_YET_SUPPORTED, ModelDeployment, ModelDeploymentSpec, find_unsupported_fields
from sundog_operator.api.installation import Installation
from sundog_operator.api.memo import Memoized
from sundog_operator.core.rollout import windows
from sundog_operator.errors import SpecError

_OF_EACH_WRITE: Final = ("resourceVersion", "managedFields", "generation")


@dataclass(frozen=True, slots=True)
class ModelDeploymentAcceptance:
    """A spec, or why it is refused. `reason` is empty for an accepted one."""

    spec: ModelDeploymentSpec | None
    reason: str = ""
    message: str = ""


def accept_model_deployment(obj: dict[str, Any], installation: Installation | None = None) -> ModelDeploymentAcceptance:
    """Check the rules of admission again, then for fields that this release does not act on yet, and what the administrator asks for.

    Without an installation there are no pods: local mode. Equal objects are judged once.
    """
    meta = {key: value for key, value in (obj.get("metadata") or {}).items() if key not in _OF_EACH_WRITE}
    judge = _JUDGES[installation is not None, installation is not None and installation.require_digest]
    return judge({key: value for key, value in obj.items() if key != "status"} | {"metadata": meta})


def _judge(in_pods: bool, digest_required: bool, obj: dict[str, Any]) -> ModelDeploymentAcceptance:
    try:
        spec = ModelDeployment.parse(obj).spec
    except SpecError as err:
        return ModelDeploymentAcceptance(None, err.reason, str(err))
    if unfit := windows.find_problems(spec.rollout.windows, "spec.rollout.windows"):
        return ModelDeploymentAcceptance(None, "InvalidSpec", "; ".join(map(str, unfit)))
    missing = find_unsupported_fields(spec, in_pods=in_pods)
    if missing:
        return ModelDeploymentAcceptance(None, NOT_YET_SUPPORTED, "; ".join(f"{v.path}: {v.message}" for v in missing))
    if digest_required and not spec.model.digest:
        return ModelDeploymentAcceptance(
            None, "DigestRequired", "spec.model.digest: is required by the administrator of Sundog"
        )
    return ModelDeploymentAcceptance(spec)


_JUDGES: Final = {
    (in_pods, digest): Memoized(partial(_judge, in_pods, digest))
    for in_pods in (False, True)
    for digest in (False, True)
}
