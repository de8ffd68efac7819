"""The start of the next user's Experiment, or why it waits."""

from dataclasses import replace
from typing import Final

from sundog_operator.api import CONTROL, ArmRevision, ExperimentStatus, Violation
from sundog_operator.api.reasons import Cause, EndReason, ExperimentReason
from sundog_operator.core import events
from sundog_operator.core.edge.buckets import BUCKETS
from sundog_operator.core.planner import recovery
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.rollout import candidate, candidate_placement, outcome
from sundog_operator.core.trial import replica_counts
from sundog_operator.core.trial.experiment import allocation, arms, freeze, state, transitions
from sundog_operator.core.trial.experiment.queue import UserExperiment, order_waiting
from sundog_operator.core.trial.phases import STOPPED

CONTROL_LOST: Final = Cause(EndReason.SUPERSEDED, "its control revision was lost and is no longer stable")
STOPPED_BY_USER: Final = Cause(EndReason.STOPPED_BY_USER, "spec.stopped is true")


def is_on_stable(context: PlanContext, status: ExperimentStatus) -> bool:
    """Whether the control of an Experiment is stable, by number and content.

    A new ModelDeployment of the same name may use the same numbers again.
    """
    stable, control = context.revision(context.stable_number or 0), state.frozen_comparison(status).arms[0]
    is_same = stable is None or stable.hash == control.hash
    return state.control_revision(status) == context.stable_number and is_same


def set_arms(context: PlanContext, found: list[ArmRevision]) -> PlanContext:
    """Set the arms in the status. Their revisions are then neither warm nor draining."""
    numbers = {arm.revision for arm in found}
    return context.set(
        arms=tuple(found),
        retiring=tuple(each for each in context.status.retiring if each.revision not in numbers),
        kept=tuple(each for each in context.status.kept if each.revision not in numbers),
    )


def make_arm_revision(context: PlanContext, name: str, number: int) -> ArmRevision:
    """Return the status of an arm's revision, with its RayCluster if that is not the service's."""
    cluster = recovery.choose_cluster(context, number)
    revision_status = outcome.make_revision_status(context, number, 1)
    own_cluster = "" if cluster == context.status.cluster else cluster
    return ArmRevision(name=name, **{**dict(revision_status), "cluster": own_cluster})


def start_next_experiment(context: PlanContext) -> PlanContext:
    """Start the arms of the oldest waiting Experiment, once nothing else is active. End those that cannot run any more."""
    blocked = _find_start_blocker(context)
    for experiment in order_waiting(context.observed.user_experiments):
        is_active = context.experiment is not None and experiment.name == context.experiment.name
        if is_active or experiment.name in context.experiment_statuses:
            continue
        acceptance = experiment.acceptance
        if acceptance.spec is None and not acceptance.stopped and not state.is_frozen(experiment.status):
            continue
        if (ending := _find_end(context, experiment)) is not None:
            ended = transitions.end_experiment(experiment.status, STOPPED, ending, context.now)
            context = context.commit_experiment(experiment.name, ended)
            continue
        waits = find_refusal(context, experiment) or blocked
        if waits is None and (waits := _find_shortage(context, experiment)) is not None:
            # A newer Experiment must not take the capacity that this one waits for.
            blocked = Cause(ExperimentReason.QUEUED, f"waits for Experiment {experiment.name}, which is older")
        if context.experiment is None and waits is None and not state.has_begun(experiment.status):
            context = _start_arms(context, experiment)
        else:
            queued = Cause(ExperimentReason.QUEUED, f"waits for Experiment {context.status.experiment}")
            waiting = {**context.experiment_waits, experiment.name: waits or queued}
            context = replace(context, experiment_waits=waiting)
    return context


def _find_end(context: PlanContext, experiment: UserExperiment) -> Cause | None:
    """Return why an inactive Experiment ends: its control was lost, or a user stopped it."""
    has_begun = state.has_begun(experiment.status)
    if has_begun and context.stable_number is not None and not is_on_stable(context, experiment.status):
        # Its counters belong to this plan. With another plan they would be evidence of other revisions.
        return CONTROL_LOST
    return STOPPED_BY_USER if experiment.acceptance.stopped else None


