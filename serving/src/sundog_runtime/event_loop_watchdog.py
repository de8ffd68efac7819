"""Ends the process when its event loop stands still.

Quick models run on the event loop, beside deadlines and health checks. A call there that does not end stops all of them, and nobody within
the process could say so. Serve replaces a process that ends within a second; it takes minutes to give up one that is silent.
"""

import asyncio
import faulthandler
from typing import NoReturn

STALL_S = 60.0
"""As long as a call on the model's thread is waited for at least."""

HEARTBEAT_S = 5.0


async def watch_event_loop() -> NoReturn:
    """Until cancelled, put off the end of the process again and again, which the event loop can do only while it turns.

    When it has stood still for STALL_S seconds, the stacks of all threads are written to stderr and the process ends with status 1. A timer
    in C sees to it, which needs no lock of the interpreter. A process has one such timer, which the start of a model needs before.
    """
    try:
        while True:
            faulthandler.dump_traceback_later(STALL_S, exit=True)
            await asyncio.sleep(HEARTBEAT_S)
    finally:
        faulthandler.cancel_dump_traceback_later()
