"""Times of cold starts: when an application at zero got a replica to start, and when that replica answered."""

from collections.abc import Collection
from typing import NamedTuple


class ColdStart(NamedTuple):
    """One cold start, in Unix seconds: when Serve first wanted a replica, and when HAProxy had one in service."""

    woken_at: float
    answers_at: float


class ColdStarts:
    """Cold starts that run and the last one of each application. The agent sees Serve's decision with its next poll.

    `woken_at` has the start of each cold start that runs, in Unix seconds by application.
    """

    def __init__(self) -> None:
        self.last: dict[str, ColdStart] = {}
        self.woken_at: dict[str, float] = {}

    def update(self, at_zero: Collection[str], cold: Collection[str], now: float) -> list[str]:
        """Take note of the present applications at zero, and of those without a replica since then. Return those whose start has ended."""
        for application in cold:
            if application in at_zero:
                self.woken_at.pop(application, None)
            else:
                self.woken_at.setdefault(application, now)
        ended = [application for application in self.woken_at if application not in cold]
        for application in ended:
            self.last[application] = ColdStart(self.woken_at.pop(application), now)
        return ended

    def forget_others(self, applications: Collection[str]) -> None:
        """Forget applications that are in no document any more."""
        self.last = {name: start for name, start in self.last.items() if name in applications}
        self.woken_at = {name: at for name, at in self.woken_at.items() if name in applications}
