"""Duration of an experiment, compared with simulation, and experiments that stop too early."""

from datetime import timedelta
from typing import Any

import pytest

from sundog_operator.api import ExperimentSpec, MetricStatus
from sundog_operator.core.stats.power.experiment_simulation import ControlBaseline
from sundog_operator.core.trial.experiment import power
from sundog_operator.core.trial.experiment.power import ExperimentTraffic

CONVERSION = {"name": "conversion", "feedback": "converted", "minimumEffect": "10%"}
REVENUE = {"name": "revenue", "feedback": "spent", "type": "mean", "minimumEffect": "10%"}
A_SECOND = ExperimentTraffic(1.0, ControlBaseline(0.1))


def spec(*success: dict[str, Any], **changes: Any) -> ExperimentSpec:
    given = {
        "modelDeployment": "digits",
        "arms": [{"name": "wide"}],
        "exposure": "100%",
        "stop": {"maxDuration": "36h"},
    }
    return ExperimentSpec.from_json({**given, **changes, "metrics": {"success": list(success) or [CONVERSION]}})


@pytest.mark.parametrize("effect", [0.1, 0.2])
@pytest.mark.parametrize(
    ("given", "base"),
    [
        (spec(), ControlBaseline(0.1)),
        (spec(weights={"control": 80, "wide": 20}), ControlBaseline(0.1)),
        (spec({**CONVERSION, "goal": "decrease"}), ControlBaseline(0.1)),
        (spec(REVENUE), ControlBaseline(10.0, 30.0)),
        (spec({**REVENUE, "goal": "decrease"}), ControlBaseline(10.0, 30.0)),
    ],
)
def test_half_of_simulated_experiments_take_the_expected_time(
    given: ExperimentSpec, base: ControlBaseline, effect: float
) -> None:
    found = power.forecast_experiment(given, ExperimentTraffic(1.0, base), 0, effect, runs=100)
    assert found.right > 0.7
    assert found.wrong + found.no_winner <= 0.05
    assert found.median_s == pytest.approx(found.seconds, rel=0.25)
    assert found.late_s >= found.median_s


def test_without_an_effect_no_win_is_right() -> None:
    found = power.forecast_experiment(spec(), A_SECOND, 0, 0.0, runs=1000)
    assert found.right == 0
    assert found.wrong <= 0.065
    assert found.no_winner > 0.8
    assert found.median_s == pytest.approx(found.seconds, rel=0.35)


def test_more_tests_take_longer() -> None:
    one, many = (
        power.forecast_experiment(each, A_SECOND, 0, 0.2, runs=10)
        for each in (spec(), spec(CONVERSION, REVENUE, arms=[{"name": "wide"}, {"name": "deep"}]))
    )
    assert many.units > 1.4 * one.units


def test_weights_that_move_are_played_so() -> None:
    fixed, moving = (
        power.forecast_experiment(spec(allocation={"mode": mode}), A_SECOND, 0, 0.2, runs=50)
        for mode in ("fixed", "thompson")
    )
    assert fixed.units == moving.units
    assert moving.right > 0.9
    assert moving.median_s != fixed.median_s


def test_units_end_an_experiment_before_its_time() -> None:
    given = spec(exposure="20%", stop={"maxDuration": "10d", "maxUnits": 1000})
    assert power.units_per_second(given, A_SECOND) == pytest.approx(0.2)
    assert power.horizon(given, A_SECOND) == timedelta(seconds=5000)
    assert power.horizon(given, ExperimentTraffic(0.001, ControlBaseline(0.1))) == timedelta(days=10)
    found = power.forecast_experiment(given, A_SECOND, 0, 0.2, runs=20)
    assert found.undecided > 0.8


