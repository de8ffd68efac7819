"""Reconcile what the pass of the ModelDeployment leaves to the Experiment.

This is the status of a user's Experiment that cannot run, its exposure log, and the notifications of a rollout.
"""

from typing import Final

from sundog_operator.api import ExperimentStatus, experiment_conditions
from sundog_operator.api.reasons import Cause, EndReason, ExperimentReason
from sundog_operator.app.background import exposure_logs, notifications
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.status_writer import write_status
from sundog_operator.core.planner.experiment.start import STOPPED_BY_USER
from sundog_operator.core.trial.experiment import state, transitions
from sundog_operator.core.trial.experiment.admission import ExperimentAcceptance, check_admission
from sundog_operator.core.trial.phases import STOPPED, is_over
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, Object, Ref

RESYNC_S: Final = 15.0
"""Seconds between checks that the ModelDeployment still exists: its deletion does not enqueue the Experiment."""


async def reconcile_experiment(deps: Dependencies, key: Key) -> float | None:
    """Run one pass: report why a user's Experiment cannot run, write its exposure log, or deliver a rollout's notifications.

    Return the seconds until the next pass; None for never. Raises DependencyError.
    """
    stored = await deps.kube.get(Ref(EXPERIMENT, key.namespace, key.name))
    if stored is None:
        notifications.forget_notifications(deps, key.namespace, key.name)
        exposure_logs.forget_exposure_log(deps, key.namespace, key.name)
        return None
    acceptance = check_admission(stored)
    if acceptance.of_rollout:
        return await notifications.deliver_notifications(deps, stored)
    before = ExperimentStatus.parse(stored.get("status"))
    if "deletionTimestamp" in stored["metadata"]:
        return None
    if is_over(before):
        return await exposure_logs.reconcile_exposure_log(deps, stored, acceptance.spec)
    if (blocked := await _find_blocked_status(deps, stored, acceptance, before)) is not None:
        await write_status(deps, stored, blocked.to_json())
        return RESYNC_S
    next_pass_s = await exposure_logs.reconcile_exposure_log(deps, stored, acceptance.spec)
    return RESYNC_S if next_pass_s is None else min(next_pass_s, RESYNC_S)


async def _find_blocked_status(
    deps: Dependencies, stored: Object, acceptance: ExperimentAcceptance, before: ExperimentStatus
) -> ExperimentStatus | None:
    """Return the status of an Experiment with an invalid spec or without its ModelDeployment; None for all others.

    The pass of the ModelDeployment ends one that is stopped, whatever else its spec contains.
    """
    now = deps.clock.now().replace(microsecond=0)
    if acceptance.spec is None and not acceptance.stopped and not state.is_frozen(before):
        return _make_blocked_status(stored, before, acceptance.reason, acceptance.message, deps)
    name = str((stored.get("spec") or {}).get("modelDeployment"))
    deployment = await deps.kube.get(Ref(MODEL_DEPLOYMENT, stored["metadata"]["namespace"], name))
    if deployment is not None:
        return None
    missing = f"spec.modelDeployment: no ModelDeployment {name} in namespace {stored['metadata']['namespace']}"
    if state.has_begun(before):
        ended = transitions.end_experiment(before, STOPPED, Cause(EndReason.MODEL_DEPLOYMENT_NOT_FOUND, missing), now)
        return _make_blocked_status(stored, ended, ExperimentReason.MODEL_DEPLOYMENT_NOT_FOUND, missing, deps)
    if acceptance.stopped:
        ended = transitions.end_experiment(before, STOPPED, STOPPED_BY_USER, now)
        return _make_blocked_status(stored, ended, STOPPED_BY_USER.reason, STOPPED_BY_USER.message, deps)
    waiting = before.model_copy(update={"phase": "Pending"})
    message = f"{missing}; create it to start the Experiment"
    return _make_blocked_status(stored, waiting, ExperimentReason.MODEL_DEPLOYMENT_NOT_FOUND, message, deps)


def _make_blocked_status(
    stored: Object, status: ExperimentStatus, reason: str, message: str, deps: Dependencies
) -> ExperimentStatus:
    """Return a status whose conditions report why the Experiment does not run."""
    now, generation = deps.clock.now().replace(microsecond=0), stored["metadata"]["generation"]
    conditions = experiment_conditions(status.conditions, generation=generation, at=now)
    is_waiting = reason == ExperimentReason.MODEL_DEPLOYMENT_NOT_FOUND and not is_over(status)
    is_stopped = reason == EndReason.STOPPED_BY_USER
    mark_stalled = conditions.mark_false if is_waiting or is_stopped else conditions.mark_true
    mark_stalled("Stalled", reason, message, at=now)
    is_accepted = reason in (ExperimentReason.MODEL_DEPLOYMENT_NOT_FOUND, EndReason.STOPPED_BY_USER)
    for condition_type in ("Ready", "Running", *(() if is_accepted else ("SpecAccepted",))):
        conditions.mark_false(condition_type, reason, message, at=now)
    if is_stopped:
        conditions.mark_true("Ready", status.phase, message, at=now)
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions.conditions()})
