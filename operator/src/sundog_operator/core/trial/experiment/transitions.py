"""Changes of an experiment's status that several rules share."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sundog_operator.api import (
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
from sundog_operator.core.trial.transitions import begin_epoch

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
    return begin_epoch(status, arms, now)


def begin_evidence(
    status: ExperimentStatus, now: datetime, shares: Mapping[str, int] | None = None, *, replaces_earlier: bool = False
) -> ExperimentStatus:
    """Begin an epoch that counts as evidence, in which each arm has the given number of buckets; its target if None.

    With `replaces_earlier`, the earlier epochs are evidence no more.
    """
    begun = with_shares(status, target_buckets(status) if shares is None else shares, now)
    targets, earlier = target_buckets(begun), status.evidence_epochs
    kept = () if replaces_earlier else baseline_outage.trim_epochs(earlier, MAX_EPOCHS)
    epoch = EvidenceEpoch(
        number=begun.epoch.number,
        buckets=tuple(targets[arm.name] for arm in begun.arms),
        restarts=unlisted_epochs(status) + len(earlier) - len(kept),
    )
    return begun.model_copy(update={"evidence_epochs": (*kept, epoch)})
