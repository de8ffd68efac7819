"""The planner of a ModelDeployment: what is observed goes in, what to write comes out.

`plan` is pure, total and deterministic. It decides in a fixed order, each step reading what the earlier ones settled:
accept the spec → know its revision → settle what ended → obey a command → choose a candidate → walk the rollout → let go of drained
revisions → say what is true. Whatever moves traffic is committed in a status first; the Serve document and the split document follow from
statuses alone (`core.live`), so the operator can die at any line.
"""

from dataclasses import dataclass
from datetime import datetime

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.core import revisions
from sundog_operator.core.analysis import shadow_agreement
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner import candidate as planner_candidate
from sundog_operator.core.planner import conditions as planner_conditions
from sundog_operator.core.planner import (
    deadline,
    desired_state,
    drain,
    evaluation,
    outcome,
    recovery,
    requeue,
    retry,
    rollback_window,
    rollout_conditions,
    warm_revisions,
)
from sundog_operator.core.planner import status as planner_status
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.core.planner.command_execution import execute_command
from sundog_operator.core.planner.context import Json, ObservedState, PlanContext
from sundog_operator.core.planner.experiment import conditions as experiment_conditions
from sundog_operator.core.planner.experiment import lifecycle, start
from sundog_operator.core.planner.problems.poison_requests import report_poison_requests
from sundog_operator.core.planner.problems.stale_edges import replace_stale_edge
from sundog_operator.core.rollout import history, prometheus_checks, state, state_machine


@dataclass(frozen=True, slots=True)
class ReconcilePlan:
    """What to write, in this order: creates, the Experiments' statuses, the status; then what is surplus goes. Nothing is written twice.

    Attributes:
        rollout: (Experiment name, status) to commit, or None.
        own: the same of Experiments of users.
        surplus_revisions: names of ControllerRevisions beyond the history limit.
        surplus_experiments: names of rollout Experiments beyond it.
        requeue_after_s: when to look again without being woken, in seconds.
        late_edges: edges whose pods to delete.
    """

    objects_to_create: tuple[Json, ...]
    rollout: tuple[str, ExperimentStatus] | None
    status: ModelDeploymentStatus
    surplus_revisions: tuple[str, ...]
    surplus_experiments: tuple[str, ...]
    events: tuple[KubernetesEvent, ...]
    requeue_after_s: float
    edges_to_delete: tuple[EdgeReport, ...] = ()
    own: tuple[tuple[str, ExperimentStatus], ...] = ()


STEPS = (
    recovery.recover_lost_status,
    recovery.find_or_create_revision,
    recovery.assign_cluster,
    lifecycle.sync_active_experiment,
    outcome.apply_rollout_outcome,
    execute_command,
    planner_candidate.choose_candidate,
    planner_candidate.ensure_rollout_experiment,
    deadline.track_candidate,
    retry.retry_candidate,
    retry.retry_stable,
    outcome.promote_without_steps,
    start.start_next_experiment,
)


def make_plan(seen: ObservedState, now: datetime) -> ReconcilePlan:
    """Decide one pass."""
    draft = _draft(seen, now)
    for step in STEPS:
        step(draft)
    _walk(draft)
    lifecycle.advance_experiment(draft)
    drain.release_drained_revisions(draft)
    warm_revisions.release_expired(draft)
    planner_status.update_measured_fields(draft)
    planner_conditions.set_conditions(draft)
    rollout_conditions.set_rollout_conditions(draft)
    experiment_conditions.set_conditions(draft)
    lifecycle.report_data_quality(draft)
    report_poison_requests(draft)
    late = replace_stale_edge(draft)
    return ReconcilePlan(
        objects_to_create=tuple(draft.objects_to_create),
        rollout=draft.commit,
        status=draft.status,
        surplus_revisions=_surplus_revisions(draft),
        surplus_experiments=_surplus_experiments(draft),
        events=tuple(draft.events),
        requeue_after_s=requeue.requeue_after_s(draft),
        edges_to_delete=late,
        own=tuple(draft.experiment_statuses.items()),
    )


