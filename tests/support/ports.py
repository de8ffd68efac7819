"""Ports for servers of tests."""

from sundog_operator.adapters.local import ports_allocation

# Below the ephemeral range, whose ports any outgoing connection takes between the look and the use, and below Ray's blocks.
_RANGE = range(4_000, 10_000)

_given: set[int] = set()


def free_port() -> int:
    """A port of the loopback interface that nothing listens on, and that this process was not given before."""
    port = ports_allocation.single(_given, _RANGE)
    _given.add(port)
    return port


def free_ports(count: int) -> list[int]:
    """That many of them."""
    return [free_port() for _ in range(count)]
