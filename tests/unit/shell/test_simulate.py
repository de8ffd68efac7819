"""`sundog experiment simulate` of rollouts."""

import json
from pathlib import Path
from typing import Any

import pytest

QUICK = ("--runs", "20", "--hours", "2")


def simulated(sundog: Any, *options: str) -> dict[float, dict[str, Any]]:
    """Return each candidate by its multiple of stable's error rate."""
    done = sundog("experiment", "simulate", *options, *QUICK, "-o", "json")
    assert done.code == 0, done.err
    return {each["times"]: each for each in json.loads(done.out)["candidates"]}


def manifest(folder: Path, rollout: dict[str, Any], **fields: Any) -> str:
    path = folder / "digits.yaml"
    spec = {"model": {"uri": "file:///models/v1"}, "rollout": rollout, **fields}
    head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "digits"}}
    path.write_text(json.dumps({**head, "spec": spec}))
    return str(path)


def test_what_is_as_good_is_promoted_and_what_is_far_worse_is_rolled_back_soon(sundog: Any) -> None:
    found = simulated(sundog, "--rps", "100", "--errors", "1%")
    assert list(found) == [1.0, 1.5, 2.0, 5.0]
    assert found[1.0]["promoted"] >= 0.9
    assert found[1.5]["promoted"] <= 0.1
    assert found[5.0]["rolledBack"] == 1.0
    assert found[5.0]["medianMinutes"] < 5 <= found[1.0]["medianMinutes"]
    assert 0 < found[5.0]["failedRequests"] < found[1.0]["failedRequests"]


def test_of_a_service_without_errors_none_is_any_number_of_times_as_many(sundog: Any) -> None:
    found = simulated(sundog, "--rps", "5", "--errors", "0%")
    assert list(found) == [1.0]
    assert (found[1.0]["promoted"], found[1.0]["failedRequests"]) == (1.0, 0.0)


@pytest.mark.extended
def test_too_little_traffic_decides_nothing_and_says_so(sundog: Any) -> None:
    found = simulated(sundog, "--rps", "0.01", "--errors", "1%", "--times", "1")
    assert (found[1.0]["undecided"], found[1.0]["medianMinutes"]) == (1.0, None)
    table = sundog("experiment", "simulate", "--rps", "0.01", "--errors", "1%", "--times", "1", *QUICK).out
    assert table.splitlines()[0].startswith("25 % → 50 % → 100 %, errorRate with a margin of 25%, a floor of 1.00%")
    assert table.splitlines()[2].split()[3:] == ["0%", "0%", "100%", "░" * 20, "–", "–", "0"]


def test_outcomes_are_named_as_taken_for_passed(sundog: Any, tmp_path: Path) -> None:
    kept = {"name": "kept", "feedback": "accepted"}
    file = manifest(tmp_path, {"steps": [{"weight": 50}], "guardrails": [{"metric": "errorRate"}, kept]})
    for verb in ("simulate", "power"):
        result = sundog("experiment", verb, "-f", file, "--rps", "100", "--errors", "1%", "--runs", "20")
        assert "outcomes are taken as passed: kept" in " ".join(result.out.split())


def test_times_are_those_of_gates_and_a_bake_comes_after_them(sundog: Any, tmp_path: Path) -> None:
    alike = {"steps": [{"weight": 50}], "guardrails": [{"metric": "errorRate", "floor": "0.5%"}]}
    baked = manifest(tmp_path, {**alike, "bake": {"duration": "2h"}})
    options = ("--rps", "100", "--errors", "1%", "--times", "1")
    found = simulated(sundog, "-f", baked, *options)
    assert found == simulated(sundog, "-f", manifest(tmp_path, alike), *options)
    result = sundog(
        "experiment", "simulate", "-f", manifest(tmp_path, {**alike, "bake": {"duration": "2h"}}), *options, *QUICK
    )
    assert result.out.splitlines()[0].startswith("50 % → 99 % → 100 %")
    assert "; times end when the gates pass, before the bake of 2h" in " ".join(result.out.split())


def test_the_plan_of_a_manifest_is_played(sundog: Any, tmp_path: Path) -> None:
    short = manifest(tmp_path, {"steps": [{"weight": 50}], "guardrails": [{"metric": "errorRate", "floor": "0%"}]})
    found = simulated(sundog, "-f", short, "--rps", "100", "--errors", "1%", "--times", "1")
    assert (
        found[1.0]["medianMinutes"]
        < simulated(sundog, "--rps", "100", "--errors", "1%", "--times", "1")[1.0]["medianMinutes"]
    )


@pytest.mark.parametrize(("replicas", "steps"), [(1, [25, 50, 100]), (3, [25, 100])])
def test_steps_are_those_of_the_replicas_that_the_manifest_asks_for(
    sundog: Any, tmp_path: Path, replicas: int, steps: list[int]
) -> None:
    """With a latency guardrail, different loads need another step."""
    path = manifest(tmp_path, {"steps": [{"weight": 25}]}, replicas=replicas)
    options = ("--rps", "20", "--errors", "1%", "--times", "1", *QUICK, "-o", "json")
    assert json.loads(sundog("experiment", "simulate", "-f", path, *options).out)["steps"] == steps


def test_a_gate_asks_for_the_weight_that_follows_it_whatever_gates_that(sundog: Any, tmp_path: Path) -> None:
    def minutes(*later: dict[str, Any]) -> float:
        rollout = {"steps": [{"weight": 10}, *later], "guardrails": [{"metric": "errorRate"}]}
        options = ("-f", manifest(tmp_path, rollout), "--rps", "20", "--errors", "1%", "--times", "1")
        return float(simulated(sundog, *options)[1.0]["medianMinutes"])

    assert minutes({"weight": 20, "gate": "time"}) < 0.7 * minutes()


@pytest.mark.parametrize(
    ("rollout", "problem"),
    [
        ({"steps": [{"weight": 50, "gate": "manual"}]}, "spec.rollout has no step with an evidence gate"),
        ({"guardrails": [{"metric": "latencyP99"}]}, "spec.rollout.guardrails has no errorRate"),
        (
            {"strategy": "recreate"},
            "spec.rollout.strategy: found recreate; expected canary, which has steps to simulate",
        ),
        (
            {"steps": [{"weight": 500}]},
            "digits.yaml: ModelDeployment default/digits is invalid: spec.rollout.steps[0].weight: 500; expected"
            " 1 to 100",
        ),
    ],
)
def test_what_cannot_be_simulated_is_shown(sundog: Any, tmp_path: Path, rollout: dict[str, Any], problem: str) -> None:
    done = sundog("experiment", "simulate", "-f", manifest(tmp_path, rollout), "--rps", "1", "--errors", "1%")
    assert done.code == 1
    assert problem in done.err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--errors", "1"), ("--errors", "100%"), ("--errors", "many%"), ("--rps", "0"), ("--runs", "1")],
)
def test_numbers_that_make_no_sense_are_refused(sundog: Any, option: str, value: str) -> None:
    given = {"--rps": "1", "--errors": "1%", option: value}
    done = sundog("experiment", "simulate", *(word for pair in given.items() for word in pair))
    assert done.code == 2
    assert option in done.err
