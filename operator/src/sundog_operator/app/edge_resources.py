"""Apply a namespace's edge in a cluster: its pods, shared objects, and a Service and a route for each ModelDeployment."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from sundog_operator.api.installation import Installation
from sundog_operator.api.memo import Memoized
from sundog_operator.app.apply import create_object, ensure
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.event_recorder import record_events
from sundog_operator.core import events
from sundog_operator.core.edge import deployment, http_route, network_policies, objects, secrets, split_document
from sundog_operator.core.kubernetes import names, pods
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.core.ray.clusters import has_managed_by_label, is_foreign, is_managed_by_sundog
from sundog_operator.errors import DependencyError, Forbidden, Invalid, NotServed, SundogError
from sundog_operator.ports import (
    DEPLOYMENT,
    HTTP_ROUTE,
    NETWORK_POLICY,
    POD,
    RAY_CLUSTER,
    SECRET,
    SERVICE,
    STATEFUL_SET,
    Kind,
    Object,
    Ref,
    ref_of,
)

log = logging.getLogger("sundog.operator")


def make_shared_objects(
    namespace: str, model_deployments: Sequence[Object], installation: Installation
) -> list[Object]:
    """Return the shared objects of a namespace's edge, in the order of creation. They exclude the document, the Secret and the pods."""
    policies = installation.network_policies
    return [
        *objects.make_rbac(namespace, model_deployments, deployment.service_account_name(installation)),
        objects.make_disruption_budget(namespace, model_deployments),
        objects.make_edge_service(namespace, model_deployments),
        *(network_policies.make_policies(namespace, policies) if policies.enabled else []),
    ]


async def find_foreign_shared_objects(deps: Dependencies, namespace: str, installation: Installation) -> list[str]:
    """Return the foreign objects with names of the shared objects, for messages."""
    # Each shared object names every ModelDeployment as an owner. Reading whole objects in the pass of each would cost the square of
    # that number.
    return await find_foreign_objects(deps, _SHARED_REFS(namespace, installation))


_SHARED_REFS: Final[Memoized[tuple[Ref, ...]]] = Memoized(
    lambda namespace, installation: tuple(ref_of(obj) for obj in make_shared_objects(namespace, (), installation))
)


async def find_foreign_objects(deps: Dependencies, refs: Iterable[Ref]) -> list[str]:
    """Return the objects that exist and were not made by Sundog, for messages."""
    found = [(ref, await deps.kube.labels(ref)) for ref in refs]
    return [
        f"{ref.kind.kind} {ref.name}"
        for ref, labels in found
        if labels is not None and not has_managed_by_label(labels)
    ]


async def find_blocking_objects(deps: Dependencies, model_deployment: Object) -> list[str]:
    """Return the foreign objects that block the ModelDeployment's Service or the shared objects; empty in local mode."""
    installation, meta = deps.settings.installation, model_deployment["metadata"]
    if installation is None:
        return []
    labels = await deps.kube.labels(Ref(SERVICE, meta["namespace"], meta["name"]))
    own = (
        [f"Service {meta['name']}"]
        if labels is not None and not objects.has_labels_of(labels, model_deployment)
        else []
    )
    return [*own, *await find_foreign_shared_objects(deps, meta["namespace"], installation)]


async def apply_secrets(
    deps: Dependencies,
    namespace: str,
    model_deployments: Sequence[Object],
    documents: Sequence[Mapping[str, Any] | None],
) -> bool:
    """Copy the Secrets that the documents name into the edge's Secret, those of the oldest ModelDeployments first.

    Return False where the edge's Secret belongs to others. Raises DependencyError.
    """
    ref = Ref(SECRET, namespace, names.EDGE)
    stored = await deps.kube.get(ref)
    if is_foreign(stored):
        return False
    needed = secrets.ordered_secret_names(
        documents, [model_deployment["metadata"]["name"] for model_deployment in model_deployments]
    )
    found = [(name, await deps.kube.get(Ref(SECRET, namespace, name))) for name in needed]
    data = secrets.compose_secret_data(found)
    if left_out := [name for name, secret in found if secret is not None and name not in data]:
        log.warning(
            "namespace %s: the edge's Secret has no space for %s; use smaller Secrets", namespace, ", ".join(left_out)
        )
    wanted = objects.make_secret(namespace, model_deployments, data)
    if stored is not None and (stored.get("data") or {}).keys() - data.keys():
        # `ensure` ignores keys that are no longer wanted.
        await deps.kube.apply(wanted)
    else:
        await ensure(deps, wanted, stored)
    return True


async def apply_shared_objects(
    deps: Dependencies, namespace: str, model_deployments: Sequence[Object], installation: Installation
) -> None:
    """Apply the shared objects except foreign ones, and delete the policies where they are disabled. Raises DependencyError."""
    for wanted in make_shared_objects(namespace, model_deployments, installation):
        stored = await deps.kube.get(ref_of(wanted))
        if not is_foreign(stored):
            await ensure(deps, wanted, stored)
    if not installation.network_policies.enabled:
        for policy in await deps.kube.list(NETWORK_POLICY, namespace, objects.EDGE_SELECTOR):
            await deps.kube.delete(ref_of(policy), uid=policy["metadata"]["uid"])


async def delete_policies(deps: Dependencies, namespace: str) -> bool:
    """Delete the policies of a namespace without an edge after its last pod. Return whether policies stay. Raises DependencyError.

    Pods that end may still serve requests for `requestTimeout`, and their owners may still make others.
    """
    policies = await _list_own(deps, NETWORK_POLICY, namespace)
    for kind in (RAY_CLUSTER, DEPLOYMENT, STATEFUL_SET, POD) if policies else ():
        if await _list_own(deps, kind, namespace):
            return True
    for policy in policies:
        await deps.kube.delete(ref_of(policy), uid=policy["metadata"]["uid"])
    return False


