"""Answers Experiments that users make. Those of rollouts are walked with their ModelDeployment; here others are told of them."""

from sundog_operator.api import (
    NOT_YET_SUPPORTED,
    Experiment,
    ExperimentStatus,
    experiment_conditions,
    experiment_not_yet_supported,
)
from sundog_operator.app import notifying
from sundog_operator.app.keys import Key
from sundog_operator.app.world import World
from sundog_operator.errors import SpecError
from sundog_operator.ports import EXPERIMENT, Object, Ref


async def reconcile_experiment(world: World, key: Key) -> float | None:
    """Say that a user's is not supported yet; tell receivers what happened in a rollout. Raises DependencyError.

    Gives after how many seconds to look again; None for never.
    """
    ref = Ref(EXPERIMENT, key.namespace, key.name)
    stored = await world.kube.get(ref)
    if stored is None:
        notifying.forget(world, key.namespace, key.name)
        return None
    reason, message = _refusal(stored)
    if not reason:
        return await notifying.notify(world, stored)
    meta = stored["metadata"]
    before = ExperimentStatus.parse(stored.get("status"))
    now = world.clock.now().replace(microsecond=0)
    conditions = experiment_conditions(before.conditions, generation=meta["generation"], at=now)
    for type_ in ("Ready", "Running"):
        conditions.mark_false(type_, reason, message, at=now)
    status = before.model_copy(
        update={"observed_generation": meta["generation"], "conditions": conditions.conditions()}
    )
    if status.to_json() != stored.get("status"):
        await world.kube.patch_status(ref, status.to_json(), resource_version=meta["resourceVersion"])
    return None


def _refusal(stored: Object) -> tuple[str, str]:
    try:
        experiment = Experiment.parse(stored)
    except SpecError as err:
        return err.reason, str(err)
    missing = experiment_not_yet_supported(experiment)
    return (NOT_YET_SUPPORTED, "; ".join(map(str, missing))) if missing else ("", "")
