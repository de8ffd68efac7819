"""Frozen plan of an experiment: resolved when its arms start, and unchanged by later edits of the spec."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal

from pydantic.alias_generators import to_camel

from sundog_operator.api import (
    CONTROL,
    MAX_LATENCY_GUARDRAILS,
    ArmStatus,
    ExperimentGuardrail,
    ExperimentSpec,
    ExperimentStatus,
    FeedbackMetric,
    FrozenPlan,
    MetricGuardrail,
    MetricName,
    PlanAllocation,
    PlanArm,
    PlanComparison,
    PlanGuardrail,
    PlanOutcome,
    Preset,
    Rollout,
    WinRule,
    is_latency_metric,
    parse_percent,
)
from sundog_operator.api.rollout.guardrail_defaults import DEFAULT_MARGIN, EDGE_METRICS, ERROR_RATE, REJECTIONS
from sundog_operator.core.edge import units
from sundog_operator.core.edge.buckets import BUCKETS
from sundog_operator.core.kubernetes import names
from sundog_operator.core.revisions import hash_json
from sundog_operator.core.trial.default_plan import (
    EARLY_HARM,
    StableTraffic,
    add_default_guardrails,
    add_harm_guardrails,
    plan_outcome_guardrail,
)
from sundog_operator.core.trial.experiment import allocation
from sundog_operator.core.trial.experiment.arms import PlannedArm, planned_buckets
from sundog_operator.core.trial.transitions import EVIDENCE_IS_EVALUATED, first_status

_NOT_PLANNED: Final[Mapping[str, Any]] = {
    "stopped": True,
    "exposure_log": True,
    "preset": True,
    "win_by": True,
    "metrics": {"success": {"__all__": {"expected": True}}},
}
"""Fields of a spec on which its plan does not depend, or only by what they resolve to."""

_RULE_OF_PRESET: Final[Mapping[Preset, WinRule]] = {"clearSignal": "everyMetric", "doNoHarm": "noHarm"}


def freeze(
    spec: ExperimentSpec,
    rollout: Rollout,
    stable: tuple[int, str],
    arms: Sequence[tuple[PlannedArm, int]],
    traffic: StableTraffic,
    now: datetime,
) -> ExperimentStatus:
    """Return the first status of an experiment: its plan, and no traffic on its arms.

    Args:
        spec: the Experiment's spec.
        rollout: the ModelDeployment's rollout, whose warm-up applies.
        stable: number and hash of the stable revision.
        arms: each arm beside control, with the number of its revision.
        traffic: the stable revision's traffic.
        now: the present time.
    """
    planned = [arm for arm, _ in arms]
    plan = FrozenPlan(
        hash=plan_hash(spec, planned),
        unit=units.resolve_unit(spec.unit),
        salt=spec.unit.salt,
        alpha=spec.alpha,
        early_harm=EARLY_HARM,
        guardrails=_plan_guardrails(spec, traffic),
        warmup_requests=rollout.warmup.requests,
        warmup_duration=rollout.warmup.duration,
        requests_per_second=traffic.requests_per_second and round(traffic.requests_per_second, 3),
        error_rate=traffic.error_rate and round(traffic.error_rate, 6),
        comparison=PlanComparison(
            arms=(
                PlanArm(name=CONTROL, hash=stable[1], buckets=planned_buckets(spec)[CONTROL]),
                *(PlanArm(name=arm.name, hash=arm.hash, buckets=arm.buckets) for arm in planned),
            ),
            outcomes=tuple(_outcomes(spec)),
            max_duration=spec.stop.max_duration,
            max_units=spec.stop.max_units,
            on_win=spec.on_win,
            win_by=None if (rule := resolve_win_rule(spec)) == "anyMetric" else rule,
            allocation=_allocation(spec),
            guardrails_by_unit=_tests_units(spec) or None,
        ),
    )
    first_arms = (
        ArmStatus(name=names.STABLE, revision=stable[0], weight=100, ranges=((0, BUCKETS),)),
        ArmStatus(name=CONTROL, revision=stable[0]),
        *(ArmStatus(name=arm.name, revision=number) for arm, number in arms),
    )
    return first_status(plan, first_arms, now, EVIDENCE_IS_EVALUATED)


def resolve_win_rule(spec: ExperimentSpec) -> WinRule:
    """Return when an arm wins; an explicit `winBy` has precedence over the preset's."""
    if spec.win_by is not None:
        return spec.win_by
    return "anyMetric" if spec.preset is None else _RULE_OF_PRESET[spec.preset]


