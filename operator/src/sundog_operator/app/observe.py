"""Reads all that a plan looks at, fresh."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.app.edge_in_cluster import foreign_to
from sundog_operator.app.world import World
from sundog_operator.core import hosts, names, ray_cluster, revisions, secrets, traffic
from sundog_operator.core.draft import Observed, Rollout
from sundog_operator.core.edge_objects import is_gone
from sundog_operator.core.observed import EdgeReport, ServeState
from sundog_operator.core.ray_cluster import ClusterView, is_ours
from sundog_operator.core.spec import accept
from sundog_operator.errors import RayUnavailable
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    POD,
    RAY_CLUSTER,
    SECRET,
    Object,
    Ref,
)


async def observe(world: World, deployment: Object) -> Observed:
    """Everything that bears on one ModelDeployment. Raises DependencyError when the API server does not answer."""
    meta = deployment["metadata"]
    namespace, name, uid = meta["namespace"], meta["name"], meta["uid"]
    stored = await world.kube.list(CONTROLLER_REVISION, namespace)
    experiments = await world.kube.list(EXPERIMENT, namespace)
    others = [obj for obj in await world.kube.list(MODEL_DEPLOYMENT, namespace) if obj["metadata"]["uid"] != uid]
    cluster_name = ModelDeploymentStatus.parse(deployment.get("status")).cluster
    cluster, cluster_foreign = await _cluster(world, namespace, cluster_name)
    config_map = await world.kube.get(Ref(CONFIG_MAP, namespace, names.EDGE))
    split = traffic.entry_of(traffic.read_document(config_map), name)
    pods = await edge_pods(world, namespace)
    edge_deployment = await world.kube.get(Ref(DEPLOYMENT, namespace, names.EDGE))
    return Observed(
        deployment=deployment,
        revisions=tuple(revisions.read_owned(stored, uid)),
        taken=_numbers_taken(name, stored),
        rollouts=tuple(rollout for obj in experiments if (rollout := _rollout(obj, name, uid)) is not None),
        experiment_names=frozenset(obj["metadata"]["name"] for obj in experiments),
        cluster=cluster,
        clusters_taken=tuple(taken for obj in others if (taken := (obj.get("status") or {}).get("cluster"))),
        serve=await read_serve(world, cluster),
        edges=tuple(await world.edges.read(pods)),
        foreign=(*cluster_foreign, *_foreign(config_map, edge_deployment), *await foreign_to(world, deployment)),
        url=_url(pods, namespace, name, tls=_has_tls(deployment, split)),
        split=split,
        host_taken_by=hosts.taken_by(deployment, others),
        image=world.settings.runtime_image,
        secrets=await _secrets(world, deployment),
        in_cluster=world.settings.installation is not None,
    )


async def _secrets(world: World, deployment: Object) -> secrets.Keys:
    """The keys of the Secrets that an endpoint names. A spec that is refused names none."""
    namespace = deployment["metadata"]["namespace"]
    needed = sorted({use.secret for use in secrets_of(deployment)})
    return {name: secrets.keys_of(await world.kube.get(Ref(SECRET, namespace, name))) for name in needed}


def secrets_of(deployment: Object) -> tuple[secrets.Use, ...]:
    """The Secrets that a stored ModelDeployment's endpoint names."""
    spec = accept(deployment).spec
    return secrets.uses(spec.endpoint) if spec is not None else ()


async def _cluster(world: World, namespace: str, name: str) -> tuple[ClusterView | None, tuple[str, ...]]:
    if not name:
        return None, ()
    obj = await world.kube.get(Ref(RAY_CLUSTER, namespace, name))
    foreign = (f"RayCluster {name}",) if obj is not None and not is_ours(obj) else ()
    return ray_cluster.view(name, obj), foreign


async def read_serve(world: World, cluster: ClusterView | None) -> ServeState:
    """Serve's state; unknown while the cluster cannot be asked."""
    if cluster is None or cluster.problem:
        return ServeState(known=False)
    try:
        return await world.serve.read(cluster.dashboard)
    except RayUnavailable:
        return ServeState(known=False)


async def read_edges(world: World, namespace: str) -> Sequence[EdgeReport]:
    """The reports of a namespace's edges."""
    return await world.edges.read(await edge_pods(world, namespace))


async def edge_pods(world: World, namespace: str) -> list[Object]:
    """The edge's pods, those that leave included, but for those that can serve nothing any more."""
    now = world.clock.now()
    pods = await world.kube.list(POD, namespace, {names.LABEL_NAME: names.EDGE})
    return [pod for pod in pods if not is_gone(pod, now)]


def _url(pods: Sequence[Object], namespace: str, service: str, *, tls: bool) -> str:
    """Where a service is reached; empty while no edge has an address.

    A pod on loopback is reached at its own port, under the service's path; else the service has a name of its own in the cluster.
    """
    scheme = "https" if tls else "http"
    addresses = {(pod.get("status") or {}).get("podIP"): pod for pod in pods}
    if (local := addresses.get("127.0.0.1")) is not None:
        return f"{scheme}://127.0.0.1:{_port(local, scheme)}/{service}"
    return f"{scheme}://{service}.{namespace}.svc" if any(addresses) else ""


def _port(pod: Object, name: str) -> int:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", ())]
    return next(
        (int(port["containerPort"]) for port in ports if port.get("name") == name), 443 if name == "https" else 80
    )


def _has_tls(deployment: Object, split: Mapping[str, Any] | None) -> bool:
    """Whether its endpoint has TLS: of a spec that is refused, as the edge was told last."""
    spec = accept(deployment).spec
    return bool(spec.endpoint.tls.secret_name if spec is not None else (split or {}).get("tls"))


def _foreign(*objects: Object | None) -> tuple[str, ...]:
    return tuple(f"{obj['kind']} {obj['metadata']['name']}" for obj in objects if obj is not None and not is_ours(obj))


def _numbers_taken(name: str, stored: Sequence[Object]) -> tuple[int, ...]:
    pattern = re.compile(re.escape(name) + r"-r([0-9]+)")
    matches = (pattern.fullmatch(obj["metadata"]["name"]) for obj in stored)
    return tuple(int(match[1]) for match in matches if match)


def _rollout(obj: Object, service: str, uid: str) -> Rollout | None:
    """A rollout's Experiment; None for one that only looks like it, such as a copy under another name."""
    meta = obj["metadata"]
    number = (meta.get("labels") or {}).get(names.LABEL_REVISION, "")
    if not revisions.owned_by(obj, uid) or not re.fullmatch(r"[1-9][0-9]{0,8}", number):
        return None
    if not names.is_rollout(meta["name"], service, int(number)):
        return None
    return Rollout(
        name=meta["name"],
        uid=meta["uid"],
        generation=int(meta.get("generation", 0)),
        revision=int(number),
        status=ExperimentStatus.parse(obj.get("status")),
    )
