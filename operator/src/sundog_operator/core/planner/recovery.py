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


def assign_cluster(draft: PlanContext) -> None:
    """Choose the first RayCluster."""
    if not draft.status.cluster and draft.wanted is not None:
        draft.set(cluster=choose_cluster(draft, draft.wanted.number))


def choose_cluster(draft: PlanContext, number: int) -> str:
    """The RayCluster of a revision: one that this service uses already and whose pods have its image, else one with room.

    In local mode all heads are the same, and the first one chosen is kept. Nothing is started for a service whose edge can never be ours.
    """
    if draft.seen.foreign and not draft.status.cluster:
        return ""
    revision = draft.revision(number)
    if draft.seen.installation is None or revision is None:
        return draft.status.cluster or clusters.assign_cluster(draft.seen.clusters_of_others)
    image = revision.image or draft.seen.image
    used = sorted(name for name in desired_state.needed_clusters(draft.status) if names.is_ray_cluster_of(name, image))
    return used[0] if used else clusters.assign_cluster(draft.seen.clusters_of_others, image)


def recover_lost_status(draft: PlanContext) -> None:
    """Take up what serves where the status that said so was lost: the split document and the rollouts still tell.

    Without this a ModelDeployment restored from a backup would be rolled out from nothing, over what serves. Where there is a candidate
    nothing was lost: of a ModelDeployment made anew the document may still tell what its namesake served.
    """
    if draft.status.stable is not None or draft.status.candidate is not None:
        return
    arms = {arm.get("name"): arm.get("revision") for arm in (draft.seen.split or {}).get("arms", ())}
    stable = arms.get(names.STABLE)
    if not isinstance(stable, int) or draft.revision(stable) is None:
        return
    attempts = sorted(
        draft.seen.rollouts, key=lambda attempt: (attempt.status.plan.frozen_at or draft.now, attempt.name)
    )
    latest = attempts[-1] if attempts and state.is_frozen(attempts[-1].status) else None
    shared = latest.status.plan.in_place if latest is not None and not state.is_over(latest.status) else None
    replicas = _serving(draft, [stable] if shared is None or latest is None else [stable, latest.revision])
    if replicas is None:
        return
    # Where its arms are told apart from it, the service's cluster is that of its newest revision.
    placed = {arm.get("revision"): str(arm.get("cluster", "")) for arm in (draft.seen.split or {}).get("arms", ())}
    cluster = draft.status.cluster or str((draft.seen.split or {}).get("cluster", ""))
    serving = make_revision_status(draft, stable, replicas).model_copy(update={"cluster": placed[stable]})
    draft.set(stable=serving, cluster=cluster)
    if latest is None:
        return
    if not state.is_over(latest.status):
        draft.set(experiment=latest.name, candidate=make_revision_status(draft, latest.revision, replicas))
        if shared is not None:
            own = state.shared_replicas(latest.status, replicas, stands_still=True)
            told = candidate_placement.make_capacity_status(draft.status.capacity, shared, replicas)
            draft.set(stable=serving.model_copy(update={"replicas": own.stable}), capacity=told)
    elif latest.status.phase == state.STOPPED:
        draft.set(last_rollout=make_last_rollout(draft, latest.revision, *rollout_outcome(latest.status), latest.name))


def _serving(draft: PlanContext, numbers: Sequence[int]) -> int | None:
    """Replicas for all traffic, of what is taken up: of stable, or of two revisions that share them. None while nobody knows.

    Where the spec is refused they are as many as serve: neither spec nor status tells more.
    """
    if draft.spec is not None:
        return draft.replicas
    told = [confirmation.reported_replicas(draft.service, number, draft.seen.edges) for number in numbers]
    known = [count for count in told if count is not None]
    return max(sum(known), draft.replicas) if len(known) == len(told) else None


def find_or_create_revision(draft: PlanContext) -> None:
    """Find the revision that the spec stands for, or make it."""
    if draft.spec is None:
        return
    content = revisions.content_of(draft.spec)
    digest = revisions.content_hash(content)
    found = revisions.find_by_hash(draft.seen.revisions, digest)
    if found is None:
        live = set(live_revisions(draft.status))
        number = draft.find_deployed_number(digest, live) or revisions.next_number((*draft.seen.taken, *live))
        found = Revision(number, digest, content, revisions.image_of(content, draft.seen.image))
        draft.objects_to_create.append(revisions.make_controller_revision(draft.seen.deployment, found))
        draft.events.append(events.revision_created(found.number))
    draft.wanted = found
