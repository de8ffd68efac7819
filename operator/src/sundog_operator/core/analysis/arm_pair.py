"""The two compared arms, their counts, and the limits of the comparison."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sundog_operator.api import (
    DEFAULT_ALPHA,
    EvidenceEpoch,
    ExperimentStatus,
    FrozenPlan,
    PlanGuardrail,
    PlanOutcome,
)
from sundog_operator.core.analysis import edge_reports, unit_samples
from sundog_operator.core.analysis.blocks import BlocksByEpoch
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.unit_samples import UnitSamples
from sundog_operator.core.edge import units
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.stats import error_shares
from sundog_operator.core.stats.guardrail_comparison import (
    ErrorLevels,
)
from sundog_operator.core.trial.default_plan import (
    StableTraffic,
)
from sundog_operator.core.trial.rollout import freeze, state
from sundog_operator.core.trial.rollout.freeze import MIXTURE


@dataclass(frozen=True)
class CollectedCounts:
    """Counters of an attempt, and when they were read.

    Attributes:
        tallies: the counters of the attempt.
        reports: the present reports of the edges.
        blocks: the blocks in these reports.
        traffic: stable's traffic, which sets unknown latency thresholds.
        now_s: Unix seconds.
        timeout_s: timeout of a request.
    """

    tallies: Counters
    reports: Sequence[EdgeReport]
    blocks: BlocksByEpoch
    traffic: StableTraffic
    now_s: float
    timeout_s: float

    @property
    def present(self) -> set[str]:
        """Return the edge processes that report the attempt now."""
        return {source for source, _ in edge_reports.assigned_rows(self.tallies.attempt, self.reports)}

    @functools.cached_property
    def samples(self) -> UnitSamples | None:
        """Return the samples of units of all edges; None without units, or where an edge has none. Read once for all arms."""
        return unit_samples.read_unit_samples(self.tallies.attempt, self.reports)


@dataclass(frozen=True, slots=True)
class ArmPair:
    """Two compared arms.

    Attributes:
        control: the baseline.
        arm: the arm that is compared with it.
        who: name of the arm in sentences.
        index: of the arm in folded blocks.
    """

    control: str = names.STABLE
    arm: str = names.CANARY
    who: str = "the canary"
    index: int = 0

    @property
    def both(self) -> tuple[str, str]:
        """Return the names of both."""
        return self.control, self.arm


ROLLOUT_PAIR: Final = ArmPair()
ArmShares = tuple[float, ...]
"""The share of traffic of each arm; the sum is 1."""


@dataclass(frozen=True, slots=True)
class EvaluationLimits:
    """Limits of a comparison.

    Attributes:
        guardrails: the guardrails with their margins.
        levels: error level of each test.
        next_weight: the arm's share of traffic after the current step, in (0, 1].
        newest_alone: whether gates test the newest epoch alone.
        has_sticky_units: whether all requests of a unit go to one arm.
        tests_units: whether a sample of such units is tested: none may ever leave the arm for control.
        bake: the canary's percent in bake epochs, which decide no gate but are tested for harm; None without a bake, or
            without other epochs.
        loaded_arm: an arm whose gates leave out epochs in which its replicas had less load than control's, and whose harm leaves out
            those in which they had more; empty without one.
    """

    guardrails: Sequence[PlanGuardrail]
    levels: ErrorLevels
    next_weight: float
    newest_alone: bool
    has_sticky_units: bool
    tests_units: bool
    bake: int | None = None
    loaded_arm: str = ""


def rollout_limits(status: ExperimentStatus) -> EvaluationLimits:
    """Return the limits of a rollout, from its plan and its next weight."""
    following, plan = state.next_weight(status) / 100, status.plan
    levels = error_levels(plan, gate_error_share=_gate_share(status) if following == 1 else 1.0)
    return EvaluationLimits(
        guardrails=plan.guardrails,
        levels=replace(
            levels, harm_error_share=levels.harm_error_share * edge_harm_share(plan.guardrails, plan.outcomes or ())
        ),
        next_weight=following,
        newest_alone=True,
        has_sticky_units=units.is_sticky(plan),
        tests_units=units.is_sticky(plan),
        bake=_bake(plan),
    )


def edge_harm_share(of_edge: Sequence[PlanGuardrail], outcomes: Sequence[PlanOutcome]) -> float:
    """Return the share of traffic's error of harm that guardrails of the edge have; those that are outcomes have the rest."""
    return len(of_edge) / (len(of_edge) + len(outcomes)) if outcomes else 1.0


def error_levels(plan: FrozenPlan, *, arms: int = 1, gate_error_share: float = 1.0) -> ErrorLevels:
    """Return the error levels of one of so many arms, from a frozen plan."""
    alpha = (plan.alpha or DEFAULT_ALPHA) / arms
    return ErrorLevels(
        alpha, plan.harm_shares or 1, gate_error_share, plan.mixture or MIXTURE, 1 - (plan.early_harm or 0.0)
    )


def _gate_share(status: ExperimentStatus) -> float:
    """Return the share of the error for the current gate if it tests the newest epoch alone; restarted epochs use the rest."""
    deciding = [each for each in status.evidence_epochs if 0 < each.weight < 100 and each.weight != _bake(status.plan)]
    return error_shares.epoch_error_share(1 + (deciding[-1].restarts if deciding else 0))


def _bake(plan: FrozenPlan) -> int | None:
    """Return the canary's percent in a bake; None if the bake has the first weight, as after a shadow, because then only it has data."""
    baked = next((step.weight for step in plan.steps if step.gate == freeze.BAKE), None)
    return baked if baked is not None and any(0 < step.weight < baked for step in plan.steps) else None


def decides(limits: EvaluationLimits, epoch: EvidenceEpoch) -> bool:
    """Whether gates use an epoch; a bake comes after the gates."""
    is_fit = not epoch.troubled and limits.loaded_arm not in (epoch.underloaded or ())
    return is_fit and epoch.weight != limits.bake


def shows_harm(limits: EvaluationLimits, epoch: EvidenceEpoch) -> bool:
    """Whether harm is tested on an epoch."""
    return limits.loaded_arm not in (epoch.overloaded or ())
