"""Reconcile one ModelDeployment: observe, plan, act."""

from collections.abc import Mapping
from typing import Any, Final

from sundog_operator.api import ModelDeploymentStatus, model_deployment_conditions
from sundog_operator.api.reasons import Cause, DeploymentReason
from sundog_operator.app.apply import create_object
from sundog_operator.app.background.prometheus_queries import read_metrics
from sundog_operator.app.background.webhook_gate import ask_webhook
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.event_recorder import record_events
from sundog_operator.app.observe import observe
from sundog_operator.app.plan_threads import PlanTooSlow
from sundog_operator.app.queue.idle_check import NamespaceState
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.status_writer import write_status
from sundog_operator.core.planner.plan import ReconcilePlan
from sundog_operator.core.planner.requeue import RESYNC_S
from sundog_operator.core.trial.experiment.log_exports import merge_log_status
from sundog_operator.core.trial.experiment.queue import order_waiting
from sundog_operator.core.trial.rollout import notifications
from sundog_operator.errors import Conflict
from sundog_operator.ports import CONTROLLER_REVISION, EXPERIMENT, MODEL_DEPLOYMENT, POD, Object, Ref

STALL_RETRY_S: Final = 30.0
"""Seconds until a namespace that is too large is checked again."""


async def reconcile_model_deployment(deps: Dependencies, key: Key) -> float | None:
    """Run one pass. Return the seconds until the next one; None for a deleted ModelDeployment.

    A pass that changes nothing writes nothing. Raises DependencyError.
    """
    state = await NamespaceState(deps, key.namespace).read(key)
    stored = await deps.kube.get(Ref(MODEL_DEPLOYMENT, key.namespace, key.name))
    if stored is None or "deletionTimestamp" in stored["metadata"]:
        deps.idle_keys.update(key, None, None, idle=False)
        ask_webhook(deps, key, None)
        read_metrics(deps, key, ())
        deps.replicas.forget(key)
        return None
    if excess := deps.find_excess(key.namespace):
        return await _report_stall(deps, key, stored, Cause(DeploymentReason.NAMESPACE_TOO_LARGE, excess))
    observed = await observe(deps, stored)
    try:
        plan = await deps.make_plan(key, observed, deps.clock.now())
    except PlanTooSlow as err:
        await _report_stall(deps, key, stored, Cause(DeploymentReason.PLAN_TOO_SLOW, str(err)))
        raise
    experiments = {each.name: each.uid for each in observed.rollouts} | {
        each.name: each.uid for each in observed.user_experiments
    }
    await record_events(deps, stored, deps.replicas.update(key, observed))
    await _apply_plan(deps, stored, plan, experiments)
    idle = plan.requeue_after_s == RESYNC_S and not order_waiting(observed.user_experiments)
    return deps.idle_keys.update(key, state, plan.requeue_after_s, idle=idle)


async def _report_stall(deps: Dependencies, key: Key, stored: Object, cause: Cause) -> float:
    """Report why nothing is decided for a ModelDeployment. It serves as before. Return the seconds until the next pass."""
    deps.idle_keys.update(key, None, None, idle=False)
    now, status = deps.clock.now().replace(microsecond=0), ModelDeploymentStatus.parse(stored.get("status"))
    generation = stored["metadata"]["generation"]
    conditions = model_deployment_conditions(status.conditions, generation=generation, at=now)
    conditions.mark_true("Stalled", cause.reason, cause.message, at=now)
    # The other conditions stay as they were observed, with their generations.
    marked = {each.type: each for each in status.conditions} | {
        each.type: each for each in conditions.conditions() if each.type == "Stalled"
    }
    ordered = tuple(marked[each.type] for each in conditions.conditions() if each.type in marked)
    await write_status(deps, stored, status.model_copy(update={"conditions": ordered}).to_json())
    return STALL_RETRY_S


async def _apply_plan(deps: Dependencies, stored: Object, plan: ReconcilePlan, experiments: Mapping[str, str]) -> None:
    """Write in an order in which the process may die at any line.

    The order is: children, the status of Experiments (the commit points), events, the ModelDeployment's status, deletions. `experiments`
    are the uids of the observed Experiments by name.
    """
    namespace = stored["metadata"]["namespace"]
    for child in plan.objects_to_create:
        await create_object(deps, child)
    for name, status in (*((plan.rollout,) if plan.rollout is not None else ()), *plan.user_experiments):
        await _write_experiment_status(
            deps, Ref(EXPERIMENT, namespace, name), experiments.get(name, ""), status.to_json()
        )
    # Events come first: if the status write fails with a conflict, the next pass has no transition any more, and so no events.
    await record_events(deps, stored, plan.events)
    await write_status(deps, stored, plan.status.to_json())
    for edge in plan.edges_to_delete:
        await deps.kube.delete(Ref(POD, namespace, edge.pod), uid=edge.uid)
    for name in plan.surplus_revisions:
        await deps.kube.delete(Ref(CONTROLLER_REVISION, namespace, name))
    for name in plan.surplus_experiments:
        await deps.kube.delete(Ref(EXPERIMENT, namespace, name))


async def _write_experiment_status(deps: Dependencies, ref: Ref, uid: str, status: dict[str, Any]) -> None:
    """Write the status of an Experiment, and keep the fields that its own pass writes.

    `uid` is the uid of the observed Experiment; empty for one that this pass created.
    """
    stored = await deps.kube.get(ref)
    if stored is None or uid not in ("", stored["metadata"]["uid"]):
        raise Conflict(f"{ref}: was deleted before its status could be written")
    known = stored.get("status")
    await write_status(deps, stored, merge_log_status(notifications.preserve_deliveries(status, known), known))
