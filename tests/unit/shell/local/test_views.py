import io
import logging
from typing import Any

import pytest
from rich.console import Console

from sundog_operator.shell.local.views import LineView, LiveInstanceView

OBJECT: dict[str, Any] = {
    "metadata": {"namespace": "default", "name": "digits"},
    "status": {
        "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "message": "revision 7 serves"}],
        "stable": {"revision": 7, "weight": 75},
        "candidate": {"revision": 8, "weight": 25},
        "replicas": 3,
        "readyReplicas": 2,
        "url": "http://127.0.0.1:8080/digits",
    },
}
EVENT = {
    "type": "Warning",
    "reason": "RolloutAborted",
    "note": "revision 8: by hand",
    "regarding": {"namespace": "default", "name": "digits"},
}
LINE = (
    "default/digits: Ready=True reason=Serving stable=r7 candidate=r8 weight=25% replicas=2/3"
    " url=http://127.0.0.1:8080/digits (revision 7 serves)"
)


def test_lines_show_each_change_once_and_without_escape_codes(capsys: pytest.CaptureFixture[str]) -> None:
    view = LineView()
    view.deployments([OBJECT])
    view.deployments([OBJECT])
    view.event(EVENT)
    out, err = capsys.readouterr()
    lines = [line.split(" ", 1)[1] for line in out.splitlines()]
    assert lines == [LINE, "default/digits: RolloutAborted: revision 8: by hand"]
    assert "\x1b" not in out
    assert err == ""


def test_quiet_leaves_problems(capsys: pytest.CaptureFixture[str]) -> None:
    view = LineView(quiet=True)
    view.deployments([OBJECT])
    view.event(EVENT)
    view.problem("a.yaml: line 1: nonsense")
    assert capsys.readouterr() == ("", "error: a.yaml: line 1: nonsense\n")


def test_a_new_object_has_a_line_before_anything_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    LineView().deployments([{"metadata": {"namespace": "default", "name": "digits"}}])
    assert "default/digits: Ready=Unknown reason=Pending stable=- replicas=0/0" in capsys.readouterr().out


def test_a_reader_that_went_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    LineView().notice("anything")


def test_what_is_not_applied_stays_below_the_table() -> None:
    screen = io.StringIO()
    view = LiveInstanceView(Console(file=screen, force_terminal=True, width=120), "sundog local")
    view.show_problems(["a.yaml: spec.replicas: -1 is less than 0"])
    for number in range(20):
        view.notice(f"notice {number}")
    view.close()
    last = screen.getvalue().rpartition("notice 12")[0].rpartition("sundog local")[2]
    assert "a.yaml: spec.replicas: -1 is less than 0" in last


def test_what_is_shown_is_logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO)
    view = LineView(quiet=True)
    view.notice("created")
    view.problem("a.yaml: nonsense")
    view.event(EVENT)
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("INFO", "created"),
        ("WARNING", "a.yaml: nonsense"),
        ("WARNING", "default/digits: RolloutAborted: revision 8: by hand"),
    ]
    assert capsys.readouterr().err == "error: a.yaml: nonsense\n"


def test_the_table_shows_rows_and_the_last_events() -> None:
    screen = io.StringIO()
    view = LiveInstanceView(Console(file=screen, force_terminal=True, width=120), "sundog local")
    view.deployments([OBJECT])
    view.event(EVENT)
    view.problem("a.yaml: line 1: nonsense")
    view.close()
    shown = screen.getvalue()
    for text in (
        *("NAME", "default/digits", "Serving", "r7", "r8", "25 %", "2/3"),
        *("default/digits: revision 7 serves", "RolloutAborted", "line 1: nonsense"),
    ):
        assert text in shown
