"""The books of workers that leave the list, for good or for a while."""

import orjson

from sundog_edge.counters import Seen
from sundog_edge.counting import Counting
from sundog_edge.state_dir import StateDir
from sundog_edge.workers import Worker

KEY = "digits/att/0/stable/assigned/anonymous"


class Haproxy:
    """A worker with one request that runs."""

    async def table(self, pid):
        return {"all": Seen(1, 1), KEY: Seen(1, 1)}

    async def running_by_block(self, pid):
        return {}

    async def dropped_lines(self, pid):
        return 0


class Workers:
    """What the master lists."""

    def __init__(self) -> None:
        self.current = Worker(7, "new-7", 1.0)
        self.away = Worker(6, "old-6", 1.0, old=True)
        self.all = [self.current, self.away]


async def test_a_worker_that_is_listed_again_has_lost_nothing(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("sundog_edge.counting.time.time", lambda: now)
    workers = Workers()
    counting = Counting(Haproxy(), workers, StateDir.at(tmp_path / "s"))
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


def test_a_snapshot_whose_blocks_have_other_columns_is_left_alone(tmp_path):
    state = StateDir.at(tmp_path / "s")
    first = Counting(Haproxy(), Workers(), state)
    first.ledger.boot("old-6", 1.0).row(KEY).blocks.add(1000, 11, 1)
    first.ledger.dirty = True
    first.stop()
    again = Counting(Haproxy(), Workers(), state)
    again.stop()
    assert again.ledger.boots["old-6"].rows[KEY].blocks.rows() == [[1000, *[0] * 11, 1]]
    for file in (state.counters, state.details):
        file.write_bytes(orjson.dumps({**orjson.loads(file.read_bytes()), "format": 3}))
    anew = Counting(Haproxy(), Workers(), state)
    anew.stop()
    assert anew.ledger.boots == {}
