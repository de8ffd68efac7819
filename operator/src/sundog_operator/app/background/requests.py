"""Posts to addresses outside, so that no pass waits for one: who asks is told what came of the last."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

POLL_S: Final = 1.0
"""Between two looks at a post that is under way, in seconds."""

A = TypeVar("A")


@dataclass(slots=True)
class _Slot(Generic[A]):
    about: str
    task: asyncio.Task[A] | None = None
    answer: A | None = None
    times: int = 0
    due: float = 0.0


class BackgroundRequests(Generic[A]):
    """Posts under way and their last answers, one by slot. They are in memory alone: another process posts anew."""

    def __init__(self) -> None:
        self._slots: dict[str, _Slot[A]] = {}

    def ask(
        self,
        slot: str,
        about: str,
        post: Callable[[], Coroutine[Any, Any, A]],
        *,
        enough: Callable[[A], bool],
        again_s: Callable[[int], float],
        now: float,
    ) -> A | None:
        """The last answer to what the slot is `about`, None before there is one. Something else there is given up.

        Posts at once, and again until an answer is enough: number n + 1 at the earliest `again_s(n)` seconds after number n. `now` is
        in seconds that only grow.
        """
        kept = self._slots.get(slot)
        if kept is None or kept.about != about:
            self.forget(slot)
            kept = self._slots[slot] = _Slot(about)
        if kept.task is not None and kept.task.done():
            # Whatever it raises is raised once: the next pass posts anew.
            ended, kept.task = kept.task, None
            kept.answer = ended.result()
        waits = kept.answer is None or not enough(kept.answer)
        if kept.task is None and waits and now >= kept.due:
            kept.times += 1
            kept.due = now + again_s(kept.times)
            kept.task = asyncio.ensure_future(post())
        return kept.answer

    def next_check_s(self, slot: str, now: float) -> float:
        """After how many seconds there may be something new in a slot."""
        kept = self._slots.get(slot)
        return POLL_S if kept is None or kept.task is not None else max(kept.due - now, POLL_S)

    def forget_except(self, prefix: str, slots: Collection[str]) -> None:
        """Forget all slots that begin so, but for these."""
        for slot in [each for each in self._slots if each.startswith(prefix) and each not in slots]:
            self.forget(slot)

    def forget(self, slot: str) -> None:
        """Nobody asks any more: what is under way is given up."""
        kept = self._slots.pop(slot, None)
        if kept is not None and kept.task is not None:
            kept.task.cancel()

    @property
    def under_way(self) -> list[asyncio.Task[A]]:
        """The posts that have not ended."""
        return [kept.task for kept in self._slots.values() if kept.task is not None and not kept.task.done()]
