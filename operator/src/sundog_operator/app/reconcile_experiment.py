"""Answers Experiments of users that cannot be acted on, has exposure logs written, and tells others of rollouts.

All else of an Experiment is walked with its ModelDeployment.
"""

from typing import Final

from sundog_operator.api import ExperimentStatus, experiment_conditions
from sundog_operator.app.background import exposure_logs, notifications
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.status_writer import write_status
from sundog_operator.core.experiments import state, transitions
from sundog_operator.core.experiments.admission import ExperimentAcceptance, check_admission
from sundog_operator.core.rollout.state import STOPPED, is_over
from sundog_operator.ports import EXPERIMENT, MODEL_DEPLOYMENT, Object, Ref

MODEL_DEPLOYMENT_NOT_FOUND: Final = "ModelDeploymentNotFound"
RESYNC_S: Final = 15.0
"""Between two looks whether the ModelDeployment is still there: what goes wakes nobody."""


async def reconcile_experiment(world: Dependencies, key: Key) -> float | None:
    """Say why a user's is refused or what it lacks, and keep its exposure log; tell receivers what happened in a rollout.

    Raises DependencyError.

    Gives after how many seconds to look again; None for never.
    """
    stored = await world.kube.get(Ref(EXPERIMENT, key.namespace, key.name))
    if stored is None:
        notifications.forget_notifications(world, key.namespace, key.name)
        exposure_logs.forget_exposure_log(world, key.namespace, key.name)
        return None
    acceptance = check_admission(stored)
    if acceptance.of_rollout:
        return await notifications.deliver_notifications(world, stored)
    before = ExperimentStatus.parse(stored.get("status"))
    if "deletionTimestamp" in stored["metadata"]:
        return None
    if is_over(before):
        return await exposure_logs.reconcile_exposure_log(world, stored, acceptance.spec)
    if (told := await _told(world, stored, acceptance, before)) is not None:
        await write_status(world, stored, told.to_json())
        return RESYNC_S
    again_s = await exposure_logs.reconcile_exposure_log(world, stored, acceptance.spec)
    return RESYNC_S if again_s is None else min(again_s, RESYNC_S)


async def _told(
    world: Dependencies, stored: Object, acceptance: ExperimentAcceptance, before: ExperimentStatus
) -> ExperimentStatus | None:
    """The status of one that its ModelDeployment has nothing to say of; None for all others."""
    now = world.clock.now().replace(microsecond=0)
    if acceptance.spec is None and not state.is_frozen(before):
        return _refused(stored, before, acceptance.reason, acceptance.message, world)
    name = str((stored.get("spec") or {}).get("modelDeployment"))
    deployment = await world.kube.get(Ref(MODEL_DEPLOYMENT, stored["metadata"]["namespace"], name))
    if deployment is not None:
        return None
    missing = f"spec.modelDeployment: there is no ModelDeployment {name} in namespace {stored['metadata']['namespace']}"
    if state.has_begun(before):
        ended = transitions.end_experiment(before, STOPPED, MODEL_DEPLOYMENT_NOT_FOUND, missing, now)
        return _refused(stored, ended, MODEL_DEPLOYMENT_NOT_FOUND, missing, world)
    waiting = before.model_copy(update={"phase": "Pending"})
    return _refused(stored, waiting, MODEL_DEPLOYMENT_NOT_FOUND, f"{missing}; it begins when there is one", world)


def _refused(
    stored: Object, status: ExperimentStatus, reason: str, message: str, world: Dependencies
) -> ExperimentStatus:
    """A status with why it does not run."""
    now, generation = world.clock.now().replace(microsecond=0), stored["metadata"]["generation"]
    conditions = experiment_conditions(status.conditions, generation=generation, at=now)
    waits = reason == MODEL_DEPLOYMENT_NOT_FOUND and not is_over(status)
    mark_stalled = conditions.mark_false if waits else conditions.mark_true
    mark_stalled("Stalled", reason, message, at=now)
    for type_ in ("Ready", "Running", *(() if reason == MODEL_DEPLOYMENT_NOT_FOUND else ("SpecAccepted",))):
        conditions.mark_false(type_, reason, message, at=now)
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions.conditions()})
