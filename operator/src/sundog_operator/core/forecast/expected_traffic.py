"""Traffic and control's values that an experiment can expect, known before it has units of its own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sundog_operator.api import ExpectedBaseline, ExperimentSpec, FeedbackMetric, PlanOutcome, parse_percent
from sundog_operator.core.edge import units
from sundog_operator.core.forecast import experiment_forecast
from sundog_operator.core.forecast.experiment_simulation import ControlBaseline
from sundog_operator.core.trial.experiment import outcome_evaluation, state
from sundog_operator.core.trial.experiment.queue import UserExperiment


@dataclass(frozen=True, slots=True)
class PastTraffic:
    """Counts of an earlier experiment with the same unit.

    Attributes:
        name: the experiment.
        units_per_second: its first exposures per second, including units outside of it.
        bases: control's values, by the name of the success metric for which they can be used; only values above 0.
    """

    name: str
    units_per_second: float
    bases: Mapping[str, ControlBaseline]


@dataclass(frozen=True, slots=True)
class ExpectedTraffic:
    """Traffic and control's values that an experiment can expect.

    Attributes:
        units_per_second: new units of the service, exposed or not; None if unknown.
        is_bound: there are at most so many, because they are requests, of which a unit may send several.
        bases: control's values, by the name of the success metric; metrics without one are missing.
        source: where the numbers come from, in words.
    """

    units_per_second: float | None
    is_bound: bool
    bases: Mapping[str, ControlBaseline]
    source: str

    def find_undecidable_metric(self, spec: ExperimentSpec) -> str:
        """Return a sentence about a success metric for which `stop` leaves too little time or units; empty for none."""
        if self.units_per_second is None:
            return ""
        found = experiment_forecast.find_undecidable_metric(
            spec, self.units_per_second, self.bases, is_bound=self.is_bound
        )
        return f"{found} ({self.source})" if found else ""


def expect_traffic(
    spec: ExperimentSpec, experiments: Iterable[UserExperiment], requests_per_second: float | None, when: str
) -> ExpectedTraffic:
    """Return what an experiment can expect, by its `expected` values first, and then by earlier experiments.

    Args:
        spec: the experiment's spec.
        experiments: the other experiments of its ModelDeployment.
        requests_per_second: the service's requests; None if unknown.
        when: when these were counted, in words.
    """
    past = find_past_traffic(spec, experiments)
    given = {
        each.status_name: make_baseline(each.expected) for each in spec.metrics.success if each.expected is not None
    }
    bases = {**(past.bases if past is not None else {}), **given}
    sources = ["by spec.metrics.success[].expected"] if given else []
    if past is not None:
        return ExpectedTraffic(
            past.units_per_second, False, bases, " and ".join([*sources, f"by the counts of Experiment {past.name}"])
        )
    if requests_per_second is not None:
        sources.append(f"by the {requests_per_second:.3g} requests/s {when}")
    is_sticky = units.resolve_unit(spec.unit) != units.PER_REQUEST
    return ExpectedTraffic(requests_per_second, is_sticky, bases, " and ".join(sources))


def make_baseline(expected: ExpectedBaseline) -> ControlBaseline:
    """Return the value of control that a user expects. The spec's validation ensures that it fits the metric's type."""
    if expected.rate is not None:
        return ControlBaseline(parse_percent(expected.rate))
    return ControlBaseline(expected.mean or 0.0, expected.deviation or 0.0)


def find_past_traffic(spec: ExperimentSpec, experiments: Iterable[UserExperiment]) -> PastTraffic | None:
    """Return the counts of the newest experiment with the same unit; one with a common success metric is preferred."""
    same_unit = [each for each in experiments if units.frozen_unit(each.status.plan) == units.resolve_unit(spec.unit)]
    newest: PastTraffic | None = None
    for experiment in sorted(same_unit, key=lambda each: (str(each.status.since), each.name), reverse=True):
        found = _past_traffic(spec, experiment)
        if found is not None and found.bases:
            return found
        newest = newest or found
    return newest


def _past_traffic(spec: ExperimentSpec, experiment: UserExperiment) -> PastTraffic | None:
    """Return the counts of one experiment; None if it has none."""
    traffic = outcome_evaluation.observe_past_traffic(experiment.status, experiment.uid)
    if traffic is None:
        return None
    counted = {
        _kind_of(each): traffic.control_values[each.name]
        for each in state.planned_outcomes(experiment.status, state.SUCCESS)
        if each.name in traffic.control_values
    }
    bases = {
        each.status_name: ControlBaseline(*counted[_kind_of(each)])
        for each in spec.metrics.success
        if counted.get(_kind_of(each), (0.0,))[0] > 0
    }
    return PastTraffic(experiment.name, traffic.units_per_second, bases)


def _kind_of(metric: FeedbackMetric | PlanOutcome) -> tuple[object, ...]:
    """Return what two metrics have in common if control's value of one is that of the other."""
    kind = metric.type, metric.cap, metric.window, metric.after
    return metric.feedback, metric.denominator, metric.covariate, *kind
