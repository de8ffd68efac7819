"""Read the state from which a ModelDeployment's plan is made."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sundog_operator.api import ModelDeploymentSpec, ModelDeploymentStatus
from sundog_operator.api.reasons import Cause
from sundog_operator.app import edge_store
from sundog_operator.app.background.prometheus_queries import read_metrics
from sundog_operator.app.background.webhook_gate import ask_webhook
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.edge_pods import list_edge_pods
from sundog_operator.app.edge_resources import find_blocking_objects, find_foreign_objects
from sundog_operator.app.neighbours import (
    is_settled,
    read_experiment,
    read_neighbour,
    read_salts,
    taken_revision_numbers,
    without_spec,
)
from sundog_operator.app.observed_capacity import read_arm_capacity, read_capacity
from sundog_operator.app.queue.keys import Key
from sundog_operator.app.ray_clusters import resolve_cluster_view
from sundog_operator.app.secrets import find_foreign_secrets, read_references, read_secrets
from sundog_operator.core import revisions
from sundog_operator.core.edge import hosts, split_document, units
from sundog_operator.core.kubernetes import kueue, names
from sundog_operator.core.kubernetes.shared_pods import is_shared
from sundog_operator.core.observed import EdgeReport, PrometheusResult, ServeState, WebhookResult
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.core.planner.facts import ObservedState, RolloutAttempt
from sundog_operator.core.planner.rollout.webhook_gate import is_rollout_held, make_webhook_request
from sundog_operator.core.ray import groups, valkey
from sundog_operator.core.ray.clusters import ClusterView, find_refusal, find_worker_groups
from sundog_operator.core.ray.readiness import remove_conflicting_revisions
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.experiment.queue import UserExperiment, order_waiting
from sundog_operator.core.trial.rollout import prometheus_checks, state
from sundog_operator.errors import DependencyError, Forbidden, NotServed, RayUnavailable
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    EXPERIMENT,
    HTTP_ROUTE,
    MODEL_DEPLOYMENT,
    OLD_WORKLOAD,
    POD,
    RAY_CLUSTER,
    RESOURCE_CLAIM_TEMPLATE,
    WORKLOAD,
    Object,
    Ref,
)

log = logging.getLogger("sundog.operator")


async def observe(deps: Dependencies, deployment: Object) -> ObservedState:
    """Return all state that affects one ModelDeployment. Raises DependencyError when the API server does not answer."""
    meta = deployment["metadata"]
    namespace, name, uid = meta["namespace"], meta["name"], meta["uid"]
    stored = await deps.kube.views(CONTROLLER_REVISION, namespace, revisions.parse_stored_revision)
    experiments = await deps.kube.views(EXPERIMENT, namespace, read_experiment)
    deployments = await deps.kube.views(MODEL_DEPLOYMENT, namespace, read_neighbour)
    others = [each for each in deployments if each.object["metadata"]["uid"] != uid]
    stored_status = ModelDeploymentStatus.parse(deployment.get("status"))
    acceptance = accept_model_deployment(deployment, deps.settings.installation)
    wanted = acceptance.spec
    config_map, edge_deployment = (Ref(kind, namespace, names.EDGE) for kind in (CONFIG_MAP, DEPLOYMENT))
    document = await deps.kube.view(config_map, split_document.read_document)
    split = split_document.find_service_entry(document, name)
    # A lost status names no RayCluster, and a restored one may name another.
    used = desired_state.needed_clusters(stored_status) | split_document.find_clusters(split)
    rays = [Ref(RAY_CLUSTER, namespace, each) for each in sorted(used)]
    views = {ref.name: await read_cluster_view(deps, namespace, ref.name) for ref in rays}
    pods = await list_edge_pods(deps, namespace)
    rollouts = tuple(each.rollout for each in experiments if each.rollout is not None and each.is_of(name, uid))
    user_experiments = tuple(
        each.user_experiment
        for each in experiments
        if each.user_experiment is not None and each.model_deployment == name
    )
    route, routes_served = await _read_route(deps, deployment, wanted)
    serves = {each: await read_serve_state(deps, namespace, view) for each, view in views.items()}
    in_use = desired_state.revisions_in_use(stored_status, split)
    owned = tuple(_find_own_revisions(stored, deployment, in_use, serves))
    attempt = _find_attempt(rollouts, stored_status)
    shared = any(map(is_shared, (*([wanted] if wanted is not None else []), *map(revisions.spec_of, owned))))
    own_pods = await _list_pods(deps, namespace, name, tuple(views), shared=shared)
    return ObservedState(
        deployment=deployment,
        status=stored_status,
        acceptance=acceptance,
        revisions=owned,
        taken=taken_revision_numbers(
            name,
            [
                *(each.name for each in stored),
                *(() if owned or wanted is None else await _find_deployed_names(deps, namespace)),
            ],
        ),
        rollouts=rollouts,
        experiment_names=frozenset(each.name for each in experiments),
        clusters=views,
        serves=serves,
        clusters_of_others=tuple(taken for each in others for taken in each.clusters),
        edges=tuple(
            await _read_edges(
                deps,
                pods,
                name,
                stored_status,
                attempt,
                user_experiments,
                dry_run=wanted is not None and wanted.rollout.dry_run,
            )
        ),
        edge_refusal="" if pods else await deps.kube.view(edge_deployment, find_refusal) or "",
        foreign=(
            *await find_foreign_objects(deps, (*rays, config_map, edge_deployment)),
            *await find_blocking_objects(deps, deployment),
            *await find_foreign_secrets(deps, deployment, stored_status, views),
        ),
        url=_make_url(pods, namespace, name, tls=_has_tls(wanted, split)),
        split=split,
        host_taken_by=hosts.find_conflicting_deployment(
            deployment,
            # Others without a RayCluster have no hosts at the edge, whatever they ask for.
            (
                each.object
                for each in others
                if each.clusters or split_document.find_service_entry(document, each.object["metadata"]["name"])
            ),
            deps.settings.cluster_domain,
        ),
        domain=deps.settings.cluster_domain,
        image=deps.settings.runtime_image,
        secrets=await read_secrets(deps, namespace, wanted),
        installation=deps.settings.installation,
        references=await read_references(deps, deployment, wanted, stored_status),
        pods=own_pods,
        queued=await _read_queued(deps, namespace, own_pods),
        available=await read_capacity(deps, deployment, wanted, stored_status),
        route=route,
        routes_served=routes_served,
        claims_served=await _are_claims_served(deps, deployment, wanted, stored_status),
        answer=_ask_webhook(deps, deployment, wanted, attempt, owned),
        readings=_read_metrics(deps, deployment, wanted, attempt),
        user_experiments=user_experiments,
        salts=read_salts(experiments, deployments),
        storeless=await _find_store_problem(deps, namespace, user_experiments, attempt),
        arm_capacities=await read_arm_capacity(deps, namespace, stored_status, user_experiments, owned),
    )


def _find_own_revisions(
    stored: Iterable[revisions.StoredRevision],
    deployment: Object,
    in_use: Collection[int],
    serves: Mapping[str, ServeState],
) -> list[revisions.Revision]:
    """Return the revisions of a ModelDeployment, without those whose number serves other content."""
    meta = deployment["metadata"]
    owned = revisions.revisions_of_owner(stored, meta["uid"])
    for serve in serves.values():
        owned = remove_conflicting_revisions(meta["name"], owned, serve, in_use)
    return owned


async def _find_deployed_names(deps: Dependencies, namespace: str) -> set[str]:
    """Return the names of the worker groups and applications of all RayClusters, as far as Serve answers; none in local mode.

    A deleted ModelDeployment may have left some. A name must not go from shared pods to pods of its own, nor back.
    """
    found: set[str] = set()
    if deps.settings.installation is None:
        return found
    try:
        clusters = await deps.kube.views(RAY_CLUSTER, namespace, find_worker_groups)
    except (Forbidden, NotServed):
        # A user who previews a change may not list them, and KubeRay may come later.
        return found
    for cluster, used in clusters:
        found |= used
        if used:
            serve = await read_serve_state(deps, namespace, await read_cluster_view(deps, namespace, cluster))
            found |= serve.applications.keys()
    return found


async def _find_store_problem(
    deps: Dependencies, namespace: str, user_experiments: Sequence[UserExperiment], rollout: RolloutAttempt | None
) -> Cause | None:
    installation = deps.settings.installation
    has_outcomes = any(each.has_outcomes for each in user_experiments) or (
        rollout is not None and bool(rollout.status.plan.outcomes)
    )
    if installation is None or not has_outcomes:
        return None
    return await edge_store.find_store_problem(deps, namespace, installation)


async def _read_edges(
    deps: Dependencies,
    pods: Sequence[Object],
    service: str,
    status: ModelDeploymentStatus,
    rollout: RolloutAttempt | None,
    user_experiments: Sequence[UserExperiment],
    *,
    dry_run: bool,
) -> list[EdgeReport]:
    """Return the edges' reports, with detailed counts where an evaluation or a new plan needs them."""
    waiting = order_waiting(user_experiments)
    attempt = rollout.status if rollout is not None else None
    has_candidate = status.candidate is not None and status.stable is not None
    frozen = attempt is not None and bool(attempt.plan.steps)
    evaluates = attempt is not None and bool(attempt.plan.guardrails) and attempt.phase != phases.PENDING
    for_rollout = has_candidate and (evaluates or not frozen)
    if not for_rollout and not (status.stable is not None and (dry_run or bool(waiting))):
        return await deps.edges.read(pods)
    plans = [each.status.plan for each in waiting if each.status.plan.comparison is not None]
    if attempt is not None and frozen:
        plans.append(attempt.plan)
    by_unit = any(map(units.is_sticky, plans))
    return await deps.edges.count(pods, service, by_unit=by_unit)


