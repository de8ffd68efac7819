"""The clock of this machine."""

import asyncio
import time
from datetime import UTC, datetime


class SystemClock:
    """`ports.Clock` of this machine."""

    def now(self) -> datetime:
        """Return the current instant, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""
        await asyncio.sleep(seconds)
