"""Takes feedback: reads what was reported, has the store join it, and tells what came of it. Also hands first exposures to the store."""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from weakref import WeakValueDictionary

from sundog_edge.errors import StoreUnavailable
from sundog_edge.feedback.events import BodyRefused, ItemRefusal, OutcomeEvent, ParseContext, parse_item, parse_items
from sundog_edge.feedback.exposure import SignedExposure, verify_exposure
from sundog_edge.feedback.first_seen import FirstExposureTracker
from sundog_edge.feedback.join import ACCEPTED, REJECTED_RESULTS, WINDOW_S, OutcomeBatch, render_feedback_section
from sundog_edge.feedback.signing_keys import SigningKeys
from sundog_edge.feedback.store import OutcomeStore, StoreSnapshot
from sundog_edge.split.document import Service, SplitDocument

LOG = logging.getLogger(__name__)
MAX_PROBLEMS = 20
RETRY_AFTER_S = 1
ATTEMPT_REFRESH_S = 60.0
_FLUSH_S = 0.5
_FINISH_S = 3.0
_ANSWER_S = 10.0
"""So long a request may wait for the store. HAProxy gives up a little later, and sends the next beside those that still wait."""

_AT_ONCE = 100
"""Items that are read before others get their turn: reading is the agent's time, and so is counting requests."""

_STORE_REFUSALS = {
    "late": ("time", f"from the exposure to {WINDOW_S // 86_400} days after it"),
    "unknown": ("unit", "a unit that this service's attempt in force was seen to expose"),
    "overflow": ("", "feedback within the bounds of units and events of one attempt"),
}


@dataclass(frozen=True, slots=True)
class FeedbackResponse:
    """An HTTP status and a JSON document; `code` is that of a problem, and then `document` is its detail."""

    status: int
    document: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    detail: str = ""


class FeedbackIntake:
    """All feedback of one edge. `keys` and `document` tell what is in force now; `drain` counts the lines that have come."""

    def __init__(
        self,
        store: OutcomeStore | None,
        keys: Callable[[], SigningKeys],
        document: Callable[[], SplitDocument | None],
        drain: Callable[[], None],
        clock: Callable[[], float] = time.time,
        answer_s: float = _ANSWER_S,
    ) -> None:
        self.results: Counter[tuple[str, str]] = Counter()
        """Items by service and result, since this agent started."""

        self.failures = 0
        """Times that the store did not answer, since this agent started."""

        self.first_seen: dict[str, FirstExposureTracker] = {}
        """By attempt, for services with sticky units; whoever counts lines fills it."""

        self.store = store
        """Where feedback is kept; None where none is."""

        self._keys = keys
        self._document = document
        self._drain = drain
        self._clock = clock
        self._answer_s = answer_s
        # One by attempt, as long as somebody holds or awaits it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._stored: StoreSnapshot | None = None
        self._error = ""
        self._named_at = -ATTEMPT_REFRESH_S
        self._began: dict[str, float] = {}

    @property
    def services(self) -> dict[str, Service]:
        """Every service with feedback, by name."""
        return _with_feedback(self._document())

    @property
    def unavailable_reason(self) -> str:
        """Why no feedback is taken; empty while it is."""
        if self.store is None:
            return "the agent was started without --store"
        keys = self._keys()
        return "" if keys.accepted else keys.problem or "the agent was started without --signing-key"

    def follow(self, coming: SplitDocument | None = None) -> bool:
        """Let `first_seen` have what the document in force and one that is `coming` ask for. Whether that has changed anything."""
        services = self.services.values() if self.store is not None else ()
        ahead = _with_feedback(coming).values() if self.store is not None else ()
        now = self._clock()
        self._began = {attempt: self._began.get(attempt, now) for attempt in map(attempt_name, services)}
        wanted = {attempt_name(service) for service in (*services, *ahead) if service.unit.source}
        changed = wanted != self.first_seen.keys()
        if changed:
            since = _asked_since(self._document(), coming)
            self.first_seen = {
                attempt: self.first_seen.get(attempt) or FirstExposureTracker(since=since.get(attempt, 0))
                for attempt in wanted
            }
            for seen in self.first_seen.values():
                seen.share(len(wanted))
        return changed

    async def take(self, name: str, body: bytes) -> FeedbackResponse:
        """What is answered to a body that was posted for a service."""
        service = self.services.get(name)
        if service is None or service.feedback is None:
            return FeedbackResponse(404, code="NoFeedback", detail="this service takes no feedback")
        if self.store is None or self.unavailable_reason:
            return FeedbackResponse(503, code="FeedbackUnavailable", detail="feedback is not taken now")
        try:
            items = parse_items(body)
        except BodyRefused as refused:
            return FeedbackResponse(400, code="BadFeedback", detail=str(refused))
        read_items = await self._read(service, items)
        try:
            results = await self._written_in_time(service, read_items)
        except StoreUnavailable as error:
            self._fail(error)
            return FeedbackResponse(503, code="FeedbackUnavailable", detail="the store of feedback does not answer")
        self.results.update((name, result) for result in results)
        return _answer(read_items, results)

    async def tick(self) -> None:
        """Hand over first exposures and read the tallies, for services with feedback. Raises StoreUnavailable."""
        services = self.services
        if self.store is None or not services:
            return
        try:
            for service in services.values():
                await self._flush(service)
            if time.monotonic() - self._named_at >= ATTEMPT_REFRESH_S:
                await self.store.name([attempt_name(service) for service in services.values()], self._clock())
                self._named_at = time.monotonic()
            self._stored = await self.store.read([attempt_name(service) for service in services.values()])
            self._error = ""
        except StoreUnavailable as error:
            self._fail(error)
            raise

    async def finish(self) -> None:
        """Hand over what waits, on the way out, and let go of the store; if that does not answer, what waits is lost."""
        if self.store is None:
            return
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(_FINISH_S):
                for service in self.services.values():
                    await self._flush(service)
        with contextlib.suppress(StoreUnavailable):
            await self.store.close()

    def sections(self) -> dict[str, dict[str, Any]]:
        """What the evidence says of each service's feedback, as the store had it at the last look."""
        return {service.name: self._section(service) for service in self.services.values()}

    def _section(self, service: Service) -> dict[str, Any]:
        error = self.unavailable_reason or self._error
        tally = None if self._stored is None else self._stored.tallies.get(attempt_name(service))
        if error or self._stored is None or tally is None:
            return {"attempt": service.attempt, "error": error or "the store has not been read yet"}
        return render_feedback_section(service.attempt, self._stored.id, tally)

    def _fail(self, error: StoreUnavailable) -> None:
        self.failures += 1
        self._error = str(error)

    async def _read(self, service: Service, items: list[Any]) -> list[OutcomeEvent | ItemRefusal]:
        assert service.feedback is not None
        reading = ParseContext(
            self._clock(),
            service.feedback.metrics,
            bool(service.unit.source),
            self._exposure_of(service),
            service.attempt,
            self._began.get(attempt_name(service), -math.inf),
        )
        found: list[OutcomeEvent | ItemRefusal] = []
        for start in range(0, len(items), _AT_ONCE):
            found += [parse_item(item, reading) for item in items[start : start + _AT_ONCE]]
            await asyncio.sleep(0)
        # Whose answer is on its way may have a line that waits.
        self._drain()
        return found

    def _exposure_of(self, service: Service) -> Callable[[str], SignedExposure | None]:
        keys = self._keys().accepted
        arms = [arm.name for arm in service.arms]

        return lambda text: verify_exposure(keys, service.name, text, arms)

    async def _written_in_time(self, service: Service, read_items: list[OutcomeEvent | ItemRefusal]) -> list[str]:
        try:
            async with asyncio.timeout(self._answer_s):
                return await self._write(service, read_items)
        except TimeoutError:
            raise StoreUnavailable(f"store of feedback: no answer within {self._answer_s:g} s") from None

    async def _write(self, service: Service, read_items: list[OutcomeEvent | ItemRefusal]) -> list[str]:
        events = [item for item in read_items if isinstance(item, OutcomeEvent)]
        refused = Counter(item.result for item in read_items if isinstance(item, ItemRefusal))
        written = iter(await self._hand_over(service, events, refused))
        return [item.result if isinstance(item, ItemRefusal) else next(written) for item in read_items]

    async def _flush(self, service: Service) -> None:
        """Write exposures until none waits or the time for it is over; what is left comes with the next."""
        until = time.monotonic() + _FLUSH_S
        seen = self.first_seen.get(attempt_name(service))
        while seen is not None and (seen.waiting or seen.dropped):
            await self._hand_over(service, (), {})
            if time.monotonic() >= until:
                return

    async def _hand_over(
        self, service: Service, events: Iterable[OutcomeEvent], refused: Mapping[str, int]
    ) -> list[str]:
        assert self.store is not None
        assert service.feedback is not None
        attempt = attempt_name(service)
        lock = self._locks.setdefault(attempt, asyncio.Lock())
        async with lock:
            seen = self.first_seen.get(attempt)
            firsts, dropped = seen.some() if seen is not None else ({}, 0)
            batch = OutcomeBatch(
                firsts, tuple(events), refused, dropped, bool(service.unit.source), service.feedback.maxUnits
            )
            results = await self.store.write(attempt, batch)
            if seen is not None:
                seen.written(firsts, dropped)
        return results


