"""Makes the store of a namespace's edges while an Experiment wants it, and takes it away after the last one."""

import logging
import secrets as randomness
from collections.abc import Sequence
from typing import Final

from sundog_operator.api.installation import Installation
from sundog_operator.app.apply import ensure, ensure_created
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.edge_resources import find_foreign_objects
from sundog_operator.app.valkey_store import apply_valkey
from sundog_operator.core.edge import deployment as edge_deployment
from sundog_operator.core.edge import feedback_store as edge_store
from sundog_operator.core.edge import network_policies
from sundog_operator.core.kubernetes import names
from sundog_operator.core.ray.clusters import is_managed_by_sundog
from sundog_operator.ports import EXPERIMENT, NETWORK_POLICY, SECRET, SERVICE, STATEFUL_SET, Object, Ref, ref_of

log = logging.getLogger("sundog.operator")

KEY_BYTES: Final = 32
_KINDS: Final = (SECRET, SERVICE, STATEFUL_SET, NETWORK_POLICY)


async def is_needed(world: Dependencies, namespace: str) -> bool:
    """Whether any Experiment of the namespace has metrics of outcomes."""
    return any(await world.kube.views(EXPERIMENT, namespace, edge_store.is_needed_by))


async def find_store_problem(world: Dependencies, namespace: str, installation: Installation) -> tuple[str, str]:
    """Why the edges cannot have it, as a reason and a sentence; both empty where they can."""
    refs = [Ref(kind, namespace, names.EDGE_STORE) for kind in _KINDS]
    if found := await find_foreign_objects(world, refs):
        return "NotOwned", f"{', '.join(found)}: exists and was not made by Sundog; it is left alone"
    given = installation.feedback.store.external.password_secret_name
    if not given:
        return "", ""
    secret = await world.kube.get(Ref(SECRET, namespace, given))
    if secret is None:
        return "SecretNotFound", f"Secret {given}, of the store of outcomes, does not exist"
    if names.PASSWORD_KEY not in (secret.get("data") or {}):
        return "SecretIncomplete", f"Secret {given}, of the store of outcomes, has no key {names.PASSWORD_KEY}"
    return "", ""


async def apply_edge_store(
    world: Dependencies, namespace: str, members: Sequence[Object], installation: Installation
) -> bool:
    """Apply all of it. False where the edges cannot have it: they serve on without. Raises DependencyError."""
    reason, message = await find_store_problem(world, namespace, installation)
    if reason:
        log.warning("the edges of %s keep no outcomes: %s", namespace, message, extra={"reason": reason})
        return False
    store = edge_store.make_namespace_store(namespace, members)
    await ensure_created(
        world,
        Ref(SECRET, namespace, store.name),
        store.owners,
        lambda: edge_store.make_secret(store, *(randomness.token_hex(KEY_BYTES) for _ in range(2))),
    )
    if not installation.feedback.store.external.address:
        await _put_own(world, namespace, members, installation)
    return True


async def _put_own(world: Dependencies, namespace: str, members: Sequence[Object], installation: Installation) -> None:
    policy = network_policies.make_store_policy(namespace, members)
    stored = await world.kube.get(ref_of(policy))
    if installation.network_policies.enabled:
        await ensure(world, policy, stored)
    elif stored is not None:
        await world.kube.delete(ref_of(stored), uid=stored["metadata"]["uid"])
    store = edge_store.make_namespace_store(namespace, members)
    await apply_valkey(world, store, edge_store.make_server(installation), installation.edge.pods)


async def delete_edge_store(world: Dependencies, namespace: str, deployment: Object | None) -> None:
    """Delete what is ours of it, once no new pod of the edges needs it: `deployment` is theirs as it was before this pass.

    What is looked for is in memory but for the Secret, which is the first to go. Raises DependencyError.
    """
    kept = [obj for kind in _KINDS[1:] for obj in await world.kube.list(kind, namespace, edge_store.STORE_SELECTOR)]
    if not kept and (deployment is None or not edge_deployment.has_feedback_store(deployment)):
        return
    secret = await world.kube.get(Ref(SECRET, namespace, names.EDGE_STORE))
    for obj in [*([secret] if secret is not None else []), *kept]:
        if is_managed_by_sundog(obj):
            await world.kube.delete(ref_of(obj), uid=obj["metadata"]["uid"])
