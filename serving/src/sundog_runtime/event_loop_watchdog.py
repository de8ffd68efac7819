"""End the process when its event loop stands still.

Quick models run on the event loop, beside deadlines and health checks. A call that does not end stops all of them, and no code within
the process could report it. Serve replaces a process that ends within a second; it needs minutes to give up a silent one.
"""

import asyncio
import faulthandler
from typing import NoReturn

STALL_S = 60.0
"""At least as long as a call on the model's thread may take."""

HEARTBEAT_S = 5.0


async def watch_event_loop() -> NoReturn:
    """Postpone the end of the process again and again, until cancelled. Only a running event loop can do so.

    When the loop has stood still for STALL_S seconds, the stacks of all threads are written to stderr and the process ends with status 1.
    A timer in C does it, which does not need the interpreter lock. A process has one such timer; before this, the start of a model uses it.
    """
    try:
        while True:
            faulthandler.dump_traceback_later(STALL_S, exit=True)
            await asyncio.sleep(HEARTBEAT_S)
    finally:
        faulthandler.cancel_dump_traceback_later()