def attempt_name(service: Service) -> str:
    """How a store names the attempt of a service."""
    return f"{service.name}/{service.attempt}"


def _with_feedback(document: SplitDocument | None) -> dict[str, Service]:
    return {service.name: service for service in (document.services if document else ()) if service.feedback}


def _asked_since(before: SplitDocument | None, coming: SplitDocument | None) -> dict[str, int]:
    """The epoch of each attempt with which outcomes of it are asked for, where it has had traffic without."""
    without = {attempt_name(service) for service in (before.services if before else ()) if not service.feedback}
    ahead = ((attempt_name(service), service.epoch) for service in _with_feedback(coming).values())
    return {attempt: epoch for attempt, epoch in ahead if attempt in without}


def _answer(items: list[OutcomeEvent | ItemRefusal], results: list[str]) -> FeedbackResponse:
    counts = Counter(results)
    problems = [
        {"item": number, "result": result, **_why(item, result)}
        for number, (item, result) in enumerate(zip(items, results, strict=True))
        if result not in {ACCEPTED, "duplicate"}
    ]
    document = {
        **{name: counts.get(name, 0) for name in (ACCEPTED, *REJECTED_RESULTS)},
        "problems": problems[:MAX_PROBLEMS],
    }
    return FeedbackResponse(207 if problems else 200, document)


def _why(item: OutcomeEvent | ItemRefusal, result: str) -> dict[str, str]:
    if isinstance(item, ItemRefusal):
        return {"field": item.field, "found": item.found, "expected": item.expected}
    where, expected = _STORE_REFUSALS[result]
    return {"field": where, "found": _found(item, result), "expected": expected}


def _found(event: OutcomeEvent, result: str) -> str:
    """Of an event that the store refused. A unit may be a person's name, and is not told again."""
    match result:
        case "late":
            return f"{datetime.fromtimestamp(event.seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
        case "unknown":
            return "a unit"
    return "more than is kept"
