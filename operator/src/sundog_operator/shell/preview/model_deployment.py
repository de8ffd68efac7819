"""Preview an apply of a ModelDeployment: the planner's decision for the present state, without writing anything."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from sundog_operator.api import (
    FrozenPlan,
    ModelDeployment,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    PlanInPlace,
    find_immutable_changes,
    find_violations,
    format_duration,
    format_timestamp,
    parse_resource,
    unknown_fields,
)
from sundog_operator.api.reasons import DeploymentReason
from sundog_operator.api.rollout.guardrail_defaults import BUSY_RPS
from sundog_operator.core import revisions
from sundog_operator.core.edge import salts, secrets, units
from sundog_operator.core.forecast import gate_forecast
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.core.planner.facts import ObservedState
from sundog_operator.core.planner.plan import ReconcilePlan, make_plan
from sundog_operator.core.planner.rollout import held_back_revisions, rollback_window
from sundog_operator.core.ray.scaling import replicas_of_rollout
from sundog_operator.core.trial import replica_counts
from sundog_operator.core.trial.default_plan import VERY_BUSY_RPS, StableTraffic
from sundog_operator.core.trial.rollout import plan_text, steps_without_evidence, windows
from sundog_operator.core.trial.rollout.freeze import BAKE, STEPPED_STRATEGIES, resolve_plan
from sundog_operator.errors import SpecError
from sundog_operator.ports import CONTROLLER_REVISION, Object
from sundog_operator.shell.preview import spec_diff
from sundog_operator.shell.preview.capacity import (
    describe_capacity,
    describe_missing_capacity,
    find_shared_capacity,
)
from sundog_operator.shell.preview.spec_diff import SpecChange, format_causes
from sundog_operator.shell.view.plan_facts import describe_outcome_goal

PreviewOutcome = Literal["create", "change", "unchanged", "refused"]

_REVISION_PARTS: Final = ("model", "runtime", "resources", "scheduling")
_DECIDING_GATES: Final = frozenset({"evidence", "manual", "webhook", "analysis", "shadow"})
"""Gates that need more than time to pass."""
_IN_PLACE: Final = "runtime.userConfig"


@dataclass(frozen=True, slots=True)
class Preview:
    """Result of a preview.

    Attributes:
        revision: revision of the manifest; None for a refused manifest and for an Experiment.
        lines: changes in order.
        problems: reasons of a refusal, and why no replica of a local model can start.
    """

    name: str
    outcome: PreviewOutcome
    revision: int | None = None
    lines: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    kind: str = "ModelDeployment"


def preview_model_deployment(
    manifest: Object, stored: Object | None, observed: ObservedState, now: datetime, applied: Object | None = None
) -> Preview:
    """Preview one ModelDeployment.

    Args:
        manifest: the manifest to apply.
        stored: the present object; None if there is none.
        observed: the observed state of the ModelDeployment.
        now: the present time.
        applied: the object as the API server would store it; None if that is unknown.
    """
    name = f"{manifest['metadata']['namespace']}/{manifest['metadata']['name']}"
    desired = _merge(manifest, stored, applied)
    if problems := find_server_violations(manifest, desired, stored):
        return Preview(name, "refused", problems=problems, lines=describe_kept_revision(stored))
    acceptance = accept_model_deployment(desired, observed.installation)
    if acceptance.spec is None:
        problems = (f"{acceptance.reason}: {acceptance.message}",)
        return Preview(name, "refused", problems=problems, lines=describe_kept_revision(stored))
    running = _status(stored).experiment
    # Experiments that would start anyway are no effect of the manifest.
    user_experiments = tuple(each for each in observed.user_experiments if each.name == running)
    # The preview keeps the stored status, as the merge does.
    changed = replace(observed, deployment=desired, acceptance=acceptance, user_experiments=user_experiments)
    plan = make_plan(changed, now)
    number = _find_revision_number(acceptance.spec, observed, plan)
    changes = _find_changes(stored, acceptance.spec)
    salt = tuple(_describe_shared_salt(manifest, observed))
    if stored is not None and not changes:
        lines = ("nothing changes", *_describe_hold(acceptance.spec, stored, number), *salt)
        return Preview(name, "unchanged", number, lines)
    lines = (*_describe_changes(acceptance.spec, stored, observed, plan, number, changes, now), *salt)
    return Preview(name, "create" if stored is None else "change", number, lines)


def make_new_object(manifest: Object) -> Object:
    """Return the object that the API server would create from a manifest."""
    return {**manifest, "metadata": {**manifest["metadata"], "uid": "", "generation": 1}}


def _merge(manifest: Object, stored: Object | None, applied: Object | None) -> Object:
    if stored is None:
        return make_new_object(manifest)
    spec = dict(manifest.get("spec") or {})
    # Users omit replicas from manifests when an autoscaler sets it; the stored value then stays.
    # Only the API server knows which field manager owns the field.
    present = (applied or stored)["spec"]
    if "replicas" not in spec and "replicas" in present:
        spec["replicas"] = present["replicas"]
    meta = stored["metadata"]
    return {**stored, "spec": spec, "metadata": {**meta, "generation": meta.get("generation", 0) + 1}}


def find_server_violations(manifest: Object, desired: Object, stored: Object | None) -> tuple[str, ...]:
    """Return the violations that the API server would find in a manifest and its `desired` object, except stored ones."""
    unknown = [str(violation) for violation in unknown_fields(manifest)]
    present = [] if stored is None else find_violations(stored)
    violations = [str(violation) for violation in find_violations(desired) if violation not in present]
    if violations or stored is None:
        return (*unknown, *violations)
    try:
        old, new = parse_resource(stored), parse_resource(desired)
    except SpecError:
        return tuple(unknown)
    return (*unknown, *(str(violation) for violation in find_immutable_changes(old, new)))


def _status(stored: Object | None) -> ModelDeploymentStatus:
    return ModelDeploymentStatus.parse((stored or {}).get("status"))


def describe_kept_revision(stored: Object | None) -> tuple[str, ...]:
    """Return a line for the revision that a refused manifest leaves serving, if there is one."""
    return (f"revision {stable.revision} keeps serving",) if (stable := _status(stored).stable) is not None else ()


def _find_revision_number(spec: ModelDeploymentSpec, observed: ObservedState, plan: ReconcilePlan) -> int:
    created = next((child for child in plan.objects_to_create if child["kind"] == CONTROLLER_REVISION.kind), None)
    if created is not None:
        return int(created["revision"])
    known = revisions.find_by_hash(observed.revisions, revisions.content_hash(revisions.content_of(spec)))
    assert known is not None
    return known.number


def _find_changes(stored: Object | None, spec: ModelDeploymentSpec) -> list[SpecChange]:
    if stored is None:
        return []
    try:
        before = ModelDeployment.parse(stored).spec.to_json()
    except SpecError:
        before = stored["spec"]
    return spec_diff.find_changes(before, spec.to_json())


def _is_part_of_revision(change: SpecChange) -> bool:
    part = change.path.partition(".")[0]
    return part in _REVISION_PARTS and not change.path.startswith(_IN_PLACE)


def _describe_changes(
    spec: ModelDeploymentSpec,
    stored: Object | None,
    observed: ObservedState,
    plan: ReconcilePlan,
    number: int,
    changes: Sequence[SpecChange],
    now: datetime,
) -> Iterator[str]:
    before = _status(stored)
    is_new = all(revision.number != number for revision in observed.revisions)
    causes = [str(change) for change in changes if _is_part_of_revision(change)]
    if is_new:
        yield f"creates revision {number}{format_causes(causes)}"
    elif before.stable is None or before.stable.revision != number:
        yield f"uses revision {number}, which exists already{format_causes(causes)}"
    others = [str(change) for change in changes if not _is_part_of_revision(change)]
    if others:
        yield f"changes in place, without a new revision{format_causes(others)}"
    yield from _describe_end_of_autoscaling(spec, stored, before)
    yield from _describe_other_rollout(before, plan, number)
    yield from _describe_traffic(spec, before, observed, plan, number, now)
    yield from _describe_window(spec, before, number, now)
    missing = secrets.find_missing_secrets(
        secrets.secret_references(spec.endpoint), observed.secrets, observed.deployment["metadata"]["namespace"]
    )
    if missing is not None:
        yield missing[1]


def _describe_end_of_autoscaling(
    spec: ModelDeploymentSpec, stored: Object | None, before: ModelDeploymentStatus
) -> Iterator[str]:
    """Describe the loss of replicas if `autoscaling` is removed without a number that replaces it."""
    was_scaled = stored is not None and stored["spec"].get("autoscaling") is not None
    if was_scaled and spec.autoscaling is None and before.stable and before.stable.replicas > spec.replicas:
        yield (
            f"without autoscaling spec.replicas counts: {before.stable.replicas} → {spec.replicas}. Set it to"
            f" {before.stable.replicas} to keep what the load needs now"
        )


def _describe_other_rollout(before: ModelDeploymentStatus, plan: ReconcilePlan, number: int) -> Iterator[str]:
    """Describe the effect on the rollout of another revision that is under way."""
    candidate, next_candidate = before.candidate, plan.status.candidate
    if candidate is None or candidate.revision == number:
        return
    rollout = f"the rollout of revision {candidate.revision}, which has {candidate.weight} % of the traffic"
    goes_on = next_candidate is not None and next_candidate.revision == candidate.revision
    yield f"waits for the end of {rollout}" if goes_on else f"ends {rollout}"


def _describe_traffic(
    spec: ModelDeploymentSpec,
    before: ModelDeploymentStatus,
    observed: ObservedState,
    plan: ReconcilePlan,
    number: int,
    now: datetime,
) -> Iterator[str]:
    """Describe how the revision gets its traffic."""
    stable, hold = before.stable, held_back_revisions.find_hold(plan.status, number)
    if stable is None:
        yield f"revision {number} gets all traffic once it is ready"
        yield from describe_capacity(spec, observed, plan, now)
    elif stable.revision == number:
        yield f"revision {number} keeps all traffic"
    elif hold is not None:
        yield f"revision {number} stays held back, because it was {_format_outcome(hold.outcome)}. `sundog retry` retries it"
    elif before.candidate is not None and before.candidate.revision == number:
        yield f"the rollout of revision {number} continues with its frozen plan"
    elif spec.rollout.dry_run:
        yield next(
            (c.message for c in plan.status.conditions if c.reason == DeploymentReason.DRY_RUN),
            "no traffic moves: dryRun is true",
        )
    elif spec.paused or spec.rollout.paused:
        yield f"revision {number} waits while the spec is paused; revision {stable.revision} keeps serving"
    elif before.arms is not None:
        yield from _describe_running_experiment(before, plan, number)
    elif spec.rollout.strategy in STEPPED_STRATEGIES and number in rollback_window.revisions_in_window(
        spec.rollout, before.stable_before
    ):
        yield f"{rollback_window.fast_rollback_reason(number)}: all traffic at once, without steps, when all its replicas are ready"
    elif spec.rollout.strategy in STEPPED_STRATEGIES:
        shared = find_shared_capacity(plan)
        relation = "beside" if shared is None else "in place of"
        yield f"{spec.rollout.strategy} {relation} revision {stable.revision}: {describe_steps(spec, shared)}"
        yield from _describe_replicas(spec, plan, number)
        yield from describe_capacity(spec, observed, plan, now)
        needed = plan.status.stable.replicas if spec.autoscaling and plan.status.stable else replicas_of_rollout(spec)
        resolved = resolve_plan(spec.rollout, StableTraffic(), needed, shared)
        yield from _describe_outcomes(resolved)
        yield from _describe_missing_evidence(resolved)
        yield from _describe_undecidable_step(spec, observed)
    else:
        yield f"revision {number} gets all traffic from revision {stable.revision} at once, when all its replicas are ready"
        yield from describe_capacity(spec, observed, plan, now)


def _describe_running_experiment(before: ModelDeploymentStatus, plan: ReconcilePlan, number: int) -> Iterator[str]:
    """Describe the effect on the Experiment that is running."""
    if not plan.status.arms:
        yield f"ends Experiment {before.experiment} first"
    elif plan.status.queued == number:
        yield f"waits for the end of Experiment {before.experiment} first"
    else:
        yield f"Experiment {before.experiment} continues until the cluster has capacity for revision {number}"
        yield from describe_missing_capacity(plan)


def _describe_replicas(spec: ModelDeploymentSpec, plan: ReconcilePlan, number: int) -> Iterator[str]:
    """Describe the replicas of both revisions at each step, if there is more than one and the manifest has the steps."""
    stable, candidate = plan.status.stable, plan.status.candidate
    if stable is None or candidate is None or stable.replicas < 2 or find_shared_capacity(plan) is not None:
        return
    needed, limit = stable.replicas, format_duration(spec.rollout.progress_deadline)
    steps = resolve_plan(spec.rollout, StableTraffic(), needed).steps if spec.rollout.steps else ()
    by_weight: dict[int, int] = {}
    for step in steps:
        by_weight[step.weight] = max(replica_counts.step_replicas(step, needed), by_weight.get(step.weight, 0))
    counts = ", ".join(f"{count} at {weight} %" for weight, count in by_weight.items()) or "those for its share"
    yield (
        f"replicas: revision {stable.revision} keeps {needed}; revision {number} has {counts}."
        f" Each step waits for them, for {limit} at most"
    )


def _describe_undecidable_step(spec: ModelDeploymentSpec, observed: ObservedState) -> Iterator[str]:
    """Describe a step that is too short for the traffic of the newest rollout, the only traffic known here."""
    frozen = [(each.status.plan.frozen_at, each.name, each.status.plan) for each in observed.rollouts]
    known = [(at, name, plan) for at, name, plan in frozen if at is not None and plan.requests_per_second is not None]
    if not known:
        return
    _, name, newest = max(known, key=lambda each: each[:2])
    traffic = StableTraffic(newest.requests_per_second, error_rate=newest.error_rate)
    if warning := gate_forecast.find_undecidable_step(resolve_plan(spec.rollout, traffic, replicas_of_rollout(spec))):
        yield f"with the traffic at the start of {name}, {warning}"


def _describe_shared_salt(manifest: Object, observed: ObservedState) -> Iterator[str]:
    if message := salts.make_reuse_message("ModelDeployment", manifest["metadata"]["name"], observed.salts):
        yield f"{DeploymentReason.SALT_REUSED}: {message}"


def _describe_window(
    spec: ModelDeploymentSpec, before: ModelDeploymentStatus, number: int, now: datetime
) -> Iterator[str]:
    """Describe the window that traffic has to wait for."""
    opening = windows.next_opening(spec.rollout.windows, now)
    is_rollback = number in rollback_window.revisions_in_window(spec.rollout, before.stable_before)
    if opening is not None and before.stable is not None and before.stable.revision != number and not is_rollback:
        yield f"no traffic moves before {format_timestamp(opening)}, when the next window opens"


def _describe_hold(spec: ModelDeploymentSpec, stored: Object, number: int) -> Iterator[str]:
    """Describe why the revision of an unchanged manifest may not be the one that serves."""
    status = _status(stored)
    hold = held_back_revisions.find_hold(status, number)
    if status.candidate is not None and status.candidate.revision == number:
        yield f"revision {number} is being rolled out: {describe_steps(spec)}"
    elif status.queued == number and status.candidate is not None:
        yield f"revision {number} waits until the rollout of revision {status.candidate.revision} has ended"
    elif hold is not None:
        yield f"revision {number} is held back, because it was {_format_outcome(hold.outcome)}: {hold.reason}"


def _format_outcome(outcome: str) -> str:
    return "rolled back" if outcome == "RolledBack" else outcome.lower()


def describe_steps(spec: ModelDeploymentSpec, shared: PlanInPlace | None = None) -> str:
    """Describe the steps of a rollout in one line, such as `25 % (manual gate) → 100 %`.

    Without steps in the spec, describe the steps that it resolves to. `shared` is how stable's replicas are shared, if they are.
    """
    if spec.rollout.steps or spec.rollout.strategy != "canary":
        return _format_steps(spec, None, shared)
    quiet, busy, very_busy = (_format_steps(spec, each, shared) for each in (0.0, BUSY_RPS, VERY_BUSY_RPS))
    return (
        "steps by stable's traffic when the rollout starts:"
        f" {quiet} below {BUSY_RPS:g} requests a second, or if unknown;"
        f" {busy} from {BUSY_RPS:g}; {very_busy} from {VERY_BUSY_RPS:g}"
    )


def _format_steps(spec: ModelDeploymentSpec, requests_per_second: float | None, shared: PlanInPlace | None) -> str:
    traffic = StableTraffic(requests_per_second)
    return plan_text.format_steps(resolve_plan(spec.rollout, traffic, replicas_of_rollout(spec), shared).steps)


def _describe_outcomes(plan: FrozenPlan) -> Iterator[str]:
    """Describe the outcomes that gates wait for, and which units count at later weights."""
    for outcome in plan.outcomes or ():
        goal = describe_outcome_goal(outcome, names.STABLE)
        yield f"guardrail {outcome.name}: {goal}; each evidence gate waits for outcomes that are posted to -/feedback"
    gates = [step.weight for step in plan.steps if step.gate == "evidence"]
    if plan.outcomes and len(gates) > 1 and units.is_sticky(plan):
        yield (
            f"by outcomes, the gate at {gates[-1]} % counts only units that are first seen at that weight; if few units are new,"
            " use a single weight"
        )


def _describe_missing_evidence(plan: FrozenPlan) -> Iterator[str]:
    """Describe why a promotion may happen without evidence, and which steps pass without it."""
    gates = {step.gate for step in plan.steps}
    if plan.strategy == "canary" and not gates & _DECIDING_GATES and not plan.checks:
        unless = ", unless harm rolls it back" if BAKE in gates else ", whatever the candidate returns"
        yield f"no gate uses evidence: time alone promotes to 100 %{unless}"
        return
    yield from steps_without_evidence.weights_without_evidence(plan)
    yield from (
        f"{each}, so {steps_without_evidence.NO_EVIDENCE_PROMISE}"
        for each in steps_without_evidence.find_exceptions(plan)
    )
