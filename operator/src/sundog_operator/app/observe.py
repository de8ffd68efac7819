"""Reads all that a plan looks at, fresh."""

import re
from collections.abc import Sequence

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.app.world import World
from sundog_operator.core import hosts, names, ray_cluster, revisions
from sundog_operator.core.draft import Observed, Rollout
from sundog_operator.core.observed import EdgeReport, ServeState
from sundog_operator.core.ray_cluster import ClusterView, is_ours
from sundog_operator.errors import RayUnavailable
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    POD,
    RAY_CLUSTER,
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
    pods, url = await edge_pods(world, namespace, name)
    own = [obj for obj in stored if revisions.owned_by(obj, uid)]
    return Observed(
        deployment=deployment,
        revisions=tuple(revision for obj in own if (revision := revisions.read_controller_revision(obj)) is not None),
        taken=_numbers_taken(name, stored),
        rollouts=tuple(_rollout(obj) for obj in experiments if revisions.owned_by(obj, uid)),
        experiment_names=frozenset(obj["metadata"]["name"] for obj in experiments),
        cluster=cluster,
        clusters_taken=tuple(taken for obj in others if (taken := (obj.get("status") or {}).get("cluster"))),
        serve=await read_serve(world, cluster),
        edges=tuple(await world.edges.read(pods)),
        foreign=(*cluster_foreign, *await _foreign_edge(world, namespace)),
        url=url,
        host_taken_by=hosts.taken_by(deployment, others),
        image=world.settings.runtime_image,
    )


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
    pods, _ = await edge_pods(world, namespace, "")
    return await world.edges.read(pods)


async def edge_pods(world: World, namespace: str, service: str) -> tuple[list[Object], str]:
    """The edge's pods and the URL of a service behind them.

    A pod on loopback is reached at its own port, under the service's path; else the service has a name of its own in the cluster.
    """
    pods = await world.kube.list(POD, namespace, {names.LABEL_NAME: names.EDGE})
    addresses = {(pod.get("status") or {}).get("podIP"): pod for pod in pods}
    if (local := addresses.get("127.0.0.1")) is not None:
        return pods, f"http://127.0.0.1:{_http_port(local)}/{service}"
    return pods, f"http://{service}.{namespace}.svc" if any(addresses) else ""


def _http_port(pod: Object) -> int:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", ())]
    return next((int(port["containerPort"]) for port in ports if port.get("name") == "http"), 80)


async def _foreign_edge(world: World, namespace: str) -> tuple[str, ...]:
    found = []
    for kind in (CONFIG_MAP, DEPLOYMENT):
        obj = await world.kube.get(Ref(kind, namespace, names.EDGE))
        if obj is not None and not is_ours(obj):
            found.append(f"{kind.kind} {names.EDGE}")
    return tuple(found)


def _numbers_taken(name: str, stored: Sequence[Object]) -> tuple[int, ...]:
    pattern = re.compile(re.escape(name) + r"-r([0-9]+)")
    matches = (pattern.fullmatch(obj["metadata"]["name"]) for obj in stored)
    return tuple(int(match[1]) for match in matches if match)


def _rollout(obj: Object) -> Rollout:
    meta = obj["metadata"]
    return Rollout(
        name=meta["name"],
        uid=meta["uid"],
        generation=int(meta.get("generation", 0)),
        revision=int((meta.get("labels") or {}).get(names.LABEL_REVISION, "0")),
        status=ExperimentStatus.parse(obj.get("status")),
    )
