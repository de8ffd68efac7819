"""`sundog experiment power` of rollouts."""

import json
from typing import Any

import pytest


def estimate(sundog: Any, *options: str) -> dict[str, Any]:
    done = sundog("experiment", "power", *options, "--runs", "10", "-o", "json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_a_table_over_some_effects(sundog: Any) -> None:
    options = ("--rps", "100", "--errors", "1%", "--runs", "10", "--max-duration", "30m")
    lines = sundog("experiment", "power", *options).out.splitlines()
    assert lines[0] == "The gate at 50 %, errorRate with a margin of 25%, a floor of 0.50%, alpha 0.05, at most 30m"
    assert lines[1].split() == [
        "ERRORS",
        "TYPICALLY",
        "EVENTS",
        "REQUESTS",
        "TIME",
        "PASSED",
        "ROLLED",
        "BACK",
        "UNDECIDED",
    ]
    assert [line.split()[0] for line in lines[2:]] == ["0.5", "0.8", "1", "1.25", "2", "3", "5"]
    assert "passes by the floor" in lines[4]
    assert lines[-1].startswith("5 × stable's     rolled back for harm")


def test_what_is_given_is_used_instead_of_the_plans(sundog: Any) -> None:
    options = ("--rps", "50", "--errors", "1%", "--times", "1", "--weight", "25", "--margin", "150%", "--floor", "0%")
    found = estimate(sundog, *options, "--alpha", "0.2", "--max-duration", "2h")
    assert {name: found[name] for name in ("weight", "margin", "floor", "alpha", "maxDuration")} == {
        "weight": 25,
        "margin": 1.5,
        "floor": 0.0,
        "alpha": 0.2,
        "maxDuration": "2h",
    }
    (one,) = found["candidates"]
    assert one["decides"] == "margin"
    (strict,) = estimate(sundog, *options, "--max-duration", "2h")["candidates"]
    assert strict["events"] > one["events"]


def test_a_plan_of_a_manifest(sundog: Any, manifest: Any) -> None:
    rollout = {
        "steps": [{"weight": 10, "maxDuration": "3h"}, {"weight": 40, "maxDuration": "20m"}],
        "guardrails": [{"metric": "errorRate", "margin": "50%", "floor": "0%"}],
    }
    path = manifest(rollout=rollout)
    found = estimate(sundog, "-f", str(path), "--rps", "100", "--errors", "5%", "--times", "1")
    assert [found[name] for name in ("weight", "margin", "maxDuration")] == [40, 0.5, "20m"]
    path.write_text(f"{path.read_text()}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: vision}}\n")
    assert estimate(sundog, "-f", str(path), "--rps", "100", "--errors", "5%", "--times", "1") == found


def test_the_last_gate_behind_shadows_has_what_they_leave_of_alpha(sundog: Any, manifest: Any) -> None:
    shadow = {"shadow": {"minSamples": 500}}
    path = manifest(rollout={"steps": [shadow, shadow, {"weight": 50}]})
    options = ("-f", str(path), "--rps", "100", "--errors", "1%", "--times", "3")
    title = sundog("experiment", "power", *options, "--runs", "10", "--alpha", "0.1").out.splitlines()[0]
    assert ", alpha 0.1 (0.0333 for harm), " in title
    found = estimate(sundog, *options)
    alone = estimate(sundog, "-f", str(manifest(rollout={"steps": [{"weight": 50}]})), *options[2:])
    assert (found["harmShares"], "harmShares" in alone) == (3, False)
    assert found["candidates"][0]["events"] > alone["candidates"][0]["events"]


def test_the_last_gate_asks_for_the_weight_that_follows_it(sundog: Any, manifest: Any) -> None:
    options = ("--rps", "20", "--errors", "1%", "--times", "1")
    alone = {"steps": [{"weight": 10}], "guardrails": [{"metric": "errorRate"}]}
    before_another = {**alone, "steps": [*alone["steps"], {"weight": 20, "gate": "manual"}]}
    (all_,), (some,) = (
        estimate(sundog, "-f", str(manifest(rollout=rollout)), *options)["candidates"]
        for rollout in (alone, before_another)
    )
    assert some["requests"] < 0.7 * all_["requests"]


def test_a_gate_that_will_hardly_pass_in_time_is_warned_of(sundog: Any) -> None:
    options = ("experiment", "power", "--rps", "1", "--errors", "0%", "--runs", "10")
    slow = sundog(*options, "--max-duration", "5m")
    assert "likelihood of only 0%" in slow.err
    assert "here pause" in slow.err
    assert sundog(*options, "--max-duration", "2h").err.strip() == ""


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--max-duration", "soon", "'soon' is not a duration such as 30s"),
        ("--max-duration", "0s", "'0s': expected a duration above 0"),
        ("--weight", "100", "100 is not in the range 1<=x<=99"),
        ("--floor", "1", "'1' is not a percentage from 0% to below 100%"),
        ("--alpha", "0", "0.0 is not in the range 0<x<=0.5"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(sundog: Any, option: str, value: str, problem: str) -> None:
    done = sundog("experiment", "power", "--rps", "1", "--errors", "1%", option, value)
    assert done.code == 2
    assert problem in done.err


def test_what_cannot_be_simulated_is_shown(sundog: Any, manifest: Any) -> None:
    path = manifest(rollout={"steps": [{"weight": 50, "gate": "manual"}]})
    done = sundog("experiment", "power", "-f", str(path), "--rps", "1", "--errors", "1%")
    assert (done.code, "no step with an evidence gate" in done.err) == (1, True)
