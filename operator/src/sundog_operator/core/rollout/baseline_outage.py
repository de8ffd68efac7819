"""What a rollout and an experiment do alike while what others are compared with is no measure of anything. Pure."""

from collections.abc import Sequence
from datetime import datetime

from sundog_operator.api import EvidenceEpoch, ExperimentStatus, PauseStatus
from sundog_operator.core.rollout.evaluation import CONTROL_DEGRADED, CONTROL_UNHEALTHY, BaselineHealth


def is_paused_for_baseline(status: ExperimentStatus) -> bool:
    """Whether it is paused for that."""
    return status.paused is not None and status.paused.reason in (CONTROL_UNHEALTHY, CONTROL_DEGRADED)


def pause_for_baseline(status: ExperimentStatus, told: BaselineHealth, now: datetime) -> ExperimentStatus | None:
    """Paused, unless it is for something else, and with the epoch in force left to no gate; None where it is so already."""
    epochs = tuple(
        each.model_copy(update={"troubled": each.troubled or each.number == status.epoch.number})
        for each in status.evidence_epochs
    )
    paused = status.paused or PauseStatus(reason=told.reason, since=now, message=told.message)
    after = status.model_copy(update={"paused": paused, "evidence_epochs": epochs})
    return None if after == status else after


def is_epoch_excluded(status: ExperimentStatus) -> bool:
    """Whether the epoch in force is one of evidence that no gate looks at."""
    newest = status.evidence_epochs[-1] if status.evidence_epochs else None
    return newest is not None and newest.troubled and newest.number == status.epoch.number


def trim_epochs(epochs: Sequence[EvidenceEpoch], most: int) -> Sequence[EvidenceEpoch]:
    """Those that are kept when another begins: of many the oldest goes that gates leave out, for there is one more with each outage."""
    if len(epochs) < most:
        return epochs
    gone = next((each for each in epochs if each.troubled), epochs[0])
    return [each for each in epochs if each is not gone]
