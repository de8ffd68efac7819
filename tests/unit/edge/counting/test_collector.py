"""Counters of workers that leave the list, for good or for a while, and of dropped rows."""

import asyncio
import os

import orjson
import pytest

from edge_log_lines import end_line
from sundog_edge.counting.collector import RETAIN_ENDED_S, CounterCollector
from sundog_edge.counting.log_pipe import open_for_haproxy
from sundog_edge.counting.rows import RowKey, TableEntry
from sundog_edge.errors import HaproxyRefused, HaproxyUnavailable
from sundog_edge.haproxy.workers import Worker
from sundog_edge.state_dir import StateDir

KEY = "digits/att/0/stable/assigned/anonymous"
OTHER = "digits/att/0/canary/assigned/anonymous"
COUNT = 5


class Haproxy:
    """A worker with one running request."""

    async def table(self, pid):
        return {"all": TableEntry(1, 1), KEY: TableEntry(1, 1)}

    async def in_flight_by_block(self, pid):
        return {}

    async def dropped_lines(self, pid):
        return 0


class Workers:
    """The master's list of workers."""

    def __init__(self) -> None:
        self.current = Worker(7, "new-7", 1.0)
        self.away = Worker(6, "old-6", 1.0, old=True)
        self.all = [self.current, self.away]


