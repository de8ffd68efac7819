"""`sundog experiment power` and `simulate` of an Experiment: options, output, and invalid combinations."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

CONVERSION = {"name": "conversion", "feedback": "converted", "minimumEffect": "10%"}
REVENUE = {"name": "revenue", "feedback": "spent", "type": "mean"}


@pytest.fixture
def manifest(tmp_path: Path) -> Any:
    def written(
        *success: dict[str, Any], copies: int = 1, guardrails: tuple[dict[str, Any], ...] = (), **changes: Any
    ) -> str:
        given = {"modelDeployment": "digits", "arms": [{"name": "wide"}, {"name": "deep"}], **changes}
        spec = {**given, "metrics": {"success": list(success), "guardrails": list(guardrails)}}
        head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "Experiment"}
        path = tmp_path / "experiment.yaml"
        path.write_text(
            "\n---\n".join(json.dumps({**head, "metadata": {"name": f"e{n}"}, "spec": spec}) for n in range(copies))
        )
        return str(path)

    return written


def test_power_over_some_effects(sundog: Any, manifest: Any) -> None:
    done = sundog("experiment", "power", "-f", manifest(CONVERSION), "--rps", "1", "--rate", "10%", "--runs", "10")
    assert done.code == 0, done.err
    title, names, *rows, planned = done.out.splitlines()
    assert title == (
        "2 arms and control, conversion to increase, 20% of the units, alpha 0.05, fixed weights, at most 14d"
    )
    assert names.split() == ["EFFECT", "UNITS", "TIME", "WINS", "WRONG", "NO", "WINNER", "UNDECIDED"]
    assert [row.split()[0] for row in rows] == ["0", "5", "10", "20"]
    assert "100%" in rows[-1]
    assert done.err.strip() == ""
    once = float(
        re.findall(r"^A test with one evaluation at the end finds 10 % with 80 % power in (\d+) units.$", planned)[0]
    )
    # Three arms, two tests, each of one side: 1.96 and 0.84 standard errors for 10 % of 10 %.
    assert once == pytest.approx(3 * (1.96 + 0.8416) ** 2 * (0.1 * 0.9 + 0.11 * 0.89) / 0.01**2, rel=1e-3)


@pytest.mark.parametrize(("goal", "rows"), [("increase", ["0", "10", "20"]), ("decrease", ["0", "10", "20", "40"])])
def test_no_arm_is_better_than_all_units(sundog: Any, manifest: Any, goal: str, rows: list[str]) -> None:
    path = manifest({**CONVERSION, "minimumEffect": "20%", "goal": goal})
    done = sundog("experiment", "power", "-f", path, "--rps", "1", "--rate", "80%", "--runs", "10")
    assert done.code == 0, done.err
    assert [row.split()[0] for row in done.out.splitlines()[2:-1]] == rows


@pytest.mark.parametrize("verb", ["power", "simulate"])
def test_the_largest_alpha_is_no_accident(sundog: Any, manifest: Any, verb: str) -> None:
    path = manifest(CONVERSION, arms=[{"name": "wide"}], alpha=0.5)
    done = sundog("experiment", verb, "-f", path, "--rps", "1", "--rate", "10%", "--runs", "10")
    assert done.code == 0, done.err


def test_a_manifest_comes_from_standard_input(sundog: Any, manifest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(manifest(CONVERSION)).read_text()
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    done = sundog("experiment", "power", "-f", "-", "--rps", "1", "--rate", "10%", "--runs", "10")
    assert done.code == 0, done.err
    assert done.out.startswith("2 arms and control")


def test_a_guardrail_has_no_forecast(sundog: Any, manifest: Any) -> None:
    path = manifest(CONVERSION, guardrails=({**REVENUE, "margin": "3%"},))
    done = sundog("experiment", "power", "-f", path, "--rps", "1", "--rate", "10%", "--metric", "revenue")
    assert done.code != 0
    problem = "revenue is a guardrail, and forecasts assume that guardrails pass; expected one of conversion"
    assert problem in " ".join(done.err.split())


@pytest.mark.parametrize("verb", ["power", "simulate"])
@pytest.mark.parametrize("rule", [{"preset": "clearSignal"}, {"winBy": "everyMetric"}])
def test_a_forecast_by_every_metric_has_the_same_head(
    sundog: Any, manifest: Any, verb: str, rule: dict[str, str]
) -> None:
    options = ("--rps", "1", "--rate", "10%", "--runs", "10", "--effect", "20%")
    done = sundog("experiment", verb, "-f", manifest(CONVERSION, REVENUE, **rule), *options)
    assert done.code == 0, done.err
    assert done.out.splitlines()[1] == (
        "Of conversion alone: by winBy everyMetric an arm wins once it is better by each success metric, also by revenue."
    )
    found = json.loads(
        sundog("experiment", verb, "-f", manifest(CONVERSION, REVENUE, **rule), *options, "-o", "json").out
    )
    assert found["needsAlso"] == ["revenue"]
    for alone in (manifest(CONVERSION, **rule), manifest(CONVERSION, REVENUE, **rule | {"winBy": "anyMetric"})):
        assert " alone: " not in sundog("experiment", verb, "-f", alone, *options).out


@pytest.mark.parametrize("verb", ["power", "simulate"])
@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ({"preset": "doNoHarm"}, "spec.preset: found doNoHarm (winBy noHarm)"),
        ({"winBy": "noHarm"}, "spec.winBy: found noHarm"),
    ],
)
def test_a_win_without_being_better_has_no_forecast(
    sundog: Any, manifest: Any, verb: str, rule: dict[str, str], found: str
) -> None:
    done = sundog("experiment", verb, "-f", manifest(CONVERSION, **rule), "--rps", "1", "--rate", "10%")
    assert done.code != 0
    assert f"{found}, by which an arm wins without being better; expected anyMetric" in done.err


def test_an_effect_that_is_hardly_found_is_warned_of(sundog: Any, manifest: Any) -> None:
    path = manifest(CONVERSION, stop={"maxDuration": "1h"})
    done = sundog("experiment", "power", "-f", path, "--rps", "1", "--rate", "10%", "--runs", "10", "--effect", "10%")
    assert "warning: an arm that is 10 % better wins within 1h with a likelihood of only 0%" in done.err


def test_a_simulation_shows_when(sundog: Any, manifest: Any) -> None:
    path = manifest(CONVERSION, unit={"header": "x-user-id"}, allocation={"mode": "thompson"})
    options = ("-f", path, "--units", "90000", "--rate", "10%", "--runs", "10", "--effect", "30%")
    done = sundog("experiment", "simulate", *options)
    assert done.code == 0, done.err
    _, names, row = done.out.splitlines()
    assert names.split()[-3:] == ["MEDIAN", "80", "%"]
    assert row.startswith("30 % better  100%")
    (found,) = json.loads(sundog("experiment", "simulate", *options, "-o", "json").out)["effects"]
    assert (found["wins"], found["wrongWins"], found["noWinner"]) == (1.0, 0.0, 0.0)
    assert 0 < found["medianMinutes"] <= found["lateMinutes"] < 14 * 1440


def test_a_ratio_is_forecast_by_its_linearised_values(sundog: Any, manifest: Any) -> None:
    path = manifest({**REVENUE, "type": "ratio", "denominator": "orders"})
    done = sundog("experiment", "power", "-f", path, "--rps", "1", "--rate", "10%")
    assert "revenue is a ratio; give control's with --mean and --deviation" in " ".join(done.err.split())
    options = ("--rps", "1", "--mean", "4", "--deviation", "12", "--runs", "10", "--effect", "10%", "-o", "json")
    of_ratio, of_mean = (
        json.loads(sundog("experiment", "power", "-f", manifest(each), *options).out)["effects"]
        for each in ({**REVENUE, "type": "ratio", "denominator": "orders"}, REVENUE)
    )
    assert of_ratio == of_mean


def test_a_mean(sundog: Any, manifest: Any) -> None:
    path = manifest(CONVERSION, REVENUE)
    options = ("-f", path, "--rps", "1", "--mean", "4", "--deviation", "12", "--metric", "revenue", "--runs", "10")
    found = json.loads(sundog("experiment", "power", *options, "-o", "json").out)
    assert found["metric"] == "revenue"
    assert [each["effect"] for each in found["effects"]] == [0.0, 0.025, 0.05, 0.1]
    assert found["effects"][0]["units"] is None
    units = [each["units"] for each in found["effects"][1:]]
    assert units == sorted(units, reverse=True)
    assert found["effects"][0]["oneLook"] is None
    # Standard errors between one of three arms and control, with a deviation of 12 by unit.
    assert found["effects"][3]["oneLook"] == pytest.approx(3 * 2 * (12 * (2.2414 + 0.8416) / 0.4) ** 2, rel=1e-3)


NO_DEVIATION = "revenue is a mean; give control's with --mean and --deviation"
RELATIVE = "; expected more than 0, because effects are relative to control's"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--rate 4%", "each request is a unit; give --rps"),
        ("--rps 1 --mean 4", "conversion is a rate; give control's rate with --rate"),
        ("--rps 1 --rate 4% --metric revenue", NO_DEVIATION),
        ("--rps 1 --mean 4 --metric revenue", NO_DEVIATION),
        ("--rps 1 --rate 4% --metric profit", "has no profit; expected one of conversion, revenue"),
        ("--rps 1", "a rollout needs --rps and --errors; an Experiment needs -f with --rate or --mean"),
        (
            "--rps 1 --errors 1%",
            "experiment.yaml: found 0 ModelDeployments; expected one; an Experiment needs --rate or --mean",
        ),
        ("--rps 1 --rate 4% --errors 1%", "--errors is for a rollout; --rate and --mean are for an Experiment"),
        ("--rps 1 --errors 1% --effect 5%", "--effect is for an Experiment, which also needs --rate or --mean"),
        ("--rps 1 --rate 80% --effect 50%", "--effect 50%: conversion is 0.8 in control; expected at most 25%"),
        ("--rps 1 --rate 0%", f"--rate: found 0 for conversion{RELATIVE} rate"),
        ("--rps 1 --mean -5 --deviation 2 --metric revenue", f"--mean: found -5 for revenue{RELATIVE} mean"),
        ("--rps 1 --mean nan --deviation 2", "'nan' is not a finite number"),
        ("--rps 1 --mean 1 --deviation nan", "'nan' is not a finite number"),
    ],
)
@pytest.mark.parametrize("verb", ["power", "simulate"])
def test_what_does_not_go_together_is_shown(sundog: Any, manifest: Any, verb: str, options: str, problem: str) -> None:
    done = sundog("experiment", verb, "-f", manifest(CONVERSION, REVENUE), *options.split())
    assert done.code != 0
    assert problem in done.err


def test_manifests_that_do_not_do_are_shown(sundog: Any, manifest: Any) -> None:
    asked = ("experiment", "power", "--rps", "1", "--rate", "4%")
    for options, problem in (
        (lambda: (), "give its manifest with -f"),
        (lambda: ("-f", manifest()), "is empty; expected a metric to win by"),
        (lambda: ("-f", manifest(CONVERSION, copies=2)), "found 2 Experiments; expected one"),
        (
            lambda: ("-f", manifest(CONVERSION, weights={"control": 100})),
            "experiment.yaml: Experiment default/e0 is invalid: spec.weights: ",
        ),
        (
            lambda: ("-f", manifest(CONVERSION, unit={"cookie": "user"})),
            "give the number of new units a day with --units",
        ),
    ):
        done = sundog(*asked, *options())
        assert done.code != 0
        assert problem in done.err
