"""Where the edges of a namespace keep exposures and outcomes: a store of their own, and the key by which request ids are signed.

It is never that of a RayCluster: what is in there are pickles, and edges face the public.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sundog_operator.api import Experiment, ExperimentStatus
from sundog_operator.api.installation import Installation
from sundog_operator.api.quantities import parse_bytes
from sundog_operator.core.edge import objects
from sundog_operator.core.kubernetes import names
from sundog_operator.core.ray import valkey
from sundog_operator.core.ray.valkey import ValkeyServer, ValkeyStore
from sundog_operator.errors import SpecError

STORE_SELECTOR: Final = {names.LABEL_NAME: names.EDGE_STORE}
"""The label by which the store's objects and its pod are found. That of the edges is another: their Service leads to no store."""

_FILLED: Final = 0.7
"""Of the container's memory: the rest is for what is written anew while the file is made smaller, and for clients."""

Json = dict[str, Any]


def is_needed_by(experiment: Mapping[str, Any]) -> bool:
    """Whether an Experiment has metrics of outcomes, by its spec or by the plan that it was frozen with.

    It wants the store for as long as it exists: one that has ended may be analysed, and only its deletion says that nobody will. What runs
    goes on by its plan, so an edit that takes its metrics out, or makes the spec one that is refused, must not cost what was kept.
    """
    plan = ExperimentStatus.parse(experiment.get("status")).plan.comparison
    if plan is not None and plan.outcomes:
        return True
    try:
        metrics = Experiment.parse({**experiment, "status": None}).spec.metrics
    except SpecError:
        return False
    return bool(metrics.success or metrics.secondary)


def make_namespace_store(namespace: str, members: Iterable[Json]) -> ValkeyStore:
    """The store of a namespace's edges, owned as they are."""
    return ValkeyStore(
        name=names.EDGE_STORE,
        namespace=namespace,
        labels=names.labels(names.EDGE_STORE),
        selector=STORE_SELECTOR,
        owners=objects.make_shared_metadata(namespace, members)["ownerReferences"],
    )


def make_server(installation: Installation) -> ValkeyServer:
    """How it runs."""
    wanted = installation.feedback.store
    return ValkeyServer(wanted.image, wanted.storage, wanted.memory, int(_FILLED * parse_bytes(wanted.memory)))


def make_secret(store: ValkeyStore, password: str, signing_key: str) -> Json:
    """The Secret with the store's password, and the key of the edges: one of 32 bytes, in hex."""
    return valkey.make_secret(store, {names.PASSWORD_KEY: password, names.SIGNING_KEY: signing_key})


def store_url(installation: Installation) -> str:
    """Where the edges find it."""
    return f"redis://{installation.feedback.store.external.address or valkey.store_address(names.EDGE_STORE)}"


def password_secret_name(installation: Installation) -> str:
    """The Secret with its password; empty where a store of somebody else's asks for none."""
    external = installation.feedback.store.external
    return external.password_secret_name if external.address else names.EDGE_STORE
