"""Free ports for servers of tests."""

import socket
from collections import deque

from sundog_operator.adapters.local import ports_allocation

# Below the ephemeral range, whose ports any outgoing connection takes between the look and the use, and below Ray's blocks.
_RANGE = range(4_000, 10_000)
_HELD = 200
"""Ports given last, whose servers may still be about to start; a test run gives thousands."""

_given: set[int] = set()
_held: deque[socket.socket] = deque(maxlen=_HELD)


def free_port() -> int:
    """Return a free loopback port that no test process has got before."""
    while True:
        port = ports_allocation.allocate_port(_given, _RANGE)
        _given.add(port)
        if _claimed(port):
            return port


def free_ports(count: int) -> list[int]:
    """That many of them."""
    return [free_port() for _ in range(count)]


def _claimed(port: int) -> bool:
    """Claim a port among the test runs of this machine, by the UDP port of its number: no test listens there, and it ends with the process.

    Two HAProxies that are given one port between the look and the use would share it without an error, for both set SO_REUSEPORT.
    """
    claim = socket.socket(type=socket.SOCK_DGRAM)
    try:
        claim.bind((ports_allocation.LOOPBACK, port))
    except OSError:
        claim.close()
        return False
    if len(_held) == _HELD:
        _held.popleft().close()
    _held.append(claim)
    return True
