"""A status that was lost is rebuilt from the children; and which revision and RayCluster a pass works on."""

from collections.abc import Sequence

from sundog_operator.core import events, revisions
from sundog_operator.core.edge import confirmation
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import (
    candidate_placement,
    desired_state,
)
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.desired_state import live_revisions
from sundog_operator.core.planner.outcome import make_last_rollout, make_revision_status, rollout_outcome
from sundog_operator.core.ray import clusters
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout import state


def assign_cluster(context: PlanContext) -> None:
    """Choose the first RayCluster."""
    if not context.status.cluster and context.wanted is not None:
        context.set(cluster=choose_cluster(context, context.wanted.number))


def choose_cluster(context: PlanContext, number: int) -> str:
    """The RayCluster of a revision: one that this service uses already and whose pods have its image, else one with room.

    In local mode all heads are the same, and the first one chosen is kept. Nothing is started for a service whose edge can never be ours.
    """
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


def recover_lost_status(context: PlanContext) -> None:
    """Take up what serves where the status that said so was lost: the split document and the rollouts still tell.

    Without this a ModelDeployment restored from a backup would be rolled out from nothing, over what serves. Where there is a candidate
    nothing was lost: of a ModelDeployment made anew the document may still tell what its namesake served.
    """
    if context.status.stable is not None or context.status.candidate is not None:
        return
    arms = {arm.get("name"): arm.get("revision") for arm in (context.observed.split or {}).get("arms", ())}
    stable = arms.get(names.STABLE)
    if not isinstance(stable, int) or context.revision(stable) is None:
        return
    attempts = sorted(
        context.observed.rollouts, key=lambda attempt: (attempt.status.plan.frozen_at or context.now, attempt.name)
    )
    latest = attempts[-1] if attempts and state.is_frozen(attempts[-1].status) else None
    shared = latest.status.plan.in_place if latest is not None and not state.is_over(latest.status) else None
    replicas = _serving(context, [stable] if shared is None or latest is None else [stable, latest.revision])
    if replicas is None:
        return
    # Where its arms are told apart from it, the service's cluster is that of its newest revision.
    placed = {
        arm.get("revision"): str(arm.get("cluster", "")) for arm in (context.observed.split or {}).get("arms", ())
    }
    cluster = context.status.cluster or str((context.observed.split or {}).get("cluster", ""))
    serving = make_revision_status(context, stable, replicas).model_copy(update={"cluster": placed[stable]})
    context.set(stable=serving, cluster=cluster)
    if latest is None:
        return
    if not state.is_over(latest.status):
        context.set(experiment=latest.name, candidate=make_revision_status(context, latest.revision, replicas))
        if shared is not None:
            own = state.shared_replicas(latest.status, replicas, stands_still=True)
            told = candidate_placement.make_capacity_status(context.status.capacity, shared, replicas)
            context.set(stable=serving.model_copy(update={"replicas": own.stable}), capacity=told)
    elif latest.status.phase == state.STOPPED:
        context.set(
            last_rollout=make_last_rollout(context, latest.revision, *rollout_outcome(latest.status), latest.name)
        )


def _serving(context: PlanContext, numbers: Sequence[int]) -> int | None:
    """Replicas for all traffic, of what is taken up: of stable, or of two revisions that share them. None while nobody knows.

    Where the spec is refused they are as many as serve: neither spec nor status tells more.
    """
    if context.spec is not None:
        return context.replicas
    told = [confirmation.reported_replicas(context.service, number, context.observed.edges) for number in numbers]
    known = [count for count in told if count is not None]
    return max(sum(known), context.replicas) if len(known) == len(told) else None


def find_or_create_revision(context: PlanContext) -> None:
    """Find the revision that the spec stands for, or make it."""
    if context.spec is None:
        return
    content = revisions.content_of(context.spec)
    digest = revisions.content_hash(content)
    found = revisions.find_by_hash(context.observed.revisions, digest)
    if found is None:
        live = set(live_revisions(context.status))
        number = context.find_deployed_number(digest, live) or revisions.next_number((*context.observed.taken, *live))
        found = Revision(number, digest, content, revisions.image_of(content, context.observed.image))
        context.objects_to_create.append(revisions.make_controller_revision(context.observed.deployment, found))
        context.events.append(events.revision_created(found.number))
    context.wanted = found
