"""The advance of a rollout in a pass: its evidence, a tick of its state machine, and the status to commit."""

from dataclasses import replace

from sundog_operator.api import ExperimentStatus, RevisionStatus
from sundog_operator.core.analysis import shadow_agreement
from sundog_operator.core.planner import trial_status
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.rollout import deadline, evaluation
from sundog_operator.core.planner.rollout.conditions import transition_events
from sundog_operator.core.trial.rollout import prometheus_checks, state, state_machine


def advance_rollout(context: PlanContext) -> PlanContext:
    """Tick the rollout's state machine, unless this plan commits a status of the rollout already."""
    progress, candidate, attempt = context.progress, context.status.candidate, context.rollout
    if progress is None or candidate is None or context.commit is not None:
        return context
    counted, evaluated = evaluation.evaluate_rollout(context)
    shadow = shadow_agreement.evaluate_shadow(progress, attempt.uid if attempt else "", context.observed.edges)
    context = replace(context, evaluation=evaluated, shadow=shadow)
    inputs = _rollout_inputs(context, candidate)

    def ticked(*, moved: bool) -> ExperimentStatus:
        reported = evaluation.report_metrics(context, progress, moved=moved)
        return state_machine.tick(prometheus_checks.record_readings(reported, context.observed.readings), inputs)

    after = ticked(moved=False)
    if after != progress:
        # Frequent transitions must not delay the report of the metrics.
        after = ticked(moved=True)
    metrics, shadow_status = evaluation.current_metrics(context), shadow.status if shadow is not None else None
    committed = trial_status.next_status(
        context, progress, after, counted, evaluation.count_arm, metrics, shadow_status
    )
    if committed is None:
        return context
    context = context.commit_rollout(committed)
    return context.report(*transition_events(context, progress, committed))


def _rollout_inputs(context: PlanContext, candidate: RevisionStatus) -> state.RolloutInputs:
    return state.RolloutInputs(
        now=context.now,
        replicas=context.replicas,
        available=context.available(candidate.revision),
        serving=context.serving(candidate.revision),
        confirmed=context.is_split_confirmed,
        held=context.is_held,
        opens_at=context.window_opens_at,
        failure=deadline.find_failure(context, candidate),
        deadline_cause=deadline.find_deadline_pause_reason(context, candidate),
        evidence=context.evaluation,
        webhook_result=context.observed.answer,
        shadow=context.shadow,
        stable=context.serving(context.stable_number or 0),
        is_dead=deadline.is_dead(context, candidate),
        give_back_timeout=context.spec.rollout.progress_deadline if context.spec else state.GIVE_BACK_TIMEOUT,
    )
