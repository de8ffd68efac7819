"""What a tick is told of the evidence."""

from dataclasses import dataclass
from typing import Final

from sundog_operator.api import MetricStatus, PlanGuardrail

CONTROL_UNHEALTHY: Final = "ControlUnhealthy"
CONTROL_DEGRADED: Final = "ControlDegraded"


@dataclass(frozen=True, slots=True)
class BaselineHealth:
    """How stable does by itself.

    Attributes:
        reason: `CONTROL_UNHEALTHY` or `CONTROL_DEGRADED`; empty where it does well.
        message: the same with numbers.
        settled: whether it has done well for five minutes.
    """

    reason: str = ""
    message: str = ""
    settled: bool = True


HEALTHY: Final = BaselineHealth()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The evidence of an attempt as it is now.

    Attributes:
        metrics: what is known of each metric, for the status.
        harm: what the candidate does worse than it may, or that it is dead; empty for nothing.
        dead: whether it is that, in the sense of `judging.dead`.
        passed: whether every guardrail lets the next step begin.
        silent: whether an arm has had no request in the epoch in force.
        broken: why nothing can be concluded from what was counted; empty where something can.
        control: whether stable is fit to be compared with.
        unheard: pods of edges that do not tell what they have counted.
        requests: the candidate's in the epoch in force.
        guardrails: those of the plan, with the times that latencies are compared by, as far as those are known.
        lost: of how many requests of stable and of the candidate nobody knows how they ended.
    """

    metrics: tuple[MetricStatus, ...] = ()
    harm: str = ""
    passed: bool = False
    silent: bool = True
    broken: str = ""
    control: BaselineHealth = HEALTHY
    unreachable_edges: tuple[str, ...] = ()
    requests: int = 0
    guardrails: tuple[PlanGuardrail, ...] = ()
    dead: bool = False
    lost: tuple[int, int] = (0, 0)