@pytest.mark.parametrize(
    ("given", "bases", "message"),
    [
        (spec(), {"conversion": ControlBaseline(0.1)}, ""),
        (spec(), {}, ""),
        (
            spec(stop={"maxDuration": "2h"}),
            {"conversion": ControlBaseline(0.1)},
            "conversion is unlikely to be decided before the experiment stops: an effect of 10 % needs about 2.8e+04 units,"
            " 8 hours at this rate; 3.6e+03 come in an hour, 7.2e+03 in 2 hours",
        ),
        (
            spec(stop={"maxUnits": 100}),
            {"conversion": ControlBaseline(0.1)},
            "; 3.6e+03 come in an hour, 100 in 100 seconds",
        ),
        (
            spec(exposure="10%", stop={"maxDuration": "3d"}),
            {"conversion": ControlBaseline(0.1)},
            " units, 3 days at this rate; ",
        ),
        (spec(), {"conversion": ControlBaseline(0.0)}, "no number of units detects an effect of 10 %; "),
        (spec(CONVERSION, REVENUE), {"revenue": ControlBaseline(1.0, 100.0)}, "revenue is unlikely to be decided"),
        (
            spec({**CONVERSION, "minimumEffect": None}, stop={"maxDuration": "2h"}),
            {"conversion": ControlBaseline(0.1)},
            "conversion is unlikely to be decided before the experiment stops: an effect of 5 % (the default)"
            " needs about",
        ),
        (
            spec({**CONVERSION, "minimumEffect": None}, stop={"maxDuration": "30d"}),
            {"conversion": ControlBaseline(0.1)},
            "",
        ),
        (
            spec({**CONVERSION, "minimumEffect": None}),
            {"conversion": ControlBaseline(0.0)},
            "no number of units detects an effect of",
        ),
        (spec({**CONVERSION, "minimumEffect": None}), {}, ""),
    ],
)
def test_an_experiment_that_stops_too_early_is_reported(
    given: ExperimentSpec, bases: dict[str, ControlBaseline], message: str
) -> None:
    found = power.find_undecidable_metric(given, 1.0, bases)
    assert message in found
    assert bool(found) is bool(message)


@pytest.mark.parametrize(
    ("known", "takes"),
    [
        ({"eta": "2h"}, "2 hours"),
        ({"eta": "30m"}, ""),
        # A duration beyond the longest reported one is missing from the status.
        ({"needed": 4000.0, "events": [900, 100]}, "90 minutes"),
        ({"needed": 1900.0, "events": [900, 100]}, ""),
        ({"needed": 4000.0}, ""),
        ({}, ""),
    ],
)
def test_a_guardrail_that_passes_too_late_is_reported(known: dict[str, Any], takes: str) -> None:
    metric = MetricStatus.from_json({"name": "errorRate", "role": "guardrail", **known})
    found = power.find_metric_without_time(metric, 1800.0, 3600.0)
    doubt = "errorRate is unlikely to be decided before the experiment stops"
    assert found == (f"{doubt}: it takes about {takes} at this rate; it stops in 60 minutes" if takes else "")


def test_a_window_takes_no_units_of_an_experiment_that_units_end() -> None:
    given = spec({**CONVERSION, "window": "7d"}, stop={"maxDuration": "14d", "maxUnits": 7200})
    assert power.horizon(given, A_SECOND) == timedelta(days=7, hours=2)
    found = power.find_undecidable_metric(given, 1.0, {"conversion": ControlBaseline(0.1)})
    assert found.endswith("; 3.6e+03 come in an hour, 7.2e+03 in 2 hours")
    short = spec({**CONVERSION, "window": "7d"}, stop={"maxDuration": "170h"})
    assert power.horizon(short, A_SECOND) == timedelta(hours=170)
    found = power.find_undecidable_metric(short, 1.0, {"conversion": ControlBaseline(0.1)})
    assert found.endswith("; 3.6e+03 come in an hour, 7.2e+03 in 2 hours")


def test_requests_are_a_bound_of_units_that_come_again() -> None:
    found = power.find_undecidable_metric(
        spec(stop={"maxDuration": "2h"}), 1.0, {"conversion": ControlBaseline(0.1)}, is_bound=True
    )
    assert " units, at least 8 hours at this rate; at most 3.6e+03 come in an hour, 7.2e+03 in 2 hours" in found


def test_without_traffic_nothing_is_reported() -> None:
    assert power.find_undecidable_metric(spec(), 0.0, {"conversion": ControlBaseline(0.1)}) == ""
