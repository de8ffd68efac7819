"""The work of one pass in the middle of a rollout, in calls: it bounds what a pass derives more than once."""

import json

from measuring.pass_calls import count_calls, observe_rollout
from sundog_operator.core.planner.facts import Facts
from sundog_operator.core.planner.plan import make_plan

MAX_CALLS = 2170
MAX_FILES = 112
EVALUATION = ("core/analysis/", "core/stats/", "core/edge/")
"""The evaluation of the edges' counts, whose calls grow with the evidence."""
MAX_CALLS_OUTSIDE_EVALUATION = 865


async def test_one_pass_derives_each_fact_once() -> None:
    observed, now = await observe_rollout()
    make_plan(observed, now)
    calls = count_calls(lambda: make_plan(observed, now))
    outside = sum(count for (file, _), count in calls.by_function.items() if not file.startswith(EVALUATION))
    assert calls.total <= MAX_CALLS
    assert calls.files <= MAX_FILES
    assert outside <= MAX_CALLS_OUTSIDE_EVALUATION
    # `observe` accepts the spec and parses the status.
    assert calls.of("accept_model_deployment") == calls.of("ModelDeploymentStatus.parse") == 0
    assert calls.of("evaluate_readiness") == len(observed.revisions)
    assert calls.of("healthy_replicas") == len(observed.revisions)


async def test_facts_are_json_for_a_log() -> None:
    observed, now = await observe_rollout()
    found = Facts(observed, now).to_json()
    assert json.loads(json.dumps(found))["healthyReplicas"] == {"1": 1, "2": 1}
    assert found["conditions"]["SpecAccepted"] == "True Accepted"
