"""Reconciles one RayCluster: its members own it, and its Serve document is the union of their live revisions."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from sundog_operator.api import Endpoint, ModelDeploymentSpec, ModelDeploymentStatus
from sundog_operator.api.installation import Installation
from sundog_operator.app import ray_clusters
from sundog_operator.app.apply import ensure
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.queue.idle_check import NamespaceState
from sundog_operator.app.queue.keys import Key
from sundog_operator.core import revisions
from sundog_operator.core.edge import split_document
from sundog_operator.core.kubernetes import grace_periods, names
from sundog_operator.core.observed import ServeState
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.core.planner.desired_state import live_revisions
from sundog_operator.core.ray import clusters, pods, serve_config
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.revisions import Revision
from sundog_operator.errors import RayUnavailable
from sundog_operator.ports import CONFIG_MAP, CONTROLLER_REVISION, MODEL_DEPLOYMENT, RAY_CLUSTER, Object, Ref

RESYNC_S = 15.0
NOT_READY_RESYNC_S = 0.5
READ_BACK_DELAY_S = 1.0
"""A document that is PUT while Serve is starting can be lost without an error: it is read back."""


async def reconcile_ray_cluster(world: Dependencies, key: Key) -> float | None:
    """One pass. Returns after how many seconds to look again, None for a cluster without members. Raises DependencyError."""
    seen_before = await NamespaceState(world, key.namespace).sees(key)
    again_s = await _reconcile(world, key)
    return world.rests.note(key, seen_before, again_s, rests=again_s == RESYNC_S)


async def _reconcile(world: Dependencies, key: Key) -> float | None:
    deployments = await world.kube.list(MODEL_DEPLOYMENT, key.namespace)
    members = _members(deployments, key.name)
    stored = await world.kube.get(Ref(RAY_CLUSTER, key.namespace, key.name))
    if stored is not None and not clusters.is_managed_by_sundog(stored):
        return RESYNC_S
    if stored is not None and "deletionTimestamp" in stored["metadata"]:
        await ray_clusters.release_finalizer(world, stored)
        return RESYNC_S if members else None
    if not members:
        return await _without_members(world, key, stored, deployments)
    serve = await _read(world, key, ray_clusters.resolve_cluster_view(world, key.namespace, key.name, stored))
    stored = await _ensure(world, key, members, stored, serve)
    view = ray_clusters.resolve_cluster_view(world, key.namespace, key.name, stored)
    if view.problem:
        return NOT_READY_RESYNC_S
    if serve is None:
        serve = await world.serve.read(view.dashboard, key.namespace)
    return await _deploy(world, key, view, serve)


async def _read(world: Dependencies, key: Key, view: ClusterView) -> ServeState | None:
    """What Serve has; None while it does not answer, which must not keep pods from being asked for."""
    if view.problem:
        return None
    try:
        return await world.serve.read(view.dashboard, key.namespace)
    except RayUnavailable:
        return None


async def _ensure(
    world: Dependencies, key: Key, members: list[Object], stored: Object | None, serve: ServeState | None
) -> Object:
    installation = world.settings.installation
    if installation is None:
        image = world.settings.runtime_image
        return await ensure(world, clusters.make_local_ray_cluster(key.namespace, key.name, members, image), stored)
    owned = revisions.group_by_owner(
        await world.kube.views(CONTROLLER_REVISION, key.namespace, revisions.parse_stored_revision)
    )
    placed = [
        (member, revision, image)
        for member in members
        for revision, image in _placed(member, _of(member, owned), key.name, world.settings.runtime_image)
    ]
    images = [image for _, _, image in placed if names.is_ray_cluster_of(key.name, image)]
    image = images[0] if images else world.settings.runtime_image
    wanted = pods.make_ray_cluster(key.namespace, key.name, members, image, installation)
    if stored is not None and not images:
        # No revision names its image now: the head stays as it was made, with the autoscaler's container that mounts its volumes.
        kept = ("headGroupSpec", "autoscalerOptions")
        wanted["spec"] |= {field: stored["spec"][field] for field in kept if field in stored["spec"]}
    serve = serve if serve is not None and serve.known else None
    groups = [_group(member, revision, image, installation, serve, stored) for member, revision, image in placed]
    deployed = frozenset(serve.applications) if serve is not None else None
    return await ray_clusters.ensure_ray_cluster(world, installation, wanted, groups, stored, deployed)


def _placed(member: Object, known: Sequence[Revision], cluster: str, default: str) -> Iterable[tuple[Revision, str]]:
    """The revisions of a ModelDeployment that are to have pods on a cluster, each with its image."""
    status = ModelDeploymentStatus.parse(member.get("status"))
    for number, place in sorted(desired_state.clusters_by_revision(status).items()):
        revision = revisions.find_by_number(known, number)
        if place == cluster and revision is not None:
            yield revision, revision.image or default


def _group(
    member: Object,
    revision: Revision,
    image: str,
    installation: Installation,
    serve: ServeState | None,
    stored: Object | None,
) -> Object:
    service, current = member["metadata"]["name"], accept_model_deployment(member, installation).spec
    kept = None if current else _bounds_as_deployed(names.application(service, revision.number), serve, stored)
    bounds = kept or _bounds(ModelDeploymentStatus.parse(member.get("status")), revision, current)
    timeout = current.endpoint.request_timeout if current else _timeout_as_stored(service, revision, stored)
    return pods.make_worker_group(service, revision, bounds, image, installation, timeout)


def _timeout_as_stored(service: str, revision: Revision, stored: Object | None) -> timedelta:
    """The `requestTimeout` that a revision's pods were given their grace for; the default before they have any."""
    group = _stored_group(names.application(service, revision.number), stored)
    grace = group["template"]["spec"].get("terminationGracePeriodSeconds") if group is not None else None
    return grace_periods.request_timeout_of_grace(grace) if grace else Endpoint().request_timeout


