"""Requests in the background: a pass gets the last answer and never waits."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

POLL_S: Final = 1.0
"""Seconds between checks of a pending request."""

A = TypeVar("A")


@dataclass(slots=True)
class _Slot(Generic[A]):
    about: str
    task: asyncio.Task[A] | None = None
    answer: A | None = None
    times: int = 0
    due: float = 0.0


class BackgroundRequests(Generic[A]):
    """Pending requests and their last answers, one per slot. They are in memory only, so another process sends them again."""

    def __init__(self) -> None:
        self._slots: dict[str, _Slot[A]] = {}

    def poll(
        self,
        slot: str,
        about: str,
        send: Callable[[], Coroutine[Any, Any, A]],
        *,
        enough: Callable[[A], bool],
        again_s: Callable[[int], float],
        now: float,
    ) -> A | None:
        """Return the last answer about `about`; None before there is one. Send a request where one is due.

        A request about something else in the slot is cancelled. Raises once what a request raised.

        Args:
            slot: place of one pending request.
            about: the subject of the request.
            send: starts a request.
            enough: whether an answer ends the requests. Without that, requests repeat.
            again_s: the seconds from request number n to the next one.
            now: monotonic seconds.
        """
        kept = self._slots.get(slot)
        if kept is None or kept.about != about:
            self.forget(slot)
            kept = self._slots[slot] = _Slot(about)
        if kept.task is not None and kept.task.done():
            # An error is raised once, and the next pass sends the request again.
            ended, kept.task = kept.task, None
            kept.answer = ended.result()
        unanswered = kept.answer is None or not enough(kept.answer)
        if kept.task is None and unanswered and now >= kept.due:
            kept.times += 1
            kept.due = now + again_s(kept.times)
            kept.task = asyncio.ensure_future(send())
        return kept.answer

    def next_check_s(self, slot: str, now: float) -> float:
        """Return the seconds until a slot may have a new answer."""
        kept = self._slots.get(slot)
        return POLL_S if kept is None or kept.task is not None else max(kept.due - now, POLL_S)

    def forget_except(self, prefix: str, slots: Collection[str]) -> None:
        """Forget all slots with a prefix, except the given ones."""
        for slot in [each for each in self._slots if each.startswith(prefix) and each not in slots]:
            self.forget(slot)

    def forget(self, slot: str) -> None:
        """Forget a slot, and cancel its pending request."""
        kept = self._slots.pop(slot, None)
        if kept is not None and kept.task is not None:
            kept.task.cancel()

    @property
    def pending(self) -> list[asyncio.Task[A]]:
        """The requests that have not ended."""
        return [kept.task for kept in self._slots.values() if kept.task is not None and not kept.task.done()]
