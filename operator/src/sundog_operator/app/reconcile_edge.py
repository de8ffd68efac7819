"""Reconciles the edge of one namespace: one split document for all its services, and the pods that follow it."""

import logging
import math
from collections.abc import Sequence
from typing import Any

from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.app import edge_resources, edge_store
from sundog_operator.app.apply import ensure
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.queue.idle_check import NamespaceState
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.ray_clusters import resolve_cluster_view
from sundog_operator.core import revisions
from sundog_operator.core.edge import hosts, objects, split_document
from sundog_operator.core.kubernetes import grace_periods, names
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.core.ray.clusters import ClusterView, is_managed_by_sundog
from sundog_operator.core.revisions import Revision
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    RAY_CLUSTER,
    Object,
    Ref,
)

log = logging.getLogger("sundog.operator")

RESYNC_S = 30.0
IDLE_RESYNC_S = math.inf
"""Nothing is left to do until something changes that a look sees. Objects of others and the Secrets of a store are none of that."""
UNCONFIRMED_RESYNC_S = 1.0


async def reconcile_edge(world: Dependencies, key: Key) -> float | None:
    """One pass. Returns after how many seconds to look again, None for a namespace without services.

    Raises DependencyError, or Invalid where the API server finds something wrong with an object.
    """
    seen_before = await NamespaceState(world, key.namespace).sees(key)
    again_s = await _reconcile(world, key)
    rests = again_s == IDLE_RESYNC_S
    return world.rests.note(key, seen_before, RESYNC_S if rests else again_s, rests=rests)


async def _reconcile(world: Dependencies, key: Key) -> float | None:
    deployments = sorted(await world.kube.list(MODEL_DEPLOYMENT, key.namespace), key=hosts.creation_order)
    config_map = await world.kube.get(Ref(CONFIG_MAP, key.namespace, names.EDGE))
    deployment = await world.kube.get(Ref(DEPLOYMENT, key.namespace, names.EDGE))
    if any(stored is not None and not is_managed_by_sundog(stored) for stored in (config_map, deployment)):
        return RESYNC_S
    previous = split_document.read_document(config_map)
    members = [
        obj
        for obj in deployments
        if _cluster_of(obj) or split_document.find_service_entry(previous, obj["metadata"]["name"])
    ]
    if not members:
        return None
    clusters = split_document.make_cluster_entries(await _clusters(world, key.namespace, members), previous)
    experiments = {obj["metadata"]["name"]: obj for obj in await world.kube.list(EXPERIMENT, key.namespace)}
    owned = revisions.group_by_owner(
        await world.kube.views(CONTROLLER_REVISION, key.namespace, revisions.parse_stored_revision)
    )
    entries = (
        _entry(world, member, members, experiments, owned.get(member["metadata"]["uid"], []), previous)
        for member in members
    )
    services = [entry for entry in entries if entry is not None]
    document = split_document.make_document(key.namespace, services, clusters, previous, world.settings.cluster_domain)
    _tell_of_networks(key.namespace, services, document, previous)
    wanted = objects.make_config_map(key.namespace, members, document)
    installation = world.settings.installation
    if installation is None:
        await ensure(world, wanted, config_map)
        made = objects.make_local_deployment(key.namespace, members, world.settings.edge_image)
        await ensure(world, made, deployment)
        return IDLE_RESYNC_S
    if await edge_resources.find_foreign_shared_objects(world, key.namespace, installation):
        return RESYNC_S
    # A Secret is there before the document names it, and goes in a later pass than its name.
    if not await edge_resources.apply_secrets(world, key.namespace, members, (previous, document)):
        return RESYNC_S
    await ensure(world, wanted, config_map)
    await edge_resources.apply_shared_objects(world, key.namespace, members, installation)
    wanted_store = await edge_store.is_needed(world, key.namespace)
    feedback = wanted_store and await edge_store.apply_edge_store(world, key.namespace, members, installation)
    there = await edge_resources.apply_pods(
        world,
        key.namespace,
        members,
        installation,
        deployment,
        feedback=feedback,
        drain_s=grace_periods.edge_drain_s(document["services"]),
    )
    if not wanted_store:
        await edge_store.delete_edge_store(world, key.namespace, deployment)
    failed = await edge_resources.apply_services(world, members, document)
    if there:
        failed += await edge_resources.apply_routes(world, key.namespace, members, document)
    if failed:
        raise failed[0]
    if not there:
        return UNCONFIRMED_RESYNC_S
    return RESYNC_S if wanted_store else IDLE_RESYNC_S


def _tell_of_networks(namespace: str, services: Sequence[Object], document: Object, previous: Object | None) -> None:
    """Say once, as the document changes, whose overrides found no room in it."""
    if document != previous and (lacking := split_document.find_services_with_dropped_overrides(services, document)):
        log.warning("overrides of %s name too many networks: without some of %s", namespace, ", ".join(lacking))


def _cluster_of(deployment: Object) -> str:
    return ModelDeploymentStatus.parse(deployment.get("status")).cluster


def _entry(
    world: Dependencies,
    member: Object,
    members: list[Object],
    experiments: dict[str, Object],
    owned: Sequence[Revision],
    previous: dict[str, Any] | None,
) -> dict[str, Any] | None:
    """The entry of one ModelDeployment.

    With a spec that is refused its endpoint stays as it was; the split still follows the status, so that an abort works. Where the status
    was lost, all stays as it was until the planner has recovered it.
    """
    meta = member["metadata"]
    name, status, known = (
        meta["name"],
        ModelDeploymentStatus.parse(member.get("status")),
        split_document.find_service_entry(previous, meta["name"]),
    )
    if not status.cluster:
        return known
    uid, rollout = desired_state.find_active_experiment(status, experiments)
    split = desired_state.desired_split(member, status, uid, rollout)
    limits = {revision.number: revisions.spec_of(revision).runtime.max_ongoing_requests for revision in owned}
    spec = accept_model_deployment(member, world.settings.installation).spec
    if spec is None and known is not None:
        return split_document.update_service_entry(known, status.cluster, name, split, limits)
    if spec is None:
        stable = revisions.find_by_number(owned, status.stable.revision if status.stable else None)
        spec = revisions.spec_of(stable) if stable else None
    if spec is None:
        return None
    domain = world.settings.cluster_domain
    host = "" if hosts.find_conflicting_deployment(member, members, domain) else spec.endpoint.host
    return split_document.make_service_entry(
        meta["namespace"], name, spec, status.cluster, split, host=host, limits=limits, domain=domain
    )


async def _clusters(world: Dependencies, namespace: str, members: list[Object]) -> list[ClusterView]:
    used = {
        name
        for obj in members
        for name in desired_state.needed_clusters(ModelDeploymentStatus.parse(obj.get("status")))
    }
    return [
        resolve_cluster_view(world, namespace, name, await world.kube.get(Ref(RAY_CLUSTER, namespace, name)))
        for name in sorted(used)
    ]
