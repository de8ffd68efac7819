"""Which revision is stable, which one is the candidate, and which ones may go."""

from sundog_operator.api import (
    ExperimentStatus,
    ModelDeploymentSpec,
    PlanInPlace,
)
from sundog_operator.core import events
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import (
    candidate_placement,
    desired_state,
    dry_run,
    held_back_revisions,
    rollback_window,
)
from sundog_operator.core.planner.context import PlanContext, RolloutAttempt
from sundog_operator.core.planner.drain import MAX_DRAINING
from sundog_operator.core.planner.experiment import cleanup
from sundog_operator.core.planner.outcome import drop_candidate, is_rollback, make_last_rollout, make_revision_status
from sundog_operator.core.planner.recovery import choose_cluster
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout import freeze, replica_counts, state
from sundog_operator.core.rollout.freeze import STEPPED_STRATEGIES


def choose_candidate(context: PlanContext) -> None:
    """Compare what the spec wants with what serves, and start, replace or drop a candidate."""
    wanted, candidate, stable = context.wanted, context.status.candidate, context.status.stable
    context.set(queued=None)
    if wanted is None or (candidate is not None and candidate.revision == wanted.number):
        return
    if context.is_held_back(wanted.number):
        _leave_held_back(context, wanted)
        return
    if _rehearses(context, wanted):
        return
    if stable is not None and stable.revision == wanted.number:
        _return_to_stable(context)
        return
    if context.experiment is not None:
        _wait_for_experiment(context, wanted)
        return
    if candidate is not None and _outlasts_edits(context):
        context.set(queued=wanted.number)
        return
    if candidate is not None:
        drop_candidate(context, "Superseded", f"revision {wanted.number} is wanted now")
    if context.is_giving_back or _waits_for_room(context):
        context.set(queued=wanted.number)
        return
    _start(context, wanted)


def _leave_held_back(context: PlanContext, wanted: Revision) -> None:
    """The spec is back at a revision that is held back: nothing else is wanted, but what a command brings back."""
    candidate, rehearses = context.status.candidate, context.spec is not None and context.spec.rollout.dry_run
    if candidate is None or rehearses or is_rollback(context, candidate) or _outlasts_edits(context):
        return
    drop_candidate(context, "Superseded", f"revision {wanted.number} is wanted now, which is held back")


def _wait_for_experiment(context: PlanContext, wanted: Revision) -> None:
    """An Experiment of a user's own runs on stable: what is to replace that waits, or ends it first and begins at a next pass."""
    spec = context.spec
    if spec is None or context.is_held:
        return
    if should_stop_experiments(spec):
        if _finds_no_room(context, spec) and not candidate_placement.can_fit_without_arms(context, spec):
            # What finds no place all the same ends none for it.
            context.set(kept=())
            return
        context.capacity_shortage = None
        cleanup.stop_experiment(
            context, "Superseded", f"revision {wanted.number} is wanted now, and spec.rollout.duringExperiment is stop"
        )
    context.set(queued=wanted.number)


def should_stop_experiments(spec: ModelDeploymentSpec) -> bool:
    """Whether an Experiment of a user that runs is ended for a revision that is wanted."""
    return spec.rollout.during_experiment == "stop"


def _rehearses(context: PlanContext, wanted: Revision) -> bool:
    """Tell what would begin or end, where the spec asks for no more."""
    spec, stable, candidate = context.spec, context.stable_number, context.status.candidate
    if spec is None or not spec.rollout.dry_run or stable is None or (stable == wanted.number and candidate is None):
        return False
    if stable == wanted.number or not _finds_no_room(context, spec):
        waits = stable != wanted.number and _outlasts_edits(context)
        context.dry_run_message = dry_run.describe_rollout(context, spec, stable, wanted.number, waits=waits)
    return True


def _outlasts_edits(context: PlanContext) -> bool:
    """Whether what is under way may end before what the spec stands for begins. Without a plan nothing has begun."""
    policy = context.spec.rollout.on_new_revision if context.spec else ""
    under_way = context.progress is not None and context.progress.plan.strategy != state.RECREATE
    return policy == "queue" and under_way and not context.is_fast_rollback


def _waits_for_room(context: PlanContext) -> bool:
    """Whether what the spec stands for begins only once the replicas of all but stable are gone, or of some of very many."""
    if len(context.status.retiring) >= MAX_DRAINING and not context.is_fast_rollback:
        return True
    policy = context.spec.rollout.on_new_revision if context.spec else ""
    drains = context.status.stable is not None and bool(context.status.retiring)
    return policy == "restart" and drains and not context.is_held and not context.is_fast_rollback


def _return_to_stable(context: PlanContext) -> None:
    """The spec stands for what serves already: a candidate is not wanted any more, and an earlier failure is history."""
    last = context.status.last_rollout
    if context.status.candidate is not None:
        drop_candidate(context, "Superseded", "the spec is back at the stable revision")
    else:
        context.set(held_back=(), last_rollout=None if held_back_revisions.is_failed_rollout(last) else last)


