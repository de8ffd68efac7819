"""Looks at what bears on the keys at rest of a namespace: once at Serve and at the edges, whatever their number."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.observe import list_edge_pods, read_cluster_view, read_serve_state
from sundog_operator.app.queue.idle import comparable_reports, find_idle_deployment
from sundog_operator.app.queue.keys import Key, KeyKind
from sundog_operator.app.secrets import read_secret_keys
from sundog_operator.core.edge import secrets, split_document
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport, ServeState
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.ports import CONFIG_MAP, MODEL_DEPLOYMENT, SECRET, Ref

CHECK_INTERVAL_S: Final = 15.0
"""How often a namespace with keys at rest is looked at."""


class NamespaceState:
    """What is seen of a namespace now. Each part is read when it is first asked for, and raises DependencyError."""

    def __init__(self, world: Dependencies, namespace: str) -> None:
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

    async def read_model_deployment(self, name: str) -> object:
        """What Serve and the edges say of the only revision, and which keys its Secrets have."""
        found = await self._world.kube.view(Ref(MODEL_DEPLOYMENT, self._namespace, name), find_idle_deployment)
        if found is None:
            return None
        cluster, serve = await self._cluster(found.cluster)
        keys = await read_secret_keys(self._world, self._namespace, found.secrets)
        reports = comparable_reports(name, await self._edges())
        return cluster, serve.known, serve.applications.get(found.application), reports, keys

    async def read_ray_cluster(self, name: str) -> object:
        """What Serve says, where it says anything."""
        cluster, serve = await self._cluster(name)
        return (cluster, serve) if serve.known else None

    async def read_edge(self, name: str) -> object:
        """The versions of the Secrets that edges are given, and of the one that holds them all."""
        document = await self._world.kube.view(Ref(CONFIG_MAP, self._namespace, name), split_document.read_document)
        named = sorted(secrets.secret_names_in_document(document))
        return [await self._secret(each) for each in ([names.EDGE, *named] if named else ())]

    async def _secret(self, name: str) -> tuple[str, str] | None:
        stored = await self._world.kube.get(Ref(SECRET, self._namespace, name))
        return None if stored is None else (stored["metadata"]["uid"], stored["metadata"]["resourceVersion"])

    async def _cluster(self, name: str) -> tuple[ClusterView, ServeState]:
        if name not in self._clusters:
            view = await read_cluster_view(self._world, self._namespace, name)
            self._clusters[name] = view, await read_serve_state(self._world, self._namespace, view)
        return self._clusters[name]

    async def _edges(self) -> list[EdgeReport]:
        if self._reports is None:
            self._reports = await self._world.edges.read(await list_edge_pods(self._world, self._namespace))
        return self._reports


_SEES: Final[Mapping[KeyKind, Callable[[NamespaceState, str], Awaitable[object]]]] = {
    "modeldeployment": NamespaceState.read_model_deployment,
    "raycluster": NamespaceState.read_ray_cluster,
    "edge": NamespaceState.read_edge,
}


async def find_changed_keys(world: Dependencies, namespace: str) -> list[Key]:
    """The keys at rest of a namespace that would see something else now. Raises DependencyError."""
    look = NamespaceState(world, namespace)
    return [key for key, seen in tuple(world.rests.of(namespace).items()) if await look.sees(key) != seen]
