"""One JSON document a line, for what the model server logs and what its model prints and logs.

Serve's handlers decide where a line goes; these lines get a form of their own there, and Serve's keep theirs.
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
    """Notes the request that a record is about where the record is made: a handler may format it much later."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        if getattr(record, "request_context", None) is None:
            record.request_context = current()
        return True


class JsonLinesFormatter(logging.Formatter):
    """Formats records as JSON, and leaves those of Serve's logger to the formatter that was there before."""

    def __init__(self, service: str, revision: int, others: logging.Formatter | None) -> None:
        super().__init__()
        self._service = service
        self._revision = revision
        self._others = others or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """One line, without a line break."""
        if record.exc_info and not record.exc_text:
            # The other formatter takes what it finds here.
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
        """The traceback, made without `print`: Serve replaces it in replicas by one that writes a tuple into a file."""
        return "".join(traceback.format_exception(*ei)).rstrip("\n")


def install_json_formatter(service: str, revision: int, parent: logging.Logger) -> None:
    """Give the handlers of `parent`, and those they pass records on to, this form, and let none hold lines back.

    Serve's throughput mode keeps a thousand records in memory before it writes them, which is for records of requests.
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
    """Raise the level of `parent`, which is Serve's logger, above INFO; this package keeps saying what it says.

    Serve makes a record of every request, and where the access log is off drops it in a handler: up to a tenth of a small
    request's CPU. A level that somebody has set lower stays.
    """
    if parent.level == logging.INFO:
        logging.getLogger(LOGGER_NAME).setLevel(logging.INFO)
        parent.setLevel(logging.WARNING)
