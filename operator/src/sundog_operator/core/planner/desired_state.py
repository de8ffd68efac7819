"""What follows from statuses alone: which revisions a cluster runs and how the edges split. Nothing else may decide either."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sundog_operator.api import DrainingRevision, ExperimentStatus, ModelDeploymentStatus, PlanGuardrail, RevisionStatus
from sundog_operator.core.edge import split as edge_split
from sundog_operator.core.edge import units
from sundog_operator.core.edge.split import Split, SplitArm, SplitFeedback
from sundog_operator.core.experiments import state as experiment_state
from sundog_operator.core.kubernetes import names
from sundog_operator.core.rollout import header_match, resolve, shadow_comparison
from sundog_operator.core.rollout import state as rollout_state


def live_revisions(status: ModelDeploymentStatus) -> dict[int, int]:
    """Replicas wanted of each revision that must be deployed.

    A candidate or an arm that waits for its next attempt is left out, which clears what Serve remembers of the failed one. Revisions
    without traffic keep running until every edge has let go of them, and those that are kept warm for longer.
    """
    live = {each.revision: max(each.replicas, 1) for each in (*status.kept, *status.retiring)}
    if status.candidate is not None and status.candidate.retry_at is None:
        live[status.candidate.revision] = status.candidate.replicas
    live |= {arm.revision: max(arm.replicas, 1) for arm in status.arms or () if arm.retry_at is None}
    if status.stable is not None:
        live[status.stable.revision] = status.stable.replicas
    return live


def revisions_in_status(status: ModelDeploymentStatus) -> list[RevisionStatus | DrainingRevision]:
    """What the status tells of each of its revisions."""
    found: list[RevisionStatus | DrainingRevision] = [*status.kept, *status.retiring, *(status.arms or ())]
    found += [each for each in (status.candidate, status.stable) if each is not None]
    return found


def clusters_by_revision(status: ModelDeploymentStatus) -> dict[int, str]:
    """The RayCluster of each revision that the status tells of, deployed or not."""
    return {each.revision: each.cluster or status.cluster for each in revisions_in_status(status)}


def needed_clusters(status: ModelDeploymentStatus) -> frozenset[str]:
    """Every RayCluster that the status needs: that of a revision yet to come included."""
    return frozenset(filter(None, (status.cluster, *clusters_by_revision(status).values())))


def desired_split(
    deployment: Mapping[str, Any], status: ModelDeploymentStatus, uid: str, rollout: ExperimentStatus | None
) -> Split | None:
    """The split that the edges of a ModelDeployment should have in force; None while nothing is ready to serve.

    `status` is what becomes of its own, `uid` that of the Experiment: it keys the counters, and salts the assignment where the plan has no
    salt. `rollout` is the status of the Experiment that `status.experiment` names, a rollout's or one of a user's own, None where there is
    none.
    """
    if status.stable is None:
        return None
    own = rollout is not None and experiment_state.is_frozen(rollout)
    if rollout is None or not (own or rollout_state.is_frozen(rollout)):
        followed = status.candidate.revision if status.candidate else None
        meta = deployment["metadata"]
        return _placed(
            edge_split.make_stable_split(meta["name"], meta["uid"], status.stable.revision, followed), status
        )
    plan = rollout.plan
    slow = _slow_us(plan.guardrails)
    choosable = rollout.phase == rollout_state.RUNNING if own else _may_be_chosen(status, rollout)
    arms = tuple(
        SplitArm(
            name=arm.name,
            revision=arm.revision or 0,
            weight=arm.weight,
            ranges=tuple((a, b) for a, b in arm.ranges),
            slow_us=slow[arm.name in names.STABLE_ARMS],
            choosable=choosable,
        )
        for arm in rollout.arms
        if arm.dropped is None
    )
    split = Split(
        attempt=uid,
        salt=plan.salt or uid,
        epoch=rollout.epoch.number,
        arms=arms,
        unit=units.frozen_unit(plan),
        shadow=shadow_comparison.active_shadow(rollout),
        headers=header_match.active_headers(rollout),
        feedback=_feedback(rollout) if own else None,
    )
    return _placed(split, status)


def _may_be_chosen(status: ModelDeploymentStatus, rollout: ExperimentStatus) -> bool:
    """Whether overrides may lead to the candidate. One that is to be started anew has to leave Serve's document for that."""
    waits = status.candidate is not None and status.candidate.retry_at is not None
    return rollout_state.can_be_selected(rollout) and not waits


def _feedback(status: ExperimentStatus) -> SplitFeedback | None:
    """The outcomes that are taken, from the end of the warm-up on: a unit counts where it is first seen, which is to be evidence."""
    outcomes = experiment_state.frozen_comparison(status).outcomes
    if not outcomes or not status.evidence_epochs or rollout_state.is_over(status):
        return None
    names_of = tuple(dict.fromkeys(each.feedback for each in outcomes))
    return SplitFeedback(names_of, experiment_state.max_first_exposures(status))


def _slow_us(guardrails: Sequence[PlanGuardrail]) -> dict[bool, tuple[int, ...]]:
    """From how long on an answer is a slow one, by each latency that is compared: of stable's arms (True), and of others."""
    known = [
        (each.threshold_microseconds, each.candidate_threshold_microseconds)
        for each in resolve.latency_guardrails(guardrails)
    ]
    both = [(own, others) for own, others in known if own is not None and others is not None]
    # One that is not known yet must not have the place of the next.
    both = both if len(both) == len(known) else []
    return {True: tuple(own for own, _ in both), False: tuple(others for _, others in both)}


def _placed(split: Split, status: ModelDeploymentStatus) -> Split:
    """The split with the RayCluster of each arm that has another one than the service."""
    where = clusters_by_revision(status)
    arms = tuple(
        replace(arm, cluster=place) if (place := where.get(arm.revision, status.cluster)) != status.cluster else arm
        for arm in split.arms
    )
    return replace(split, arms=arms)


def find_active_experiment(
    status: ModelDeploymentStatus, experiments: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ExperimentStatus | None]:
    """(uid, status) of the Experiment that a ModelDeployment's status names, out of those stored by name."""
    obj = experiments.get(status.experiment)
    if obj is None:
        return "", None
    return str(obj["metadata"]["uid"]), ExperimentStatus.parse(obj.get("status"))
