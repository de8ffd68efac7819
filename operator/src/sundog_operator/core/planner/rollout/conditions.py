"""Conditions and events of the Experiment that records a rollout."""

from dataclasses import replace
from typing import Final

from sundog_operator.api import ConditionSet, ExperimentStatus, experiment_conditions
from sundog_operator.api.reasons import ExperimentReason, PauseReason
from sundog_operator.core import events
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.forecast import gate_forecast
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.trial import baseline_outage, phases
from sundog_operator.core.trial.evaluation import RolloutEvaluation
from sundog_operator.core.trial.rollout import explanations, freeze, notifications, state, steps_without_evidence
from sundog_operator.core.trial.rollout.transitions import join_texts

NOT_EVALUATED: Final = "the edges count requests, but a rollout without an evidence gate is not evaluated"
EVALUATED_IN_BAKE: Final = "the answers to copies are compared; traffic is evaluated in the bake"


def transition_events(context: PlanContext, before: ExperimentStatus, after: ExperimentStatus) -> list[KubernetesEvent]:
    """Return the events of one transition. The end of a rollout gets its event from the status of the ModelDeployment."""
    rollout, paused, weight = context.rollout, after.paused, state.canary_weight(after)
    if rollout is None or phases.is_over(after):
        return []
    if paused is not None and paused != before.paused and paused.reason != PauseReason.MANUAL:
        message = explanations.describe_pause(after)
        return [events.rollout_paused(rollout.name, after.epoch.number, paused.reason, message, paused.since)]
    if (
        before.paused is not None
        and baseline_outage.is_paused_for_baseline(before)
        and paused is None
        and after.giving_back is None
    ):
        return [events.rollout_resumed(rollout.name, before.paused.reason, before.paused.since)]
    if state.canary_weight(before) != weight:
        why = explanations.weight_change_reason(after)
        return [events.traffic_shifted(rollout.name, after.epoch.number, weight, rollout.revision, why)]
    if (step := explanations.step_entered_without_shift(before, after)) is not None:
        return [events.gate_opened(rollout.name, step.index, weight, step.opened_by or "")]
    return []


def set_rollout_conditions(context: PlanContext) -> PlanContext:
    """Set the conditions of the rollout Experiment whose status this plan commits."""
    attempt = next(
        (rollout for rollout in context.observed.rollouts if context.commit and rollout.name == context.commit[0]), None
    )
    if context.commit is None or attempt is None:
        return context
    name, status = context.commit
    conditions = experiment_conditions(attempt.status.conditions, generation=attempt.generation, at=context.now)
    mark_running = conditions.mark_false if phases.is_over(status) else conditions.mark_true
    reason = (status.verdict.code or status.phase) if phases.is_over(status) else status.phase
    mark_running("Running", reason, status.verdict.reason if phases.is_over(status) else "", at=context.now)
    conditions.mark_true("Ready", status.phase, "", at=context.now)
    _mark_evidence(context, status, conditions)
    update = {"observed_generation": attempt.generation, "conditions": conditions.conditions()}
    committed = notifications.add_notices(attempt.status, status.model_copy(update=update), context.now)
    return replace(context, commit=(name, committed))


def _mark_evidence(context: PlanContext, status: ExperimentStatus, conditions: ConditionSet) -> None:
    if not status.plan.guardrails:
        why = freeze.no_evidence_reason(status.plan)
        message = why if status.plan.reason else NOT_EVALUATED
        conditions.mark_unknown("DataQuality", ExperimentReason.NOT_EVALUATED, message, at=context.now)
        if status.verdict.decision == phases.UNDECIDED:
            conditions.mark_false("Conclusive", phases.UNDECIDED, _undecided_message(status, why), at=context.now)
        else:
            conditions.mark_true("Conclusive", status.verdict.decision, status.verdict.reason, at=context.now)
        return
    mismatch = context.evaluation.mismatch if context.evaluation else ""
    if mismatch:
        conditions.mark_false("DataQuality", ExperimentReason.SAMPLE_RATIO_MISMATCH, mismatch, at=context.now)
    elif context.evaluation is not None and (problem := context.evaluation.feedback_problem) is not None:
        conditions.mark_false("DataQuality", problem.reason, problem.message, at=context.now)
    elif context.evaluation is not None and context.evaluation.unreachable_edges:
        message = f"gates wait for the counters of {', '.join(context.evaluation.unreachable_edges)}"
        conditions.mark_unknown("DataQuality", ExperimentReason.EDGE_SILENT, message, at=context.now)
    elif context.evaluation is not None:
        conditions.mark_true(
            "DataQuality", ExperimentReason.CONSISTENT, _consistent_message(context.evaluation), at=context.now
        )
    elif not state.is_evaluated(status):
        conditions.mark_unknown("DataQuality", ExperimentReason.NOT_EVALUATED, EVALUATED_IN_BAKE, at=context.now)
    # A step that passed its gate may still be rolled back, for example in a bake.
    is_settled = phases.is_over(status) or state.is_decided_by_copies(status)
    if status.verdict.decision == phases.UNDECIDED or not is_settled:
        conditions.mark_false(
            "Conclusive", phases.UNDECIDED, _undecided_message(status, _missing_evidence(status)), at=context.now
        )
    else:
        conditions.mark_true("Conclusive", status.verdict.decision, status.verdict.reason, at=context.now)


def _undecided_message(status: ExperimentStatus, why: str) -> str:
    """Return why the evidence is undecided, and what may promote without it; or how an ended rollout ended."""
    if phases.is_over(status) and (status.plan.guardrails or status.without_evidence):
        return status.verdict.reason
    return "; ".join(filter(None, (why, steps_without_evidence.describe_exceptions(status.plan))))


def _consistent_message(evaluation: RolloutEvaluation) -> str:
    return join_texts(_lost_message(*evaluation.lost), evaluation.ignored_outcomes_message)


def _lost_message(stable: int, canary: int) -> str:
    """Return how many requests of the evidence have an unknown result; empty if none."""
    if not stable + canary:
        return ""
    return f"the result of {stable} requests of {names.STABLE} and {canary} of {names.CANARY} is unknown"


def _missing_evidence(status: ExperimentStatus) -> str:
    """Return the missing evidence, and a warning if the plan allows too little time; in a bake, what it waits for."""
    if state.is_baking(status) and status.step is not None:
        return status.step.reason
    return "; ".join(
        filter(None, (explanations.describe_missing_evidence(status), gate_forecast.find_undecidable_step(status.plan)))
    )
