"""Preview an apply of an Experiment: its arms, its control, the conditions of a verdict, and its duration."""

import math
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from typing import Any, Final

from sundog_operator.api import (
    DEFAULT_ALPHA,
    ExperimentSpec,
    ExperimentStatus,
    PlanComparison,
    Rollout,
    format_duration,
)
from sundog_operator.api.reasons import ExperimentReason
from sundog_operator.core import revisions
from sundog_operator.core.edge import salts, units
from sundog_operator.core.edge.salts import SaltOwner
from sundog_operator.core.forecast import experiment_forecast
from sundog_operator.core.forecast.expected_traffic import ExpectedTraffic, expect_traffic
from sundog_operator.core.forecast.experiment_simulation import ControlBaseline
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner.desired_state import live_revisions
from sundog_operator.core.planner.experiment.start import refusal_reason
from sundog_operator.core.planner.facts import ObservedState
from sundog_operator.core.revisions import Revision
from sundog_operator.core.stats.findings import format_rough_duration
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.experiment import arms, freeze, log_exports, state
from sundog_operator.core.trial.experiment.admission import ExperimentAcceptance, check_admission
from sundog_operator.core.trial.experiment.arms import PlannedArm
from sundog_operator.core.trial.experiment.queue import UserExperiment, order_waiting
from sundog_operator.core.trial.phases import is_over
from sundog_operator.ports import EXPERIMENT, Object
from sundog_operator.shell.preview import spec_diff
from sundog_operator.shell.preview.model_deployment import (
    Preview,
    PreviewOutcome,
    find_server_violations,
    make_new_object,
)
from sundog_operator.shell.view import plan_facts

_OF_A_ROLLOUT: Final = "this is the Experiment of a rollout, which only a ModelDeployment creates and changes"


def preview_experiment(
    manifest: Object,
    stored: Object | None,
    observed: ObservedState | None,
    now: datetime,
    *,
    comes: bool = False,
    log_refusal: Callable[[str], str] = lambda _: "",
    known_salts: Collection[SaltOwner] = (),
) -> Preview:
    """Preview one Experiment.

    Args:
        manifest: the manifest to apply.
        stored: the present object; None if there is none.
        observed: the observed state of its ModelDeployment; None if there is none.
        now: the present time.
        comes: the ModelDeployment is applied together with it.
        log_refusal: returns why a place may hold no exposure log; empty if allowed or unknown.
        known_salts: all salts of the namespace, this Experiment's included.
    """
    desired = make_new_object(manifest) if stored is None else {**stored, "spec": manifest.get("spec") or {}}
    status = ExperimentStatus.parse((stored or {}).get("status"))
    acceptance = check_admission(desired)
    problems = find_server_violations(manifest, desired, stored) or _find_refusals(acceptance, status, observed)
    if problems:
        return _make_preview(manifest, "refused", problems=problems, lines=describe_kept_plan(stored))
    warnings = (
        *_describe_log_refusal(acceptance.spec, log_refusal),
        *_describe_shared_salt(manifest, acceptance, status, known_salts),
        *_describe_equal_arms(acceptance, status, observed),
    )
    if stored is not None and check_admission(stored) == acceptance:
        return _make_preview(manifest, "unchanged", lines=("nothing changes", *_describe_state(status), *warnings))
    end, spec = _describe_end(status, stopped=acceptance.stopped), acceptance.spec
    lines = (
        (end,) if end or spec is None else tuple(_describe_changes(spec, stored, status, observed, now, comes=comes))
    )
    return _make_preview(manifest, "create" if stored is None else "change", lines=(*lines, *warnings))


def describe_kept_plan(stored: Object | None) -> tuple[str, ...]:
    """Return a line for the plan that a refused manifest leaves in force, if there is one."""
    status = ExperimentStatus.parse((stored or {}).get("status"))
    is_running = state.has_begun(status) and not is_over(status)
    return ("the running Experiment keeps its plan",) if is_running else ()