async def test_a_relisted_worker_has_lost_nothing(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("sundog_edge.counting.collector.time.time", lambda: now)
    workers = Workers()
    counting = CounterCollector(Haproxy(), workers, StateDir.at(tmp_path / "s"))
    try:
        await counting.settle()
        row = counting.ledger.boots["old-6"].rows[KEY]
        workers.all = [workers.current]
        for now in (1001.0, 1003.0):  # noqa: B007 - the clock reads it
            await counting.settle()
        assert (row.assigned, row.in_flight, row.lost) == (1, 0, 1)
        assert counting.ledger.boots["old-6"].ended_at == 1003.0
        workers.all = [workers.current, workers.away]
        await counting.settle()
        assert (row.assigned, row.in_flight, row.lost) == (1, 1, 0)
        assert counting.ledger.boots["old-6"].ended_at == 0
    finally:
        counting.stop()


def test_a_snapshot_with_other_block_columns_is_ignored(tmp_path):
    state = StateDir.at(tmp_path / "s")
    first = CounterCollector(Haproxy(), Workers(), state)
    first.ledger.boot("old-6", 1.0).row(KEY).blocks.add(1000, 11, 1)
    first.ledger.dirty = True
    first.stop()
    again = CounterCollector(Haproxy(), Workers(), state)
    again.stop()
    assert again.ledger.boots["old-6"].rows[KEY].blocks.rows() == [[1000, *[0] * 11, 1, 0, 0]]
    _of_one_latency(state)
    before = CounterCollector(Haproxy(), Workers(), state)
    before.stop()
    assert before.ledger.boots["old-6"].rows[KEY].blocks.rows() == [[1000, *[0] * 11, 1, 0, 0]]
    for file in (state.counters, state.details):
        file.write_bytes(orjson.dumps({**orjson.loads(file.read_bytes()), "format": 3}))
    anew = CounterCollector(Haproxy(), Workers(), state)
    anew.stop()
    assert anew.ledger.boots == {}


def _of_one_latency(state: StateDir) -> None:
    """Rewrite the snapshot in the format of an agent with only one threshold."""
    counters, details = (orjson.loads(file.read_bytes()) for file in (state.counters, state.details))
    for own in (row for boot in counters["boots"] for row in boot["rows"].values()):
        del own["slow2"], own["slow3"]
    for _, _, own in details["rows"]:
        own["blocks"] = [each[:-2] for each in own["blocks"]]
    for file, content in ((state.counters, counters), (state.details, details)):
        file.write_bytes(orjson.dumps({**content, "format": 4}))


class Table:
    """The counts of a worker: it answers with the counts at the time of the request, and clears rows without requests."""

    def __init__(self) -> None:
        self.rows = {"all": TableEntry(2 * COUNT, 0), KEY: TableEntry(COUNT, 0), OTHER: TableEntry(COUNT, 0)}
        self.answering = asyncio.Event()
        self.answering.set()
        self.away = False
        self.cleared = lambda: None

    async def table(self, pid):
        found = dict(self.rows)
        await self.answering.wait()
        return found

    async def forget_rows(self, pid, rows):
        if self.away:
            raise HaproxyUnavailable("away")
        in_use = [key for key in rows if self.rows[key].running]
        for key in {*rows} - {*in_use}:
            del self.rows[key]
        self.cleared()
        if in_use:
            raise HaproxyRefused("Entry currently in use, cannot remove")

    async def in_flight_by_block(self, pid):
        return {}

    async def dropped_lines(self, pid):
        return 0


class Books:
    """Counts of an hour ago, of an attempt that is no longer in force."""

    def __init__(self, state: StateDir) -> None:
        self.haproxy, self.workers = Table(), Workers()
        self.workers.all = [self.workers.current]
        self.counting = CounterCollector(self.haproxy, self.workers, state)

    @property
    def rows(self) -> dict[str, tuple[int, int, int]]:
        """Return Return (assigned, in flight, lost) of each row."""
        boot = self.counting.ledger.boots["new-7"]
        return {RowKey.of(key).arm: (row.assigned, row.in_flight, row.lost) for key, row in boot.rows.items()}

    @property
    def past(self) -> dict[str, tuple[int, int, int]]:
        """Return the same for dropped rows."""
        past = self.counting.ledger.past
        return {name.split("/")[2]: (row.assigned, row.in_flight, row.lost) for name, row in past.items()}


ENDED = {"stable": (COUNT, 0, 0), "canary": (COUNT, 0, 0)}


@pytest.fixture
async def books(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("sundog_edge.counting.collector.time.time", lambda: now)
    books = Books(StateDir.at(tmp_path / "s"))
    books.counting.ledger.consume(
        [end_line(key, n + 1, boot="new-7") for key in (KEY, OTHER) for n in range(COUNT)], now
    )
    await books.counting.settle()
    assert (books.rows, books.past) == (ENDED, {})
    now += RETAIN_ENDED_S + 1
    yield books
    books.counting.stop()


async def test_an_outdated_table_does_not_bring_a_dropped_row_back(books):
    books.haproxy.answering.clear()
    settling = asyncio.create_task(books.counting.settle())
    await asyncio.sleep(0)
    forgetting = asyncio.create_task(books.counting.forget(set()))
    for _ in range(10):
        await asyncio.sleep(0)
    books.haproxy.answering.set()
    await asyncio.gather(settling, forgetting)
    await books.counting.settle()
    assert (books.rows, books.past) == ({}, ENDED)


async def test_rows_are_retained_while_haproxy_cannot_clear_them(books):
    books.haproxy.away = True
    with pytest.raises(HaproxyUnavailable):
        await books.counting.forget(set())
    await books.counting.settle()
    assert (books.rows, books.past) == (ENDED, {})
    books.haproxy.away = False
    await books.counting.forget(set())
    await books.counting.settle()
    assert (books.rows, books.past) == ({}, ENDED)
    books.counting.ledger.consume([end_line(KEY, 1, boot="new-7")], 1000.0)
    assert books.rows == {"stable": (1, 0, 0)}


async def test_a_reused_row_is_retained_and_the_others_are_dropped(books, caplog):
    books.haproxy.rows[KEY] = TableEntry(COUNT + 1, 1)
    # A cleared row comes again at once: its new count must not retain the old one.
    books.haproxy.cleared = lambda: books.haproxy.rows.update({OTHER: TableEntry(1, 1)})
    await books.counting.forget(set())
    assert caplog.messages == ["Entry currently in use, cannot remove"]
    await books.counting.settle()
    assert books.rows == {"stable": (COUNT + 1, 1, 0), "canary": (1, 1, 0)}
    assert books.past == {"canary": (COUNT, 0, 0)}


async def test_rows_of_an_unlisted_worker_are_retained(books):
    listed, books.workers.all = books.workers.all, []
    await books.counting.forget(set())
    books.workers.all = listed
    await books.counting.settle()
    assert (books.rows, books.past) == (ENDED, {})


async def test_a_line_that_waits_while_its_row_is_dropped_counts_for_that_row(books, tmp_path):
    pipe = open_for_haproxy(tmp_path / "s" / "log.pipe")
    try:
        books.haproxy.cleared = lambda: os.write(pipe, end_line(KEY, COUNT + 1, boot="new-7") + b"\n")
        await books.counting.forget(set())
        await books.counting.settle()
        assert (books.rows, books.past) == ({}, {**ENDED, "stable": (COUNT + 1, 0, 0)})
    finally:
        os.close(pipe)
