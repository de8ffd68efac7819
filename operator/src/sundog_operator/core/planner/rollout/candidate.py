"""The choice of a candidate and the start of its rollout."""

from dataclasses import replace

from sundog_operator.api import ExperimentStatus, ModelDeploymentSpec, PlanInPlace
from sundog_operator.api.reasons import Cause, EndReason
from sundog_operator.core import events
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.drain import MAX_DRAINING
from sundog_operator.core.planner.experiment import cleanup
from sundog_operator.core.planner.recovery import choose_cluster
from sundog_operator.core.planner.rollout import candidate_placement, dry_run, held_back_revisions, rollback_window
from sundog_operator.core.planner.rollout.outcome import (
    RolloutEnd,
    drop_candidate,
    is_rollback,
    make_last_rollout,
    make_revision_status,
)
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial import phases, replica_counts
from sundog_operator.core.trial.rollout import freeze, state
from sundog_operator.core.trial.rollout.freeze import STEPPED_STRATEGIES


def choose_candidate(context: PlanContext) -> PlanContext:
    """Compare the spec's revision with stable, and start, replace or drop a candidate."""
    spec_revision, candidate, stable = context.spec_revision, context.status.candidate, context.status.stable
    context = context.set(queued=None)
    if spec_revision is None or (candidate is not None and candidate.revision == spec_revision.number):
        return context
    if context.is_held_back(spec_revision.number):
        return _drop_candidate_for_held_back(context, spec_revision)
    if _is_dry_run(context, spec_revision):
        return _report_dry_run(context, spec_revision)
    if stable is not None and stable.revision == spec_revision.number:
        return _return_to_stable(context)
    if context.experiment is not None:
        return _wait_for_experiment(context, spec_revision)
    if candidate is not None and _is_edit_queued(context):
        return context.set(queued=spec_revision.number)
    if candidate is not None:
        end = RolloutEnd.of("Superseded", f"revision {spec_revision.number} replaces it")
        context = drop_candidate(context, end)
    if context.is_giving_back or _is_drain_awaited(context):
        return context.set(queued=spec_revision.number)
    return _start(context, spec_revision)


def _drop_candidate_for_held_back(context: PlanContext, spec_revision: Revision) -> PlanContext:
    """Drop the candidate when an edit goes back to a held-back revision. A rollback by command stays."""
    candidate, is_dry_run = context.status.candidate, context.spec is not None and context.spec.rollout.dry_run
    if candidate is None or is_dry_run or is_rollback(candidate) or _is_edit_queued(context):
        return context
    why = f"the spec is back at revision {spec_revision.number}, which is held back"
    return drop_candidate(context, RolloutEnd.of("Superseded", why))


def _wait_for_experiment(context: PlanContext, spec_revision: Revision) -> PlanContext:
    """Queue a revision while a user's Experiment runs on stable, or stop the Experiment so that it starts in a later pass."""
    spec = context.spec
    if spec is None or context.is_held:
        return context
    if should_stop_experiments(spec):
        placement = candidate_placement.find_placement(context, spec)
        if not placement.fits and not candidate_placement.can_fit_without_arms(context, spec):
            # Do not stop an Experiment for a candidate that does not fit even then.
            return replace(context, capacity_shortage=placement.short).set(kept=())
        why = f"revision {spec_revision.number} rolls out, and spec.rollout.duringExperiment is stop"
        context = cleanup.stop_experiment(context, Cause(EndReason.SUPERSEDED, why))
    return context.set(queued=spec_revision.number)


def should_stop_experiments(spec: ModelDeploymentSpec) -> bool:
    """Whether a new revision stops a user's running Experiment."""
    return spec.rollout.during_experiment == "stop"


def _is_dry_run(context: PlanContext, spec_revision: Revision) -> bool:
    """Whether `dryRun` keeps a rollout from starting, or a candidate from ending."""
    spec, stable, candidate = context.spec, context.stable_number, context.status.candidate
    if spec is None or not spec.rollout.dry_run or stable is None:
        return False
    return stable != spec_revision.number or candidate is not None


