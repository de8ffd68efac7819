"""The ledger: no count vanishes, the order of lines does not matter, late lines are not lost."""

import random
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_log_lines import agent_line, end_line, refusal_line
from sundog_edge.agent.metrics import render_metrics
from sundog_edge.counting.boots import Boot
from sundog_edge.counting.evidence import AgentState, EvidenceQuery, build_evidence
from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.log_lines import ROW_COLUMNS, SLOW_COLUMNS
from sundog_edge.counting.rows import SLOW_PLACES, RowCounters, RowKey, TableEntry
from sundog_edge.feedback.first_seen import FirstExposureTracker
from sundog_edge.feedback.join import FirstExposure

KEY = "digits/att/0/{}/assigned/sticky"


def line(boot: str, row: str, number: int, status: int = 200, termination: str = "--", **own: Any) -> bytes:
    """Return a line with other retries, another unit and another group than those of the numbers around it."""
    own = {"retries": number % 3, "server": "s", "unit": number, "group": number % 100, **own}
    return end_line(row, number, boot=boot, status=status, termination=termination, **own)


def conserved(row: RowCounters) -> bool:
    return row.assigned == sum(row.ends.values()) + row.in_flight + row.lost and min(row.in_flight, row.lost) >= 0


class Haproxy:
    """A small model of a worker: it assigns and ends requests and writes lines like a real one."""

    def __init__(self, boot: str) -> None:
        self.boot = boot
        self.assigned = {"stable": 0, "canary": 0}
        self.running: list[tuple[str, int]] = []
        self.pipe: list[bytes] = []
        self.finished = 0

    def choose(self, arm: str) -> None:
        self.assigned[arm] += 1
        self.running.append((arm, self.assigned[arm]))

    def end(self, place: int, status: int, dropped: bool) -> None:
        arm, number = self.running.pop(place % len(self.running))
        self.finished += 1
        if not dropped:
            self.pipe.append(line(self.boot, KEY.format(arm), number, status))

    def table(self) -> dict[str, TableEntry]:
        counts = {arm: sum(name == arm for name, _ in self.running) for arm in self.assigned}
        whole = TableEntry(sum(self.assigned.values()), len(self.running))
        return {
            "all": whole,
            **{KEY.format(arm): TableEntry(count, counts[arm]) for arm, count in self.assigned.items()},
        }


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("choose"), st.sampled_from(["stable", "canary"])),
        st.tuples(st.just("end"), st.integers(0, 99), st.sampled_from([200, 404, 500, 503]), st.booleans()),
        st.tuples(st.just("read"), st.integers(0, 3)),
        st.tuples(st.just("settle"), st.booleans()),
        st.tuples(st.just("restart")),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(STEPS)
def test_every_request_is_an_end_in_flight_or_lost_at_every_moment(steps):
    worker = Haproxy("abcd-1")
    ledger = Ledger()
    dropped = 0
    snapshot = orjson.dumps(ledger.as_json())
    for step in steps:
        match step:
            case ("choose", arm):
                worker.choose(arm)
            case ("end", place, status, gone) if worker.running:
                worker.end(place, status, gone)
                dropped += gone
            case ("read", count):
                ledger.consume(worker.pipe[:count], 0)
                del worker.pipe[:count]
            case ("settle", ends_between):
                table = worker.table()
                if ends_between and worker.running:
                    worker.end(0, 200, dropped=False)
                ledger.consume(worker.pipe, 0)
                worker.pipe.clear()
                ledger.boot(worker.boot, 0).settle(table, "all")
                snapshot = orjson.dumps(ledger.as_json())
            case ("restart",):
                before = ledger
                ledger = Ledger.from_json(orjson.loads(snapshot))
                dropped += _ends(before) - _ends(ledger)
        rows = [row for boot in ledger.boots.values() for row in boot.rows.values()]
        assert all(conserved(row) for row in rows)
        # Late lines are not lost: `lost` never exceeds the really missing lines.
        assert sum(row.lost for row in rows) <= dropped
    ledger.consume(worker.pipe, 0)
    worker.pipe.clear()
    boot = ledger.boot(worker.boot, 0)
    boot.settle(worker.table(), "all")
    rows = list(boot.rows.values())
    assert sum(row.lost for row in rows) == boot.gaps == dropped
    assert sum(row.assigned for row in rows) == sum(worker.assigned.values())
    assert sum(row.in_flight for row in rows) == len(worker.running)
    boot.finish(1.0)
    assert all(conserved(row) and row.in_flight == 0 for row in rows)
    assert sum(row.lost for row in rows) == dropped + len(worker.running)
    # Requests that end later, or still run because the worker was only unlisted, were lost for a while and are assigned once.
    assigned = sum(worker.assigned.values())
    ledger = Ledger.from_json(orjson.loads(orjson.dumps(ledger.as_json())))
    boot = ledger.boot(worker.boot, 0)
    rows = list(boot.rows.values())
    if worker.running:
        worker.end(0, 200, dropped=False)
        ledger.consume(worker.pipe, 2)
        worker.pipe.clear()
    assert (sum(row.assigned for row in rows), boot.all_gaps) == (assigned, dropped + len(worker.running))
    boot.resume(3.0)
    boot.settle(worker.table(), "all", 3.0)
    assert all(conserved(row) for row in rows)
    assert (sum(row.in_flight for row in rows), sum(row.lost for row in rows)) == (len(worker.running), dropped)
    while worker.running:
        worker.end(0, 200, dropped=False)
    ledger.consume(worker.pipe, 4)
    assert (sum(row.assigned for row in rows), boot.gaps, boot.ended_at) == (assigned, dropped, 0)


