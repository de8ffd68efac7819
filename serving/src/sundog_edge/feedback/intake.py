"""Take feedback: parse reported outcomes, have the store join them, and answer with the results. Also write first exposures."""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from weakref import WeakValueDictionary

from sundog_edge.errors import StoreUnavailable
from sundog_edge.feedback.events import BodyRefused, ItemRefusal, OutcomeEvent, ParseContext, parse_item, parse_items
from sundog_edge.feedback.exposure import SignedExposure, verify_exposure
from sundog_edge.feedback.first_seen import FirstExposureTracker
from sundog_edge.feedback.join import (
    ACCEPTED,
    REJECTED_RESULTS,
    OutcomeBatch,
    matured_until,
    render_feedback_section,
    window_ends,
)
from sundog_edge.feedback.signing_keys import SigningKeys
from sundog_edge.feedback.store import OutcomeStore, StoreSnapshot
from sundog_edge.split.document import Service, SplitDocument
from sundog_edge.split.feedback import MAX_OUTCOME_AGE_S

LOG = logging.getLogger(__name__)
MAX_PROBLEMS = 20
RETRY_AFTER_S = 1
ATTEMPT_REFRESH_S = 60.0
_FLUSH_S = 0.5
_FINISH_S = 3.0
_ANSWER_S = 10.0
"""Longest wait of a request for the store. HAProxy gives up a little later, and then sends the next request while old ones still wait."""

_ITEMS_PER_TURN = 100
"""Items that are parsed before other tasks of the agent get a turn, such as the counting of requests."""

_STORE_REFUSALS = {
    "late": ("time", f"from the exposure to {MAX_OUTCOME_AGE_S // 86_400} days after it"),
    "unknown": ("unit", "a unit that this service's attempt in force was seen to expose"),
    "overflow": ("", "feedback within the bounds of units and events of one attempt"),
}


@dataclass(frozen=True, slots=True)
class FeedbackResponse:
    """An HTTP status and a JSON document; or, for a problem, its `code` and `detail`."""

    status: int
    document: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    detail: str = ""


