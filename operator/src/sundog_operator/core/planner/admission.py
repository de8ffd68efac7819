"""Acceptance of a stored ModelDeployment: whether the operator can act on its spec."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sundog_operator.api import (
    ModelDeployment,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    Violation,
    find_unsupported_fields,
)
from sundog_operator.api.installation import Installation
from sundog_operator.api.memo import Memoized
from sundog_operator.api.reasons import DeploymentReason
from sundog_operator.core.kubernetes.accelerators import find_unknown_memory
from sundog_operator.core.kubernetes.shared_pods import find_too_large
from sundog_operator.core.trial.rollout import windows
from sundog_operator.errors import SpecError

MAX_CONFIG_BYTES: Final = 64 * 1024
"""Most JSON of `model.config` and of `runtime.userConfig`, each."""
_CHANGED_BY_EACH_WRITE: Final = ("resourceVersion", "managedFields", "generation")


@dataclass(frozen=True, slots=True)
class ModelDeploymentAcceptance:
    """A spec, or the reason why it is refused. `reason` is empty for an accepted spec."""

    spec: ModelDeploymentSpec | None
    reason: str = ""
    message: str = ""


def accept_model_deployment(obj: dict[str, Any], installation: Installation | None = None) -> ModelDeploymentAcceptance:
    """Check the admission rules again, then unsupported fields and the administrator's rules.

    No installation means local mode, without pods. The result is cached for equal objects.
    """
    meta = {key: value for key, value in (obj.get("metadata") or {}).items() if key not in _CHANGED_BY_EACH_WRITE}
    accept = _ACCEPT[installation is not None, installation is not None and installation.require_digest]
    found = accept({key: value for key, value in obj.items() if key != "status"} | {"metadata": meta})
    if found.spec is None:
        return found
    problems = [*find_too_large(found.spec, installation), *find_unknown_memory(found.spec.resources.gpu)]
    if not problems and (large := _find_large_configs(found.spec)) and not _was_accepted(obj):
        problems = large
    if problems:
        return ModelDeploymentAcceptance(None, DeploymentReason.INVALID_SPEC, "; ".join(map(str, problems)))
    return found


def _was_accepted(obj: dict[str, Any]) -> bool:
    """Return whether this spec was accepted before, perhaps by a release without the limit."""
    generation = (obj.get("metadata") or {}).get("generation")
    return any(
        each.type == "SpecAccepted" and each.status == "True" and each.observed_generation == generation
        for each in ModelDeploymentStatus.parse(obj.get("status")).conditions
    )


def _find_large_configs(spec: ModelDeploymentSpec) -> list[Violation]:
    """Return the configurations that are too large. The operator, Ray and each replica keep them in memory."""
    configs = {"spec.model.config": spec.model.config, "spec.runtime.userConfig": spec.runtime.user_config}
    sizes = {
        path: len(json.dumps(config, ensure_ascii=False).encode(errors="replace")) for path, config in configs.items()
    }
    return [
        Violation(
            path, f"{size} bytes of JSON; expected at most {MAX_CONFIG_BYTES}. Put large values into the model's files"
        )
        for path, size in sizes.items()
        if size > MAX_CONFIG_BYTES
    ]


def _accept(in_pods: bool, digest_required: bool, obj: dict[str, Any]) -> ModelDeploymentAcceptance:
    try:
        spec = ModelDeployment.parse(obj).spec
    except SpecError as err:
        return ModelDeploymentAcceptance(None, err.reason, str(err))
    if problems := windows.find_problems(spec.rollout.windows, "spec.rollout.windows"):
        return ModelDeploymentAcceptance(None, DeploymentReason.INVALID_SPEC, "; ".join(map(str, problems)))
    missing = find_unsupported_fields(spec, in_pods=in_pods)
    if missing:
        return ModelDeploymentAcceptance(
            None, DeploymentReason.NOT_YET_SUPPORTED, "; ".join(f"{v.path}: {v.message}" for v in missing)
        )
    if digest_required and not spec.model.digest:
        return ModelDeploymentAcceptance(
            None,
            DeploymentReason.DIGEST_REQUIRED,
            "spec.model.digest: not set; the administrator of Sundog requires it. Set the digest of the model",
        )
    return ModelDeploymentAcceptance(spec)


_ACCEPT: Final = {
    (in_pods, digest): Memoized(partial(_accept, in_pods, digest))
    for in_pods in (False, True)
    for digest in (False, True)
}
