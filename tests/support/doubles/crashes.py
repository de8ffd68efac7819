"""An operator that crashes at a write, and another one that continues."""

from collections.abc import Awaitable, Callable
from typing import Any

from doubles.hooked_kubernetes import Write

OnWrite = Callable[[str, Write], None]


class Died(Exception):
    """The operator has crashed."""


async def assert_same_end_after_any(way: Callable[[OnWrite], Awaitable[tuple[Any, int]]], every: int = 1) -> None:
    """Run `way` once for each write, or for each one in `every`, and let the operator die after that write.

    `way` returns how it ended and how many writes that took; it goes on after each `Died` that the given hook raises.
    """
    wanted, writes = await way(lambda *_: None)
    assert writes > 40
    for number in range(1, writes + 1, every):
        count = 0

        def die(moment: str, _: Write, number: int = number) -> None:
            nonlocal count
            count += moment == "after"
            if moment == "after" and count == number:
                raise Died

        found, _ = await way(die)
        assert found == wanted, f"after a crash after write {number}: {found} instead of {wanted}"
