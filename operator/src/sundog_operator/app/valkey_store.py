"""Apply the Service and the pod of a Valkey store. The caller creates the store's Secret."""

from sundog_operator.api.installation import PodTemplate
from sundog_operator.app.apply import ensure
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.core.ray import valkey
from sundog_operator.core.ray.valkey import ValkeyServer, ValkeyStore
from sundog_operator.ports import SERVICE, STATEFUL_SET, Ref


async def apply_valkey(deps: Dependencies, store: ValkeyStore, server: ValkeyServer, template: PodTemplate) -> None:
    """Apply the store's Service and StatefulSet. Raises DependencyError."""
    await ensure(deps, valkey.make_service(store), await deps.kube.get(Ref(SERVICE, store.namespace, store.name)))
    stored = await deps.kube.get(Ref(STATEFUL_SET, store.namespace, store.name))
    wanted = valkey.make_stateful_set(store, server, template, stored)
    if stored is None or not valkey.is_up_to_date(stored, wanted):
        await deps.kube.apply(wanted)
