"""Read what the edges of a cluster have counted of rollouts, and keep the counts of edges that have ended."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from edge_counts import booked
from sundog_operator.core.edge.objects import AGENT_PORT
from waiting import patience

Json = dict[str, Any]


@dataclass(frozen=True)
class ToldEdges:
    """The newest words of each edge, by the name of its pod. An edge counts cumulatively, and nobody else's requests."""

    words: dict[str, Json] = field(default_factory=dict)

    def listen(self, pod: Json) -> bool:
        """Whether an edge tells what it has counted until now; of one that does not, the words before stay."""
        try:
            url = f"http://{pod['status']['podIP']}:{AGENT_PORT}/evidence"
            told = httpx.get(url, timeout=patience(5), trust_env=False).raise_for_status().json()
            # Its address may be another's by now.
            self.words[told["edge"]] = told
        except (httpx.HTTPError, ValueError, KeyError):
            return False
        return bool(told["edge"] == pod["metadata"]["name"])

    def sums(self, attempt: str, arm: str) -> Counter[str]:
        """Requests of an arm over all edges and epochs, as `booked` has them."""
        rows = (row for words in self.words.values() for row in words["counters"])
        return booked(row for row in rows if (row["attempt"], row["arm"], row["origin"]) == (attempt, arm, "assigned"))
