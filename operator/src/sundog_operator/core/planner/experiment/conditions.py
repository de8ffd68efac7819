"""Conditions and phases of users' Experiments."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sundog_operator.api import Condition, ExperimentSpec, ExperimentStatus, MetricStatus
from sundog_operator.api.conditions import Conclusion
from sundog_operator.api.reasons import Cause, EndReason, ExperimentReason, MetricNote
from sundog_operator.core.edge import salts
from sundog_operator.core.forecast import expected_traffic
from sundog_operator.core.planner import trial_status
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.experiment import arm_status, lifecycle
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.stats.outcome_findings import OutcomeVerdict
from sundog_operator.core.trial import baseline_outage
from sundog_operator.core.trial.experiment import arms, state
from sundog_operator.core.trial.experiment.queue import UserExperiment
from sundog_operator.core.trial.phases import RUNNING, STOPPED, is_over

NORMAL_END_REASONS: Final = (
    EndReason.STOPPED_BY_USER,
    EndReason.STOP_COMMAND,
    EndReason.SUPERSEDED,
    EndReason.ROLLED_BACK,
)
"""Reasons for which an Experiment stops without a problem."""

DECIDED_VERDICTS: Final = (OutcomeVerdict.BETTER, OutcomeVerdict.WORSE, OutcomeVerdict.NO_EFFECT)
"""Verdicts of a success metric that needs no more units."""


def set_conditions(context: PlanContext) -> PlanContext:
    """Set the conditions and phases of all users' Experiments; only changed statuses are written."""
    changed: dict[str, ExperimentStatus] = {}
    for experiment in context.observed.user_experiments:
        status = context.experiment_statuses.get(experiment.name, experiment.status)
        if experiment.acceptance.spec is None and not state.is_frozen(status) and not is_over(status):
            # The Experiment's own reconcile pass reports the refusal, whatever its ModelDeployment does.
            if status != experiment.status:
                changed[experiment.name] = status
            continue
        updated = _with_conditions(context, experiment, _with_phase(context, experiment, status))
        if updated.to_json() != experiment.status.to_json():
            changed[experiment.name] = updated
    return replace(context, experiment_statuses=changed)


def _with_phase(context: PlanContext, experiment: UserExperiment, status: ExperimentStatus) -> ExperimentStatus:
    if is_over(status) or state.has_begun(status) or _is_active(context, experiment):
        return status
    waits = context.experiment_waits.get(experiment.name)
    return status.model_copy(
        update={"phase": "Queued" if waits and waits.reason == ExperimentReason.QUEUED else "Pending"}
    )


def _is_active(context: PlanContext, experiment: UserExperiment) -> bool:
    return context.experiment is not None and context.experiment.name == experiment.name


def _with_conditions(context: PlanContext, experiment: UserExperiment, status: ExperimentStatus) -> ExperimentStatus:
    accepted = _accepted(context, experiment, status)
    conclusions = {
        "SpecAccepted": accepted,
        "Running": _running(context, experiment, status),
        "DataQuality": _data_quality(context, experiment, status),
        "Conclusive": trial_status.evaluate_conclusive(status, _missing_evidence(status)),
    }
    if is_over(experiment.status):
        # The other conditions stay as they were at its end.
        conclusions = {"SpecAccepted": accepted, "Running": conclusions["Running"]}
    conclusions["Stalled"] = _stalled(status, accepted)
    conclusions["Ready"] = _ready(status, conclusions)
    return trial_status.with_conditions(experiment, status, conclusions, context.now)


def _accepted(context: PlanContext, experiment: UserExperiment, status: ExperimentStatus) -> Conclusion:
    acceptance, spec = experiment.acceptance, experiment.acceptance.spec
    if spec is None:
        return Conclusion("False", acceptance.reason, _with_plan_note(status, acceptance.message))
    waits = context.experiment_waits.get(experiment.name)
    if waits is not None and waits.reason in (ExperimentReason.NOT_YET_SUPPORTED, ExperimentReason.INVALID_SPEC):
        return Conclusion("False", *waits)
    if (
        not is_over(status)
        and state.has_begun(status)
        and (fields := lifecycle.find_plan_changes(context, experiment, spec))
    ):
        message = (
            f"{fields}: cannot be changed while it runs. Undo that, or set spec.stopped and create another Experiment"
        )
        return Conclusion("False", ExperimentReason.PLAN_FROZEN, _with_plan_note(status, message))
    warnings = [] if is_over(status) else _warnings(context, experiment, spec, status)
    if not warnings:
        return Conclusion("True", ExperimentReason.ACCEPTED, "")
    return Conclusion("True", warnings[0].reason, "; ".join(each.message for each in warnings))


