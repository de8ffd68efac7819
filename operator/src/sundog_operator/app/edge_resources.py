"""Makes a namespace's edge in a cluster: its pods, what they need, and what leads to them for each ModelDeployment."""

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
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.core.ray.clusters import has_managed_by_label, is_managed_by_sundog
from sundog_operator.errors import DependencyError, Forbidden, Invalid, NotServed, SundogError
from sundog_operator.ports import HTTP_ROUTE, NETWORK_POLICY, SECRET, SERVICE, Object, Ref, ref_of

log = logging.getLogger("sundog.operator")


def make_shared_objects(namespace: str, members: Sequence[Object], installation: Installation) -> list[Object]:
    """What all services of a namespace share beside the document, the Secret and the pods, in the order in which it is made."""
    policies = installation.network_policies
    return [
        *objects.make_rbac(namespace, members, deployment.service_account_name(installation)),
        objects.make_disruption_budget(namespace, members),
        objects.make_edge_service(namespace, members),
        *(network_policies.make_policies(namespace, members, policies) if policies.enabled else []),
    ]


async def find_foreign_shared_objects(world: Dependencies, namespace: str, installation: Installation) -> list[str]:
    """What stands where the shared objects should and was not made by us."""
    # All of them name every member as an owner: to read them whole in each member's pass would take the square of their number.
    return await find_foreign_objects(world, _SHARED(namespace, installation))


_SHARED: Final[Memoized[tuple[Ref, ...]]] = Memoized(
    lambda namespace, installation: tuple(ref_of(obj) for obj in make_shared_objects(namespace, (), installation))
)


async def find_foreign_objects(world: Dependencies, refs: Iterable[Ref]) -> list[str]:
    """Those of the objects that exist and were not made by us, for messages."""
    found = [(ref, await world.kube.labels(ref)) for ref in refs]
    return [
        f"{ref.kind.kind} {ref.name}"
        for ref, labels in found
        if labels is not None and not has_managed_by_label(labels)
    ]


async def find_blocking_objects(world: Dependencies, member: Object) -> list[str]:
    """What keeps a ModelDeployment from being reached: objects of others, where in a cluster ours should be."""
    installation, meta = world.settings.installation, member["metadata"]
    if installation is None:
        return []
    labels = await world.kube.labels(Ref(SERVICE, meta["namespace"], meta["name"]))
    mine = [f"Service {meta['name']}"] if labels is not None and not objects.has_labels_of(labels, member) else []
    return [*mine, *await find_foreign_shared_objects(world, meta["namespace"], installation)]


async def apply_secrets(
    world: Dependencies, namespace: str, members: Sequence[Object], documents: Sequence[Mapping[str, Any] | None]
) -> bool:
    """Compose the Secrets that any of the documents names, those of the oldest members first. False where the composed one is not ours.

    Raises DependencyError.
    """
    ref = Ref(SECRET, namespace, names.EDGE)
    stored = await world.kube.get(ref)
    if stored is not None and not is_managed_by_sundog(stored):
        return False
    needed = secrets.ordered_secret_names(documents, [member["metadata"]["name"] for member in members])
    found = [(name, await world.kube.get(Ref(SECRET, namespace, name))) for name in needed]
    data = secrets.compose_secret_data(found)
    if left_out := [name for name, secret in found if secret is not None and name not in data]:
        log.warning("Secrets of %s do not fit into one: without %s", namespace, ", ".join(left_out))
    wanted = objects.make_secret(namespace, members, data)
    if stored is not None and (stored.get("data") or {}).keys() - data.keys():
        # A key that is not named any more is no difference to `ensure`.
        await world.kube.apply(wanted)
    else:
        await ensure(world, wanted, stored)
    return True


async def apply_shared_objects(
    world: Dependencies, namespace: str, members: Sequence[Object], installation: Installation
) -> None:
    """Apply what the pods need. Raises DependencyError."""
    for wanted in make_shared_objects(namespace, members, installation):
        await ensure(world, wanted, await world.kube.get(ref_of(wanted)))
    if not installation.network_policies.enabled:
        for policy in await world.kube.list(NETWORK_POLICY, namespace, objects.EDGE_SELECTOR):
            await world.kube.delete(ref_of(policy), uid=policy["metadata"]["uid"])


