"""Reconciles one ModelDeployment: observe, plan, act."""

from collections.abc import Mapping
from typing import Any

from sundog_operator.app.apply import create_object
from sundog_operator.app.background.prometheus_queries import read_metrics
from sundog_operator.app.background.webhook_gate import ask_webhook
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.event_recorder import record_events
from sundog_operator.app.observe import observe
from sundog_operator.app.queue.idle_check import NamespaceState
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.status_writer import write_status
from sundog_operator.core.experiments.log_exports import merge_log_status
from sundog_operator.core.experiments.queue import order_waiting
from sundog_operator.core.planner.plan import ReconcilePlan, make_plan
from sundog_operator.core.planner.requeue import RESYNC_S
from sundog_operator.core.rollout import notifications
from sundog_operator.errors import Conflict
from sundog_operator.ports import CONTROLLER_REVISION, EXPERIMENT, MODEL_DEPLOYMENT, POD, Object, Ref


async def reconcile_model_deployment(world: Dependencies, key: Key) -> float | None:
    """One pass. Returns after how many seconds to look again, None for a ModelDeployment that is gone.

    Raises DependencyError. A pass that changes nothing writes nothing.
    """
    seen_before = await NamespaceState(world, key.namespace).sees(key)
    stored = await world.kube.get(Ref(MODEL_DEPLOYMENT, key.namespace, key.name))
    if stored is None or "deletionTimestamp" in stored["metadata"]:
        world.rests.note(key, None, None, rests=False)
        ask_webhook(world, key, None)
        read_metrics(world, key, ())
        world.replicas.forget(key)
        return None
    seen = await observe(world, stored)
    decided = make_plan(seen, world.clock.now())
    experiments = {each.name: each.uid for each in seen.rollouts} | {each.name: each.uid for each in seen.own}
    await record_events(world, stored, world.replicas.lost(key, seen))
    await _act(world, stored, decided, experiments)
    rests = decided.requeue_after_s == RESYNC_S and not order_waiting(seen.own)
    return world.rests.note(key, seen_before, decided.requeue_after_s, rests=rests)


async def _act(world: Dependencies, stored: Object, decided: ReconcilePlan, experiments: Mapping[str, str]) -> None:
    """Write in the order that lets the process die at any line.

    That is: children, the commit points of Experiments, events of them, the status, what is surplus. `experiments` are the uids of those
    that were looked at, by name.
    """
    namespace = stored["metadata"]["namespace"]
    for child in decided.objects_to_create:
        await create_object(world, child)
    for name, status in (*((decided.rollout,) if decided.rollout is not None else ()), *decided.own):
        await _commit(world, Ref(EXPERIMENT, namespace, name), experiments.get(name, ""), status.to_json())
    # Where somebody else has written the ModelDeployment meanwhile, the next pass finds nothing that moves any more, and no event.
    await record_events(world, stored, decided.events)
    await write_status(world, stored, decided.status.to_json())
    for edge in decided.edges_to_delete:
        await world.kube.delete(Ref(POD, namespace, edge.pod), uid=edge.uid)
    for name in decided.surplus_revisions:
        await world.kube.delete(Ref(CONTROLLER_REVISION, namespace, name))
    for name in decided.surplus_experiments:
        await world.kube.delete(Ref(EXPERIMENT, namespace, name))


async def _commit(world: Dependencies, ref: Ref, uid: str, status: dict[str, Any]) -> None:
    """Write what an Experiment has come to, and leave what others write of it as it is by now.

    `uid` is that of the one that was looked at, empty for one that this pass has made.
    """
    stored = await world.kube.get(ref)
    if stored is None or uid not in ("", stored["metadata"]["uid"]):
        raise Conflict(f"{ref}: it went before its step could be written")
    known = stored.get("status")
    await write_status(world, stored, merge_log_status(notifications.preserve_deliveries(status, known), known))
