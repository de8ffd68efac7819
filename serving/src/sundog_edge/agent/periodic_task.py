"""Parts of the agent's work, of which each fails by itself."""

import logging
import time
from collections.abc import Awaitable, Callable

from sundog_edge.errors import EdgeError

LOG = logging.getLogger(__name__)


class PeriodicTask:
    """Something that is done again and again. What it raises is logged, and keeps nothing else from its turn.

    `every_s` is the least time in seconds from the end of one turn to the next, `again_s` the same after one that failed.
    """

    def __init__(
        self,
        work: Callable[[], Awaitable[None]],
        *,
        every_s: float = 0.0,
        again_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._every_s = every_s
        self._again_s = again_s
        self._clock = clock
        self._due_at = clock()
        self._told: set[str] = set()

    @property
    def failing(self) -> bool:
        """Whether the last turn failed."""
        return bool(self._told)

    async def take(self) -> None:
        """One turn, if it is time. An error that was logged is logged again only after a turn that went well."""
        if self._clock() < self._due_at:
            return
        try:
            await self._work()
        except (EdgeError, OSError) as error:
            # Whatever is away comes back, and a full disk is emptied; until then what serves goes on serving.
            if str(error) not in self._told:
                LOG.warning("%s", error)
                self._told.add(str(error))
            self._due_at = self._clock() + self._again_s
        else:
            self._told.clear()
            self._due_at = self._clock() + self._every_s