def _bounds(status: ModelDeploymentStatus, revision: Revision, current: ModelDeploymentSpec | None) -> tuple[int, int]:
    replicas = next(
        max(each.replicas, 1) for each in desired_state.revisions_in_status(status) if each.revision == revision.number
    )
    spec = current or revisions.spec_of(revision)
    scale = serve_config.resolve_scale(status, revision.number, spec, replicas)
    return scale.fewest, scale.most


def _bounds_as_deployed(application: str, serve: ServeState | None, stored: Object | None) -> tuple[int, int] | None:
    """The fewest and the most pods where the spec is refused: what Serve scales by load, it scales on. None where there is none of that.

    While Serve cannot be asked, pods are as they are.
    """
    if serve is None:
        group = _stored_group(application, stored)
        return (group["minReplicas"], group["maxReplicas"]) if group is not None else None
    app = serve.applications.get(application)
    deployments = app.config.get("deployments") or () if app is not None else ()
    scaling = next((each.get("autoscaling_config") for each in deployments), None) or {}
    fewest, most = scaling.get("min_replicas"), scaling.get("max_replicas")
    return None if fewest is None or most is None else (fewest, most)


def _stored_group(application: str, stored: Object | None) -> Object | None:
    groups = stored["spec"].get("workerGroupSpecs") or () if stored is not None else ()
    return next((each for each in groups if each["groupName"] == application), None)


async def _without_members(
    world: Dependencies, key: Key, stored: Object | None, deployments: list[Object]
) -> float | None:
    """A cluster that nobody needs goes with its last owner; where owners live and use others now, it is deleted.

    An owner without a status was not planned yet, as after a restore from a backup: what serves must not be deleted under it.
    """
    if stored is None or world.settings.installation is None:
        return None
    owners = {ref["uid"] for ref in stored["metadata"].get("ownerReferences") or ()}
    left = [obj for obj in deployments if obj["metadata"]["uid"] in owners]
    if not left:
        return None
    split = split_document.read_document(await world.kube.get(Ref(CONFIG_MAP, key.namespace, names.EDGE)))
    used = split_document.find_applications_with_traffic(
        split, key.name, {obj["metadata"]["name"] for obj in deployments}
    )
    if used or not all(desired_state.needed_clusters(ModelDeploymentStatus.parse(obj.get("status"))) for obj in left):
        return RESYNC_S
    await ray_clusters.delete_unused(world, key, stored)
    return None


