"""Apply RayClusters in a Kubernetes cluster, with the namespace's token, their stores and their worker groups."""

import logging
import secrets as randomness
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Final

from sundog_operator.api.installation import Installation
from sundog_operator.app.apply import ensure, ensure_created
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.event_recorder import record_events
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.valkey_store import apply_valkey
from sundog_operator.core import events, revisions
from sundog_operator.core.kubernetes import names
from sundog_operator.core.ray import clusters, heads, token, valkey
from sundog_operator.core.ray import groups as ray_groups
from sundog_operator.core.ray import pods as ray_pods
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.ray.groups import GroupState
from sundog_operator.core.ray.valkey import ValkeyServer, ValkeyStore
from sundog_operator.errors import Conflict, DependencyError, NotFound, SundogError
from sundog_operator.ports import (
    POD,
    POD_DISRUPTION_BUDGET,
    RAY_CLUSTER,
    SECRET,
    STATEFUL_SET,
    Object,
    Ref,
    ref_of,
)

log = logging.getLogger("sundog.operator")

TOKEN_BYTES: Final = 32
_STORAGE_NAME_BYTES: Final = 8
REDIS_CLEANUP: Final = "ray.io/gcs-ft-redis-cleanup-finalizer"


def resolve_cluster_view(deps: Dependencies, namespace: str, name: str, obj: Object | None) -> ClusterView:
    """Return the state of a RayCluster. Its address is the one in the status in local mode, else the name of its head's Service."""
    installation = deps.settings.installation
    address = names.head_address(name, namespace, installation.cluster_domain) if installation else ""
    rejection, ungrown = deps.rejected_clusters.get((namespace, name), ("", frozenset[str]()))
    return replace(clusters.parse_cluster_view(name, obj, address), rejection=rejection, ungrown_groups=ungrown)


async def ensure_ray_cluster(
    deps: Dependencies,
    installation: Installation,
    desired: Object,
    groups: list[Object],
    stored: Object | None,
    deployed: frozenset[str] | None,
) -> tuple[Object, SundogError | None]:
    """Apply a RayCluster, its token, its store and its worker groups. Return the stored RayCluster, and why it could not be changed.

    Such a failure need not stop what runs on the RayCluster as it is. Raises DependencyError, Invalid for a new one, and Conflict where
    another client changed it meanwhile, as Ray's autoscaler does.

    Args:
        deps: the dependencies.
        installation: the administrator's settings.
        desired: the RayCluster without its groups.
        groups: the wanted worker groups.
        stored: the stored RayCluster; None where it does not exist.
        deployed: the groups with a replica in Serve; None while Serve does not answer.
    """
    meta, failure = desired["metadata"], None
    if stored is None or not _is_ready(stored):
        # A ready cluster has its Secrets. They are not kept in memory, so each check is a request to the API server.
        if _has_own_store(installation):
            await _wait_for_former_store(deps, meta, stored)
        await _ensure_token(deps, meta["namespace"], meta["ownerReferences"])
    if stored is None or not ray_pods.has_external_store(stored):
        desired = ray_pods.name_storage(desired, randomness.token_hex(_STORAGE_NAME_BYTES))
    if stored is None:
        initial = [{**group, "replicas": group["minReplicas"]} for group in groups]
        made = {**desired, "spec": {**desired["spec"], "workerGroupSpecs": initial}}
        stored = await _write(deps, made, None, deps.kube.create(made))
    else:
        pods = await deps.kube.list(POD, meta["namespace"], {ray_groups.LABEL_CLUSTER: meta["name"]})
        changed = ray_pods.update_ray_cluster(stored, desired, groups, _make_group_state(pods, deployed))
        if changed is None:
            deps.rejected_clusters.pop((meta["namespace"], meta["name"]), None)
        else:
            await _ensure_token(deps, meta["namespace"], meta["ownerReferences"])
            try:
                stored = await _write(deps, changed, stored, deps.kube.replace(changed))
            except (Conflict, NotFound):
                raise
            except SundogError as err:
                failure = err
        for pod in ray_groups.find_orphaned_pods(pods, [*(stored["spec"].get("workerGroupSpecs") or ()), *groups]):
            await deps.kube.delete(ref_of(pod), uid=pod["metadata"]["uid"])
        await _replace_heads(deps, stored, pods)
    if _has_own_store(installation):
        await _ensure_store(deps, installation, stored)
    return stored, failure


async def _write(deps: Dependencies, changed: Object, stored: Object | None, write: Awaitable[Object]) -> Object:
    """Return the result of a write of a RayCluster. Raises SundogError, and keeps why the API server rejected the write."""
    meta = changed["metadata"]
    try:
        written = await write
    except SundogError as err:
        if clusters.is_rejection(err):
            before, after = ((each or {"spec": {}})["spec"].get("workerGroupSpecs") or () for each in (stored, changed))
            ungrown = ray_groups.find_grown_groups(before, after)
            deps.rejected_clusters[meta["namespace"], meta["name"]] = clusters.describe_rejection(err), ungrown
        raise
    deps.rejected_clusters.pop((meta["namespace"], meta["name"]), None)
    return written


