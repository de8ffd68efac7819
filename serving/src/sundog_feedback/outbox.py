"""What waits to be sent, in batches that an edge takes, and what came of it. Pure."""

import json
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

LOGGER = logging.getLogger("sundog_feedback")
FEEDBACK_PATH = "/-/feedback"
DEFAULT_CAPACITY = 10_000
MAX_BATCH_EVENTS = 1000
MAX_BATCH_BYTES = 900_000
"""An edge takes 1 MiB."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What came of all events so far: `refused` by the edge one by one, `dropped` for want of room, of an answer or of an exposure."""

    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    dropped: int = 0


class Outbox:
    """Events that wait, at most `capacity`; those that find no room are dropped and counted. Not more than one batch is under way."""

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: deque[bytes] = deque()
        self._under_way = 0
        self._told = False
        self.counts = Counts()

    def put(self, event: Mapping[str, Any]) -> bool:
        """Have an event wait. False, and one more is dropped, where there is no room, no JSON for it, or nobody whose outcome it is."""
        encoded = _encoded(event)
        if not encoded or len(self) >= self._capacity or not ("exposure" in event or "unit" in event):
            self.drop(1, "cannot be sent")
            return False
        self._waiting.append(encoded)
        return True

    def take(self) -> bytes:
        """The body of the next request; empty if nothing waits."""
        items: list[bytes] = []
        size = 0
        while self._waiting and len(items) < MAX_BATCH_EVENTS:
            size += len(self._waiting[0]) + 1
            if items and size > MAX_BATCH_BYTES:
                break
            items.append(self._waiting.popleft())
        self._under_way = len(items)
        return b"[" + b",".join(items) + b"]" if items else b""

    def settle(self, answer: Any) -> None:
        """The batch under way has been answered."""
        if not self._under_way:
            return
        told = answer if isinstance(answer, dict) else {}
        # Whoever answers may be no edge: what is no count counts nothing.
        counts = {name: told[name] if type(told.get(name)) is int else 0 for name in ("accepted", "duplicate")}
        refused = max(0, self._under_way - sum(counts.values()))
        if refused:
            problems = told.get("problems")
            first = problems[0] if isinstance(problems, list) and problems else {}
            LOGGER.warning("%d events were refused, the first one as %s", refused, first)
        before = self.counts
        self.counts = replace(
            before,
            accepted=before.accepted + counts["accepted"],
            duplicate=before.duplicate + counts["duplicate"],
            refused=before.refused + refused,
        )
        self._under_way = 0

    def drop_batch(self, why: str) -> None:
        """Nobody takes the batch under way."""
        count, self._under_way = self._under_way, 0
        self.drop(count, why)

    def drop_all(self, why: str) -> None:
        """Nothing that waits, or is under way, is sent any more."""
        count = len(self)
        self._waiting.clear()
        self._under_way = 0
        self.drop(count, why)

    def drop(self, count: int, why: str) -> None:
        """Count events as dropped; the log tells of the first."""
        if count:
            if not self._told:
                LOGGER.warning("events are dropped, the first %d: %s", count, why)
            self._told = True
            self.counts = replace(self.counts, dropped=self.counts.dropped + count)

    def __len__(self) -> int:
        return len(self._waiting) + self._under_way


def _encoded(event: Mapping[str, Any]) -> bytes:
    """An event as JSON that an edge reads; empty if there is none. One event that it cannot read would lose the whole batch."""
    try:
        for number in (event.get("value"), event.get("unit")):
            if isinstance(number, int):
                # Beyond what a float holds no reader of JSON has to follow.
                float(number)
        # Half a surrogate pair, which JSON could escape and an edge would refuse, has no UTF-8.
        return json.dumps(event, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return b""
