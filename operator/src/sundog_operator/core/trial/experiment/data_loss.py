"""Lost data of an experiment, which delays a winner. Pure."""

from sundog_operator.api import CONTROL, ExperimentStatus
from sundog_operator.api.reasons import Cause
from sundog_operator.core.analysis import data_loss
from sundog_operator.core.analysis.arm_pair import CollectedCounts
from sundog_operator.core.edge import units
from sundog_operator.core.trial.experiment import state


def find_data_loss(status: ExperimentStatus, collected: CollectedCounts) -> Cause | None:
    """Return why too much data is missing for a winner; None where enough is there. Dropped arms are ignored."""
    exposed = sum(collected.tallies.feedback.exposed.values())
    return data_loss.find_data_loss(
        collected,
        [CONTROL, *(arm.name for arm in state.active_arms(status))],
        [epoch.number for epoch in status.evidence_epochs if not epoch.troubled],
        until="no arm can win",
        # Then the experiment is about to end, and later units count in no arm.
        has_all_units=units.is_sticky(status.plan) and exposed >= state.max_first_exposures(status),
    )
