"""The plan of a rollout attempt: resolved once, frozen, and never touched by later edits of the spec."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sundog_operator.api import (
    DEFAULT_MIN_DURATION,
    ArmStatus,
    Epoch,
    ExperimentStatus,
    FrozenPlan,
    PlanStep,
    PlanWebhook,
    Rollout,
    Step,
    Verdict,
    is_latency,
)
from sundog_operator.core import names, units
from sundog_operator.core.buckets import two_arms
from sundog_operator.core.revisions import Revision, owner_reference
from sundog_operator.core.rollout import load
from sundog_operator.core.rollout.resolve import Traffic, default_steps, guardrails

EQUAL_WEIGHT: Final = 50
"""Percent at which as many replicas of the candidate as of stable have the same load."""

UNKNOWN: Final = Traffic()
UNDECIDED = "Undecided"
WEIGHED = "evidence is weighed"
NO_EVIDENCE = "no step of this rollout is gated by evidence, and none is weighed"

Json = dict[str, Any]


def plan_steps(rollout: Rollout, stable: Traffic = UNKNOWN) -> tuple[PlanStep, ...]:
    """The steps of a rollout as they are walked, the last one always at 100 %; resolved from stable's traffic where the spec has none.

    A pause becomes a step at the weight before it: gated by time if it has a duration, else by hand; likewise a webhook, gated by its
    answer. The 100 % step that a list leaves implied has no gate, and one that is given none by evidence: no arm is left to compare with.
    """
    steps = list(_given_steps(rollout)) if rollout.steps else list(default_steps(stable))
    if not steps or steps[-1].weight < 100:
        steps.append(_ungated())
    return tuple(steps)


def _ungated() -> PlanStep:
    return PlanStep(weight=100, gate="none", min_duration=timedelta(0))


def _given_steps(rollout: Rollout) -> Iterator[PlanStep]:
    weight = 0
    for step in rollout.steps:
        if step.pause is not None:
            duration = step.pause.duration
            gate: Literal["manual", "time"] = "manual" if duration is None else "time"
            yield PlanStep(weight=weight, gate=gate, min_duration=duration or timedelta(0))
        elif step.webhook is not None:
            yield PlanStep(
                weight=weight, gate="webhook", webhook=PlanWebhook(url=step.webhook.url, timeout=step.webhook.timeout)
            )
        elif step.weight is not None:
            weight = step.weight
            yield _weight_step(step, weight)


def _weight_step(step: Step, weight: int) -> PlanStep:
    least = DEFAULT_MIN_DURATION if step.min_duration is None else step.min_duration
    gate = step.gate or "evidence"
    if gate != "evidence":
        return PlanStep(weight=weight, gate=gate, min_duration=least)
    if weight == 100:
        return _ungated()
    return PlanStep(weight=weight, gate=gate, min_duration=least, max_duration=step.max_duration)


def freeze(
    rollout: Rollout, stable: int, candidate: int, now: datetime, traffic: Traffic = UNKNOWN, replicas: int = 1
) -> ExperimentStatus:
    """The first status of a rollout's Experiment: its plan, and no traffic on the candidate."""
    return _frozen(resolved(rollout, traffic, replicas), stable, candidate, now)


def freeze_without_steps(rollout: Rollout, stable: int, candidate: int, now: datetime, reason: str) -> ExperimentStatus:
    """The first status of a rollout that needs no evidence: one switch to 100 %, as soon as the candidate has its replicas."""
    plan = FrozenPlan(
        strategy="canary",
        unit=units.unit_of(rollout.unit),
        salt=rollout.unit.salt,
        steps=(_ungated(),),
        notify=rollout.notify,
        reason=reason,
    )
    return _frozen(plan, stable, candidate, now)


def _frozen(plan: FrozenPlan, stable: int, candidate: int, now: datetime) -> ExperimentStatus:
    return ExperimentStatus(
        phase="Pending",
        plan=plan.model_copy(update={"hash": _hash(plan), "frozen_at": now}),
        epoch=Epoch(number=0, since=now, confirmed=False),
        arms=arms_at(0, stable, candidate),
        verdict=Verdict(decision=UNDECIDED, winner="", reason=WEIGHED if plan.guardrails else unweighed(plan)),
    )


def unweighed(plan: FrozenPlan) -> str:
    """Why no evidence is weighed in a rollout with that plan."""
    return f"{plan.reason}: no evidence is weighed" if plan.reason else NO_EVIDENCE


def resolved(rollout: Rollout, traffic: Traffic, replicas: int = 1) -> FrozenPlan:
    """The plan of a rollout with that traffic, before it is frozen, of a service that needs so many replicas."""
    given = plan_steps(rollout, traffic)
    weighed = any(step.gate == "evidence" for step in given)
    judged = guardrails(rollout, traffic) if weighed else ()
    steps = _with_equal_load(given, replicas) if any(is_latency(each.metric) for each in judged) else given
    return FrozenPlan(
        strategy="canary",
        unit=units.unit_of(rollout.unit),
        salt=rollout.unit.salt,
        steps=steps,
        alpha=rollout.alpha,
        guardrails=judged,
        warmup_requests=rollout.warmup.requests if weighed else 0,
        warmup_duration=rollout.warmup.duration if weighed else timedelta(0),
        on_inconclusive=rollout.on_inconclusive,
        on_no_data=rollout.on_no_data,
        notify=rollout.notify,
        requests_per_second=traffic.requests_per_second and round(traffic.requests_per_second, 3),
        error_rate=traffic.error_rate and round(traffic.error_rate, 6),
    )


def _with_equal_load(steps: tuple[PlanStep, ...], replicas: int) -> tuple[PlanStep, ...]:
    """With a step at 50 % before the last one where no other compares latencies under the same load.

    Replicas cannot be had in parts: with one each, one of the candidate has a third of the load of one of stable at 25 %.
    """
    deciding = next((step for step in reversed(steps) if step.gate == "evidence"), None)
    if deciding is None or deciding.weight >= EQUAL_WEIGHT or any(step.weight > deciding.weight for step in steps[:-1]):
        return steps
    if load.ratio(deciding.weight, replicas, load.step_replicas(deciding, replicas)) >= 1 / load.EQUAL:
        return steps
    return (*steps[:-1], deciding.model_copy(update={"weight": EQUAL_WEIGHT}), steps[-1])


def _hash(plan: FrozenPlan) -> str:
    body = json.dumps(plan.model_dump(mode="json", by_alias=True), separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


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
