"""Reconciles the edge of one namespace: one split document for all its services, and the pods that follow it."""

from typing import Any

import orjson

from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.app.children import ensure
from sundog_operator.app.keys import Key
from sundog_operator.app.world import World
from sundog_operator.core import edge_objects, hosts, live, names, ray_cluster, traffic
from sundog_operator.core.ray_cluster import ClusterView, is_ours
from sundog_operator.core.spec import accept
from sundog_operator.ports import CONFIG_MAP, DEPLOYMENT, EXPERIMENT, MODEL_DEPLOYMENT, RAY_CLUSTER, Object, Ref

RESYNC_S = 30.0


async def reconcile_edge(world: World, key: Key) -> float | None:
    """One pass. Returns after how many seconds to look again, None for a namespace without services. Raises DependencyError."""
    deployments = await world.kube.list(MODEL_DEPLOYMENT, key.namespace)
    members = [obj for obj in deployments if ModelDeploymentStatus.parse(obj.get("status")).cluster]
    if not members:
        return None
    config_map = await world.kube.get(Ref(CONFIG_MAP, key.namespace, names.EDGE))
    deployment = await world.kube.get(Ref(DEPLOYMENT, key.namespace, names.EDGE))
    if any(stored is not None and not is_ours(stored) for stored in (config_map, deployment)):
        return RESYNC_S
    previous = previous_document(config_map)
    clusters = traffic.make_clusters(await _clusters(world, key.namespace, members), previous)
    experiments = {obj["metadata"]["name"]: obj for obj in await world.kube.list(EXPERIMENT, key.namespace)}
    entries = (service_of(member, members, experiments, previous) for member in members)
    services = [entry for entry in entries if entry is not None]
    document = traffic.make_document(key.namespace, services, clusters, previous)
    await ensure(world, edge_objects.make_config_map(key.namespace, members, document), config_map)
    await ensure(world, edge_objects.make_deployment(key.namespace, members, world.settings.edge_image), deployment)
    return RESYNC_S


def previous_document(config_map: Object | None) -> dict[str, Any] | None:
    """The split document as it is stored; None where there is none or it cannot be read."""
    try:
        document = orjson.loads(((config_map or {}).get("data") or {}).get(names.SPLIT_KEY, ""))
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def service_of(
    member: Object, members: list[Object], experiments: dict[str, Object], previous: dict[str, Any] | None
) -> dict[str, Any] | None:
    """The entry of one ModelDeployment.

    With a spec that is refused its endpoint stays as it was; the split still follows the status, so that an abort works.
    """
    meta = member["metadata"]
    status = ModelDeploymentStatus.parse(member.get("status"))
    uid, rollout = live.rollout_of(status, experiments)
    split = live.split_of(meta["name"], status, uid, rollout)
    spec = accept(member).spec
    if spec is not None:
        host = "" if hosts.taken_by(member, members) else spec.endpoint.host
        return traffic.make_service(meta["namespace"], meta["name"], spec, status.cluster, split, host=host)
    known = next((s for s in (previous or {}).get("services", ()) if s.get("name") == meta["name"]), None)
    return None if known is None else {**known, **traffic.split_fields(meta["name"], split)}


async def _clusters(world: World, namespace: str, members: list[Object]) -> list[ClusterView]:
    used = {ModelDeploymentStatus.parse(obj.get("status")).cluster for obj in members}
    return [ray_cluster.view(name, await world.kube.get(Ref(RAY_CLUSTER, namespace, name))) for name in sorted(used)]