def hold_back(context: PlanContext, reason: str) -> None:
    """Do not roll out what the spec stands for before it is retried, or was at what is stable."""
    number = context.wanted.number if context.wanted else context.stable_number
    if number is not None:
        last = make_last_rollout(context, number, "RolledBack", reason, "")
        context.set(held_back=held_back_revisions.add_hold(context.status.held_back, last), last_rollout=last)


def start_rollback(context: PlanContext, target: int) -> None:
    """Bring an earlier revision up for all traffic at once."""
    _become_candidate(context, target, context.replicas, brought_back=True)


def _become_candidate(
    context: PlanContext, number: int, replicas: int, shared: PlanInPlace | None = None, *, brought_back: bool = False
) -> None:
    """A candidate of another image has another RayCluster: the status then names each revision's own.

    With it the status says where its replicas come from, until its plan does.
    """
    place = desired_state.clusters_by_revision(context.status).get(number) or choose_cluster(context, number)
    if place != context.status.cluster:
        _name_clusters(context)
    candidate = make_revision_status(context, number, replicas)
    context.set(
        capacity=candidate_placement.make_capacity_status(context.status.capacity, shared, context.replicas),
        cluster=place,
        candidate=candidate.model_copy(update={"brought_back": brought_back}),
        retiring=tuple(r for r in context.status.retiring if r.revision != number),
        kept=tuple(r for r in context.status.kept if r.revision != number),
    )


def _name_clusters(context: PlanContext) -> None:
    """Write down where every revision is, before `status.cluster`, which an empty one stands for, means another."""
    before = context.status.cluster
    stable, retiring = context.status.stable, context.status.retiring
    context.set(
        stable=stable and stable.model_copy(update={"cluster": stable.cluster or before}),
        retiring=tuple(r.model_copy(update={"cluster": r.cluster or before}) for r in retiring),
    )


def _start(context: PlanContext, wanted: Revision) -> None:
    spec, stable = context.spec, context.status.stable
    if spec is None or (stable is not None and context.is_held):
        return
    if stable is not None and _finds_no_room(context, spec):
        # What is only kept gives way: its room is found at the next looks.
        context.set(kept=())
        return
    replicas = _first_replicas(context, spec) if stable else context.replicas
    _become_candidate(context, wanted.number, replicas, context.shared)


def _finds_no_room(context: PlanContext, spec: ModelDeploymentSpec) -> bool:
    """Whether a candidate's pods would find no place: beside what runs, or in the place of stable's."""
    place = candidate_placement.find_placement(context, spec)
    context.capacity_shortage, context.shared = place.short, place.shared
    return not place.fits


def _first_replicas(context: PlanContext, spec: ModelDeploymentSpec) -> int:
    if context.shared is not None:
        return 1
    if spec.rollout.strategy not in STEPPED_STRATEGIES or context.is_fast_rollback:
        return context.replicas
    return replica_counts.step_replicas(freeze.plan_steps(spec.rollout)[0], context.replicas)


def ensure_rollout_experiment(context: PlanContext) -> None:
    """Give a candidate with steps its Experiment, and whatever others are to be told of; and the Experiment its frozen plan."""
    candidate, stable, spec, wanted = context.status.candidate, context.stable_number, context.spec, context.wanted
    if candidate is None or stable is None or spec is None or wanted is None:
        return
    # What a command brings back has no steps, also where the spec has come to stand for it meanwhile.
    recorded = spec.rollout.strategy in STEPPED_STRATEGIES or bool(spec.rollout.notify)
    stepless = candidate.revision != wanted.number or is_rollback(context, candidate)
    if stepless or (not recorded and context.rollout is None):
        return
    if context.rollout is None:
        context.rollout = _attempt(context, wanted)
    # What ends the rollout before is written first: of one pass no second commit is.
    if context.rollout is not None and context.progress is None and context.commit is None:
        context.commit_rollout(_frozen(context, spec, stable, candidate.revision))


def _frozen(context: PlanContext, spec: ModelDeploymentSpec, stable: int, candidate: int) -> ExperimentStatus:
    if spec.rollout.strategy == state.RECREATE and not context.is_fast_rollback:
        why = f"replaces revision {stable} at once, as strategy recreate has it"
        return freeze.freeze_without_steps(spec.rollout, stable, candidate, context.now, why, state.RECREATE)
    shared = context.in_place
    if context.is_fast_rollback:
        why = rollback_window.fast_rollback_reason(candidate)
        return freeze.freeze_without_steps(spec.rollout, stable, candidate, context.now, why, shared=shared)
    return freeze.freeze(
        spec.rollout, stable, candidate, context.now, context.traffic_of(stable), context.replicas, shared
    )


def _attempt(context: PlanContext, wanted: Revision) -> RolloutAttempt | None:
    mine = [rollout for rollout in context.observed.rollouts if rollout.revision == wanted.number]
    open_one = next((rollout for rollout in mine if not state.is_over(rollout.status)), None)
    if open_one is not None:
        context.set(experiment=open_one.name)
        return open_one
    number = 1
    while (
        name := names.rollout_experiment(context.service, wanted.number, number)
    ) in context.observed.experiment_names:
        number += 1
    context.objects_to_create.append(freeze.make_experiment(context.observed.deployment, wanted, name))
    context.set(experiment=name)
    context.events.append(events.rollout_started(name, wanted.number, context.stable_number or 0))
    return None
