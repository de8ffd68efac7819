"""RayClusters in a Kubernetes cluster, with what belongs to each: the namespace's token, its store, its worker groups."""

import logging
import secrets as randomness
from collections import Counter
from collections.abc import Sequence
from typing import Final

from sundog_operator.api.installation import Installation
from sundog_operator.app.apply import ensure_created
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.valkey_store import apply_valkey
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import names
from sundog_operator.core.ray import clusters, heads, token, valkey
from sundog_operator.core.ray import groups as ray_groups
from sundog_operator.core.ray import pods as ray_pods
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.ray.groups import GroupState
from sundog_operator.core.ray.valkey import ValkeyServer, ValkeyStore
from sundog_operator.errors import DependencyError
from sundog_operator.ports import POD, RAY_CLUSTER, SECRET, STATEFUL_SET, Object, Ref, ref_of

log = logging.getLogger("sundog.operator")

TOKEN_BYTES: Final = 32
REDIS_CLEANUP: Final = "ray.io/gcs-ft-redis-cleanup-finalizer"


def resolve_cluster_view(world: Dependencies, namespace: str, name: str, obj: Object | None) -> ClusterView:
    """A RayCluster as it is reached from here: in local mode by the address in its status, else by the name of its head's Service."""
    installation = world.settings.installation
    address = names.head_address(name, namespace, installation.cluster_domain) if installation else ""
    return clusters.parse_cluster_view(name, obj, address)


async def ensure_ray_cluster(
    world: Dependencies,
    installation: Installation,
    wanted: Object,
    groups: list[Object],
    stored: Object | None,
    deployed: frozenset[str] | None,
) -> Object:
    """Make the RayCluster and all that is its own as wanted. Returns what is stored then.

    `wanted` is the RayCluster without its groups, `deployed` the applications that Serve has, None while it cannot be asked.
    Raises DependencyError; Conflict where somebody else wrote it meanwhile, as Ray's autoscaler does.
    """
    meta = wanted["metadata"]
    if stored is None or not _is_up(stored):
        # What serves has it: Secrets are asked for one by one, and never kept in memory.
        if _has_own_store(installation):
            await _wait_for_former_store(world, meta, stored)
        await _ensure_token(world, meta["namespace"], meta["ownerReferences"])
    if stored is None:
        started = [{**group, "replicas": group["minReplicas"]} for group in groups]
        stored = await world.kube.create({**wanted, "spec": {**wanted["spec"], "workerGroupSpecs": started}})
    else:
        pods = await world.kube.list(POD, meta["namespace"], {ray_groups.LABEL_CLUSTER: meta["name"]})
        changed = ray_pods.update_ray_cluster(stored, wanted, groups, _presence(pods, deployed))
        if changed is not None:
            await _ensure_token(world, meta["namespace"], meta["ownerReferences"])
            stored = await world.kube.replace(changed)
        for pod in ray_groups.find_orphaned_pods(pods, [*(stored["spec"].get("workerGroupSpecs") or ()), *groups]):
            await world.kube.delete(ref_of(pod), uid=pod["metadata"]["uid"])
        await _replace_heads(world, stored, pods)
    if _has_own_store(installation):
        await _ensure_store(world, installation, stored)
    return stored


async def release_finalizer(world: Dependencies, stored: Object) -> None:
    """Let a RayCluster that is being deleted go, without KubeRay's clean-up of its store, which goes with it.

    That clean-up is a Job: where the namespace is being deleted, none can be made, and the namespace would stay for ever.
    """
    finalizers = stored["metadata"].get("finalizers") or []
    if world.settings.installation is None or not valkey.has_own_store(stored) or REDIS_CLEANUP not in finalizers:
        return
    kept = [each for each in finalizers if each != REDIS_CLEANUP]
    await world.kube.replace({**stored, "metadata": {**stored["metadata"], "finalizers": kept}})


async def _replace_heads(world: Dependencies, cluster: Object, pods: Sequence[Object]) -> None:
    keeps_state = "gcsFaultToleranceOptions" in cluster["spec"]
    for head in heads.find_heads_without_autoscaler(pods, keeps_state=keeps_state):
        log.warning(
            "%s is deleted, for another to come: its container %s has ended", ref_of(head), heads.AUTOSCALER_CONTAINER
        )
        await world.kube.delete(ref_of(head), uid=head["metadata"]["uid"])


def _presence(found: Sequence[Object], deployed: frozenset[str] | None) -> GroupState:
    pods: dict[str, list[str]] = {}
    running: Counter[str] = Counter()
    for pod in found:
        group = str(pod["metadata"]["labels"].get(ray_groups.LABEL_GROUP, ""))
        pods.setdefault(group, []).append(pod["metadata"]["name"])
        running[group] += (pod.get("status") or {}).get("phase") == "Running"
    return GroupState(pods, running, deployed)


async def _ensure_token(world: Dependencies, namespace: str, owners: Sequence[Object]) -> None:
    await ensure_created(
        world,
        Ref(SECRET, namespace, names.RAY),
        owners,
        lambda: token.make_secret(namespace, owners, randomness.token_hex(TOKEN_BYTES)),
    )


def _is_up(cluster: Object) -> bool:
    return not clusters.parse_cluster_view(cluster["metadata"]["name"], cluster, "-").problem


def _has_own_store(installation: Installation) -> bool:
    wanted = installation.ray.gcs_fault_tolerance
    return wanted.enabled and not wanted.external.address


async def _wait_for_former_store(world: Dependencies, meta: Object, stored: Object | None) -> None:
    """See to it that nothing of a store is left that goes with a RayCluster of the same name before. Raises DependencyError.

    The garbage collector takes one object after the other. Whatever was taken over until then would run on with a password that is gone.
    """
    uid = stored["metadata"]["uid"] if stored is not None else ""
    for kind in (SECRET, STATEFUL_SET):
        ref = Ref(kind, meta["namespace"], names.valkey(meta["name"]))
        found = await world.kube.get(ref)
        if found is not None and valkey.has_other_owner(found, uid):
            owners = ", ".join(revisions.owner_uids(found))
            raise DependencyError(
                f"{ref} belongs to another owner, of uid {owners}, with whom it goes: it is made anew once it is gone"
            )


async def _ensure_store(world: Dependencies, installation: Installation, cluster: Object) -> None:
    wanted, store = installation.ray.gcs_fault_tolerance, valkey.make_cluster_store(cluster)
    secret = Ref(SECRET, store.namespace, store.name)
    if not _is_up(cluster) and await world.kube.get(secret) is None:
        await _end_store(world, store)
        password = randomness.token_hex(TOKEN_BYTES)
        await world.kube.create(valkey.make_secret(store, {names.PASSWORD_KEY: password}))
    await apply_valkey(world, store, ValkeyServer(wanted.image, wanted.storage), installation.ray.pods)


async def _end_store(world: Dependencies, store: ValkeyStore) -> None:
    """Delete what runs with a password that is gone, for it to come again with the new one.

    Before that is made: whoever dies in between finds none again.
    """
    for pod in await world.kube.list(POD, store.namespace, store.selector):
        await world.kube.delete(ref_of(pod), uid=pod["metadata"]["uid"])


async def delete_unused(world: Dependencies, key: Key, stored: Object) -> None:
    """Delete a RayCluster that no ModelDeployment needs any more although its owners live, as when they changed their image."""
    await world.kube.delete(Ref(RAY_CLUSTER, key.namespace, key.name), uid=stored["metadata"]["uid"])
