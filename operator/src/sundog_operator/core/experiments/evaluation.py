"""The evidence that a tick of an experiment gets."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sundog_operator.api import MetricStatus, PlanGuardrail
from sundog_operator.api.reasons import Cause
from sundog_operator.core.rollout.evaluation import HEALTHY, BaselineHealth


@dataclass(frozen=True, slots=True)
class OutcomeRuling:
    """Decision by outcomes.

    Attributes:
        decision: a `winner.Decision` as text.
        winner: name of the winning arm; empty without one.
        reason: the reason in words.
    """

    decision: str
    winner: str
    reason: str


@dataclass(frozen=True, slots=True)
class ObservedRate:
    """Observed rate of units, and the values of control's units.

    Attributes:
        units_per_second: first exposures of all arms, including units outside of the experiment.
        values: control's values by metric name: (rate, 0), or (mean, standard deviation of a unit) in the values' unit.
    """

    units_per_second: float
    values: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class ExperimentEvaluation:
    """Evaluation of an experiment's present evidence.

    Attributes:
        metrics: status of each metric of each arm with traffic.
        harm: sentence by arm that does harm.
        dead: sentence by arm that fails nearly all its requests; this is no statistical test.
        broken: why the counts allow no conclusion, such as a sample-ratio mismatch; empty where they do.
        control: whether control is fit for comparison.
        unreachable_edges: pods of edges that do not report their counts.
        requests: requests in the current epoch, of the arm with the fewest.
        units: units by arm, or requests where each request is a unit; empty where unknown.
        ruling: the decision by outcomes; None without success metrics.
        shares: buckets of control and of each arm, once weights are to change.
        rate: the observed rate of units; None where unknown.
        feedback: why outcomes from edges cannot be used; None where they can, or where there are none.
        lost: why too much data is missing for a winner; None where enough is there.
        unknown_units_message: sentence about outcomes that belong to no known unit; empty where they are few.
        guardrails: the plan's guardrails, with latency thresholds as far as those are known.
    """

    metrics: tuple[MetricStatus, ...] = ()
    harm: Mapping[str, str] = field(default_factory=dict)
    dead: Mapping[str, str] = field(default_factory=dict)
    broken: str = ""
    control: BaselineHealth = HEALTHY
    unreachable_edges: tuple[str, ...] = ()
    requests: int = 0
    units: Mapping[str, int] = field(default_factory=dict)
    guardrails: tuple[PlanGuardrail, ...] = ()
    ruling: OutcomeRuling | None = None
    shares: tuple[int, ...] | None = None
    rate: ObservedRate | None = None
    feedback: Cause | None = None
    lost: Cause | None = None
    unknown_units_message: str = ""
