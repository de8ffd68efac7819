"""Events that wait to be sent, in batches that an edge accepts, and counts of their results. Does no input or output."""

import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

LOGGER = logging.getLogger("sundog_feedback")
FEEDBACK_PATH = "/-/feedback"
DEFAULT_CAPACITY = 10_000
MAX_BATCH_EVENTS = 1000
MAX_BATCH_BYTES = 900_000
"""An edge accepts 1 MiB."""

REPEAT_AFTER_S = 2.0
"""Pause before unknown events are sent once more. Edges learn of each other's exposures within about a second."""

_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of all events so far. The edge refused `refused` one by one; `dropped` had no capacity, no answer or no exposure.

    An event that the edge did not know is in no count until it was sent once more.
    """

    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class _Batch:
    """Events of one request, of which `open` have no result yet. A repetition is sent when it is `due`."""

    events: Sequence[bytes]
    open: int
    repeated: bool = False
    due: float = 0.0


class Outbox:
    """Waiting events, at most `capacity`; further ones are dropped and counted. At most one batch is in flight.

    Times are seconds of a monotonic clock.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: deque[bytes] = deque()
        self._repeats: deque[_Batch] = deque()
        self._in_flight = _NO_BATCH
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

    def pause_s(self, now: float) -> float | None:
        """Return the seconds until a batch can be taken; None if there are no events."""
        if self._waiting:
            return 0.0
        return max(0.0, self._repeats[0].due - now) if self._repeats else None

    def take(self, now: float) -> bytes:
        """Return the body of the next request; empty if nothing waits."""
        if self._repeats and self._repeats[0].due <= now:
            self._in_flight = self._repeats.popleft()
        else:
            waiting = self._take_waiting()
            self._in_flight = _Batch(waiting, len(waiting))
        items = self._in_flight.events
        return b"[" + b",".join(items) + b"]" if items else b""

    def _take_waiting(self) -> list[bytes]:
        items: list[bytes] = []
        size = 0
        while self._waiting and len(items) < MAX_BATCH_EVENTS:
            size += len(self._waiting[0]) + 1
            if items and size > MAX_BATCH_BYTES:
                break
            items.append(self._waiting.popleft())
        return items

    def settle(self, answer: Any, now: float) -> None:
        """Count the events of the batch in flight by the edge's answer. Keep those that it does not know yet, for one repetition."""
        batch, self._in_flight = self._in_flight, _NO_BATCH
        document = answer if isinstance(answer, dict) else {}
        # The server may be no edge: ignore values that are not counts.
        counts = {name: max(0, number) for name, number in document.items() if type(number) is int}
        problems = document.get("problems")
        problems = [each for each in problems if isinstance(each, dict)] if isinstance(problems, list) else []
        accepted = min(counts.get("accepted", 0), batch.open)
        unknown = 0 if batch.repeated else min(counts.get(_UNKNOWN, 0), batch.open - accepted)
        # In a repetition, events that have a result are duplicates.
        settled = len(batch.events) - batch.open
        duplicate = min(max(0, counts.get("duplicate", 0) - settled), batch.open - accepted - unknown)
        refused = batch.open - accepted - unknown - duplicate
        if unknown:
            events = _find_unknown(batch.events, problems, unknown)
            self._repeats.append(_Batch(events, unknown, repeated=True, due=now + REPEAT_AFTER_S))
        if refused:
            final = [each for each in problems if batch.repeated or each.get("result") != _UNKNOWN]
            LOGGER.warning("%d events were refused, the first one as %s", refused, final[0] if final else {})
        before = self.counts
        self.counts = replace(
            before,
            accepted=before.accepted + accepted,
            duplicate=before.duplicate + duplicate,
            refused=before.refused + refused,
        )

    def drop_batch(self, reason: str) -> None:
        """Drop the batch in flight."""
        count, self._in_flight = self._in_flight.open, _NO_BATCH
        self.drop(count, reason)

    def drop_all(self, reason: str) -> None:
        """Drop all events, waiting or in flight."""
        count = len(self._waiting) + sum(batch.open for batch in (self._in_flight, *self._repeats))
        self._waiting.clear()
        self._repeats.clear()
        self._in_flight = _NO_BATCH
        self.drop(count, reason)

    def drop(self, count: int, reason: str) -> None:
        """Count dropped events. Only the first drop is logged."""
        if count:
            if not self._has_logged_drop:
                LOGGER.warning("events are dropped, the first %d: %s", count, reason)
            self._has_logged_drop = True
            self.counts = replace(self.counts, dropped=self.counts.dropped + count)

    def __len__(self) -> int:
        return len(self._waiting) + sum(len(batch.events) for batch in (self._in_flight, *self._repeats))


_NO_BATCH = _Batch((), 0)


def _find_unknown(events: Sequence[bytes], problems: Sequence[Mapping[str, Any]], unknown: int) -> list[bytes]:
    """Return the events that the edge does not know. It names the first problems only: without all, no other event is left out.

    Known events count once: their repetition is a duplicate.
    """
    results = {each.get("item"): each.get("result") for each in problems if type(each.get("item")) is int}
    named = [event for number, event in enumerate(events) if results.get(number) == _UNKNOWN]
    if len(named) == unknown:
        return named
    return [event for number, event in enumerate(events) if results.get(number, _UNKNOWN) == _UNKNOWN]


def _encode(event: Mapping[str, Any]) -> bytes:
    """Return an event as JSON that an edge can read; empty if there is none. One unreadable event would lose the whole batch."""
    try:
        properties = dict(event.get("properties") or {})
        for number in (event.get("value"), event.get("unit"), *properties.values()):
            if isinstance(number, list | tuple | dict):
                # The edge would refuse it, and a number in it may be unreadable.
                return b""
            if isinstance(number, int):
                # Readers of JSON need not accept integers beyond the range of a float.
                float(number)
        # A lone surrogate has no UTF-8, so `encode` refuses it; escaped in JSON, the edge would refuse it.
        members = {**event, "properties": properties} if properties else event
        return json.dumps(members, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return b""