def _plan_guardrails(spec: ExperimentSpec, traffic: StableTraffic) -> tuple[PlanGuardrail, ...]:
    """Return the guardrails of the edge, and the latencies that are only measured."""
    given: Sequence[MetricGuardrail] = list_edge_guardrails(spec)
    measured = measured_latencies(spec)
    if spec.preset is not None:
        unused = MAX_LATENCY_GUARDRAILS - len(measured) - count_latencies(given)
        added = add_default_guardrails(given, traffic)
        given = [each for each in added if each in given or unused > 0 or not is_latency_metric(each.metric or "")]
    kept = [PlanGuardrail(metric=each, role="measured", margin=0.0) for each in measured]
    return _fit_to_success_metrics(spec, add_harm_guardrails(given, traffic, measured=kept))


def _fit_to_success_metrics(spec: ExperimentSpec, planned: Sequence[PlanGuardrail]) -> tuple[PlanGuardrail, ...]:
    """Return the guardrails that success metrics of the edge need of errors and rejections.

    An errorRate that is not listed grants no more than a latency to win by grants of slow answers: an arm must not fail these instead.
    """
    success = _success_metrics_of_edge(spec)
    floor = next(each.floor for each in planned if each.metric == ERROR_RATE)
    if all(each.metric != ERROR_RATE for each in spec.metrics.edge_guardrails):
        floor = min([floor, *(EDGE_METRICS[each].floor for each in success if is_latency_metric(each))])
    updates: dict[str, dict[str, Any]] = {ERROR_RATE: {"floor": floor}}
    if resolve_win_rule(spec) == "noHarm" and REJECTIONS in success:
        updates[REJECTIONS] = {"role": "guardrail", "margin": parse_percent(DEFAULT_MARGIN), "floor": floor}
    return tuple(each.model_copy(update=updates.get(each.metric, {})) for each in planned)


def measured_latencies(spec: ExperimentSpec) -> tuple[MetricName, ...]:
    """Return the latencies of success and secondary metrics."""
    found = (each.metric for each in (*spec.metrics.success, *spec.metrics.secondary))
    return tuple(each for each in found if each is not None and each != REJECTIONS and is_latency_metric(each))


def count_latencies(guardrails: Sequence[MetricGuardrail]) -> int:
    """Return how many of the guardrails are latencies."""
    return sum(is_latency_metric(each.metric or "") for each in guardrails)


def _success_metrics_of_edge(spec: ExperimentSpec) -> list[str]:
    return [each.metric for each in spec.metrics.success if each.metric is not None]


def list_edge_guardrails(spec: ExperimentSpec) -> list[MetricGuardrail]:
    """Return the spec's guardrails of the edge, and those that its success metrics of the edge need.

    By noHarm each success metric needs one. An error is no slow answer and no rejection, so an arm must not win by failing instead.
    """
    found: list[MetricGuardrail] = [*spec.metrics.edge_guardrails]
    for metric in spec.metrics.success if resolve_win_rule(spec) == "noHarm" else ():
        if metric.metric is None or metric.metric == REJECTIONS:
            continue
        if all(each.metric != metric.metric for each in found):
            found.append(MetricGuardrail(metric=metric.metric, margin=DEFAULT_MARGIN))
    needs_errors = any(each != ERROR_RATE for each in _success_metrics_of_edge(spec))
    if needs_errors and all(each.metric != ERROR_RATE for each in found):
        found.append(MetricGuardrail(metric=ERROR_RATE))
    return found


def _tests_units(spec: ExperimentSpec) -> bool:
    """Return whether units stay with an arm as long as it has traffic: weights that follow outcomes move them."""
    return units.resolve_unit(spec.unit) != units.PER_REQUEST and spec.allocation.mode == "fixed"


