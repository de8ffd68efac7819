"""What edges are told of a rollout, out of statuses alone."""

from datetime import UTC, datetime

import pytest

from sundog_operator.api import ModelDeploymentStatus, Rollout
from sundog_operator.core import live
from sundog_operator.core.rollout import freeze
from sundog_operator.core.rollout.resolve import Traffic

STATUS = ModelDeploymentStatus.parse({"stable": {"revision": 7}, "candidate": {"revision": 8}, "cluster": "sundog-0"})
KNOWN = Traffic(10, [100, 0], (500, 1000))


@pytest.mark.parametrize(
    ("spec", "traffic", "slow"),
    [
        ({}, KNOWN, [500, 625]),
        ({}, Traffic(), [None, None]),
        ({"guardrails": [{"metric": "errorRate"}]}, KNOWN, [None, None]),
        ({"steps": [{"weight": 10, "gate": "time"}]}, KNOWN, [None, None]),
    ],
)
def test_each_arm_has_its_own_time_from_which_answers_are_slow(
    spec: dict[str, object], traffic: Traffic, slow: list[int | None]
) -> None:
    frozen = freeze.freeze(Rollout.from_json(spec), 7, 8, datetime(2026, 11, 25, tzinfo=UTC), traffic)
    split = live.split_of("digits", STATUS, "3b9f", frozen)
    assert split is not None
    assert [arm.slow_us for arm in split.arms] == slow
