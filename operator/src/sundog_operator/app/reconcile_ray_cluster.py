"""Reconciles one RayCluster: its members own it, and its Serve document is the union of their live revisions."""

from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.app.children import ensure
from sundog_operator.app.keys import Key
from sundog_operator.app.world import World
from sundog_operator.core import names, ray_cluster, revisions, serve_config, traffic
from sundog_operator.core.live import live_revisions
from sundog_operator.core.observed import ServeState
from sundog_operator.core.spec import accept
from sundog_operator.ports import CONFIG_MAP, CONTROLLER_REVISION, MODEL_DEPLOYMENT, RAY_CLUSTER, Object, Ref

RESYNC_S = 10.0
NOT_READY_S = 0.5


async def reconcile_ray_cluster(world: World, key: Key) -> float | None:
    """One pass. Returns after how many seconds to look again, None for a cluster without members. Raises DependencyError."""
    deployments = await world.kube.list(MODEL_DEPLOYMENT, key.namespace)
    members = _members(deployments, key.name)
    stored = await world.kube.get(Ref(RAY_CLUSTER, key.namespace, key.name))
    if stored is not None and not ray_cluster.is_ours(stored):
        return RESYNC_S
    if not members:
        return None
    wanted = ray_cluster.make_ray_cluster(key.namespace, key.name, members, world.settings.runtime_image)
    stored = await ensure(world, wanted, stored)
    view = ray_cluster.view(key.name, stored)
    if view.problem:
        return NOT_READY_S
    serve = await world.serve.read(view.dashboard)
    # Serve may have taken its time: what is live is read after its answer, right before the PUT that deletes all that is not.
    deployments = await world.kube.list(MODEL_DEPLOYMENT, key.namespace)
    stored_revisions = await world.kube.list(CONTROLLER_REVISION, key.namespace)
    split = traffic.read_document(await world.kube.get(Ref(CONFIG_MAP, key.namespace, names.EDGE)))
    applications = [
        app for member in _members(deployments, key.name) for app in applications_of(member, stored_revisions, serve)
    ]
    carrying = traffic.carrying(split, key.name, {obj["metadata"]["name"] for obj in deployments})
    applications += _kept(carrying - {app["name"] for app in applications}, serve)
    deployed = {name: app.config for name, app in serve.applications.items()}
    if not serve.known or serve_config.differs(applications, deployed):
        await world.serve.put(view.dashboard, serve_config.make_document(applications, view))
    return RESYNC_S


def _members(deployments: list[Object], cluster: str) -> list[Object]:
    return [obj for obj in deployments if ModelDeploymentStatus.parse(obj.get("status")).cluster == cluster]


def _kept(applications: set[str], serve: ServeState) -> list[serve_config.Json]:
    """What is deployed under these names. Whatever became of a status or a revision: nothing that edges send traffic to is taken away."""
    return [dict(serve.applications[name].config) for name in sorted(applications) if name in serve.applications]


def applications_of(member: Object, stored_revisions: list[Object], serve: ServeState) -> list[serve_config.Json]:
    """The Serve applications of one ModelDeployment's live revisions.

    A spec that is refused changes nothing, nor does a revision that is gone: what Serve has deployed for it stays as it is.
    """
    meta = member["metadata"]
    known = revisions.read_owned(stored_revisions, meta["uid"])
    current = accept(member).spec
    status = ModelDeploymentStatus.parse(member.get("status"))
    found = []
    for number, replicas in sorted(live_revisions(status).items()):
        revision = revisions.by_number(known, number)
        if revision is None:
            # Somebody deleted it. Edges may still send it what they were told before.
            found += _kept({names.application(meta["name"], number)}, serve)
        else:
            attempt = status.stable.failures if status.stable and status.stable.revision == number else 0
            spec = current or revisions.spec_of(revision)
            app = serve_config.make_application(meta["namespace"], meta["name"], revision, spec, replicas, attempt)
            found.append(app if current else _as_deployed(app, serve))
    return found


def _as_deployed(app: serve_config.Json, serve: ServeState) -> serve_config.Json:
    deployed = serve.applications.get(app["name"])
    return dict(deployed.config) if deployed is not None and deployed.config.get("args") == app["args"] else app
