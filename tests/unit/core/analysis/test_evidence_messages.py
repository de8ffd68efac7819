"""Messages about evidence while there is too little of it."""

from datetime import UTC, datetime, timedelta

from sundog_operator.api import EvidenceEpoch, ExperimentStatus, Rollout
from sundog_operator.core.analysis import arm_pair, counters, evaluate, stable_traffic
from sundog_operator.core.analysis import blocks as analysis_blocks
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.trial import default_plan
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.evaluation import RolloutEvaluation
from sundog_operator.core.trial.rollout import freeze

T0 = datetime(2026, 11, 26, 12, tzinfo=UTC)
START = int(T0.timestamp())
ATTEMPT = "uid-1"
COLUMNS = ["start", *counters.ERRORS, *counters.REJECTIONS, "ok", "slow", "inFlight"]
ROLLOUT = Rollout.from_json({"steps": [{"weight": 50}], "guardrails": [{"metric": "errorRate"}]})


def status(epoch: int = 2) -> ExperimentStatus:
    """Return an attempt in its first step, with evidence."""
    frozen = freeze.freeze(ROLLOUT, stable=1, candidate=2, now=T0)
    return frozen.model_copy(
        update={
            "phase": "Running",
            "arms": freeze.arms_at_weight(50, 1, 2),
            "epoch": frozen.epoch.model_copy(update={"number": epoch, "confirmed": True}),
            "evidence_epochs": (EvidenceEpoch(number=epoch, weight=50),),
        }
    )


def report(arm: str, blocks: int, failed: int) -> dict[str, object]:
    """Return an arm's row with so many blocks of a hundred requests each, of which some failed."""
    counts = {"ok": 100 - failed, "server5xx": failed}
    return {
        "service": "m",
        "attempt": ATTEMPT,
        "origin": "assigned",
        "boot": "b",
        "epoch": 2,
        "arm": arm,
        "assigned": 100 * blocks,
        "ends": {name: count * blocks for name, count in counts.items()},
        # Only an unknown part of the first block belongs to the epoch.
        "blocks": [
            [START + 10 * block, *(counts.get(column, 0) * (block >= 0) for column in COLUMNS[1:])]
            for block in range(-1, blocks)
        ],
    }


def take(before: counters.Counters, edges: list[EdgeReport], now_s: float) -> counters.Counters:
    return counters.update_counters(
        before, edges, counters.collect_blocks(ATTEMPT, edges), counters.CountScope([2], 2, now_s, 30.0)
    )


def collected(blocks: int, stable: int, canary: int) -> arm_pair.CollectedCounts:
    """Return the counts after so many blocks, with so many failures of an arm in each."""
    rows = [report("stable", blocks, stable), report("canary", blocks, canary)]
    edges = [EdgeReport("edge-0", True, False, {"blocks": {"columns": COLUMNS}, "counters": rows})]
    now_s = START + 10.0 * blocks + analysis_blocks.GRACE_S
    counted = take(counters.Counters(ATTEMPT), edges, now_s)
    return arm_pair.CollectedCounts(
        counted, edges, counters.collect_blocks(ATTEMPT, edges), StableTraffic(), now_s, 30.0
    )


def judge(blocks: int, stable: int, canary: int) -> RolloutEvaluation:
    return evaluate.evaluate_rollout(status(), collected(blocks, stable, canary), (1, 1))


def test_the_message_has_the_time_counted_so_far() -> None:
    errors, *_ = judge(blocks=4, stable=2, canary=2).metrics
    assert errors.verdict == "Undecided"
    assert errors.message.startswith("errorRate is 1 times stable's")
    assert errors.message.endswith("no gate opens before 120 s of data, so far 40 s")
    assert errors.eta is not None
    assert errors.eta >= timedelta(seconds=80)


def test_the_message_omits_the_time_once_only_events_are_missing() -> None:
    errors, *_ = judge(blocks=13, stable=2, canary=2).metrics
    assert errors.verdict == "Undecided"
    assert "no gate opens" not in errors.message


def test_an_edge_that_is_not_ready_and_does_not_report_is_waited_for() -> None:
    rows = [report("stable", 2, 0), report("canary", 2, 5)]
    result = EdgeReport("edge-0", True, False, {"blocks": {"columns": COLUMNS}, "counters": rows})
    known = take(counters.Counters(ATTEMPT), [result], START + 25.0)
    # Its agent restarts.
    silent = EdgeReport("edge-0", False, False, None)
    assert take(known, [silent], START + 65.0).folded == known.folded
    # An edge that never reported does not serve, and one that terminates may never report again.
    new, leaving = EdgeReport("edge-1", False, False, None), EdgeReport("edge-0", False, True, None)
    for others in ([result, new], [leaving]):
        folded = take(known, others, START + 65.0).folded
        assert folded[2].lengths[0].closed == 6


def timed(attempt: str, epoch: int, bucket: int, blocks: int) -> dict[str, object]:
    """Return stable's row with all answers in one bucket of the histogram."""
    row = {**report("stable", blocks, 0), "attempt": attempt, "epoch": epoch}
    return {**row, "total": {"ok": [100 * blocks if number == bucket else 0 for number in range(3)]}}


def latency_of(rows: list[dict[str, object]], now_s: float, epoch: int) -> int | None:
    document = {"blocks": {"columns": COLUMNS}, "histogram": {"edgesUs": [10, 20]}, "counters": rows}
    edges = [EdgeReport("edge-0", True, False, document)]
    return stable_traffic.measure_traffic("m", ["m-r1", ATTEMPT], edges, now_s, epoch=epoch).quantile_us(0.95)


def test_latency_is_that_of_a_warm_up_unless_stable_was_looked_at_for_long() -> None:
    alone, beside = timed("m-r1", 0, bucket=1, blocks=5), timed(ATTEMPT, 1, bucket=0, blocks=2)
    assert latency_of([alone, beside], START + 70.0, epoch=0) is None
    assert latency_of([alone, beside], START + 70.0, epoch=1) == 10
    assert latency_of([alone], START + 600.0, epoch=0) == 20


def test_a_latency_passes_by_its_floor_if_nothing_is_slow() -> None:
    rollout = Rollout.from_json({"steps": [{"weight": 50}], "guardrails": [{"metric": "latencyP95", "margin": "25%"}]})
    frozen, *_ = default_plan.resolve_guardrails(rollout, StableTraffic(5.0, [1000, 0], [10]))
    assert (frozen.threshold_microseconds, frozen.candidate_threshold_microseconds) == (10, 1010)
    assert frozen.floor == 0.005
    plan = status().plan.model_copy(update={"guardrails": (frozen,)})
    running = status().model_copy(update={"plan": plan})
    (result,) = evaluate.evaluate_rollout(running, collected(13, 0, 0), (1, 1)).metrics
    assert result.verdict == "Passed"


def test_without_events_the_message_has_the_needed_requests_and_the_time() -> None:
    errors, *_ = judge(blocks=1, stable=0, canary=0).metrics
    assert "happened in neither arm; up to 1.5 times is allowed: needs about " in errors.message
    needed = int(errors.message.split("about ")[1].split()[0])
    assert f"{needed} requests of the canary, in about" in errors.message
    assert judge(blocks=needed // 100 - 1, stable=0, canary=0).metrics[0].verdict == "Undecided"
    errors, *_ = judge(blocks=13, stable=0, canary=0).metrics
    assert errors.message == "errorRate happened in neither arm: within its floor above stable's rate"
