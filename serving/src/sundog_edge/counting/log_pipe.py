"""The named pipe that carries HAProxy's lines to the agent.

A line is in the pipe before HAProxy continues, so a worker's lines survive the worker. Unread lines survive the agent, because HAProxy
itself holds the pipe open. (HAProxy's own rings stop sending when a worker is replaced. That loses the last lines of every reload, those
of the longest requests.) The pipe is bounded: while it is full, HAProxy drops lines and counts them.
"""

import contextlib
import fcntl
import os
from pathlib import Path

from sundog_edge.counting.ledger import Ledger

_SIZES = (16 << 20, 4 << 20, 1 << 20)
_READ_BYTES = 1 << 20


def open_for_haproxy(path: Path) -> int:
    """Return a descriptor of the pipe that the next executed program inherits. Create the pipe if it is missing."""
    _create_pipe(path)
    # Opened for reading too: so the pipe always has a reader, and no write fails while the agent is away.
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.set_inheritable(descriptor, True)
    return descriptor


def _create_pipe(path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)


class LogReader:
    """Counts lines into a ledger.

    The agent calls it at intervals: to wake up at every line would cost more than the counting.
    """

    def __init__(self, path: Path, ledger: Ledger) -> None:
        _create_pipe(path)
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
        """Close the pipe. Its content stays while HAProxy runs."""
        os.close(self._descriptor)


def _enlarge(descriptor: int) -> None:
    for size in _SIZES:
        # The largest allowed size depends on the machine and on privileges.
        with contextlib.suppress(PermissionError, OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, size)
            return
