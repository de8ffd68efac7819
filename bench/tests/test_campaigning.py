"""What campaigns of real rollouts make of what was counted and answered."""

import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from campaigning import threshold_comparison
from campaigning.clients import NO_NUMBERS, UNANSWERED, Samples
from campaigning.edge_recording import ERRORS, Recording
from campaigning.fleet import Fleet, Kills
from campaigning.request_accounting import (
    Harm,
    Unanswered,
    harm,
    latency_quantiles,
    miscounted,
    quantiles,
    recorded,
    unanswered,
    unexplained,
)
from campaigning.services import Digits, Release, unix
from campaigning.threshold_comparison import Rollout
from measuring.record import Record
from measuring.thresholds import Block

BEGAN = 1_795_700_000
NOWHERE: Any = None
LIMIT = {"thresholdMicroseconds": 40_000, "candidateThresholdMicroseconds": 50_000}
ENDS = ("ok", *ERRORS)


def row(arm: str, boot: str = "b1", attempt: str = "uid", **blocks: tuple[int, int, int]) -> dict[str, Any]:
    """Of each block (`b0`, `b1`, …) those that were fine, failed, and were slow."""
    rows = [[BEGAN + 10 * int(name[1:]), ok, bad, 0, 0, 0, 0, slow] for name, (ok, bad, slow) in blocks.items()]
    ends = {"ok": sum(each[1] for each in rows), "server5xx": sum(each[2] for each in rows)}
    counts = {"assigned": sum(ends.values()) + 1, "ends": {**dict.fromkeys(ENDS, 0), **ends}, "lost": 1, "inFlight": 0}
    where = {"boot": boot, "service": "digits", "attempt": attempt, "epoch": 1, "arm": arm}
    return {**where, **counts, "slow": sum(each[7] for each in rows), "retries": {}, "blocks": rows}


def recording(*rows: dict[str, Any]) -> Recording:
    found = Recording(NOWHERE)
    found.take({"blocks": {"columns": ["start", *ENDS, "slow"]}, "counters": list(rows)})
    return found


