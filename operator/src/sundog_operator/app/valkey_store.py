"""Makes a store of Sundog's own: its Service and its pod. Whose it is makes its Secret."""

from sundog_operator.api.installation import PodTemplate
from sundog_operator.app.apply import ensure
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.core.ray import valkey
from sundog_operator.core.ray.valkey import ValkeyServer, ValkeyStore
from sundog_operator.ports import SERVICE, STATEFUL_SET, Ref


async def apply_valkey(world: Dependencies, store: ValkeyStore, server: ValkeyServer, template: PodTemplate) -> None:
    """Apply its Service and its StatefulSet as wanted. Raises DependencyError."""
    await ensure(world, valkey.make_service(store), await world.kube.get(Ref(SERVICE, store.namespace, store.name)))
    stored = await world.kube.get(Ref(STATEFUL_SET, store.namespace, store.name))
    wanted = valkey.make_stateful_set(store, server, template, stored)
    if stored is None or not valkey.is_up_to_date(stored, wanted):
        await world.kube.apply(wanted)
