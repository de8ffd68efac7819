"""The real clock."""

import asyncio
import time
from datetime import UTC, datetime


class SystemClock:
    """`ports.Clock` of this machine."""

    def now(self) -> datetime:
        """The current instant, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that only ever grow."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
