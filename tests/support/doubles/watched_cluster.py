"""A cluster in memory that is reconciled like a real one: reads from watched caches, keys from the queue, requests counted."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from doubles.cluster import NAMESPACE, Cluster
from sundog_operator.adapters.cached.kubernetes import SCOPES, CachedKubernetes
from sundog_operator.adapters.cached.shared import SharedEdges, SharedServe
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.api.installation import Installation
from sundog_operator.app.controller import Controller, Result
from sundog_operator.app.queue.keys import Key
from sundog_operator.core.kubernetes import names
from sundog_operator.ports import MODEL_DEPLOYMENT, POD, Kind, Object, Ref, ref_of

TICK_S = 0.2
_TURNS = 30
"""Turns of the event loop per tick: more than a pass has requests, so that a pass ends within a tick."""


class Counted:
    """A port that records calls of another one: `asked` counts reads such as `get services`, `statuses` has the written statuses."""

    def __init__(self, kube: MemoryKubernetes) -> None:
        self._kube = kube
        self.asked: Counter[str] = Counter()
        self.statuses: list[tuple[str, Object]] = []

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._kube, verb)

        def call(what: Any, *args: Any, **options: Any) -> Any:
            kind = what if isinstance(what, Kind) else (what if isinstance(what, Ref) else ref_of(what)).kind
            self.asked[f"{verb} {kind.plural}"] += 1
            if verb == "patch_status":
                self.statuses.append((what.name, args[0]))
            return method(what, *args, **options)

        return call


class Passes:
    """Counts passes by kind of key."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def added(self) -> None: ...

    def taken(self, waited_s: float) -> None: ...

    def retried(self) -> None: ...

    def began(self, key: Key) -> None:
        self.counted[key.kind] += 1

    def ended(self, key: Key, result: Result, seconds: float) -> None: ...


class WatchedCluster(Cluster):
    """Replicas run at once, and edges act at once."""

    def __init__(self) -> None:
        super().__init__(installation=Installation(workers=16))
        self.edges.lag_s = 0.0
        self.serve_apis.started_at_once = True
        self.counted = Counted(self.kube)
        self.passes = Passes()
        self.cached = CachedKubernetes(
            self.counted,
            lambda obj: self.operator.wake(obj),
            self.clock,
            on_write=lambda obj: self.operator.handle_own_write(obj),
        )
        world = replace(
            self.world,
            kube=self.cached,
            server=self.counted,
            edges=SharedEdges(self.edges, self.clock),
            serve=SharedServe(self.serve_apis, self.clock),
        )
        self.operator = Controller(world, observer=self.passes)

    async def add_edge(self, name: str) -> None:
        labels = {names.LABEL_NAME: names.EDGE, **names.PART_OF_SUNDOG}
        ports = [{"name": "agent", "containerPort": 9090}]
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels, "ownerReferences": await self.edge_owners()}
        head = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        await self.kube.create({**head, "spec": {"containers": [{"name": "agent", "ports": ports}]}})
        ready = [{"type": "Ready", "status": "True"}]
        await self.set_status(Ref(POD, NAMESPACE, name), {"podIP": "10.0.0.9", "conditions": ready})

    async def tick(self) -> None:
        """Let the operator work, then the other components, and move the clock."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        await self._controllers()
        await self.edges.pass_time(TICK_S)
        self.clock.advance(TICK_S)

    async def until_all(self, reached: Callable[[dict[str, Any]], bool], ticks: int = 100) -> None:
        """Ticks until the statuses of all ModelDeployments are so."""
        for _ in range(ticks):
            found = [obj.get("status") or {} for obj in await self.kube.list(MODEL_DEPLOYMENT, NAMESPACE)]
            if all(map(reached, found)):
                return
            await self.tick()
        raise AssertionError(f"not reached in {ticks} ticks: {found}")


@asynccontextmanager
async def watched_cluster() -> AsyncIterator[WatchedCluster]:
    """Run a cluster with a working operator until the context ends."""
    cluster = WatchedCluster()

    async def follow(kind: Kind) -> None:
        async for event in cluster.kube.watch(kind):
            labels = (event.object.get("metadata") or {}).get("labels") or {}
            if event.type != "SYNCED" and SCOPES[kind].items() <= labels.items():
                cluster.cached.feed(event.type, event.object)

    tasks = [asyncio.ensure_future(follow(kind)) for kind in SCOPES]
    for kind in SCOPES:
        await cluster.cached.resync(kind)
    tasks.append(asyncio.ensure_future(cluster.operator.work()))
    try:
        yield cluster
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
