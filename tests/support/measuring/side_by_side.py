"""Simulations in a process for each core, which say how far they are."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from rich.console import Console

Result = TypeVar("Result")


def in_processes(name: str, calls: Sequence[Callable[[], Result]], processes: int | None = None) -> list[Result]:
    """What calls give, in their order. They are pickled, so functions are those of modules that can be imported.

    Raises:
        Exception: the first that any of them raises; what has not begun by then does not.
    """
    began, context = time.monotonic(), multiprocessing.get_context("spawn")
    console = Console(markup=False, highlight=False)
    with ProcessPoolExecutor(min(processes or os.cpu_count() or 1, max(1, len(calls))), context) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            for count, done in enumerate(as_completed(futures), start=1):
                done.result()
                console.print(f"{name}: {count} of {len(calls)} after {time.monotonic() - began:.0f} s", soft_wrap=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [each.result() for each in futures]
