"""What a tick of an experiment is told of the evidence."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sundog_operator.api import MetricStatus, PlanGuardrail
from sundog_operator.core.rollout.evaluation import HEALTHY, BaselineHealth


@dataclass(frozen=True, slots=True)
class OutcomeRuling:
    """Who wins by outcomes: a decision of `winning`, the arm, and why."""

    decision: str
    winner: str
    reason: str


@dataclass(frozen=True, slots=True)
class ObservedRate:
    """What comes to the service, and what a unit of control comes to, as seen so far.

    Attributes:
        units_per_second: first exposures of all arms, those outside of the experiment included.
        values: of control by the metric's name: its rate, or its mean and the deviation of a unit, in the unit of the values.
    """

    units_per_second: float
    values: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class ExperimentEvaluation:
    """The evidence of an experiment as it is now.

    Attributes:
        metrics: what is known of each metric of each arm that has traffic.
        harm: what an arm does worse than it may, by arm; none that does no worse.
        dead: likewise, what fails nearly all that it gets, which is no statistics.
        broken: why nothing can be concluded from what was counted; empty where something can.
        control: whether control is fit to be compared with.
        unheard: pods of edges that do not tell what they have counted.
        requests: of the arm with the fewest in the epoch in force.
        units: those that fell to each arm, its requests where each is one; none where nobody knows.
        ruling: who wins by outcomes; None where nobody is to.
        shares: buckets of control and of each arm, once weights are to move.
        rate: what comes to the service, as its outcomes have it; None where nobody knows.
        feedback: (reason, message) of why nothing is built on what edges tell of outcomes; None where it is, or where there are none.
        lost: likewise of why nothing is won by what was counted, for too much of it is missing; None where enough is there.
        of_nobody: how many outcomes are of no unit that is known, in words; empty where those are few.
        guardrails: those of the plan, with the times that latencies are compared by, as far as those are known.
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
    feedback: tuple[str, str] | None = None
    lost: tuple[str, str] | None = None
    unknown_units_message: str = ""