def _find_attempt(rollouts: Sequence[RolloutAttempt], status: ModelDeploymentStatus) -> RolloutAttempt | None:
    return next((each for each in rollouts if each.name == status.experiment), None)


def _ask_webhook(
    deps: Dependencies,
    deployment: Object,
    spec: ModelDeploymentSpec | None,
    attempt: RolloutAttempt | None,
    known: Sequence[revisions.Revision],
) -> WebhookResult | None:
    """Return the last answer of the current step's webhook; None without one."""
    meta = deployment["metadata"]
    key = Key("modeldeployment", meta["namespace"], meta["name"])
    return ask_webhook(deps, key, make_webhook_request(deployment, spec, attempt, known, deps.clock.now()))


def _read_metrics(
    deps: Dependencies, deployment: Object, spec: ModelDeploymentSpec | None, attempt: RolloutAttempt | None
) -> Mapping[str, PrometheusResult]:
    """Return Prometheus' last answers to the checks of the current rollout."""
    meta = deployment["metadata"]
    key = Key("modeldeployment", meta["namespace"], meta["name"])
    if attempt is None or not state.is_frozen(attempt.status):
        return read_metrics(deps, key, ())
    held = is_rollout_held(spec, deps.clock.now())
    return read_metrics(
        deps,
        key,
        prometheus_checks.make_queries(attempt.status, key.namespace, key.name, attempt.uid, stands_still=held),
    )


