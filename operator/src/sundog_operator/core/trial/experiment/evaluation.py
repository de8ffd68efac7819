"""The evidence on which the state machine of an experiment decides."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sundog_operator.api import MetricStatus, PlanGuardrail
from sundog_operator.api.reasons import Cause
from sundog_operator.core.trial.evaluation import HEALTHY, BaselineHealth


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


@dataclass(frozen=True, slots=True)
class ExperimentEvaluation:
    """Result of evaluating an experiment's present evidence.

    Attributes:
        metrics: status of each metric of each arm with traffic.
        harm: for each arm that does harm, a sentence about it.
        dead_arms: for each arm that fails nearly all its requests, a sentence about it; found without a statistical test.
        mismatch: why the counts allow no conclusion, such as a sample-ratio mismatch; None if they allow one.
        control: whether control is fit for comparison.
        unreachable_edges: names of edge pods that do not report their counts.
        requests: requests in the current epoch of the arm with the fewest.
        units: number of units by arm, or of requests if each request is a unit; empty if unknown.
        outcome_decision: the decision on the success metrics; None without any.
        shares: new numbers of buckets, of control and of each arm; None unless weights change.
        observed_traffic: the rate of units and the values of control; None if unknown.
        feedback_problem: why outcomes from edges cannot be used; None if they can, or if there are none.
        data_loss: why too much data is missing for a winner; None if there is enough.
        ignored_outcomes_message: sentence about outcomes that no arm counts; empty if they are few.
        loads: load of a replica of each active arm relative to one of stable, NaN if unknown; empty without metrics of the edge and
            latency guardrails.
        has_equal_blocks: whether the epochs in which replicas had equal load have enough blocks for a verdict.
        guardrails: the plan's guardrails, with those latency thresholds that are known.
    """

    metrics: tuple[MetricStatus, ...] = ()
    harm: Mapping[str, str] = field(default_factory=dict)
    dead_arms: Mapping[str, str] = field(default_factory=dict)
    mismatch: Cause | None = None
    control: BaselineHealth = HEALTHY
    unreachable_edges: tuple[str, ...] = ()
    requests: int = 0
    units: Mapping[str, int] = field(default_factory=dict)
    guardrails: tuple[PlanGuardrail, ...] = ()
    outcome_decision: OutcomeDecision | None = None
    shares: tuple[int, ...] | None = None
    observed_traffic: ObservedTraffic | None = None
    feedback_problem: Cause | None = None
    data_loss: Cause | None = None
    ignored_outcomes_message: str = ""
    loads: tuple[float, ...] = ()
    has_equal_blocks: bool = False
