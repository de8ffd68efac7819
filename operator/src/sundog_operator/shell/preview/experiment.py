"""What applying an Experiment would do: which arms it brings up beside which control, what decides, and how long that takes."""

import math
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from typing import Any, Final

from sundog_operator.api import (
    DEFAULT_ALPHA,
    ExperimentSpec,
    ExperimentStatus,
    ModelDeploymentStatus,
    PlanComparison,
    Rollout,
)
from sundog_operator.core import revisions
from sundog_operator.core.edge import salts, units
from sundog_operator.core.edge.salts import SaltOwner
from sundog_operator.core.experiments import arms, freeze, log_exports, outcome_evaluation, power, state
from sundog_operator.core.experiments.admission import ExperimentAcceptance, check_admission
from sundog_operator.core.experiments.arms import PlannedArm
from sundog_operator.core.experiments.evaluation import ObservedRate
from sundog_operator.core.experiments.queue import UserExperiment, order_waiting
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner.admission import accept_model_deployment as accept_deployment
from sundog_operator.core.planner.context import ObservedState
from sundog_operator.core.planner.desired_state import live_revisions
from sundog_operator.core.planner.experiment.start import refusal_reason
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout.resolve import StableTraffic
from sundog_operator.core.rollout.state import is_over
from sundog_operator.core.stats.findings import format_rough_duration
from sundog_operator.core.stats.power.experiment_simulation import ControlBaseline
from sundog_operator.ports import EXPERIMENT, Object
from sundog_operator.shell import plan_text
from sundog_operator.shell.preview import spec_diff
from sundog_operator.shell.preview.model_deployment import (
    Preview,
    PreviewOutcome,
    find_server_violations,
    make_new_object,
)

_OF_A_ROLLOUT: Final = "a ModelDeployment makes the Experiments of its rollouts, and nobody else does"


def preview_experiment(
    manifest: Object,
    stored: Object | None,
    seen: ObservedState | None,
    now: datetime,
    *,
    comes: bool = False,
    log_refusal: Callable[[str], str] = lambda _: "",
    known_salts: Collection[SaltOwner] = (),
) -> Preview:
    """Preview one Experiment, given the object as it is (None where there is none) and what is observed of its ModelDeployment.

    `comes`: a ModelDeployment of the name that it gives is applied together with it. `log_refusal` tells why no exposure log may be written
    to a place, as far as that is known. `known_salts` are those that are fixed in the namespace, this one's included.
    """
    wanted = make_new_object(manifest) if stored is None else {**stored, "spec": manifest.get("spec") or {}}
    status = ExperimentStatus.parse((stored or {}).get("status"))
    runs = state.has_begun(status) and not is_over(status)
    kept = ("what runs goes on by its plan",) if runs else ()
    acceptance = check_admission(wanted)
    problems = find_server_violations(manifest, wanted, stored) or _refused(acceptance, status, seen)
    if problems:
        return _preview(manifest, "refused", problems=problems, lines=kept)
    more = (*_unwritten(acceptance.spec, log_refusal), *_shared_salt(manifest, acceptance, status, known_salts))
    if stored is not None and check_admission(stored) == acceptance:
        return _preview(manifest, "unchanged", lines=("nothing changes", *_standing(status), *more))
    end, spec = _end(status, stopped=acceptance.stopped), acceptance.spec
    lines = (end,) if end or spec is None else tuple(_lines(spec, stored, status, seen, now, comes=comes))
    return _preview(manifest, "create" if stored is None else "change", lines=(*lines, *more))


def _preview(
    manifest: Object, outcome: PreviewOutcome, *, lines: tuple[str, ...], problems: tuple[str, ...] = ()
) -> Preview:
    meta = manifest["metadata"]
    return Preview(f"{meta['namespace']}/{meta['name']}", outcome, None, lines, problems, EXPERIMENT.kind)


def _refused(acceptance: ExperimentAcceptance, status: ExperimentStatus, seen: ObservedState | None) -> tuple[str, ...]:
    """What the operator would say against it."""
    if acceptance.of_rollout:
        return (_OF_A_ROLLOUT,)
    if acceptance.stopped:
        # A wish to end must not fail on what else is wrong.
        return ()
    spec = acceptance.spec
    if spec is None:
        return (f"{acceptance.reason}: {acceptance.message}",)
    if is_over(status) or seen is None:
        return ()
    if state.has_begun(status):
        control = revisions.find_by_number(seen.revisions, state.control_revision(status))
        fields = (
            freeze.find_changed_fields(status.plan, spec, arms.plan_arms(control, spec)) if control is not None else ""
        )
        return (f"PlanFrozen: {fields}: cannot be changed while it runs",) if fields else ()
    deployment = accept_deployment(seen.deployment, seen.installation).spec
    wrong = arms.find_experiment_violations(_stable(seen), spec, deployment, seen.installation)
    return tuple(f"{refusal_reason(each.message)}: {each}" for each in wrong)


