"""Read the Secrets and other objects that a spec refers to."""

from collections.abc import Mapping, Sequence
from typing import Final

from sundog_operator.api import ModelDeploymentSpec, ModelDeploymentStatus
from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.edge_resources import find_foreign_objects
from sundog_operator.app.neighbours import is_ready, is_settled, true_conditions
from sundog_operator.core.edge import secrets
from sundog_operator.core.kubernetes import names, references
from sundog_operator.core.planner.admission import accept_model_deployment
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.ports import (
    CONFIG_MAP,
    PERSISTENT_VOLUME_CLAIM,
    SECRET,
    SERVICE_ACCOUNT,
    Kind,
    Object,
    Ref,
)


async def read_secrets(deps: Dependencies, namespace: str, spec: ModelDeploymentSpec | None) -> secrets.KeysBySecret:
    """Return the keys of the Secrets that an endpoint names; empty for an invalid spec. Raises DependencyError."""
    return await read_secret_keys(deps, namespace, secrets.secret_names(spec.endpoint) if spec is not None else ())


async def read_secret_keys(deps: Dependencies, namespace: str, needed: Sequence[str]) -> secrets.KeysBySecret:
    """Return the keys of each Secret. Raises DependencyError."""
    return {name: secrets.data_keys(await deps.kube.get(Ref(SECRET, namespace, name))) for name in needed}


def referenced_secrets(deps: Dependencies, deployment: Object) -> set[str]:
    """Return the Secrets that a stored ModelDeployment names, for its endpoint and for its pods."""
    spec = accept_model_deployment(deployment, deps.settings.installation).spec
    if spec is None:
        return set()
    of_pods = {need.name for need in references.find_references(spec) if need.kind == "Secret"}
    return of_pods.union(secrets.secret_names(spec.endpoint))


_KINDS: Final[Mapping[references.ReferenceKind, Kind]] = {
    "Secret": SECRET,
    "ConfigMap": CONFIG_MAP,
    "ServiceAccount": SERVICE_ACCOUNT,
    "PersistentVolumeClaim": PERSISTENT_VOLUME_CLAIM,
}


async def read_references(
    deps: Dependencies, deployment: Object, spec: ModelDeploymentSpec | None, status: ModelDeploymentStatus
) -> references.KeysByObject:
    """Return the keys of the objects that the wanted revision's pods need; empty in local mode and once the revision is ready.

    Raises DependencyError.
    """
    if spec is None or deps.settings.installation is None or is_ready(deployment, status):
        return {}
    namespace = deployment["metadata"]["namespace"]
    needed = sorted({(need.kind, need.name) for need in references.find_references(spec)})
    return {
        (kind, name): secrets.data_keys(await deps.kube.get(Ref(_KINDS[kind], namespace, name)))
        for kind, name in needed
    }


async def find_foreign_secrets(
    deps: Dependencies, deployment: Object, status: ModelDeploymentStatus, views: Mapping[str, ClusterView]
) -> list[str]:
    """Return the foreign Secrets with the names of Ray's token and of the edges' Secret. Raises DependencyError.

    Secrets are not kept in memory, so the operator asks the API server only while the ModelDeployment may wait for them.
    """
    conditions = true_conditions(status)
    serves = conditions.get("SpecAccepted") == conditions.get("Ready") == "True" and not any(
        each.problem for each in views.values()
    )
    if deps.settings.installation is None or (serves and is_settled(deployment, status)):
        return []
    namespace = deployment["metadata"]["namespace"]
    return await find_foreign_objects(deps, (Ref(SECRET, namespace, names.RAY), Ref(SECRET, namespace, names.EDGE)))
