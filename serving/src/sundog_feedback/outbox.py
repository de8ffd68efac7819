"""Events that wait to be sent, in batches that an edge accepts, and counts of their results. Does no input or output."""

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
"""An edge accepts 1 MiB."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of all events so far. The edge refused `refused` one by one; `dropped` had no capacity, no answer or no exposure."""

    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    dropped: int = 0


class Outbox:
    """Waiting events, at most `capacity`; further ones are dropped and counted. At most one batch is in flight."""

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: deque[bytes] = deque()
        self._in_flight = 0
        self._has_logged_drop = False
        self.counts = Counts()

    def put(self, event: Mapping[str, Any]) -> bool:
        """Add an event. Drop it and return False if the outbox is full, or if the event has no JSON form, exposure or unit."""
        encoded = _encode(event)
        if not encoded or len(self) >= self._capacity or not ("exposure" in event or "unit" in event):
            self.drop(1, "cannot be sent")
            return False
        self._waiting.append(encoded)
        return True

    def take(self) -> bytes:
        """Return the body of the next request; empty if nothing waits."""
        items: list[bytes] = []
        size = 0
        while self._waiting and len(items) < MAX_BATCH_EVENTS:
            size += len(self._waiting[0]) + 1
            if items and size > MAX_BATCH_BYTES:
                break
            items.append(self._waiting.popleft())
        self._in_flight = len(items)
        return b"[" + b",".join(items) + b"]" if items else b""

    def settle(self, answer: Any) -> None:
        """Count the events of the batch in flight by the edge's answer."""
        if not self._in_flight:
            return
        document = answer if isinstance(answer, dict) else {}
        # The server may be no edge: ignore values that are not counts.
        counts = {name: document[name] if type(document.get(name)) is int else 0 for name in ("accepted", "duplicate")}
        refused = max(0, self._in_flight - sum(counts.values()))
        if refused:
            problems = document.get("problems")
            first = problems[0] if isinstance(problems, list) and problems else {}
            LOGGER.warning("%d events were refused, the first one as %s", refused, first)
        before = self.counts
        self.counts = replace(
            before,
            accepted=before.accepted + counts["accepted"],
            duplicate=before.duplicate + counts["duplicate"],
            refused=before.refused + refused,
        )
        self._in_flight = 0

    def drop_batch(self, reason: str) -> None:
        """Drop the batch in flight."""
        count, self._in_flight = self._in_flight, 0
        self.drop(count, reason)

    def drop_all(self, reason: str) -> None:
        """Drop all events, waiting or in flight."""
        count = len(self)
        self._waiting.clear()
        self._in_flight = 0
        self.drop(count, reason)

    def drop(self, count: int, reason: str) -> None:
        """Count dropped events. Only the first drop is logged."""
        if count:
            if not self._has_logged_drop:
                LOGGER.warning("events are dropped, the first %d: %s", count, reason)
            self._has_logged_drop = True
            self.counts = replace(self.counts, dropped=self.counts.dropped + count)

    def __len__(self) -> int:
        return len(self._waiting) + self._in_flight


def _encode(event: Mapping[str, Any]) -> bytes:
    """Return an event as JSON that an edge can read; empty if there is none. One unreadable event would lose the whole batch."""
    try:
        for number in (event.get("value"), event.get("unit")):
            if isinstance(number, int):
                # Readers of JSON need not accept integers beyond the range of a float.
                float(number)
        # A lone surrogate has no UTF-8, so `encode` refuses it; escaped in JSON, the edge would refuse it.
        return json.dumps(event, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return b""
