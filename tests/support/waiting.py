"""Wait for other processes, and time limits of tests."""

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")


def _scale(given: str) -> float:
    """Return the factor that SUNDOG_PATIENCE gives. Ends the run with one line for anything that is no number above 0."""
    try:
        scale = float(given)
    except ValueError:
        scale = math.nan
    if not 0 < scale < math.inf:
        raise SystemExit(f"SUNDOG_PATIENCE: {given!r}; expected a number above 0, such as 3 on a slow machine.")
    return scale


_SCALE: Final = _scale(os.environ.get("SUNDOG_PATIENCE", "1"))


def patience(seconds: float) -> float:
    """Return a time limit in seconds, scaled by SUNDOG_PATIENCE. `seconds` is ten times what an idle machine needs."""
    return seconds * _SCALE


PATIENCE_S: Final = patience(300.0)
"""The limit of a test that needs no longer one. It is for hangs only: a busy machine must fail no test."""


def eventually(probe: Callable[[], T], what: str, within: float = PATIENCE_S) -> T:
    """The first true value of `probe`. Raises TimeoutError with the last value."""
    deadline = time.monotonic() + within
    while not (value := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(_told(what, within, value))
        time.sleep(0.05)
    return value


async def comes_true(probe: Callable[[], Awaitable[T | None]], what: str, within: float = PATIENCE_S) -> T:
    """The first true value of `probe`. Raises TimeoutError with the last value."""
    value: T | None = None
    try:
        async with asyncio.timeout(within):
            while not (value := await probe()):  # noqa: ASYNC110 what is waited for happens in other processes
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise TimeoutError(_told(what, within, value)) from None
    return value


def _told(what: str, within: float, last: object) -> str:
    return f"{what} did not come true within {within:g} s; last value: {last!r}"
