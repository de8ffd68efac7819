"""Logs as JSON, one line each. What a message says is written by us and holds no secret; arguments of exceptions are not added to it."""

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Final

import orjson

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


def log_json(level: str) -> None:
    """Let this process log so, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
