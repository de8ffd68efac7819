"""Limit libraries to the replica's share of the machine's cores."""

import math
import os
from collections.abc import MutableMapping

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_SET_BY_RAY = "OMP_NUM_THREADS"


def thread_count(cpu: float) -> int:
    """Return the threads of one forward pass: the cores, rounded up."""
    return max(1, math.ceil(cpu))


def limit_library_threads(cpu: float, environment: MutableMapping[str, str] = os.environ) -> None:
    """Limit libraries that a model loads later: they read the number of threads when they start.

    Values that a user has set stay. Ray sets OMP_NUM_THREADS too, to the cores rounded down; that value is replaced.
    """
    threads = str(thread_count(cpu))
    if environment.get(_SET_BY_RAY) == str(max(1, int(cpu))):
        environment[_SET_BY_RAY] = threads
    for name in _VARIABLES:
        environment.setdefault(name, threads)