async def apply_disruption_budgets(deps: Dependencies, installation: Installation, cluster: Object) -> None:
    """Apply the PodDisruptionBudgets of a stored RayCluster's workers, and delete those that are not needed. Raises DependencyError.

    Budgets of the same names that others made stay as they are.
    """
    meta = cluster["metadata"]
    stored = await deps.kube.list(POD_DISRUPTION_BUDGET, meta["namespace"], {ray_groups.LABEL_CLUSTER: meta["name"]})
    unneeded = {each["metadata"]["name"]: each for each in stored if clusters.is_managed_by_sundog(each)}
    wanted = ray_groups.make_disruption_budgets(cluster) if installation.ray.disruption_budgets else []
    for budget in wanted:
        found = unneeded.pop(budget["metadata"]["name"], None) or await deps.kube.get(ref_of(budget))
        if not clusters.is_foreign(found):
            await ensure(deps, budget, found)
    for budget in unneeded.values():
        await deps.kube.delete(ref_of(budget), uid=budget["metadata"]["uid"])


async def release_finalizer(deps: Dependencies, stored: Object) -> None:
    """Remove the finalizer of KubeRay's store clean-up from a RayCluster that is being deleted. Raises DependencyError.

    The store is deleted with its RayCluster anyway. The clean-up is a Job, which cannot be created in a namespace that is being deleted, so
    the namespace would never go away. Without a store in its spec, KubeRay would not remove the finalizer at all. KubeRay cleans up an
    external store.
    """
    finalizers = stored["metadata"].get("finalizers") or []
    is_external = "gcsFaultToleranceOptions" in stored["spec"] and not valkey.has_own_store(stored)
    if deps.settings.installation is None or is_external or REDIS_CLEANUP not in finalizers:
        return
    kept = [each for each in finalizers if each != REDIS_CLEANUP]
    await deps.kube.replace({**stored, "metadata": {**stored["metadata"], "finalizers": kept}})


async def _replace_heads(deps: Dependencies, cluster: Object, pods: Sequence[Object]) -> None:
    store = (cluster["spec"].get("gcsFaultToleranceOptions") or {}).get("redisAddress", "")
    for head in heads.find_heads_without_autoscaler(pods, store):
        meta = head["metadata"]
        log.warning("%s: container %s has ended; the head is replaced", ref_of(head), heads.AUTOSCALER_CONTAINER)
        event = events.head_replaced(meta["name"], meta["uid"], heads.AUTOSCALER_CONTAINER)
        await record_events(deps, cluster, [event])
        await deps.kube.delete(ref_of(head), uid=meta["uid"])


def _make_group_state(found: Sequence[Object], deployed: frozenset[str] | None) -> GroupState:
    pods: dict[str, list[str]] = {}
    running: Counter[str] = Counter()
    for pod in found:
        group = str(pod["metadata"]["labels"].get(ray_groups.LABEL_GROUP, ""))
        pods.setdefault(group, []).append(pod["metadata"]["name"])
        running[group] += (pod.get("status") or {}).get("phase") == "Running"
    return GroupState(pods, running, deployed)


async def _ensure_token(deps: Dependencies, namespace: str, owners: Sequence[Object]) -> None:
    await ensure_created(
        deps,
        Ref(SECRET, namespace, names.RAY),
        owners,
        lambda: token.make_secret(namespace, owners, randomness.token_hex(TOKEN_BYTES)),
    )


def _is_ready(cluster: Object) -> bool:
    return not clusters.parse_cluster_view(cluster["metadata"]["name"], cluster, "-").problem


def _has_own_store(installation: Installation) -> bool:
    wanted = installation.ray.gcs_fault_tolerance
    return wanted.enabled and not wanted.external.address


async def _wait_for_former_store(deps: Dependencies, meta: Object, stored: Object | None) -> None:
    """Raise DependencyError while objects of a store exist that belong to an earlier RayCluster of the same name.

    The garbage collector deletes them one after the other. An adopted object would keep running with a deleted password.
    """
    uid = stored["metadata"]["uid"] if stored is not None else ""
    for kind in (SECRET, STATEFUL_SET):
        ref = Ref(kind, meta["namespace"], names.valkey(meta["name"]))
        found = await deps.kube.get(ref)
        if found is not None and valkey.has_other_owner(found, uid):
            owners = ", ".join(revisions.owner_uids(found))
            raise DependencyError(
                f"{ref}: belongs to another owner with uid {owners}; waiting until Kubernetes has deleted it"
            )


async def _ensure_store(deps: Dependencies, installation: Installation, cluster: Object) -> None:
    wanted, store = installation.ray.gcs_fault_tolerance, valkey.make_cluster_store(cluster)
    secret, stateful_set = Ref(SECRET, store.namespace, store.name), Ref(STATEFUL_SET, store.namespace, store.name)
    # A ready head may be older than its store, whose Secret then does not exist yet.
    may_lack_secret = not _is_ready(cluster) or await deps.kube.get(stateful_set) is None
    if may_lack_secret and await deps.kube.get(secret) is None:
        await _delete_store_pods(deps, store)
        password = randomness.token_hex(TOKEN_BYTES)
        await deps.kube.create(valkey.make_secret(store, {names.PASSWORD_KEY: password}))
    await apply_valkey(deps, store, ValkeyServer(wanted.image, wanted.storage), installation.ray.pods)


async def _delete_store_pods(deps: Dependencies, store: ValkeyStore) -> None:
    """Delete the store's pods, which run with a deleted password. New ones start with the new password.

    Call it before the Secret is created: if the process dies in between, the next pass finds no Secret and deletes them again.
    """
    for pod in await deps.kube.list(POD, store.namespace, store.selector):
        await deps.kube.delete(ref_of(pod), uid=pod["metadata"]["uid"])


async def delete_unused(deps: Dependencies, key: Key, stored: Object) -> None:
    """Delete a RayCluster that no ModelDeployment needs although its owners exist, for example after a change of their image."""
    await deps.kube.delete(Ref(RAY_CLUSTER, key.namespace, key.name), uid=stored["metadata"]["uid"])
