"""The table of the edge's metrics and of what guardrails on them allow by default."""

from typing import get_args

import pytest

from sundog_operator.api.rollout.guardrail_defaults import (
    EDGE_METRICS,
    PlanMetricName,
    is_latency_metric,
    latency_quantile,
)
from sundog_operator.core.metric_text import event_noun


def _names(literal: object) -> set[str]:
    return {name for each in get_args(literal) for name in (_names(each) or {each})}


def test_each_metric_that_a_plan_may_name_has_defaults() -> None:
    assert set(EDGE_METRICS) == _names(PlanMetricName)


@pytest.mark.parametrize("name", ["latency", "latency-score", "latencyP75"])
def test_an_outcome_called_like_a_latency_is_none(name: str) -> None:
    assert not is_latency_metric(name)
    assert event_noun(name) == "events"
    with pytest.raises(ValueError, match=f"metric {name}: expected a latency"):
        latency_quantile(name)


def test_a_latency_of_the_edge_has_its_quantile() -> None:
    assert is_latency_metric("latencyP99")
    assert latency_quantile("latencyP99") == 0.99