async def _read_route(
    deps: Dependencies, deployment: Object, spec: ModelDeploymentSpec | None
) -> tuple[Object | None, bool]:
    """Return the HTTPRoute with the name of a ModelDeployment that wants one, and whether the API server serves HTTPRoutes."""
    meta = deployment["metadata"]
    if spec is None or not spec.endpoint.gateway.name:
        return None, True
    try:
        return await deps.kube.get(Ref(HTTP_ROUTE, meta["namespace"], meta["name"])), True
    except NotServed:
        return None, False


async def _are_claims_served(
    deps: Dependencies, deployment: Object, spec: ModelDeploymentSpec | None, status: ModelDeploymentStatus
) -> bool:
    """Return whether the API server has the API of claims to devices; true for a spec that needs none, or whose revision is settled."""
    meta = deployment["metadata"]
    if spec is None or spec.resources.gpu.allocation != "dra" or is_settled(deployment, status):
        return True
    try:
        await deps.kube.get(Ref(RESOURCE_CLAIM_TEMPLATE, meta["namespace"], meta["name"]))
    except NotServed:
        return False
    except Forbidden:
        # The creation of the template says what is denied.
        pass
    return True


async def _list_pods(
    deps: Dependencies, namespace: str, service: str, clusters: Sequence[str], *, shared: bool
) -> tuple[Object, ...]:
    """Return the pods of a service's revisions, and the heads, stores and, if wanted, shared pods of its RayClusters."""
    if deps.settings.installation is None:
        return ()
    found = await deps.kube.list(POD, namespace, {names.LABEL_MODEL_DEPLOYMENT: service})
    for cluster in clusters:
        found += await deps.kube.list(POD, namespace, {groups.LABEL_CLUSTER: cluster, groups.LABEL_NODE_TYPE: "head"})
        found += await deps.kube.list(POD, namespace, valkey.store_selector(cluster))
        if shared:
            found += await deps.kube.list(POD, namespace, groups.shared_pod_labels(cluster))
    return tuple(found)