def _ends(ledger: Ledger) -> int:
    return sum(row.ended for boot in ledger.boots.values() for row in boot.rows.values())


LINES = st.lists(
    st.builds(
        lambda boot, arm, status, total: (boot, KEY.format(arm), status, total),
        st.sampled_from(["a-1", "b-2"]),
        st.sampled_from(["stable", "canary"]),
        st.sampled_from([200, 302, 404, 429, 500, 503]),
        st.integers(0, 2_000_000_000),
    ),
    max_size=80,
)


@given(LINES, st.randoms())
def test_a_permuted_log_gives_the_same_evidence(entries, order: random.Random):
    lines = [
        line(boot, row, number, status, "SC" if status == 503 else "--", total_us=total)
        for number, (boot, row, status, total) in enumerate(entries, start=1)
    ]
    shuffled = list(lines)
    order.shuffle(shuffled)

    def evidence(batch: list[bytes]) -> bytes:
        ledger = Ledger()
        for boot in ("a-1", "b-2"):
            for arm in ("stable", "canary"):
                ledger.boot(boot, 0).row(KEY.format(arm))
        cut = len(batch) // 3
        ledger.consume(batch[:cut], 0)
        ledger.consume(batch[cut:], 0)
        return orjson.dumps(build_evidence(AgentState("e", "n"), None, ledger, 0.0))

    assert evidence(lines) == evidence(shuffled)


@given(LINES)
def test_histograms_have_every_end_once(entries):
    boot = Boot("a-1", 1, 0)
    ledger = Ledger({"a-1": boot})
    ledger.consume(
        [line("a-1", row, n, status, total_us=total) for n, (_, row, status, total) in enumerate(entries)], 0
    )
    for row in boot.rows.values():
        for family in (row.ttfb, row.total):
            assert sum(family["ok"]) == row.ends["ok"]
            assert sum(map(sum, family.values())) == row.ended
            assert all(counts[-1] > 0 for counts in family.values() if counts)


def test_requests_through_serves_own_proxy_are_not_in_latency():
    ledger = Ledger()
    ledger.consume([line("a-1", KEY.format("stable"), 1, server="fallback-127.0.0.1:8000")], 0)
    row = ledger.boots["a-1"].rows[KEY.format("stable")]
    assert row.served_elsewhere == row.ends["ok"] == 1
    assert row.total["ok"] == row.ttfb["ok"] == []


def test_held_requests_through_serves_own_proxy_have_their_wait_as_latency():
    ledger, key = Ledger(), "digits/att/0/stable/held/anonymous"
    ledger.consume([line("a-1", key, 1, server="fallback-127.0.0.1:8000", total_us=7000)], 0)
    row = ledger.boots["a-1"].rows[key]
    assert (row.served_elsewhere, row.duration_us, sum(row.total["ok"]), sum(row.ttfb["ok"])) == (0, 7000, 1, 1)


def test_a_long_wait_for_a_replica_counts_as_slow():
    """A candidate that ends repeatedly would look fast, because its waiting requests are answered elsewhere."""
    ledger, key = Ledger(), KEY.format("canary")
    elsewhere = {"server": "fallback-127.0.0.1:8000", "slow": "2500"}
    lines = [line("a-1", key, 1, total_us=2501, **elsewhere), line("a-1", key, 2, total_us=2500, **elsewhere)]
    ledger.consume([*lines, line("a-1", key, 3, 503, total_us=9000, **elsewhere)], 0)
    row = ledger.boots["a-1"].rows[key]
    assert (row.served_elsewhere, row.slow) == (3, 1)
    assert sum(counts[1 + ROW_COLUMNS.index("slow")] for counts in row.blocks.rows()) == 1


