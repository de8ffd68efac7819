"""Secrets and other objects that a spec refers to."""

from collections.abc import Mapping, Sequence
from typing import Final

from sundog_operator.api import ModelDeploymentStatus
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


async def read_secrets(world: Dependencies, deployment: Object) -> secrets.KeysBySecret:
    """The keys of the Secrets that an endpoint names. A spec that is refused names none."""
    spec = accept_model_deployment(deployment, world.settings.installation).spec
    needed = secrets.secret_names(spec.endpoint) if spec is not None else ()
    return await read_secret_keys(world, deployment["metadata"]["namespace"], needed)


async def read_secret_keys(world: Dependencies, namespace: str, needed: Sequence[str]) -> secrets.KeysBySecret:
    """The keys of each of some Secrets of a namespace. Raises DependencyError."""
    return {name: secrets.data_keys(await world.kube.get(Ref(SECRET, namespace, name))) for name in needed}


def referenced_secrets(world: Dependencies, deployment: Object) -> set[str]:
    """The Secrets that a stored ModelDeployment names: those of its endpoint, and those of its pods."""
    spec = accept_model_deployment(deployment, world.settings.installation).spec
    if spec is None:
        return set()
    of_pods = {need.name for need in references.find_references(spec) if need.kind == "Secret"}
    return of_pods.union(secrets.secret_names(spec.endpoint))


_REFERRED: Final[Mapping[references.ReferenceKind, Kind]] = {
    "Secret": SECRET,
    "ConfigMap": CONFIG_MAP,
    "ServiceAccount": SERVICE_ACCOUNT,
    "PersistentVolumeClaim": PERSISTENT_VOLUME_CLAIM,
}


async def read_references(world: Dependencies, deployment: Object) -> references.KeysByObject:
    """What the pods of the wanted revision need beside them; nothing is looked for in local mode."""
    spec = accept_model_deployment(deployment, world.settings.installation).spec
    if spec is None or world.settings.installation is None or is_ready(deployment):
        return {}
    namespace = deployment["metadata"]["namespace"]
    needed = sorted({(need.kind, need.name) for need in references.find_references(spec)})
    return {
        (kind, name): secrets.data_keys(await world.kube.get(Ref(_REFERRED[kind], namespace, name)))
        for kind, name in needed
    }


async def find_foreign_secrets(
    world: Dependencies, deployment: Object, status: ModelDeploymentStatus, views: Mapping[str, ClusterView]
) -> list[str]:
    """Secrets of others in the place of Ray's token or of the edges' Secret.

    Secrets are not kept in memory, so the API server is asked only while the ModelDeployment may wait for them.
    """
    truths = true_conditions(status)
    serves = truths.get("SpecAccepted") == truths.get("Ready") == "True" and not any(
        each.problem for each in views.values()
    )
    if world.settings.installation is None or (serves and is_settled(deployment, status)):
        return []
    namespace = deployment["metadata"]["namespace"]
    return await find_foreign_objects(world, (Ref(SECRET, namespace, names.RAY), Ref(SECRET, namespace, names.EDGE)))
