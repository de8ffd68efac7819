"""The accelerators of a cluster, looked at once for all ModelDeployments that wait for some."""

import asyncio
import math
import time
from typing import Final

from sundog_operator.core.kubernetes import capacity, names
from sundog_operator.core.kubernetes.capacity import Inventory
from sundog_operator.errors import Forbidden
from sundog_operator.ports import NODE, POD, Clock, Kubernetes

MIN_INTERVAL_S: Final = 10.0
COST_FACTOR: Final = 40.0
"""Looks take at most a fortieth of a core, however many pods there are: about as much as a hundred who ask for the result."""

FORBIDDEN_S: Final = 600.0
"""Pause after the API server refused: an operator of some namespaces alone has no permission to list nodes."""


class DeviceInventory:
    """What the nodes have and what pods take of it, shared by all who ask.

    A look reads every pod of the cluster. The next one comes no sooner than `LEAST_S`, nor than `COST_FACTOR` times the CPU time of this
    thread that the last one took. Sundog's own pods are in memory, and counted as they are now.
    """

    def __init__(self) -> None:
        self._others: Inventory | None = None
        self._due_at = -math.inf
        self._lock = asyncio.Lock()

    async def look(self, server: Kubernetes, kube: Kubernetes, clock: Clock) -> Inventory | None:
        """The newest inventory; None where nodes or pods of all namespaces may not be listed. Raises DependencyError.

        `server` knows all pods, `kube` Sundog's own.
        """
        async with self._lock:
            now = clock.monotonic()
            if now >= self._due_at:
                self._due_at = now + await self._read(server)
        if self._others is None:
            return None
        ours = await kube.views(POD, None, capacity.pod_devices, names.PART_OF_SUNDOG)
        return capacity.add_pods(self._others, ours)

    async def _read(self, server: Kubernetes) -> float:
        """Look, and return the seconds until the next look."""
        began = time.thread_time()
        try:
            nodes = await server.scan(NODE, capacity.trim_node)
            self._others = capacity.make_inventory(nodes, await server.scan(POD, capacity.foreign_pod_devices))
        except Forbidden:
            self._others = None
            return FORBIDDEN_S
        return max(MIN_INTERVAL_S, COST_FACTOR * (time.thread_time() - began))