def _make_preview(
    manifest: Object, outcome: PreviewOutcome, *, lines: tuple[str, ...], problems: tuple[str, ...] = ()
) -> Preview:
    meta = manifest["metadata"]
    return Preview(f"{meta['namespace']}/{meta['name']}", outcome, None, lines, problems, EXPERIMENT.kind)


def _find_refusals(
    acceptance: ExperimentAcceptance, status: ExperimentStatus, observed: ObservedState | None
) -> tuple[str, ...]:
    """Return the reasons why the operator would refuse the Experiment."""
    if acceptance.of_rollout:
        return (_OF_A_ROLLOUT,)
    if acceptance.stopped:
        # A stopped Experiment ends even if its spec has other mistakes.
        return ()
    spec = acceptance.spec
    if spec is None:
        return (f"{acceptance.reason}: {acceptance.message}",)
    if is_over(status) or observed is None:
        return ()
    if state.has_begun(status):
        control = revisions.find_by_number(observed.revisions, state.control_revision(status))
        fields = (
            freeze.find_changed_fields(status.plan, spec, arms.plan_arms(control, spec)) if control is not None else ""
        )
        return (f"{ExperimentReason.PLAN_FROZEN}: {fields}: cannot be changed while it runs",) if fields else ()
    deployment = observed.acceptance.spec
    violations = arms.find_experiment_violations(_find_stable(observed), spec, deployment, observed.installation)
    return tuple(f"{refusal_reason(each)}: {each}" for each in violations)


def _describe_end(status: ExperimentStatus, *, stopped: bool) -> str:
    """Describe the end of an Experiment that is over or stopped; empty for another one."""
    if is_over(status):
        return "it has ended, and an edit cannot restart it. Create another Experiment"
    if not stopped:
        return ""
    return "it ends, with the evidence so far" if state.has_begun(status) else "it is stopped, so it never starts"


def _describe_log_refusal(spec: ExperimentSpec | None, refusal: Callable[[str], str]) -> Iterator[str]:
    uri = spec.exposure_log.uri if spec is not None else ""
    if uri and (reason := refusal(uri)):
        yield f"no exposure log is written: {log_exports.PLACE_NOT_ALLOWED}: {reason}"


def _describe_shared_salt(
    manifest: Object, acceptance: ExperimentAcceptance, status: ExperimentStatus, known: Collection[SaltOwner]
) -> Iterator[str]:
    """Describe who shares its salt, except for an Experiment that ends and assigns no more units."""
    message = salts.make_reuse_message("Experiment", manifest["metadata"]["name"], known)
    if message and not (acceptance.stopped or is_over(status)):
        yield f"{ExperimentReason.SALT_REUSED}: {message}"


def _describe_equal_arms(
    acceptance: ExperimentAcceptance, status: ExperimentStatus, observed: ObservedState | None
) -> Iterator[str]:
    """Describe arms without a difference, except of an Experiment that ends."""
    spec, stable = acceptance.spec, _find_stable(observed) if observed is not None else None
    if spec is None or stable is None or observed is None or acceptance.stopped or is_over(status):
        return
    deployment = observed.acceptance.spec
    if message := arms.describe_equal_arms(stable, spec, deployment):
        yield f"{ExperimentReason.ARMS_EQUAL}: {message}"


def _describe_state(status: ExperimentStatus) -> Iterator[str]:
    if is_over(status):
        yield f"it has ended: {status.verdict.reason}"
    elif state.has_begun(status):
        yield "it runs"


def _describe_changes(
    spec: ExperimentSpec,
    stored: Object | None,
    status: ExperimentStatus,
    observed: ObservedState | None,
    now: datetime,
    *,
    comes: bool,
) -> Iterator[str]:
    if state.has_begun(status):
        yield "does not change the plan with which it runs"
        return
    stable = _find_stable(observed) if observed is not None else None
    yield from _describe_start(spec, stored, observed, comes=comes)
    planned = arms.plan_arms(stable, spec) if stable is not None else []
    if observed is not None and stable is not None:
        yield f"compares with control, which is revision {stable.number}"
        yield from _describe_arms(planned, stable, observed)
    yield from _describe_plan(spec, observed, planned, now)
    if spec.metrics.success:
        yield from _describe_duration(spec, observed)


