"""Desired state that follows from statuses alone: the live revisions and the split. Nothing else may decide them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sundog_operator.api import (
    DrainingRevision,
    ExperimentStatus,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    PlanGuardrail,
    RevisionStatus,
)
from sundog_operator.core import revisions
from sundog_operator.core.analysis import feedback
from sundog_operator.core.edge import split_document, units
from sundog_operator.core.edge.split import Split, SplitArm, SplitFeedback, make_stable_split
from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.shared_pods import is_shared
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial import default_plan, phases
from sundog_operator.core.trial.experiment import state as experiment_state
from sundog_operator.core.trial.rollout import header_match, shadow_comparison
from sundog_operator.core.trial.rollout import state as rollout_state


def live_revisions(status: ModelDeploymentStatus) -> dict[int, int]:
    """Return the desired replicas of each revision that must be deployed.

    A candidate or an arm that waits for its next attempt is left out, so that Serve forgets the failed attempt. Revisions
    without traffic run until every edge has released them, and warm ones longer.
    """
    live = {each.revision: max(each.replicas, 1) for each in (*status.kept, *status.retiring)}
    if status.candidate is not None and status.candidate.retry_at is None:
        live[status.candidate.revision] = status.candidate.replicas
    live |= {arm.revision: max(arm.replicas, 1) for arm in status.arms or () if arm.retry_at is None}
    if status.stable is not None:
        live[status.stable.revision] = status.stable.replicas
    return live


def find_shared_places(status: ModelDeploymentStatus, known: Iterable[Revision]) -> dict[int, str]:
    """Return the RayCluster of each live revision whose replicas run in shared pods, by its number. `known` are all of its revisions."""
    live, places = live_revisions(status), clusters_by_revision(status)
    shared = sorted(each.number for each in known if each.number in live and is_shared(revisions.spec_of(each)))
    return {number: places[number] for number in shared}


def revisions_in_use(status: ModelDeploymentStatus, entry: Mapping[str, Any] | None) -> set[int]:
    """Return the revisions whose applications must stay: those with traffic in the stored entry, stable, and earlier ones."""
    with_traffic = {number for number, weight in split_document.find_weights(entry).items() if weight}
    stable = {status.stable.revision} if status.stable is not None else set()
    return with_traffic | stable | {each.revision for each in (*status.retiring, *status.kept)}


def revisions_in_status(status: ModelDeploymentStatus) -> list[RevisionStatus | DrainingRevision]:
    """Return the statuses of all revisions in a ModelDeployment's status."""
    found: list[RevisionStatus | DrainingRevision] = [*status.kept, *status.retiring, *(status.arms or ())]
    found += [each for each in (status.candidate, status.stable) if each is not None]
    return found


def clusters_by_revision(status: ModelDeploymentStatus) -> dict[int, str]:
    """Return the RayCluster of each revision in the status, deployed or not."""
    return {each.revision: each.cluster or status.cluster for each in revisions_in_status(status)}


def needed_clusters(status: ModelDeploymentStatus) -> frozenset[str]:
    """Return all RayClusters that the status needs, including that of the next revision."""
    return frozenset(filter(None, (status.cluster, *clusters_by_revision(status).values())))


def desired_split(
    deployment: Mapping[str, Any], status: ModelDeploymentStatus, uid: str, rollout: ExperimentStatus | None
) -> Split | None:
    """Return the split that the edges of a ModelDeployment should have in force; None while no revision is ready to serve.

    Args:
        deployment: the stored ModelDeployment.
        status: its status, as it will be.
        uid: the uid of the Experiment. It keys the counters, and is the salt if the plan has none.
        rollout: the status of the Experiment in `status.experiment`, a rollout's or a user's; None if there is none.
    """
    if status.stable is None:
        return None
    is_users = rollout is not None and experiment_state.is_frozen(rollout)
    if rollout is None or not (is_users or rollout_state.is_frozen(rollout)):
        followed = status.candidate.revision if status.candidate else None
        meta = deployment["metadata"]
        return _with_clusters(make_stable_split(meta["name"], meta["uid"], status.stable.revision, followed), status)
    plan = rollout.plan
    slow = _slow_us(plan.guardrails)
    choosable = rollout.phase == phases.RUNNING if is_users else _can_be_selected(status, rollout)
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
        feedback=_feedback(rollout),
        experiment=status.experiment,
    )
    return _with_clusters(split, status)


def contradicts_traffic(split: Split | None, entry: Mapping[str, Any] | None) -> bool:
    """Return whether a split would take traffic from what serves and give it to a revision that no edge has checked.

    Each decision of the operator gives traffic only to a revision whose replicas the edges already follow, at weight 0. So such a split
    follows from a status that something else wrote, such as a restore from a backup.

    Args:
        split: the split of the status; None means no arm at all.
        entry: the stored entry of the service.
    """
    weights = split_document.find_weights(entry)
    wanted = {arm.revision for arm in split.arms if arm.weight} if split is not None else set()
    return any(weights.values()) and not (wanted and wanted <= weights.keys())


