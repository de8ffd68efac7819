"""The resources of a cluster, read once for all ModelDeployments that wait for some."""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from typing import Final

from sundog_operator.api.installation import Installation
from sundog_operator.core.kubernetes import capacity, names, node_fit, node_profiles
from sundog_operator.core.kubernetes.capacity import Inventory
from sundog_operator.errors import DependencyError, Forbidden
from sundog_operator.ports import NODE, POD, RESOURCE_QUOTA, Clock, Kubernetes, Object

log = logging.getLogger("sundog.operator")

MIN_INTERVAL_S: Final = 10.0
COST_FACTOR: Final = 40.0
"""Reads take at most a fortieth of a core, for any number of pods: about as much as a hundred uses of the result."""

FORBIDDEN_S: Final = 600.0
"""Pause after the API server refused. An operator with permissions in some namespaces only cannot list nodes."""


OWN_INTERVAL_S: Final = 1.0
"""Pause between two counts of Sundog's own pods, which are in memory."""

QUOTA_INTERVAL_S: Final = 2.0
"""Pause between two reads of a namespace's quotas."""

PROFILES_INTERVAL_S: Final = 600.0
"""Pause between two looks at the labels of all nodes, where nothing else reads them."""


class DeviceInventory:
    """The resources of nodes, pods and quotas, shared by all ModelDeployments.

    A refresh reads every pod of the cluster. The next one waits for `MIN_INTERVAL_S`, and for `COST_FACTOR` times the thread's CPU time of
    the last one. Sundog's own pods are in memory, and are counted once a second for all.
    """

    def __init__(self) -> None:
        self._others: Inventory | None = None
        self._all: Inventory | None = None
        self._counted_at = -math.inf
        self._due_at = -math.inf
        self._lock = asyncio.Lock()
        self._quotas: dict[str, tuple[float, list[Object]]] = {}
        self._profiles: Sequence[str] = ()
        self._profiles_due_at = -math.inf

    async def read_quotas(self, kube: Kubernetes, namespace: str, clock: Clock) -> list[Object]:
        """Return the ResourceQuotas of a namespace as they were within the last `QUOTA_INTERVAL_S`. Raises DependencyError."""
        now = clock.monotonic()
        known = self._quotas.get(namespace)
        if known is None or not 0 <= now - known[0] < QUOTA_INTERVAL_S:
            known = self._quotas[namespace] = (now, await kube.list(RESOURCE_QUOTA, namespace))
        return known[1]

    async def set_profiles(self, installation: Installation, server: Kubernetes, clock: Clock) -> Installation:
        """Return the installation with the profiles of the nodes' labels: the administrator's, or else those that the nodes show.

        A guess holds until nodes show another one: those of a pool that is scaled to zero are gone. Where nodes may not be listed, or the
        API server does not answer, the last guess holds too.
        """
        async with self._lock:
            if not installation.gpu.profiles and clock.monotonic() >= self._profiles_due_at:
                self._profiles_due_at = clock.monotonic() + PROFILES_INTERVAL_S
                try:
                    self._guess_profiles(await server.scan(NODE, node_profiles.find_node_profile))
                except DependencyError as err:
                    log.debug("the profiles of the nodes are unknown: %s", err)
            return node_profiles.set_profiles(installation, self._profiles)

    def _guess_profiles(self, found: Sequence[str]) -> None:
        # Those of a pool that was scaled to zero stay.
        self._profiles = node_profiles.guess_profiles([*found, *self._profiles])

    async def read(self, server: Kubernetes, kube: Kubernetes, clock: Clock) -> Inventory | None:
        """Return the newest inventory; None where nodes or pods of all namespaces may not be listed. Raises DependencyError.

        `server` has all pods, `kube` Sundog's own.
        """
        async with self._lock:
            now = clock.monotonic()
            if now >= self._due_at:
                self._due_at = now + await self._refresh(server)
                self._profiles_due_at = now + PROFILES_INTERVAL_S
                self._all = None
            if self._others is None:
                return None
            if self._all is None or now >= self._counted_at + OWN_INTERVAL_S:
                ours = await kube.views(POD, None, capacity.placed_requests, names.PART_OF_SUNDOG)
                self._all, self._counted_at = capacity.add_pods(self._others, ours), now
            return self._all

    async def _refresh(self, server: Kubernetes) -> float:
        """Read all nodes and pods, and return the seconds until the next refresh."""
        began = time.thread_time()
        try:
            nodes = await server.scan(NODE, node_fit.trim_node)
            self._others = capacity.make_inventory(nodes, await server.scan(POD, capacity.foreign_placed_requests))
            self._guess_profiles([node_profiles.find_node_profile(node) for node in nodes])
        except Forbidden:
            self._others = None
            return FORBIDDEN_S
        return max(MIN_INTERVAL_S, COST_FACTOR * (time.thread_time() - began))
