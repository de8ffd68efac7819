"""Ports for servers of tests."""

import random
import socket

# Below the ephemeral range, whose ports any outgoing connection takes between the look and the use, and below Ray's blocks.
_RANGE = range(4_000, 10_000)

_given: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on, and that this process was not given before."""
    while True:
        port = random.choice(_RANGE)
        if port not in _given and _is_free(host, port):
            _given.add(port)
            return port


def free_ports(count: int) -> list[int]:
    """That many of them, on the loopback interface."""
    return [free_port() for _ in range(count)]


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