def _allocation(spec: ExperimentSpec) -> PlanAllocation | None:
    rule = allocation.freeze_allocation(spec.allocation, spec.stop.max_duration)
    return None if rule is None else PlanAllocation(floor=rule.floor, delta=rule.delta, pace=rule.min_interval)


def _outcomes(spec: ExperimentSpec) -> Iterator[PlanOutcome]:
    yield from (_plan_outcome(each, "success") for each in spec.metrics.success)
    yield from (_plan_guardrail(each) for each in spec.metrics.outcome_guardrails)
    if resolve_win_rule(spec) == "noHarm":
        yield from _no_harm_guardrails(spec)
    yield from (_plan_outcome(each, "secondary") for each in spec.metrics.secondary)


def _no_harm_guardrails(spec: ExperimentSpec) -> Iterator[PlanOutcome]:
    """Yield a guardrail for each success metric without one of the same outcome, cap and window included."""
    given = {_outcome_key(_plan_guardrail(each)) for each in spec.metrics.outcome_guardrails}
    for metric in spec.metrics.success:
        if metric.feedback is None:
            continue
        planned = _plan_outcome(metric, "success")
        if _outcome_key(planned) not in given:
            twin = {
                "role": "guardrail",
                # Names in a spec have no dot.
                "name": f"{metric.name}.noHarm",
                "minimum_effect": None,
                "margin": parse_percent(DEFAULT_MARGIN),
            }
            yield planned.model_copy(update=twin)


def _outcome_key(outcome: PlanOutcome) -> tuple[Any, ...]:
    """Return what the sums of an outcome depend on, and the direction that is good."""
    kind = outcome.type, outcome.goal, outcome.cap, outcome.window, outcome.after
    return outcome.feedback, outcome.denominator, *kind


def _plan_outcome(metric: FeedbackMetric, role: Literal["success", "secondary"]) -> PlanOutcome:
    return PlanOutcome(
        name=metric.status_name,
        role=role,
        feedback=metric.feedback or "",
        metric=metric.metric,
        type=metric.type,
        rate_by="units" if metric.type == "rate" and metric.metric is None else None,
        denominator=metric.denominator,
        covariate=metric.covariate,
        goal=metric.goal,
        cap=metric.cap,
        window=metric.window,
        after=metric.after,
        minimum_effect=None if metric.minimum_effect is None else parse_percent(metric.minimum_effect),
    )


def _plan_guardrail(guardrail: ExperimentGuardrail) -> PlanOutcome:
    planned = plan_outcome_guardrail(guardrail)
    return planned.model_copy(
        update={
            "denominator": guardrail.denominator,
            "covariate": guardrail.covariate,
            "window": guardrail.window,
            "after": guardrail.after,
        }
    )


def plan_hash(spec: ExperimentSpec, arms: Sequence[PlannedArm]) -> str:
    """Return 16 hex digits of SHA-256 over everything that a plan depends on; not over the fields in `_NOT_PLANNED`.

    Values equal to their defaults are left out, so a release that adds a field changes no plan's hash. A preset and `winBy` count by what
    they resolve to. Exposure and equal weights count alike however they are written.
    """
    exact = Decimal(spec.exposure.removesuffix("%")).normalize()
    written = spec.model_copy(update={"exposure": f"{exact:f}%"})
    without_weights = written.model_copy(update={"weights": {}})
    is_equal = planned_buckets(without_weights) == planned_buckets(written)
    return _hash_as_written(without_weights if is_equal else written, arms)


def _hash_as_written(spec: ExperimentSpec, arms: Sequence[PlannedArm]) -> str:
    """Return the hash of a plan as earlier releases stored it: with exposure and weights as they are written."""
    fields = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_NOT_PLANNED)
    if (rule := resolve_win_rule(spec)) != "anyMetric":
        fields["winBy"] = rule
    if spec.preset is not None:
        fields["defaultGuardrails"] = True
    return hash_json([fields, [arm.hash for arm in arms]])