async def _read_queued(deps: Dependencies, namespace: str, pods: Sequence[Object]) -> Mapping[str, str]:
    """Return why Kueue has not admitted a pod, by its uid, for one waiting pod of each revision.

    Without Kueue, or without permission to read its Workloads, nothing is known.
    """
    by_revision: dict[str, list[Object]] = {}
    for pod in pods:
        by_revision.setdefault(str(pod["metadata"]["labels"].get(names.LABEL_REVISION)), []).append(pod)
    waiting = (kueue.find_waiting_pod(found) for found in by_revision.values())
    queued = {}
    for uid in (str(each["metadata"]["uid"]) for each in waiting if each is not None):
        try:
            queued[uid] = kueue.find_pending_message(await _list_workloads(deps, namespace, uid))
        except DependencyError as err:
            log.debug("the Workload of a queued pod is unknown: %s", err)
    return queued


async def _list_workloads(deps: Dependencies, namespace: str, pod_uid: str) -> list[Object]:
    """Return the Workloads of a pod. Releases of Kueue before 0.15 serve only the older version of them. Raises DependencyError."""
    selector = {kueue.POD_UID_LABEL: pod_uid}
    try:
        return await deps.kube.list(WORKLOAD, namespace, selector)
    except NotServed:
        return await deps.kube.list(OLD_WORKLOAD, namespace, selector)


async def read_cluster_view(deps: Dependencies, namespace: str, name: str) -> ClusterView:
    """Return the state of a stored RayCluster. Raises DependencyError."""
    stored = await deps.kube.view(Ref(RAY_CLUSTER, namespace, name), without_spec)
    return resolve_cluster_view(deps, namespace, name, stored)


async def read_serve_state(deps: Dependencies, namespace: str, cluster: ClusterView) -> ServeState:
    """Return Serve's state; unknown while Serve does not answer."""
    if cluster.problem:
        return ServeState(known=False)
    try:
        return await deps.serve.read(cluster.dashboard, namespace)
    except RayUnavailable:
        return ServeState(known=False)


def _make_url(pods: Sequence[Object], namespace: str, service: str, *, tls: bool) -> str:
    """Return a service's URL; empty while no edge has an address.

    A pod on loopback has its own port, and the service is a path there. Otherwise the service has its own name in the cluster.
    """
    scheme = "https" if tls else "http"
    addresses = {(pod.get("status") or {}).get("podIP"): pod for pod in pods}
    if (local := addresses.get("127.0.0.1")) is not None:
        return f"{scheme}://127.0.0.1:{_find_port(local, scheme)}/{service}"
    return f"{scheme}://{service}.{namespace}.svc" if any(addresses) else ""


def _find_port(pod: Object, name: str) -> int:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", ())]
    return next(
        (int(port["containerPort"]) for port in ports if port.get("name") == name), 443 if name == "https" else 80
    )


def _has_tls(spec: ModelDeploymentSpec | None, split: Mapping[str, Any] | None) -> bool:
    """Return whether the endpoint has TLS. For an invalid spec the last split document decides."""
    return bool(spec.endpoint.tls.secret_name if spec is not None else (split or {}).get("tls"))
