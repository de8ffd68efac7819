"""Results of one evaluation of the evidence, and the inputs of a state machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sundog_operator.api import MetricStatus, PlanGuardrail
from sundog_operator.api.reasons import Cause


@dataclass(frozen=True, slots=True)
class BaselineHealth:
    """Health of the baseline of the comparison: stable, or an experiment's control.

    Attributes:
        outage: why the baseline is unfit; None if it is healthy.
        settled: whether it has been healthy for five minutes.
    """

    outage: Cause | None = None
    settled: bool = True


HEALTHY: Final = BaselineHealth()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEvaluation:
    """The present evidence of a rollout or an experiment.

    Attributes:
        metrics: the status of each metric of each compared arm.
        control: whether the baseline is fit for comparison.
        unreachable_edges: names of edge pods that do not report their counters.
        requests: requests in the current epoch: of the canary, or of the arm of an experiment with the fewest.
        guardrails: the plan's guardrails, with those latency thresholds that are known.
        feedback_problem: why outcomes from feedback cannot be used; None if they can, or if the plan has none.
        ignored_outcomes_message: sentence about outcomes that no arm counts; empty if they are few.
    """

    metrics: tuple[MetricStatus, ...] = ()
    control: BaselineHealth = HEALTHY
    unreachable_edges: tuple[str, ...] = ()
    requests: int = 0
    guardrails: tuple[PlanGuardrail, ...] = ()
    feedback_problem: Cause | None = None
    ignored_outcomes_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutEvaluation(TrialEvaluation):
    """The present evidence of a rollout.

    Attributes:
        harm: a sentence: the canary is dead, or worse than its margin allows; empty if neither.
        is_dead: whether the canary is dead, as `dead_arm.find_dead_arm` defines it.
        passed: whether every guardrail lets the next step begin.
        silent: whether an arm has no request in the current epoch.
        mismatch: a sentence about a sample-ratio mismatch, with which no conclusion is valid; empty without one.
        lost: requests of stable and of the canary that were lost: their outcome is unknown.
    """

    harm: str = ""
    is_dead: bool = False
    passed: bool = False
    silent: bool = True
    mismatch: str = ""
    lost: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class OutcomeDecision:
    """Decision on the success metrics of an experiment.

    Attributes:
        decision: a `winner.Decision` as text.
        winner: name of the winning arm; empty without one.
        reason: the reason in words.
        leader: name of the arm that leads by the first success metric; empty where none does, or where the data is in doubt.
    """

    decision: str
    winner: str
    reason: str
    leader: str = ""


@dataclass(frozen=True, slots=True)
class ObservedTraffic:
    """Observed rate of units, and the values of control's units.

    Attributes:
        units_per_second: first exposures per second of all arms, including units outside of the experiment.
        control_values: control's values by metric name: (rate, 0) of a rate metric, (mean, standard deviation of a unit) of a mean metric.
    """

    units_per_second: float
    control_values: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentEvaluation(TrialEvaluation):
    """The present evidence of an experiment.

    Attributes:
        harm: for each arm that does harm, a sentence about it.
        dead_arms: for each arm that fails nearly all its requests, a sentence about it; found without a statistical test.
        mismatch: why the counts allow no conclusion, such as a sample-ratio mismatch; None if they allow one.
        units: number of units by arm, or of requests if each request is a unit; empty if unknown.
        outcome_decision: the decision on the success metrics; None without any.
        shares: new numbers of buckets, of control and of each arm; None unless weights change.
        observed_traffic: the rate of units and the values of control; None if unknown.
        data_loss: why too much data is missing for a winner; None if there is enough.
        loads: load of a replica of each active arm relative to one of stable, NaN if unknown; empty without metrics of the edge and
            latency guardrails.
        has_equal_blocks: whether the epochs in which replicas had equal load have enough blocks for a verdict.
    """

    harm: Mapping[str, str] = field(default_factory=dict)
    dead_arms: Mapping[str, str] = field(default_factory=dict)
    mismatch: Cause | None = None
    units: Mapping[str, int] = field(default_factory=dict)
    outcome_decision: OutcomeDecision | None = None
    shares: tuple[int, ...] | None = None
    observed_traffic: ObservedTraffic | None = None
    data_loss: Cause | None = None
    loads: tuple[float, ...] = ()
    has_equal_blocks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialInputs:
    """Inputs of one tick of a state machine.

    Attributes:
        now: the present time.
        confirmed: whether every edge has the current epoch in force.
        evidence: the evaluation; None if nothing was evaluated.
    """

    now: datetime
    confirmed: bool
    evidence: TrialEvaluation | None = None
