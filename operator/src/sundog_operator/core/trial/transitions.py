"""Changes of a status that rollouts and experiments share."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final, TypeVar

from sundog_operator.api import ArmStatus, Epoch, ExperimentStatus, FrozenPlan, Verdict
from sundog_operator.core.trial.default_plan import needs_threshold
from sundog_operator.core.trial.evaluation import TrialEvaluation, TrialInputs
from sundog_operator.core.trial.phases import PENDING, UNDECIDED

_Inputs = TypeVar("_Inputs", bound=TrialInputs)

EVIDENCE_IS_EVALUATED: Final = "evidence is being evaluated"


def first_status(plan: FrozenPlan, arms: tuple[ArmStatus, ...], now: datetime, reason: str) -> ExperimentStatus:
    """Return the first status of a trial: its plan, frozen now, and arms whose traffic no edge has confirmed.

    `reason`: why the verdict is open.
    """
    return ExperimentStatus(
        phase=PENDING,
        plan=plan.model_copy(update={"frozen_at": now}),
        epoch=Epoch(number=0, since=now, confirmed=False),
        arms=arms,
        verdict=Verdict(decision=UNDECIDED, winner="", reason=reason),
    )


def first_change(
    status: ExperimentStatus,
    inputs: _Inputs,
    rules: Iterable[Callable[[ExperimentStatus, _Inputs], ExperimentStatus | None]],
) -> ExperimentStatus | None:
    """Return the status after the first rule that changes it; None if none does."""
    for rule in rules:
        if (after := rule(status, inputs)) is not None:
            return after
    return None


def begin_epoch(status: ExperimentStatus, arms: tuple[ArmStatus, ...], now: datetime) -> ExperimentStatus:
    """Return the status in a new epoch, in which the arms have these shares of the traffic."""
    epoch = Epoch(number=status.epoch.number + 1, since=now, confirmed=False)
    return status.model_copy(update={"arms": arms, "epoch": epoch})


def confirm_epoch(status: ExperimentStatus, inputs: TrialInputs) -> ExperimentStatus | None:
    """Return the status with its epoch confirmed by all edges; None if nothing changes."""
    if status.epoch.confirmed or not inputs.confirmed:
        return None
    return status.model_copy(update={"epoch": Epoch(number=status.epoch.number, since=inputs.now, confirmed=True)})


def has_no_warmup(plan: FrozenPlan) -> bool:
    """Whether evidence counts from the first request on."""
    return not plan.warmup_requests or not plan.warmup_duration


def has_warmed_up(status: ExperimentStatus, evidence: TrialEvaluation, now: datetime) -> bool:
    """Whether the current epoch has the requests or the time of the plan's warm-up."""
    waited = status.epoch.since is not None and now - status.epoch.since >= status.plan.warmup_duration
    return waited or evidence.requests >= status.plan.warmup_requests


def has_learned_thresholds(status: ExperimentStatus, evidence: TrialEvaluation) -> bool:
    """Whether the latency thresholds that the plan lacks are known now."""
    known = evidence.guardrails
    return needs_threshold(status.plan.guardrails) and bool(known) and not needs_threshold(known)


def with_thresholds(status: ExperimentStatus, evidence: TrialEvaluation | None) -> ExperimentStatus:
    """Return the status with the latency thresholds that are known now; they stay the same from here on."""
    if evidence is None or not evidence.guardrails:
        return status
    return status.model_copy(update={"plan": status.plan.model_copy(update={"guardrails": evidence.guardrails})})