def test_retries_and_rescues_are_counted():
    ledger = Ledger()
    key = KEY.format("stable")
    ledger.consume([line("a-1", key, 3, retries="+2"), line("a-1", key, 4, 500, retries="1")], 0)
    row = ledger.boots["a-1"].rows[KEY.format("stable")]
    assert (row.first_attempt_failed, row.retries, row.redispatched, row.rescued) == (2, 3, 1, 1)


def test_poison_is_counted_stays_in_snapshots_and_is_shown():
    ledger, key = Ledger(), KEY.format("canary")
    ledger.consume([line("a-1", key, number, 502, "SH", retries="+1") for number in range(1, 4)], 0)
    ledger.consume([line("a-1", key, 4, 502, "SH", retries="0"), line("a-1", key, 5, retries="+1")], 0)
    for known in (ledger, Ledger.from_json(ledger.as_json())):
        (row,) = build_evidence(AgentState("e", "n"), None, known, 0.0)["counters"]
        assert row["retries"]["poison"] == 3
        assert row["ends"]["edge5xx"] == 4
    assert b'sundog_edge_poison_total{arm="canary",revision="",service="digits"} 3.0' in render_metrics(
        ledger, None, {}, "", {}
    )


def test_a_snapshot_from_before_poison_has_none():
    ledger = Ledger()
    ledger.consume([line("a-1", KEY.format("stable"), 1)], 0)
    stored = ledger.as_json()
    for boot in stored["boots"]:
        for row in boot["rows"].values():
            del row["poison"]
    (row,) = Ledger.from_json(stored).boots["a-1"].rows.values()
    assert row.poison == 0


def test_failures_of_clients_that_close_early_are_errors_with_their_cause_beside_them():
    ledger, key = Ledger(), KEY.format("canary")
    lines = [line("a-1", key, n, 500, "CD", total_us=400 + n) for n in range(1, 4)]
    ledger.consume([*lines, line("a-1", key, 4, 500), line("a-1", key, 5, 200, "CD")], 0)
    for known in (ledger, Ledger.from_json(ledger.as_json())):
        (row,) = build_evidence(AgentState("e", "n"), None, known, 0.0)["counters"]
        assert {name: count for name, count in row["ends"].items() if count} == {"server5xx": 4, "abortDuring": 1}
        assert row["clientClosed"] == 4
        assert sum(row["total"]["failed"]) == 4
    stored = ledger.as_json()
    for boot in stored["boots"]:
        for row in boot["rows"].values():
            del row["client_closed"]
    (row,) = Ledger.from_json(stored).boots["a-1"].rows.values()
    assert row.client_closed == 0


def test_a_block_has_the_requests_that_arrived_in_it_and_whose_first_attempt_failed():
    ledger = Ledger()
    key = KEY.format("canary")
    tries = ((100, "+2", 200), (100, "1", 503), (100, "0", 200), (101, "1", 200))
    ledger.consume(
        [line("a-1", key, n, status, retries=own, block=block) for n, (block, own, status) in enumerate(tries)], 1015
    )
    ledger.boots["a-1"].running = {key: {101: 5}}
    seen = build_evidence(AgentState("e", "n"), None, ledger, 0.0, EvidenceQuery(details=frozenset({"blocks"})))
    (row,) = seen["counters"]
    blocks = [dict(zip(seen["blocks"]["columns"], counts, strict=True)) for counts in row["blocks"]]
    assert [(own["start"], own["firstAttemptFailed"], own["slow"], own["inFlight"]) for own in blocks] == [
        (1000, 2, 0, 0),
        (1010, 1, 0, 5),
    ]


def test_an_answer_is_slow_by_its_arms_threshold_at_its_start():
    ledger = Ledger()
    totals = ((1000, 200), (1001, 200), (1200, 404), (1201, 429), (9000, 500))
    for arm, slow in (("stable", "1000"), ("canary", "1200"), ("other", "-")):
        ledger.consume(
            [
                line("a-1", KEY.format(arm), n, status, total_us=total, slow=slow)
                for n, (total, status) in enumerate(totals)
            ],
            0,
        )
    slow = {"stable": 3, "canary": 1, "other": 0}
    rows = {RowKey.of(key).arm: row for key, row in ledger.boots["a-1"].rows.items()}
    assert {arm: row.slow for arm, row in rows.items()} == slow
    column = 1 + ROW_COLUMNS.index("slow")
    assert {arm: sum(own[column] for own in row.blocks.rows()) for arm, row in rows.items()} == slow
    assert {arm: sum(own[SLOW_PLACES[0]] for own in row.groups.values()) for arm, row in rows.items()} == slow
    # A request that started under another threshold.
    ledger.consume([line("a-1", KEY.format("canary"), 9, total_us=1150, slow=str(own)) for own in (1100, 1200)], 0)
    assert rows["canary"].slow == 2


