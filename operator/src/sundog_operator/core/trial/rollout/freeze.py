"""The plan of a rollout attempt: resolved once, frozen, and unaffected by later edits of the spec."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sundog_operator.api import (
    DEFAULT_ALPHA,
    DEFAULT_MIN_DURATION,
    ArmStatus,
    Bake,
    ExperimentStatus,
    FrozenPlan,
    PlanCheck,
    PlanComparedPart,
    PlanGuardrail,
    PlanHeader,
    PlanInPlace,
    PlanOutcome,
    PlanShadow,
    PlanStep,
    PlanWebhook,
    PrometheusQuery,
    Rollout,
    ScaleStep,
    Shadow,
    Step,
    Strategy,
    Threshold,
    is_latency_metric,
)
from sundog_operator.core.edge import units
from sundog_operator.core.edge.buckets import two_arm_ranges
from sundog_operator.core.kubernetes import names
from sundog_operator.core.revisions import Revision, hash_json, owner_reference
from sundog_operator.core.trial import replica_counts
from sundog_operator.core.trial.default_plan import (
    EARLY_HARM,
    StableTraffic,
    default_steps,
    plan_outcome_guardrail,
    resolve_guardrails,
)
from sundog_operator.core.trial.rollout import in_place
from sundog_operator.core.trial.rollout.shadow_comparison import SHADOW
from sundog_operator.core.trial.transitions import EVIDENCE_IS_EVALUATED, first_status

BAKE: Final = "bake"
"""The gate of the last step before 100 %, in which stable keeps a share of traffic."""

EQUAL_WEIGHT: Final = 50
"""Weight in percent at which equally many replicas of both arms have the same load."""

_EQUAL_LOAD_RATIO: Final = 1 / replica_counts.MAX_COMPARABLE_RATIO

MIXTURE: Final = (2.0, 50.0)
"""Concentrations of the mixture in new plans. They are frozen, because choosing others from the data would spend alpha again."""

STEPPED_STRATEGIES: Final = ("canary", SHADOW)
"""Strategies that have steps."""

UNKNOWN_TRAFFIC: Final = StableTraffic()
NO_EVIDENCE = "no step of this rollout has an evidence gate, so no evidence is evaluated"
ONLY_COPIES_COMPARED = (
    "copies of requests are compared; no step has an evidence gate, so no evidence of traffic is evaluated"
)
Json = dict[str, Any]


def plan_steps(rollout: Rollout, stable: StableTraffic = UNKNOWN_TRAFFIC) -> tuple[PlanStep, ...]:
    """Return the steps of a rollout; the last one is always 100 %. Without steps in the spec, stable's traffic decides them.

    A pause becomes a step at the weight before it, with the gate `time` if it has a duration, else `manual`. Likewise, `webhook`,
    `analysis`, `shadow` and `headers` become steps with a gate of that name. An implied 100 % step has no gate. A 100 % step with an
    evidence gate loses it, because no arm is left to compare with. With strategy: shadow only a command leads to 100 %.
    """
    if rollout.strategy == SHADOW:
        copied = _shadow_steps(rollout)
        return (*copied, *(() if copied[-1].gate == "manual" else (_MANUAL_STEP,)), _final_step())
    steps = list(_given_steps(rollout)) if rollout.steps else list(default_steps(stable))
    if not steps or steps[-1].weight < 100:
        steps.append(_final_step())
    return tuple(steps)


def _final_step() -> PlanStep:
    return PlanStep(weight=100, gate="none", min_duration=timedelta(0))


_MANUAL_STEP: Final = PlanStep(weight=0, gate="manual")


def _shadow_steps(rollout: Rollout) -> list[PlanStep]:
    """Return the steps of a shadow rollout. The last step with copies lasts for all of its time."""
    steps = list(_given_steps(rollout)) or [_shadow_step(Shadow(), 0)]
    last = max(index for index, step in enumerate(steps) if step.shadow is not None)
    steps[last] = steps[last].model_copy(update={"min_duration": steps[last].max_duration})
    return steps


def _given_steps(rollout: Rollout) -> Iterator[PlanStep]:
    weight, scaled, headers = 0, ScaleStep(), None
    for step in rollout.steps:
        weight, scaled = step.weight or weight, step.scale or scaled
        # A weight ends the headers: it is evaluated by arms of equal load, and requests by header would add to one arm.
        headers = None if step.weight is not None else _plan_headers(step) or headers
        planned = _plan_step(step, weight)
        kept = {"replicas": scaled.replicas, "replicas_percent": scaled.percent, "headers": headers}
        yield planned.model_copy(update=kept)


def _plan_headers(step: Step) -> tuple[PlanHeader, ...]:
    return tuple(PlanHeader(name=name, value=value) for name, value in sorted((step.headers or {}).items()))


def _plan_step(step: Step, weight: int) -> PlanStep:
    """Return a step as planned, with its own weight or the one before it."""
    if step.pause is not None:
        duration = step.pause.duration
        gate: Literal["manual", "time"] = "manual" if duration is None else "time"
        return PlanStep(weight=weight, gate=gate, min_duration=duration or timedelta(0))
    if step.webhook is not None:
        webhook = PlanWebhook(url=step.webhook.url, timeout=step.webhook.timeout)
        return PlanStep(weight=weight, gate="webhook", webhook=webhook)
    if step.analysis is not None:
        analysis = step.analysis
        check = _plan_check(analysis.name, analysis.prometheus, analysis.threshold, analysis.count)
        return PlanStep(weight=weight, gate="analysis", analysis=check)
    if step.headers is not None:
        return PlanStep(weight=weight, gate="headers")
    if step.shadow is not None:
        return _shadow_step(step.shadow, weight)
    return PlanStep(weight=weight, gate="scale") if step.scale is not None else _weight_step(step, weight)


def plan_checks(rollout: Rollout) -> tuple[PlanCheck, ...]:
    """Return the guardrails that Prometheus answers."""
    return tuple(
        _plan_check(each.name, each.prometheus, each.threshold)
        for each in rollout.guardrails
        if each.name is not None and each.prometheus is not None and each.threshold is not None
    )


def _plan_check(name: str, prometheus: PrometheusQuery, threshold: Threshold, count: int = 1) -> PlanCheck:
    return PlanCheck(
        name=name,
        query=prometheus.query,
        min=threshold.min,
        max=threshold.max,
        interval=prometheus.interval,
        failure_limit=prometheus.failure_limit,
        inconclusive_limit=prometheus.inconclusive_limit,
        count=count,
    )


def _shadow_step(shadow: Shadow, weight: int) -> PlanStep:
    agreement = shadow.compare.agreement
    latency = shadow.compare.latency_p99
    margin = None if latency is None else float(latency.margin.removesuffix("%")) / 100
    planned = PlanShadow(percent=shadow.percent, latency_margin=margin, min_samples=shadow.min_samples)
    if agreement is not None:
        parts = [
            PlanComparedPart(path=part.path, by=part.by, atol=part.atol, rtol=part.rtol)
            for part in agreement.parts or ()
        ]
        compared = {"by": agreement.by, "atol": agreement.atol, "rtol": agreement.rtol, "path": agreement.path or ""}
        planned = planned.model_copy(update={**compared, "parts": tuple(parts) or None, "min_agreement": agreement.min})
    return PlanStep(weight=weight, gate="shadow", shadow=planned, max_duration=shadow.max_duration)


def _weight_step(step: Step, weight: int) -> PlanStep:
    least = DEFAULT_MIN_DURATION if step.min_duration is None else step.min_duration
    gate = step.gate or "evidence"
    if gate != "evidence":
        return PlanStep(weight=weight, gate=gate, min_duration=least)
    if weight == 100:
        return _final_step()
    return PlanStep(weight=weight, gate=gate, min_duration=least, max_duration=step.max_duration)


def freeze(
    rollout: Rollout,
    stable: int,
    candidate: int,
    now: datetime,
    traffic: StableTraffic = UNKNOWN_TRAFFIC,
    replicas: int = 1,
    shared: PlanInPlace | None = None,
) -> ExperimentStatus:
    """Return the first status of a rollout's Experiment: its plan, and no traffic on the canary."""
    return _first_status(resolve_plan(rollout, traffic, replicas, shared), stable, candidate, now)


