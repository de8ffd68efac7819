"""The replica's share of the machine's cores, told to the libraries that would take all of them."""

import math
import os
from collections.abc import MutableMapping

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_RAYS = "OMP_NUM_THREADS"


def thread_count(cpu: float) -> int:
    """Threads of one forward pass: the cores, rounded up."""
    return max(1, math.ceil(cpu))


def limit_library_threads(cpu: float, environment: MutableMapping[str, str] = os.environ) -> None:
    """For libraries that a model loads later: they read the number of threads where they start.

    What a user has set stays. Ray sets OMP_NUM_THREADS too, to the cores rounded down; that value is replaced.
    """
    threads = str(thread_count(cpu))
    if environment.get(_RAYS) == str(max(1, int(cpu))):
        environment[_RAYS] = threads
    for name in _VARIABLES:
        environment.setdefault(name, threads)