async def _deploy(world: Dependencies, key: Key, view: ClusterView, serve: ServeState) -> float:
    # Serve may have taken its time: what is live is read after its answer, right before the PUT that deletes all that is not.
    deployments = await world.kube.list(MODEL_DEPLOYMENT, key.namespace)
    owned = revisions.group_by_owner(
        await world.kube.views(CONTROLLER_REVISION, key.namespace, revisions.parse_stored_revision)
    )
    split = split_document.read_document(await world.kube.get(Ref(CONFIG_MAP, key.namespace, names.EDGE)))
    applications = [
        app
        for member in _members(deployments, key.name)
        for app in make_applications(member, _of(member, owned), serve, key.name, world.settings.installation)
    ]
    carrying = split_document.find_applications_with_traffic(
        split, key.name, {obj["metadata"]["name"] for obj in deployments}
    )
    applications += _kept(carrying - {app["name"] for app in applications}, serve)
    deployed = {name: app.config for name, app in serve.applications.items()}
    if serve.known and not serve_config.needs_update(applications, deployed):
        return RESYNC_S
    await world.serve.put(view.dashboard, key.namespace, serve_config.make_document(applications, view))
    return READ_BACK_DELAY_S


def _of(member: Object, owned: Mapping[str, Sequence[Revision]]) -> Sequence[Revision]:
    return owned.get(member["metadata"]["uid"], ())


def _members(deployments: list[Object], cluster: str) -> list[Object]:
    return [
        obj
        for obj in deployments
        if cluster in desired_state.needed_clusters(ModelDeploymentStatus.parse(obj.get("status")))
    ]


def _kept(applications: set[str], serve: ServeState) -> list[serve_config.Json]:
    """What is deployed under these names. Whatever became of a status or a revision: nothing that edges send traffic to is taken away."""
    return [dict(serve.applications[name].config) for name in sorted(applications) if name in serve.applications]


def make_applications(
    member: Object,
    known: Sequence[Revision],
    serve: ServeState,
    cluster: str,
    installation: Installation | None = None,
) -> list[serve_config.Json]:
    """The Serve applications of one ModelDeployment's live revisions on a cluster, out of all that are `known` of it.

    A spec that is refused changes nothing, nor does a revision that is gone: what Serve has deployed for it stays as it is.
    """
    meta = member["metadata"]
    current = accept_model_deployment(member, installation).spec
    status = ModelDeploymentStatus.parse(member.get("status"))
    places = desired_state.clusters_by_revision(status)
    found = []
    for number, replicas in sorted(live_revisions(status).items()):
        revision = revisions.find_by_number(known, number)
        if places[number] != cluster:
            continue
        if revision is None:
            # Somebody deleted it. Edges may still send it what they were told before.
            found += _kept({names.application(meta["name"], number)}, serve)
        else:
            attempt = status.stable.failures if status.stable and status.stable.revision == number else 0
            spec = current or revisions.spec_of(revision)
            scale = serve_config.resolve_scale(status, number, spec, replicas)
            app = serve_config.make_application(
                meta["namespace"], meta["name"], revision, spec, scale, attempt, in_pods=installation is not None
            )
            found.append(app if current else _as_deployed(app, serve))
    return found


def _as_deployed(app: serve_config.Json, serve: ServeState) -> serve_config.Json:
    """What Serve has of it. How many replicas it has follows the rollout all the same: one in place may have to give them back."""
    deployed = serve.applications.get(app["name"])
    if deployed is None or deployed.config.get("args") != app["args"]:
        return app
    pairs = zip(deployed.config["deployments"], app["deployments"], strict=False)
    number = "num_replicas"
    kept = [{**found, **({number: wanted[number]} if number in found else {})} for found, wanted in pairs]
    return {**deployed.config, "deployments": kept}
