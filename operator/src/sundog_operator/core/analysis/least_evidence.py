"""The least data of an evidence gate. Pure."""

from datetime import timedelta

from sundog_operator.api import ExperimentStatus
from sundog_operator.core.analysis.blocks import BLOCK_S
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.stats import dispersion


def missing_data_time(status: ExperimentStatus, attempt: str) -> timedelta:
    """Return for how long an evidence gate still lacks data, from `status.counted_at` on; zero once it has enough.

    A gate needs the least number of blocks from the newest epoch alone. `attempt` is the UID of the Experiment.
    """
    is_evidence = bool(status.evidence_epochs) and status.evidence_epochs[-1].number == status.epoch.number
    blocks = Counters.unpack(status.tallies, attempt).folded.get(status.epoch.number) if is_evidence else None
    missing = dispersion.MIN_BLOCKS - (blocks.closed if blocks is not None else 0)
    return timedelta(seconds=max(missing, 0) * BLOCK_S)
