"""Write the status of a ModelDeployment or an Experiment."""

from typing import Any, Final

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.api.schema.node_tree import build_node_tree
from sundog_operator.api.schema.unknown_status import keep_unknown_fields
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, Object, Ref

_KINDS: Final = {
    "ModelDeployment": (MODEL_DEPLOYMENT, build_node_tree(ModelDeploymentStatus)),
    "Experiment": (EXPERIMENT, build_node_tree(ExperimentStatus)),
}


async def write_status(deps: Dependencies, stored: Object, status: dict[str, Any]) -> None:
    """Replace a stored object's status where it differs. Fields that only a newer release knows stay.

    Raises DependencyError, and Conflict where another client changed the object meanwhile.
    """
    before = stored.get("status")
    if before == status:
        return
    kind, node = _KINDS[stored["kind"]]
    wanted = keep_unknown_fields(before, status, node)
    if before == wanted:
        return
    meta = stored["metadata"]
    ref = Ref(kind, meta["namespace"], meta["name"])
    await deps.kube.patch_status(ref, wanted, resource_version=meta["resourceVersion"])
