"""The plan of one reconcile pass of a ModelDeployment: from the observed state to the objects to write.

`make_plan` is pure, total and deterministic. Its steps run in a fixed order, and each reads the results of the earlier ones:
accept the spec → find its revision → apply the outcome of an ended rollout → keep the traffic of what serves → measure the load →
execute a command → choose a candidate → advance the rollout → release drained revisions → set conditions.

A change of traffic is always committed in a status first. The Serve document and the split document follow from statuses
alone (`planner.desired_state`). So the operator may stop at any line.
"""

from dataclasses import dataclass
from datetime import datetime

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.core import revisions
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner import (
    desired_state,
    drain,
    edge_load,
    measured_status,
    recovery,
    requeue,
    restored_status,
    retry,
)
from sundog_operator.core.planner.conditions import model_deployment
from sundog_operator.core.planner.context import PlanContext, make_context
from sundog_operator.core.planner.experiment import conditions as experiment_conditions
from sundog_operator.core.planner.experiment import lifecycle, start
from sundog_operator.core.planner.facts import Json, ObservedState
from sundog_operator.core.planner.problems.poison_requests import report_poison_requests
from sundog_operator.core.planner.problems.stale_edges import replace_stale_edge
from sundog_operator.core.planner.rollout import (
    advance,
    deadline,
    idle_rollout,
    outcome,
    rollback_window,
    warm_revisions,
)
from sundog_operator.core.planner.rollout import candidate as planner_candidate
from sundog_operator.core.planner.rollout import conditions as rollout_conditions
from sundog_operator.core.planner.rollout.command_execution import execute_command
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.rollout import freeze


@dataclass(frozen=True, slots=True)
class ReconcilePlan:
    """Writes of one pass, in this order: new objects, the Experiments' statuses, the status; then deletions. Nothing is written twice.

    Attributes:
        rollout: (Experiment name, status) to commit, or None.
        user_experiments: (Experiment name, status) of users' Experiments to commit.
        surplus_revisions: names of ControllerRevisions beyond the history limit, to delete.
        surplus_experiments: names of rollout Experiments beyond the history limit, to delete.
        requeue_after_s: seconds until the next pass, unless a watch triggers one before.
        edges_to_delete: edges whose pods to delete.
    """

    objects_to_create: tuple[Json, ...]
    rollout: tuple[str, ExperimentStatus] | None
    status: ModelDeploymentStatus
    surplus_revisions: tuple[str, ...]
    surplus_experiments: tuple[str, ...]
    events: tuple[KubernetesEvent, ...]
    requeue_after_s: float
    edges_to_delete: tuple[EdgeReport, ...] = ()
    user_experiments: tuple[tuple[str, ExperimentStatus], ...] = ()


def make_plan(observed: ObservedState, now: datetime) -> ReconcilePlan:
    """Decide one reconcile pass."""
    context = make_context(observed, now)
    for step in STEPS:
        context = step(context)
    return ReconcilePlan(
        objects_to_create=_make_objects(context),
        rollout=context.commit,
        status=context.status,
        surplus_revisions=_surplus_revisions(context),
        surplus_experiments=_surplus_experiments(context),
        events=context.events,
        requeue_after_s=requeue.requeue_after_s(context),
        edges_to_delete=context.edges_to_delete,
        user_experiments=tuple(context.experiment_statuses.items()),
    )


def _make_objects(context: PlanContext) -> tuple[Json, ...]:
    """Return the objects to create: a ControllerRevision of each new revision, and the Experiment of a new rollout."""
    deployment, spec_revision = context.observed.deployment, context.spec_revision
    made = [revisions.make_controller_revision(deployment, each) for each in context.new_revisions]
    if context.new_attempt and spec_revision is not None:
        made.append(freeze.make_experiment(deployment, spec_revision, context.new_attempt))
    return tuple(made)


def _surplus_revisions(context: PlanContext) -> tuple[str, ...]:
    """Return the ControllerRevisions beyond the history limit.

    None while the spec is refused: the rollback window and the wanted revision are then unknown. The highest number always stays, because
    the next revision gets the one after it. A name that goes to another revision would find the pods of the first one.
    """
    if context.spec is None:
        return ()
    kept = set(desired_state.live_revisions(context.status)) | (
        {context.spec_revision.number} if context.spec_revision else set()
    )
    if context.status.candidate is not None:
        kept.add(context.status.candidate.revision)
    kept.update(arm.revision for arm in context.status.arms or ())
    kept.add(max(context.observed.taken, default=0))
    kept.update(rollback_window.revisions_in_window(context.spec.rollout, context.status.stable_before))
    surplus = revisions.find_surplus(context.observed.revisions, kept, context.status.stable_before)
    return tuple(names.application(context.service, revision.number) for revision in surplus)


def _surplus_experiments(context: PlanContext) -> tuple[str, ...]:
    ended = [
        rollout
        for rollout in context.observed.rollouts
        if phases.is_over(rollout.status) and rollout.name != context.before.experiment
    ]
    ended.sort(key=lambda rollout: (rollout.status.plan.frozen_at or context.now, rollout.name))
    return tuple(rollout.name for rollout in ended[: max(0, len(ended) - revisions.HISTORY_LIMIT)])


STEPS = (
    recovery.recover_lost_status,
    recovery.find_or_create_revision,
    recovery.assign_cluster,
    lifecycle.sync_active_experiment,
    outcome.apply_rollout_outcome,
    restored_status.keep_serving_revisions,
    edge_load.track_edge_load,
    execute_command,
    planner_candidate.choose_candidate,
    planner_candidate.ensure_rollout_experiment,
    idle_rollout.track_idle_rollout,
    deadline.track_candidate,
    retry.retry_candidate,
    retry.retry_stable,
    outcome.promote_without_steps,
    start.start_next_experiment,
    advance.advance_rollout,
    lifecycle.advance_experiment,
    drain.release_drained_revisions,
    warm_revisions.release_expired,
    measured_status.update_measured_fields,
    model_deployment.set_conditions,
    rollout_conditions.set_rollout_conditions,
    experiment_conditions.set_conditions,
    lifecycle.report_data_quality,
    report_poison_requests,
    replace_stale_edge,
)
"""The steps of a pass in their order. Each returns the draft with its part replaced."""
