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


def choose_candidate(draft: PlanContext) -> None:
    """Compare what the spec wants with what serves, and start, replace or drop a candidate."""
    wanted, candidate, stable = draft.wanted, draft.status.candidate, draft.status.stable
    draft.set(queued=None)
    if wanted is None or (candidate is not None and candidate.revision == wanted.number):
        return
    if draft.is_held_back(wanted.number):
        _leave_held_back(draft, wanted)
        return
    if _rehearses(draft, wanted):
        return
    if stable is not None and stable.revision == wanted.number:
        _return_to_stable(draft)
        return
    if draft.own is not None:
        _wait_for_experiment(draft, wanted)
        return
    if candidate is not None and _outlasts_edits(draft):
        draft.set(queued=wanted.number)
        return
    if candidate is not None:
        drop_candidate(draft, "Superseded", f"revision {wanted.number} is wanted now")
    if draft.is_giving_back or _waits_for_room(draft):
        draft.set(queued=wanted.number)
        return
    _start(draft, wanted)


def _leave_held_back(draft: PlanContext, wanted: Revision) -> None:
    """The spec is back at a revision that is held back: nothing else is wanted, but what a command brings back."""
    candidate, rehearses = draft.status.candidate, draft.spec is not None and draft.spec.rollout.dry_run
    if candidate is None or rehearses or is_rollback(draft, candidate) or _outlasts_edits(draft):
        return
    drop_candidate(draft, "Superseded", f"revision {wanted.number} is wanted now, which is held back")


def _wait_for_experiment(draft: PlanContext, wanted: Revision) -> None:
    """An Experiment of a user's own runs on stable: what is to replace that waits, or ends it first and begins at a next pass."""
    spec = draft.spec
    if spec is None or draft.held:
        return
    if should_stop_experiments(spec):
        if _finds_no_room(draft, spec) and not candidate_placement.can_fit_without_arms(draft, spec):
            # What finds no place all the same ends none for it.
            draft.set(kept=())
            return
        draft.capacity_shortage = None
        cleanup.stop_experiment(
            draft, "Superseded", f"revision {wanted.number} is wanted now, and spec.rollout.duringExperiment is stop"
        )
    draft.set(queued=wanted.number)


def should_stop_experiments(spec: ModelDeploymentSpec) -> bool:
    """Whether an Experiment of a user that runs is ended for a revision that is wanted."""
    return spec.rollout.during_experiment == "stop"


def _rehearses(draft: PlanContext, wanted: Revision) -> bool:
    """Tell what would begin or end, where the spec asks for no more."""
    spec, stable, candidate = draft.spec, draft.stable_number, draft.status.candidate
    if spec is None or not spec.rollout.dry_run or stable is None or (stable == wanted.number and candidate is None):
        return False
    if stable == wanted.number or not _finds_no_room(draft, spec):
        waits = stable != wanted.number and _outlasts_edits(draft)
        draft.dry_run_message = dry_run.describe_rollout(draft, spec, stable, wanted.number, waits=waits)
    return True


def _outlasts_edits(draft: PlanContext) -> bool:
    """Whether what is under way may end before what the spec stands for begins. Without a plan nothing has begun."""
    policy = draft.spec.rollout.on_new_revision if draft.spec else ""
    under_way = draft.progress is not None and draft.progress.plan.strategy != state.RECREATE
    return policy == "queue" and under_way and not draft.is_fast_rollback


def _waits_for_room(draft: PlanContext) -> bool:
    """Whether what the spec stands for begins only once the replicas of all but stable are gone, or of some of very many."""
    if len(draft.status.retiring) >= MAX_DRAINING and not draft.is_fast_rollback:
        return True
    policy = draft.spec.rollout.on_new_revision if draft.spec else ""
    drains = draft.status.stable is not None and bool(draft.status.retiring)
    return policy == "restart" and drains and not draft.held and not draft.is_fast_rollback


def _return_to_stable(draft: PlanContext) -> None:
    """The spec stands for what serves already: a candidate is not wanted any more, and an earlier failure is history."""
    last = draft.status.last_rollout
    if draft.status.candidate is not None:
        drop_candidate(draft, "Superseded", "the spec is back at the stable revision")
    else:
        draft.set(held_back=(), last_rollout=None if held_back_revisions.is_failed_rollout(last) else last)


def hold_back(draft: PlanContext, reason: str) -> None:
    """Do not roll out what the spec stands for before it is retried, or was at what is stable."""
    number = draft.wanted.number if draft.wanted else draft.stable_number
    if number is not None:
        last = make_last_rollout(draft, number, "RolledBack", reason, "")
        draft.set(held_back=held_back_revisions.add_hold(draft.status.held_back, last), last_rollout=last)


def start_rollback(draft: PlanContext, target: int) -> None:
    """Bring an earlier revision up for all traffic at once."""
    _become_candidate(draft, target, draft.replicas, brought_back=True)