def _find_stable(observed: ObservedState) -> Revision | None:
    stable = observed.status.stable
    return None if stable is None else revisions.find_by_number(observed.revisions, stable.revision)


def _describe_start(
    spec: ExperimentSpec, stored: Object | None, observed: ObservedState | None, *, comes: bool
) -> Iterator[str]:
    service = f"ModelDeployment {spec.model_deployment}"
    if observed is None:
        yield f"starts when {service}{', which is applied with it,' if comes else ''} serves"
        if not comes:
            yield f"{service} does not exist yet"
        return
    status, deployment = observed.status, observed.acceptance.spec
    earlier = [each.name for each in order_waiting(observed.user_experiments) if _goes_before(each, stored)]
    waits = []
    if status.stable is None:
        waits.append(f"{service} serves")
    if earlier:
        waits.append(f"Experiment {', '.join(earlier)} has ended")
    if status.candidate is not None:
        waits.append(f"the rollout of revision {status.candidate.revision} has ended")
    if deployment is None:
        waits.append(f"the spec of {service} is accepted")
    elif deployment.paused:
        waits.append(f"spec.paused of {service} is false")
    yield f"waits until {' and '.join(waits)}" if waits else "starts when the replicas of its arms are ready"


def _goes_before(other: UserExperiment, stored: Object | None) -> bool:
    if other.acceptance.spec is None and not state.is_frozen(other.status):
        return False
    if stored is None:
        return True
    meta = stored["metadata"]
    itself = (str(meta.get("creationTimestamp") or ""), meta["name"])
    return state.has_begun(other.status) or (other.created, other.name) < itself


def _describe_arms(planned: list[PlannedArm], stable: Revision, observed: ObservedState) -> Iterator[str]:
    """Describe the revision of each arm, and its differences from control."""
    taken = {*observed.taken, *live_revisions(observed.status)}
    for arm in planned:
        changes = [str(each) for each in spec_diff.find_changes(_control_content(stable, arm, observed), arm.content)]
        causes = spec_diff.format_causes(changes) or ", which equals control"
        known = revisions.find_by_hash(observed.revisions, arm.hash)
        if known is None:
            number = revisions.next_number(taken)
            taken.add(number)
            yield f"arm {arm.name}: creates revision {number}{causes}"
        else:
            yield f"arm {arm.name}: uses revision {known.number}, which exists already{causes}"


def _control_content(stable: Revision, arm: PlannedArm, observed: ObservedState) -> Any:
    """Return control's content; with `userConfig`, which is no part of a revision, if the arm sets its own."""
    spec = observed.acceptance.spec
    if "userConfig" not in arm.content.get("runtime", {}) or spec is None:
        return stable.content
    runtime = {"userConfig": dict(spec.runtime.user_config), **stable.content.get("runtime", {})}
    return {**stable.content, "runtime": runtime}


def _describe_allocation(plan: PlanComparison | None) -> str:
    """Describe how weights change after the start; empty if they are fixed."""
    if plan is None or plan.allocation is None:
        return ""
    floor = 100 * plan.allocation.floor
    if floor * len(plan.arms) >= 100:
        return f"; weights become equal and stay so: {len(plan.arms)} arms cannot have more than {floor:g} % each"
    return f"; weights follow the first success metric, none below {floor:g} % of the exposed traffic"


