"""Conditions and events of the Experiment that records a rollout."""

from dataclasses import replace
from typing import Final

from sundog_operator.api import ExperimentStatus
from sundog_operator.api.conditions import Conclusion
from sundog_operator.api.reasons import ExperimentReason, PauseReason
from sundog_operator.core import events
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.forecast import gate_forecast
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import trial_status
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.trial import baseline_outage, phases
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
    attempt = context.find_rollout(context.commit[0]) if context.commit is not None else None
    if context.commit is None or attempt is None:
        return context
    name, status = context.commit
    running = Conclusion("True", status.phase, "")
    ended = Conclusion("False", status.verdict.code or status.phase, status.verdict.reason)
    conclusions = {
        "Running": ended if phases.is_over(status) else running,
        "Ready": running,
        "Conclusive": _conclusive(status),
    }
    if (quality := _data_quality(context, status)) is not None:
        conclusions["DataQuality"] = quality
    committed = trial_status.with_conditions(attempt, status, conclusions, context.now)
    return replace(context, commit=(name, notifications.add_notices(attempt.status, committed, context.now)))


def _data_quality(context: PlanContext, status: ExperimentStatus) -> Conclusion | None:
    """Return what this pass's evaluation shows; None without one, as after a command."""
    evaluated = context.evaluation
    if not status.plan.guardrails:
        message = freeze.no_evidence_reason(status.plan) if status.plan.reason else NOT_EVALUATED
        return Conclusion("Unknown", ExperimentReason.NOT_EVALUATED, message)
    if evaluated is None:
        in_bake = Conclusion("Unknown", ExperimentReason.NOT_EVALUATED, EVALUATED_IN_BAKE)
        return None if state.is_evaluated(status) else in_bake
    if evaluated.mismatch:
        return Conclusion("False", ExperimentReason.SAMPLE_RATIO_MISMATCH, evaluated.mismatch)
    if evaluated.feedback_problem is not None:
        return Conclusion("False", *evaluated.feedback_problem)
    if evaluated.unreachable_edges:
        message = f"gates wait for the counters of {', '.join(evaluated.unreachable_edges)}"
        return Conclusion("Unknown", ExperimentReason.EDGE_SILENT, message)
    message = join_texts(_lost_message(*evaluated.lost), evaluated.ignored_outcomes_message)
    return Conclusion("True", ExperimentReason.CONSISTENT, message)


def _conclusive(status: ExperimentStatus) -> Conclusion:
    has_gates = bool(status.plan.guardrails)
    why = _missing_evidence(status) if has_gates else freeze.no_evidence_reason(status.plan)
    undecided = _undecided_message(status, why)
    if has_gates and not (phases.is_over(status) or state.is_decided_by_copies(status)):
        # A step that passed its gate may still be rolled back, for example in a bake.
        return Conclusion("False", phases.UNDECIDED, undecided)
    return trial_status.evaluate_conclusive(status, undecided)


def _undecided_message(status: ExperimentStatus, why: str) -> str:
    """Return why the evidence is undecided, and what may promote without it; or how an ended rollout ended."""
    if phases.is_over(status) and (status.plan.guardrails or status.without_evidence):
        return status.verdict.reason
    return "; ".join(filter(None, (why, steps_without_evidence.describe_exceptions(status.plan))))


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
