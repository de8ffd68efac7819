"""Reads all that a plan looks at, fresh."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.api import ExperimentStatus, ModelDeploymentSpec, ModelDeploymentStatus
from sundog_operator.app import edge_store
from sundog_operator.app.background.prometheus_queries import read_metrics
from sundog_operator.app.background.webhook_gate import ask_webhook
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.edge_resources import find_blocking_objects, find_foreign_objects
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.ray_clusters import resolve_cluster_view
from sundog_operator.core import revisions
from sundog_operator.core.edge import hosts, salts, secrets, split_document, units
from sundog_operator.core.edge.objects import is_gone
from sundog_operator.core.edge.salts import SaltOwner
from sundog_operator.core.experiments import arms
from sundog_operator.core.experiments.admission import check_admission as accept_experiment
from sundog_operator.core.experiments.queue import UserExperiment, order_waiting
from sundog_operator.core.kubernetes import capacity, names, references
from sundog_operator.core.kubernetes.capacity import AvailableCapacity
from sundog_operator.core.observed import EdgeReport, PrometheusResult, ServeState, WebhookResult
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.core.planner.context import ObservedState, RolloutAttempt
from sundog_operator.core.planner.webhook_gate import is_rollout_held, make_webhook_request
from sundog_operator.core.ray import groups, valkey
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.rollout import commands, prometheus_checks, state
from sundog_operator.errors import DependencyError, NotServed, RayUnavailable
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    EXPERIMENT,
    HTTP_ROUTE,
    MODEL_DEPLOYMENT,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    RAY_CLUSTER,
    RESOURCE_QUOTA,
    SECRET,
    SERVICE_ACCOUNT,
    Kind,
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
    experiments = await world.kube.views(EXPERIMENT, namespace, _read_experiment)
    deployments = await world.kube.views(MODEL_DEPLOYMENT, namespace, _read_neighbour)
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
        taken=_numbers_taken(name, stored),
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
            *await _foreign_secrets(world, deployment, stored_status, views),
        ),
        url=_url(pods, namespace, name, tls=_has_tls(world, deployment, split)),
        split=split,
        host_taken_by=hosts.find_conflicting_deployment(
            deployment, (each.object for each in others), world.settings.cluster_domain
        ),
        image=world.settings.runtime_image,
        secrets=await _secrets(world, deployment),
        installation=world.settings.installation,
        references=await _references(world, deployment),
        pods=await _pods(world, namespace, name, tuple(views)),
        room=await _room(world, deployment, stored_status),
        route=route,
        routes_served=routes_served,
        answer=_answer(world, deployment, _attempt(rollouts, stored_status), owned),
        readings=_readings(world, deployment, _attempt(rollouts, stored_status)),
        own=own,
        salts=_salts(experiments, deployments),
        storeless=await _storeless(world, namespace, own),
        arm_rooms=await _arm_rooms(world, namespace, stored_status, own, owned),
    )


async def list_salt_owners(world: Dependencies, namespace: str) -> tuple[SaltOwner, ...]:
    """Of all Experiments and ModelDeployments of a namespace that fix one."""
    experiments = await world.kube.views(EXPERIMENT, namespace, _read_experiment)
    return _salts(experiments, await world.kube.views(MODEL_DEPLOYMENT, namespace, _read_neighbour))


def _salts(experiments: Sequence["_Experiment"], deployments: Sequence["_Neighbour"]) -> tuple[SaltOwner, ...]:
    found = (*(each.salted for each in experiments), *(each.salted for each in deployments))
    return tuple(each for each in found if each is not None)


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


async def _secrets(world: Dependencies, deployment: Object) -> secrets.KeysBySecret:
    """The keys of the Secrets that an endpoint names. A spec that is refused names none."""
    spec = accept_model_deployment(deployment, world.settings.installation).spec
    needed = secrets.secret_names(spec.endpoint) if spec is not None else ()
    return await read_secret_keys(world, deployment["metadata"]["namespace"], needed)


async def read_secret_keys(world: Dependencies, namespace: str, needed: Sequence[str]) -> secrets.KeysBySecret:
    """The keys of each of some Secrets of a namespace. Raises DependencyError."""
    return {name: secrets.data_keys(await world.kube.get(Ref(SECRET, namespace, name))) for name in needed}


def referenced_secrets(world: Dependencies, deployment: Object) -> set[str]:
    """The Secrets that a stored ModelDeployment names: those of its endpoint, and those of its pods."""
    spec = accept_model_deployment(deployment, world.settings.installation).spec
    if spec is None:
        return set()
    of_pods = {need.name for need in references.find_references(spec) if need.kind == "Secret"}
    return of_pods.union(secrets.secret_names(spec.endpoint))


_REFERRED: Final[Mapping[references.ReferenceKind, Kind]] = {
    "Secret": SECRET,
    "ConfigMap": CONFIG_MAP,
    "ServiceAccount": SERVICE_ACCOUNT,
    "PersistentVolumeClaim": PERSISTENT_VOLUME_CLAIM,
}


async def _references(world: Dependencies, deployment: Object) -> references.KeysByObject:
    """What the pods of the wanted revision need beside them; nothing is looked for in local mode."""
    spec = accept_model_deployment(deployment, world.settings.installation).spec
    if spec is None or world.settings.installation is None or _is_ready(deployment):
        return {}
    namespace = deployment["metadata"]["namespace"]
    needed = sorted({(need.kind, need.name) for need in references.find_references(spec)})
    return {
        (kind, name): secrets.data_keys(await world.kube.get(Ref(_REFERRED[kind], namespace, name)))
        for kind, name in needed
    }


def _is_ready(deployment: Object) -> bool:
    """Whether the wanted revision's pods were started: then they found what they need."""
    status = ModelDeploymentStatus.parse(deployment.get("status"))
    ready = any(each.type == "RevisionReady" and each.status == "True" for each in status.conditions)
    return ready and status.observed_generation == deployment["metadata"].get("generation")


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
    if spec is None or _is_settled(deployment, status):
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


