"""The lifecycle of users' Experiments on a ModelDeployment: one starts, runs and ends, while the others wait.

A decision is written into the Experiment first, then into the ModelDeployment's status, and only then acted on. So each step
continues what an earlier pass wrote and did not finish.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final

from sundog_operator.api import ArmRevision, ExperimentSpec, ExperimentStatus
from sundog_operator.api.reasons import Cause, EndReason
from sundog_operator.core import events
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import trial_status
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.experiment import cleanup, evaluation
from sundog_operator.core.planner.experiment.arm_status import arm_state, update_starting_arm
from sundog_operator.core.planner.experiment.start import (
    STOPPED_BY_USER,
    find_refusal,
    is_on_stable,
    make_arm_revision,
    set_arms,
)
from sundog_operator.core.planner.rollout import deadline
from sundog_operator.core.trial import baseline_outage
from sundog_operator.core.trial.experiment import arms, freeze, state, state_machine
from sundog_operator.core.trial.experiment.queue import UserExperiment, order_waiting
from sundog_operator.core.trial.phases import STOPPED, is_over

DATA_QUALITY_GRACE: Final = timedelta(minutes=1)
"""Time for which an edge may apply a request for outcomes, and a store may restart, without an event."""


def sync_active_experiment(context: PlanContext) -> PlanContext:
    """Find the active Experiment, by the status or by its own phase, and apply its decisions to the status."""
    named = next((each for each in context.observed.user_experiments if each.name == context.status.experiment), None)
    is_of_rollout = context.find_rollout(context.status.experiment) is not None
    if named is None and (context.status.arms or is_of_rollout):
        return context if is_of_rollout else _report_deleted(context)
    experiment = named or _find_running(context)
    if experiment is None:
        return context
    if is_over(experiment.status):
        return cleanup.finish_experiment(context, experiment, experiment.status)
    if not state.is_frozen(experiment.status) or (named is None and not is_on_stable(context, experiment.status)):
        return cleanup.release_experiment(context)
    return _sync_arms(replace(context, experiment=experiment), experiment)


def _report_deleted(context: PlanContext) -> PlanContext:
    """End the active Experiment, which was deleted: stable gets all traffic."""
    ended = events.experiment_ended(context.status.experiment, "", STOPPED, "Deleted: a user deleted it")
    return cleanup.release_experiment(context.report(ended))


def _find_running(context: PlanContext) -> UserExperiment | None:
    """Return the Experiment that runs, if the status that named it was lost."""
    if context.status.stable is None or context.status.experiment or context.status.candidate is not None:
        return None
    return next(
        (each for each in order_waiting(context.observed.user_experiments) if state.has_begun(each.status)), None
    )


def _sync_arms(context: PlanContext, experiment: UserExperiment) -> PlanContext:
    """Set the active arms of an Experiment in the status, and drain all others."""
    active = {arm.name: arm.revision or 0 for arm in state.active_arms(experiment.status)}
    known = {arm.name: arm for arm in context.status.arms or () if active.get(arm.name) == arm.revision}
    context = cleanup.drain_arms(context, [arm.name for arm in context.status.arms or () if arm.name not in known])
    found = [known.get(name) or make_arm_revision(context, name, number) for name, number in active.items()]
    return set_arms(context.set(experiment=experiment.name), found)


def advance_experiment(context: PlanContext) -> PlanContext:
    """Tick the state machine of the active Experiment, unless this plan has set its status already."""
    experiment, progress = context.experiment, context.experiment_progress
    if experiment is None or progress is None or experiment.name in context.experiment_statuses:
        return context
    if not state.has_begun(progress) and _is_plan_outdated(context, experiment):
        # No unit was assigned by this plan, so it is made again.
        released = cleanup.release_experiment(context)
        return released.commit_experiment(experiment.name, ExperimentStatus(conditions=experiment.status.conditions))
    begun = state.has_begun(progress)
    current: list[ArmRevision] = []
    failures: list[KubernetesEvent] = []
    for arm in context.status.arms or ():
        updated, failed = (arm, ()) if begun else update_starting_arm(context, arm)
        current.append(deadline.track_lost_since(context, updated, begun=begun))
        failures += failed
    context = context.set(arms=tuple(current)).report(*failures)
    counted, evaluated = evaluation.evaluate_experiment(context, experiment, progress)
    if counted is not None:
        context = replace(context, experiment_evaluation=evaluated, evaluated_experiment=experiment.name)
    inputs = state.ExperimentInputs(
        now=context.now,
        confirmed=context.is_split_confirmed,
        arms={arm.name: arm_state(context, arm, progress) for arm in context.status.arms or ()},
        end=_find_end(context, experiment, progress),
        evidence=evaluated,
    )
    after = state_machine.tick(evaluation.report_metrics(context, progress), inputs)
    count_arm = partial(evaluation.count_arm, context, after)
    metrics = evaluated.metrics if evaluated is not None else None
    committed = trial_status.next_status(context, progress, after, counted, count_arm, metrics)
    return context if committed is None else _commit(context, experiment, progress, committed)


def _commit(
    context: PlanContext, experiment: UserExperiment, before: ExperimentStatus, committed: ExperimentStatus
) -> PlanContext:
    """Set the status of the Experiment to write, and add its events."""
    context = context.commit_experiment(experiment.name, committed)
    if is_over(committed):
        return cleanup.finish_experiment(context, experiment, committed)
    dropped = {arm.name: arm.dropped for arm in state.treatment_arms(committed) if arm.dropped is not None}
    newly_dropped = [name for name in dropped if any(arm.name == name for arm in context.status.arms or ())]
    found = [events.arm_dropped(experiment.name, experiment.uid, name, dropped[name] or "") for name in newly_dropped]
    if state.has_won(committed) and not state.has_won(before):
        found.append(events.arm_won(experiment.name, experiment.uid, committed.verdict.reason))
    if state.has_begun(committed) and not state.has_begun(before):
        found.append(
            events.experiment_running(experiment.name, experiment.uid, committed.epoch.number, _shares(committed))
        )
    return cleanup.drain_arms(context, newly_dropped).report(*found, *_transition_events(experiment, before, committed))


def _shares(status: ExperimentStatus) -> str:
    return ", ".join(f"{arm.name} {arm.weight} %" for arm in status.arms if arm.name != names.STABLE)


def _transition_events(
    experiment: UserExperiment, before: ExperimentStatus, after: ExperimentStatus
) -> Iterator[KubernetesEvent]:
    """Yield the events of moved weights, and of pauses while control is unhealthy."""
    if (
        state.has_begun(before)
        and _weights(before) != _weights(after)
        and _active_names(before) == _active_names(after)
    ):
        yield events.weights_moved(experiment.name, experiment.uid, after.epoch.number, _shares(after))
    paused, earlier = after.paused, before.paused
    if paused is not None and paused != earlier and baseline_outage.is_paused_for_baseline(after):
        yield events.experiment_paused(experiment.name, experiment.uid, paused.reason, paused.message, paused.since)
    if earlier is not None and paused is None and baseline_outage.is_paused_for_baseline(before):
        yield events.experiment_resumed(experiment.name, experiment.uid, earlier.reason, earlier.since)


def _weights(status: ExperimentStatus) -> list[float]:
    return [arm.weight for arm in status.arms]


def _active_names(status: ExperimentStatus) -> list[str]:
    return [arm.name for arm in state.active_arms(status)]


def report_data_quality(context: PlanContext) -> PlanContext:
    """Add an event if bad data has stopped the verdicts of the active Experiment for `DATA_QUALITY_GRACE`.

    An outage of control has the event of its pause instead.
    """
    experiment, progress = context.experiment, context.experiment_progress
    if experiment is None or progress is None or is_over(progress):
        return context
    quality = next((each for each in progress.conditions if each.type == "DataQuality"), None)
    if quality is None or quality.status != "False" or quality.reason in baseline_outage.OUTAGE_REASONS:
        return context
    since = quality.last_transition_time
    if context.now - since < DATA_QUALITY_GRACE:
        return context
    return context.report(
        events.evidence_doubted(experiment.name, experiment.uid, quality.reason, quality.message, since)
    )


def _is_plan_outdated(context: PlanContext, experiment: UserExperiment) -> bool:
    """Whether the frozen plan of a starting Experiment differs from its spec or from stable."""
    spec, stable = experiment.acceptance.spec, context.revision(context.stable_number or 0)
    if (
        spec is None
        or stable is None
        or not is_on_stable(context, experiment.status)
        or find_refusal(context, experiment)
    ):
        return True
    return bool(find_plan_changes(context, experiment, spec))


def find_plan_changes(context: PlanContext, experiment: UserExperiment, spec: ExperimentSpec) -> str:
    """Return the fields of a spec that differ from the frozen plan, as text."""
    stable = context.revision(state.control_revision(experiment.status))
    if stable is None:
        return ""
    return freeze.find_changed_fields(experiment.status.plan, spec, arms.plan_arms(stable, spec))


def _find_end(context: PlanContext, experiment: UserExperiment, progress: ExperimentStatus) -> Cause | None:
    if experiment.acceptance.stopped:
        return STOPPED_BY_USER
    if not is_on_stable(context, progress):
        return Cause(
            EndReason.SUPERSEDED,
            f"revision {context.stable_number} is stable, but its control is revision {state.control_revision(progress)}",
        )
    return None
