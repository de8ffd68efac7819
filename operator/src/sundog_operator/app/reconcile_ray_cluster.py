"""Reconcile one RayCluster. Its ModelDeployments own it, and its Serve document has the live revisions of them all."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from sundog_operator.api import Endpoint, ModelDeploymentSpec, ModelDeploymentStatus
from sundog_operator.api.installation import Installation
from sundog_operator.app import ray_clusters
from sundog_operator.app.apply import ensure
from sundog_operator.app.claim_templates import ensure_claim_template
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.queue.idle_check import NamespaceState
from sundog_operator.app.queue.keys import Key
from sundog_operator.core import revisions
from sundog_operator.core.edge import split_document
from sundog_operator.core.kubernetes import accelerators, grace_periods, names
from sundog_operator.core.kubernetes.shared_pods import is_shared
from sundog_operator.core.observed import ServeState
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.core.planner.desired_state import live_revisions
from sundog_operator.core.ray import clusters, pods, serve_config
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.ray.groups import find_deployed_groups
from sundog_operator.core.ray.readiness import remove_conflicting_revisions
from sundog_operator.core.revisions import Revision
from sundog_operator.errors import DependencyError, RayUnavailable, SundogError
from sundog_operator.ports import CONFIG_MAP, CONTROLLER_REVISION, MODEL_DEPLOYMENT, RAY_CLUSTER, Object, Ref

RESYNC_S = 15.0
NOT_READY_RESYNC_S = 0.5
READ_BACK_DELAY_S = 1.0
"""Delay before the document is read back. Serve can lose it without an error if it is PUT while Serve starts."""


async def reconcile_ray_cluster(deps: Dependencies, key: Key) -> float | None:
    """Run one pass. Return the seconds until the next one; None for a cluster without ModelDeployments. Raises DependencyError."""
    state = await NamespaceState(deps, key.namespace).read(key)
    again_s = await _reconcile(deps, key)
    return deps.idle_keys.update(key, state, again_s, idle=again_s == RESYNC_S)


async def _reconcile(deps: Dependencies, key: Key) -> float | None:
    deployments = await deps.kube.list(MODEL_DEPLOYMENT, key.namespace)
    model_deployments = _find_model_deployments(deployments, key.name)
    stored = await deps.kube.get(Ref(RAY_CLUSTER, key.namespace, key.name))
    if clusters.is_foreign(stored):
        return RESYNC_S
    if stored is not None and "deletionTimestamp" in stored["metadata"]:
        await ray_clusters.release_finalizer(deps, stored)
        return RESYNC_S if model_deployments else None
    if not model_deployments:
        return await _reconcile_without_model_deployments(deps, key, stored, deployments)
    serve = await _read_serve(deps, key, ray_clusters.resolve_cluster_view(deps, key.namespace, key.name, stored))
    stored, failure = await _ensure_cluster(deps, key, model_deployments, stored, serve)
    again_s = await _deploy_to(deps, key, stored, serve)
    if failure is not None:
        raise failure
    return again_s


async def _deploy_to(deps: Dependencies, key: Key, stored: Object, serve: ServeState | None) -> float:
    view = ray_clusters.resolve_cluster_view(deps, key.namespace, key.name, stored)
    if view.problem:
        return NOT_READY_RESYNC_S
    if serve is None:
        serve = await deps.serve.read(view.dashboard, key.namespace)
    return await _deploy(deps, key, view, serve)


async def _read_serve(deps: Dependencies, key: Key, view: ClusterView) -> ServeState | None:
    """Return Serve's state; None while Serve does not answer, which must not block the creation of pods."""
    if view.problem:
        return None
    try:
        return await deps.serve.read(view.dashboard, key.namespace)
    except RayUnavailable:
        return None


