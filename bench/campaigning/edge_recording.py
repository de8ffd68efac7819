"""Record an edge's counts of rollouts in blocks of ten seconds, even while agents and HAProxy die."""

import json
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from edge_counts import ERRORS
from real_local import Up

BLOCK_S: Final = 10

Json = dict[str, Any]


class Counted(NamedTuple):
    """Requests of an arm that came in ten seconds: those that ended, and of them those that failed."""

    ended: int = 0
    failed: int = 0

    def plus(self, other: "Counted") -> "Counted":
        """Both together."""
        return Counted(*map(sum, zip(self, other, strict=True)))


class Place(NamedTuple):
    """The key of a block; `start` in Unix seconds."""

    boot: str
    service: str
    attempt: str
    epoch: int
    arm: str
    start: int


@dataclass
class Recording:
    """All blocks read so far. `rows` has the newest sums of each row: assigned, ended, failed and lost."""

    up: Up
    blocks: dict[Place, Counted] = field(default_factory=dict)
    rows: dict[tuple[str, str, str, int, str], Json] = field(default_factory=dict)

    def look(self) -> bool:
        """Read the edge's report now. Return whether there was one."""
        document = self._document()
        self.take(document)
        return bool(document)

    def take(self, document: Json) -> None:
        """Add the blocks of an edge's report."""
        columns = document.get("blocks", {}).get("columns", ())
        for row in document.get("counters", ()):
            where = (row["boot"], row["service"], row["attempt"], row["epoch"], row["arm"])
            self.rows[where] = {key: row[key] for key in ("assigned", "ends", "lost", "inFlight", "retries", "slow")}
            for block in row["blocks"]:
                counts = dict(zip(columns, block, strict=True))
                ends = sum(counts[end] for end in row["ends"])
                found = Counted(ends, sum(counts[end] for end in ERRORS))
                place = Place(*where, counts["start"])
                # A killed agent has lost the last seconds of its counts.
                if found.ended >= self.blocks.get(place, Counted()).ended:
                    self.blocks[place] = found

    def arm(self, attempt: str, arm: str) -> dict[int, Counted]:
        """Return the blocks of a rollout's arm by their start, over all epochs and processes."""
        found: dict[int, Counted] = {}
        for place, counted in self.blocks.items():
            if (place.attempt, place.arm) == (attempt, arm):
                found[place.start] = found.get(place.start, Counted()).plus(counted)
        return dict(sorted(found.items()))

    def sums(self, attempt: str, arm: str) -> dict[str, int]:
        """Over all epochs and processes: assigned, each end, lost, in flight, and slow ones."""
        found: dict[str, int] = {}
        for (_, _, own, _, name), row in self.rows.items():
            if (own, name) != (attempt, arm):
                continue
            plain = {**row["ends"], **{key: row[key] for key in ("assigned", "lost", "inFlight", "slow")}}
            for key, count in plain.items():
                found[key] = found.get(key, 0) + count
        return found

    def _document(self) -> Json:
        try:
            (record,) = (self.up.state / "edge").glob("*/unit.json")
            port = json.loads(record.read_bytes())["facts"]["agentPort"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/evidence?detail=blocks", timeout=20) as answer:
                document: Json = json.loads(answer.read())
        except (OSError, ValueError):
            return {}
        return document
