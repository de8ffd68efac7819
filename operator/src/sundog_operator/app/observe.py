"""Reads all that a plan looks at, fresh."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sundog_operator.api import ModelDeploymentSpec, ModelDeploymentStatus
from sundog_operator.app import edge_store
from sundog_operator.app.background.prometheus_queries import read_metrics
from sundog_operator.app.background.webhook_gate import ask_webhook
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.edge_resources import find_blocking_objects, find_foreign_objects
from sundog_operator.app.neighbours import (
    is_settled,
    read_experiment,
    read_neighbour,
    read_salts,
    taken_revision_numbers,
    without_spec,
)
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.ray_clusters import resolve_cluster_view
from sundog_operator.app.secrets import find_foreign_secrets, read_references, read_secrets
from sundog_operator.core import revisions
from sundog_operator.core.edge import hosts, split_document, units
from sundog_operator.core.edge.objects import is_gone
from sundog_operator.core.experiments import arms
from sundog_operator.core.experiments.queue import UserExperiment, order_waiting
from sundog_operator.core.kubernetes import capacity, names
from sundog_operator.core.kubernetes.capacity import AvailableCapacity
from sundog_operator.core.observed import EdgeReport, PrometheusResult, ServeState, WebhookResult
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.core.planner.context import ObservedState, RolloutAttempt
from sundog_operator.core.planner.webhook_gate import is_rollout_held, make_webhook_request
from sundog_operator.core.ray import groups, valkey
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.rollout import prometheus_checks, state
from sundog_operator.errors import DependencyError, NotServed, RayUnavailable
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    EXPERIMENT,
    HTTP_ROUTE,
    MODEL_DEPLOYMENT,
    POD,
    RAY_CLUSTER,
    RESOURCE_QUOTA,
    Object,
    Ref,
)

log = logging.getLogger("sundog.operator")
_ITSELF: Final = ("", "")
"""In the place of an Experiment and an arm: what the ModelDeployment's own spec stands for."""


async def observe(world: Dependencies, deployment: Object) -> ObservedState:
    """Everything that bears on one ModelDeployment. Raises DependencyError when the API server does not answer."""
    meta = deployment["metadata"]
    namespace, name, uid = meta["namespace"], meta["name"], meta["uid"]
    stored = await world.kube.views(CONTROLLER_REVISION, namespace, revisions.parse_stored_revision)
    experiments = await world.kube.views(EXPERIMENT, namespace, read_experiment)
    deployments = await world.kube.views(MODEL_DEPLOYMENT, namespace, read_neighbour)
    others = [each for each in deployments if each.object["metadata"]["uid"] != uid]
    stored_status = ModelDeploymentStatus.parse(deployment.get("status"))
    rays = [Ref(RAY_CLUSTER, namespace, name) for name in sorted(desired_state.needed_clusters(stored_status))]
    views = {ref.name: await read_cluster_view(world, namespace, ref.name) for ref in rays}
    config_map, edge_deployment = (Ref(kind, namespace, names.EDGE) for kind in (CONFIG_MAP, DEPLOYMENT))
    split = split_document.find_service_entry(await world.kube.view(config_map, split_document.read_document), name)
    pods = await list_edge_pods(world, namespace)
    rollouts = tuple(each.rollout for each in experiments if each.rollout is not None and each.is_of(name, uid))
    own = tuple(each.own for each in experiments if each.own is not None and each.model_deployment == name)
    route, routes_served = await _route(world, deployment)
    owned = tuple(revisions.revisions_of_owner(stored, uid))
    serves = {name: await read_serve_state(world, namespace, view) for name, view in views.items()}
    return ObservedState(
        deployment=deployment,
        revisions=owned,
        taken=taken_revision_numbers(name, stored),
        rollouts=rollouts,
        experiment_names=frozenset(each.name for each in experiments),
        clusters=views,
        serves=serves,
        clusters_of_others=tuple(taken for each in others for taken in each.clusters),
        edges=tuple(
            await _edges(world, pods, name, stored_status, rollouts, own, dry_run=_is_dry_run(world, deployment))
        ),
        foreign=(
            *await find_foreign_objects(world, (*rays, config_map, edge_deployment)),
            *await find_blocking_objects(world, deployment),
            *await find_foreign_secrets(world, deployment, stored_status, views),
        ),
        url=_url(pods, namespace, name, tls=_has_tls(world, deployment, split)),
        split=split,
        host_taken_by=hosts.find_conflicting_deployment(
            deployment, (each.object for each in others), world.settings.cluster_domain
        ),
        image=world.settings.runtime_image,
        secrets=await read_secrets(world, deployment),
        installation=world.settings.installation,
        references=await read_references(world, deployment),
        pods=await _pods(world, namespace, name, tuple(views)),
        room=await _room(world, deployment, stored_status),
        route=route,
        routes_served=routes_served,
        answer=_answer(world, deployment, _attempt(rollouts, stored_status), owned),
        readings=_readings(world, deployment, _attempt(rollouts, stored_status)),
        own=own,
        salts=read_salts(experiments, deployments),
        storeless=await _storeless(world, namespace, own),
        arm_rooms=await _arm_rooms(world, namespace, stored_status, own, owned),
    )