async def _ensure_cluster(
    deps: Dependencies, key: Key, model_deployments: list[Object], stored: Object | None, serve: ServeState | None
) -> tuple[Object, SundogError | None]:
    """Return the RayCluster, and a failure for which no application need wait: of its change, a claim template or a disruption budget."""
    installation = deps.settings.installation
    if installation is None:
        image = deps.settings.runtime_image
        made = clusters.make_local_ray_cluster(key.namespace, key.name, model_deployments, image)
        return await ensure(deps, made, stored), None
    owned = revisions.group_by_owner(
        await deps.kube.views(CONTROLLER_REVISION, key.namespace, revisions.parse_stored_revision)
    )
    split = await _read_split(deps, key)
    placed = [
        (model_deployment, revision, image)
        for model_deployment in model_deployments
        for revision, image in _find_placed_revisions(
            model_deployment,
            _owned_by(model_deployment, owned, serve, split),
            key.name,
            deps.settings.runtime_image,
        )
    ]
    failure: SundogError | None = None
    for model_deployment, revision, _ in placed:
        try:
            await ensure_claim_template(deps, model_deployment["metadata"], revision, installation)
        except DependencyError as err:
            failure = err
    if any(accelerators.replica_devices(revisions.spec_of(revision).resources.gpu) for _, revision, _ in placed):
        installation = await deps.devices.set_profiles(installation, deps.server or deps.kube, deps.clock)
    images = [image for _, _, image in placed if names.is_ray_cluster_of(key.name, image)]
    image = images[0] if images else deps.settings.runtime_image
    wanted = pods.make_ray_cluster(key.namespace, key.name, model_deployments, image, installation)
    if stored is not None and not images:
        # No revision has the cluster's image now. The head stays as it is, with the autoscaler's container that mounts its volumes.
        kept = ("headGroupSpec", "autoscalerOptions")
        wanted["spec"] |= {field: stored["spec"][field] for field in kept if field in stored["spec"]}
    serve = serve if serve is not None and serve.known else None
    groups = [
        _make_group(model_deployment, revision, own_image, installation, serve, stored)
        for model_deployment, revision, own_image in placed
        if not is_shared(revisions.spec_of(revision))
    ]
    sharing = [(each, revision) for each, revision, _ in placed if is_shared(revisions.spec_of(revision))]
    if sharing:
        groups.append(_make_shared_group(sharing, image, installation, serve, stored))
    deployed = find_deployed_groups(serve) if serve is not None else None
    stored, refusal = await ray_clusters.ensure_ray_cluster(deps, installation, wanted, groups, stored, deployed)
    failure = refusal or failure
    try:
        await ray_clusters.apply_disruption_budgets(deps, installation, stored)
    except SundogError as err:
        failure = failure or err
    return stored, failure


def _find_placed_revisions(
    model_deployment: Object, known: Sequence[Revision], cluster: str, default: str
) -> Iterable[tuple[Revision, str]]:
    """Yield the revisions of a ModelDeployment that need pods on a cluster, each with its image."""
    status = ModelDeploymentStatus.parse(model_deployment.get("status"))
    for number, place in sorted(desired_state.clusters_by_revision(status).items()):
        revision = revisions.find_by_number(known, number)
        if place == cluster and revision is not None:
            yield revision, revision.image or default


def _make_group(
    model_deployment: Object,
    revision: Revision,
    image: str,
    installation: Installation,
    serve: ServeState | None,
    stored: Object | None,
) -> Object:
    service, current = (
        model_deployment["metadata"]["name"],
        accept_model_deployment(model_deployment, installation).spec,
    )
    kept = None if current else _deployed_bounds(service, revision, serve, stored)
    bounds = kept or _count_pods(revision, _wanted_replicas(model_deployment, revision, current))
    timeout = (
        current.endpoint.request_timeout
        if current
        else _stored_timeout(names.application(service, revision.number), stored)
    )
    return pods.make_worker_group(service, revision, bounds, image, installation, timeout)


def _make_shared_group(
    sharing: Sequence[tuple[Object, Revision]],
    image: str,
    installation: Installation,
    serve: ServeState | None,
    stored: Object | None,
) -> Object:
    """Return the worker group of all revisions that share pods."""
    known = [(each, revision, accept_model_deployment(each, installation).spec) for each, revision in sharing]
    return pods.make_shared_group(
        [revisions.spec_of(revision) for _, revision, _ in known],
        [_fewest_replicas(*each, serve) for each in known],
        image,
        installation,
        max(
            current.endpoint.request_timeout if current else _stored_timeout(names.SHARED_WORKERS, stored)
            for _, _, current in known
        ),
    )


def _fewest_replicas(
    model_deployment: Object, revision: Revision, current: ModelDeploymentSpec | None, serve: ServeState | None
) -> int:
    """Return the fewest replicas of a revision. For an invalid spec Serve's autoscaling goes on."""
    name = model_deployment["metadata"]["name"]
    scaled = None if current else _deployed_scale(name, revision, serve)
    return (scaled or _wanted_replicas(model_deployment, revision, current))[0]