def _describe_plan(
    spec: ExperimentSpec, observed: ObservedState | None, planned: list[PlannedArm], now: datetime
) -> Iterator[str]:
    deployment = observed.acceptance.spec if observed is not None else None
    rollout = deployment.rollout if deployment is not None else Rollout()
    plan = freeze.freeze(spec, rollout, (1, ""), [(arm, 1) for arm in planned], StableTraffic(), now).plan
    weights = {name: buckets / 100 for name, buckets in arms.planned_buckets(spec).items()}
    stable = 100 - sum(weights.values())
    shares = ", ".join(f"{name} {weight:g} %" for name, weight in {names.STABLE: stable, **weights}.items())
    yield f"shares of the traffic: {shares}{_describe_allocation(plan.comparison)}"
    unit = units.resolve_unit(spec.unit)
    yield (
        "each request is a unit"
        if unit == units.PER_REQUEST
        else f"units stay with their arm, by {unit.kind} {unit.name}"
    )
    for guardrail in plan.guardrails:
        yield f"{guardrail.role} {guardrail.metric}: {plan_facts.describe_guardrail_limit(guardrail, names.CONTROL)}"
    if plan.comparison is not None:
        yield from (
            f"{each.role} {each.name}: {plan_facts.describe_outcome_goal(each, names.CONTROL)}"
            for each in plan.comparison.outcomes
        )
        yield f"ends {plan_facts.describe_end_conditions(plan.comparison)}"
    yield _describe_alpha(spec)


def _describe_alpha(spec: ExperimentSpec) -> str:
    alpha, tests = spec.alpha or DEFAULT_ALPHA, len(spec.arms) * len(spec.metrics.success)
    text = f"alpha is {alpha:g}, the error of each direction"
    return f"{text}; {alpha / tests:.3g} for each of {tests} pairs of arm and success metric" if tests > 1 else text


def _describe_duration(spec: ExperimentSpec, observed: ObservedState | None) -> Iterator[str]:
    """Describe how long it takes to find a better arm, by expected values or the counts of the newest similar Experiment."""
    if freeze.resolve_win_rule(spec) == "noHarm":
        yield "duration: unknown; estimates are for arms that are better, and by noHarm an arm need not be"
        return
    expected = expect_traffic(
        spec,
        observed.user_experiments if observed is not None else (),
        _latest_request_rate(observed),
        "of the newest plan",
    )
    if not expected.bases:
        yield "duration: unknown; `sundog experiment power` estimates it from your traffic and control's metric"
        return
    rate = expected.units_per_second
    most = "at most " if expected.is_bound else ""
    yield f"{expected.source}, {f'{most}{rate * 86_400:.0f}' if rate else 'an unknown number of'} new units a day:"
    for index, metric in enumerate(experiment_forecast.planned_metrics(spec)):
        base = expected.bases.get(metric.name)
        if base is not None:
            yield f"{_describe_metric_duration(spec, expected, index, base)}; control has {base.value:.3g}"


def _describe_metric_duration(
    spec: ExperimentSpec, expected: ExpectedTraffic, index: int, base: ControlBaseline
) -> str:
    """Describe the units and the time that one success metric typically takes."""
    metric, rate = experiment_forecast.planned_metrics(spec)[index], expected.units_per_second
    if rate and (
        text := experiment_forecast.find_undecidable_metric(spec, rate, {metric.name: base}, is_bound=expected.is_bound)
    ):
        return text
    count = experiment_forecast.expected_units(spec, base, index)
    text = f"{metric.name}: an arm that is {100 * metric.effect:.3g} % better"
    if not math.isfinite(count):
        return f"{text} is never found"
    text = f"{text} is typically found after {count:.0f} units"
    if not rate:
        stop = spec.stop.max_duration
        return (
            f"{text}; at least {count / (stop.total_seconds() / 3600):.3g} have to come in an hour,"
            f" because it stops after {format_duration(stop)}"
        )
    _, seconds = experiment_forecast.expected_duration(spec, experiment_forecast.ExperimentTraffic(rate, base), index)
    return f"{text}, in {'at least ' if expected.is_bound else ''}{format_rough_duration(seconds)}"


def _latest_request_rate(observed: ObservedState | None) -> float | None:
    """Return the requests per second in the newest frozen plan, the only traffic known here; None without one."""
    if observed is None:
        return None
    plans = [
        *(each.status.plan for each in observed.rollouts),
        *(each.status.plan for each in observed.user_experiments),
    ]
    known = [
        (each.frozen_at, each.requests_per_second) for each in plans if each.frozen_at and each.requests_per_second
    ]
    return max(known)[1] if known else None
