"""Looks at what bears on the keys at rest of a namespace: once at Serve and at the edges, whatever their number."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from sundog_operator.app.dependencies import World
from sundog_operator.app.observe import edge_pods, keys_of_secrets, ray_cluster_view, read_serve
from sundog_operator.app.queue.idle import reports_of, resting
from sundog_operator.app.queue.keys import Key, Kind
from sundog_operator.core.edge import secrets, split
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport, ServeState
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.ports import CONFIG_MAP, MODEL_DEPLOYMENT, SECRET, Ref

LOOK_S: Final = 15.0
"""How often a namespace with keys at rest is looked at."""


class Look:
    """What is seen of a namespace now. Each part is read when it is first asked for, and raises DependencyError."""

    def __init__(self, world: World, namespace: str) -> None:
        self._world = world
        self._namespace = namespace
        self._clusters: dict[str, tuple[ClusterView, ServeState]] = {}
        self._reports: list[EdgeReport] | None = None
        # Before anything is read: what changes meanwhile is seen by the next look.
        self._version = world.kube.version(namespace)

    async def sees(self, key: Key) -> object:
        """All that a pass of a key at rest would see; None for a key that may not rest."""
        if self._version is None:
            return None
        seen = await _SEES[key.kind](self, key.name)
        return None if seen is None else (self._version, seen)

    async def of_model_deployment(self, name: str) -> object:
        """What Serve and the edges say of the only revision, and which keys its Secrets have."""
        found = await self._world.kube.view(Ref(MODEL_DEPLOYMENT, self._namespace, name), resting)
        if found is None:
            return None
        cluster, serve = await self._cluster(found.cluster)
        keys = await keys_of_secrets(self._world, self._namespace, found.secrets)
        reports = reports_of(name, await self._edges())
        return cluster, serve.known, serve.applications.get(found.application), reports, keys

    async def of_ray_cluster(self, name: str) -> object:
        """What Serve says, where it says anything."""
        cluster, serve = await self._cluster(name)
        return (cluster, serve) if serve.known else None

    async def of_edge(self, name: str) -> object:
        """The versions of the Secrets that edges are given, and of the one that holds them all."""
        document = await self._world.kube.view(Ref(CONFIG_MAP, self._namespace, name), split.read_document)
        named = sorted(secrets.named_in(document))
        return [await self._secret(each) for each in ([names.EDGE, *named] if named else ())]

    async def _secret(self, name: str) -> tuple[str, str] | None:
        stored = await self._world.kube.get(Ref(SECRET, self._namespace, name))
        return None if stored is None else (stored["metadata"]["uid"], stored["metadata"]["resourceVersion"])

    async def _cluster(self, name: str) -> tuple[ClusterView, ServeState]:
        if name not in self._clusters:
            view = await ray_cluster_view(self._world, self._namespace, name)
            self._clusters[name] = view, await read_serve(self._world, self._namespace, view)
        return self._clusters[name]

    async def _edges(self) -> list[EdgeReport]:
        if self._reports is None:
            self._reports = await self._world.edges.read(await edge_pods(self._world, self._namespace))
        return self._reports


_SEES: Final[Mapping[Kind, Callable[[Look, str], Awaitable[object]]]] = {
    "modeldeployment": Look.of_model_deployment,
    "raycluster": Look.of_ray_cluster,
    "edge": Look.of_edge,
}


async def changed(world: World, namespace: str) -> list[Key]:
    """The keys at rest of a namespace that would see something else now. Raises DependencyError."""
    look = Look(world, namespace)
    return [key for key, seen in tuple(world.rests.of(namespace).items()) if await look.sees(key) != seen]
