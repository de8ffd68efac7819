"""The plan of a rollout attempt: resolved once, frozen, and never touched by later edits of the spec."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sundog_operator.api import ArmStatus, Epoch, ExperimentStatus, FrozenPlan, PlanStep, Rollout, Step, Verdict
from sundog_operator.core import names, units
from sundog_operator.core.buckets import two_arms
from sundog_operator.core.revisions import Revision, owner_reference

DEFAULT_MIN_DURATION = timedelta(minutes=5)
UNDECIDED = "Undecided"
NO_EVIDENCE = "the steps of this rollout are gated by time or by hand; no evidence is weighed"

Json = dict[str, Any]


def plan_steps(rollout: Rollout) -> tuple[PlanStep, ...]:
    """The steps of a rollout as they are walked, the last one always at 100 %.

    A pause becomes a step at the weight before it: gated by time if it has a duration, else by hand. The 100 % step that a list leaves
    implied has no gate.
    """
    steps: list[PlanStep] = []
    weight = 0
    for step in rollout.steps or ():
        if step.pause is not None:
            duration = step.pause.duration
            steps.append(
                PlanStep(
                    weight=weight, gate="manual" if duration is None else "time", min_duration=duration or timedelta(0)
                )
            )
        elif step.weight is not None:
            weight = step.weight
            steps.append(PlanStep(weight=weight, gate=step.gate or "evidence", min_duration=_least(step)))
    if weight < 100:
        steps.append(PlanStep(weight=100, gate="none", min_duration=timedelta(0)))
    return tuple(steps)


def _least(step: Step) -> timedelta:
    return DEFAULT_MIN_DURATION if step.min_duration is None else step.min_duration


def freeze(rollout: Rollout, stable: int, candidate: int, now: datetime) -> ExperimentStatus:
    """The first status of a rollout's Experiment: its plan, and no traffic on the candidate."""
    steps = plan_steps(rollout)
    body = [step.model_dump(mode="json", by_alias=True) for step in steps]
    digest = hashlib.sha256(json.dumps([body, rollout.alpha], separators=(",", ":")).encode()).hexdigest()[:16]
    return ExperimentStatus(
        phase="Pending",
        plan=FrozenPlan(
            hash=digest,
            strategy="canary",
            unit=units.unit_of(rollout.unit),
            salt=rollout.unit.salt,
            steps=steps,
            alpha=rollout.alpha,
            frozen_at=now,
        ),
        epoch=Epoch(number=0, since=now, confirmed=False),
        arms=arms_at(0, stable, candidate),
        verdict=Verdict(decision=UNDECIDED, winner="", reason=NO_EVIDENCE),
    )


def arms_at(weight: int, stable: int, candidate: int) -> tuple[ArmStatus, ...]:
    """Both arms with the candidate at a weight in percent."""
    ranges_stable, ranges_canary = two_arms(weight)
    return (
        ArmStatus(name=names.STABLE, revision=stable, weight=100 - weight, ranges=tuple(ranges_stable)),
        ArmStatus(name=names.CANARY, revision=candidate, weight=weight, ranges=tuple(ranges_canary)),
    )


def make_experiment(owner: Json, candidate: Revision, name: str) -> Json:
    """The Experiment that records a rollout attempt."""
    meta = owner["metadata"]
    model: Mapping[str, Any] = candidate.content["model"]
    return {
        "apiVersion": owner["apiVersion"],
        "kind": "Experiment",
        "metadata": {
            "name": name,
            "namespace": meta["namespace"],
            "labels": {
                **names.labels("sundog-rollout"),
                names.LABEL_MODEL_DEPLOYMENT: meta["name"],
                names.LABEL_REVISION: str(candidate.number),
                names.LABEL_ROLLOUT: "true",
            },
            "ownerReferences": [owner_reference(owner, controller=True)],
        },
        "spec": {"modelDeployment": meta["name"], "arms": [{"name": names.CANARY, "model": dict(model)}]},
    }
