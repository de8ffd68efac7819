"""Texts about steps that a plan lets pass without evidence."""

from datetime import UTC, datetime
from typing import Any

import pytest

from sundog_operator.api import Rollout
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.rollout import freeze, steps_without_evidence

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
COPIES = {"shadow": {"compare": {"agreement": {"min": 0.99, "by": "exact"}}}}
CHECK = {"name": "slo", "prometheus": {"query": "up"}, "threshold": {"max": 1}}
UNDECIDED = "onInconclusive: promote passes a step that evidence does not decide"


def allowed(**rollout: Any) -> list[str]:
    return list(
        steps_without_evidence.find_exceptions(freeze.resolve_plan(Rollout.from_json(rollout), StableTraffic()))
    )


def describe(**rollout: Any) -> str:
    return steps_without_evidence.describe_exceptions(freeze.resolve_plan(Rollout.from_json(rollout), StableTraffic()))


@pytest.mark.parametrize(
    ("rollout", "result"),
    [
        ({}, []),
        ({"onInconclusive": "rollback", "onNoData": "pause"}, []),
        ({"onInconclusive": "promote"}, [UNDECIDED]),
        ({"onNoData": "promote"}, ["onNoData: promote passes a step that has no traffic"]),
        ({"strategy": "shadow", "steps": [COPIES], "onInconclusive": "promote"}, [UNDECIDED]),
        (
            {"steps": [{"weight": 10, "gate": "manual"}], "guardrails": [CHECK], "onInconclusive": "promote"},
            ["onInconclusive: promote passes a check that has no number"],
        ),
        ({"steps": [{"weight": 10, "gate": "manual"}], "onInconclusive": "promote"}, []),
        ({"steps": [{"weight": 10, "gate": "time"}, {"weight": 50}]}, []),
        ({"steps": [{"weight": 50}, {"pause": {"duration": "1h"}}], "bake": {}}, []),
        (
            {
                "steps": [{"weight": 10}, {"weight": 50, "gate": "time", "minDuration": "10m"}, {"pause": {}}],
                "bake": {},
            },
            ["step 2 at 50 % (for 10m, manual gate) asks for no evidence, and is the last before all traffic"],
        ),
    ],
)
def test_exceptions_from_evidence_are_described(rollout: Any, result: list[str]) -> None:
    assert allowed(**rollout) == result
    assert describe(**rollout) == (f"a promotion has no statistical guarantee: {result[0]}" if result else "")


def test_a_plan_that_evaluates_only_a_bake_is_described_too() -> None:
    by_hand = {"steps": [{"weight": 25, "gate": "manual"}]}
    assert describe(**by_hand) == ""
    assert describe(**by_hand, bake={}) == "a promotion has no statistical guarantee: no step is gated by evidence"


def test_a_rollback_has_no_exceptions() -> None:
    back = freeze.freeze_without_steps(Rollout.from_json({"onInconclusive": "promote"}), 1, 2, NOW, "returns")
    assert steps_without_evidence.find_exceptions(back.plan) == ()
