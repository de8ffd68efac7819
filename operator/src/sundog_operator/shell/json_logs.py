"""Logs as JSON, one object a line. Messages are our own texts without secrets; arguments of exceptions are left out."""

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
    """Format a record as one object: time, level, logger, message, and key, reason and duration if it has them."""

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
            line["where"] = _frames(record.exc_info[2])
        return orjson.dumps(line, default=str).decode()


def _frames(trace: object) -> list[str]:
    """Return the places of a traceback without source lines, which may show values."""
    frames = traceback.extract_tb(trace)[-_TRACE_LINES:]  # type: ignore[arg-type]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def configure_json_logs(level: str) -> None:
    """Log JSON to standard error from now on, including Python warnings and uncaught errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    sys.excepthook = lambda _type, error, _trace: _log_uncaught(error)
    threading.excepthook = lambda args: _log_uncaught(args.exc_value, args.thread)


def _log_uncaught(error: BaseException | None, thread: threading.Thread | None = None) -> None:
    """Log an uncaught error, except Ctrl-C."""
    where = f"thread {thread.name}" if thread else "the process"
    if error is not None and not isinstance(error, KeyboardInterrupt):
        log.critical("uncaught error ended %s", where, exc_info=error, extra={"reason": type(error).__name__})
