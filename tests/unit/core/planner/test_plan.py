"""The steps of a pass: what one in the middle of a rollout derives, in calls, and what each step may change."""

import dataclasses
import functools
import json
from collections.abc import Callable

import pytest

from doubles.cluster import Cluster
from measuring.pass_calls import count_calls, observe_rollout
from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.core.planner import plan
from sundog_operator.core.planner.context import PlanContext, make_context
from sundog_operator.core.planner.facts import Facts
from sundog_operator.core.planner.plan import make_plan

MAX_CALLS = 2180
MAX_FILES = 114
EVALUATION = ("core/analysis/", "core/stats/", "core/edge/")
"""The evaluation of the edges' counts, whose calls grow with the evidence."""
MAX_CALLS_OUTSIDE_EVALUATION = 875


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


OWNERS = {
    "spec_revision": "find_or_create_revision",
    "new_attempt": "ensure_rollout_experiment",
    "dry_run_message": "choose_candidate",
    "capacity_shortage": "choose_candidate",
    "queued": "choose_candidate",
    "edge_load": "track_edge_load",
    "idle": "track_idle_rollout",
    "last_command": "execute_command",
    "command_ids": "execute_command",
    "experiment_waits": "start_next_experiment",
    "shadow": "advance_rollout",
    "experiment_evaluation": "advance_experiment",
    "evaluated_experiment": "advance_experiment",
    "replicas": "update_measured_fields",
    "ready_replicas": "update_measured_fields",
    "selector": "update_measured_fields",
    "url": "update_measured_fields",
    "startup": "update_measured_fields",
    "conditions": "set_conditions",
    "observed_generation": "set_conditions",
    "edges_to_delete": "replace_stale_edge",
}
"""The one step that may change a member of the draft or a field of its status. Roles of revisions and trials change in several."""

Step = Callable[[PlanContext], PlanContext]


def find_changes(before: PlanContext, after: PlanContext) -> set[str]:
    members = {each.name for each in dataclasses.fields(PlanContext)} - {"status"}
    changed = {name for name in members if getattr(before, name) != getattr(after, name)}
    fields = ModelDeploymentStatus.model_fields
    return changed | {name for name in fields if getattr(before.status, name) != getattr(after.status, name)}


def checked(step: Step) -> Step:
    """Return a step that fails where it changes what another one owns."""

    def run(before: PlanContext) -> PlanContext:
        after = step(before)
        foreign = {name for name in find_changes(before, after) if OWNERS.get(name, step.__name__) != step.__name__}
        assert not foreign, f"{step.__name__} changed {foreign}"
        return after

    return run


async def roll_out(cluster: Cluster) -> None:
    await cluster.apply()
    await cluster.until(functools.partial(cluster.serves, 1))
    await cluster.apply("file:///models/v2")
    assert await cluster.go_on(3, lambda: cluster.at_weight(2, 25))
    await cluster.command("abort revision=2 id=a")
    await cluster.settle(6)
    assert "lastRollout" in await cluster.status()


async def test_each_step_changes_only_what_it_owns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "STEPS", tuple(map(checked, plan.STEPS)))
    await roll_out(Cluster())


def test_each_owner_is_a_step_and_each_owned_name_exists() -> None:
    assert set(OWNERS.values()) <= {step.__name__ for step in plan.STEPS}
    assert set(OWNERS) <= {each.name for each in dataclasses.fields(PlanContext)} | set(
        ModelDeploymentStatus.model_fields
    )


async def test_a_step_cannot_change_the_draft_that_it_gets() -> None:
    context = make_context(*await observe_rollout())
    with pytest.raises(dataclasses.FrozenInstanceError):
        context.status = context.status  # type: ignore[misc]
    assert context.set(queued=context.status.queued) is context
