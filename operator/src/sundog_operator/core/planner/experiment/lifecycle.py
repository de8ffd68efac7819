"""Walks the experiments of users with their ModelDeployment: one is brought up, runs and ends; the others wait in line.

What is decided is written into the Experiment before the ModelDeployment's status, and that before anything follows from it. So each step
takes up what an earlier pass wrote and could not carry on.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from sundog_operator.api import ExperimentSpec, ExperimentStatus
from sundog_operator.core import events
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.experiments import arms, freeze, state, state_machine
from sundog_operator.core.experiments.queue import UserExperiment, order_waiting
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import deadline
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.experiment import cleanup, evaluation
from sundog_operator.core.planner.experiment.arm_status import arm_state, started
from sundog_operator.core.planner.experiment.start import (
    STOPPED_BY_USER,
    is_on_stable,
    make_arm_revision,
    set_arms,
    why_not,
)
from sundog_operator.core.rollout import baseline_outage, history
from sundog_operator.core.rollout.evaluation import CONTROL_DEGRADED, CONTROL_UNHEALTHY
from sundog_operator.core.rollout.state import STOPPED, is_over

DATA_QUALITY_GRACE: Final = timedelta(minutes=1)
"""For so long an edge may take up what it is asked for, and a store start anew."""


def sync_active_experiment(context: PlanContext) -> None:
    """Take up the experiment that the status names, or one that says it runs; carry over what it has decided already."""
    named = next((each for each in context.observed.own if each.name == context.status.experiment), None)
    if named is None and (context.status.arms or _is_of_rollout(context)):
        if not _is_of_rollout(context):
            _lose(context)
        return
    experiment = named or _running(context)
    if experiment is None:
        return
    if is_over(experiment.status):
        cleanup.finish_experiment(context, experiment, experiment.status)
    elif not state.is_frozen(experiment.status) or (named is None and not is_on_stable(context, experiment.status)):
        cleanup.release_experiment(context)
    else:
        context.experiment = experiment
        _follow(context, experiment)


def _is_of_rollout(context: PlanContext) -> bool:
    return any(each.name == context.status.experiment for each in context.observed.rollouts)


def _lose(context: PlanContext) -> None:
    """Somebody deleted the experiment that runs: stable gets all traffic."""
    context.events.append(
        events.experiment_ended(context.status.experiment, "", STOPPED, "Deleted: somebody deleted it")
    )
    cleanup.release_experiment(context)


def _running(context: PlanContext) -> UserExperiment | None:
    """The one that runs, where the status that named it was lost."""
    if context.status.stable is None or context.status.experiment or context.status.candidate is not None:
        return None
    return next((each for each in order_waiting(context.observed.own) if state.has_begun(each.status)), None)


def _follow(context: PlanContext, experiment: UserExperiment) -> None:
    """Let the status name the arms that go on, and no others."""
    going_on = {arm.name: arm.revision or 0 for arm in state.active_arms(experiment.status)}
    known = {arm.name: arm for arm in context.status.arms or () if going_on.get(arm.name) == arm.revision}
    cleanup.drain_arms(context, [arm.name for arm in context.status.arms or () if arm.name not in known])
    found = [known.get(name) or make_arm_revision(context, name, number) for name, number in going_on.items()]
    context.set(experiment=experiment.name)
    set_arms(context, found)


def advance_experiment(context: PlanContext) -> None:
    """Let the experiment under way take one step, unless this plan has decided of it already."""
    experiment, progress = context.experiment, context.experiment_progress
    if experiment is None or progress is None or experiment.name in context.experiment_statuses:
        return
    if not state.has_begun(progress) and _is_another(context, experiment):
        # Nothing was assigned by the plan: it is made anew.
        context.experiment_statuses[experiment.name] = ExperimentStatus(conditions=experiment.status.conditions)
        cleanup.release_experiment(context)
        return
    begun = state.has_begun(progress)
    found = [arm if begun else started(context, arm) for arm in context.status.arms or ()]
    context.set(arms=tuple(deadline.track_lost_since(context, arm, begun=begun) for arm in found))
    counted = evaluation.evaluate_experiment(context, experiment, progress)
    seen = state.ExperimentInputs(
        now=context.now,
        confirmed=context.is_split_confirmed,
        arms={arm.name: arm_state(context, arm, progress) for arm in context.status.arms or ()},
        end=_why_ends(context, experiment, progress),
        evidence=context.experiment_evaluation,
    )
    ticked = state_machine.tick(evaluation.report_metrics(context, progress), seen)
    after = evaluation.report_counts(context, experiment, ticked, progress, counted, moved=False)
    if after != progress or (context.experiment_evaluation is not None and context.has_terminating_edge(progress)):
        _write(context, experiment, progress, after, counted)


def _write(
    context: PlanContext,
    experiment: UserExperiment,
    before: ExperimentStatus,
    after: ExperimentStatus,
    counted: Counters | None,
) -> None:
    """What was counted is written with what follows from it."""
    tallies = counted.pack() if counted is not None else before.tallies
    told = evaluation.report_counts(context, experiment, after, before, counted, moved=True).model_copy(
        update={"tallies": tallies}
    )
    if told == before:
        return
    judged = context.experiment_evaluation.metrics if context.experiment_evaluation else told.metrics
    context.experiment_statuses[experiment.name] = history.record_point(told, judged, context.now)
    if is_over(told):
        cleanup.finish_experiment(context, experiment, told)
        return
    dropped = {arm.name: arm.dropped for arm in state.treatment_arms(told) if arm.dropped is not None}
    new = [name for name in dropped if any(arm.name == name for arm in context.status.arms or ())]
    context.events.extend(
        events.arm_dropped(experiment.name, experiment.uid, name, dropped[name] or "") for name in new
    )
    cleanup.drain_arms(context, new)
    if state.has_won(told) and not state.has_won(before):
        context.events.append(events.arm_won(experiment.name, experiment.uid, told.verdict.reason))
    if state.has_begun(told) and not state.has_begun(before):
        context.events.append(
            events.experiment_running(experiment.name, experiment.uid, told.epoch.number, _shares(told))
        )
    context.events.extend(_moves(experiment, before, told))


def _shares(status: ExperimentStatus) -> str:
    return ", ".join(f"{arm.name} {arm.weight} %" for arm in status.arms if arm.name != names.STABLE)


def _moves(experiment: UserExperiment, before: ExperimentStatus, after: ExperimentStatus) -> Iterator[KubernetesEvent]:
    """What it does by itself with its weights, and while control is no measure."""
    if state.has_begun(before) and _layout(before) != _layout(after) and _going_on(before) == _going_on(after):
        yield events.weights_moved(experiment.name, experiment.uid, after.epoch.number, _shares(after))
    paused, was = after.paused, before.paused
    if paused is not None and paused != was and baseline_outage.is_paused_for_baseline(after):
        yield events.experiment_paused(experiment.name, experiment.uid, paused.reason, paused.message, paused.since)
    if was is not None and paused is None and baseline_outage.is_paused_for_baseline(before):
        yield events.experiment_resumed(experiment.name, experiment.uid, was.reason, was.since)


def _layout(status: ExperimentStatus) -> list[float]:
    return [arm.weight for arm in status.arms]


def _going_on(status: ExperimentStatus) -> list[str]:
    return [arm.name for arm in state.active_arms(status)]


def report_data_quality(context: PlanContext) -> None:
    """Tell of what stops the verdicts of the experiment under way, once its conditions have had it for a while.

    An outage of control is told by the pause for it.
    """
    experiment, progress = context.experiment, context.experiment_progress
    if experiment is None or progress is None or is_over(progress):
        return
    told = next((each for each in progress.conditions if each.type == "DataQuality"), None)
    if told is None or told.status != "False" or told.reason in (CONTROL_UNHEALTHY, CONTROL_DEGRADED):
        return
    if context.now - told.last_transition_time >= DATA_QUALITY_GRACE:
        since = told.last_transition_time
        context.events.append(
            events.evidence_doubted(experiment.name, experiment.uid, told.reason, told.message, since)
        )


def _is_another(context: PlanContext, experiment: UserExperiment) -> bool:
    """Whether what is about to begin is not what its spec, or stable, stands for now."""
    spec, stable = experiment.acceptance.spec, context.revision(context.stable_number or 0)
    if spec is None or stable is None or not is_on_stable(context, experiment.status) or why_not(context, experiment):
        return True
    return bool(find_plan_changes(context, experiment, spec))


def find_plan_changes(context: PlanContext, experiment: UserExperiment, spec: ExperimentSpec) -> str:
    """Which fields of a spec differ from the plan that was frozen."""
    stable = context.revision(state.control_revision(experiment.status))
    if stable is None:
        return ""
    return freeze.find_changed_fields(experiment.status.plan, spec, arms.plan_arms(stable, spec))


def _why_ends(context: PlanContext, experiment: UserExperiment, progress: ExperimentStatus) -> tuple[str, str] | None:
    if experiment.acceptance.stopped:
        return STOPPED_BY_USER
    if not is_on_stable(context, progress):
        return (
            "Superseded",
            f"revision {context.stable_number} is stable, and its control is revision {state.control_revision(progress)}",
        )
    return None
