"""Pause while the baseline (stable or control) fails; shared by rollouts and experiments. Pure."""

from collections.abc import Sequence
from typing import Final

from sundog_operator.api import EvidenceEpoch, ExperimentStatus, PauseStatus
from sundog_operator.api.reasons import PauseReason
from sundog_operator.core.trial.evaluation import TrialInputs
from sundog_operator.core.trial.phases import RUNNING

OUTAGE_REASONS: Final = (PauseReason.CONTROL_UNHEALTHY, PauseReason.CONTROL_DEGRADED)


def is_paused_for_baseline(status: ExperimentStatus) -> bool:
    """Whether an outage of the baseline paused the rollout or experiment."""
    return status.paused is not None and status.paused.reason in OUTAGE_REASONS


def pause_for_baseline(status: ExperimentStatus, inputs: TrialInputs) -> ExperimentStatus | None:
    """Pause decisions while the baseline is unfit, because failures of all arms would hide those of one; None if nothing changes.

    The current epoch is excluded from gates. A status that is paused for another reason keeps it.
    """
    outage = inputs.evidence.control.outage if inputs.evidence is not None else None
    if outage is None or status.phase != RUNNING:
        return None
    epochs = tuple(
        each.model_copy(update={"troubled": each.troubled or each.number == status.epoch.number})
        for each in status.evidence_epochs
    )
    paused = status.paused or PauseStatus(reason=outage.reason, since=inputs.now, message=outage.message)
    after = status.model_copy(update={"paused": paused, "evidence_epochs": epochs})
    return None if after == status else after


def is_baseline_settled(inputs: TrialInputs) -> bool:
    """Whether the baseline has been healthy for a while, and every edge reports."""
    return inputs.evidence is not None and not inputs.evidence.unreachable_edges and inputs.evidence.control.settled


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
