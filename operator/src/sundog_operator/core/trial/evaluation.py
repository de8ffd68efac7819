"""Result of one evaluation of the evidence, an input of the state machine."""

from dataclasses import dataclass
from typing import Final

from sundog_operator.api import MetricStatus, PlanGuardrail
from sundog_operator.api.reasons import Cause


@dataclass(frozen=True, slots=True)
class BaselineHealth:
    """Health of stable, the baseline of the comparison.

    Attributes:
        outage: why stable is unfit; None if it is healthy.
        settled: whether stable has been healthy for five minutes.
    """

    outage: Cause | None = None
    settled: bool = True


HEALTHY: Final = BaselineHealth()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The evidence of an attempt now.

    Attributes:
        metrics: each metric, for the status.
        harm: a sentence: the canary is dead, or worse than its margin allows; empty if neither.
        is_dead: whether the canary is dead, as `dead_arm.find_dead_arm` defines it.
        passed: whether every guardrail lets the next step begin.
        silent: whether an arm has no request in the current epoch.
        mismatch: a sentence about a sample-ratio mismatch, with which no conclusion is valid; empty without one.
        control: whether stable can serve as the baseline.
        unreachable_edges: pods of edges that do not report their counters.
        requests: requests of the canary in the current epoch.
        guardrails: the plan's guardrails, with latency thresholds as far as those are known.
        lost: requests of stable and of the canary that were lost: their outcome is unknown.
        feedback_problem: why outcomes from feedback allow no verdict; None if they do, or if the plan has none.
        ignored_outcomes_message: sentence about outcomes that no arm counts; empty if they are few.
    """

    metrics: tuple[MetricStatus, ...] = ()
    harm: str = ""
    passed: bool = False
    silent: bool = True
    mismatch: str = ""
    control: BaselineHealth = HEALTHY
    unreachable_edges: tuple[str, ...] = ()
    requests: int = 0
    guardrails: tuple[PlanGuardrail, ...] = ()
    is_dead: bool = False
    lost: tuple[int, int] = (0, 0)
    feedback_problem: Cause | None = None
    ignored_outcomes_message: str = ""
