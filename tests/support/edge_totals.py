"""Read what the edges of a cluster have counted of rollouts, and keep the counts of edges that have ended."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from edge_counts import sum_rows
from sundog_operator.core.edge.objects import AGENT_PORT
from waiting import patience

Json = dict[str, Any]


@dataclass(frozen=True)
class EdgeTotals:
    """The newest report of each edge, by the name of its pod. An edge's counts are cumulative, and contain its own requests only."""

    reports: dict[str, Json] = field(default_factory=dict)

    def read(self, pod: Json) -> bool:
        """Read an edge's counts, and return whether it answered. Without an answer its last report stays."""
        try:
            url = f"http://{pod['status']['podIP']}:{AGENT_PORT}/evidence"
            report = httpx.get(url, timeout=patience(5), trust_env=False).raise_for_status().json()
            # Another edge may have its address now.
            self.reports[report["edge"]] = report
        except (httpx.HTTPError, ValueError, KeyError):
            return False
        return bool(report["edge"] == pod["metadata"]["name"])

    def sums(self, attempt: str, arm: str) -> Counter[str]:
        """Return the requests of an arm over all edges and epochs, as `sum_rows` sums them."""
        rows = (row for report in self.reports.values() for row in report["counters"])
        return sum_rows(
            row for row in rows if (row["attempt"], row["arm"], row["origin"]) == (attempt, arm, "assigned")
        )