async def _storeless(world: Dependencies, namespace: str, own: Sequence[UserExperiment]) -> tuple[str, str]:
    installation = world.settings.installation
    if installation is None or not any(each.has_outcomes for each in own):
        return "", ""
    return await edge_store.find_store_problem(world, namespace, installation)


def _is_dry_run(world: Dependencies, deployment: Object) -> bool:
    spec = accept_model_deployment(deployment, world.settings.installation).spec
    return spec is not None and spec.rollout.dry_run


async def _edges(
    world: Dependencies,
    pods: Sequence[Object],
    service: str,
    status: ModelDeploymentStatus,
    rollouts: Sequence[RolloutAttempt],
    own: Sequence[UserExperiment],
    *,
    dry_run: bool,
) -> list[EdgeReport]:
    """What the edges say; in detail where evidence is weighed, or a plan is about to be made of what was counted."""
    waiting = order_waiting(own)
    rollout = _attempt(rollouts, status)
    attempt = rollout.status if rollout is not None else None
    begins = status.candidate is not None and status.stable is not None
    frozen = attempt is not None and bool(attempt.plan.steps)
    weighs = attempt is not None and bool(attempt.plan.guardrails) and attempt.phase != state.PENDING
    in_detail = (begins and (weighs or not frozen)) or (status.stable is not None and (dry_run or bool(waiting)))
    if not in_detail:
        return await world.edges.read(pods)
    plans = [each.status.plan for each in waiting if each.status.plan.comparison is not None]
    if attempt is not None and frozen:
        plans.append(attempt.plan)
    by_unit = any(map(units.is_sticky, plans))
    return await world.edges.count(pods, service, by_unit=by_unit)


def _attempt(rollouts: Sequence[RolloutAttempt], status: ModelDeploymentStatus) -> RolloutAttempt | None:
    return next((each for each in rollouts if each.name == status.experiment), None)


def _answer(
    world: Dependencies, deployment: Object, attempt: RolloutAttempt | None, known: Sequence[revisions.Revision]
) -> WebhookResult | None:
    """What the webhook of the current step has answered, if it has one."""
    meta, spec = deployment["metadata"], accept_model_deployment(deployment, world.settings.installation).spec
    key = Key("modeldeployment", meta["namespace"], meta["name"])
    return ask_webhook(world, key, make_webhook_request(deployment, spec, attempt, known, world.clock.now()))


def _readings(
    world: Dependencies, deployment: Object, attempt: RolloutAttempt | None
) -> Mapping[str, PrometheusResult]:
    """What Prometheus gave for the checks of the rollout that is under way."""
    meta, spec = deployment["metadata"], accept_model_deployment(deployment, world.settings.installation).spec
    key = Key("modeldeployment", meta["namespace"], meta["name"])
    if attempt is None or not state.is_frozen(attempt.status):
        return read_metrics(world, key, ())
    held = is_rollout_held(spec, world.clock.now())
    return read_metrics(
        world,
        key,
        prometheus_checks.make_queries(attempt.status, key.namespace, key.name, attempt.uid, stands_still=held),
    )


async def _route(world: Dependencies, deployment: Object) -> tuple[Object | None, bool]:
    """The HTTPRoute of the name of a ModelDeployment that asks for one, and whether the API server knows such objects."""
    spec, meta = accept_model_deployment(deployment, world.settings.installation).spec, deployment["metadata"]
    if spec is None or not spec.endpoint.gateway.name:
        return None, True
    try:
        return await world.kube.get(Ref(HTTP_ROUTE, meta["namespace"], meta["name"])), True
    except NotServed:
        return None, False


