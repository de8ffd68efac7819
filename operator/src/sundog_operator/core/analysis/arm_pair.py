"""The two arms that are compared, and the limits that decide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sundog_operator.api import (
    DEFAULT_ALPHA,
    EvidenceEpoch,
    ExperimentStatus,
    FrozenPlan,
    PlanGuardrail,
)
from sundog_operator.core.analysis import (
    counters,
)
from sundog_operator.core.analysis.blocks import BlocksByEpoch
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.edge import units
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.rollout import freeze, state
from sundog_operator.core.rollout.freeze import MIXTURE
from sundog_operator.core.rollout.resolve import (
    StableTraffic,
)
from sundog_operator.core.stats import multiple_testing
from sundog_operator.core.stats.guardrail_test import (
    ErrorLevels,
)


@dataclass(frozen=True, slots=True)
class CollectedCounts:
    """What was counted of an attempt.

    Attributes:
        tallies: what the edges have counted of it.
        reports: what they report now.
        blocks: those in them.
        traffic: stable's, by which latencies that are not known yet are.
        now_s: Unix seconds.
        timeout_s: of a request.
    """

    tallies: Counters
    reports: Sequence[EdgeReport]
    blocks: BlocksByEpoch
    traffic: StableTraffic
    now_s: float
    timeout_s: float

    @property
    def present(self) -> set[str]:
        """The processes of edges that tell of it now."""
        return {source for source, _ in counters.assigned_rows(self.tallies.attempt, self.reports)}


@dataclass(frozen=True, slots=True)
class RolloutCounts(CollectedCounts):
    """What a rollout is judged by. `replicas` are healthy ones of stable and of the candidate."""

    replicas: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ArmPair:
    """Two arms that are compared.

    Attributes:
        control: the one that the other is compared with.
        arm: the other.
        who: what that one is called in a sentence.
        place: which it is of those whose blocks were folded.
    """

    control: str = names.STABLE
    arm: str = names.CANARY
    who: str = "the candidate"
    place: int = 0

    @property
    def both(self) -> tuple[str, str]:
        """Their names."""
        return self.control, self.arm


ROLLOUT_PAIR: Final = ArmPair()
ArmShares = tuple[float, ...]
"""Of what comes, that of each arm; of sum 1."""


@dataclass(frozen=True, slots=True)
class EvaluationLimits:
    """What an arm is held to.

    Attributes:
        guardrails: what it may not be worse in, by how much.
        levels: how much error each test may have.
        next_weight: the share of traffic that it is to have then, in (0, 1].
        newest_alone: whether rates are judged by the newest epoch only.
        newest_times: whether latencies are.
        keeps_units: whether what comes of one unit goes to one arm.
        bake: the candidate's percent in epochs that decide no gate, and in which harm is looked for all the same; None for none, or where
            there are no others.
    """

    guardrails: Sequence[PlanGuardrail]
    levels: ErrorLevels
    next_weight: float
    newest_alone: bool
    newest_alone_for_latency: bool
    has_sticky_units: bool
    bake: int | None = None


def rollout_limits(status: ExperimentStatus) -> EvaluationLimits:
    """The limits that a rollout is held to, by its plan and its next weight."""
    following, plan = state.next_weight(status) / 100, status.plan
    return EvaluationLimits(
        guardrails=plan.guardrails,
        levels=error_levels(plan, gate_error_share=_gate_share(status) if following == 1 else 1.0),
        next_weight=following,
        newest_alone=following == 1,
        newest_alone_for_latency=True,
        has_sticky_units=units.is_sticky(plan),
        bake=_bake(plan),
    )


def error_levels(plan: FrozenPlan, *, arms: int = 1, gate_error_share: float = 1.0) -> ErrorLevels:
    """The error of one of so many arms, as a plan has frozen it."""
    alpha = (plan.alpha or DEFAULT_ALPHA) / arms
    return ErrorLevels(
        alpha, plan.harm_shares or 1, gate_error_share, plan.mixture or MIXTURE, 1 - (plan.early_harm or 0.0)
    )


def _gate_share(status: ExperimentStatus) -> float:
    """What the gate in question has of the error where it looks at the newest epoch alone: the rest is for epochs that begin anew."""
    deciding = [each for each in status.evidence_epochs if 0 < each.weight < 100 and each.weight != _bake(status.plan)]
    return multiple_testing.epoch_error_share(1 + (deciding[-1].restarts if deciding else 0))


def _bake(plan: FrozenPlan) -> int | None:
    """The candidate's percent in a bake after others; one that it has first, as after a shadow, is all there is to tell."""
    baked = next((step.weight for step in plan.steps if step.gate == freeze.BAKE), None)
    return baked if baked is not None and any(0 < step.weight < baked for step in plan.steps) else None


def decides(limits: EvaluationLimits, epoch: EvidenceEpoch) -> bool:
    """Whether gates look at an epoch: what a bake counts comes after them."""
    return not epoch.troubled and epoch.weight != limits.bake
