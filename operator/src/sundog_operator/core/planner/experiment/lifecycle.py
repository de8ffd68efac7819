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


def sync_active_experiment(draft: PlanContext) -> None:
    """Take up the experiment that the status names, or one that says it runs; carry over what it has decided already."""
    named = next((each for each in draft.seen.own if each.name == draft.status.experiment), None)
    if named is None and (draft.status.arms or _is_of_rollout(draft)):
        if not _is_of_rollout(draft):
            _lose(draft)
        return
    own = named or _running(draft)
    if own is None:
        return
    if is_over(own.status):
        cleanup.finish_experiment(draft, own, own.status)
    elif not state.is_frozen(own.status) or (named is None and not is_on_stable(draft, own.status)):
        cleanup.release_experiment(draft)
    else:
        draft.own = own
        _follow(draft, own)


def _is_of_rollout(draft: PlanContext) -> bool:
    return any(each.name == draft.status.experiment for each in draft.seen.rollouts)


def _lose(draft: PlanContext) -> None:
    """Somebody deleted the experiment that runs: stable gets all traffic."""
    draft.events.append(events.experiment_ended(draft.status.experiment, "", STOPPED, "Deleted: somebody deleted it"))
    cleanup.release_experiment(draft)


def _running(draft: PlanContext) -> UserExperiment | None:
    """The one that runs, where the status that named it was lost."""
    if draft.status.stable is None or draft.status.experiment or draft.status.candidate is not None:
        return None
    return next((each for each in order_waiting(draft.seen.own) if state.has_begun(each.status)), None)


def _follow(draft: PlanContext, own: UserExperiment) -> None:
    """Let the status name the arms that go on, and no others."""
    going_on = {arm.name: arm.revision or 0 for arm in state.active_arms(own.status)}
    known = {arm.name: arm for arm in draft.status.arms or () if going_on.get(arm.name) == arm.revision}
    cleanup.drain_arms(draft, [arm.name for arm in draft.status.arms or () if arm.name not in known])
    found = [known.get(name) or make_arm_revision(draft, name, number) for name, number in going_on.items()]
    draft.set(experiment=own.name)
    set_arms(draft, found)


def advance_experiment(draft: PlanContext) -> None:
    """Let the experiment under way take one step, unless this plan has decided of it already."""
    own, progress = draft.own, draft.experiment_progress
    if own is None or progress is None or own.name in draft.experiment_statuses:
        return
    if not state.has_begun(progress) and _is_another(draft, own):
        # Nothing was assigned by the plan: it is made anew.
        draft.experiment_statuses[own.name] = ExperimentStatus(conditions=own.status.conditions)
        cleanup.release_experiment(draft)
        return
    begun = state.has_begun(progress)
    found = [arm if begun else started(draft, arm) for arm in draft.status.arms or ()]
    draft.set(arms=tuple(deadline.track_lost_since(draft, arm, begun=begun) for arm in found))
    counted = evaluation.evaluate_experiment(draft, own, progress)
    seen = state.ExperimentInputs(
        now=draft.now,
        confirmed=draft.confirmed,
        arms={arm.name: arm_state(draft, arm, progress) for arm in draft.status.arms or ()},
        end=_why_ends(draft, own, progress),
        evidence=draft.experiment_evaluation,
    )
    ticked = state_machine.tick(evaluation.report_metrics(draft, progress), seen)
    after = evaluation.report_counts(draft, own, ticked, progress, counted, moved=False)
    if after != progress or (draft.experiment_evaluation is not None and draft.has_terminating_edge(progress)):
        _write(draft, own, progress, after, counted)