def _report_dry_run(context: PlanContext, spec_revision: Revision) -> PlanContext:
    """Set the message of the rollout that would start, or the capacity that it lacks."""
    spec, stable = context.spec, context.stable_number
    if spec is None or stable is None:
        return context
    number, shared, waits = spec_revision.number, None, False
    if stable != number:
        placement = candidate_placement.find_placement(context, spec)
        context = replace(context, capacity_shortage=placement.short)
        if not placement.fits:
            return context
        shared, waits = placement.shared, _is_edit_queued(context)
    return replace(
        context, dry_run_message=dry_run.describe_rollout(context, spec, stable, number, shared, waits=waits)
    )


def _is_edit_queued(context: PlanContext) -> bool:
    """Whether an edit waits for the end of the active rollout. A rollout without a frozen plan has not started."""
    policy = context.spec.rollout.on_new_revision if context.spec else ""
    is_active = context.progress is not None and context.progress.plan.strategy != state.RECREATE
    return policy == "queue" and is_active and not context.is_fast_rollback


def _is_drain_awaited(context: PlanContext) -> bool:
    """Whether the spec's revision waits until draining revisions are gone: all by policy `restart`, or some of too many."""
    if len(context.status.retiring) >= MAX_DRAINING and not context.is_fast_rollback:
        return True
    policy = context.spec.rollout.on_new_revision if context.spec else ""
    is_draining = context.status.stable is not None and bool(context.status.retiring)
    return policy == "restart" and is_draining and not context.is_held and not context.is_fast_rollback


def _return_to_stable(context: PlanContext) -> PlanContext:
    """Drop the candidate, or else release held-back revisions: the spec is back at the stable revision."""
    last = context.status.last_rollout
    if context.status.candidate is not None:
        return drop_candidate(context, RolloutEnd.of("Superseded", "the spec is back at the stable revision"))
    return context.set(held_back=(), last_rollout=None if held_back_revisions.is_failed_rollout(last) else last)


def hold_back(context: PlanContext, reason: str) -> PlanContext:
    """Hold the spec's revision back until a retry, or until the spec was back at stable."""
    number = context.spec_revision.number if context.spec_revision else context.stable_number
    if number is None:
        return context
    last = make_last_rollout(context, number, RolloutEnd.of("RolledBack", reason), "")
    return context.set(held_back=held_back_revisions.add_hold(context.status.held_back, last), last_rollout=last)


def start_rollback(context: PlanContext, target: int) -> PlanContext:
    """Make an earlier revision the candidate, for all traffic at once."""
    return _become_candidate(context, target, context.replicas, brought_back=True)


def _become_candidate(
    context: PlanContext, number: int, replicas: int, shared: PlanInPlace | None = None, *, brought_back: bool = False
) -> PlanContext:
    """Make a revision the candidate, and record where its replicas come from until its plan has that.

    A candidate of another image has another RayCluster. The status then names the RayCluster of each revision.
    """
    cluster = choose_cluster(context, number)
    if cluster != context.status.cluster:
        context = _record_clusters(context)
    candidate = make_revision_status(context, number, replicas)
    return context.set(
        capacity=candidate_placement.make_capacity_status(context.status.capacity, shared, context.replicas),
        cluster=cluster,
        candidate=candidate.model_copy(update={"brought_back": brought_back}),
        retiring=tuple(r for r in context.status.retiring if r.revision != number),
        kept=tuple(r for r in context.status.kept if r.revision != number),
    )


def _record_clusters(context: PlanContext) -> PlanContext:
    """Record the RayCluster of each revision. An empty one means `status.cluster`, which is about to change."""
    before = context.status.cluster
    stable, retiring = context.status.stable, context.status.retiring
    return context.set(
        stable=stable and stable.model_copy(update={"cluster": stable.cluster or before}),
        retiring=tuple(r.model_copy(update={"cluster": r.cluster or before}) for r in retiring),
    )


