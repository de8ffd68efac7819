"""What becomes of a ModelDeployment when an experiment on it, or one of its arms, has ended: those replicas drain."""

from collections.abc import Collection

from sundog_operator.api import ExperimentStatus
from sundog_operator.core import events
from sundog_operator.core.experiments import transitions
from sundog_operator.core.experiments.queue import UserExperiment
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.drain import start_draining
from sundog_operator.core.rollout.state import STOPPED


def stop_experiment(draft: PlanContext, reason: str, message: str) -> None:
    """Stop the experiment that is under way, with all traffic on stable."""
    own, progress = draft.own, draft.experiment_progress
    if own is None or progress is None:
        return
    ended = transitions.end_experiment(progress, STOPPED, reason, message, draft.now)
    draft.experiment_statuses[own.name] = ended
    finish_experiment(draft, own, ended)


def finish_experiment(draft: PlanContext, own: UserExperiment, ended: ExperimentStatus) -> None:
    """Let go of what an experiment that has ended had."""
    draft.events.append(events.experiment_ended(own.name, own.uid, ended.phase, ended.verdict.reason))
    release_experiment(draft)


def release_experiment(draft: PlanContext) -> None:
    """Let all arms drain, and the ModelDeployment name no experiment."""
    drain_arms(draft, [arm.name for arm in draft.status.arms or ()])
    draft.set(arms=None, experiment="")
    draft.own = None


def drain_arms(draft: PlanContext, arms: Collection[str]) -> None:
    """Let some arms drain; one that waits for its next attempt runs nowhere."""
    for arm in draft.status.arms or ():
        if arm.name in arms and arm.retry_at is None:
            start_draining(draft, arm)
    draft.set(arms=tuple(arm for arm in draft.status.arms or () if arm.name not in arms))
