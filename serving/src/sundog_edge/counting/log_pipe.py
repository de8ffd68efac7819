"""The named pipe that carries HAProxy's lines to the agent.

A line is in the pipe before HAProxy goes on, so what a worker wrote outlives it, and what nobody has read outlives the agent:
HAProxy itself holds the pipe open. (HAProxy's own rings stop sending when a worker is replaced, which loses the last lines of
every reload, those of the longest requests.) The pipe is bounded; while it is full, lines are dropped and HAProxy counts them.
"""

import contextlib
import fcntl
import os
from pathlib import Path

from sundog_edge.counting.ledger import Ledger

_SIZES = (16 << 20, 4 << 20, 1 << 20)
_READ_BYTES = 1 << 20


def open_for_haproxy(path: Path) -> int:
    """A descriptor of the pipe that a program executed next inherits; the pipe is made where it is missing."""
    _make(path)
    # Read and write: so there always is a reader, and a write never fails because the agent is away.
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.set_inheritable(descriptor, True)
    return descriptor


def _make(path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)


class LogReader:
    """Counts lines into a ledger.

    It is asked from time to time rather than woken by every line, which would cost more than the counting.
    """

    def __init__(self, path: Path, ledger: Ledger) -> None:
        _make(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._ledger = ledger
        self._partial = b""
        _enlarge(self._descriptor)

    def drain(self, now: float) -> None:
        """Count every line that is in the pipe."""
        while data := self._read():
            *lines, self._partial = (self._partial + data).split(b"\n")
            self._ledger.consume(lines, now)

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Let go of the pipe; what is in it stays while HAProxy runs."""
        os.close(self._descriptor)


def _enlarge(descriptor: int) -> None:
    for size in _SIZES:
        # How large a pipe may be depends on the machine and on privileges.
        with contextlib.suppress(PermissionError, OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, size)
            return