def freeze_without_steps(
    rollout: Rollout,
    stable: int,
    candidate: int,
    now: datetime,
    reason: str,
    strategy: Strategy = "canary",
    shared: PlanInPlace | None = None,
) -> ExperimentStatus:
    """Return the first status of a rollout without evidence: 100 % once the canary has its replicas; in place, replica by replica."""
    plan = FrozenPlan(
        in_place=shared,
        strategy=strategy,
        unit=units.resolve_unit(rollout.unit),
        salt=rollout.unit.salt,
        steps=(_final_step(),),
        notify=rollout.notify,
        reason=reason,
    )
    return _first_status(plan, stable, candidate, now)


def _first_status(plan: FrozenPlan, stable: int, candidate: int, now: datetime) -> ExperimentStatus:
    hashed = plan.model_copy(update={"hash": plan_hash(plan)})
    reason = EVIDENCE_IS_EVALUATED if plan.guardrails else no_evidence_reason(plan)
    status = first_status(hashed, arms_at_weight(0, stable, candidate), now, reason)
    return status.model_copy(update={"had_traffic": False})


def no_evidence_reason(plan: FrozenPlan) -> str:
    """Return why a rollout with that plan evaluates no evidence."""
    if plan.reason:
        return f"{plan.reason}: no evidence is evaluated"
    return ONLY_COPIES_COMPARED if any(step.shadow is not None for step in plan.steps) else NO_EVIDENCE


