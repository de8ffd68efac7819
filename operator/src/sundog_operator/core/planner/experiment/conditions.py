"""What is said of the experiments of users: conditions and phases of each, and when to look again."""

from collections.abc import Sequence
from typing import Final

from sundog_operator.api import Condition, ExperimentStatus, MetricStatus, experiment_conditions
from sundog_operator.core.edge import salts
from sundog_operator.core.experiments import outcome_evaluation, power, state
from sundog_operator.core.experiments.queue import UserExperiment
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.experiment import arm_status, lifecycle, start
from sundog_operator.core.rollout import baseline_outage
from sundog_operator.core.rollout.freeze import UNDECIDED
from sundog_operator.core.rollout.state import RUNNING, STOPPED, is_over
from sundog_operator.core.stats.findings import MetricVerdict

POLL_S: Final = 0.2
WAITING_POLL_S: Final = 1.0
EVIDENCE_POLL_S: Final = 5.0

PLAN_FROZEN: Final = "PlanFrozen"
SAMPLE_RATIO_MISMATCH: Final = "SampleRatioMismatch"
NORMAL_END_REASONS: Final = ("StoppedByUser", "StopCommand", "Superseded", "RolledBack")
"""Why an experiment was stopped that says nothing against it."""

Conclusion = tuple[str, str, str]
"""(status, reason, message) of a condition."""


def set_conditions(context: PlanContext) -> None:
    """Set the conditions of all of them; what changes is written."""
    for experiment in context.observed.own:
        status = context.experiment_statuses.get(experiment.name, experiment.status)
        if experiment.acceptance.spec is None and not state.is_frozen(status) and not is_over(status):
            # Why it is refused is told by itself, whatever becomes of its ModelDeployment.
            context.experiment_statuses.pop(experiment.name, None)
            if status != experiment.status:
                context.experiment_statuses[experiment.name] = status
            continue
        told = _concluded(context, experiment, _in_phase(context, experiment, status))
        context.experiment_statuses.pop(experiment.name, None)
        if told.to_json() != experiment.status.to_json():
            context.experiment_statuses[experiment.name] = told


def _in_phase(context: PlanContext, experiment: UserExperiment, status: ExperimentStatus) -> ExperimentStatus:
    if is_over(status) or (context.experiment is not None and context.experiment.name == experiment.name):
        return status
    waits = context.experiment_waits.get(experiment.name)
    return status.model_copy(update={"phase": "Queued" if waits and waits[0] == start.QUEUED else "Pending"})


def _concluded(context: PlanContext, experiment: UserExperiment, status: ExperimentStatus) -> ExperimentStatus:
    conditions = experiment_conditions(experiment.status.conditions, generation=experiment.generation, at=context.now)
    accepted = _accepted(context, experiment, status)
    said = {
        "SpecAccepted": accepted,
        "Running": _running(context, experiment, status),
        "DataQuality": _data_quality(context, experiment, status),
        "Conclusive": _conclusive(status),
    }
    if is_over(experiment.status):
        # What was known when it ended stays told.
        said = {"SpecAccepted": accepted, "Running": said["Running"]}
    said["Stalled"] = _stalled(status, accepted)
    said["Ready"] = _ready(status, said)
    mark = {"True": conditions.mark_true, "False": conditions.mark_false, "Unknown": conditions.mark_unknown}
    for type_, (truth, reason, message) in said.items():
        mark[truth](type_, reason, message, at=context.now)
    return status.model_copy(
        update={"observed_generation": experiment.generation, "conditions": conditions.conditions()}
    )