async def _list_own(deps: Dependencies, kind: Kind, namespace: str) -> list[Object]:
    # In the operator's own namespace, the chart's objects have the label of Sundog too.
    return [obj for obj in await deps.kube.list(kind, namespace, names.PART_OF_SUNDOG) if is_managed_by_sundog(obj)]


async def apply_pods(
    deps: Dependencies,
    namespace: str,
    model_deployments: Sequence[Object],
    installation: Installation,
    stored: Object | None,
    *,
    feedback: bool,
    drain_s: int,
    kept_drain_s: int,
) -> bool:
    """Apply the Deployment once Ray's token exists, and return whether it exists. Raises DependencyError.

    A pod that starts before the token would get it a minute late.

    Args:
        deps: the dependencies.
        namespace: the edge's namespace.
        model_deployments: the ModelDeployments that own the edge.
        installation: the administrator's settings.
        stored: the stored Deployment.
        feedback: whether agents use the store of the edges.
        drain_s: how long a terminating HAProxy may finish its requests, in seconds.
        kept_drain_s: the longest such time for which pods are kept that need only `drain_s`. An autoscaler that sets `replicas: 0` and
            back would otherwise replace all of them each time.
    """
    if stored is None and await deps.kube.get(Ref(SECRET, namespace, names.RAY)) is None:
        return False

    def make(seconds: int) -> Object:
        return deployment.make_deployment(
            namespace, model_deployments, installation, feedback=feedback, drain_s=seconds
        )

    wanted = make(drain_s)
    if stored is not None and drain_s < (longer_s := deployment.find_drain_s(stored)) <= kept_drain_s:
        former = make(longer_s)
        wanted = former if pods.is_made_alike(stored, former) else wanted
    await ensure(deps, wanted, stored)
    return True


async def apply_services(
    deps: Dependencies, model_deployments: Sequence[Object], document: Mapping[str, Any]
) -> list[SundogError]:
    """Apply the Service of each ModelDeployment, unless its name belongs to others.

    A create never replaces a Service, so the labels that were read before are enough. One failure does not stop the others. The errors are
    returned, among them Conflict where another client was faster. An event reports a Service that the API server rejects.
    """

    async def put(model_deployment: Object) -> None:
        try:
            await _apply_service(deps, model_deployment, document)
        except (Forbidden, Invalid) as err:
            await record_events(deps, model_deployment, [events.service_refused(str(err))])
            raise

    return await _collect_errors(model_deployments, put)


async def _collect_errors(
    model_deployments: Sequence[Object], put: Callable[[Object], Awaitable[None]]
) -> list[SundogError]:
    failed: list[SundogError] = []
    for model_deployment in model_deployments:
        try:
            await put(model_deployment)
        except (DependencyError, Invalid) as err:
            failed.append(err)
    return failed


async def _apply_service(deps: Dependencies, model_deployment: Object, document: Mapping[str, Any]) -> None:
    meta = model_deployment["metadata"]
    if "deletionTimestamp" in meta:
        return
    ref = Ref(SERVICE, meta["namespace"], meta["name"])
    labels = await deps.kube.labels(ref)
    if labels is not None and not objects.has_labels_of(labels, model_deployment):
        return
    entry = split_document.find_service_entry(document, meta["name"]) or {}
    wanted = objects.make_service(model_deployment, tls=bool(entry.get("tls")))
    if labels is None:
        await create_object(deps, wanted)
    elif (stored := await deps.kube.get(ref)) is not None:
        renewed = objects.merge_service(stored, wanted)
        if renewed != stored:
            # A create owns the ports as an update does, so a server-side apply without a port would not remove it.
            await deps.kube.replace(renewed)


async def apply_routes(
    deps: Dependencies, namespace: str, model_deployments: Sequence[Object], document: Mapping[str, Any]
) -> list[SundogError]:
    """Apply the HTTPRoute of each ModelDeployment that names a Gateway, and delete the routes of the others.

    An invalid spec leaves its route as it is. Without the Gateway API nothing happens. Errors are returned, as in `apply_services`. Raises
    DependencyError where routes cannot be listed.
    """
    try:
        routes = await deps.kube.list(HTTP_ROUTE, namespace, objects.EDGE_SELECTOR)
    except NotServed:
        return []
    ours = {route["metadata"]["name"]: route for route in routes}
    return await _collect_errors(
        model_deployments,
        lambda model_deployment: _apply_route(
            deps, model_deployment, document, ours.get(model_deployment["metadata"]["name"])
        ),
    )


async def _apply_route(
    deps: Dependencies, model_deployment: Object, document: Mapping[str, Any], ours: Object | None
) -> None:
    meta, spec = (
        model_deployment["metadata"],
        accept_model_deployment(model_deployment, deps.settings.installation).spec,
    )
    entry = split_document.find_service_entry(document, meta["name"])
    if spec is None or entry is None or "deletionTimestamp" in meta:
        return
    if not spec.endpoint.gateway.name:
        if ours is not None and objects.is_made_for(ours, model_deployment):
            await deps.kube.delete(ref_of(ours), uid=ours["metadata"]["uid"])
        return
    stored = ours or await deps.kube.get(Ref(HTTP_ROUTE, meta["namespace"], meta["name"]))
    if stored is None or objects.is_made_for(stored, model_deployment):
        await ensure(deps, http_route.make_route(model_deployment, spec.endpoint, entry), stored)
