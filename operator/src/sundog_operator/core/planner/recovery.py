"""Recovery of a lost status, and the choice of the revision and RayCluster of a pass."""

from collections.abc import Sequence
from dataclasses import replace

from sundog_operator.api import RevisionStatus
from sundog_operator.core import events, revisions
from sundog_operator.core.edge import confirmation, split_document
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.desired_state import live_revisions
from sundog_operator.core.planner.facts import Json
from sundog_operator.core.planner.rollout import candidate_placement
from sundog_operator.core.planner.rollout.outcome import make_last_rollout, make_revision_status, rollout_end
from sundog_operator.core.ray import clusters
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.rollout import state


def assign_cluster(context: PlanContext) -> PlanContext:
    """Choose the RayCluster of a ModelDeployment that has none."""
    if context.status.cluster or context.spec_revision is None:
        return context
    return context.set(cluster=choose_cluster(context, context.spec_revision.number))


def choose_cluster(context: PlanContext, number: int) -> str:
    """Return the RayCluster for a revision: its own, one in use whose pods have its image, or one that can take another revision.

    In local mode all heads are the same, and the first choice stays. There is none while a foreign object blocks the edge.
    """
    if own := desired_state.clusters_by_revision(context.status).get(number):
        return own
    if context.observed.foreign and not context.status.cluster:
        return ""
    revision = context.revision(number)
    if context.observed.installation is None or revision is None:
        return context.status.cluster or clusters.assign_cluster(context.observed.clusters_of_others)
    image = revision.image or context.observed.image
    used = sorted(
        name for name in desired_state.needed_clusters(context.status) if names.is_ray_cluster_of(name, image)
    )
    return used[0] if used else clusters.assign_cluster(context.observed.clusters_of_others, image)


def recover_lost_status(context: PlanContext) -> PlanContext:
    """Rebuild a lost status from the split document and the rollout Experiments.

    Without this, a ModelDeployment restored from a backup would start from nothing, although revisions serve. A status with a
    candidate was not lost: the document may still have the split of a deleted ModelDeployment of the same name.
    """
    if context.status.stable is not None or context.status.candidate is not None:
        return context
    stable = find_stable_arm(context)
    if stable is None or not (
        context.revision(stable) or any(split_document.find_weights(context.observed.split).values())
    ):
        return context
    attempts = sorted(
        context.observed.rollouts, key=lambda attempt: (attempt.status.plan.frozen_at or context.now, attempt.name)
    )
    latest = attempts[-1] if attempts and state.is_frozen(attempts[-1].status) else None
    shared = latest.status.plan.in_place if latest is not None and not phases.is_over(latest.status) else None
    replicas = _serving_replicas(context, [stable] if shared is None or latest is None else [stable, latest.revision])
    if replicas is None:
        return context
    # If arms have other RayClusters, the service's is the one of its newest revision.
    serving = make_serving_status(context, stable, replicas)
    context = context.set(
        stable=serving, cluster=context.status.cluster or str((context.observed.split or {}).get("cluster", ""))
    )
    if latest is None:
        return context
    if not phases.is_over(latest.status):
        context = context.set(
            experiment=latest.name, candidate=make_revision_status(context, latest.revision, replicas)
        )
        if shared is not None:
            arm_replicas = state.shared_replicas(latest.status, replicas, stands_still=True)
            capacity = candidate_placement.make_capacity_status(context.status.capacity, shared, replicas)
            context = context.set(
                stable=serving.model_copy(update={"replicas": arm_replicas.stable}), capacity=capacity
            )
    elif latest.status.phase == phases.STOPPED:
        context = context.set(
            last_rollout=make_last_rollout(context, latest.revision, rollout_end(latest.status), latest.name)
        )
    return context


def find_stable_arm(context: PlanContext) -> int | None:
    """Return the revision that the stored split has as stable, or as the control of an Experiment; None without."""
    arms = (context.observed.split or {}).get("arms", ())
    return next((int(arm["revision"]) for arm in arms if arm["name"] in names.STABLE_ARMS), None)


def make_serving_status(context: PlanContext, number: int, replicas: int) -> RevisionStatus:
    """Return the status of a revision that serves already, in the RayCluster to which the stored split sends its requests."""
    entry = context.observed.split or {}
    clusters_by_arm = {arm["revision"]: str(arm.get("cluster", "")) for arm in entry.get("arms", ())}
    of_service = str(entry.get("cluster", ""))
    own = clusters_by_arm.get(number) or of_service
    cluster = "" if own == (context.status.cluster or of_service) else own
    return make_revision_status(context, number, replicas).model_copy(update={"cluster": cluster})


def _serving_replicas(context: PlanContext, numbers: Sequence[int]) -> int | None:
    """Return the replicas for all traffic of stable, or of two revisions that share them; None while unknown.

    While the spec is refused this is the number of serving replicas.
    """
    if context.spec is not None:
        return context.replicas
    reported = [confirmation.reported_replicas(context.service, number, context.observed.edges) for number in numbers]
    known = [count for count in reported if count is not None]
    return max(sum(known), context.replicas) if len(known) == len(reported) else None


def find_or_create_revision(context: PlanContext) -> PlanContext:
    """Find the revision of the spec, or create it."""
    if context.spec is None:
        return context
    content = revisions.content_of(context.spec)
    digest, image = revisions.content_hash(content), revisions.image_of(content, context.observed.image)
    context, revision = ensure_revision(context, digest, content, image, context.facts.model_files)
    context = replace(context, spec_revision=revision)
    return context.report(events.revision_created(revision.number)) if context.new_revisions else context


def ensure_revision(
    context: PlanContext, digest: str, content: Json, image: str, files: str = ""
) -> tuple[PlanContext, Revision]:
    """Return the revision with the content of that hash, and the draft with it if it is new.

    Content that is deployed keeps its number, and a number that something else has is not given to a new revision.
    """
    found = revisions.find_by_hash((*context.new_revisions, *context.observed.revisions), digest)
    if found is not None:
        return context, found
    live = {*live_revisions(context.status), *split_document.find_weights(context.observed.split)}
    taken = (*context.observed.taken, *live, *(each.number for each in context.new_revisions))
    number = context.find_deployed_number(digest, live) or revisions.next_number(taken)
    new = Revision(number, digest, content, image, files)
    return replace(context, new_revisions=(*context.new_revisions, new)), new
