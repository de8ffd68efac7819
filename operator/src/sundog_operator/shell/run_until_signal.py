"""Run coroutines until a signal requests the end."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def handle_signals(numbers: Sequence[signal.Signals], handler: Callable[[], object]) -> Iterator[None]:
    """Call `handler` in the running event loop at each of these signals while the context is open.

    A signal that is ignored stays so, such as SIGHUP under `nohup`.
    """
    loop = asyncio.get_running_loop()
    handled = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    for number in handled:
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


async def run_until(stop: asyncio.Event, work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all coroutines until `stop` is set or one of them ends, then cancel the others. Raises the first error."""
    tasks = [asyncio.create_task(part) for part in work]
    waiter = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((waiter, *tasks), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (waiter, *tasks):
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise _first_cause(result)


def _first_cause(error: Exception) -> Exception:
    """Return the first error inside nested exception groups."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