def test_each_threshold_of_an_arm_has_separate_counts():
    ledger = Ledger()
    key = KEY.format("stable")
    totals = (100, 101, 501, 1001, 9000)
    ledger.consume([line("a-1", key, n, total_us=total, slow="500,100,1000") for n, total in enumerate(totals)], 0)
    # Requests that started under a single threshold, and failures, which never count as slow.
    ledger.consume(
        [line("a-1", key, 5, total_us=9000, slow="500"), line("a-1", key, 6, 500, total_us=9000, slow="5,5,5")], 0
    )
    row = ledger.boots["a-1"].rows[key]
    wanted = {"slow": 4, "slow2": 4, "slow3": 2}
    assert {name: getattr(row, name) for name in SLOW_COLUMNS} == wanted
    blocks = dict(zip(ROW_COLUMNS, map(sum, list(zip(*row.blocks.rows(), strict=True))[1:]), strict=True))
    assert {name: blocks[name] for name in SLOW_COLUMNS} == wanted
    groups = dict(zip(ROW_COLUMNS, map(sum, zip(*row.groups.values(), strict=True)), strict=True))
    assert {name: groups[name] for name in SLOW_COLUMNS} == wanted
    events = [unit.events for unit in ledger.samples["digits/att"].units.values()]
    assert {name: sum(name in each for each in events) for name in SLOW_COLUMNS} == wanted
    evidence = build_evidence(
        AgentState("edge", "vision"), None, ledger, 0.0, EvidenceQuery(details=frozenset({"blocks", "groups"}))
    )
    (own,) = evidence["counters"]
    assert {name: own[name] for name in SLOW_COLUMNS} == wanted
    assert evidence["blocks"]["columns"][-3:] == ("slow2", "slow3", "inFlight")
    assert evidence["groups"]["columns"][-2:] == ("slow2", "slow3")
    merged = RowCounters()
    merged.merge(row)
    merged.merge(row)
    assert (merged.slow, merged.slow2, merged.slow3) == (8, 8, 4)
    assert (merged.assigned, merged.duration_us) == (2 * row.assigned, 2 * row.duration_us)
    page = render_metrics(ledger, None, {}, "", {}).decode()
    arm = 'arm="stable",revision="",service="digits"'
    assert f"sundog_edge_slow_total{{{arm}}} 4.0" in page
    assert f'sundog_edge_slow_further_total{{{arm},threshold="2"}} 4.0' in page
    assert f'sundog_edge_slow_further_total{{{arm},threshold="3"}} 2.0' in page


def test_a_line_with_too_many_thresholds_is_unparsable():
    ledger = Ledger()
    ledger.boot("a-1", 0.0)
    ledger.consume([line("a-1", KEY.format("stable"), n, slow=slow) for n, slow in enumerate(("1,2,3,4", "1,,2"))], 0)
    assert (ledger.boots["a-1"].unparsable, ledger.boots["a-1"].rows) == (2, {})


def test_look_ups_are_counted_by_status_apart_from_feedback():
    ledger = Ledger()
    lines = [agent_line("digits", "ofrep", status, boot="abcd-1") for status in (200, 200, 404)]
    ledger.consume(lines, 1.0)
    boot = ledger.boots["abcd-1"]
    assert (boot.ofrep, boot.feedback, boot.refused, boot.rows) == ({"digits": {"200": 2, "404": 1}}, {}, {}, {})
    assert Ledger.from_json(orjson.loads(orjson.dumps(ledger.as_json()))).boots["abcd-1"].ofrep == boot.ofrep
    boot.finish(2.0)
    ledger.forget(3.0, ())
    assert ledger.gone.ofrep == {"digits": {"200": 2, "404": 1}}


