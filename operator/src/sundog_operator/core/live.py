"""What follows from statuses alone: which revisions a cluster runs and how the edges split. Nothing else may decide either."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus, Retiring, RevisionStatus
from sundog_operator.core import names, traffic, units
from sundog_operator.core.rollout import machine
from sundog_operator.core.traffic import Arm, Split


def live_revisions(status: ModelDeploymentStatus) -> dict[int, int]:
    """Replicas wanted of each revision that must be deployed.

    A candidate that waits for its next attempt is left out, which clears what Serve remembers of the failed one. Revisions without traffic
    keep running until every edge has let go of them, and those that are kept warm for longer.
    """
    live = {each.revision: max(each.replicas, 1) for each in (*status.kept, *status.retiring)}
    if status.candidate is not None and status.candidate.retry_at is None:
        live[status.candidate.revision] = status.candidate.replicas
    if status.stable is not None:
        live[status.stable.revision] = status.stable.replicas
    return live


def told(status: ModelDeploymentStatus) -> list[RevisionStatus | Retiring]:
    """What the status tells of each of its revisions."""
    found: list[RevisionStatus | Retiring] = [*status.kept, *status.retiring]
    found += [each for each in (status.candidate, status.stable) if each is not None]
    return found


def places(status: ModelDeploymentStatus) -> dict[int, str]:
    """The RayCluster of each revision that the status tells of, deployed or not."""
    return {each.revision: each.cluster or status.cluster for each in told(status)}


def clusters(status: ModelDeploymentStatus) -> frozenset[str]:
    """Every RayCluster that the status needs: that of a revision yet to come included."""
    return frozenset(filter(None, (status.cluster, *places(status).values())))


def split_of(service: str, status: ModelDeploymentStatus, uid: str, rollout: ExperimentStatus | None) -> Split | None:
    """The split that the edges should have in force; None while nothing is ready to serve.

    `uid` is that of the rollout's Experiment: it keys the counters, and salts the assignment where the plan has no salt. `rollout` is
    the status of the Experiment that `status.experiment` names, None where there is none.
    """
    if status.stable is None:
        return None
    if rollout is None or not machine.is_frozen(rollout):
        followed = status.candidate.revision if status.candidate else None
        return _placed(traffic.whole(service, status.stable.revision, followed), status)
    slow = _slow_us(rollout)
    arms = tuple(
        Arm(
            name=arm.name,
            revision=arm.revision or 0,
            weight=arm.weight,
            ranges=tuple((a, b) for a, b in arm.ranges),
            slow_us=slow.get(arm.name),
        )
        for arm in rollout.arms
    )
    plan = rollout.plan
    split = Split(attempt=uid, salt=plan.salt or uid, epoch=rollout.epoch.number, arms=arms, unit=units.frozen_in(plan))
    return _placed(split, status)


def _slow_us(rollout: ExperimentStatus) -> dict[str, int | None]:
    """From how long on an answer of each arm is a slow one, where a latency is compared."""
    for guardrail in rollout.plan.guardrails:
        if guardrail.threshold_microseconds is not None:
            return {
                names.STABLE: guardrail.threshold_microseconds,
                names.CANARY: guardrail.candidate_threshold_microseconds,
            }
    return {}


def _placed(split: Split, status: ModelDeploymentStatus) -> Split:
    """The split with the RayCluster of each arm that has another one than the service."""
    where = places(status)
    arms = tuple(
        replace(arm, cluster=place) if (place := where.get(arm.revision, status.cluster)) != status.cluster else arm
        for arm in split.arms
    )
    return replace(split, arms=arms)


def rollout_of(
    status: ModelDeploymentStatus, experiments: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ExperimentStatus | None]:
    """(uid, status) of the Experiment that a ModelDeployment's status names, out of those stored by name."""
    obj = experiments.get(status.experiment)
    if obj is None:
        return "", None
    return str(obj["metadata"]["uid"]), ExperimentStatus.parse(obj.get("status"))
