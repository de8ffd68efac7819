"""Periodic tasks of the agent. A failed task does not stop the others."""

import logging
import time
from collections.abc import Awaitable, Callable

from sundog_edge.errors import EdgeError

LOG = logging.getLogger(__name__)


class PeriodicTask:
    """Work that is repeated. Its errors are logged and do not stop other tasks.

    `interval_s` is the least time in seconds from the end of one turn to the next; `retry_s` is the same after a failed turn.
    """

    def __init__(
        self,
        work: Callable[[], Awaitable[None]],
        *,
        interval_s: float = 0.0,
        retry_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._clock = clock
        self._due_at = clock()
        self._logged: set[str] = set()

    @property
    def failing(self) -> bool:
        """Whether the last turn failed."""
        return bool(self._logged)

    async def run_if_due(self) -> None:
        """Run one turn if it is due. The same error is logged again only after a successful turn."""
        if self._clock() < self._due_at:
            return
        try:
            await self._work()
        except (EdgeError, OSError) as error:
            # Peers come back, and full disks get space. Until then the edge continues to serve.
            if str(error) not in self._logged:
                LOG.warning("%s", error)
                self._logged.add(str(error))
            self._due_at = self._clock() + self._retry_s
        else:
            self._logged.clear()
            self._due_at = self._clock() + self._interval_s