def test_feedback_is_counted_by_status_and_in_no_row():
    ledger = Ledger()
    answered = ((200, "1"), (200, "2"), (503, "1"), (408, "-"))
    lines = [agent_line("digits", "feedback", status, boot="abcd-1", block=block) for status, block in answered]
    ledger.consume(lines, 1.0)
    boot = ledger.boots["abcd-1"]
    assert boot.feedback == {"digits": {"200": 2, "503": 1, "408": 1}}
    assert (boot.lines, boot.counted_lines, boot.rows, boot.refused) == (4, 3, {}, {})
    assert Ledger.from_json(orjson.loads(orjson.dumps(ledger.as_json()))).boots["abcd-1"].feedback == boot.feedback
    boot.finish(2.0)
    ledger.forget(3.0, ())
    assert ledger.gone.feedback == {"digits": {"200": 2, "503": 1, "408": 1}}


def test_first_exposures_are_tracked_for_watched_attempts():
    ledger, seen = Ledger(), FirstExposureTracker()
    row = "digits/{}/{}/stable/{}/{}"
    ledger.consume([line("b-1", row.format("att", 0, "assigned", "sticky"), 1, unit=5)], 1.0)
    ledger.watch({"digits/att": seen})
    shown = [
        (row.format("att", 1, "assigned", "sticky"), {"unit": -5, "received": 30}),
        (row.format("att", 2, "assigned", "sticky"), {"unit": -5, "received": 20}),
        (row.format("att", 2, "override", "sticky"), {"unit": 6}),
        (row.format("att", 2, "assigned", "anonymous"), {"unit": 7}),
        (row.format("old", 2, "assigned", "sticky"), {"unit": 8}),
        (row.format("att", 0, "assigned", "sticky"), {"unit": 9, "received": 40}),
    ]
    ledger.consume([line("b-1", key, 2, **own) for key, own in shown], 2.0)
    assert seen.next_batch() == ({(1 << 64) - 5: FirstExposure(20, 2, "stable"), 9: FirstExposure(40, 0, "stable")}, 0)
    ledger.watch({})
    ledger.consume([line("b-1", row.format("att", 1, "assigned", "sticky"), 3, unit=10)], 3.0)
    assert len(seen.waiting) == 2


def test_unparsable_lines_are_counted_for_their_boot():
    ledger = Ledger()
    ledger.consume([line("a-1", KEY.format("stable"), 1), b"a-1 rubbish", b"rubbish", b"\xff"], 0)
    assert ledger.boots["a-1"].unparsable == 1
    assert ledger.strays == 2


def test_old_boots_are_dropped_and_stay_in_the_sums():
    old, new = KEY.format("stable"), KEY.format("canary").replace("/att/", "/next/")
    ledger = Ledger({"a-1": Boot("a-1", 1, 0), "b-2": Boot("b-2", 2, 0)})
    ledger.consume([line("a-1", old, 1), line("b-2", old, 1), line("b-2", new, 1)], 10.0)
    ledger.consume([refusal_line("digits")], 10.0)
    ledger.boots["a-1"].finish(10.0)
    assert ledger.idle_rows("b-2", 5.0, set()) == []
    ledger.forget(5.0, set())
    assert {*ledger.boots} == {"a-1", "b-2"}
    in_force = {("digits", "next")}
    assert ledger.idle_rows("b-2", 11.0, in_force) == [old]
    ledger.forget_rows("b-2", [old])
    ledger.forget(11.0, in_force)
    assert {*ledger.boots} == {"b-2"}
    assert {*ledger.boots["b-2"].rows} == {new}
    # The sample of an attempt in which stable had all requests outlives it.
    assert {*ledger.samples} == {"digits/att", "digits/next"}
    assert {name: row.assigned for name, row in ledger.past.items()} == {"digits//stable": 2}
    assert (ledger.gone.lines, ledger.gone.refused) == (2, {"digits": {"auth": 1}})
    page = render_metrics(ledger, None, {}, "", {}).decode()
    assert 'sundog_edge_refused_total{kind="auth",service="digits"} 1.0' in page
    assert 'sundog_edge_assigned_total{arm="stable",revision="",service="digits"} 2.0' in page
    assert "sundog_edge_log_lines_total 4.0" in page
    ledger.consume([line("b-2", old, 2)], 12.0)
    assert ledger.boots["b-2"].rows[old].ended == 1
    # The sums of a dropped arm continue to grow.
    again = Ledger.from_json(ledger.as_json(), ledger.details_as_json())
    assert (
        'sundog_edge_assigned_total{arm="stable",revision="",service="digits"} 4.0'
        in render_metrics(again, None, {}, "", {}).decode()
    )


def test_a_row_with_running_requests_is_not_dropped():
    ledger = Ledger({"a-1": Boot("a-1", 1, 0)})
    ledger.boots["a-1"].settle({KEY.format("stable"): TableEntry(2, 2)}, "all", 1.0)
    assert ledger.idle_rows("a-1", 5.0, set()) == []
