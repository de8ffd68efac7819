"""What becomes of a ModelDeployment when an experiment on it, or one of its arms, has ended: those replicas drain."""

from collections.abc import Collection

from sundog_operator.api import ExperimentStatus
from sundog_operator.core import events
from sundog_operator.core.experiments import machine
from sundog_operator.core.experiments.queue import OwnExperiment
from sundog_operator.core.planner.context import Draft
from sundog_operator.core.planner.drain import retire
from sundog_operator.core.rollout.machine import STOPPED


def end(draft: Draft, reason: str, message: str) -> None:
    """Stop the experiment that is under way, with all traffic on stable."""
    own, progress = draft.own, draft.own_progress
    if own is None or progress is None:
        return
    ended = machine.end(progress, STOPPED, reason, message, draft.now)
    draft.own_statuses[own.name] = ended
    close(draft, own, ended)


def close(draft: Draft, own: OwnExperiment, ended: ExperimentStatus) -> None:
    """Let go of what an experiment that has ended had."""
    draft.events.append(events.experiment_ended(own.name, own.uid, ended.phase, ended.verdict.reason))
    let_go(draft)


def let_go(draft: Draft) -> None:
    """Let all arms drain, and the ModelDeployment name no experiment."""
    drop(draft, [arm.name for arm in draft.status.arms or ()])
    draft.set(arms=None, experiment="")
    draft.own = None


def drop(draft: Draft, arms: Collection[str]) -> None:
    """Let some arms drain; one that waits for its next attempt runs nowhere."""
    for arm in draft.status.arms or ():
        if arm.name in arms and arm.retry_at is None:
            retire(draft, arm)
    draft.set(arms=tuple(arm for arm in draft.status.arms or () if arm.name not in arms))
