"""Reconcile the edge of a namespace: one split document for all its services, and the pods that read it."""

import logging
import math
from collections.abc import Sequence
from typing import Any

from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.api.installation import Installation
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
from sundog_operator.core.ray.clusters import ClusterView, is_foreign
from sundog_operator.core.ray.scaling import COLD_START_ON_REQUEST
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
"""Nothing to do until the idle check finds a change. It checks neither objects of others nor a store's Secrets."""
UNCONFIRMED_RESYNC_S = 1.0


async def reconcile_edge(deps: Dependencies, key: Key) -> float | None:
    """Run one pass. Return the seconds until the next one; None for a namespace without services.

    Raises DependencyError, and Invalid where the API server rejects an object.
    """
    state = await NamespaceState(deps, key.namespace).read(key)
    again_s = await _reconcile(deps, key)
    idle = again_s == IDLE_RESYNC_S
    return deps.idle_keys.update(key, state, RESYNC_S if idle else again_s, idle=idle)


async def _reconcile(deps: Dependencies, key: Key) -> float | None:
    deployments = sorted(await deps.kube.list(MODEL_DEPLOYMENT, key.namespace), key=hosts.creation_order)
    config_map = await deps.kube.get(Ref(CONFIG_MAP, key.namespace, names.EDGE))
    deployment = await deps.kube.get(Ref(DEPLOYMENT, key.namespace, names.EDGE))
    if is_foreign(config_map):
        return RESYNC_S
    previous = split_document.read_document(config_map)
    model_deployments = [
        obj
        for obj in deployments
        if _assigned_cluster(obj) or split_document.find_service_entry(previous, obj["metadata"]["name"])
    ]
    installation = deps.settings.installation
    if not model_deployments:
        is_draining = installation is not None and await edge_resources.delete_policies(deps, key.namespace)
        return RESYNC_S if is_draining else None
    document = await _make_document(deps, key.namespace, model_deployments, previous)
    if installation is None:
        await ensure(deps, objects.make_config_map(key.namespace, model_deployments, document), config_map)
        if is_foreign(deployment):
            return RESYNC_S
        wanted = objects.make_local_deployment(key.namespace, model_deployments, deps.settings.edge_image)
        await ensure(deps, wanted, deployment)
        return IDLE_RESYNC_S
    stored = (config_map, deployment)
    return await _apply_cluster_edge(deps, key.namespace, model_deployments, installation, stored, (previous, document))


async def _make_document(
    deps: Dependencies, namespace: str, model_deployments: list[Object], previous: dict[str, Any] | None
) -> dict[str, Any]:
    experiments = {obj["metadata"]["name"]: obj for obj in await deps.kube.list(EXPERIMENT, namespace)}
    owned = revisions.group_by_owner(
        await deps.kube.views(CONTROLLER_REVISION, namespace, revisions.parse_stored_revision)
    )
    entries = (
        _make_entry(
            deps,
            model_deployment,
            model_deployments,
            experiments,
            owned.get(model_deployment["metadata"]["uid"], []),
            previous,
        )
        for model_deployment in model_deployments
    )
    services = [entry for entry in entries if entry is not None]
    views = await _cluster_views(deps, namespace, model_deployments, services)
    clusters = split_document.make_cluster_entries(views, previous)
    document = split_document.make_document(namespace, services, clusters, previous, deps.settings.cluster_domain)
    _log_dropped_overrides(namespace, services, document, previous)
    return document


