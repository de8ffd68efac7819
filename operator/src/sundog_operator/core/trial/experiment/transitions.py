"""Changes of an experiment's status that several rules share."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sundog_operator.api import (
    Epoch,
    EvidenceEpoch,
    ExperimentStatus,
    Verdict,
)
from sundog_operator.api.reasons import Cause
from sundog_operator.core.edge import buckets
from sundog_operator.core.kubernetes import names
from sundog_operator.core.trial import baseline_outage
from sundog_operator.core.trial.experiment.state import MAX_EPOCHS, has_begun, has_won, target_buckets, unlisted_epochs
from sundog_operator.core.trial.phases import CONCLUDED, UNDECIDED

MAX_REASON_CHARS: Final = 1024
"""Longest reason in characters."""


def end_experiment(
    status: ExperimentStatus,
    phase: str,
    cause: Cause,
    now: datetime,
    decision: str = UNDECIDED,
    winner: str = "",
) -> ExperimentStatus:
    """End the experiment, with all traffic on stable. If an arm has won, it is concluded with that winner whatever ends it."""
    moved = with_shares(status, {names.STABLE: buckets.BUCKETS}, now) if has_begun(status) else status
    verdict = Verdict.of(cause, decision, winner, MAX_REASON_CHARS)
    if has_won(status) and decision == UNDECIDED:
        ended = f"; ended by {cause}"[: MAX_REASON_CHARS // 2]
        phase, verdict = (
            CONCLUDED,
            status.verdict.model_copy(
                update={"reason": status.verdict.reason[: MAX_REASON_CHARS - len(ended)] + ended}
            ),
        )
    return moved.model_copy(update={"phase": phase, "verdict": verdict, "paused": None})


def with_shares(status: ExperimentStatus, shares: Mapping[str, int], now: datetime) -> ExperimentStatus:
    """Begin an epoch in which each arm has the given number of buckets; as few buckets as possible move."""
    wanted = [shares.get(arm.name, 0) for arm in status.arms]
    moved = buckets.reassign([[(a, b) for a, b in arm.ranges] for arm in status.arms], wanted)
    arms = tuple(
        arm.model_copy(update={"ranges": tuple(own), "weight": buckets.percent(share)})
        for arm, own, share in zip(status.arms, moved, wanted, strict=True)
    )
    epoch = Epoch(number=status.epoch.number + 1, since=now, confirmed=False)
    return status.model_copy(update={"arms": arms, "epoch": epoch})


def as_evidence(status: ExperimentStatus, *, again: bool, alone: bool = False) -> ExperimentStatus:
    """Add the epoch that begins to the evidence; without `again`, return the status unchanged. With `alone`, remove the earlier epochs."""
    if not again:
        return status
    shares, earlier = target_buckets(status), status.evidence_epochs
    kept = () if alone else baseline_outage.trim_epochs(earlier, MAX_EPOCHS)
    epoch = EvidenceEpoch(
        number=status.epoch.number,
        buckets=tuple(shares[arm.name] for arm in status.arms),
        restarts=unlisted_epochs(status) + len(earlier) - len(kept),
    )
    return status.model_copy(update={"evidence_epochs": (*kept, epoch)})