def release(over_s: int | None, decision: str = "RolledBack", winner: str = "stable") -> Release:
    """One that was over so many seconds after the begin, or goes on."""
    at = datetime.fromtimestamp(BEGAN + (over_s or 0), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    verdict = {"decision": decision, "winner": winner, "reason": "CandidateUnavailable: no healthy replica"}
    status = {
        "phase": "Running" if over_s is None else "Stopped",
        "verdict": verdict,
        "history": [{"at": at, "weight": 0}],
        "arms": [{"name": "stable", "revision": 1}, {"name": "canary", "revision": 2}],
        "plan": {"guardrails": [{"metric": "errorRate"}, {"metric": "latencyP95", **LIMIT}]},
    }
    found = {"metadata": {"uid": "uid"}, "status": status}
    return Release(Digits(NOWHERE, Path(), "digits", 1.0), 2, BEGAN, found)


def answers(each: Release, *rows: tuple[float, float, int, int]) -> Release:
    """With what callers saw: seconds after the begin, seconds that it took, the revision and the status."""
    for sent, took, revision, status in rows:
        each.service.samples.add(BEGAN + sent, took, revision, status)
    return each


def test_a_verdict_fell_when_its_history_ends_and_is_named_by_what_decided() -> None:
    assert unix("2026-11-26T19:30:00Z") == 1_795_721_400
    assert (release(30).over_at, release(30).how()) == (BEGAN + 30, "RolledBack")
    assert release(30, "Undecided", "").how() == "CandidateUnavailable"
    assert (release(None).over_at, release(None).how()) == (0.0, "Running")


def test_harm_is_what_the_candidate_did_since_its_first_request() -> None:
    recorded = recording(
        row("canary", b1=(8, 2, 1), b2=(6, 4, 0)), row("stable", b0=(0, 50, 0), b1=(30, 0, 0), b2=(28, 2, 5))
    )
    seen = answers(
        release(30),
        (9, 1.0, 2, 500),
        (12, 0.06, 2, 200),
        (15, 0.04, 2, 500),
        (29, 0.01, 2, NO_NUMBERS),
        (15, 1, 1, 500),
    )
    found = harm(seen, recorded)
    assert found == Harm(20.0, 21, 6, 1, 2, 2 / 60)
    assert found.above == pytest.approx(6 - 21 * 2 / 60)


def test_who_has_no_verdict_costs_nothing_after_nobody_followed_it_any_longer() -> None:
    going_on = release(None)
    going_on.left_at = BEGAN + 30.0
    canary = row("canary", b0=(1, 0, 0), b1=(8, 2, 0), b2=(6, 4, 0), b3=(1, 9, 0), b4=(0, 10, 0))
    told = recording(canary, row("stable", b1=(30, 0, 0), b2=(28, 2, 0), b3=(0, 50, 0)))
    assert harm(answers(going_on, (35, 1.0, 2, 500)), told) == Harm(30.0, 21, 6, 0, 0, 2 / 60)
    assert recorded(going_on, told) == [Block(40, 10, 2)]


def test_a_rollout_is_followed_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Fleet(NOWHERE, Path(), NOWHERE, NOWHERE)
    monkeypatch.setattr(made, "_look", lambda: None)
    monkeypatch.setattr(made, "recording", SimpleNamespace(look=lambda: True))
    over, going_on = release(30), release(None)
    monkeypatch.setattr(going_on, "attempt", lambda: going_on.found)
    before = time.time()
    made.follow([over, going_on], 0.0, 0.0)
    assert over.left_at == 0
    assert before <= going_on.left_at <= time.time()
    assert (over.until, going_on.until) == (BEGAN + 30, going_on.left_at)


def test_a_release_shows_its_weights_and_its_limits() -> None:
    found = release(300)
    looks = [("2026-11-26T19:30:00Z", 25), ("2026-11-26T19:31:00Z", 25), ("2026-11-26T19:35:00Z", 50)]
    found.found["status"]["history"] = [{"at": at, "weight": weight} for at, weight in (*looks, (looks[-1][0], 100))]
    assert found.begun == {25: 1_795_721_400, 50: 1_795_721_700}
    assert (found.stable, Release(found.service, 2, BEGAN).stable) == (1, 0)


def test_what_an_agent_forgot_with_its_death_is_remembered_and_processes_add_up() -> None:
    recorded = recording(row("canary", b1=(8, 2, 1)), row("canary", boot="b2", b1=(1, 1, 0)))
    recorded.take({"blocks": {"columns": ["start", *ENDS, "slow"]}, "counters": [row("canary", b1=(3, 0, 0))]})
    assert recorded.arm("uid", "canary") == {BEGAN + 10: (12, 3)}
    assert recorded.arm("other", "canary") == {}


def test_blocks_at_both_ends_are_cut_and_one_without_requests_is_none_the_less_one() -> None:
    canary = row("canary", b0=(1, 0, 0), b1=(8, 2, 1), b3=(5, 5, 0), b4=(9, 0, 0))
    told = recording(canary, row("stable", b1=(30, 0, 0), b2=(30, 0, 0), b3=(30, 0, 0)))
    seen = answers(release(50), (5, 9.0, 2, 200), (11, 0.0601, 2, 200), (19, 0.02, 2, 200), (12, 0.03, 1, 200))
    slow = Block(40, 10, 2, 1, (0.0601, 0.02), (0.03,))
    assert recorded(seen, told) == [slow, Block(30, 0, 0), Block(40, 10, 5)]


def test_latencies_of_both_arms_are_reported_while_both_had_traffic() -> None:
    found = release(300)
    found.found["status"]["history"] = [
        {"at": datetime.fromtimestamp(BEGAN + second, UTC).isoformat(), "weight": weight}
        for second, weight in ((0, 0), (10, 25), (300, 0))
    ]
    assert latency_quantiles(found) == ["", ""]
    early, late = ((second, 9.0, revision, 200) for second, revision in ((5, 1), (301, 2)))
    answers(found, early, late, (11, 0.01, 1, 200), (12, 0.02, 1, 200), (13, 0.03, 1, 200), (14, 0.04, 2, 200))
    assert quantiles(found) == {"stable": [20.0, 29.0, 29.8], "canary": [40.0, 40.0, 40.0]}
    assert latency_quantiles(found) == ["20 / 29 / 30", "40 / 40 / 40"]


def test_an_edge_that_counts_otherwise_than_its_callers_is_reported_except_for_deaths() -> None:
    recorded = recording(row("canary", b1=(8, 2, 0)))
    bad = [(12, 0.1, 2, 503), (18, 0.1, 2, NO_NUMBERS), (13, 0.1, 2, 200), (13, 0.1, 1, 500), (13, 0.1, 2, 429)]
    assert miscounted(answers(release(30), *bad), recorded, None) == ""
    more = miscounted(answers(release(30), *bad, (19, 0.1, 2, 500)), recorded, None)
    assert (
        more == "digits r2: the edge counted 2 bad answers; callers saw 3, 3 of them far from any kill, and 0 had none"
    )
    assert "callers saw 1, 1 " in miscounted(answers(release(30), *bad[:1]), recorded, None)
    unanswered_one = (19, 0.1, 0, UNANSWERED)
    assert miscounted(answers(release(30), *bad[:1], unanswered_one), recorded, None) == ""
    agent = Kills(NOWHERE, 1, done=[(BEGAN + 45, "agent")])
    assert miscounted(answers(release(30), *bad, (19, 0.1, 2, 500)), recorded, agent) == ""
    assert "callers saw 4, 3 of them far" in miscounted(
        answers(release(30), *bad, (10, 0.1, 2, 500), (11, 0.1, 2, 500)), recorded, agent
    )


def test_a_bad_answer_of_a_service_without_flaws_is_excused_by_a_death_of_its_edge_alone() -> None:
    rows = ((12, 0.1, 2, 200), (20, 0.5, 2, 503), (40, 0.25, 0, UNANSWERED), (60, 0.5, 1, NO_NUMBERS), (5, 0.1, 1, 500))
    samples = answers(release(30), *rows).service.samples
    kills = Kills(NOWHERE, 1, done=[(BEGAN + 19, "agent"), (BEGAN + 19.5, "operator"), (BEGAN + 30, "edge")])
    failures = [f"{BEGAN + 20}.0: 503 after 0.50 s", f"{BEGAN + 60}.0: {NO_NUMBERS} after 0.50 s"]
    assert unexplained(samples, kills, BEGAN + 10) == failures
    assert len(unexplained(samples, None, BEGAN + 10)) == 3
    assert unexplained(samples, kills, BEGAN + 10, BEGAN + 60) == failures[:1]


def test_a_kill_is_reported_once_another_process_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    kills, seen = Kills(NOWHERE, 1), list[int]()
    monkeypatch.setattr(kills, "_kill", lambda which, away_s: seen.append(len(kills.done)))
    kills.once("agent", 0.0)
    assert ([which for _, which in kills.done], seen, kills.problems) == (["agent"], [0], [])

    def gone(which: str, away_s: float) -> None:
        raise TimeoutError(f"another {which}")

    monkeypatch.setattr(kills, "_kill", gone)
    kills.once("edge", 0.0)
    assert len(kills.done) == 1
    assert [problem.partition(" ")[2] for problem in kills.problems] == ["edge: another edge"]


def test_each_turn_kills_every_process_once_and_no_kill_comes_before_all_work_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names, seen, looks = {"operator", "agent", "edge", "store"}, list[str](), list[int]()

    def is_whole() -> bool:
        looks.append(len(seen))
        if len(seen) == 12:
            kills._stopped.set()
        return len(looks) != 1

    kills = Kills(NOWHERE, 1, (0.0, 0.0), {"store": lambda away_s: seen.append("store")}, is_whole)
    own = kills._kill
    monkeypatch.setattr(kills, "_kill", lambda which, s: own(which, s) if which == "store" else seen.append(which))
    kills._run()
    turns = [seen[place : place + 4] for place in (0, 4, 8)]
    assert [set(turn) for turn in turns] == [names] * 3
    assert turns[0] != turns[1]
    assert [which for _, which in kills.done] == seen
    assert looks == [1, *range(1, 13)]


def test_who_got_no_answer_is_told_by_what_had_died() -> None:
    samples = Samples()
    for sent, took, status in (
        (5, 0.1, UNANSWERED),
        (20, 0.1, UNANSWERED),
        (39, 9.0, UNANSWERED),
        (75, 0.1, UNANSWERED),
    ):
        samples.add(sent, took, 2, status)
    samples.add(21, 0.1, 2, 503)
    kills = Kills(NOWHERE, 1, done=[(18.0, "edge"), (45.0, "agent")])
    assert unanswered([samples], kills, since=10) == Unanswered(4, 1, 1, 1)
    assert unanswered([samples], None, since=0) == Unanswered(5, 0, 0, 4)


def test_samples_are_found_by_revision_and_time() -> None:
    samples = Samples()
    samples.add(1.0, 0.5, 1, 200)
    samples.add(2.0, 0.25, 2, 500)
    samples.add(3.0, 0.25, 2, 200)
    assert list(samples.of(2, since=1.5, until=2.5)) == [(2.0, 0.25, 500)]


def test_thresholds_and_evidence_stand_side_by_side_in_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("measuring.record.FOLDER", tmp_path)
    blocks = {f"b{number}": (6, 4, 1) for number in range(9)}
    recorded = recording(row("canary", **blocks), row("stable", **dict.fromkeys(blocks, (27, 3, 0))))
    record = Record("part", "title", threshold_comparison.COLUMNS)
    quick = [(second, 0.02 + second / 1e5, 1, 200) for second in range(90)]
    long = [(second, 0.06 if second % 10 else 0.01, 2, 200) for second in range(90)]
    short = recording(row("canary", b1=(2, 3, 0), b2=(1, 4, 0)), row("stable", b1=(30, 0, 0)))
    runs = [Rollout(answers(release(90), *quick, *long), recorded), Rollout(release(25), short)]
    threshold_comparison.compare(record, {"bad": runs})
    assert [each[1] for each in record.rows] == [*threshold_comparison.TOOLS, "Sundog", threshold_comparison.SHORT]
    assert record.rows[0][2:] == ["1", "0", "1", "2", "48", "108", "36", "0"]
    assert record.rows[2][2:6] == ["1", "0", "1", "2"]
    assert record.rows[-2][2:] == ["1", "0", "1", "2", "36", "81", "27", "0"]
    assert record.rows[-1][2:] == ["1", "0", "1", "0", "7", "0", "7", "0"]
