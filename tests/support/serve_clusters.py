"""Serve clusters that a test answers for: one at once, the other when the test lets it."""

import asyncio
from collections import Counter

from sundog_edge.errors import ServeUnavailable
from sundog_edge.replicas.plan import ServeTargets
from sundog_edge.split.document import Cluster

GOOD, SLOW = Cluster(dashboard="http://good"), Cluster(dashboard="http://slow")


class Client:
    """Two clusters: one answers at once, the other after `go_on`."""

    def __init__(self) -> None:
        self.parse_s = 0.0
        self.asked: Counter[str] = Counter()
        self.go_on = asyncio.Event()
        self.port = 1
        self.at_zero: frozenset[str] = frozenset()

    async def targets(self, cluster):
        self.asked[cluster.dashboard] += 1
        if cluster is SLOW:
            await self.go_on.wait()
            raise ServeUnavailable("Serve does not answer")
        return ServeTargets({"digits-r1": (f"127.0.0.1:{self.port}",)}, {}, self.at_zero)
