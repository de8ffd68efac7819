"""What is told of evidence while it is too little."""

from datetime import UTC, datetime, timedelta

from sundog_operator.api import EvidenceEpoch, ExperimentStatus, Rollout
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.rollout import freeze, judging, tallies
from sundog_operator.core.rollout.judgement import Judgement
from sundog_operator.core.rollout.resolve import Traffic

T0 = datetime(2026, 11, 26, 12, tzinfo=UTC)
START = int(T0.timestamp())
ATTEMPT = "uid-1"
COLUMNS = ["start", *tallies.ERRORS, *tallies.REJECTIONS, "ok", "slow", "inFlight"]
ROLLOUT = Rollout.from_json({"steps": [{"weight": 50}], "guardrails": [{"metric": "errorRate"}]})


def status(epoch: int = 2) -> ExperimentStatus:
    """In the first step, and its counts are evidence."""
    frozen = freeze.freeze(ROLLOUT, stable=1, candidate=2, now=T0)
    return frozen.model_copy(
        update={
            "phase": "Running",
            "arms": freeze.arms_at(50, 1, 2),
            "epoch": frozen.epoch.model_copy(update={"number": epoch, "confirmed": True}),
            "evidence_epochs": (EvidenceEpoch(number=epoch, weight=50),),
        }
    )


def report(arm: str, blocks: int, failed: int) -> dict[str, object]:
    """An arm's row: so many blocks with a hundred requests each, of which some failed."""
    counts = {"ok": 100 - failed, "server5xx": failed}
    return {
        "attempt": ATTEMPT,
        "origin": "assigned",
        "boot": "b",
        "epoch": 2,
        "arm": arm,
        "assigned": 100 * blocks,
        "ends": {name: count * blocks for name, count in counts.items()},
        "blocks": [
            [START + 10 * block, *(counts.get(column, 0) for column in COLUMNS[1:])] for block in range(blocks)
        ],
    }


def judge(blocks: int, stable: int, canary: int) -> Judgement:
    """After so many blocks, with so many failures of an arm in each."""
    rows = [report("stable", blocks, stable), report("canary", blocks, canary)]
    edges = [EdgeReport("edge-0", True, False, {"blocks": {"columns": COLUMNS}, "counters": rows})]
    now_s = START + 10.0 * blocks + tallies.GRACE_S
    counted = tallies.take(tallies.Tallies(ATTEMPT), edges, [2], now_s, 30.0)
    return judging.judge(status(), judging.Seen(counted, edges, Traffic(), (1, 1), now_s, 30.0))


def test_too_early_is_told_with_what_is_there_of_it() -> None:
    (errors, _) = judge(blocks=4, stable=2, canary=2).metrics
    assert errors.verdict == "Undecided"
    assert errors.message.startswith("errorRate is 1 times stable's")
    assert errors.message.endswith("no gate opens before 120 s were counted, so far 40 s")
    assert errors.eta is not None
    assert errors.eta >= timedelta(seconds=80)


def test_nothing_is_early_about_what_takes_long_for_want_of_events() -> None:
    (errors, _) = judge(blocks=13, stable=2, canary=2).metrics
    assert errors.verdict == "Undecided"
    assert "no gate opens" not in errors.message