def _end(status: ExperimentStatus, *, stopped: bool) -> str:
    """What becomes of one that has ended or is to; empty for any other."""
    if is_over(status):
        return "it has ended, and no edit begins it again: create another Experiment"
    if not stopped:
        return ""
    return "it ends, with the evidence so far" if state.has_begun(status) else "it never begins, for it is stopped"


def _unwritten(spec: ExperimentSpec | None, refusal: Callable[[str], str]) -> Iterator[str]:
    uri = spec.exposure_log.uri if spec is not None else ""
    if uri and (why := refusal(uri)):
        yield f"no exposure log is written: {log_exports.PLACE_NOT_ALLOWED}: {why}"


def _shared_salt(
    manifest: Object, acceptance: ExperimentAcceptance, status: ExperimentStatus, known: Collection[SaltOwner]
) -> Iterator[str]:
    """That others have its salt; of one that is to end nobody is with an arm again."""
    told = salts.make_reuse_message("Experiment", manifest["metadata"]["name"], known)
    if told and not (acceptance.stopped or is_over(status)):
        yield f"{salts.SALT_REUSED}: {told}"


def _standing(status: ExperimentStatus) -> Iterator[str]:
    if is_over(status):
        yield f"it has ended: {status.verdict.reason}"
    elif state.has_begun(status):
        yield "it runs"


def _lines(
    spec: ExperimentSpec,
    stored: Object | None,
    status: ExperimentStatus,
    seen: ObservedState | None,
    now: datetime,
    *,
    comes: bool,
) -> Iterator[str]:
    if state.has_begun(status):
        yield "changes nothing of the plan by which it runs"
        return
    stable = _stable(seen) if seen is not None else None
    yield from _waits(spec, stored, seen, comes=comes)
    planned = arms.plan_arms(stable, spec) if stable is not None else []
    if seen is not None and stable is not None:
        yield f"compares with control, which is revision {stable.number}"
        yield from _arms(planned, stable, seen)
    yield from _plan(spec, seen, planned, now)
    if spec.metrics.success:
        yield from _how_long(spec, seen)


def _stable(seen: ObservedState) -> Revision | None:
    stable = _status(seen).stable
    return None if stable is None else revisions.find_by_number(seen.revisions, stable.revision)


def _status(seen: ObservedState) -> ModelDeploymentStatus:
    return ModelDeploymentStatus.parse(seen.deployment.get("status"))


def _waits(spec: ExperimentSpec, stored: Object | None, seen: ObservedState | None, *, comes: bool) -> Iterator[str]:
    service = f"ModelDeployment {spec.model_deployment}"
    if seen is None:
        yield f"begins once {service}{', which is applied with it,' if comes else ''} serves"
        if not comes:
            yield f"there is no {service} yet"
        return
    status, deployment = _status(seen), accept_deployment(seen.deployment, seen.installation).spec
    earlier = [each.name for each in order_waiting(seen.own) if _goes_before(each, stored)]
    found = []
    if status.stable is None:
        found.append(f"{service} serves")
    if earlier:
        found.append(f"Experiment {', '.join(earlier)} has ended")
    if status.candidate is not None:
        found.append(f"the rollout of revision {status.candidate.revision} has ended")
    if deployment is None:
        found.append(f"the spec of {service} is accepted")
    elif deployment.paused:
        found.append(f"spec.paused of {service} is false")
    yield f"waits until {' and '.join(found)}" if found else "begins when the replicas of its arms are ready"


def _goes_before(other: UserExperiment, stored: Object | None) -> bool:
    if other.acceptance.spec is None and not state.is_frozen(other.status):
        return False
    if stored is None:
        return True
    meta = stored["metadata"]
    itself = (str(meta.get("creationTimestamp") or ""), meta["name"])
    return state.has_begun(other.status) or (other.created, other.name) < itself


def _arms(planned: list[PlannedArm], stable: Revision, seen: ObservedState) -> Iterator[str]:
    """The revision of each arm, and what it has of its own."""
    taken = {*seen.taken, *live_revisions(_status(seen))}
    for arm in planned:
        differing = [str(each) for each in spec_diff.find_changes(_control(stable, arm, seen), arm.content)]
        why = spec_diff.format_causes(differing) or ", which differs in nothing"
        known = revisions.find_by_hash(seen.revisions, arm.hash)
        if known is None:
            number = revisions.next_number(taken)
            taken.add(number)
            yield f"arm {arm.name}: makes revision {number}{why}"
        else:
            yield f"arm {arm.name}: revision {known.number}, which is known already{why}"