class FeedbackIntake:
    """The feedback of one edge. `keys` and `document` return those in force; `drain` counts the lines in the pipe."""

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
        """Items by service and result, since the start of this agent."""

        self.failures = 0
        """Failed calls of the store, since the start of this agent."""

        self.first_seen: dict[str, FirstExposureTracker] = {}
        """Trackers by attempt, for services with sticky units. The ledger fills them."""

        self.store = store
        """The store of feedback; None without `--store`."""

        self._keys = keys
        self._document = document
        self._drain = drain
        self._clock = clock
        self._answer_s = answer_s
        # One lock by attempt, while a task holds or awaits it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._snapshot: StoreSnapshot | None = None
        self._error = ""
        self._refreshed_at = -ATTEMPT_REFRESH_S
        self._began: dict[str, float] = {}
        self._matured: dict[str, tuple[int, ...]] = {}

    @property
    def services(self) -> dict[str, Service]:
        """Every service with feedback, by name."""
        return _with_feedback(self._document())

    @property
    def unavailable_reason(self) -> str:
        """The reason why no feedback is taken; empty while it is taken."""
        if self.store is None:
            return "the agent was started without --store"
        keys = self._keys()
        return "" if keys.accepted else keys.problem or "the agent was started without --signing-key"

    def update_trackers(self, coming: SplitDocument | None = None) -> bool:
        """Fit `first_seen` to the document in force and the `coming` one. Return whether that changed it."""
        services = self.services.values() if self.store is not None else ()
        ahead = _with_feedback(coming).values() if self.store is not None else ()
        now = self._clock()
        self._began = {attempt: self._began.get(attempt, now) for attempt in map(attempt_name, services)}
        self._matured = {attempt: own for attempt, own in self._matured.items() if attempt in self._began}
        wanted = {attempt_name(service) for service in (*services, *ahead) if service.unit.source}
        changed = wanted != self.first_seen.keys()
        if changed:
            since = _feedback_since(self._document(), coming)
            self.first_seen = {
                attempt: self.first_seen.get(attempt) or FirstExposureTracker(since=since.get(attempt, 0))
                for attempt in wanted
            }
            for tracker in self.first_seen.values():
                tracker.share(len(wanted))
        return changed

    async def take(self, name: str, body: bytes) -> FeedbackResponse:
        """Return the answer to a body that was posted for a service."""
        service = self.services.get(name)
        if service is None or service.feedback is None:
            return FeedbackResponse(404, code="NoFeedback", detail="this service takes no feedback")
        if self.store is None or self.unavailable_reason:
            return FeedbackResponse(503, code="FeedbackUnavailable", detail="feedback is not taken now")
        try:
            items = parse_items(body)
        except BodyRefused as refused:
            return FeedbackResponse(400, code="BadFeedback", detail=str(refused))
        parsed = await self._parse(service, items)
        try:
            results = await self._write_in_time(service, parsed)
        except StoreUnavailable as error:
            self._fail(error)
            return FeedbackResponse(503, code="FeedbackUnavailable", detail="the store of feedback does not answer")
        self.results.update((name, result) for result in results)
        return _render_answer(parsed, results)

    async def tick(self) -> None:
        """Write first exposures and read the tallies, for services with feedback. Raises StoreUnavailable."""
        services = self.services
        if self.store is None or not services:
            return
        try:
            for service in services.values():
                await self._flush(service)
            if time.monotonic() - self._refreshed_at >= ATTEMPT_REFRESH_S:
                await self.store.name([attempt_name(service) for service in services.values()], self._clock())
                self._refreshed_at = time.monotonic()
            self._snapshot = await self.store.read([attempt_name(service) for service in services.values()])
            self._error = ""
        except StoreUnavailable as error:
            self._fail(error)
            raise

    def forget_others(self, services: Collection[str]) -> None:
        """Drop the results of all services but these."""
        self.results = Counter({key: count for key, count in self.results.items() if key[0] in services})

    async def finish(self) -> None:
        """Write the waiting exposures and close the store, at the end of the agent. They are lost if the store does not answer."""
        if self.store is None:
            return
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(_FINISH_S):
                for service in self.services.values():
                    await self._flush(service)
        with contextlib.suppress(StoreUnavailable):
            await self.store.close()

    def sections(self) -> dict[str, dict[str, Any]]:
        """Return each service's feedback section of the evidence, as of the last read of the store."""
        return {service.name: self._section(service) for service in self.services.values()}

    def _section(self, service: Service) -> dict[str, Any]:
        error = self.unavailable_reason or self._error
        tally = None if self._snapshot is None else self._snapshot.tallies.get(attempt_name(service))
        if error or self._snapshot is None or tally is None:
            return {"attempt": service.attempt, "error": error or "the store has not been read yet"}
        has_delayed = service.feedback is not None and bool(service.feedback.delayedWindows)
        return render_feedback_section(service.attempt, self._snapshot.id, tally, has_delayed=has_delayed)

    def _fail(self, error: StoreUnavailable) -> None:
        self.failures += 1
        self._error = str(error)

    async def _parse(self, service: Service, items: list[Any]) -> list[OutcomeEvent | ItemRefusal]:
        assert service.feedback is not None
        context = ParseContext(
            self._clock(),
            service.feedback.metrics,
            bool(service.unit.source),
            self._exposure_of(service),
            service.attempt,
            self._began.get(attempt_name(service), -math.inf),
        )
        parsed: list[OutcomeEvent | ItemRefusal] = []
        for start in range(0, len(items), _ITEMS_PER_TURN):
            parsed += [parse_item(item, context) for item in items[start : start + _ITEMS_PER_TURN]]
            await asyncio.sleep(0)
        # The lines of just answered requests may still be in the pipe.
        self._drain()
        return parsed

    def _exposure_of(self, service: Service) -> Callable[[str], SignedExposure | None]:
        keys = self._keys().accepted
        arms = [arm.name for arm in service.arms]

        return lambda text: verify_exposure(keys, service.name, text, arms)

    async def _write_in_time(self, service: Service, parsed: list[OutcomeEvent | ItemRefusal]) -> list[str]:
        try:
            async with asyncio.timeout(self._answer_s):
                return await self._write(service, parsed)
        except TimeoutError:
            raise StoreUnavailable(f"feedback store: no answer within {self._answer_s:g} s") from None

    async def _write(self, service: Service, parsed: list[OutcomeEvent | ItemRefusal]) -> list[str]:
        events = [item for item in parsed if isinstance(item, OutcomeEvent)]
        refused = Counter(item.result for item in parsed if isinstance(item, ItemRefusal))
        written = iter(await self._write_batch(service, events, refused))
        return [item.result if isinstance(item, ItemRefusal) else next(written) for item in parsed]

    async def _flush(self, service: Service) -> None:
        """Write exposures until none waits or _FLUSH_S has passed. The next call writes the rest.

        With conversion windows it also writes now and then without exposures, so that units mature while no request comes.
        """
        until = time.monotonic() + _FLUSH_S
        await self._mature(service)
        tracker = self.first_seen.get(attempt_name(service))
        while tracker is not None and (tracker.waiting or tracker.dropped):
            await self._write_batch(service, (), {})
            if time.monotonic() >= until:
                return

    async def _mature(self, service: Service) -> None:
        """Have the store add the units whose window has passed, at the start of each cohort."""
        assert service.feedback is not None
        now_s = int(self._clock())
        ends = window_ends(service.feedback.windows, service.feedback.delayedWindows)
        passed = tuple(matured_until(now_s, end) for end in ends)
        if passed and self._matured.get(attempt_name(service)) != passed:
            await self._write_batch(service, (), {})
            self._matured[attempt_name(service)] = passed

    async def _write_batch(
        self, service: Service, events: Iterable[OutcomeEvent], refused: Mapping[str, int]
    ) -> list[str]:
        assert self.store is not None
        assert service.feedback is not None
        attempt = attempt_name(service)
        lock = self._locks.setdefault(attempt, asyncio.Lock())
        async with lock:
            tracker = self.first_seen.get(attempt)
            firsts, dropped = tracker.next_batch() if tracker is not None else ({}, 0)
            batch = OutcomeBatch(
                firsts,
                tuple(events),
                refused,
                dropped,
                bool(service.unit.source),
                service.feedback.maxUnits,
                caps=service.feedback.caps,
                windows=service.feedback.windows,
                delayed_windows=service.feedback.delayedWindows,
                now_s=int(self._clock()),
                products=service.feedback.products,
                covariates=service.feedback.covariates,
            )
            results = await self.store.write(attempt, batch)
            if tracker is not None:
                tracker.mark_written(firsts, dropped)
        return results


