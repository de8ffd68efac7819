"""RayClusters in a Kubernetes cluster, with what belongs to each: the namespace's token, its store, its worker groups."""

import logging
import secrets as randomness
from collections import Counter
from collections.abc import Sequence
from typing import Final

from sundog_operator.api.installation import Installation
from sundog_operator.app.children import ensure
from sundog_operator.app.keys import Key
from sundog_operator.app.world import World
from sundog_operator.core import names, ray_cluster, ray_groups, ray_heads, ray_pods, ray_token, valkey
from sundog_operator.core.ray_cluster import ClusterView, is_ours
from sundog_operator.core.ray_groups import Presence
from sundog_operator.errors import Conflict
from sundog_operator.ports import POD, RAY_CLUSTER, SECRET, SERVICE, STATEFUL_SET, Object, Ref, ref_of

log = logging.getLogger("sundog.operator")

TOKEN_BYTES: Final = 32
REDIS_CLEANUP: Final = "ray.io/gcs-ft-redis-cleanup-finalizer"


def view_of(world: World, namespace: str, name: str, obj: Object | None) -> ClusterView:
    """A RayCluster as it is reached from here: in local mode by the address in its status, else by the name of its head's Service."""
    installation = world.settings.installation
    address = names.head_address(name, namespace, installation.cluster_domain) if installation else ""
    return ray_cluster.view(name, obj, address)


async def ensure_managed(
    world: World,
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
        await _ensure_token(world, meta["namespace"], meta["ownerReferences"])
    if stored is None:
        started = [{**group, "replicas": group["minReplicas"]} for group in groups]
        stored = await world.kube.create({**wanted, "spec": {**wanted["spec"], "workerGroupSpecs": started}})
    else:
        pods = await world.kube.list(POD, meta["namespace"], {ray_groups.LABEL_CLUSTER: meta["name"]})
        changed = ray_pods.renew(stored, wanted, groups, _presence(pods, deployed))
        if changed is not None:
            await _ensure_token(world, meta["namespace"], meta["ownerReferences"])
            stored = await world.kube.replace(changed)
        for pod in ray_groups.forgotten(pods, [*(stored["spec"].get("workerGroupSpecs") or ()), *groups]):
            await world.kube.delete(ref_of(pod), uid=pod["metadata"]["uid"])
        await _replace_heads(world, stored, pods)
    if _has_own_store(installation):
        await _ensure_store(world, installation, stored)
    return stored


async def let_go(world: World, stored: Object) -> None:
    """Let a RayCluster that is being deleted go, without KubeRay's clean-up of its store, which goes with it.

    That clean-up is a Job: where the namespace is being deleted, none can be made, and the namespace would stay for ever.
    """
    finalizers = stored["metadata"].get("finalizers") or []
    if world.settings.installation is None or not valkey.is_of(stored) or REDIS_CLEANUP not in finalizers:
        return
    kept = [each for each in finalizers if each != REDIS_CLEANUP]
    await world.kube.replace({**stored, "metadata": {**stored["metadata"], "finalizers": kept}})


async def _replace_heads(world: World, cluster: Object, pods: Sequence[Object]) -> None:
    keeps_state = "gcsFaultToleranceOptions" in cluster["spec"]
    for head in ray_heads.without_autoscaler(pods, keeps_state=keeps_state):
        log.warning(
            "%s is deleted, for another to come: its container %s has ended", ref_of(head), ray_heads.AUTOSCALER
        )
        await world.kube.delete(ref_of(head), uid=head["metadata"]["uid"])


def _presence(found: Sequence[Object], deployed: frozenset[str] | None) -> Presence:
    pods: dict[str, list[str]] = {}
    running: Counter[str] = Counter()
    for pod in found:
        group = str(pod["metadata"]["labels"].get(ray_groups.LABEL_GROUP, ""))
        pods.setdefault(group, []).append(pod["metadata"]["name"])
        running[group] += (pod.get("status") or {}).get("phase") == "Running"
    return Presence(pods, running, deployed)


async def _ensure_token(world: World, namespace: str, owners: Sequence[Object]) -> None:
    stored = await world.kube.get(Ref(SECRET, namespace, names.RAY))
    if stored is None:
        await world.kube.create(ray_token.make_secret(namespace, owners, randomness.token_hex(TOKEN_BYTES)))
    elif not is_ours(stored):
        raise Conflict(f"Secret {namespace}/{names.RAY} exists and was not made by Sundog; it is left alone")
    elif (wanted := ray_token.with_owners(stored, owners)) is not None:
        await world.kube.replace(wanted)


def _is_up(cluster: Object) -> bool:
    return not ray_cluster.view(cluster["metadata"]["name"], cluster, "-").problem


def _has_own_store(installation: Installation) -> bool:
    wanted = installation.ray.gcs_fault_tolerance
    return wanted.enabled and not wanted.external.address


async def _ensure_store(world: World, installation: Installation, cluster: Object) -> None:
    namespace, name = cluster["metadata"]["namespace"], names.valkey(cluster["metadata"]["name"])
    if not _is_up(cluster) and await world.kube.get(Ref(SECRET, namespace, name)) is None:
        await world.kube.create(valkey.make_secret(cluster, randomness.token_hex(TOKEN_BYTES)))
    await ensure(world, valkey.make_service(cluster), await world.kube.get(Ref(SERVICE, namespace, name)))
    stored = await world.kube.get(Ref(STATEFUL_SET, namespace, name))
    wanted = valkey.make_stateful_set(cluster, installation.ray.gcs_fault_tolerance, installation.ray.pods, stored)
    if stored is None or not valkey.is_as(stored, wanted):
        await world.kube.apply(wanted)


async def abandon(world: World, key: Key, stored: Object) -> None:
    """Delete a RayCluster that no ModelDeployment needs any more although its owners live, as when they changed their image."""
    await world.kube.delete(Ref(RAY_CLUSTER, key.namespace, key.name), uid=stored["metadata"]["uid"])