def resolve_plan(
    rollout: Rollout, traffic: StableTraffic, replicas: int = 1, shared: PlanInPlace | None = None
) -> FrozenPlan:
    """Return the plan of a rollout before it is frozen, for a service that needs so many replicas.

    `shared` defines how both revisions share replicas in place; None means that the canary's replicas are additional.
    """
    given = plan_steps(rollout, traffic)
    gated = any(step.gate == "evidence" for step in given)
    is_evaluated = gated or rollout.bake is not None
    guardrails = _plan_guardrails(rollout, traffic, gated=gated) if is_evaluated else ()
    compares_latencies = any(is_latency_metric(each.metric) and each.role == "guardrail" for each in guardrails)
    steps = _with_equal_load(given, replicas, shared) if compares_latencies else given
    steps = steps if rollout.bake is None else _with_bake(steps, rollout.bake)
    return FrozenPlan(
        strategy="shadow" if rollout.strategy == SHADOW else "canary",
        unit=units.resolve_unit(rollout.unit),
        salt=rollout.unit.salt,
        steps=steps,
        alpha=rollout.alpha,
        harm_shares=_harm_shares(steps, guardrails),
        early_harm=_early_harm(rollout, guardrails),
        mixture=MIXTURE if guardrails else None,
        guardrails=guardrails,
        outcomes=_plan_outcomes(rollout) if gated else None,
        checks=plan_checks(rollout),
        warmup_requests=rollout.warmup.requests if is_evaluated else 0,
        warmup_duration=rollout.warmup.duration if is_evaluated else timedelta(0),
        on_inconclusive=rollout.on_inconclusive,
        on_no_data=rollout.on_no_data,
        notify=rollout.notify,
        in_place=shared,
        requests_per_second=traffic.requests_per_second and round(traffic.requests_per_second, 3),
        error_rate=traffic.error_rate and round(traffic.error_rate, 6),
    )


def _plan_guardrails(rollout: Rollout, traffic: StableTraffic, *, gated: bool) -> tuple[PlanGuardrail, ...]:
    """Return the guardrails of an evaluated rollout. Without evidence gates they have the role `harm`."""
    found = resolve_guardrails(rollout, traffic)
    return found if gated else tuple(each.model_copy(update={"role": "harm"}) for each in found)


def _plan_outcomes(rollout: Rollout) -> tuple[PlanOutcome, ...] | None:
    """Return the guardrails that are outcomes; None without any."""
    return tuple(plan_outcome_guardrail(each) for each in rollout.guardrails if each.feedback is not None) or None


