"""Writes the status of a ModelDeployment or an Experiment."""

from typing import Any, Final

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.api.schema.structure import structure
from sundog_operator.api.schema.unknown_status import carry_over
from sundog_operator.app.dependencies import World
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, Object, Ref

_KINDS: Final = {
    "ModelDeployment": (MODEL_DEPLOYMENT, structure(ModelDeploymentStatus)),
    "Experiment": (EXPERIMENT, structure(ExperimentStatus)),
}


async def write_status(world: World, stored: Object, status: dict[str, Any]) -> None:
    """Write a status in the place of a stored object's, where it differs; fields that only a newer release knows stay.

    Raises DependencyError; Conflict where somebody wrote the object meanwhile.
    """
    before = stored.get("status")
    if before == status:
        return
    kind, node = _KINDS[stored["kind"]]
    wanted = carry_over(before, status, node)
    if before == wanted:
        return
    meta = stored["metadata"]
    ref = Ref(kind, meta["namespace"], meta["name"])
    await world.kube.patch_status(ref, wanted, resource_version=meta["resourceVersion"])
