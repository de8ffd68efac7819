"""Counts of copies."""

import orjson

from sundog_edge.counting import histogram
from sundog_edge.mirror.counts import MirrorCounts


def some() -> MirrorCounts:
    counts = MirrorCounts(sent=5, dropped=2, errors=1, timeouts=1, in_flight=1)
    counts.skip("size")
    counts.add_pair(1250, 1000)
    counts.add_pair(910, 1000)
    for verdict in (True, False):
        counts.add_verdict("exact", agree=verdict)
    return counts


def test_counts_survive_a_restart() -> None:
    counts = some()
    row = {"boot": "a-1", "key": "digits/att/0", **orjson.loads(orjson.dumps(counts.as_json()))}
    assert (row["sent"], row["inFlight"], row["skipped"], row["verdicts"]) == (5, 1, {"size": 1}, {"exact": [1, 1, 0]})
    stored = MirrorCounts.from_json(row)
    assert stored == counts
    ended = counts.as_ended()
    assert (ended.lost, ended.in_flight) == (1, 0)
    assert ended.sent == ended.paired + ended.errors + ended.timeouts + ended.lost
    stored.add(some())
    assert (stored.paired, stored.received, stored.skipped, stored.verdicts["exact"]) == (4, 16, {"size": 2}, [2, 2, 0])
    assert sum(stored.slower) == sum(stored.faster) == 2
    assert sum(stored.stable) == sum(stored.candidate) == 4


def test_both_durations_are_counted_separately() -> None:
    counts = MirrorCounts()
    counts.add_pair(1250, 1000)
    at = histogram.find_bucket
    assert (counts.candidate[at(1250)], counts.stable[at(1000)], counts.slower[at(250)]) == (1, 1, 1)
    before = {name: value for name, value in counts.as_json().items() if name not in ("stable", "candidate")}
    assert MirrorCounts.from_json(before).stable == []
