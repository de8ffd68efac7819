"""Reconciles one ModelDeployment: observe, plan, act."""

from typing import Any

from sundog_operator.app.confirming import answer_to
from sundog_operator.app.keys import Key
from sundog_operator.app.observe import observe
from sundog_operator.app.recorder import record
from sundog_operator.app.world import World
from sundog_operator.core.plan import Plan, plan
from sundog_operator.core.rollout import notices
from sundog_operator.errors import AlreadyExists, Conflict
from sundog_operator.ports import CONTROLLER_REVISION, EXPERIMENT, MODEL_DEPLOYMENT, POD, Object, Ref


async def reconcile_model_deployment(world: World, key: Key) -> float | None:
    """One pass. Returns after how many seconds to look again, None for a ModelDeployment that is gone.

    Raises DependencyError. A pass that changes nothing writes nothing.
    """
    stored = await world.kube.get(Ref(MODEL_DEPLOYMENT, key.namespace, key.name))
    if stored is None or "deletionTimestamp" in stored["metadata"]:
        answer_to(world, key, None)
        return None
    decided = plan(await observe(world, stored), world.clock.now())
    await _act(world, stored, decided)
    return decided.requeue_after_s


async def _act(world: World, stored: Object, decided: Plan) -> None:
    """Write in the order that lets the process die at any line.

    That is: children, the rollout's commit point, the status, what is surplus.
    """
    namespace = stored["metadata"]["namespace"]
    for child in decided.creates:
        await _create(world, child)
    if decided.rollout is not None:
        name, status = decided.rollout
        await _commit(world, Ref(EXPERIMENT, namespace, name), status.to_json())
    await _write_status(world, stored, decided.status.to_json())
    await record(world, stored, decided.events)
    for edge in decided.late_edges:
        await world.kube.delete(Ref(POD, namespace, edge.pod), uid=edge.uid)
    for name in decided.surplus_revisions:
        await world.kube.delete(Ref(CONTROLLER_REVISION, namespace, name))
    for name in decided.surplus_experiments:
        await world.kube.delete(Ref(EXPERIMENT, namespace, name))


async def _create(world: World, child: Object) -> None:
    try:
        await world.kube.create(child)
    except AlreadyExists as err:
        # Somebody was faster: the next pass sees whose it is.
        raise Conflict(str(err)) from err


async def _commit(world: World, ref: Ref, status: dict[str, Any]) -> None:
    stored = await world.kube.get(ref)
    if stored is None:
        raise Conflict(f"{ref}: it vanished before its step could be written")
    await _write_status(world, stored, notices.with_deliveries_of(status, stored.get("status")))


async def _write_status(world: World, stored: Object, status: dict[str, Any]) -> None:
    if stored.get("status") == status:
        return
    meta = stored["metadata"]
    kind = MODEL_DEPLOYMENT if stored["kind"] == "ModelDeployment" else EXPERIMENT
    ref = Ref(kind, meta["namespace"], meta["name"])
    await world.kube.patch_status(ref, status, resource_version=meta["resourceVersion"])
