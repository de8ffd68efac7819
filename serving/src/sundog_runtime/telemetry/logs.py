"""One JSON document per line for the log of the model server, and for output of its model.

Serve's handlers decide where a line goes. This module formats these lines; Serve's own lines keep their format.
"""

import logging
import logging.handlers
import traceback
from datetime import UTC, datetime
from types import TracebackType

import orjson

from sundog_runtime.context import RequestContext, current

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

SERVE_LOGGER_NAME = "ray.serve"
LOGGER_NAME = f"{SERVE_LOGGER_NAME}.sundog"


class RequestContextFilter(logging.Filter):
    """A filter that adds the current request to a record when it is made, because a handler may format it much later."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        if getattr(record, "request_context", None) is None:
            record.request_context = current()
        return True


class JsonLinesFormatter(logging.Formatter):
    """A formatter that writes records as JSON, except those of Serve's logger, which keep their previous formatter."""

    def __init__(self, service: str, revision: int, others: logging.Formatter | None) -> None:
        super().__init__()
        self._service = service
        self._revision = revision
        self._others = others or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, without a line break."""
        if record.exc_info and not record.exc_text:
            # The other formatter reuses this text.
            record.exc_text = self.formatException(record.exc_info)
        if record.name == SERVE_LOGGER_NAME:
            return self._others.format(record)
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "service": self._service,
            "revision": self._revision,
        }
        if record.name != LOGGER_NAME:
            document["logger"] = record.name
        request = getattr(record, "request_context", None)
        if isinstance(request, RequestContext):
            document |= {"request_id": request.request_id, "trace_id": request.trace_id}
        if record.exc_info:
            document["exception"] = record.exc_text
        return orjson.dumps(document, default=str).decode()

    def formatException(self, ei: ExceptionInfo) -> str:  # noqa: N802 logging's name
        """Return the traceback, made without `print`: in replicas, Serve's `print` writes a tuple into a file."""
        return "".join(traceback.format_exception(*ei)).rstrip("\n")


def install_json_formatter(service: str, revision: int, parent: logging.Logger) -> None:
    """Set this format on the handlers of `parent` and on their targets, and make every handler write at once.

    Serve's throughput mode keeps a thousand records in memory before it writes them; that is meant for request logs.
    """
    logger = logging.getLogger(LOGGER_NAME)
    if not any(isinstance(found, RequestContextFilter) for found in logger.filters):
        logger.addFilter(RequestContextFilter())
    for handler in parent.handlers:
        writing = getattr(handler, "target", None) or handler
        if not isinstance(writing.formatter, JsonLinesFormatter):
            writing.setFormatter(JsonLinesFormatter(service, revision, writing.formatter))
        if isinstance(handler, logging.handlers.MemoryHandler):
            handler.flush()
            handler.capacity = 1


def disable_request_logs(parent: logging.Logger) -> None:
    """Raise the level of `parent`, which is Serve's logger, above INFO. This package's logger stays at INFO.

    Serve makes a record of every request. If the access log is off, a handler drops that record. This costs up to a tenth
    of a small request's CPU. A lower level that a user has set stays.
    """
    if parent.level == logging.INFO:
        logging.getLogger(LOGGER_NAME).setLevel(logging.INFO)
        parent.setLevel(logging.WARNING)