def _stored_timeout(name: str, stored: Object | None) -> timedelta:
    """Return the `requestTimeout` from which the grace period of a group's pods was computed; the default without pods."""
    group = _find_stored_group(name, stored)
    grace = group["template"]["spec"].get("terminationGracePeriodSeconds") if group is not None else None
    return grace_periods.request_timeout_of_grace(grace) if grace else Endpoint().request_timeout


def _wanted_replicas(
    model_deployment: Object, revision: Revision, current: ModelDeploymentSpec | None
) -> tuple[int, int]:
    """Return the fewest and the most replicas of a revision."""
    status = ModelDeploymentStatus.parse(model_deployment.get("status"))
    replicas = next(
        max(each.replicas, 1) for each in desired_state.revisions_in_status(status) if each.revision == revision.number
    )
    spec = current or revisions.spec_of(revision)
    scale = serve_config.resolve_scale(status, revision.number, spec, replicas)
    return scale.fewest, scale.most


def _count_pods(revision: Revision, replicas: tuple[int, int]) -> tuple[int, int]:
    gpu = revisions.spec_of(revision).resources.gpu
    return accelerators.count_pods(gpu, replicas[0]), accelerators.count_pods(gpu, replicas[1])


def _deployed_bounds(
    service: str, revision: Revision, serve: ServeState | None, stored: Object | None
) -> tuple[int, int] | None:
    """Return the minimum and maximum number of pods for an invalid spec. Serve's autoscaling goes on; None where it has none.

    While Serve does not answer, the stored bounds stay.
    """
    application = names.application(service, revision.number)
    if serve is None:
        group = _find_stored_group(application, stored)
        return (group["minReplicas"], group["maxReplicas"]) if group is not None else None
    scaled = _deployed_scale(service, revision, serve)
    return None if scaled is None else _count_pods(revision, scaled)


def _deployed_scale(service: str, revision: Revision, serve: ServeState | None) -> tuple[int, int] | None:
    """Return the fewest and the most replicas of Serve's autoscaling; None without, or while Serve does not answer."""
    app = serve.applications.get(names.application(service, revision.number)) if serve is not None else None
    deployments = app.config.get("deployments") or () if app is not None else ()
    scaling = next((each.get("autoscaling_config") for each in deployments), None) or {}
    fewest, most = scaling.get("min_replicas"), scaling.get("max_replicas")
    return None if fewest is None or most is None else (fewest, most)


def _find_stored_group(name: str, stored: Object | None) -> Object | None:
    groups = stored["spec"].get("workerGroupSpecs") or () if stored is not None else ()
    return next((each for each in groups if each["groupName"] == name), None)


async def _reconcile_without_model_deployments(
    deps: Dependencies, key: Key, stored: Object | None, deployments: list[Object]
) -> float | None:
    """Delete an unneeded cluster whose owners exist but use other clusters now. Kubernetes deletes it after its last owner.

    An owner without a status is not planned yet, for example after a restore from a backup. The cluster must then keep serving.
    """
    deps.rejected_clusters.pop((key.namespace, key.name), None)
    if stored is None or deps.settings.installation is None:
        return None
    owners = {ref["uid"] for ref in stored["metadata"].get("ownerReferences") or ()}
    left = [obj for obj in deployments if obj["metadata"]["uid"] in owners]
    if not left:
        return None
    used = _find_applications_with_traffic(await _read_split(deps, key), key.name, deployments)
    if used or not all(desired_state.needed_clusters(ModelDeploymentStatus.parse(obj.get("status"))) for obj in left):
        return RESYNC_S
    await ray_clusters.delete_unused(deps, key, stored)
    return None


