"""The end of a user's Experiment, or of one of its arms: the replicas drain."""

from collections.abc import Collection
from dataclasses import replace

from sundog_operator.api import ExperimentStatus
from sundog_operator.api.reasons import Cause
from sundog_operator.core import events
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.drain import start_draining
from sundog_operator.core.trial.experiment import transitions
from sundog_operator.core.trial.experiment.queue import UserExperiment
from sundog_operator.core.trial.phases import STOPPED


def stop_experiment(context: PlanContext, cause: Cause, command: str = "") -> PlanContext:
    """Stop the active Experiment, with all traffic on stable. `command` is the id of the command that does."""
    experiment, progress = context.experiment, context.experiment_progress
    if experiment is None or progress is None:
        return context
    ended = transitions.end_experiment(progress, STOPPED, cause, context.now)
    ended = ended.model_copy(update={"last_command": command or ended.last_command})
    return finish_experiment(context.commit_experiment(experiment.name, ended), experiment, ended)


def finish_experiment(context: PlanContext, experiment: UserExperiment, ended: ExperimentStatus) -> PlanContext:
    """Record the end of an Experiment, and release its arms."""
    event = events.experiment_ended(experiment.name, experiment.uid, ended.phase, ended.verdict.reason)
    return release_experiment(context.report(event))


def release_experiment(context: PlanContext) -> PlanContext:
    """Drain all arms, and remove the Experiment from the ModelDeployment's status."""
    drained = drain_arms(context, [arm.name for arm in context.status.arms or ()])
    return replace(drained.set(arms=None, experiment=""), experiment=None)


def drain_arms(context: PlanContext, arms: Collection[str]) -> PlanContext:
    """Drain some arms. An arm that waits for its next attempt has no replicas to drain."""
    for arm in context.status.arms or ():
        if arm.name in arms and arm.retry_at is None:
            context = start_draining(context, arm)
    return context.set(arms=tuple(arm for arm in context.status.arms or () if arm.name not in arms))
