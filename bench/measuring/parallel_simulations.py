"""Run simulations in one process per core, and report their progress.

They are plain processes: those of `multiprocessing` leave a resource tracker behind, or are forked beside threads.
"""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from rich.console import Console

Result = TypeVar("Result")

_WORKER: Final = """
import pickle, sys
given, taken, sys.stdout = sys.stdin.buffer, sys.stdout.buffer, sys.stderr
sys.path[:] = pickle.load(given)
for call in pickle.load(given):
    pickle.dump(call(), taken)
    taken.flush()
"""


def in_processes(name: str, calls: Sequence[Callable[[], Result]], processes: int | None = None) -> list[Result]:
    """Return the results of calls, in their order. Calls are pickled, so their functions belong to importable modules.

    Raises:
        RuntimeError: one of them raised; its traceback is on standard error.
    """
    console, began, lock = Console(markup=False, highlight=False), time.monotonic(), threading.Lock()
    some = max(1, min(processes or os.cpu_count() or 1, len(calls)))
    found: dict[int, Result] = {}

    def work(first: int) -> None:
        for place, result in zip(range(first, len(calls), some), _results(name, calls[first::some]), strict=True):
            with lock:
                found[place] = result
                message = f"{name}: {len(found)} of {len(calls)} after {time.monotonic() - began:.0f} s"
                console.print(message, soft_wrap=True)

    with ThreadPoolExecutor(some) as threads:
        for done in [threads.submit(work, first) for first in range(some)]:
            done.result()
    return [found[place] for place in range(len(calls))]


def _results(name: str, calls: Sequence[Callable[[], Any]]) -> Iterator[Any]:
    """Run calls in turn, in a process of their own."""
    command = [sys.executable, "-c", _WORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pickle.dumps(sys.path) + pickle.dumps(list(calls)))
        process.stdin.close()
        for _ in calls:
            try:
                yield pickle.load(process.stdout)
            except EOFError:
                raise RuntimeError(f"{name}: a simulation ended with code {process.wait()}") from None
