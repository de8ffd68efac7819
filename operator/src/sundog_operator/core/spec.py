"""Whether a stored ModelDeployment can be acted on."""

from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.api import ModelDeployment, ModelDeploymentSpec, not_yet_supported
from sundog_operator.api.remembered import Remembered
from sundog_operator.errors import SpecError

_OF_EACH_WRITE: Final = ("resourceVersion", "managedFields", "generation")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A spec, or why it is refused. `reason` is empty for an accepted one."""

    spec: ModelDeploymentSpec | None
    reason: str = ""
    message: str = ""


def accept(obj: dict[str, Any]) -> Acceptance:
    """Check the rules of admission again, then for fields that this release does not act on yet. Equal objects are judged once."""
    meta = {key: value for key, value in (obj.get("metadata") or {}).items() if key not in _OF_EACH_WRITE}
    return _JUDGED({key: value for key, value in obj.items() if key != "status"} | {"metadata": meta})


def _judge(obj: dict[str, Any]) -> Acceptance:
    try:
        spec = ModelDeployment.parse(obj).spec
    except SpecError as err:
        return Acceptance(None, err.reason, str(err))
    missing = not_yet_supported(spec)
    if missing:
        return Acceptance(None, "NotYetSupported", "; ".join(f"{v.path}: {v.message}" for v in missing))
    return Acceptance(spec)


_JUDGED: Final = Remembered(_judge)
