"""Weighs what the edges count for the experiment that is under way, and projects it into its status."""

from dataclasses import replace

from sundog_operator.api import CONTROL, ExperimentStatus, MetricStatus
from sundog_operator.core.analysis import counters, feedback
from sundog_operator.core.analysis.arm_pair import CollectedCounts
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.edge import confirmation, request_counts, units
from sundog_operator.core.experiments import (
    dropped_arms,
    evaluate,
    outcome_evaluation,
    power,
    state,
    transitions,
)
from sundog_operator.core.experiments.evaluation import ExperimentEvaluation, ObservedRate
from sundog_operator.core.experiments.queue import UserExperiment
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.evaluation import request_deadline_s
from sundog_operator.core.rollout.resolve import StableTraffic, needs_threshold
from sundog_operator.core.stats.outcome_findings import OutcomeVerdict
from sundog_operator.core.stats.power.experiment_simulation import ControlBaseline


def evaluate_experiment(
    context: PlanContext, experiment: UserExperiment, progress: ExperimentStatus
) -> Counters | None:
    """Judge it. Gives what was counted; None before it has begun."""
    if not state.has_begun(progress):
        return None
    edges, waits_s = context.observed.edges, request_deadline_s(context.observed.split)
    now_s = counters.counted_until_s(edges, context.now.timestamp())
    look = counters.CountScope(
        epochs=[epoch.number for epoch in progress.evidence_epochs],
        in_force=progress.epoch.number,
        now_s=now_s,
        timeout_s=waits_s,
        control=CONTROL,
        arms=[arm.name for arm in state.treatment_arms(progress)],
    )
    blocks = counters.collect_blocks(experiment.uid, edges)
    counted = counters.update_counters(Counters.unpack(progress.tallies, experiment.uid), edges, blocks, look)
    counted, problem = _with_feedback(context, experiment, progress, counted)
    seen = CollectedCounts(
        tallies=counted,
        reports=edges,
        blocks=blocks,
        traffic=_traffic(context, experiment, progress),
        now_s=now_s,
        timeout_s=waits_s,
    )
    context.experiment_evaluation, context.evaluated_experiment = (
        evaluate.evaluate_experiment(progress, seen, _healthy(context, progress), problem),
        experiment.name,
    )
    return counted


def _with_feedback(
    context: PlanContext, experiment: UserExperiment, progress: ExperimentStatus, counted: Counters
) -> tuple[Counters, tuple[str, str] | None]:
    """What edges tell of outcomes as well, and why nothing is to be built on that; nothing is asked for before there is evidence."""
    wanted = outcome_evaluation.make_feedback_selection(context.service, experiment.uid, progress)
    if wanted is None or not progress.evidence_epochs:
        return counted, None
    known, problem = feedback.update_sums(
        counted.feedback, [each for each in context.observed.edges if _serves(each)], wanted
    )
    return replace(counted, feedback=known), problem


def _serves(edge: EdgeReport) -> bool:
    return edge.ready or edge.terminating


def _healthy(context: PlanContext, progress: ExperimentStatus) -> dict[str, int]:
    """Healthy replicas by arm."""
    edges = context.observed.edges
    return {arm.name: confirmation.healthy_replicas(context.service, arm.revision or 0, edges) for arm in progress.arms}


def _traffic(context: PlanContext, experiment: UserExperiment, progress: ExperimentStatus) -> StableTraffic:
    """Stable's, as long as a latency is not known that the arms' are to be compared with."""
    if not needs_threshold(progress.plan.guardrails):
        return StableTraffic()
    return context.traffic_of(state.control_revision(progress), experiment.uid, progress.epoch.number)


def report_metrics(context: PlanContext, status: ExperimentStatus) -> ExperimentStatus:
    """Project what the evidence says: once a minute, and where nothing was said yet."""
    judged = context.experiment_evaluation
    if judged is None or not (context.is_report_due(status) or not status.metrics):
        return status
    told = tuple(_doubted(context, each, status, judged) for each in judged.metrics)
    return status.model_copy(update={"metrics": dropped_arms.merge_dropped_metrics(status, told)})


def _doubted(
    context: PlanContext, told: MetricStatus, status: ExperimentStatus, judged: ExperimentEvaluation
) -> MetricStatus:
    """What an arm may win by, or has to pass for it, with the warning that its time is hardly enough."""
    if told.verdict != OutcomeVerdict.UNDECIDED or told.arm in state.dropped_arms(status) or status.since is None:
        return told
    if told.role == "guardrail":
        lasted_s = (context.now - status.since).total_seconds()
        doubt = power.find_undecidable_guardrail(told, lasted_s, state.time_left_s(status, judged, context.now))
    else:
        doubt = _doubt_of_success(context, told, judged.rate)
    return (
        told.model_copy(update={"message": f"{told.message}; {doubt}"[: transitions.MAX_REASON_CHARS]})
        if doubt
        else told
    )


def _doubt_of_success(context: PlanContext, told: MetricStatus, rate: ObservedRate | None) -> str:
    spec = context.experiment.acceptance.spec if context.experiment is not None else None
    if spec is None or rate is None or told.role != outcome_evaluation.SUCCESS:
        return ""
    known = rate.values.get(told.name)
    bases = {} if known is None or not known[0] > 0 else {told.name: ControlBaseline(*known)}
    return power.find_undecidable_metric(spec, rate.units_per_second, bases)


def report_counts(
    context: PlanContext,
    experiment: UserExperiment,
    status: ExperimentStatus,
    before: ExperimentStatus,
    counted: Counters | None,
    *,
    moved: bool,
) -> ExperimentStatus:
    """Project what was counted into the arms, edges that are gone included: at every transition, else once a minute."""
    if not state.has_begun(status) or not (moved or context.is_report_due(status)):
        return status
    known = context.experiment_evaluation.units if context.experiment_evaluation else {}
    keeps = units.is_sticky(status.plan)
    arms = []
    for arm in status.arms:
        told = request_counts.count_requests_and_errors(experiment.uid, arm.name, context.observed.edges)
        requests, errors = counters.monotonic_totals(arm, told, counted)
        fell = known.get(arm.name, 0 if keeps else requests)
        update = {"requests": requests, "errors": errors, "units": max(arm.units, fell)}
        arms.append(arm.model_copy(update=update))
    if tuple(arms) == status.arms and status.metrics == before.metrics:
        return status
    return status.model_copy(update={"arms": tuple(arms), "counted_at": context.now})