def _draft(seen: ObservedState, now: datetime) -> PlanContext:
    stored = ModelDeploymentStatus.parse(seen.deployment.get("status"))
    acceptance = accept_model_deployment(seen.deployment, seen.installation)
    return PlanContext(
        seen=seen,
        now=now.replace(microsecond=0),
        service=seen.deployment["metadata"]["name"],
        before=stored,
        status=stored,
        acceptance=acceptance,
        spec=acceptance.spec,
    )


def _walk(draft: PlanContext) -> None:
    """Let the rollout's state machine take one step, unless this plan commits something of it already."""
    progress, candidate = draft.progress, draft.status.candidate
    if progress is None or candidate is None or draft.commit is not None:
        return
    counted = evaluation.evaluate_rollout(draft)
    attempt = draft.rollout
    draft.copies = shadow_agreement.evaluate_shadow(progress, attempt.uid if attempt else "", draft.seen.edges)
    seen = state.RolloutInputs(
        now=draft.now,
        replicas=draft.replicas,
        available=draft.available(candidate.revision),
        serving=draft.serving(candidate.revision),
        confirmed=draft.confirmed,
        held=draft.held,
        opens_at=draft.opens_at,
        failure=deadline.find_failure(draft, candidate),
        late=deadline.find_deadline_pause_reason(draft, candidate),
        evidence=draft.evaluation,
        answer=draft.seen.answer,
        copies=draft.copies,
        stable=draft.serving(draft.stable_number or 0),
        dead=deadline.is_dead(draft, candidate),
        patience=draft.spec.rollout.progress_deadline if draft.spec else state.GIVE_BACK_TIMEOUT,
    )

    def ticked(*, moved: bool) -> ExperimentStatus:
        told = prometheus_checks.record_readings(
            planner_status.report_metrics(draft, progress, moved=moved), draft.seen.readings
        )
        return state_machine.tick(told, seen)

    after = ticked(moved=False)
    if after != progress:
        # Where anything moves more often than once a minute, what is known would never be told else.
        after = ticked(moved=True)
    after = planner_status.report_counts(draft, after, progress, counted, moved=False)
    weighs = (draft.evaluation or draft.copies) is not None
    if after != progress or (weighs and draft.has_terminating_edge(progress)):
        # What was counted is written with what follows from it.
        told = planner_status.report_counts(draft, after, progress, counted, moved=True)
        if counted is not None:
            told = told.model_copy(update={"tallies": counted.pack()})
        if draft.copies is not None:
            told = told.model_copy(update={"shadow": draft.copies.status})
        if told != progress:
            draft.commit_rollout(
                history.record_point(told, planner_status.current_metrics(draft) or told.metrics, draft.now)
            )
            draft.events.extend(rollout_conditions.transition_events(draft, progress, after))


def _surplus_revisions(draft: PlanContext) -> tuple[str, ...]:
    """What is beyond the history. While the spec is refused nobody knows what may return, nor what was wanted and is held back."""
    if draft.spec is None:
        return ()
    kept = set(desired_state.live_revisions(draft.status)) | ({draft.wanted.number} if draft.wanted else set())
    if draft.status.candidate is not None:
        kept.add(draft.status.candidate.revision)
    kept.update(arm.revision for arm in draft.status.arms or ())
    kept.update(rollback_window.revisions_in_window(draft.spec.rollout, draft.status.stable_before))
    gone = revisions.find_surplus(draft.seen.revisions, kept, draft.status.stable_before)
    return tuple(names.application(draft.service, revision.number) for revision in gone)


def _surplus_experiments(draft: PlanContext) -> tuple[str, ...]:
    ended = [
        rollout
        for rollout in draft.seen.rollouts
        if state.is_over(rollout.status) and rollout.name != draft.before.experiment
    ]
    ended.sort(key=lambda rollout: (rollout.status.plan.frozen_at or draft.now, rollout.name))
    return tuple(rollout.name for rollout in ended[: max(0, len(ended) - revisions.HISTORY_LIMIT)])