def _find_start_blocker(context: PlanContext) -> Cause | None:
    """Return what must happen before any Experiment can start; None if the next one can."""
    status, service = context.status, f"ModelDeployment {context.service}"
    # At zero, the Experiment itself starts stable's replica.
    if status.stable is None or not (context.available(status.stable.revision) or context.is_at_zero):
        return Cause(ExperimentReason.WAITS_FOR_MODEL_DEPLOYMENT, f"waits until {service} serves")
    if context.spec is None:
        return Cause(ExperimentReason.WAITS_FOR_MODEL_DEPLOYMENT, f"waits until the spec of {service} is accepted")
    if context.experiment is not None:
        return Cause(ExperimentReason.QUEUED, f"waits until Experiment {context.experiment.name} has ended")
    if status.candidate is not None or status.queued is not None or context.rollout is not None:
        number = status.candidate.revision if status.candidate else status.queued
        return Cause(ExperimentReason.QUEUED, f"waits until the rollout of revision {number} has ended")
    if (
        context.capacity_shortage is not None
        and context.spec_revision is not None
        and not context.is_held
        and candidate.should_stop_experiments(context.spec)
    ):
        return Cause(
            ExperimentReason.QUEUED, f"waits until there is capacity for revision {context.spec_revision.number}"
        )
    if context.spec.paused:
        return Cause(ExperimentReason.WAITS_FOR_MODEL_DEPLOYMENT, f"waits while spec.paused of {service} is true")
    if status.retiring:
        draining = ", ".join(str(each.revision) for each in status.retiring)
        return Cause(ExperimentReason.QUEUED, f"waits until the replicas of revision {draining} are gone")
    if context.new_revisions or context.new_attempt or context.commit is not None or context.experiment_statuses:
        return Cause(ExperimentReason.QUEUED, f"waits for {service}")
    return None


def find_refusal(context: PlanContext, experiment: UserExperiment) -> Cause | None:
    """Return why an Experiment is refused, whatever else is active; else None."""
    spec, stable = experiment.acceptance.spec, context.revision(context.stable_number or 0)
    if spec is None:
        return Cause(experiment.acceptance.reason, experiment.acceptance.message)
    violations = arms.find_experiment_violations(stable, spec, context.spec, context.observed.installation)
    return Cause(refusal_reason(violations[0]), "; ".join(map(str, violations))) if violations else None


def refusal_reason(violation: Violation) -> ExperimentReason:
    """Return the reason for which an Experiment with this violation is refused."""
    return ExperimentReason.NOT_YET_SUPPORTED if violation.is_unsupported else ExperimentReason.INVALID_SPEC


def _start_arms(context: PlanContext, experiment: UserExperiment) -> PlanContext:
    """Freeze the plan of an Experiment, and start its arms."""
    spec, rollout = experiment.acceptance.spec, context.spec.rollout if context.spec else None
    stable = context.revision(context.stable_number or 0)
    if spec is None or rollout is None or stable is None:
        return context
    planned = []
    for arm in arms.plan_arms(stable, spec):
        context, revision = recovery.ensure_revision(context, arm.hash, arm.content, arm.image)
        planned.append((arm, revision.number))
    traffic = context.traffic_of(stable.number)
    frozen = freeze.freeze(spec, rollout, (stable.number, stable.hash), planned, traffic, context.now)
    frozen = frozen.model_copy(update={"conditions": experiment.status.conditions})
    context = replace(context.commit_experiment(experiment.name, frozen), experiment=experiment)
    context = context.set(experiment=experiment.name)
    started = events.experiment_started(
        experiment.name, experiment.uid, [arm.name for arm, _ in planned], stable.number
    )
    return set_arms(context, [make_arm_revision(context, arm.name, number) for arm, number in planned]).report(started)


def _find_shortage(context: PlanContext, experiment: UserExperiment) -> Cause | None:
    """Return the shortage if the pods of the arms must wait for capacity beside the running ones; else None."""
    spec, stable = experiment.acceptance.spec, context.revision(context.stable_number or 0)
    if spec is None or stable is None:
        return None
    shares = arms.planned_buckets(spec)
    is_adaptive = allocation.freeze_allocation(spec.allocation, spec.stop.max_duration) is not None
    exposed = sum(shares.values())
    stable_share = BUCKETS - exposed + shares[CONTROL]
    replicas = {
        arm.name: replica_counts.arm_replicas(
            context.replicas, exposed if is_adaptive else shares[arm.name], stable_share
        )
        for arm in spec.arms
    }
    capacities = {arm: free for (name, arm), free in context.observed.arm_capacities.items() if name == experiment.name}
    serving = context.status.stable
    missing = (0, 0)
    if serving is not None and context.is_at_zero:
        # The Experiment also starts stable's replica.
        missing = candidate_placement.count_missing_pods(context, serving)
    return arms.find_arm_shortage(stable, spec, capacities, replicas, context.observed.installation, missing)
