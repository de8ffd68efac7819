"""Statuses of users' experiments for tests: frozen, and with traffic on their arms."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sundog_operator.api import ExperimentSpec, ExperimentStatus, ModelDeploymentSpec, Rollout
from sundog_operator.core import revisions
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.experiment import arms, freeze, state, state_machine

Json = dict[str, Any]
T0 = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
_UNKNOWN = StableTraffic()


def stable_revision() -> Revision:
    content = revisions.content_of(ModelDeploymentSpec.from_json({"model": {"uri": "file:///models/v1"}}))
    return Revision(7, revisions.content_hash(content), content)


def freeze_experiment(names: Sequence[str], traffic: StableTraffic = _UNKNOWN, **spec: Any) -> ExperimentStatus:
    """Return the status of an experiment with these arms that has a plan and no traffic."""
    given = ExperimentSpec.from_json({"modelDeployment": "digits", "arms": [{"name": name} for name in names], **spec})
    stable = stable_revision()
    planned = [(arm, 8 + place) for place, arm in enumerate(arms.plan_arms(stable, given))]
    return freeze.freeze(given, Rollout(), (7, stable.hash), planned, traffic, T0)


def begin_experiment(names: Sequence[str], **spec: Any) -> ExperimentStatus:
    """Return the status of an experiment whose arms have just got their traffic."""
    ready = {name: state.ArmState(available=1) for name in names}
    inputs = state.ExperimentInputs(now=T0, confirmed=True, arms=ready)
    return state_machine.tick(freeze_experiment(names, **spec), inputs)


def has_judged(obj: Json, told: Json) -> bool:
    """Return whether a stored Experiment has all that an edge tells of the store of outcomes."""
    known = Counters.unpack(obj["status"].get("tallies", ""), obj["metadata"]["uid"]).feedback
    return bool(known.sequence == told["sequence"])
