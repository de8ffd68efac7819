"""Waiting for what other processes do."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

PATIENCE_S: Final = 300.0
"""A deadline that is never reached costs nothing, and a busy machine must fail no test."""


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
