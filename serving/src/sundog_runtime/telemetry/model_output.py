"""Capture what a model prints and logs as lines of its replica's log.

Serve passes both streams of a replica, and `print`, to its own logger at INFO, which `logs.disable_request_logs` switches
off. Undoing that needs no part of Serve: the streams, `print` and the root logger are Python's.
"""

import builtins
import io
import logging
import sys
import threading
from types import BuiltinFunctionType
from typing import Any, TextIO

from sundog_runtime.telemetry.logs import LOGGER_NAME

MAX_PARTIAL_CHARACTERS = 65_536
"""Text of this length without a line break becomes a line."""

NOISY_LOGGERS = ("httpx", "uvicorn")
"""Loggers of libraries of the model server. At INFO they log each server, and each request with the secrets in signed URLs."""


class _ThisThread(threading.local):
    is_logging = False


_this_thread = _ThisThread()


class _Partial(threading.local):
    text = ""


class LogStream(io.TextIOBase):
    """A text stream whose lines become INFO records under `name`. Incomplete lines are kept by thread, so they never mix.

    It has the descriptor and the binary buffer of `original`: output of native code and subprocesses is not captured.
    """

    encoding = "utf-8"

    def __init__(self, name: str, original: TextIO) -> None:
        super().__init__()
        self._name = name
        self._original = original
        self._partial = _Partial()

    @property
    def buffer(self) -> Any:
        """Return the buffer of the original."""
        return self._original.buffer

    def fileno(self) -> int:
        """Return the descriptor of the original."""
        return self._original.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Log the lines that `text` completes, except blank ones. Return the length of `text`."""
        if _this_thread.is_logging:
            # A handler that cannot write reports that to this stream.
            return self._original.write(text)
        *lines, rest = (self._partial.text + text).split("\n")
        # Set before logging: a model that is interrupted in between does not repeat its lines.
        self._partial.text = _overwritten(rest)
        for line in lines:
            self._log(line)
        if len(self._partial.text) > MAX_PARTIAL_CHARACTERS:
            self._log_partial()
        return len(text)

    def flush(self) -> None:
        """Log the incomplete line, except a progress bar, whose last state is logged when its line ends."""
        if not self._partial.text.startswith("\r"):
            self._log_partial()

    def _log_partial(self) -> None:
        line, self._partial.text = self._partial.text, ""
        self._log(line)

    def _log(self, line: str) -> None:
        message = line.rstrip().rpartition("\r")[2]
        if not message:
            return
        _this_thread.is_logging = True
        try:
            record = logging.LogRecord(self._name, logging.INFO, "", 0, message, None, None)
            logging.getLogger(LOGGER_NAME).handle(record)
        finally:
            _this_thread.is_logging = False


def _overwritten(text: str) -> str:
    """Return `text` as a terminal shows it: text before a carriage return is overwritten. The result then starts with one."""
    before, _, after = text.rpartition("\r")
    return f"\r{after}" if before and after else text


class _ToReplicaLog(logging.Handler):
    """A handler that passes records of all loggers to the handlers of the replica's log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Handle a record (see logging)."""
        logging.getLogger(LOGGER_NAME).handle(record)


def print_to_stream(
    *objects: object, sep: str | None = " ", end: str | None = "\n", file: Any = None, flush: bool = False
) -> None:
    """Print like Python's `print`. Serve's version logs everything that goes to a stream, and writes a tuple into other files."""
    out = sys.stdout if file is None else file
    out.write((" " if sep is None else sep).join(map(str, objects)) + ("\n" if end is None else end))
    if flush:
        out.flush()


def capture_model_output() -> None:
    """Send everything that the process prints, and logs from INFO up, to the replica's log.

    Levels and handlers that a user has set stay.
    """
    if sys.__stdout__ is not None and sys.__stderr__ is not None:
        sys.stdout = LogStream("stdout", sys.__stdout__)
        sys.stderr = LogStream("stderr", sys.__stderr__)
    if not isinstance(builtins.print, BuiltinFunctionType):
        builtins.print = print_to_stream
    root = logging.getLogger()
    if not any(isinstance(handler, _ToReplicaLog) for handler in root.handlers):
        root.addHandler(_ToReplicaLog())
    if root.level == logging.WARNING:
        root.setLevel(logging.INFO)
    for name in NOISY_LOGGERS:
        if (logger := logging.getLogger(name)).level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
