"""The output and log of a model become lines of its replica's log at once."""
# ruff: noqa: T201 (`print` is what is tested)

import builtins
import io
import json
import logging
import logging.handlers
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sundog_runtime.context import RequestContext, working_on
from sundog_runtime.telemetry.logs import disable_request_logs, install_json_formatter
from sundog_runtime.telemetry.model_output import MAX_PARTIAL_CHARACTERS, NOISY_LOGGERS, capture_model_output

Lines = Callable[[], list[tuple[str, str, str]]]


def _serves_print(*_: Any, **__: Any) -> None:
    raise AssertionError("Serve's print was called")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the log of a replica that has loaded its model; restore streams, `print` and loggers afterwards.

    Tests call `capture_model_output` themselves, because pytest replaces the streams before each of them.
    """
    serve, root = logging.getLogger("ray.serve"), logging.getLogger()
    changed = [serve, root, logging.getLogger("ray.serve.sundog"), *map(logging.getLogger, NOISY_LOGGERS)]
    before = [
        (logger, logger.level, logger.propagate, list(logger.handlers), list(logger.filters)) for logger in changed
    ]
    path = tmp_path / "replica.log"
    target = logging.FileHandler(path)
    serve.handlers[:] = [logging.handlers.MemoryHandler(1000, flushLevel=logging.ERROR, target=target)]
    serve.propagate = False
    serve.setLevel(logging.INFO)
    root.setLevel(logging.WARNING)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, f"__{name}__", io.StringIO())
        monkeypatch.setattr(sys, name, io.StringIO())
    monkeypatch.setattr(builtins, "print", _serves_print)
    install_json_formatter("digits", 8, serve)
    disable_request_logs(serve)
    yield path
    target.close()
    for logger, level, propagate, handlers, filters in before:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers
        logger.filters[:] = filters


@pytest.fixture
def lines(file: Path) -> Lines:
    """Return level, logger and message of each line of the log."""

    def read() -> list[tuple[str, str, str]]:
        documents = [json.loads(line) for line in file.read_text().splitlines()]
        return [(each["level"], each.get("logger", ""), each["message"]) for each in documents]

    return read


def test_print_and_both_streams(lines: Lines) -> None:
    capture_model_output()
    print("one", 2, sep="-")
    print("half", end="")
    print(" a line\n\nand one more", file=sys.stdout)
    print("an error", file=sys.stderr)
    sys.stderr.write("written\r\n")
    assert lines() == [
        ("info", "stdout", "one-2"),
        ("info", "stdout", "half a line"),
        ("info", "stdout", "and one more"),
        ("info", "stderr", "an error"),
        ("info", "stderr", "written"),
    ]


def test_any_logger_from_info_up(lines: Lines) -> None:
    capture_model_output()
    logger = logging.getLogger("my.model")
    logger.debug("no")
    logger.info("%d rows", 3)
    logger.warning("odd")
    try:
        raise ValueError("wrong")
    except ValueError:
        logger.exception("it failed")
    logging.getLogger("ray.serve.sundog").info("ours")
    assert lines() == [
        ("info", "my.model", "3 rows"),
        ("warning", "my.model", "odd"),
        ("error", "my.model", "it failed"),
        ("info", "", "ours"),
    ]


def test_a_line_names_its_request_and_an_exception_is_in_it(file: Path) -> None:
    capture_model_output()
    with working_on(RequestContext({b"x-request-id": b"find-me"})):
        print("looking")
        try:
            raise ValueError("wrong")
        except ValueError:
            logging.getLogger("my.model").exception("it failed")
    printed, logged = map(json.loads, file.read_text().splitlines())
    assert (printed["request_id"], printed["service"], printed["revision"]) == ("find-me", "digits", 8)
    assert logged["request_id"] == "find-me"
    assert logged["exception"].endswith("ValueError: wrong")


def test_a_flush_shows_half_a_line_and_a_progress_bar_is_one_line(lines: Lines) -> None:
    capture_model_output()
    print("loading", end="", flush=True)
    assert lines() == [("info", "stdout", "loading")]
    for percent in range(101):
        sys.stderr.write(f"\r{percent} %")
        sys.stderr.flush()
    sys.stderr.write("\n")
    assert lines()[1:] == [("info", "stderr", "100 %")]


def test_text_without_a_line_break_is_logged(lines: Lines) -> None:
    capture_model_output()
    for _ in range(9):
        sys.stdout.write("x" * (MAX_PARTIAL_CHARACTERS // 8))
    assert [message for _, _, message in lines()] == ["x" * (MAX_PARTIAL_CHARACTERS // 8 * 9)]


def test_half_lines_of_two_threads_do_not_mix(lines: Lines) -> None:
    capture_model_output()
    print("one ", end="")
    thread = threading.Thread(target=lambda: print("another"))
    thread.start()
    thread.join()
    print("line")
    assert [message for _, _, message in lines()] == ["another", "one line"]


def test_other_files_are_written_as_python_does(lines: Lines) -> None:
    capture_model_output()
    other = io.StringIO()
    print("a", 1, file=other, sep=None, end=None, flush=True)
    assert other.getvalue() == "a 1\n"
    assert lines() == []


def test_a_failing_log_handler_reports_to_the_original_stream(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", own)
    capture_model_output()
    handlers = logging.getLogger("ray.serve").handlers
    memory = next(each for each in handlers if isinstance(each, logging.handlers.MemoryHandler))

    def full(record: logging.LogRecord) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            logging.Handler.handleError(memory, record)

    monkeypatch.setattr(memory.target, "emit", full)
    print("lost")
    logging.getLogger("my.model").warning("lost too")
    assert own.getvalue().count("No space left on device") >= 2
    assert file.read_text() == ""


def test_capturing_twice_has_no_effect(lines: Lines) -> None:
    capture_model_output()
    capture_model_output()
    print("one")
    logging.getLogger("my.model").info("two")
    assert [message for _, _, message in lines()] == ["one", "two"]


def test_levels_that_the_model_set_stay_and_clients_do_not_log_addresses(lines: Lines) -> None:
    capture_model_output()
    logging.getLogger("httpx").info("HTTP Request: GET https://store/model?signature=secret")
    logging.getLogger().setLevel(logging.ERROR)
    capture_model_output()
    logging.getLogger("my.model").warning("not wanted")
    assert lines() == []
