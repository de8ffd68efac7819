"""Whether a stored ModelDeployment can be acted on."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sundog_operator.api import NOT_YET_SUPPORTED, ModelDeployment, ModelDeploymentSpec, not_yet_supported
from sundog_operator.api.installation import Installation
from sundog_operator.api.memo import Remembered
from sundog_operator.core.rollout import windows
from sundog_operator.errors import SpecError

_OF_EACH_WRITE: Final = ("resourceVersion", "managedFields", "generation")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A spec, or why it is refused. `reason` is empty for an accepted one."""

    spec: ModelDeploymentSpec | None
    reason: str = ""
    message: str = ""


def accept(obj: dict[str, Any], installation: Installation | None = None) -> Acceptance:
    """Check the rules of admission again, then for fields that this release does not act on yet, and what the administrator asks for.

    Without an installation there are no pods: local mode. Equal objects are judged once.
    """
    meta = {key: value for key, value in (obj.get("metadata") or {}).items() if key not in _OF_EACH_WRITE}
    judge = _JUDGES[installation is not None, installation is not None and installation.require_digest]
    return judge({key: value for key, value in obj.items() if key != "status"} | {"metadata": meta})


def _judge(in_pods: bool, digest_required: bool, obj: dict[str, Any]) -> Acceptance:
    try:
        spec = ModelDeployment.parse(obj).spec
    except SpecError as err:
        return Acceptance(None, err.reason, str(err))
    if unfit := windows.problems(spec.rollout.windows, "spec.rollout.windows"):
        return Acceptance(None, "InvalidSpec", "; ".join(map(str, unfit)))
    missing = not_yet_supported(spec, in_pods=in_pods)
    if missing:
        return Acceptance(None, NOT_YET_SUPPORTED, "; ".join(f"{v.path}: {v.message}" for v in missing))
    if digest_required and not spec.model.digest:
        return Acceptance(None, "DigestRequired", "spec.model.digest: is required by the administrator of Sundog")
    return Acceptance(spec)


_JUDGES: Final = {
    (in_pods, digest): Remembered(partial(_judge, in_pods, digest))
    for in_pods in (False, True)
    for digest in (False, True)
}
