"""Log lines of a replica."""

import json
import logging
import logging.handlers
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sundog_runtime.context import RequestContext, working_on
from sundog_runtime.telemetry.logs import (
    JsonLinesFormatter,
    RequestContextFilter,
    disable_request_logs,
    install_json_formatter,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def test_lines_are_json_and_serves_lines_stay(caplog: pytest.LogCaptureFixture) -> None:
    parent = logging.Logger("a parent")
    target, others = logging.StreamHandler(), logging.Formatter("plain %(message)s")
    target.setFormatter(others)
    buffering = logging.handlers.MemoryHandler(100, target=target)
    parent.addHandler(buffering)
    install_json_formatter("digits", 8, parent)
    install_json_formatter("digits", 8, parent)
    written = target.formatter
    assert isinstance(written, JsonLinesFormatter)

    def record(name: str, **extra: Any) -> logging.LogRecord:
        made = logging.makeLogRecord({"name": name, "levelname": "ERROR", "msg": "line\n%s", "args": ("two",), **extra})
        RequestContextFilter().filter(made)
        return made

    assert written.format(record("ray.serve")) == "plain line\ntwo"
    line = written.format(record("ray.serve.sundog"))
    document = json.loads(line)
    assert "\n" not in line
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", document.pop("time"))
    assert document == {"level": "error", "message": "line\ntwo", "service": "digits", "revision": 8}
    with working_on(RequestContext({b"x-request-id": b"find-me", b"traceparent": PARENT.encode()})):
        made = record("ray.serve.sundog")
    document = json.loads(written.format(made))
    assert (document["request_id"], document["trace_id"]) == ("find-me", TRACE)
    try:
        raise ValueError("wrong")
    except ValueError as error:
        made = record("ray.serve.sundog", exc_info=(type(error), error, error.__traceback__))
    assert "ValueError: wrong" in json.loads(written.format(made))["exception"]


def test_no_record_waits_for_others(tmp_path: Path) -> None:
    parent = logging.Logger("a parent")
    target = logging.FileHandler(tmp_path / "replica.log")
    parent.addHandler(logging.handlers.MemoryHandler(1000, target=target))
    parent.info("before")
    install_json_formatter("digits", 8, parent)
    parent.info("after")
    target.close()
    lines = [json.loads(line) for line in (tmp_path / "replica.log").read_text().splitlines()]
    assert [line["message"] for line in lines] == ["before", "after"]


@pytest.mark.parametrize("name", ["ray.serve", "ray.serve.sundog"])
def test_a_traceback_is_whole_although_serve_replaces_print(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = print

    def of_serve(*objects: Any, file: Any = None, **more: Any) -> None:
        printed(objects, file=file, **more)

    try:
        raise ValueError("wrong")
    except ValueError as error:
        found = (type(error), error, error.__traceback__)
    record = logging.makeLogRecord({"name": name, "levelname": "ERROR", "msg": "it raised", "exc_info": found})
    monkeypatch.setattr("builtins.print", of_serve)
    line = JsonLinesFormatter("digits", 8, logging.Formatter("%(message)s")).format(record)
    trace = line.partition("\n")[2] if name == "ray.serve" else json.loads(line)["exception"]
    assert trace.startswith("Traceback (most recent call last):\n  File ")
    assert trace.endswith("\nValueError: wrong")


@pytest.fixture
def loggers() -> Iterator[tuple[logging.Logger, logging.Logger]]:
    """Serve's logger and this package's, restored afterwards."""
    pair = logging.getLogger("ray.serve"), logging.getLogger("ray.serve.sundog")
    levels = [logger.level for logger in pair]
    yield pair
    for logger, level in zip(pair, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize(("level", "serve_says"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_serve_logs_no_requests_and_this_package_still_logs(
    loggers: tuple[logging.Logger, logging.Logger], level: int, serve_says: bool
) -> None:
    serve, ours = loggers
    serve.setLevel(level)
    disable_request_logs(serve)
    assert serve.isEnabledFor(logging.INFO) is serve_says
    assert serve.isEnabledFor(logging.WARNING)
    assert ours.isEnabledFor(logging.INFO)