async def apply_pods(
    world: Dependencies,
    namespace: str,
    members: Sequence[Object],
    installation: Installation,
    stored: Object | None,
    *,
    feedback: bool,
    drain_s: int,
) -> bool:
    """Apply the Deployment, once there is a Ray token for its pods: one that starts before it would get it a minute late.

    `feedback`: whether its agents are given the store of the edges. `drain_s`: seconds for what a leaving HAProxy has.
    Whether it is there. Raises DependencyError.
    """
    if stored is None and await world.kube.get(Ref(SECRET, namespace, names.RAY)) is None:
        return False
    wanted = deployment.make_deployment(namespace, members, installation, feedback=feedback, drain_s=drain_s)
    await ensure(world, wanted, stored)
    return True


async def apply_services(
    world: Dependencies, members: Sequence[Object], document: Mapping[str, Any]
) -> list[SundogError]:
    """Give each ModelDeployment the Service of its name, unless somebody else has one.

    It is made by a create, which takes nobody's place: what was known of the name a moment ago is enough. Returns why some could not be
    written, which keeps no other from being so; Conflict where somebody was faster, or wrote it meanwhile. A refusal is told by an event.
    """

    async def put(member: Object) -> None:
        try:
            await _put_service(world, member, document)
        except (Forbidden, Invalid) as err:
            await record_events(world, member, [events.service_refused(str(err))])
            raise

    return await _put_each(members, put)


async def _put_each(members: Sequence[Object], put: Callable[[Object], Awaitable[None]]) -> list[SundogError]:
    failed: list[SundogError] = []
    for member in members:
        try:
            await put(member)
        except (DependencyError, Invalid) as err:
            failed.append(err)
    return failed


async def _put_service(world: Dependencies, member: Object, document: Mapping[str, Any]) -> None:
    meta = member["metadata"]
    if "deletionTimestamp" in meta:
        return
    ref = Ref(SERVICE, meta["namespace"], meta["name"])
    labels = await world.kube.labels(ref)
    if labels is not None and not objects.has_labels_of(labels, member):
        return
    entry = split_document.find_service_entry(document, meta["name"]) or {}
    wanted = objects.make_service(member, tls=bool(entry.get("tls")))
    if labels is None:
        await create_object(world, wanted)
    elif (stored := await world.kube.get(ref)) is not None:
        renewed = objects.merge_service(stored, wanted)
        if renewed != stored:
            # Who creates owns each port as by an update, and an apply that leaves one out would not remove it.
            await world.kube.replace(renewed)


async def apply_routes(
    world: Dependencies, namespace: str, members: Sequence[Object], document: Mapping[str, Any]
) -> list[SundogError]:
    """Give each ModelDeployment that names a Gateway its HTTPRoute, and take that of the others away.

    A spec that is refused leaves its route as it is. Without the Gateway API nothing is done. Returns why some could not be written, as
    `put_services` does. Raises DependencyError where routes cannot be listed.
    """
    try:
        routes = await world.kube.list(HTTP_ROUTE, namespace, objects.EDGE_SELECTOR)
    except NotServed:
        return []
    ours = {route["metadata"]["name"]: route for route in routes}
    return await _put_each(
        members, lambda member: _put_route(world, member, document, ours.get(member["metadata"]["name"]))
    )


async def _put_route(world: Dependencies, member: Object, document: Mapping[str, Any], ours: Object | None) -> None:
    meta, spec = member["metadata"], accept_model_deployment(member, world.settings.installation).spec
    entry = split_document.find_service_entry(document, meta["name"])
    if spec is None or entry is None or "deletionTimestamp" in meta:
        return
    if not spec.endpoint.gateway.name:
        if ours is not None and objects.is_made_for(ours, member):
            await world.kube.delete(ref_of(ours), uid=ours["metadata"]["uid"])
        return
    stored = ours or await world.kube.get(Ref(HTTP_ROUTE, meta["namespace"], meta["name"]))
    if stored is None or objects.is_made_for(stored, member):
        await ensure(world, http_route.make_route(member, spec.endpoint, entry["hosts"]), stored)