async def _pods(world: Dependencies, namespace: str, service: str, clusters: Sequence[str]) -> tuple[Object, ...]:
    """The pods of a service's revisions, and the heads and stores of its RayClusters."""
    if world.settings.installation is None:
        return ()
    found = await world.kube.list(POD, namespace, {names.LABEL_MODEL_DEPLOYMENT: service})
    for cluster in clusters:
        found += await world.kube.list(POD, namespace, {groups.LABEL_CLUSTER: cluster, groups.LABEL_NODE_TYPE: "head"})
        found += await world.kube.list(POD, namespace, valkey.store_selector(cluster))
    return tuple(found)


async def _room(world: Dependencies, deployment: Object, status: ModelDeploymentStatus) -> AvailableCapacity | None:
    """What is free of the accelerators that the spec asks for, while a revision with them is on its way.

    Who may not read nodes or pods of other namespaces cannot look; the scheduler then decides alone.
    """
    spec = accept_model_deployment(deployment, world.settings.installation).spec
    if spec is None or is_settled(deployment, status):
        return None
    return (await _rooms(world, deployment["metadata"]["namespace"], {_ITSELF: spec})).get(_ITSELF)


async def _arm_rooms(
    world: Dependencies,
    namespace: str,
    status: ModelDeploymentStatus,
    own: Sequence[UserExperiment],
    known: Sequence[revisions.Revision],
) -> Mapping[tuple[str, str], AvailableCapacity]:
    """The same for the arms of Experiments that may be the next to begin, by Experiment and arm."""
    stable = next((each for each in known if status.stable and each.number == status.stable.revision), None)
    if stable is None or status.experiment or status.candidate is not None:
        return {}
    of_stable = revisions.spec_of(stable)
    specs = {
        (each.name, arm.name): arms.merge_arm_spec(of_stable, arm)
        for each in order_waiting(own)
        if (spec := each.acceptance.spec) is not None
        for arm in spec.arms
    }
    return await _rooms(world, namespace, specs)


async def _rooms(
    world: Dependencies, namespace: str, specs: Mapping[tuple[str, str], ModelDeploymentSpec]
) -> Mapping[tuple[str, str], AvailableCapacity]:
    """What is free for each of some specs; none of those that ask for no accelerator.

    Whoever looks after some namespaces alone sees their quotas, and no nodes.
    """
    installation = world.settings.installation
    if installation is None or not any(spec.resources.gpu.count for spec in specs.values()):
        return {}
    try:
        quotas = await world.kube.list(RESOURCE_QUOTA, namespace)
        devices = await world.devices.look(world.server or world.kube, world.kube, world.clock)
    except DependencyError as err:
        log.debug("free accelerators cannot be looked at: %s", err)
        return {}
    found = {
        name: capacity.find_available_capacity(spec, devices, quotas, installation) for name, spec in specs.items()
    }
    return {name: room for name, room in found.items() if room is not None}


async def read_cluster_view(world: Dependencies, namespace: str, name: str) -> ClusterView:
    """A RayCluster as it is stored. Raises DependencyError."""
    stored = await world.kube.view(Ref(RAY_CLUSTER, namespace, name), without_spec)
    return resolve_cluster_view(world, namespace, name, stored)


async def read_serve_state(world: Dependencies, namespace: str, cluster: ClusterView) -> ServeState:
    """Serve's state; unknown while the cluster cannot be asked."""
    if cluster.problem:
        return ServeState(known=False)
    try:
        return await world.serve.read(cluster.dashboard, namespace)
    except RayUnavailable:
        return ServeState(known=False)


async def list_edge_pods(world: Dependencies, namespace: str) -> list[Object]:
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


def _has_tls(world: Dependencies, deployment: Object, split: Mapping[str, Any] | None) -> bool:
    """Whether its endpoint has TLS: of a spec that is refused, as the edge was told last."""
    spec = accept_model_deployment(deployment, world.settings.installation).spec
    return bool(spec.endpoint.tls.secret_name if spec is not None else (split or {}).get("tls"))
