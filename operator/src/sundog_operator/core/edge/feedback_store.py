"""The store in which the edges of a namespace keep exposures and outcomes, and the key that signs request ids.

It is never a RayCluster's store: that one holds pickles, and edges face the public.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sundog_operator.api import Experiment, ExperimentStatus, ModelDeployment
from sundog_operator.api.installation import Installation
from sundog_operator.api.quantities import parse_bytes
from sundog_operator.core.edge import objects
from sundog_operator.core.kubernetes import names
from sundog_operator.core.ray import valkey
from sundog_operator.core.ray.valkey import ValkeyServer, ValkeyStore
from sundog_operator.errors import SpecError

STORE_SELECTOR: Final = {names.LABEL_NAME: names.EDGE_STORE}
"""Selects the store's objects and its pod. The edges have another label, so that their Service never leads to the store."""

_DATA_SHARE: Final = 0.7
"""Share of the container's memory for data. The rest is for clients, and for writes while the server rewrites its file."""

Json = dict[str, Any]


def is_needed_by(experiment: Mapping[str, Any]) -> bool:
    """Return whether an Experiment has outcome metrics, in its spec or in its frozen plan.

    An Experiment needs the store until it is deleted, because users may analyse it after its end. One that records a rollout needs it
    until its end. The plan counts because a running Experiment follows it: an edit that removes the metrics or makes the spec invalid
    must not lose the stored outcomes.
    """
    status = ExperimentStatus.parse(experiment.get("status"))
    if status.plan.outcomes:
        return status.phase not in ("Concluded", "Stopped")
    plan = status.plan.comparison
    if plan is not None and plan.feedback_outcomes:
        return True
    try:
        metrics = Experiment.parse({**experiment, "status": None}).spec.metrics
    except SpecError:
        return False
    return metrics.has_outcomes


def is_needed_by_rollouts_of(model_deployment: Mapping[str, Any]) -> bool:
    """Return whether rollouts of a ModelDeployment have guardrails that are outcomes, by its spec.

    The store is there before a rollout begins, because edges restart when they get it. A mistake elsewhere in the spec does not remove it.
    """
    try:
        return ModelDeployment.parse({**model_deployment, "status": None}).spec.rollout.has_outcomes
    except SpecError:
        return _names_outcomes(model_deployment.get("spec"))


def _names_outcomes(spec: object) -> bool:
    """Return whether any guardrail of an invalid spec, of whatever shape, names feedback."""
    rollout = spec.get("rollout") if isinstance(spec, Mapping) else None
    guardrails = rollout.get("guardrails") if isinstance(rollout, Mapping) else None
    found = guardrails if isinstance(guardrails, list) else []
    return any(isinstance(each, Mapping) and bool(each.get("feedback")) for each in found)


def make_namespace_store(namespace: str, owners: Iterable[Json]) -> ValkeyStore:
    """Return the store of a namespace's edges. It has the owners of the edges."""
    return ValkeyStore(
        name=names.EDGE_STORE,
        namespace=namespace,
        labels=names.labels(names.EDGE_STORE),
        selector=STORE_SELECTOR,
        owners=objects.make_shared_metadata(namespace, owners)["ownerReferences"],
    )


def make_server(installation: Installation) -> ValkeyServer:
    """Return the settings of the store's server. An edge that reports an outcome as accepted relies on the disk."""
    store = installation.feedback.store
    most_bytes = int(_DATA_SHARE * parse_bytes(store.memory))
    return ValkeyServer(store.image, store.storage, store.memory, most_bytes, sync_writes=True)


def make_secret(store: ValkeyStore, password: str, signing_key: str) -> Json:
    """Return the Secret with the store's password and the edges' signing key of 32 bytes, in hex."""
    return valkey.make_secret(store, {names.PASSWORD_KEY: password, names.SIGNING_KEY: signing_key})


def store_url(installation: Installation) -> str:
    """Return the URL at which edges reach the store."""
    return f"redis://{installation.feedback.store.external.address or valkey.store_address(names.EDGE_STORE)}"


def credentials(installation: Installation) -> tuple[str, tuple[str, ...]]:
    """Return the Secret for the store's clients and its keys that they need; no keys for an external store without a password."""
    external = installation.feedback.store.external
    if not external.address:
        return names.EDGE_STORE, (names.PASSWORD_KEY,)
    if not external.password_secret_name:
        return "", ()
    username = (names.USERNAME_KEY,) if external.username_from_secret else ()
    return external.password_secret_name, (names.PASSWORD_KEY, *username)