def _warnings(
    context: PlanContext, experiment: UserExperiment, spec: ExperimentSpec, status: ExperimentStatus
) -> list[Cause]:
    """Return what an accepted spec probably does not intend."""
    reuse = salts.make_reuse_message("Experiment", experiment.name, context.observed.salts)
    stable = context.revision(context.stable_number or 0)
    equal = arms.describe_equal_arms(stable, spec, context.spec) if stable is not None else ""
    found = (
        Cause(ExperimentReason.SALT_REUSED, reuse),
        Cause(ExperimentReason.ARMS_EQUAL, equal),
        Cause(ExperimentReason.UNDERPOWERED, _find_power_problem(context, experiment, spec, status)),
    )
    return [each for each in found if each.message]


def _find_power_problem(
    context: PlanContext, experiment: UserExperiment, spec: ExperimentSpec, status: ExperimentStatus
) -> str:
    """Return a sentence about a success metric that has no estimate yet and is unlikely to be decided; empty for none.

    Once a metric has an estimate, its entry of `status.metrics` has the warning, by the Experiment's own counts.
    """
    estimated = {each.name for each in status.metrics if each.ratio is not None}
    if not spec.metrics.success or estimated.issuperset(each.status_name for each in spec.metrics.success):
        return ""
    others = [each for each in context.observed.user_experiments if each.name != experiment.name]
    # The frozen rate does not change, so neither does the message.
    frozen = status.plan.requests_per_second if state.is_frozen(status) else None
    rate, when = (_present_rate(context), "at present") if frozen is None else (frozen, "before the start")
    expected = expected_traffic.expect_traffic(spec, others, rate, when)
    waiting = {name: base for name, base in expected.bases.items() if name not in estimated}
    return replace(expected, bases=waiting).find_undecidable_metric(spec)


def _present_rate(context: PlanContext) -> float | None:
    """Return the service's requests per second, with few digits, so that a message does not change all the time."""
    rate = context.traffic_of(context.stable_number).requests_per_second if context.stable_number is not None else None
    return None if rate is None else float(f"{rate:.2g}")


def _with_plan_note(status: ExperimentStatus, message: str) -> str:
    return (
        f"{message}; the running Experiment keeps its plan"
        if state.has_begun(status) and not is_over(status)
        else message
    )


def _running(context: PlanContext, experiment: UserExperiment, status: ExperimentStatus) -> Conclusion:
    if is_over(status):
        return Conclusion("False", status.verdict.code or status.phase, status.verdict.reason)
    waits = context.experiment_waits.get(experiment.name)
    if status.phase == RUNNING and (waits is None or _is_active(context, experiment)):
        dropped = [f"arm {arm.name} was dropped: {arm.dropped}" for arm in state.treatment_arms(status) if arm.dropped]
        won = [status.paused.message] if state.has_won(status) and status.paused is not None else []
        return Conclusion("True", RUNNING, "; ".join([*won, _shares(status), *dropped]))
    if _is_active(context, experiment):
        return Conclusion("False", ExperimentReason.ARMS_STARTING, _starting(context))
    return Conclusion("False", *waits) if waits else Conclusion("False", ExperimentReason.PENDING, "")


def _shares(status: ExperimentStatus) -> str:
    shares = ", ".join(f"{arm.name} {arm.weight} %" for arm in status.arms if arm.dropped is None)
    return shares if status.epoch.confirmed else f"{shares}; waits for the edges to confirm the split"


def _starting(context: PlanContext) -> str:
    """Return what each starting arm lacks."""
    missing = []
    for arm in context.status.arms or ():
        available = context.available(arm.revision)
        if available >= arm.replicas:
            continue
        retry = f", retry at {arm.retry_at:%Y-%m-%dT%H:%M:%SZ}" if arm.retry_at else ""
        missing.append(
            f"arm {arm.name}: {available} of {arm.replicas} replicas{retry}: {arm_status.describe_pending_reason(context, arm)}"
        )
    return "; ".join(missing) or "waits for the edges to confirm the split"


