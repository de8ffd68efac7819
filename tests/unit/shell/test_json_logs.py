"""All output on standard error is JSON, without the texts of exceptions."""

import json
import subprocess
import sys
from typing import Any

import pytest

from waiting import PATIENCE_S

BEGIN = (
    "import logging, threading, warnings; "
    "from sundog_operator.shell.json_logs import configure_json_logs; configure_json_logs('info'); "
)


def lines(code: str) -> list[dict[str, Any]]:
    done = subprocess.run((sys.executable, "-c", BEGIN + code), capture_output=True, text=True, timeout=PATIENCE_S)
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_line_has_what_collectors_look_for() -> None:
    (line,) = lines("logging.getLogger('a').warning('two\\nlines', extra={'key': 'k', 'reason': 'R', 'other': 1})")
    at = line.pop("time")
    assert at.endswith("+00:00")
    assert line == {"level": "warning", "logger": "a", "message": "two lines", "key": "k", "reason": "R"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('a secret')", "uncaught error ended the process"),
        (
            "t = threading.Thread(target=lambda: 1 / 0, name='watches'); t.start(); t.join()",
            "uncaught error ended thread watches",
        ),
    ],
)
def test_an_error_that_is_not_caught_is_one_line(code: str, message: str) -> None:
    (line,) = lines(code)
    assert (line["level"], line["message"]) == ("critical", message)
    assert line["reason"] == line["error"] in {"ValueError", "ZeroDivisionError"}
    assert "secret" not in json.dumps(line)


def test_a_warning_is_one_line() -> None:
    (line,) = lines("warnings.warn('old')")
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