async def _deploy(deps: Dependencies, key: Key, view: ClusterView, serve: ServeState) -> float:
    # Serve may answer slowly. The PUT deletes all other applications, so the live revisions are read after Serve's answer.
    deployments = await deps.kube.list(MODEL_DEPLOYMENT, key.namespace)
    owned = revisions.group_by_owner(
        await deps.kube.views(CONTROLLER_REVISION, key.namespace, revisions.parse_stored_revision)
    )
    split = await _read_split(deps, key)
    with_traffic = _find_applications_with_traffic(split, key.name, deployments)
    applications = [
        app
        for model_deployment in _find_model_deployments(deployments, key.name)
        for app in make_applications(
            model_deployment,
            _owned_by(model_deployment, owned, serve, split),
            serve,
            key.name,
            deps.settings.installation,
        )
    ]
    applications += _deployed_configs(with_traffic - {app["name"] for app in applications}, serve)
    deployed = {name: app.config for name, app in serve.applications.items()}
    if serve.known and not serve_config.needs_update(applications, deployed):
        return RESYNC_S
    await deps.serve.put(view.dashboard, key.namespace, serve_config.make_document(applications, view))
    return READ_BACK_DELAY_S


async def _read_split(deps: Dependencies, key: Key) -> Object | None:
    return split_document.read_document(await deps.kube.get(Ref(CONFIG_MAP, key.namespace, names.EDGE)))


def _find_applications_with_traffic(split: Object | None, cluster: str, deployments: list[Object]) -> set[str]:
    return split_document.find_applications_with_traffic(
        split, cluster, {obj["metadata"]["name"] for obj in deployments}
    )


def _owned_by(
    model_deployment: Object, owned: Mapping[str, Sequence[Revision]], serve: ServeState | None, split: Object | None
) -> Sequence[Revision]:
    """Return the revisions of a ModelDeployment, without those whose number serves other content."""
    meta = model_deployment["metadata"]
    known, entry = owned.get(meta["uid"], ()), split_document.find_service_entry(split, meta["name"])
    in_use = desired_state.revisions_in_use(ModelDeploymentStatus.parse(model_deployment.get("status")), entry)
    return known if serve is None else remove_conflicting_revisions(meta["name"], known, serve, in_use)


def _find_model_deployments(deployments: list[Object], cluster: str) -> list[Object]:
    return [
        obj
        for obj in deployments
        if cluster in desired_state.needed_clusters(ModelDeploymentStatus.parse(obj.get("status")))
    ]


def _deployed_configs(applications: set[str], serve: ServeState) -> list[serve_config.Json]:
    """Return what Serve has deployed under these names. An application with traffic stays, even if its revision or status is lost."""
    return [dict(serve.applications[name].config) for name in sorted(applications) if name in serve.applications]


def make_applications(
    model_deployment: Object,
    known: Sequence[Revision],
    serve: ServeState,
    cluster: str,
    installation: Installation | None = None,
) -> list[serve_config.Json]:
    """Return the Serve applications of one ModelDeployment's live revisions on a cluster. `known` are all of its revisions.

    For an invalid spec or a deleted revision, the application stays as Serve has deployed it.
    """
    meta = model_deployment["metadata"]
    current = accept_model_deployment(model_deployment, installation).spec
    status = ModelDeploymentStatus.parse(model_deployment.get("status"))
    places = desired_state.clusters_by_revision(status)
    found = []
    for number, replicas in sorted(live_revisions(status).items()):
        revision = revisions.find_by_number(known, number)
        if places[number] != cluster:
            continue
        if revision is None:
            # A user deleted the ControllerRevision. Edges may still send requests to its application.
            found += _deployed_configs({names.application(meta["name"], number)}, serve)
        else:
            attempt = status.stable.failures if status.stable and status.stable.revision == number else 0
            spec = current or revisions.spec_of(revision)
            scale = serve_config.resolve_scale(status, number, spec, replicas)
            app = serve_config.make_application(
                meta["namespace"], meta["name"], revision, spec, scale, attempt, in_pods=installation is not None
            )
            found.append(app if current else _keep_deployed_config(app, serve))
    return found


def _keep_deployed_config(app: serve_config.Json, serve: ServeState) -> serve_config.Json:
    """Return the deployed configuration of an application, with the wanted fixed number of replicas.

    The replicas still follow the rollout: a canary in place may have to give them back to stable.
    """
    deployed = serve.applications.get(app["name"])
    if deployed is None or deployed.config.get("args") != app["args"]:
        return app
    pairs = zip(deployed.config["deployments"], app["deployments"], strict=False)
    number = "num_replicas"
    kept = [{**found, **({number: wanted[number]} if number in found else {})} for found, wanted in pairs]
    return {**deployed.config, "deployments": kept}
