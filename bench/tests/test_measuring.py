"""The parts of the benchmarks that could be wrong without anybody seeing it."""

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from measuring import load, record
from measuring.load import Request, Sample, Side, WrongAnswersError, in_turn, measure, ratio
from ports import free_ports

DOCUMENT = {"title": "T", "taken": "now", "machine": "m", "columns": ["a"], "rows": [["1"]], "notes": []}
PAGE = "before\n<!-- bench:one -->\nold\n<!-- /bench:one -->\nbetween\n<!-- bench:two -->\nkept\n<!-- /bench:two -->\n"


def test_rendering_changes_the_tables_that_were_measured_and_nothing_else() -> None:
    page = record.rendered(PAGE, {"one": DOCUMENT})
    assert "old" not in page
    assert "| a |\n|---|\n| 1 |" in page
    assert all(part in page for part in ("before\n", "\nbetween\n", "kept"))
    assert record.rendered(page, {"one": DOCUMENT}) == page


def test_every_part_of_the_page_is_one_that_is_measured() -> None:
    patterns = ("bench/test_*.py", "tests/cluster/**/test_*.py", "tests/integration/**/test_*.py")
    sources = [path.read_text() for pattern in patterns for path in record.ROOT.glob(pattern)]
    parts = {part for source in sources for part in re.findall(r'\bRecord\(\s*"(\w+)"', source)}
    marks = [
        line.split(":", 1)[1].removesuffix(" -->").split(",")
        for line in record.PAGE.read_text().splitlines()
        if line.startswith("<!-- bench:")
    ]
    assert {part for mark in marks for part in mark} == parts


def test_sides_take_turns() -> None:
    sides = [Side(name, "", Request()) for name in "AB"]
    assert "".join(side.name for side in in_turn(sides, 4)) == "ABBAABBA"


def test_a_ratio_compares_neighbours() -> None:
    ours, theirs = ([Sample(rps, 0, 0, 0) for rps in rates] for rates in ((2, 20, 30), (1, 10, 10)))
    assert ratio(ours, theirs) == 2


@pytest.fixture
def server() -> Iterator[str]:
    """Answers with the status that the path names."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(int(self.path[1:]))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()
        thread.join()


@pytest.mark.skipif(not load.available(), reason=load.MISSING)
@pytest.mark.parametrize("status", [204, 307, 404, 503])
def test_a_round_with_another_status_than_200_fails(server: str, status: int) -> None:
    assert measure(f"{server}/200", Request(b"{}", units=3), 1, 1).answers > 0
    with pytest.raises(WrongAnswersError, match="with another status"):
        measure(f"{server}/{status}", Request(b"{}"), 1, 1)


def test_a_server_is_there_once_it_answers_200(server: str) -> None:
    asked = Request(b"{}")
    assert asked.is_answered(f"{server}/200")
    assert not asked.is_answered(f"{server}/204")
    (port,) = free_ports(1)
    assert not asked.is_answered(f"http://127.0.0.1:{port}/")


def test_the_script_holds_what_is_sent(tmp_path: Path) -> None:
    text = load.script(Request(headers={"x-a": 'quote " it'}, units=7), tmp_path / "body")
    assert json.dumps('quote " it') in text
    assert "@" not in text
