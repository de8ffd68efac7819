"""Whether the placement group of a replica over several pods is whole.

Ray places a lost bundle again, but does not restart what the model had there. So the replica must be replaced.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from sundog_runtime.errors import one_line
from sundog_runtime.telemetry.logs import LOGGER_NAME

READ_TIMEOUT_S: Final = 10.0
"""Ray's control plane may be away, which says nothing about the pods. Serve gives a health check 30 s."""

_FIRST_READS: Final = 10

Table = Mapping[str, Any]

_logger = logging.getLogger(LOGGER_NAME)


class PlacementGroupCheck:
    """The health check of a replica's placement group.

    Args:
        read_group: returns `ray.util.placement_group_table` of the group. It may block.
        read_draining: returns the ids of the nodes that end soon. It may block.
        own_node: id of the node of the replica's process. Serve moves a replica from a node that ends, but knows of no other node.
        timeout_s: how long a check waits for an answer.
        pause_s: time between the first reads.
    """

    def __init__(
        self,
        read_group: Callable[[], Table],
        read_draining: Callable[[], Collection[str]],
        own_node: str,
        timeout_s: float = READ_TIMEOUT_S,
        pause_s: float = 1.0,
    ) -> None:
        self._read_group, self._read_draining = read_group, read_draining
        self._own_node, self._timeout_s, self._pause_s = own_node, timeout_s, pause_s
        self._nodes: Mapping[int, str] = {}
        self._reading: asyncio.Task[tuple[Table, Collection[str]]] | None = None

    async def start(self) -> None:
        """Note the pods of the group, before the model is loaded. Raises RuntimeError if one is gone, or if Ray does not name them."""
        for _ in range(_FIRST_READS):
            await self.check()
            if self._nodes:
                return
            await asyncio.sleep(self._pause_s)
        raise RuntimeError("Ray did not name the pods of the replica, so the loss of one would not be noticed")

    async def check(self) -> None:
        """Raise RuntimeError if a pod of the group is gone, or ends soon. Nothing is raised if Ray does not answer."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(asyncio.to_thread(self._read))
        await asyncio.wait({self._reading}, timeout=self._timeout_s)
        if not self._reading.done():
            return
        try:
            table, draining = self._reading.result()
        except Exception as error:  # noqa: BLE001 (whatever it is, it does not say that a pod is gone)
            _logger.warning("placement group not read: %s", one_line(error))
            return
        nodes: Mapping[int, str] = table.get("bundles_to_node_id", {})
        if table.get("state") != "CREATED" or (self._nodes and nodes != self._nodes):
            raise RuntimeError("a pod of the replica is gone, and what the model had there")
        self._nodes = nodes
        if (set(nodes.values()) - {self._own_node}) & set(draining):
            raise RuntimeError("a pod of the replica ends soon, and what the model has there")

    def _read(self) -> tuple[Table, Collection[str]]:
        table = self._read_group()
        try:
            return table, self._read_draining()
        except Exception as error:  # noqa: BLE001 (what drains is read by private names, and a lost pod must be seen without)
            _logger.warning("draining nodes not read: %s", one_line(error))
            return table, ()
