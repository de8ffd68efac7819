"""Evaluation of the active user's Experiment from the edges' counters, and its report in the status."""

from typing import Any

from sundog_operator.api import CONTROL, ArmStatus, ExperimentStatus, MetricStatus, Verdict
from sundog_operator.api.reasons import MetricNote
from sundog_operator.core.analysis import counters, feedback
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.edge import units
from sundog_operator.core.forecast import experiment_forecast
from sundog_operator.core.forecast.experiment_simulation import ControlBaseline
from sundog_operator.core.planner import trial_status
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.stats.outcome_findings import OutcomeVerdict
from sundog_operator.core.trial.evaluation import ExperimentEvaluation, ObservedTraffic, OutcomeDecision
from sundog_operator.core.trial.experiment import dropped_arms, evaluate, outcome_evaluation, state, transitions
from sundog_operator.core.trial.experiment.queue import UserExperiment
from sundog_operator.core.trial.phases import UNDECIDED


def evaluate_experiment(
    context: PlanContext, experiment: UserExperiment, progress: ExperimentStatus
) -> tuple[Counters | None, ExperimentEvaluation | None]:
    """Return the updated counters and the evaluation; None before the Experiment has traffic."""
    if not state.has_begun(progress):
        return None, None
    selection = outcome_evaluation.make_feedback_selection(context.service, experiment.uid, progress)
    before_evidence = not progress.evidence_epochs
    collected, problem = trial_status.collect_counts(
        context, progress, experiment.uid, CONTROL, None if before_evidence else selection
    )
    healthy = {arm.name: context.facts.healthy_replicas(arm.revision or 0) for arm in progress.arms}
    return collected.tallies, evaluate.evaluate_experiment(progress, collected, healthy, problem)


def report_metrics(context: PlanContext, status: ExperimentStatus) -> ExperimentStatus:
    """Return the status with the metrics, the leader and what a win waits for: once a minute, and as soon as there are any."""
    evaluated = context.experiment_evaluation
    if evaluated is None or not (context.is_report_due(status) or not status.metrics):
        return status
    metrics = tuple(_with_power_warning(context, each, status, evaluated) for each in evaluated.metrics)
    return status.model_copy(
        update={
            "metrics": dropped_arms.merge_dropped_metrics(status, metrics),
            "verdict": _present_verdict(status, evaluated.outcome_decision),
        }
    )


def _present_verdict(status: ExperimentStatus, decision: OutcomeDecision | None) -> Verdict:
    """Return the verdict with the present leader, and with what a win waits for; a verdict with a winner stays."""
    if decision is None or status.verdict.winner:
        return status.verdict.model_copy(update={"leader": None})
    # A decision is recorded with its end, and before the evidence every metric only lacks data.
    waits = decision.decision == UNDECIDED and bool(status.evidence_epochs)
    reason = decision.reason[: transitions.MAX_REASON_CHARS] if waits else status.verdict.reason
    return status.verdict.model_copy(update={"leader": decision.leader or None, "reason": reason})


def _with_power_warning(
    context: PlanContext, metric: MetricStatus, status: ExperimentStatus, evaluated: ExperimentEvaluation
) -> MetricStatus:
    """Return an undecided metric, with a warning in its message if the remaining time is probably too short."""
    if metric.verdict != OutcomeVerdict.UNDECIDED or metric.arm in state.dropped_arms(status) or status.since is None:
        return metric
    if metric.role == "guardrail" or _is_won_by_events(status, metric):
        lasted_s = max((context.now - status.since).total_seconds() - _window_s(status, metric), 0.0)
        warning = experiment_forecast.find_metric_without_time(
            metric, lasted_s, state.time_left_s(status, evaluated, context.now)
        )
    else:
        warning = _success_warning(context, metric, evaluated.observed_traffic)
    if not warning:
        return metric
    message = f"{metric.message}; {warning}"[: transitions.MAX_REASON_CHARS]
    return metric.model_copy(update={"message": message, "note": MetricNote.UNLIKELY})


def _is_won_by_events(status: ExperimentStatus, metric: MetricStatus) -> bool:
    """Whether a metric is a success metric of the edge, whose events estimate its time as those of a guardrail do."""
    planned = state.planned_outcomes(status, state.SUCCESS)
    return metric.role == state.SUCCESS and any(
        each.metric is not None and each.name == metric.name for each in planned
    )


def _window_s(status: ExperimentStatus, metric: MetricStatus) -> int:
    """Return a metric's conversion window in seconds; 0 without one. Guardrails of the edge have none."""
    planned = state.planned_outcomes(status, metric.role or "")
    return next((feedback.window_s(each) for each in planned if each.name == metric.name), 0)


def _success_warning(context: PlanContext, metric: MetricStatus, traffic: ObservedTraffic | None) -> str:
    spec = context.experiment.acceptance.spec if context.experiment is not None else None
    if spec is None or traffic is None or metric.role != state.SUCCESS:
        return ""
    known = traffic.control_values.get(metric.name)
    baselines = {} if known is None or not known[0] > 0 else {metric.name: ControlBaseline(*known)}
    return experiment_forecast.find_undecidable_metric(spec, traffic.units_per_second, baselines)


def _count_units(
    context: PlanContext, status: ExperimentStatus, arm: ArmStatus, requests: int, counted: Counters | None
) -> dict[str, Any]:
    """Return the units of an arm, and where the number is from. A number never falls, except when an exact one replaces an estimate."""
    if not units.is_sticky(status.plan):
        return {"units": max(arm.units, requests)}
    if state.counts_exposures(status.plan):
        if counted is None:
            return {}
        before = arm.units if arm.units_from == "exposures" else 0
        exact = state.count_exposed_units(status, counted, arm.name)
        return {"units": max(before, exact), "units_from": "exposures"}
    sampled = context.experiment_evaluation.units if context.experiment_evaluation else {}
    if arm.units_from == "exposures" or arm.name not in sampled:
        return {}
    return {"units": max(arm.units, sampled[arm.name]), "units_from": "sample"}


def count_arm(
    context: PlanContext, status: ExperimentStatus, arm: ArmStatus, counted: Counters | None
) -> dict[str, Any]:
    """Return the fields of an arm that have its requests and units; none before it has traffic.

    `counted` includes edges that are gone.
    """
    if not state.has_begun(status):
        return {}
    requests, errors = counters.monotonic_totals(arm, counted, state.FIRST_EPOCH)
    lost = counted.over_epochs(arm.name, first=state.FIRST_EPOCH).lost if counted is not None else arm.lost
    units_by_source = _count_units(context, status, arm, requests, counted)
    return {"requests": requests, "errors": errors, "lost": lost or None, **units_by_source}