async def _apply_cluster_edge(
    deps: Dependencies,
    namespace: str,
    model_deployments: list[Object],
    installation: Installation,
    stored: tuple[Object | None, Object | None],
    documents: tuple[dict[str, Any] | None, dict[str, Any]],
) -> float:
    """Apply the edge of a Kubernetes cluster, and return the seconds until the next pass.

    `stored` are the ConfigMap and the Deployment, `documents` the previous and the new split document.
    """
    (config_map, deployment), document = stored, documents[1]
    # A Secret is copied before the document names it, and removed in a later pass than its name.
    is_own = await edge_resources.apply_secrets(deps, namespace, model_deployments, documents)
    # Traffic moves whatever else is foreign, so that a bad canary can be rolled back.
    await ensure(deps, objects.make_config_map(namespace, model_deployments, document), config_map)
    is_own &= not await edge_resources.find_foreign_shared_objects(deps, namespace, installation)
    # A first pod must not run with a ServiceAccount or a Secret of others.
    if is_foreign(deployment) or (deployment is None and not is_own):
        return RESYNC_S
    await edge_resources.apply_shared_objects(deps, namespace, model_deployments, installation)
    needs_store = await edge_store.is_needed(deps, namespace)
    feedback = needs_store and await edge_store.apply_edge_store(deps, namespace, model_deployments, installation)
    has_pods = await edge_resources.apply_pods(
        deps,
        namespace,
        model_deployments,
        installation,
        deployment,
        feedback=feedback,
        drain_s=grace_periods.edge_drain_s(document["services"]),
        kept_drain_s=grace_periods.edge_drain_s(document["services"], COLD_START_ON_REQUEST),
    )
    if not needs_store:
        await edge_store.delete_edge_store(deps, namespace, deployment)
    errors = await edge_resources.apply_services(deps, model_deployments, document)
    if has_pods:
        errors += await edge_resources.apply_routes(deps, namespace, model_deployments, document)
    if errors:
        raise errors[0]
    if not has_pods:
        return UNCONFIRMED_RESYNC_S
    return IDLE_RESYNC_S if is_own and not needs_store else RESYNC_S


def _log_dropped_overrides(
    namespace: str, services: Sequence[Object], document: Object, previous: Object | None
) -> None:
    """Log once, when the document changes, which services lost overrides."""
    if document != previous and (dropped := split_document.find_services_with_dropped_overrides(services, document)):
        log.warning(
            "namespace %s: overrides name more than %d networks, so some of %s are ignored; name fewer networks",
            namespace,
            split_document.MAX_OVERRIDE_NETWORKS,
            ", ".join(dropped),
        )


def _assigned_cluster(deployment: Object) -> str:
    return ModelDeploymentStatus.parse(deployment.get("status")).cluster


def _make_entry(
    deps: Dependencies,
    model_deployment: Object,
    model_deployments: list[Object],
    experiments: dict[str, Object],
    owned: Sequence[Revision],
    previous: dict[str, Any] | None,
) -> dict[str, Any] | None:
    """Return the entry of one ModelDeployment; None where it can have none yet."""
    meta = model_deployment["metadata"]
    status = ModelDeploymentStatus.parse(model_deployment.get("status"))
    uid, rollout = desired_state.find_active_experiment(status, experiments)
    domain = deps.settings.cluster_domain
    return desired_state.desired_entry(
        model_deployment,
        status,
        desired_state.desired_split(model_deployment, status, uid, rollout),
        accept_model_deployment(model_deployment, deps.settings.installation).spec,
        split_document.find_service_entry(previous, meta["name"]),
        owned,
        has_host=not hosts.find_conflicting_deployment(model_deployment, model_deployments, domain),
        domain=domain,
    )


async def _cluster_views(
    deps: Dependencies, namespace: str, model_deployments: list[Object], services: Sequence[Object]
) -> list[ClusterView]:
    """Return the RayClusters that statuses need, and those of entries that stay as they are because a status was lost."""
    used = {
        name
        for obj in model_deployments
        for name in desired_state.needed_clusters(ModelDeploymentStatus.parse(obj.get("status")))
    }
    used.update(*map(split_document.find_clusters, services))
    return [
        resolve_cluster_view(deps, namespace, name, await deps.kube.get(Ref(RAY_CLUSTER, namespace, name)))
        for name in sorted(used)
    ]