def _become_candidate(
    draft: PlanContext, number: int, replicas: int, shared: PlanInPlace | None = None, *, brought_back: bool = False
) -> None:
    """A candidate of another image has another RayCluster: the status then names each revision's own.

    With it the status says where its replicas come from, until its plan does.
    """
    place = desired_state.clusters_by_revision(draft.status).get(number) or choose_cluster(draft, number)
    if place != draft.status.cluster:
        _name_clusters(draft)
    candidate = make_revision_status(draft, number, replicas)
    draft.set(
        capacity=candidate_placement.make_capacity_status(draft.status.capacity, shared, draft.replicas),
        cluster=place,
        candidate=candidate.model_copy(update={"brought_back": brought_back}),
        retiring=tuple(r for r in draft.status.retiring if r.revision != number),
        kept=tuple(r for r in draft.status.kept if r.revision != number),
    )


def _name_clusters(draft: PlanContext) -> None:
    """Write down where every revision is, before `status.cluster`, which an empty one stands for, means another."""
    before = draft.status.cluster
    stable, retiring = draft.status.stable, draft.status.retiring
    draft.set(
        stable=stable and stable.model_copy(update={"cluster": stable.cluster or before}),
        retiring=tuple(r.model_copy(update={"cluster": r.cluster or before}) for r in retiring),
    )


def _start(draft: PlanContext, wanted: Revision) -> None:
    spec, stable = draft.spec, draft.status.stable
    if spec is None or (stable is not None and draft.held):
        return
    if stable is not None and _finds_no_room(draft, spec):
        # What is only kept gives way: its room is found at the next looks.
        draft.set(kept=())
        return
    replicas = _first_replicas(draft, spec) if stable else draft.replicas
    _become_candidate(draft, wanted.number, replicas, draft.shared)


def _finds_no_room(draft: PlanContext, spec: ModelDeploymentSpec) -> bool:
    """Whether a candidate's pods would find no place: beside what runs, or in the place of stable's."""
    place = candidate_placement.find_placement(draft, spec)
    draft.capacity_shortage, draft.shared = place.short, place.shared
    return not place.fits


def _first_replicas(draft: PlanContext, spec: ModelDeploymentSpec) -> int:
    if draft.shared is not None:
        return 1
    if spec.rollout.strategy not in STEPPED_STRATEGIES or draft.is_fast_rollback:
        return draft.replicas
    return replica_counts.step_replicas(freeze.plan_steps(spec.rollout)[0], draft.replicas)


def ensure_rollout_experiment(draft: PlanContext) -> None:
    """Give a candidate with steps its Experiment, and whatever others are to be told of; and the Experiment its frozen plan."""
    candidate, stable, spec, wanted = draft.status.candidate, draft.stable_number, draft.spec, draft.wanted
    if candidate is None or stable is None or spec is None or wanted is None:
        return
    # What a command brings back has no steps, also where the spec has come to stand for it meanwhile.
    recorded = spec.rollout.strategy in STEPPED_STRATEGIES or bool(spec.rollout.notify)
    stepless = candidate.revision != wanted.number or is_rollback(draft, candidate)
    if stepless or (not recorded and draft.rollout is None):
        return
    if draft.rollout is None:
        draft.rollout = _attempt(draft, wanted)
    # What ends the rollout before is written first: of one pass no second commit is.
    if draft.rollout is not None and draft.progress is None and draft.commit is None:
        draft.commit_rollout(_frozen(draft, spec, stable, candidate.revision))


def _frozen(draft: PlanContext, spec: ModelDeploymentSpec, stable: int, candidate: int) -> ExperimentStatus:
    if spec.rollout.strategy == state.RECREATE and not draft.is_fast_rollback:
        why = f"replaces revision {stable} at once, as strategy recreate has it"
        return freeze.freeze_without_steps(spec.rollout, stable, candidate, draft.now, why, state.RECREATE)
    shared = draft.in_place
    if draft.is_fast_rollback:
        why = rollback_window.fast_rollback_reason(candidate)
        return freeze.freeze_without_steps(spec.rollout, stable, candidate, draft.now, why, shared=shared)
    return freeze.freeze(spec.rollout, stable, candidate, draft.now, draft.traffic_of(stable), draft.replicas, shared)


def _attempt(draft: PlanContext, wanted: Revision) -> RolloutAttempt | None:
    mine = [rollout for rollout in draft.seen.rollouts if rollout.revision == wanted.number]
    open_one = next((rollout for rollout in mine if not state.is_over(rollout.status)), None)
    if open_one is not None:
        draft.set(experiment=open_one.name)
        return open_one
    number = 1
    while (name := names.rollout_experiment(draft.service, wanted.number, number)) in draft.seen.experiment_names:
        number += 1
    draft.objects_to_create.append(freeze.make_experiment(draft.seen.deployment, wanted, name))
    draft.set(experiment=name)
    draft.events.append(events.rollout_started(name, wanted.number, draft.stable_number or 0))
    return None
