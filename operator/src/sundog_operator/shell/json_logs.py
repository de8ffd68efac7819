"""Logs as JSON, one line each. What a message says is written by us and holds no secret; arguments of exceptions are not added to it."""

import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import Final

import orjson

log = logging.getLogger("sundog.operator")

_FIELDS: Final = ("key", "reason", "duration")
_TRACE_LINES: Final = 12


class JsonFormatter(logging.Formatter):
    """One object per record: time, level, logger, message, and key, reason and duration where the record has them."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": " ".join(record.getMessage().split()),
        }
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["where"] = _where(record.exc_info[2])
        return orjson.dumps(line, default=str).decode()


def _where(trace: object) -> list[str]:
    """The places of a traceback, without the source lines and the values in them."""
    frames = traceback.extract_tb(trace)[-_TRACE_LINES:]  # type: ignore[arg-type]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def configure_json_logs(level: str) -> None:
    """Let this process log so, to standard error: warnings and errors that nobody caught as well."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    sys.excepthook = lambda _type, error, _trace: _tell(error)
    threading.excepthook = lambda args: _tell(args.exc_value, args.thread)


def _tell(error: BaseException | None, thread: threading.Thread | None = None) -> None:
    """What nobody caught is a line like all others."""
    who = f"thread {thread.name}" if thread else "the process"
    if error is not None and not isinstance(error, KeyboardInterrupt):
        log.critical("an error ends %s", who, exc_info=error, extra={"reason": type(error).__name__})
