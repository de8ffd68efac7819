"""An operator that crashes at a write, and another one that continues."""

import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from doubles.cluster import Cluster
from doubles.hooked_kubernetes import Write

OnWrite = Callable[[str, Write], None]


class Died(Exception):
    """The operator has crashed."""


def die_at_every(number: int, cluster: Cluster) -> Iterator[int]:
    """Let the operator die after each of its writes whose count is divisible; `next` of the result is the count of the next."""
    counts = itertools.count(1)

    def die(moment: str, *_: object) -> None:
        if moment == "after" and not next(counts) % number:
            raise Died

    cluster.kube.on_write = die
    return counts


async def live(
    cluster: Cluster, rounds: int, seconds: float, is_over: Callable[[], Awaitable[bool]] | None = None
) -> None:
    """Let rounds pass, with another operator after each death, until a condition holds."""
    for _ in range(rounds):
        try:
            await cluster.round(seconds)
        except Died:
            await cluster.edges.pass_time(1)
            cluster.clock.advance(1)
        if is_over is not None and await is_over():
            return


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
