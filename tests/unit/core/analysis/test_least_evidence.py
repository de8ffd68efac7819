"""How long a gate still lacks data."""

from datetime import timedelta

import pytest

from sundog_operator.api import Epoch, EvidenceEpoch, ExperimentStatus
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.dispersion_sums import DispersionSums, EpochBlocks
from sundog_operator.core.analysis.least_evidence import missing_data_time

UID = "uid-1"


def counted(closed: int, epoch: int = 2) -> ExperimentStatus:
    """Return a status with so many closed blocks of ten seconds in epoch 2."""
    blocks = EpochBlocks(following=100, lengths=(DispersionSums(closed), DispersionSums(), DispersionSums()))
    stored = Counters(UID, {"edge": {(2, "canary"): ArmCounts(assigned=1)}}, {2: blocks})
    return ExperimentStatus(
        epoch=Epoch(number=epoch, confirmed=True),
        evidence_epochs=(EvidenceEpoch(number=2, weight=25),),
        tallies=stored.pack(),
    )


@pytest.mark.parametrize(("closed", "missing"), [(0, 120), (4, 80), (11, 10), (12, 0), (30, 0)])
def test_a_gate_lacks_the_blocks_that_are_not_closed_yet(closed: int, missing: int) -> None:
    assert missing_data_time(counted(closed), UID) == timedelta(seconds=missing)


def test_a_new_epoch_begins_without_data() -> None:
    assert missing_data_time(counted(12, epoch=3), UID) == timedelta(seconds=120)
    assert missing_data_time(ExperimentStatus(epoch=Epoch(number=1)), UID) == timedelta(seconds=120)