def _control(stable: Revision, arm: PlannedArm, seen: ObservedState) -> Any:
    """What an arm is compared with; of the `userConfig`, which is no part of a revision, where the arm has one of its own."""
    spec = accept_deployment(seen.deployment, seen.installation).spec
    if "userConfig" not in arm.content.get("runtime", {}) or spec is None:
        return stable.content
    runtime = {"userConfig": dict(spec.runtime.user_config), **stable.content.get("runtime", {})}
    return {**stable.content, "runtime": runtime}


def _where_weights_go(plan: PlanComparison | None) -> str:
    """What follows the shares at the begin; empty where these stay."""
    if plan is None or plan.allocation is None:
        return ""
    floor = 100 * plan.allocation.floor
    if floor * len(plan.arms) >= 100:
        return f"; weights come to be equal and stay so: {len(plan.arms)} arms cannot have more than {floor:g} % each"
    return f"; weights follow the first success metric, none below {floor:g} % of what is exposed"


def _plan(spec: ExperimentSpec, seen: ObservedState | None, planned: list[PlannedArm], now: datetime) -> Iterator[str]:
    deployment = accept_deployment(seen.deployment, seen.installation).spec if seen is not None else None
    rollout = deployment.rollout if deployment is not None else Rollout()
    plan = freeze.freeze(spec, rollout, (1, ""), [(arm, 1) for arm in planned], StableTraffic(), now).plan
    shares = {name: own / 100 for name, own in arms.planned_buckets(spec).items()}
    outside = 100 - sum(shares.values())
    told = ", ".join(f"{name} {share:g} %" for name, share in {names.STABLE: outside, **shares}.items())
    yield f"shares of the traffic: {told}{_where_weights_go(plan.comparison)}"
    unit = units.resolve_unit(spec.unit)
    yield (
        "each request is a unit"
        if unit == units.PER_REQUEST
        else f"units stay with their arm, by {unit.kind} {unit.name}"
    )
    for guardrail in plan.guardrails:
        yield f"{guardrail.role} {guardrail.metric}: {plan_text.describe_guardrail_limit(guardrail, names.CONTROL)}"
    if plan.comparison is not None:
        yield from (
            f"{each.role} {each.name}: {plan_text.describe_outcome_goal(each)}" for each in plan.comparison.outcomes
        )
        yield f"ends {plan_text.describe_end_conditions(plan.comparison)}"
    yield _alpha(spec)


def _alpha(spec: ExperimentSpec) -> str:
    alpha, tests = spec.alpha or DEFAULT_ALPHA, len(spec.arms) * len(spec.metrics.success)
    told = f"alpha is {alpha:g}, the error of each direction"
    return f"{told}; {alpha / tests:.3g} for each of {tests} pairs of arm and success metric" if tests > 1 else told


def _how_long(spec: ExperimentSpec, seen: ObservedState | None) -> Iterator[str]:
    """How long an arm that is better takes to be found, by what the newest experiment of its kind has counted."""
    known = _known(spec, seen)
    if known is None:
        yield "how long that takes: `sundog experiment power` tells, with what comes and what of control is known"
        return
    name, rate, bases = known
    yield f"by what Experiment {name} has counted, {rate.units_per_second * 86_400:.0f} units come a day:"
    for place, metric in enumerate(power.planned_metrics(spec)):
        if metric.name not in bases:
            continue
        base = bases[metric.name]
        told = power.find_undecidable_metric(spec, rate.units_per_second, {metric.name: base})
        if not told:
            count, seconds = power.expected_duration(spec, power.ExperimentTraffic(rate.units_per_second, base), place)
            found = f"is typically found after {count:.0f} units, in {format_rough_duration(seconds)}"
            better = f"an arm that is better by {100 * metric.effect:.3g} %"
            told = f"{metric.name}: {better} {found if math.isfinite(seconds) else 'is never found'}"
        yield f"{told}; control has {base.value:.3g}"


def _known(
    spec: ExperimentSpec, seen: ObservedState | None
) -> tuple[str, ObservedRate, dict[str, ControlBaseline]] | None:
    """The newest other experiment that has counted units of the same kind and one of the success metrics, and what control had there."""
    found = []
    for own in seen.own if seen is not None else ():
        rate = outcome_evaluation.estimate_past_rate(own.status, own.uid)
        if rate is None or units.frozen_unit(own.status.plan) != units.resolve_unit(spec.unit):
            continue
        counted = {
            (each.feedback, each.type): rate.values[each.name]
            for each in outcome_evaluation.planned_outcomes(own.status, outcome_evaluation.SUCCESS)
            if each.name in rate.values
        }
        bases = {
            each.name: ControlBaseline(*counted[each.feedback, each.type])
            for each in spec.metrics.success
            if counted.get((each.feedback, each.type), (0.0,))[0] > 0
        }
        if bases:
            found.append((own.status.since, own.name, rate, bases))
    if not found:
        return None
    _, name, rate, bases = max(found, key=lambda each: (str(each[0]), each[1]))
    return name, rate, bases
