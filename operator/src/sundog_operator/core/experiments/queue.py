"""Which experiment of a ModelDeployment goes first: one at a time, the oldest before the others."""

from collections.abc import Iterable
from dataclasses import dataclass

from sundog_operator.api import ExperimentStatus
from sundog_operator.core.experiments.admission import ExperimentAcceptance
from sundog_operator.core.rollout.state import is_over


@dataclass(frozen=True, slots=True)
class UserExperiment:
    """An Experiment of a user's own as it is stored. `created` is its creationTimestamp."""

    name: str
    uid: str
    generation: int
    created: str
    acceptance: ExperimentAcceptance
    status: ExperimentStatus

    @property
    def has_outcomes(self) -> bool:
        """Whether it has metrics of outcomes, by its spec or the plan that it goes on by, and is not over."""
        spec, plan = self.acceptance.spec, self.status.plan.comparison
        wanted = spec is not None and bool(spec.metrics.success or spec.metrics.secondary)
        return (wanted or (plan is not None and bool(plan.outcomes))) and not is_over(self.status)


def order_waiting(experiments: Iterable[UserExperiment]) -> list[UserExperiment]:
    """Those that have not ended, the oldest first, and of the same age by name."""
    waiting = (each for each in experiments if not is_over(each.status))
    return sorted(waiting, key=lambda each: (each.created, each.name))
