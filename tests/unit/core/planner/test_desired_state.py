"""The desired split, which follows from statuses alone."""

from datetime import UTC, datetime

import pytest

from sundog_operator.api import EvidenceEpoch, ModelDeploymentStatus, Rollout
from sundog_operator.core.edge.split import SplitFeedback
from sundog_operator.core.planner import desired_state
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.rollout import freeze

STATUS = ModelDeploymentStatus.parse({"stable": {"revision": 7}, "candidate": {"revision": 8}, "cluster": "sundog-0"})
KNOWN = StableTraffic(10, [100, 0], (500, 1000))
BOTH = StableTraffic(10, [60, 40, 0], (100, 500))
LONG = StableTraffic(10, [60, 40], (100,))
"""Traffic whose slowest answers exceed the highest bound, so that their time is unknown."""


@pytest.mark.parametrize(
    ("spec", "traffic", "slow"),
    [
        ({}, KNOWN, [(500,), (1500,)]),
        (
            {"guardrails": [{"metric": "latencyP99"}, {"metric": "latencyP50", "margin": "20%"}]},
            BOTH,
            # The default latency is also compared, for harm.
            [(500, 100, 500), (1500, 1100, 1500)],
        ),
        ({"guardrails": [{"metric": "latencyP99"}, {"metric": "latencyP50"}]}, LONG, [(), ()]),
        ({}, StableTraffic(), [(), ()]),
        ({"guardrails": [{"metric": "errorRate"}]}, KNOWN, [(500,), (1500,)]),
        ({"guardrails": [{"metric": "errorRate"}, {"metric": "latencyP95", "enabled": False}]}, KNOWN, [(), ()]),
        ({"steps": [{"weight": 10, "gate": "time"}]}, KNOWN, [(), ()]),
    ],
)
def test_each_arm_has_its_own_thresholds_of_slow_answers(
    spec: dict[str, object], traffic: StableTraffic, slow: list[tuple[int, ...]]
) -> None:
    frozen = freeze.freeze(Rollout.from_json(spec), 7, 8, datetime(2026, 11, 25, tzinfo=UTC), traffic)
    split = desired_state.desired_split("digits", STATUS, "3b9f", frozen)
    assert split is not None
    assert [arm.slow_us for arm in split.arms] == slow


def test_the_split_has_all_thresholds_or_none() -> None:
    """Without one, the next threshold would count in its position."""
    spec = {"guardrails": [{"metric": "latencyP99"}, {"metric": "latencyP50"}]}
    frozen = freeze.freeze(Rollout.from_json(spec), 7, 8, datetime(2026, 11, 25, tzinfo=UTC), BOTH)
    first, *others = frozen.plan.guardrails
    damaged = first.model_copy(update={"threshold_microseconds": None})
    plan = frozen.plan.model_copy(update={"guardrails": (damaged, *others)})
    split = desired_state.desired_split("digits", STATUS, "3b9f", frozen.model_copy(update={"plan": plan}))
    assert split is not None
    assert [arm.slow_us for arm in split.arms] == [(), ()]


def test_a_rollout_asks_for_its_outcomes_from_its_first_evidence_to_its_end() -> None:
    kept = {"name": "kept", "feedback": "accepted"}
    cost = {"name": "cost", "feedback": "spent", "type": "mean", "goal": "decrease", "cap": 2.5}
    spec = {"guardrails": [kept, cost]}
    frozen = freeze.freeze(Rollout.from_json(spec), 7, 8, datetime(2026, 11, 25, tzinfo=UTC), KNOWN)
    collecting = frozen.model_copy(
        update={"phase": "Running", "evidence_epochs": (EvidenceEpoch(number=2, weight=25),)}
    )
    asked = []
    for status in (frozen, collecting, collecting.model_copy(update={"phase": "Concluded"})):
        split = desired_state.desired_split("digits", STATUS, "3b9f", status)
        assert split is not None
        asked.append(split.feedback)
    assert asked == [None, SplitFeedback(("accepted", "spent"), 100_000_000, (("spent", 2_500_000),)), None]