def _accepted(context: PlanContext, experiment: UserExperiment, status: ExperimentStatus) -> Conclusion:
    acceptance, spec = experiment.acceptance, experiment.acceptance.spec
    if spec is None:
        return "False", acceptance.reason, _goes_on(status, acceptance.message)
    waits = context.experiment_waits.get(experiment.name)
    if waits is not None and waits[0] in ("NotYetSupported", "InvalidSpec"):
        return "False", *waits
    if (
        not is_over(status)
        and state.has_begun(status)
        and (fields := lifecycle.find_plan_changes(context, experiment, spec))
    ):
        told = (
            f"{fields}: cannot be changed while it runs: undo that, or set spec.stopped and create another Experiment"
        )
        return "False", PLAN_FROZEN, _goes_on(status, told)
    if not is_over(status) and (
        told := salts.make_reuse_message("Experiment", experiment.name, context.observed.salts)
    ):
        return "True", salts.SALT_REUSED, told
    return "True", "Accepted", ""


def _goes_on(status: ExperimentStatus, message: str) -> str:
    return f"{message}; what runs goes on by its plan" if state.has_begun(status) and not is_over(status) else message


def _running(context: PlanContext, experiment: UserExperiment, status: ExperimentStatus) -> Conclusion:
    if is_over(status):
        reason, _, _ = status.verdict.reason.partition(":")
        return "False", reason or status.phase, status.verdict.reason
    if status.phase == RUNNING:
        dropped = [f"arm {arm.name} was dropped: {arm.dropped}" for arm in state.treatment_arms(status) if arm.dropped]
        won = [status.paused.message] if state.has_won(status) and status.paused is not None else []
        return "True", RUNNING, "; ".join([*won, _shares(status), *dropped])
    if context.experiment is not None and context.experiment.name == experiment.name:
        return "False", "ArmsStarting", _starting(context)
    waits = context.experiment_waits.get(experiment.name)
    return ("False", *waits) if waits else ("False", "Pending", "")


def _shares(status: ExperimentStatus) -> str:
    shares = ", ".join(f"{arm.name} {arm.weight} %" for arm in status.arms if arm.dropped is None)
    return shares if status.epoch.confirmed else f"{shares}; waits for the edges to confirm the split"


def _starting(context: PlanContext) -> str:
    """What each arm lacks."""
    told = []
    for arm in context.status.arms or ():
        available = context.available(arm.revision)
        if available >= arm.replicas:
            continue
        again = f", is tried again at {arm.retry_at:%Y-%m-%dT%H:%M:%SZ}" if arm.retry_at else ""
        told.append(
            f"arm {arm.name}: {available} of {arm.replicas} replicas{again}: {arm_status.describe_pending_reason(context, arm)}"
        )
    return "; ".join(told) or "waits for the edges to confirm the split"


def _data_quality(context: PlanContext, experiment: UserExperiment, status: ExperimentStatus) -> Conclusion:
    judged = context.experiment_evaluation if context.evaluated_experiment == experiment.name else None
    told = next((each for each in experiment.status.conditions if each.type == "DataQuality"), None)
    if judged is None and told is not None and state.has_begun(status):
        return told.status, told.reason, told.message
    reason, message = context.observed.storeless if experiment.has_outcomes else ("", "")
    storeless = ("False", reason, f"no outcome is kept: {message}") if reason else None
    if judged is None or not status.evidence_epochs:
        return storeless or ("Unknown", "NotEvaluated", "nothing that was counted is evidence yet")
    if judged.broken:
        return _as_counted(context, status, told, ("False", SAMPLE_RATIO_MISMATCH, judged.broken))
    if judged.feedback is not None:
        return storeless or ("False", *judged.feedback)
    if judged.unreachable_edges:
        who = ", ".join(judged.unreachable_edges)
        return "Unknown", "EdgeSilent", f"nothing is concluded before {who} has told what was counted there"
    # What has ended is paused no more.
    before = experiment.status if is_over(status) else status
    if baseline_outage.is_paused_for_baseline(before) and before.paused is not None:
        return (
            "False",
            before.paused.reason,
            f"counts no evidence until control has done well for 5 minutes: {before.paused.message}",
        )
    if judged.lost is not None and not storeless:
        return _as_counted(context, status, told, ("False", *judged.lost))
    return storeless or _as_counted(context, status, told, ("True", "Consistent", judged.unknown_units_message))