def attempt_name(service: Service) -> str:
    """Return a store's name of the attempt of a service."""
    return f"{service.name}/{service.attempt}"


def _with_feedback(document: SplitDocument | None) -> dict[str, Service]:
    return {service.name: service for service in (document.services if document else ()) if service.feedback}


def _feedback_since(before: SplitDocument | None, coming: SplitDocument | None) -> dict[str, int]:
    """Return the first epoch with feedback of each attempt that already had traffic without feedback."""
    without = {attempt_name(service) for service in (before.services if before else ()) if not service.feedback}
    ahead = ((attempt_name(service), service.epoch) for service in _with_feedback(coming).values())
    return {attempt: epoch for attempt, epoch in ahead if attempt in without}


def _render_answer(items: list[OutcomeEvent | ItemRefusal], results: list[str]) -> FeedbackResponse:
    counts = Counter(results)
    problems = [
        {"item": number, "result": result, **_explain(item, result)}
        for number, (item, result) in enumerate(zip(items, results, strict=True))
        if result not in {ACCEPTED, "duplicate"}
    ]
    document = {
        **{name: counts.get(name, 0) for name in (ACCEPTED, *REJECTED_RESULTS)},
        "problems": problems[:MAX_PROBLEMS],
    }
    return FeedbackResponse(207 if problems else 200, document)


def _explain(item: OutcomeEvent | ItemRefusal, result: str) -> dict[str, str]:
    if isinstance(item, ItemRefusal):
        return {"field": item.field, "found": item.found, "expected": item.expected}
    field_name, expected = _STORE_REFUSALS[result]
    return {"field": field_name, "found": _found(item, result), "expected": expected}


def _found(event: OutcomeEvent, result: str) -> str:
    """Return what was found, for an event that the store refused. A unit may be a person's name, so it is not shown."""
    match result:
        case "late":
            return f"{datetime.fromtimestamp(event.seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
        case "unknown":
            return "a unit"
    return "more than is kept"