def _harm_shares(steps: tuple[PlanStep, ...], guardrails: tuple[PlanGuardrail, ...]) -> int | None:
    """Return how many tests share the error of rolling back: one per shadow step, and one for traffic; None for a single one."""
    tests = sum(step.shadow is not None for step in steps) + bool(guardrails)
    return tests if tests > 1 else None


def _early_harm(rollout: Rollout, guardrails: tuple[PlanGuardrail, ...]) -> float | None:
    """Return the first blocks' share of the harm error; None with sticky units, because all requests of one unit may fail together."""
    return EARLY_HARM if guardrails and units.resolve_unit(rollout.unit) == units.PER_REQUEST else None


def early_alpha(plan: FrozenPlan) -> float:
    """Return the error of rolling back on the canary's first blocks; 0 if the plan has no such test."""
    return (plan.alpha or DEFAULT_ALPHA) / (plan.harm_shares or 1) * (plan.early_harm or 0.0)


def _with_bake(steps: tuple[PlanStep, ...], bake: Bake) -> tuple[PlanStep, ...]:
    """Add a bake before the last step."""
    baking = PlanStep(weight=bake.weight, gate=BAKE, min_duration=bake.duration)
    return (*steps[:-1], baking, steps[-1])


def _with_equal_load(steps: tuple[PlanStep, ...], replicas: int, shared: PlanInPlace | None) -> tuple[PlanStep, ...]:
    """Add an evidence step with equal load per replica before the last step, if latencies are compared under unequal load.

    Its weight is 50 %, or in place the next weight with equal load. Without it, a canary with one replica beside one of stable has a third
    of its load at 25 %.
    """
    deciding = next((step for step in reversed(steps) if step.gate == "evidence"), None)
    if deciding is None or any(step.weight > deciding.weight for step in steps[:-1]):
        return steps
    weight = EQUAL_WEIGHT if shared is None else _next_equal_load_weight(deciding.weight, replicas, shared)
    if deciding.weight >= weight:
        return steps
    if (
        shared is None
        and replica_counts.load_ratio(deciding.weight, replicas, replica_counts.step_replicas(deciding, replicas))
        >= _EQUAL_LOAD_RATIO
    ):
        return steps
    return (*steps[:-1], deciding.model_copy(update={"weight": weight}), steps[-1])


def _next_equal_load_weight(weight: int, replicas: int, shared: PlanInPlace) -> int:
    """Return the first weight from `weight` on at which replicas of both revisions have the same load; 0 if there is none."""
    whole = (in_place.supported_weight(replicas, ready) for ready in range(1, replicas))
    return next((each for each in (weight, *whole) if each >= weight and _has_equal_load(each, replicas, shared)), 0)


def _has_equal_load(weight: int, replicas: int, shared: PlanInPlace) -> bool:
    sizes = in_place.compute_replicas(replicas, shared.spare, weight, weight)
    return replica_counts.load_ratio(weight, sizes.stable, sizes.candidate) >= _EQUAL_LOAD_RATIO


def plan_hash(plan: FrozenPlan) -> str:
    """Return the hash of a plan before it is frozen."""
    # Omit unused later fields, so that older plans keep their hashes.
    absent = {name for name in ("in_place", "harm_shares", "early_harm", "outcomes") if getattr(plan, name) is None}
    absent |= {"mixture"} if plan.mixture in (None, MIXTURE) else set()
    fields = plan.model_dump(mode="json", by_alias=True, exclude={"attempt", "comparison", *absent})
    for outcome in fields.get("outcomes", ()):
        del outcome["rateBy"]
        for name in ("metric", "after"):
            if outcome[name] is None:
                del outcome[name]
    return hash_json(fields)


def arms_at_weight(weight: int, stable: int, candidate: int) -> tuple[ArmStatus, ...]:
    """Return both arms, with the canary at a weight in percent."""
    ranges_stable, ranges_canary = two_arm_ranges(weight)
    return (
        ArmStatus(name=names.STABLE, revision=stable, weight=100 - weight, ranges=tuple(ranges_stable)),
        ArmStatus(name=names.CANARY, revision=candidate, weight=weight, ranges=tuple(ranges_canary)),
    )


def make_experiment(owner: Json, candidate: Revision, name: str) -> Json:
    """Return the Experiment that records a rollout attempt."""
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
