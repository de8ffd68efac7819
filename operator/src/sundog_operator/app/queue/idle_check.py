"""Read the state on which the idle keys of a namespace depend. Serve and the edges are read once for all keys."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.edge_pods import list_edge_pods
from sundog_operator.app.observe import read_cluster_view, read_serve_state
from sundog_operator.app.queue.idle import comparable_reports, find_idle_deployment, has_unmet_load
from sundog_operator.app.queue.keys import Key, KeyKind
from sundog_operator.app.secrets import read_secret_keys
from sundog_operator.core.edge import secrets, split_document
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport, ServeState
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.ports import CONFIG_MAP, MODEL_DEPLOYMENT, SECRET, Ref

CHECK_INTERVAL_S: Final = 15.0
"""Seconds between checks of a namespace with idle keys."""


class NamespaceState:
    """The current state of a namespace. Each part is read at its first use; every method may raise DependencyError."""

    def __init__(self, deps: Dependencies, namespace: str) -> None:
        self._deps = deps
        self._namespace = namespace
        self._clusters: dict[str, tuple[ClusterView, ServeState]] = {}
        self._reports: list[EdgeReport] | None = None
        # The version is read first, so that the next check notices a change that happens during the other reads.
        self._version = deps.kube.version(namespace)

    async def read(self, key: Key) -> object:
        """Return the state on which a pass of an idle key depends; None if the key must not be idle."""
        if self._version is None:
            return None
        state = await _READERS[key.kind](self, key.name)
        return None if state is None else (self._version, state)

    async def read_model_deployment(self, name: str) -> object:
        """Return the state of a ModelDeployment's only revision in Serve and the edges, and the keys of its Secrets.

        None if the ModelDeployment must not be idle.
        """
        found = await self._deps.kube.view(Ref(MODEL_DEPLOYMENT, self._namespace, name), find_idle_deployment)
        if found is None:
            return None
        cluster, serve = await self._read_cluster(found.cluster)
        keys = await read_secret_keys(self._deps, self._namespace, found.secrets)
        reports, app = await self._read_reports(), serve.applications.get(found.application)
        is_short = has_unmet_load(name, found, app, reports)
        return cluster, serve.known, app, comparable_reports(name, reports), is_short, keys

    async def read_ray_cluster(self, name: str) -> object:
        """Return a RayCluster's state and Serve's; None while Serve does not answer."""
        cluster, serve = await self._read_cluster(name)
        return (cluster, serve) if serve.known else None

    async def read_edge(self, name: str) -> object:
        """Return the versions of the edge's Secret and of the Secrets that the split document names; empty if it names none."""
        document = await self._deps.kube.view(Ref(CONFIG_MAP, self._namespace, name), split_document.read_document)
        named = sorted(secrets.secret_names_in_document(document))
        return [await self._secret_version(each) for each in ([names.EDGE, *named] if named else ())]

    async def _secret_version(self, name: str) -> tuple[str, str] | None:
        stored = await self._deps.kube.get(Ref(SECRET, self._namespace, name))
        return None if stored is None else (stored["metadata"]["uid"], stored["metadata"]["resourceVersion"])

    async def _read_cluster(self, name: str) -> tuple[ClusterView, ServeState]:
        if name not in self._clusters:
            view = await read_cluster_view(self._deps, self._namespace, name)
            self._clusters[name] = view, await read_serve_state(self._deps, self._namespace, view)
        return self._clusters[name]

    async def _read_reports(self) -> list[EdgeReport]:
        if self._reports is None:
            self._reports = await self._deps.edges.read(await list_edge_pods(self._deps, self._namespace))
        return self._reports


_READERS: Final[Mapping[KeyKind, Callable[[NamespaceState, str], Awaitable[object]]]] = {
    "modeldeployment": NamespaceState.read_model_deployment,
    "raycluster": NamespaceState.read_ray_cluster,
    "edge": NamespaceState.read_edge,
}


async def find_changed_keys(deps: Dependencies, namespace: str) -> list[Key]:
    """Return the idle keys of a namespace whose state has changed. Raises DependencyError."""
    current = NamespaceState(deps, namespace)
    return [key for key, state in tuple(deps.idle_keys.states(namespace).items()) if await current.read(key) != state]
