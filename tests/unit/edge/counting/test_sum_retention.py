"""Sums of revisions and services that have left the document: bounded in number, and no series goes down."""

import re

import orjson

from edge_log_lines import end_line, refusal_line
from split_documents import arm_fields, parsed, service_fields
from sundog_edge.agent.metrics import render_metrics
from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.log_lines import ENDS
from sundog_edge.counting.rows import TableEntry
from sundog_edge.counting.sum_retention import RETAIN_SUMS_S, forget_sums
from sundog_edge.split.document import SplitDocument

STEP_S = 4 * 3600.0
SERIES = re.compile(r"^(sundog_edge_(?:assigned|requests|refused|probes)_total\S*) (\S+)$", re.MULTILINE)


def document(service: str, revision: int) -> SplitDocument:
    arm = arm_fields(f"{service}-r{revision}", revision=revision)
    return parsed(service_fields(arm, name=service, attempt=f"a{revision}", epoch=1))


class Books:
    """The ledger of an edge with one HAProxy that is never replaced, and an agent that restarts at every step."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.now = 0.0
        self.services: frozenset[str] = frozenset()
        self.shown: dict[str, float] = {}

    def step(self, in_force: SplitDocument) -> None:
        """Count requests of the document's service. Drop the rows of others, and check that no series goes down."""
        self.now += STEP_S
        (service,) = in_force.services
        self.ledger.record_revisions(in_force)
        row = f"{service.name}/{service.attempt}/1/stable"
        lines = [
            *(end_line(f"{row}/{origin}/anonymous") for origin in ("assigned", "probe", "held")),
            *(refusal_line(name) for name in (service.name, "-")),
        ]
        self.ledger.consume(lines, self.now)
        self.ledger = Ledger.from_json(orjson.loads(orjson.dumps(self.ledger.as_json())))
        self.ledger.forget_rows("a-1", self.ledger.idle_rows("a-1", self.now, {(service.name, service.attempt)}))
        self.ledger.forget(self.now, {(service.name, service.attempt)})
        self.services = forget_sums(self.ledger, in_force, self.now)
        page = render_metrics(self.ledger, None, {}, "", {}).decode()
        before, self.shown = self.shown, {name: float(count) for name, count in SERIES.findall(page)}
        assert {name for name, count in self.shown.items() if count < before.get(name, 0)} == set()


def test_sums_of_many_revisions_are_bounded_and_end_a_day_after_their_last_document() -> None:
    books = Books()
    sizes: list[int] = []
    for revision in range(1, 21):
        books.step(document("digits", revision))
        sizes.append(len(orjson.dumps(books.ledger.as_json())))
    within_a_day = int(RETAIN_SUMS_S / STEP_S)
    ledger = books.ledger
    for sums in (ledger.past, ledger.past_probes, ledger.past_held):
        assert [*sums] == [f"digits/{revision}/stable" for revision in range(21 - within_a_day, 20)]
    assert len([name for name in books.shown if "_assigned_" in name]) == within_a_day
    assert max(sizes[10:]) < 1.1 * sizes[10]


def test_a_service_s_counts_end_with_it_and_a_request_that_runs_keeps_its_series() -> None:
    books = Books()
    books.step(document("digits", 1))
    running = "digits/a1/1/stable/assigned/anonymous"
    books.ledger.boots["a-1"].settle({running: TableEntry(2, 1)}, "all", books.now)
    for _ in range(7):
        books.step(document("letters", 1))
    assert books.services == {"digits", "letters"}
    assert len([name for name in books.shown if "digits" in name]) == 3 + len(ENDS)
    books.ledger.consume([end_line(running, 2)], books.now)
    books.step(document("letters", 1))
    assert books.services == {"letters"}
    assert [name for name in books.shown if "digits" in name] == []
    assert [name for name in books.shown if 'service=""' in name] != [], "requests that reached no service"
