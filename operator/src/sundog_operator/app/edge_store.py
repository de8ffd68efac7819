"""Apply the store of a namespace's edges while an Experiment or a rollout needs it, and delete it after the last one."""

import logging
import secrets as randomness
from collections.abc import Sequence
from typing import Final

from sundog_operator.api.installation import Installation
from sundog_operator.api.reasons import Cause, ExperimentReason
from sundog_operator.app.apply import ensure, ensure_created
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.edge_resources import find_foreign_objects
from sundog_operator.app.valkey_store import apply_valkey
from sundog_operator.core.edge import deployment as edge_deployment
from sundog_operator.core.edge import feedback_store, network_policies
from sundog_operator.core.kubernetes import names
from sundog_operator.core.ray.clusters import is_managed_by_sundog
from sundog_operator.ports import (
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    POD,
    SECRET,
    SERVICE,
    STATEFUL_SET,
    Object,
    Ref,
    ref_of,
)

log = logging.getLogger("sundog.operator")

KEY_BYTES: Final = 32
_KINDS: Final = (SECRET, SERVICE, STATEFUL_SET, NETWORK_POLICY)


async def is_needed(deps: Dependencies, namespace: str) -> bool:
    """Return whether any Experiment or rollout of the namespace has outcomes. Raises DependencyError."""
    if any(await deps.kube.views(MODEL_DEPLOYMENT, namespace, feedback_store.is_needed_by_rollouts_of)):
        return True
    return any(await deps.kube.views(EXPERIMENT, namespace, feedback_store.is_needed_by))


async def find_store_problem(deps: Dependencies, namespace: str, installation: Installation) -> Cause | None:
    """Return why the edges cannot use the store; None where they can. Raises DependencyError."""
    refs = [Ref(kind, namespace, names.EDGE_STORE) for kind in _KINDS]
    if found := await find_foreign_objects(deps, refs):
        return Cause(
            ExperimentReason.NOT_OWNED, f"{', '.join(found)}: exists and was not made by Sundog; rename or delete it"
        )
    if not installation.feedback.store.external.password_secret_name:
        return None
    name, keys = feedback_store.credentials(installation)
    secret = await deps.kube.get(Ref(SECRET, namespace, name))
    if secret is None:
        return Cause(
            ExperimentReason.SECRET_NOT_FOUND, f"Secret {name} of the outcome store: does not exist; create it"
        )
    if missing := [key for key in keys if key not in (secret.get("data") or {})]:
        return Cause(
            ExperimentReason.SECRET_INCOMPLETE,
            f"Secret {name} of the outcome store: has no key {' and no key '.join(missing)}; add it",
        )
    return None


async def apply_edge_store(
    deps: Dependencies, namespace: str, model_deployments: Sequence[Object], installation: Installation
) -> bool:
    """Apply the store. Return False where the edges cannot use it: they serve without it. Raises DependencyError."""
    if (problem := await find_store_problem(deps, namespace, installation)) is not None:
        extra = {"reason": problem.reason}
        log.warning("the edges of %s keep no outcomes: %s", namespace, problem.message, extra=extra)
        return False
    store = feedback_store.make_namespace_store(namespace, model_deployments)
    await ensure_created(
        deps,
        Ref(SECRET, namespace, store.name),
        store.owners,
        lambda: feedback_store.make_secret(store, *(randomness.token_hex(KEY_BYTES) for _ in range(2))),
    )
    if not installation.feedback.store.external.address:
        await _apply_own_store(deps, namespace, model_deployments, installation)
    return True


async def _apply_own_store(
    deps: Dependencies, namespace: str, model_deployments: Sequence[Object], installation: Installation
) -> None:
    policy = network_policies.make_store_policy(namespace)
    stored = await deps.kube.get(ref_of(policy))
    if installation.network_policies.enabled:
        await ensure(deps, policy, stored)
    elif stored is not None:
        await deps.kube.delete(ref_of(stored), uid=stored["metadata"]["uid"])
    store = feedback_store.make_namespace_store(namespace, model_deployments)
    await apply_valkey(deps, store, feedback_store.make_server(installation), installation.edge.pods)


async def delete_edge_store(deps: Dependencies, namespace: str, deployment: Object | None) -> None:
    """Delete Sundog's objects of the store, once no new edge pod needs it. Raises DependencyError.

    `deployment` is the edge's Deployment before this pass. All kinds but Secrets are in memory, and the Secret is deleted first. The policy
    is deleted by the pass that the end of the store's pod causes.
    """
    stored = [
        obj for kind in _KINDS[1:] for obj in await deps.kube.list(kind, namespace, feedback_store.STORE_SELECTOR)
    ]
    if not stored and (deployment is None or not edge_deployment.has_feedback_store(deployment)):
        return
    secret = await deps.kube.get(Ref(SECRET, namespace, names.EDGE_STORE))
    pods = await deps.kube.list(POD, namespace, feedback_store.STORE_SELECTOR)
    has_server = bool(pods) or any(obj["kind"] == STATEFUL_SET.kind for obj in stored)
    for obj in [*([secret] if secret is not None else []), *stored]:
        if is_managed_by_sundog(obj) and not (has_server and obj["kind"] == NETWORK_POLICY.kind):
            await deps.kube.delete(ref_of(obj), uid=obj["metadata"]["uid"])