def _write(
    draft: PlanContext, own: UserExperiment, before: ExperimentStatus, after: ExperimentStatus, counted: Counters | None
) -> None:
    """What was counted is written with what follows from it."""
    tallies = counted.pack() if counted is not None else before.tallies
    told = evaluation.report_counts(draft, own, after, before, counted, moved=True).model_copy(
        update={"tallies": tallies}
    )
    if told == before:
        return
    judged = draft.experiment_evaluation.metrics if draft.experiment_evaluation else told.metrics
    draft.experiment_statuses[own.name] = history.record_point(told, judged, draft.now)
    if is_over(told):
        cleanup.finish_experiment(draft, own, told)
        return
    dropped = {arm.name: arm.dropped for arm in state.treatment_arms(told) if arm.dropped is not None}
    new = [name for name in dropped if any(arm.name == name for arm in draft.status.arms or ())]
    draft.events.extend(events.arm_dropped(own.name, own.uid, name, dropped[name] or "") for name in new)
    cleanup.drain_arms(draft, new)
    if state.has_won(told) and not state.has_won(before):
        draft.events.append(events.arm_won(own.name, own.uid, told.verdict.reason))
    if state.has_begun(told) and not state.has_begun(before):
        draft.events.append(events.experiment_running(own.name, own.uid, told.epoch.number, _shares(told)))
    draft.events.extend(_moves(own, before, told))


def _shares(status: ExperimentStatus) -> str:
    return ", ".join(f"{arm.name} {arm.weight} %" for arm in status.arms if arm.name != names.STABLE)


def _moves(own: UserExperiment, before: ExperimentStatus, after: ExperimentStatus) -> Iterator[KubernetesEvent]:
    """What it does by itself with its weights, and while control is no measure."""
    if state.has_begun(before) and _layout(before) != _layout(after) and _going_on(before) == _going_on(after):
        yield events.weights_moved(own.name, own.uid, after.epoch.number, _shares(after))
    paused, was = after.paused, before.paused
    if paused is not None and paused != was and baseline_outage.is_paused_for_baseline(after):
        yield events.experiment_paused(own.name, own.uid, paused.reason, paused.message, paused.since)
    if was is not None and paused is None and baseline_outage.is_paused_for_baseline(before):
        yield events.experiment_resumed(own.name, own.uid, was.reason, was.since)


def _layout(status: ExperimentStatus) -> list[float]:
    return [arm.weight for arm in status.arms]


def _going_on(status: ExperimentStatus) -> list[str]:
    return [arm.name for arm in state.active_arms(status)]


def report_data_quality(draft: PlanContext) -> None:
    """Tell of what stops the verdicts of the experiment under way, once its conditions have had it for a while.

    An outage of control is told by the pause for it.
    """
    own, progress = draft.own, draft.experiment_progress
    if own is None or progress is None or is_over(progress):
        return
    told = next((each for each in progress.conditions if each.type == "DataQuality"), None)
    if told is None or told.status != "False" or told.reason in (CONTROL_UNHEALTHY, CONTROL_DEGRADED):
        return
    if draft.now - told.last_transition_time >= DATA_QUALITY_GRACE:
        since = told.last_transition_time
        draft.events.append(events.evidence_doubted(own.name, own.uid, told.reason, told.message, since))


def _is_another(draft: PlanContext, own: UserExperiment) -> bool:
    """Whether what is about to begin is not what its spec, or stable, stands for now."""
    spec, stable = own.acceptance.spec, draft.revision(draft.stable_number or 0)
    if spec is None or stable is None or not is_on_stable(draft, own.status) or why_not(draft, own):
        return True
    return bool(find_plan_changes(draft, own, spec))


def find_plan_changes(draft: PlanContext, own: UserExperiment, spec: ExperimentSpec) -> str:
    """Which fields of a spec differ from the plan that was frozen."""
    stable = draft.revision(state.control_revision(own.status))
    if stable is None:
        return ""
    return freeze.find_changed_fields(own.status.plan, spec, arms.plan_arms(stable, spec))


def _why_ends(draft: PlanContext, own: UserExperiment, progress: ExperimentStatus) -> tuple[str, str] | None:
    if own.acceptance.stopped:
        return STOPPED_BY_USER
    if not is_on_stable(draft, progress):
        return (
            "Superseded",
            f"revision {draft.stable_number} is stable, and its control is revision {state.control_revision(progress)}",
        )
    return None