def desired_entry(
    deployment: Mapping[str, Any],
    status: ModelDeploymentStatus,
    split: Split | None,
    spec: ModelDeploymentSpec | None,
    known: Mapping[str, Any] | None,
    owned: Sequence[Revision],
    *,
    has_host: bool,
    domain: str,
) -> dict[str, Any] | None:
    """Return a ModelDeployment's entry in the split document; None where it can have none yet.

    With an invalid spec the endpoint stays as it was, and the split still follows the status, so that an abort works. After the status was
    lost, or replaced by one that contradicts the traffic, the whole entry stays as it was until the planner has recovered the status.

    Args:
        deployment: the stored ModelDeployment.
        status: its status.
        split: its desired split.
        spec: its spec; None where it is refused.
        known: its stored entry.
        owned: its revisions.
        has_host: whether no other ModelDeployment has its `endpoint.host`.
        domain: the cluster's DNS domain.
    """
    meta, stored = deployment["metadata"], None if known is None else dict(known)
    if not status.cluster or contradicts_traffic(split, stored):
        return stored
    limits = {revision.number: revisions.spec_of(revision).runtime.max_ongoing_requests for revision in owned}
    if spec is None and stored is not None:
        return split_document.update_service_entry(stored, status.cluster, meta["name"], split, limits)
    if spec is None:
        stable = revisions.find_by_number(owned, status.stable.revision if status.stable else None)
        spec = revisions.spec_of(stable) if stable else None
    if spec is None:
        return None
    host = spec.endpoint.host if has_host else ""
    return split_document.make_service_entry(
        meta["namespace"], meta["name"], spec, status.cluster, split, host=host, limits=limits, domain=domain
    )


def _can_be_selected(status: ModelDeploymentStatus, rollout: ExperimentStatus) -> bool:
    """Whether overrides may select the candidate. One that waits for a retry is not in Serve's document."""
    waits_for_retry = status.candidate is not None and status.candidate.retry_at is not None
    return rollout_state.can_be_selected(rollout) and not waits_for_retry


def _feedback(status: ExperimentStatus) -> SplitFeedback | None:
    """Return the accepted outcomes, from the end of the warm-up: a unit counts where it is first seen, which must be evidence."""
    compared = status.plan.comparison
    outcomes = compared.feedback_outcomes if compared is not None else status.plan.outcomes
    if not outcomes or not status.evidence_epochs or phases.is_over(status):
        return None
    names_of = tuple(dict.fromkeys(name for each in outcomes for name in feedback.feedback_names(each)))
    caps = dict.fromkeys(
        (each.feedback, cap) for each in outcomes if (cap := feedback.cap_in_millionths(each)) is not None
    )
    windows = dict.fromkeys(
        (each.feedback, own) for each in outcomes if (own := feedback.window_s(each)) and each.after is None
    )
    delayed = dict.fromkeys(
        (each.feedback, (own, feedback.window_s(each))) for each in outcomes if (own := feedback.after_s(each))
    )
    products = dict.fromkeys((each.feedback, each.denominator) for each in outcomes if each.denominator)
    covariates = dict.fromkeys((each.feedback, each.covariate) for each in outcomes if each.covariate)
    most_units = experiment_state.MAX_UNITS_KEPT if compared is None else experiment_state.max_first_exposures(status)
    return SplitFeedback(
        names_of, most_units, tuple(caps), tuple(windows), tuple(products), tuple(covariates), tuple(delayed)
    )


def _slow_us(guardrails: Sequence[PlanGuardrail]) -> dict[bool, tuple[int, ...]]:
    """Return the thresholds of slow answers in microseconds, one per compared latency: of stable's arms (True) and of others."""
    known = [
        (each.threshold_microseconds, each.candidate_threshold_microseconds)
        for each in default_plan.latency_guardrails(guardrails)
    ]
    pairs = [(stable, other) for stable, other in known if stable is not None and other is not None]
    # Thresholds are matched by position, so none is set while one is unknown.
    pairs = pairs if len(pairs) == len(known) else []
    return {True: tuple(stable for stable, _ in pairs), False: tuple(other for _, other in pairs)}


def _with_clusters(split: Split, status: ModelDeploymentStatus) -> Split:
    """Return the split with the RayCluster of each arm that is in another one than the service's."""
    clusters = clusters_by_revision(status)
    arms = tuple(
        replace(arm, cluster=name) if (name := clusters.get(arm.revision, status.cluster)) != status.cluster else arm
        for arm in split.arms
    )
    return replace(split, arms=arms)


def find_active_experiment(
    status: ModelDeploymentStatus, experiments: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ExperimentStatus | None]:
    """Return (uid, status) of the Experiment in a ModelDeployment's status, from the stored Experiments by name."""
    obj = experiments.get(status.experiment)
    if obj is None:
        return "", None
    return str(obj["metadata"]["uid"]), ExperimentStatus.parse(obj.get("status"))