async def _foreign_secrets(
    world: Dependencies, deployment: Object, status: ModelDeploymentStatus, views: Mapping[str, ClusterView]
) -> list[str]:
    """Secrets of others in the place of Ray's token or of the edges' Secret.

    Secrets are not kept in memory, so the API server is asked only while the ModelDeployment may wait for them.
    """
    truths = _truths(status)
    serves = truths.get("SpecAccepted") == truths.get("Ready") == "True" and not any(
        each.problem for each in views.values()
    )
    if world.settings.installation is None or (serves and _is_settled(deployment, status)):
        return []
    namespace = deployment["metadata"]["namespace"]
    return await find_foreign_objects(world, (Ref(SECRET, namespace, names.RAY), Ref(SECRET, namespace, names.EDGE)))


def _truths(status: ModelDeploymentStatus) -> dict[str, str]:
    return {condition.type: condition.status for condition in status.conditions}


def _is_settled(deployment: Object, status: ModelDeploymentStatus) -> bool:
    truths = _truths(status)
    seen = status.observed_generation == deployment["metadata"].get("generation")
    settled = seen and truths.get("Promoted") == "True" and truths.get("CapacityAvailable") == "True"
    return settled and not _is_commanded(deployment, status)


def _is_commanded(deployment: Object, status: ModelDeploymentStatus) -> bool:
    """Whether there is a command that was not handled: it may bring a revision up."""
    text = (deployment["metadata"].get("annotations") or {}).get(names.ANNOTATION_COMMAND, "")
    last = status.last_command
    return bool(text) and (last is None or last.id != commands.parse_command(text).id)


async def read_cluster_view(world: Dependencies, namespace: str, name: str) -> ClusterView:
    """A RayCluster as it is stored. Raises DependencyError."""
    stored = await world.kube.view(Ref(RAY_CLUSTER, namespace, name), _without_spec)
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


def _numbers_taken(name: str, stored: Sequence[revisions.StoredRevision]) -> tuple[int, ...]:
    pattern = re.compile(re.escape(name) + r"-r([0-9]+)")
    matches = (pattern.fullmatch(each.name) for each in stored)
    return tuple(int(match[1]) for match in matches if match)


@dataclass(frozen=True, slots=True)
class _Neighbour:
    """A ModelDeployment as far as others of its namespace are concerned: its name, age and host, its RayClusters, and its salt."""

    object: Object
    clusters: frozenset[str]
    salted: SaltOwner | None


def _read_neighbour(obj: Object) -> _Neighbour:
    meta, endpoint = obj["metadata"], (obj.get("spec") or {}).get("endpoint")
    kept = {key: meta[key] for key in ("name", "namespace", "uid", "creationTimestamp") if key in meta}
    clusters = desired_state.needed_clusters(ModelDeploymentStatus.parse(obj.get("status")))
    return _Neighbour(
        {"metadata": kept, "spec": {"endpoint": endpoint}}, clusters, salts.find_salt_owner("ModelDeployment", obj)
    )


def _without_spec(obj: Object) -> Object:
    """A RayCluster's spec has the pods of all its members."""
    return {key: value for key, value in obj.items() if key != "spec"}


@dataclass(frozen=True, slots=True)
class _Experiment:
    """A stored Experiment: `rollout` is None for one that can be none of ours, `own` for one that is no user's, or is being deleted."""

    name: str
    owners: tuple[str, ...] = ()
    rollout: RolloutAttempt | None = None
    own: UserExperiment | None = None
    model_deployment: str = ""
    salted: SaltOwner | None = None

    def is_of(self, service: str, uid: str) -> bool:
        """Whether it is a rollout of that ModelDeployment; a copy under another name only looks like it."""
        return (
            uid in self.owners
            and self.rollout is not None
            and names.is_rollout_experiment(self.name, service, self.rollout.revision)
        )


def _read_experiment(obj: Object) -> _Experiment:
    meta = obj["metadata"]
    acceptance = accept_experiment(obj)
    if not acceptance.of_rollout:
        own = UserExperiment(
            name=meta["name"],
            uid=meta["uid"],
            generation=int(meta.get("generation", 0)),
            created=str(meta.get("creationTimestamp") or ""),
            acceptance=acceptance,
            status=ExperimentStatus.parse(obj.get("status")),
        )
        deployment = str((obj.get("spec") or {}).get("modelDeployment") or "")
        if "deletionTimestamp" in meta:
            return _Experiment(meta["name"], model_deployment=deployment)
        salted = salts.find_salt_owner("Experiment", obj) if acceptance.spec is not None else None
        return _Experiment(meta["name"], own=own, model_deployment=deployment, salted=salted)
    number = (meta.get("labels") or {}).get(names.LABEL_REVISION, "")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", number):
        return _Experiment(meta["name"])
    rollout = RolloutAttempt(
        name=meta["name"],
        uid=meta["uid"],
        generation=int(meta.get("generation", 0)),
        revision=int(number),
        status=ExperimentStatus.parse(obj.get("status")),
    )
    return _Experiment(meta["name"], revisions.owner_uids(obj), rollout)