def _data_quality(context: PlanContext, experiment: UserExperiment, status: ExperimentStatus) -> Conclusion:
    evaluated = context.experiment_evaluation if context.evaluated_experiment == experiment.name else None
    stored = next((each for each in experiment.status.conditions if each.type == "DataQuality"), None)
    if evaluated is None and stored is not None and state.has_begun(status):
        return Conclusion.of(stored)
    problem = context.observed.storeless if experiment.has_outcomes else None
    storeless = (
        None if problem is None else Conclusion("False", problem.reason, f"outcomes are not stored: {problem.message}")
    )
    if evaluated is None or not status.evidence_epochs:
        return storeless or Conclusion("Unknown", ExperimentReason.NOT_EVALUATED, "there is no evidence yet")
    if evaluated.mismatch is not None:
        return _keep_numbers(experiment.status, status, stored, Conclusion("False", *evaluated.mismatch))
    if evaluated.feedback_problem is not None:
        return storeless or Conclusion("False", *evaluated.feedback_problem)
    if evaluated.unreachable_edges:
        edges = ", ".join(evaluated.unreachable_edges)
        return Conclusion("Unknown", ExperimentReason.EDGE_SILENT, f"verdicts wait for the counters of {edges}")
    # An ended Experiment has no pause any more.
    before = experiment.status if is_over(status) else status
    if baseline_outage.is_paused_for_baseline(before) and before.paused is not None:
        message = f"collects no evidence until control has been healthy for 5 minutes: {before.paused.message}"
        return Conclusion("False", before.paused.reason, message)
    if evaluated.data_loss is not None and not storeless:
        return _keep_numbers(experiment.status, status, stored, Conclusion("False", *evaluated.data_loss))
    consistent = Conclusion("True", ExperimentReason.CONSISTENT, evaluated.ignored_outcomes_message)
    return storeless or _keep_numbers(experiment.status, status, stored, consistent)


def _keep_numbers(
    before: ExperimentStatus, status: ExperimentStatus, stored: Condition | None, new: Conclusion
) -> Conclusion:
    """Return the new conclusion after a report of counts, else the stored one if only its numbers differ."""
    if stored is None or status.counted_at != before.counted_at:
        return new
    is_same = (stored.status, stored.reason, bool(stored.message)) == (new.status, new.reason, bool(new.message))
    return Conclusion.of(stored) if is_same else new


def _missing_evidence(status: ExperimentStatus) -> str:
    """Return why an Experiment is undecided."""
    if is_over(status):
        return status.verdict.reason
    if not state.has_begun(status):
        return "the arms have no traffic yet"
    if not status.evidence_epochs:
        return "warms up; these requests do not count as evidence"
    missing = _undecided_metrics(status)
    if not missing:
        return "no arm does harm"
    return f"arm {missing[0].arm}: {missing[0].message}{_unlikely_names(missing)}"


def _undecided_metrics(status: ExperimentStatus) -> list[MetricStatus]:
    """Return what is undecided of active arms: success metrics, then guardrails; those without any outcome come first."""
    metrics = [each for each in status.metrics if each.arm not in state.dropped_arms(status)]
    success = [each for each in metrics if each.role == state.SUCCESS and each.verdict not in DECIDED_VERDICTS]
    guardrails = [each for each in metrics if each.role == "guardrail" and each.verdict != MetricVerdict.PASSED]
    return sorted(success + guardrails, key=lambda each: each.note != MetricNote.UNREPORTED)


def _unlikely_names(missing: Sequence[MetricStatus]) -> str:
    """Return the metrics, 15 at most, that are unlikely to be decided in time, without the one whose message is shown."""
    shown = missing[0].name if missing[0].note == MetricNote.UNLIKELY else ""
    names = [each.name for each in missing if each.note == MetricNote.UNLIKELY and each.name != shown]
    others = list(dict.fromkeys(names))
    return f"; unlikely to be decided before it stops, see status.metrics: {', '.join(others)}" if others else ""


def _stalled(status: ExperimentStatus, accepted: Conclusion) -> Conclusion:
    if accepted.status == "False" and not is_over(status):
        return accepted._replace(status="True")
    code = status.verdict.code or status.phase
    if status.phase == STOPPED and code not in NORMAL_END_REASONS:
        return Conclusion("True", code, status.verdict.reason)
    return Conclusion("False", "", "")


def _ready(status: ExperimentStatus, conclusions: dict[str, Conclusion]) -> Conclusion:
    truth, reason, message = conclusions["Running"]
    stalled = conclusions["Stalled"]
    if truth == "True":
        problem = stalled.message if stalled.status == "True" else ""
        return Conclusion("True", RUNNING, "; ".join(filter(None, (message, problem))))
    if is_over(status) and stalled.status == "False":
        return Conclusion("True", status.phase, message)
    if stalled.status == "True":
        return stalled._replace(status="False")
    return Conclusion("False", reason, message)
