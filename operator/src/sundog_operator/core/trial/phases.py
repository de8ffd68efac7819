"""Phases of a trial: a rollout or a user's Experiment. Stored statuses have these names."""

from typing import Final

from sundog_operator.api import ExperimentStatus

PENDING: Final = "Pending"
RUNNING: Final = "Running"
CONCLUDED: Final = "Concluded"
STOPPED: Final = "Stopped"
UNDECIDED: Final = "Undecided"
"""Decision of a verdict while there is none, or of a trial that ended without one."""


def is_over(status: ExperimentStatus) -> bool:
    """Whether the trial has ended."""
    return status.phase in (CONCLUDED, STOPPED)