def _start(context: PlanContext, spec_revision: Revision) -> PlanContext:
    spec, stable = context.spec, context.status.stable
    if spec is None or (stable is not None and context.is_held):
        return context
    if stable is None:
        return _become_candidate(context, spec_revision.number, context.replicas)
    placement = candidate_placement.find_placement(context, spec)
    context = replace(context, capacity_shortage=placement.short)
    if not placement.fits:
        # Warm revisions free capacity, which a later pass finds.
        return context.set(kept=())
    replicas = _first_replicas(context, spec, placement.shared)
    return _become_candidate(context, spec_revision.number, replicas, placement.shared)


def _first_replicas(context: PlanContext, spec: ModelDeploymentSpec, shared: PlanInPlace | None) -> int:
    if shared is not None:
        return 1
    if spec.rollout.strategy not in STEPPED_STRATEGIES or context.is_fast_rollback:
        return context.replicas
    return replica_counts.step_replicas(freeze.plan_steps(spec.rollout)[0], context.replicas)


def ensure_rollout_experiment(context: PlanContext) -> PlanContext:
    """Create the Experiment of a candidate with steps or with notifications, and freeze its plan."""
    candidate, stable = context.status.candidate, context.stable_number
    spec, spec_revision = context.spec, context.spec_revision
    if candidate is None or stable is None or spec is None or spec_revision is None:
        return context
    # A rollback by command has no steps, even if the spec has become that revision meanwhile.
    is_recorded = spec.rollout.strategy in STEPPED_STRATEGIES or bool(spec.rollout.notify)
    has_no_steps = candidate.revision != spec_revision.number or is_rollback(candidate)
    if has_no_steps or (not is_recorded and context.rollout is None):
        return context
    if context.rollout is None:
        context = _find_or_create_attempt(context, spec_revision)
    # The end of the rollout before is committed first: a pass has one commit.
    if context.rollout is not None and context.progress is None and context.commit is None:
        frozen = _freeze(context, spec, stable, candidate.revision)
        attempt = names.rollout_attempt(context.rollout.name)
        plan = frozen.plan.model_copy(update={"attempt": attempt if attempt > 1 else None})
        return context.commit_rollout(frozen.model_copy(update={"plan": plan}))
    return context


def _freeze(context: PlanContext, spec: ModelDeploymentSpec, stable: int, candidate: int) -> ExperimentStatus:
    if spec.rollout.strategy == state.RECREATE and not context.is_fast_rollback:
        why = f"strategy recreate replaces revision {stable} at once"
        return freeze.freeze_without_steps(spec.rollout, stable, candidate, context.now, why, state.RECREATE)
    shared = context.in_place
    if context.is_fast_rollback:
        why = rollback_window.fast_rollback_reason(candidate)
        return freeze.freeze_without_steps(spec.rollout, stable, candidate, context.now, why, shared=shared)
    return freeze.freeze(
        spec.rollout, stable, candidate, context.now, context.traffic_of(stable), context.replicas, shared
    )


def _find_or_create_attempt(context: PlanContext, spec_revision: Revision) -> PlanContext:
    attempts = [rollout for rollout in context.observed.rollouts if rollout.revision == spec_revision.number]
    active = next((rollout for rollout in attempts if not phases.is_over(rollout.status)), None)
    if active is not None:
        return replace(context.set(experiment=active.name), rollout=active)
    number = 1
    while (
        name := names.rollout_experiment(context.service, spec_revision.number, number)
    ) in context.observed.experiment_names:
        number += 1
    started = events.rollout_started(name, spec_revision.number, context.stable_number or 0)
    return replace(context.set(experiment=name), new_attempt=name).report(started)
