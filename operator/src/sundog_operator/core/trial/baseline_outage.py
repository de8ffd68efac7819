"""Pause while the baseline (stable or control) fails; shared by rollouts and experiments. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sundog_operator.api import EvidenceEpoch, ExperimentStatus, PauseStatus
from sundog_operator.api.reasons import Cause, PauseReason

OUTAGE_REASONS: Final = (PauseReason.CONTROL_UNHEALTHY, PauseReason.CONTROL_DEGRADED)


def is_paused_for_baseline(status: ExperimentStatus) -> bool:
    """Whether an outage of the baseline paused the rollout or experiment."""
    return status.paused is not None and status.paused.reason in OUTAGE_REASONS


def pause_for_baseline(status: ExperimentStatus, outage: Cause, now: datetime) -> ExperimentStatus | None:
    """Pause unless paused already, and exclude the current epoch from gates; None if nothing changes."""
    epochs = tuple(
        each.model_copy(update={"troubled": each.troubled or each.number == status.epoch.number})
        for each in status.evidence_epochs
    )
    paused = status.paused or PauseStatus(reason=outage.reason, since=now, message=outage.message)
    after = status.model_copy(update={"paused": paused, "evidence_epochs": epochs})
    return None if after == status else after


def is_epoch_excluded(status: ExperimentStatus) -> bool:
    """Whether the current epoch counts as evidence, but is excluded from gates."""
    newest = status.evidence_epochs[-1] if status.evidence_epochs else None
    return newest is not None and newest.troubled and newest.number == status.epoch.number


def trim_epochs(epochs: Sequence[EvidenceEpoch], most: int) -> Sequence[EvidenceEpoch]:
    """Free the place of one epoch: drop the oldest excluded one, because each outage adds one; else the oldest."""
    if len(epochs) < most:
        return epochs
    dropped = next((each for each in epochs if each.troubled), epochs[0])
    return [each for each in epochs if each is not dropped]
