"""The parts of a cluster that the checks read. A part may be unreadable, for want of a permission or of an API."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from sundog_operator import ports
from sundog_operator.api import API_VERSION
from sundog_operator.api.installation import Installation
from sundog_operator.api.schema.crds import CRD_DEFINITIONS
from sundog_operator.core.kubernetes import node_fit
from sundog_operator.errors import NotServed, RequestRefused
from sundog_operator.ports import Kind, Object, Ref
from sundog_operator.shell.cluster_checks.planned_release import Permission, PlannedRelease
from sundog_operator.shell.cluster_checks.probe import ProbeResult, probe_release
from sundog_operator.shell.installation import find_installation
from sundog_operator.shell.server_connection import ServerConnection

T = TypeVar("T")

CRD_NAMES: Final = tuple(f"{each.plural}.{API_VERSION.partition('/')[0]}" for each in CRD_DEFINITIONS)


class PartUnreadable(Exception):
    """A check needs a part that could not be read."""


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """A part of the cluster, or the reason why it could not be read."""

    content: T | None
    reason: str = ""

    def read(self) -> T:
        """Return the content. Raises PartUnreadable."""
        if self.content is None:
            raise PartUnreadable(self.reason)
        return self.content


@dataclass(frozen=True, slots=True)
class ClusterObservation:
    """All parts of a cluster that the checks read.

    Attributes:
        version: the API server's version, such as `v1.36.0`.
        installation: settings of the release to install, else of an installed one, else the defaults.
        api_groups: the answer to `GET /apis`.
        namespaces: those of the release by name; None for one that does not exist.
        nodes: all nodes (`node_fit.trim_node`).
        crds: Sundog's CRDs by name; None for one that does not exist.
        ray_schemas: schemas that the API server publishes for `ray.io/v1`.
        ray_operators: images of KubeRay's operators, and empty texts for other Deployments.
        policies: NetworkPolicies of the release's namespace.
        permissions: whether the user has each of the permissions that the release takes.
        probe: what pods found; None if none were run.
    """

    version: str
    installation: Installation
    api_groups: Part[Object]
    namespaces: Part[Mapping[str, Object | None]]
    nodes: Part[Sequence[Mapping[str, Any]]]
    storage_classes: Part[Sequence[Object]]
    crds: Part[Mapping[str, Object | None]]
    ray_schemas: Part[Mapping[str, Any]]
    ray_operators: Part[Sequence[str]]
    policies: Part[Sequence[Object]]
    permissions: Part[Mapping[Permission, bool]]
    probe: Part[ProbeResult] | None = None


async def observe_cluster(
    server: ServerConnection, release: PlannedRelease, *, is_probing: bool = False
) -> ClusterObservation:
    """Read a cluster, and with `is_probing` run pods there (`probe_release`). Raises DependencyError if its API server does not answer."""
    kube = server.kube

    async def read_named(kind: Kind, names: Iterable[str]) -> Mapping[str, Object | None]:
        return {name: await kube.get(Ref(kind, "", name)) for name in names}

    async def read_permissions() -> Mapping[Permission, bool]:
        asked = release.find_permissions()
        return dict(zip(asked, await asyncio.gather(*(kube.is_permitted(*each) for each in asked)), strict=True))

    return ClusterObservation(
        version=str((await kube.document("/version")).get("gitVersion", "")),
        installation=release.installation or await find_installation(kube, server.namespace) or Installation(),
        api_groups=await _try(kube.document("/apis")),
        namespaces=await _try(
            read_named(ports.NAMESPACE, {release.namespace, *(each for _, each in release.resources if each)})
        ),
        nodes=await _try(kube.scan(ports.NODE, node_fit.trim_node)),
        storage_classes=await _try(kube.list(ports.STORAGE_CLASS)),
        crds=await _try(read_named(ports.CUSTOM_RESOURCE_DEFINITION, CRD_NAMES)),
        ray_schemas=await _try(kube.schemas(ports.RAY_CLUSTER.api_version)),
        ray_operators=await _try(kube.scan(ports.DEPLOYMENT, _view_ray_operator)),
        policies=await _try(kube.list(ports.NETWORK_POLICY, release.namespace)),
        permissions=await _try(read_permissions()),
        probe=await _try(probe_release(kube, release)) if is_probing else None,
    )


async def _try(reading: Awaitable[T]) -> Part[T]:
    try:
        return Part(await reading)
    except (NotServed, RequestRefused) as err:
        return Part(None, str(err))


def _view_ray_operator(deployment: Object) -> str:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    is_operator = "kuberay-operator" in deployment["metadata"]["name"]
    return next((each["image"] for each in containers if is_operator or "/kuberay/" in each["image"]), "")
