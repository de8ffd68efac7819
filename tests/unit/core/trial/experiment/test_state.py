"""Questions about the stored status of an experiment."""

from typing import Any

import pytest

from experiment_statuses import begin_experiment
from sundog_operator.core.trial.experiment import state

PAID = {"success": [{"name": "paid", "feedback": "paid"}]}


@pytest.mark.parametrize(
    ("metrics", "restarts"),
    [
        (PAID, False),
        ({**PAID, "guardrails": [{"metric": "errorRate"}]}, False),
        ({**PAID, "guardrails": [{"metric": "latencyP95"}]}, True),
        ({"success": [{"metric": "errorRate", "goal": "decrease"}]}, True),
    ],
    ids=["outcomes", "outcomes and errors", "a latency has to pass", "a win by errors"],
)
def test_unequal_load_restarts_the_evidence_where_a_win_needs_the_edge(metrics: dict[str, Any], restarts: bool) -> None:
    assert state.restarts_for_load(begin_experiment(("a",), metrics=metrics)) == restarts


def test_requests_are_the_units_while_no_unit_is_counted() -> None:
    begun = begin_experiment(("a",))
    arms = tuple(arm.model_copy(update={"requests": 30}) for arm in begun.arms)
    assert state.units_taken(begun.model_copy(update={"arms": arms}), None) == 60
