"""Order of a ModelDeployment's experiments: one at a time, the oldest first."""

from collections.abc import Iterable
from dataclasses import dataclass

from sundog_operator.api import ExperimentStatus
from sundog_operator.core.trial.experiment.admission import ExperimentAcceptance
from sundog_operator.core.trial.phases import is_over


@dataclass(frozen=True, slots=True)
class UserExperiment:
    """Stored Experiment of a user. `created` is its creationTimestamp."""

    name: str
    uid: str
    generation: int
    created: str
    acceptance: ExperimentAcceptance
    status: ExperimentStatus

    @property
    def has_outcomes(self) -> bool:
        """True if it has outcome metrics, by its spec or frozen plan, and is not over."""
        spec, plan = self.acceptance.spec, self.status.plan.comparison
        wanted = spec is not None and spec.metrics.has_outcomes
        return (wanted or (plan is not None and bool(plan.feedback_outcomes))) and not is_over(self.status)


def order_waiting(experiments: Iterable[UserExperiment]) -> list[UserExperiment]:
    """Return the experiments that are not over, the oldest first, and by name at equal age."""
    waiting = (each for each in experiments if not is_over(each.status))
    return sorted(waiting, key=lambda each: (each.created, each.name))