def find_changed_fields(plan: FrozenPlan, spec: ExperimentSpec, arms: Sequence[PlannedArm]) -> str:
    """Return the names of spec fields that changed since the plan was frozen; empty where none did."""
    comparison = plan.comparison
    if comparison is None or plan.hash in (plan_hash(spec, arms), _hash_as_written(spec, arms)):
        return ""
    planned = [(arm.name, arm.hash) for arm in comparison.arms if arm.name != CONTROL]
    shares = [arm.buckets for arm in comparison.arms]
    wanted = list(planned_buckets(spec).values())
    stop = (comparison.max_duration, comparison.max_units)
    found = {
        "spec.arms": planned != [(arm.name, arm.hash) for arm in arms],
        "spec.exposure or spec.weights": len(shares) == len(wanted) and shares != wanted,
        "spec.unit": (units.frozen_unit(plan), plan.salt) != (units.resolve_unit(spec.unit), spec.unit.salt),
        "spec.alpha": plan.alpha != spec.alpha,
        "spec.stop": stop != (spec.stop.max_duration, spec.stop.max_units),
        "spec.onWin": comparison.on_win != spec.on_win,
        "spec.preset or spec.winBy": (comparison.win_by or "anyMetric") != resolve_win_rule(spec),
        "spec.allocation": comparison.allocation != _allocation(spec),
    }
    named = [name for name, differs in found.items() if differs]
    if not found["spec.preset or spec.winBy"]:
        named += _find_changed_metrics(plan, spec)
    return ", ".join(named) or "spec.preset or spec.metrics"


def _find_changed_metrics(plan: FrozenPlan, spec: ExperimentSpec) -> list[str]:
    """Return the paths of the metrics' fields that differ from the plan; a list's path if it has other metrics."""
    comparison, wanted = plan.comparison, list(_outcomes(spec))
    known = comparison.outcomes if comparison is not None else ()
    lists = {"success": "success", "guardrail": "guardrails", "secondary": "secondary"}
    found = []
    for role, name in lists.items():
        before, after = ([each for each in side if each.role == role] for side in (known, wanted))
        path = f"spec.metrics.{name}"
        if [each.name for each in before] != [each.name for each in after]:
            found.append(path)
            continue
        places = _places(spec, role)
        # Guardrails that noHarm adds follow their success metrics.
        for place, old, new in zip(places, before, after, strict=False):
            found += [f"{path}[{place}].{field}" for field in _changed_fields(old, new)]
    return found or _find_changed_guardrails(plan, spec)


def _places(spec: ExperimentSpec, role: str) -> list[int]:
    """Return the indices in the spec's list of the metrics of a role that are outcomes of the plan."""
    if role != "guardrail":
        return list(range(len(spec.metrics.success if role == "success" else spec.metrics.secondary)))
    return [place for place, each in enumerate(spec.metrics.guardrails) if each.feedback is not None]


def _find_changed_guardrails(plan: FrozenPlan, spec: ExperimentSpec) -> list[str]:
    """Return the paths of the fields of the edge's guardrails that differ from the plan, as far as the plan has them."""
    known = {each.metric: each for each in plan.guardrails if each.role == "guardrail"}
    edge = [(place, each.metric) for place, each in enumerate(spec.metrics.guardrails) if each.metric is not None]
    traffic = StableTraffic(plan.requests_per_second, error_rate=plan.error_rate)
    planned = {each.metric: each for each in _plan_guardrails(spec, traffic) if each.role == "guardrail"}
    if planned.keys() != known.keys():
        return ["spec.preset or spec.metrics.guardrails"]
    found = []
    for place, metric in edge:
        if (old := known.get(metric)) is not None and (new := planned.get(metric)) is not None:
            fields = ("margin", "floor") if not is_latency_metric(new.metric) else ("margin", "max_microseconds")
            changed = [
                name.removesuffix("_microseconds") for name in fields if getattr(old, name) != getattr(new, name)
            ]
            found += [f"spec.metrics.guardrails[{place}].{name}" for name in changed]
    return found


def _changed_fields(old: PlanOutcome, new: PlanOutcome) -> list[str]:
    """Return the names in a spec of the fields in which two outcomes of one name differ."""
    names_of = {name: to_camel(name) for name in PlanOutcome.model_fields}
    # Which test a rate has is no field of a spec.
    names_of.pop("rate_by")
    return [name for field, name in names_of.items() if getattr(old, field) != getattr(new, field)]