def _as_counted(context: PlanContext, status: ExperimentStatus, told: Condition | None, said: Conclusion) -> Conclusion:
    """What is said now, or was when it was last counted, if that differs in nothing but numbers: they change with each look."""
    if told is None or status.counted_at == context.now:
        return said
    is_same = (told.status, told.reason, bool(told.message)) == (*said[:2], bool(said[2]))
    return (told.status, told.reason, told.message) if is_same else said


def _conclusive(status: ExperimentStatus) -> Conclusion:
    if status.verdict.decision != UNDECIDED:
        return "True", status.verdict.decision, status.verdict.reason
    if is_over(status):
        return "False", UNDECIDED, status.verdict.reason
    if not state.has_begun(status):
        return "False", UNDECIDED, "its arms have no traffic yet"
    if not status.evidence_epochs:
        return "False", UNDECIDED, "warms up; what is counted is no evidence yet"
    missing = _missing(status)
    return "False", UNDECIDED, f"{_told_first(missing)}{_doubtful(missing)}" if missing else "no arm does harm"


def _missing(status: ExperimentStatus) -> list[MetricStatus]:
    """What arms that go on may win by, then what they have to pass for it and have not yet."""
    metrics = [each for each in status.metrics if each.arm not in state.dropped_arms(status)]
    success = [each for each in metrics if each.role == outcome_evaluation.SUCCESS]
    return success + [each for each in metrics if each.role == "guardrail" and each.verdict != MetricVerdict.PASSED]


def _told_first(missing: Sequence[MetricStatus]) -> str:
    return f"arm {missing[0].arm}: {missing[0].message}"


def _doubtful(missing: Sequence[MetricStatus]) -> str:
    """The names of those that are hardly decided in their time, of which there are 15 at most; not of the one that is told anyway."""
    names = [each.name for each in missing if f"{each.name} {power.UNLIKELY_TEXT}" in each.message]
    others = [name for name in dict.fromkeys(names) if f"{name} {power.UNLIKELY_TEXT}" not in missing[0].message]
    return f"; hardly decided before it stops, see status.metrics: {', '.join(others)}" if others else ""


def _stalled(status: ExperimentStatus, accepted: Conclusion) -> Conclusion:
    if accepted[0] == "False" and not is_over(status):
        return "True", accepted[1], accepted[2]
    reason = status.verdict.reason.partition(":")[0]
    if status.phase == STOPPED and reason not in NORMAL_END_REASONS:
        return "True", reason, status.verdict.reason
    return "False", "", ""


def _ready(status: ExperimentStatus, said: dict[str, Conclusion]) -> Conclusion:
    truth, reason, message = said["Running"]
    if truth == "True":
        problem = said["Stalled"][2] if said["Stalled"][0] == "True" else ""
        return "True", RUNNING, "; ".join(filter(None, (message, problem)))
    if is_over(status) and said["Stalled"][0] == "False":
        return "True", status.phase, message
    if said["Stalled"][0] == "True":
        return "False", said["Stalled"][1], said["Stalled"][2]
    return "False", reason, message


def requeue_after_s(context: PlanContext) -> float | None:
    """When to look again, in seconds; None where no experiment asks for it."""
    active = context.experiment_progress
    if active is None:
        status, queued = context.status, any(reason == start.QUEUED for reason, _ in context.experiment_waits.values())
        begins = queued and not status.retiring and status.candidate is None and status.queued is None
        begins = begins and context.capacity_shortage is None
        return POLL_S if begins else None
    if context.experiment is not None and context.experiment.name in context.experiment_statuses:
        return 0.0
    confirmed = context.is_split_confirmed
    if active.phase != RUNNING or not confirmed:
        return WAITING_POLL_S if confirmed else POLL_S
    return WAITING_POLL_S if context.status.retiring else EVIDENCE_POLL_S
